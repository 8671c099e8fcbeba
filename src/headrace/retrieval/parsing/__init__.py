"""Bytes of any kind → the text that a person would read of them, or the reason why there is none.

Parsing runs in processes of its own (`ParserPool`), which have no network, no files to write, and
limits of time, memory and size. `read` is what runs in them.
"""

from headrace.retrieval.parsing.pool import Limits, ParserPool
from headrace.retrieval.parsing.reading import Raw, Reading, Refusal, Unreadable, document

__all__ = ["Limits", "ParserPool", "Raw", "Reading", "Refusal", "Unreadable", "document"]
