"""A serve command becomes seconds: from its start to ready, and to its first streamed token.

Cold means that the files it reads were asked out of the page cache first (what no other process has
mapped); warm means straight after a run. Compiled Python stays compiled in both.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from headrace.errors import HeadraceError, ServiceError, UpstreamError
from headrace.types import CompletionBackend, CompletionRequest, SamplingParams, TextDelta

_POLL_S = 0.01
_STOP_S = 30.0


class StartedServer(CompletionBackend, Protocol):
    """A client of the server that is being started."""

    async def ready(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StartupRun:
    cold: bool
    ready_s: float
    first_token_s: float


def evict(paths: Iterable[Path]) -> int:
    """Ask the kernel to drop the files under `paths` from its page cache; returns their bytes."""
    size_bytes = 0
    for root in paths:
        for path in [root] if root.is_file() else root.rglob("*"):
            with contextlib.suppress(OSError):
                if not path.is_file():
                    continue
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    size_bytes += os.fstat(descriptor).st_size
                finally:
                    os.close(descriptor)
    return size_bytes


async def measure_startup(
    command: Sequence[str],
    *,
    client: StartedServer,
    model: str,
    environment: Mapping[str, str],
    cold: bool,
    timeout_s: float,
) -> StartupRun:
    """Run `command`, wait until it is ready, take one token, and stop it.

    Raises: ServiceError with the command's last words where it does not come up.
    """
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        async with _running(command, environment, log) as process:
            while not await _is_ready(client):
                if process.returncode is not None:
                    raise ServiceError(f"it exited with {process.returncode}:\n{_tail(log)}")
                if time.perf_counter() - began > timeout_s:
                    raise ServiceError(f"not ready within {timeout_s:g} s:\n{_tail(log)}")
                await asyncio.sleep(_POLL_S)
            ready_s = time.perf_counter() - began
            first_token_s = await _first_token(client, model) - began
            return StartupRun(cold=cold, ready_s=ready_s, first_token_s=first_token_s)


async def _first_token(client: StartedServer, model: str) -> float:
    """When it came, on `time.perf_counter`'s clock."""
    request = CompletionRequest(
        model=model,
        prompt="Hello",
        sampling=SamplingParams(temperature=0.0, max_tokens=1, min_tokens=1),
    )
    came: float | None = None
    async for event in client.complete(request):
        if came is None and isinstance(event, TextDelta):
            came = time.perf_counter()
    if came is None:
        raise UpstreamError("the server finished its first answer without a token")
    return came


async def _is_ready(client: StartedServer) -> bool:
    try:
        return await client.ready()
    except HeadraceError:
        return False


@contextlib.asynccontextmanager
async def _running(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=dict(environment),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()


def _tail(log: IO[bytes]) -> str:
    log.seek(max(0, log.seek(0, os.SEEK_END) - 2000))
    return log.read().decode("utf-8", "replace").strip()
