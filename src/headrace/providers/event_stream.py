"""Bytes of AWS's binary event stream become messages of headers and payload; sans I/O.

A message is total length, headers' length and a CRC-32 of these two (each four bytes, big-endian),
headers, payload, and a CRC-32 of all before. Invariants: the messages do not depend on how the
bytes were cut; nothing longer than the limit is kept; a wrong sum or length is an `UpstreamError`.
Source: AWS's event stream encoding (Smithy, application/vnd.amazon.eventstream).
"""

import zlib
from typing import NamedTuple

from headrace.errors import UpstreamError

MAX_MESSAGE_BYTES = 16 << 20
_PRELUDE_BYTES = 12
_SUM_BYTES = 4
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of each kind of header value but 6 (bytes) and 7 (text), which say their length."""


class StreamMessage(NamedTuple):
    headers: dict[str, str]
    """Those whose value is text."""
    payload: bytes


class EventStreamReader:
    """`push` bytes as they come; each complete message comes back once, in order."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def unfinished(self) -> bool:
        """Whether bytes of a message that never ended are left."""
        return bool(self._rest)

    def push(self, data: bytes) -> list[StreamMessage]:
        """The messages that these bytes complete.

        Raises: UpstreamError.
        """
        self._rest += data
        messages: list[StreamMessage] = []
        while len(self._rest) >= _PRELUDE_BYTES:
            total, headers, told = (
                int.from_bytes(self._rest[at : at + 4], "big") for at in (0, 4, 8)
            )
            if zlib.crc32(self._rest[:8]) != told:
                raise UpstreamError("the event stream's prelude has a wrong checksum")
            if not _PRELUDE_BYTES + headers + _SUM_BYTES <= total <= MAX_MESSAGE_BYTES:
                raise UpstreamError(f"the event stream announces a message of {total} bytes")
            if len(self._rest) < total:
                break
            message = bytes(self._rest[:total])
            del self._rest[:total]
            body = total - _SUM_BYTES
            if zlib.crc32(message[:body]) != int.from_bytes(message[body:], "big"):
                raise UpstreamError("a message of the event stream has a wrong checksum")
            start = _PRELUDE_BYTES + headers
            messages.append(
                StreamMessage(_headers(message[_PRELUDE_BYTES:start]), message[start:body])
            )
        return messages


def _headers(data: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name_end = at + 1 + data[at]
            name = data[at + 1 : name_end].decode()
            kind = data[name_end]
            at = name_end + 1
            if kind in _SIZES:
                at += _SIZES[kind]
                continue
            if kind not in (6, 7):
                raise ValueError(f"a header of kind {kind}")
            start = at + 2
            at = start + int.from_bytes(data[at:start], "big")
            if at > len(data):
                raise ValueError("a header that is longer than all of them")
            if kind == 7:
                found[name] = data[start:at].decode()
    except (IndexError, ValueError) as error:
        raise UpstreamError(f"a message of the event stream has bad headers: {error}") from error
    return found
