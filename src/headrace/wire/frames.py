"""Bytes between the gateway's process and the engine's ⇄ typed frames.

A frame is four bytes of length, big-endian, and that many bytes of MessagePack: a tagged struct of
this file, nothing else (no pickle, so neither side can be made to run code). Invariant: whatever
the bytes and however they were cut, `FrameReader.push` gives whole, typed frames or raises; it
never keeps more than one frame's bytes beyond what it was given.
"""

from typing import Any, Generic, TypeVar

import msgspec

from headrace.config import EngineSettings, ModelSettings
from headrace.errors import HeadraceError
from headrace.types import FinishReason, Priority, SamplingParams, TokenEvent

MAX_FRAME_BYTES = 256 << 20
"""Well above the largest honest frame: log-probabilities of a 128k prompt with 20 rivals each."""

_HEADER_BYTES = 4


class Configure(msgspec.Struct, frozen=True, kw_only=True, tag="configure"):
    """First frame to a worker: what to load and how to run it."""

    path: str
    model: ModelSettings
    engine: EngineSettings
    drain_s: float


class Submit(msgspec.Struct, frozen=True, kw_only=True, tag="submit"):
    """Begin a request."""

    id: str
    prompt: tuple[int, ...]
    sampling: SamplingParams
    salt: str = ""
    deadline_s: float | None = None
    """Seconds from now: the two processes share no clock."""
    priority: Priority = Priority.INTERACTIVE


class Embed(msgspec.Struct, frozen=True, kw_only=True, tag="embed"):
    """Begin a request for vectors; of a worker that serves an encoder."""

    id: str
    inputs: tuple[tuple[int, ...], ...]
    deadline_s: float | None = None
    priority: Priority = Priority.INTERACTIVE


class Cancel(msgspec.Struct, frozen=True, kw_only=True, tag="cancel"):
    """Nobody wants the request's tokens any more; unknown ids are of requests that just ended."""

    id: str


class GetStats(msgspec.Struct, frozen=True, kw_only=True, tag="get_stats"):
    """Ask for `Stats` with the same number."""

    number: int


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """Refuse new requests, finish the running ones within `drain_s`, then exit."""

    drain_s: float


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The model is loaded and warm."""

    pid: int
    vocab_size: int
    context_tokens: int
    fingerprint: str
    """SHA-256 of the checkpoint."""
    dtype: str
    device: str
    threads: int
    kernels: str
    """What runs: `torch float32`, `native avx512 int8`."""
    load_s: float
    """From the worker's first instruction to here."""


class Events(msgspec.Struct, frozen=True, kw_only=True, tag="events"):
    """Everything one step produced, in order."""

    events: list[tuple[str, TokenEvent]]


class Vectors(msgspec.Struct, frozen=True, kw_only=True, tag="vectors"):
    """All that an `Embed` came to."""

    id: str
    finish: FinishReason
    """stop, or why there are no vectors."""
    data: bytes = b""
    """float32, little-endian, row after row."""
    error: str | None = None
    """Beside `finish` error: what went wrong, fit for the caller's eyes."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """A `Submit` or `Embed` that was not admitted, as an error of the tree."""

    id: str
    code: str
    message: str
    param: str | None = None
    retry_after_s: int | None = None


class Stats(msgspec.Struct, frozen=True, kw_only=True, tag="stats"):
    """Gauges and counters by dotted name."""

    number: int
    values: dict[str, float]


class Beat(msgspec.Struct, frozen=True, kw_only=True, tag="beat"):
    """The loop turns although no step had anything to say."""


class Fatal(msgspec.Struct, frozen=True, kw_only=True, tag="fatal"):
    """The worker cannot start; it exits after this."""

    code: str
    message: str


ToWorker = Configure | Submit | Embed | Cancel | GetStats | Drain
ToClient = Ready | Events | Vectors | Refused | Stats | Beat | Fatal

_encoder = msgspec.msgpack.Encoder()


def encode(frame: ToWorker | ToClient) -> bytes:
    """One frame as bytes.

    Raises:
        HeadraceError: It is larger than the other side would take.
    """
    payload = _encoder.encode(frame)
    if len(payload) > MAX_FRAME_BYTES:
        raise HeadraceError(
            f"a {type(frame).__name__} frame of {len(payload)} bytes exceeds {MAX_FRAME_BYTES}"
        )
    return len(payload).to_bytes(_HEADER_BYTES, "big") + payload


FrameT = TypeVar("FrameT")


class FrameReader(Generic[FrameT]):
    """Collects bytes and gives the frames that they complete. Unusable after an error."""

    def __init__(
        self, decoder: "msgspec.msgpack.Decoder[Any]", *, max_frame_bytes: int = MAX_FRAME_BYTES
    ) -> None:
        self._decoder = decoder
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    def push(self, data: bytes) -> list[FrameT]:
        """Take what arrived.

        Raises:
            HeadraceError: A length beyond the limit, or a payload that is no frame.
        """
        self._buffer += data
        frames: list[FrameT] = []
        start = 0
        with memoryview(self._buffer) as view:
            while len(view) - start >= _HEADER_BYTES:
                body = start + _HEADER_BYTES
                size = int.from_bytes(view[start:body], "big")
                if size > self._max_frame_bytes:
                    raise HeadraceError(
                        f"a frame announces {size} bytes, the limit is {self._max_frame_bytes}; "
                        "the other side speaks another protocol"
                    )
                if len(view) - body < size:
                    break
                try:
                    frames.append(self._decoder.decode(view[body : body + size]))
                except (msgspec.DecodeError, ValueError) as error:
                    raise HeadraceError(f"malformed frame: {error}") from error
                start = body + size
        del self._buffer[:start]
        return frames

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._buffer)


def worker_reader() -> FrameReader[ToWorker]:
    """Reads what a worker is told."""
    return FrameReader(msgspec.msgpack.Decoder(ToWorker))


def client_reader() -> FrameReader[ToClient]:
    """Reads what a worker tells."""
    return FrameReader(msgspec.msgpack.Decoder(ToClient))
