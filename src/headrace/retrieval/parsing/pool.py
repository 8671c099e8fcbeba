"""Parser processes that are used again, and replaced when one broke, hung or grew.

Invariants: a document gets its reading or a refusal, whatever it does to the process; a process
that timed out, died, ran out of memory or answered too much is never used again; closing ends every
process.
"""

import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import dataclass
from typing import Self

import msgspec

from headrace.retrieval.parsing import worker
from headrace.retrieval.parsing.reading import Raw, Reading, Refusal, Unreadable

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from headrace.retrieval.parsing.worker import main; main(int(sys.argv[2]))"
)
_MIB = 1 << 20
_LAST_BREATH_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one document may take."""

    file_bytes: int = 64 * _MIB
    """Larger files are refused before they are read."""
    unpacked_bytes: int = 512 * _MIB
    """Of an office file's members together, by its own directory, before it is unpacked."""
    characters: int = 20_000_000
    """Of its text."""
    wall_s: float = 60.0
    cpu_s: int = 45
    memory_bytes: int = 2048 * _MIB
    """Address space of a process, its libraries included (about 300 MiB)."""
    documents_a_process: int = 500
    """Then it is replaced: libraries leak."""

    def refuse(self, size_bytes: int) -> Refusal | None:
        """Whether a file of this size is too large to be read at all, or empty."""
        if size_bytes == 0:
            return Refusal(reason=Unreadable.EMPTY, detail="it has 0 bytes")
        if size_bytes > self.file_bytes:
            return Refusal(
                reason=Unreadable.TOO_LARGE,
                detail=f"it has {size_bytes} bytes; at most {self.file_bytes} are read",
            )
        return None


class ParserPool:
    """So many processes, started when they are needed. An async context manager."""

    def __init__(self, *, limits: Limits | None = None, processes: int = 2) -> None:
        self.limits = limits or Limits()
        self._idle: list[_Process] = []
        self._places = asyncio.Semaphore(processes)
        self.started = 0
        """Processes that were ever started."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def parse(self, raw: Raw) -> Reading | Refusal:
        """The reading, or why there is none. Waits for a free process."""
        early = self.limits.refuse(len(raw.data))
        if early is not None:
            return early
        async with self._places:
            process = self._idle.pop() if self._idle else await self._start()
            kept = False
            try:
                found, kept = await process.parse(raw, self.limits)
            finally:
                if kept and process.served < self.limits.documents_a_process:
                    self._idle.append(process)
                else:
                    await asyncio.shield(process.end())
            return found

    async def close(self) -> None:
        """End all processes that are idle; those at work end with their document."""
        while self._idle:
            await self._idle.pop().end()

    async def _start(self) -> "_Process":
        self.started += 1
        return _Process(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _START,
                json.dumps([path for path in sys.path if path]),
                str(self.limits.memory_bytes),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
        )


class _Process:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.served = 0

    async def parse(self, raw: Raw, limits: Limits) -> tuple[Reading | Refusal, bool]:
        """What it made of it, and whether it may be used again."""
        job = worker.Job(
            data=raw.data,
            name=raw.name,
            media_type=raw.media_type,
            encoding=raw.encoding,
            most_characters=limits.characters,
            most_unpacked=limits.unpacked_bytes,
            cpu_s=limits.cpu_s,
        )
        self.served += 1
        # Four bytes a character at most, and what else an answer says.
        most = 4 * limits.characters + _MIB
        try:
            async with asyncio.timeout(limits.wall_s):
                data = await self._exchange(msgspec.msgpack.encode(job), most)
        except TimeoutError:
            detail = f"no text of it within {limits.wall_s:g} s"
            return Refusal(reason=Unreadable.TIMEOUT, detail=detail), False
        except (asyncio.IncompleteReadError, ConnectionError):
            return await self._died(limits), False
        if data is None:
            detail = f"its text is longer than {limits.characters} characters"
            return Refusal(reason=Unreadable.TOO_LARGE, detail=detail), False
        found = worker.found_of(msgspec.msgpack.decode(data, type=worker.Answer))
        if isinstance(found, Refusal) and found.reason is Unreadable.MEMORY:
            return _memory(limits), False
        crashed = isinstance(found, Refusal) and found.reason is Unreadable.CRASHED
        return found, not crashed

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is not None:
            stdin.close()
        if stdout is not None:
            with contextlib.suppress(Exception):
                while await stdout.read(_MIB):
                    pass  # until its end, so that the pipe closes
        await self._process.wait()

    async def _exchange(self, job: bytes, most: int) -> bytes | None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(worker.HEADER.pack(len(job)))
        stdin.write(job)
        await stdin.drain()
        (size,) = worker.HEADER.unpack(await stdout.readexactly(worker.HEADER.size))
        return None if size > most else await stdout.readexactly(size)

    async def _died(self, limits: Limits) -> Refusal:
        try:
            # Not killed at once: `kill` would take its exit status before anybody has read it.
            async with asyncio.timeout(_LAST_BREATH_S):
                code = await self._process.wait()
        except TimeoutError:  # only its pipes are gone
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            code = await self._process.wait()
        if code == -signal.SIGXCPU:
            detail = f"it took more than {limits.cpu_s} s of CPU time"
            return Refusal(reason=Unreadable.TIMEOUT, detail=detail)
        if code == -signal.SIGKILL:
            detail = "its parser was killed, as a rule for want of memory"
            return Refusal(reason=Unreadable.MEMORY, detail=detail)
        name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Refusal(reason=Unreadable.CRASHED, detail=f"its parser ended with {name}")


def _memory(limits: Limits) -> Refusal:
    detail = f"its parser needed more than {limits.memory_bytes // _MIB} MiB"
    return Refusal(reason=Unreadable.MEMORY, detail=detail)
