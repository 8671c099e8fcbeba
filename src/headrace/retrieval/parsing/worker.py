"""The process that parses: frames in at standard input, frames out at standard output.

It takes away its own rights before it reads a byte of a document: no network (a namespace of its
own where the system allows it, and no sockets in Python anywhere), no file that it could write, no
other program, no environment, bounded memory and CPU time. Legend of a frame: four bytes of length,
then msgpack.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

import msgspec

from headrace.retrieval.parsing.read import read
from headrace.retrieval.parsing.reading import Reading, Refusal, Unreadable

HEADER = struct.Struct("<I")
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_OPEN_FILES = 64
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.system",
    "ctypes.dlopen",
)


class Job(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One document to parse."""

    data: bytes
    name: str
    media_type: str
    encoding: str
    most_characters: int
    most_unpacked: int
    cpu_s: int


class Answer(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What became of it; `reason` is empty where it was read."""

    text: str = ""
    media_type: str = ""
    title: str = ""
    modified_s: float = 0.0
    metadata: dict[str, str | int | float | bool] = {}
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""


def answer_of(found: Reading | Refusal) -> Answer:
    """As it travels."""
    if isinstance(found, Refusal):
        return Answer(reason=found.reason, detail=found.detail)
    return Answer(
        text=found.text,
        media_type=found.media_type,
        title=found.title,
        modified_s=found.modified_s,
        metadata=dict(found.metadata),
        notes=found.notes,
        flags=tuple(sorted(found.flags)),
    )


def found_of(answer: Answer) -> Reading | Refusal:
    """What travelled."""
    if answer.reason:
        return Refusal(reason=Unreadable(answer.reason), detail=answer.detail)
    return Reading(
        text=answer.text,
        media_type=answer.media_type,
        title=answer.title,
        modified_s=answer.modified_s,
        metadata=answer.metadata,
        notes=answer.notes,
        flags=frozenset(answer.flags),
    )


def main(memory_bytes: int) -> None:
    """Parse until standard input ends."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # a library that prints must not write into a frame
    _warm()
    _confine(memory_bytes)
    while (size := source.read(HEADER.size)) and len(size) == HEADER.size:
        data = source.read(HEADER.unpack(size)[0])
        job = msgspec.msgpack.decode(data, type=Job)
        del data
        again = _serve(job, target)
        if not again:
            return  # what ran out of memory is not trusted with another document


def _serve(job: Job, target: BinaryIO) -> bool:
    from headrace.retrieval.parsing.reading import Raw

    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + job.cpu_s + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
    raw = Raw(data=job.data, name=job.name, media_type=job.media_type, encoding=job.encoding)
    again = True
    try:
        found = read(raw, most_characters=job.most_characters, most_unpacked=job.most_unpacked)
        answer = answer_of(found)
    except MemoryError:
        again = False
        answer = Answer(reason=Unreadable.MEMORY, detail="")
    except RecursionError:
        answer = Answer(reason=Unreadable.CORRUPT, detail="it is nested too deeply")
    except Exception as error:  # noqa: BLE001 - a parser's bug must not cost more than its document
        again = False
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        answer = Answer(reason=Unreadable.CRASHED, detail=f"its parser failed: {said}")
    try:
        data = msgspec.msgpack.encode(answer)
    except MemoryError:
        again, data = False, msgspec.msgpack.encode(Answer(reason=Unreadable.MEMORY))
    target.write(HEADER.pack(len(data)) + data)
    target.flush()
    return again


def _warm() -> None:
    """Import what parsers import when they are first needed: afterwards no library is loaded."""
    for name in (
        "lxml.html",
        "pypdfium2",
        "pypdfium2.raw",
        "docx",
        "pptx",
        "openpyxl",
        "charset_normalizer",
        "email.policy",
    ):
        with contextlib.suppress(ImportError):
            __import__(name)


def _confine(memory_bytes: int) -> None:
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            if libc.unshare(_CLONE_NEWNET):  # not root: a namespace of users is needed first
                libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    sys.addaudithook(_refuse)


def _refuse(event: str, args: tuple[object, ...]) -> None:
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"a parser may not {event}")
    if event == "open":
        _, mode, flags = args
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or (isinstance(mode, str) and set(mode) & set("wax+")):
            raise PermissionError("a parser may not write files")
