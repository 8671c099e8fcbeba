"""Vectors and bags of words as PostgreSQL's wire has them: binary, so that COPY takes them.

A bag's lexemes are not words but their hashes (`stores.words`), and what a tsvector calls positions
are no places: a lexeme has as many as the word counts, twice for each time in the text and three
times for each in a title, which is where `TITLE_WEIGHT` 1.5 comes from.
"""

import base64
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headrace.retrieval.stores.words import Terms, unpack

if TYPE_CHECKING:
    from asyncpg import Connection

IN_TEXT = 2
IN_TITLE = 3
MAX_COUNT = 254
"""PostgreSQL keeps 255 positions of a lexeme; BM25 has long stopped to grow by then."""

_COUNTS = [struct.pack(f">H{n}H", n, *range(1, n + 1)) for n in range(MAX_COUNT + 1)]


def lexeme(hash: int) -> str:
    """The lexeme of a word's hash: 11 letters, digits, - and _."""
    return base64.urlsafe_b64encode(hash.to_bytes(8, "little"))[:11].decode()


def bag(terms: Terms) -> dict[str, int]:
    """Lexeme → how much it counts."""
    found = unpack([terms.packed])
    counts = IN_TEXT * found.body.astype(np.int64) + IN_TITLE * found.titles.astype(np.int64)
    return {
        lexeme(hash): min(count, MAX_COUNT)
        for hash, count in zip(found.hashes.tolist(), counts.tolist(), strict=True)
    }


def encode_bag(bag: dict[str, int]) -> bytes:
    """As tsvectorrecv reads it; it sorts them itself."""
    parts = [word.encode() + b"\0" + _COUNTS[count] for word, count in bag.items()]
    return struct.pack(">i", len(parts)) + b"".join(parts)


def _refuse_bag(_: bytes) -> dict[str, int]:
    raise AssertionError("no statement reads a tsvector whole")


def encode_vector(data: bytes) -> bytes:
    """float32, little-endian, as pgvector reads it."""
    return (
        struct.pack(">HH", len(data) // 4, 0) + np.frombuffer(data, "<f4").astype(">f4").tobytes()
    )


def decode_vector(data: bytes) -> bytes:
    return np.frombuffer(data, ">f4", offset=4).astype("<f4").tobytes()


async def register(connection: "Connection", extension: str) -> None:
    """Teach a new connection both."""
    await connection.set_type_codec(
        "vector",
        schema=extension.strip('"'),
        encoder=encode_vector,
        decoder=decode_vector,
        format="binary",
    )
    await connection.set_type_codec(
        "tsvector",
        schema="pg_catalog",
        encoder=encode_bag,
        decoder=_refuse_bag,
        format="binary",
    )


def rows(data: bytes, count: int) -> Sequence[bytes]:
    """One vector a chunk."""
    size = len(data) // count if count else 0
    return [data[i * size : (i + 1) * size] for i in range(count)]
