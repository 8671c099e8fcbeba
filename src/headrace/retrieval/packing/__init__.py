"""Passages → numbered sources in a prompt of exactly so many tokens."""

from headrace.retrieval.packing.choosing import pack
from headrace.retrieval.packing.counting import Rendering, UpperBound
from headrace.retrieval.packing.sources import (
    LeftOut,
    Order,
    Packed,
    PackOptions,
    Source,
)

__all__ = [
    "LeftOut",
    "Order",
    "PackOptions",
    "Packed",
    "Rendering",
    "Source",
    "UpperBound",
    "pack",
]
