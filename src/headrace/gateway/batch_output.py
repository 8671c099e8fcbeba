"""The lines of a batch that goes on no more → its output file and its error file."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Row

from headrace.store.batches import COMPLETED, FAILED, EndedLine
from headrace.store.blobs import Blobs, Sink
from headrace.store.files import File, Owner, new_file_id
from headrace.wire.batch_calls import encode_unanswered
from headrace.wire.file_fields import BATCH_OUTPUT

_UNANSWERED = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """The two files, whose contents are durable; None where there is not a line for one."""

    output: File | None
    errors: File | None


def line_id(batch: str, line: int) -> str:
    """What a line's answer is called."""
    return f"batch_req_{batch.removeprefix('batch_')}_{line}"


async def write_outputs(
    blobs: Blobs, batch: Row[Any], lines: AsyncIterator[EndedLine], *, now_s: int
) -> Outputs:
    """Write both, in the order of the input."""
    code, message = _UNANSWERED.get(batch.outcome, ("", ""))
    async with AsyncExitStack() as stack:
        output = _Writer(blobs, stack, batch, "output", now_s)
        errors = _Writer(blobs, stack, batch, "errors", now_s)
        async for line in lines:
            if line.state == COMPLETED:
                await output.write(line.result)
            elif line.state == FAILED:
                await errors.write(line.result)
            else:
                id = line_id(batch.id, line.line)
                text = encode_unanswered(id, line.custom_id, code=code, message=message)
                await errors.write(text.decode())
    return Outputs(output=output.file(), errors=errors.file())


class _Writer:
    def __init__(
        self, blobs: Blobs, stack: AsyncExitStack, batch: Row[Any], kind: str, now_s: int
    ) -> None:
        self._blobs = blobs
        self._stack = stack
        self._sink: Sink | None = None
        self._size = 0
        self._file = File(
            id=new_file_id(),
            owner=Owner(batch.org, batch.team),
            key=batch.key,
            created_s=now_s,
            purpose=BATCH_OUTPUT,
            filename=f"{batch.id}_{kind}.jsonl",
            size_bytes=0,
            expires_s=None if batch.output_ttl_s is None else now_s + batch.output_ttl_s,
        )

    async def write(self, text: str) -> None:
        if self._sink is None:
            self._sink = await self._stack.enter_async_context(self._blobs.create(self._file.id))
        data = text.encode() + b"\n"
        await self._sink.write(data)
        self._size += len(data)

    def file(self) -> File | None:
        return None if self._sink is None else replace(self._file, size_bytes=self._size)
