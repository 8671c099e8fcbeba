"""Fakes that are shipped: a backend that plays a script, an embedder, a clock that one moves."""

from headrace.testing.clock import FakeClock
from headrace.testing.embedder import HashEmbedder
from headrace.testing.scripted import Pause, ScriptedBackend, Step, reply

__all__ = ["FakeClock", "HashEmbedder", "Pause", "ScriptedBackend", "Step", "reply"]
