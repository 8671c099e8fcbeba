"""Documents → chunks with exact spans, cut where the text itself has its seams."""

from headrace.retrieval.chunking.chunker import Chunker, Chunking, Offsets, offsets_of

__all__ = ["Chunker", "Chunking", "Offsets", "offsets_of"]
