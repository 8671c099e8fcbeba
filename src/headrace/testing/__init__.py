"""Fakes that are shipped: a backend that plays a script, and a clock that moves when told."""

from headrace.testing.clock import FakeClock
from headrace.testing.scripted import Pause, ScriptedBackend, Step, reply

__all__ = ["FakeClock", "Pause", "ScriptedBackend", "Step", "reply"]
