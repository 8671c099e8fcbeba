"""Parser processes: used again while they are sound, replaced when not, confined always."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest

import document_files as files
from headrace.retrieval.parsing import Limits, ParserPool, Raw, Reading, Refusal, Unreadable

GOOD = Raw(data=b"# Fine\n\nwords", name="a.md")


def refused(found: Reading | Refusal) -> Refusal:
    assert isinstance(found, Refusal), found
    return found


async def test_one_process_serves_many_documents() -> None:
    async with ParserPool(processes=1) as pool:
        found = await asyncio.gather(*(pool.parse(GOOD) for _ in range(20)))
        locked = refused(await pool.parse(Raw(data=b"\x89PNG\r\n", name="a.png")))
        assert locked.reason is Unreadable.UNSUPPORTED
        assert all(isinstance(one, Reading) and one.title == "Fine" for one in found)
        assert pool.started == 1


async def test_sizes_are_refused_before_a_process_sees_them() -> None:
    async with ParserPool(limits=Limits(file_bytes=10)) as pool:
        assert refused(await pool.parse(Raw(data=b"", name="a"))).reason is Unreadable.EMPTY
        large = refused(await pool.parse(Raw(data=b"x" * 11, name="a")))
        assert large.detail == "it has 11 bytes; at most 10 are read"
        assert pool.started == 0


async def test_a_document_that_takes_too_long_costs_its_process_only() -> None:
    big = Raw(data=b"a,b\n" * 3_000_000, name="a.csv")
    async with ParserPool(limits=Limits(wall_s=0.5), processes=1) as pool:
        slow = refused(await pool.parse(big))
        assert (slow.reason, slow.detail) == (Unreadable.TIMEOUT, "no text of it within 0.5 s")
        pool.limits = Limits()
        assert isinstance(await pool.parse(GOOD), Reading)
        assert pool.started == 2


async def test_cpu_time_is_bounded_by_the_system() -> None:
    big = Raw(data=b"a,b\n" * 6_000_000, name="a.csv")
    async with ParserPool(limits=Limits(cpu_s=0, memory_bytes=8 << 30), processes=1) as pool:
        slow = refused(await pool.parse(big))
        assert slow.reason is Unreadable.TIMEOUT
        assert "CPU time" in slow.detail


async def test_memory_is_bounded_and_the_process_replaced() -> None:
    big = Raw(data=b"a,b\n" * 6_000_000, name="a.csv")
    async with ParserPool(limits=Limits(memory_bytes=450 << 20), processes=1) as pool:
        full = refused(await pool.parse(big))
        assert (full.reason, full.detail) == (
            Unreadable.MEMORY,
            "its parser needed more than 450 MiB",
        )
        assert isinstance(await pool.parse(GOOD), Reading)
        assert pool.started == 2


@pytest.mark.parametrize(
    ("how", "reason"), [(signal.SIGSEGV, Unreadable.CRASHED), (signal.SIGKILL, Unreadable.MEMORY)]
)
async def test_a_process_that_dies_refuses_one_document(
    how: signal.Signals, reason: Unreadable
) -> None:
    async with ParserPool(processes=1) as pool:
        await pool.parse(GOOD)
        process = pool._idle[0]._process
        os.kill(process.pid, how)
        assert refused(await pool.parse(GOOD)).reason is reason
        assert isinstance(await pool.parse(GOOD), Reading)


async def test_libraries_leak_so_processes_are_replaced_in_time() -> None:
    async with ParserPool(limits=Limits(documents_a_process=2), processes=1) as pool:
        for _ in range(5):
            assert isinstance(await pool.parse(GOOD), Reading)
        assert pool.started == 3


async def test_a_cancelled_parse_leaves_no_process_behind() -> None:
    big = Raw(data=b"a,b\n" * 3_000_000, name="a.csv")
    async with ParserPool(processes=1) as pool:
        await pool.parse(GOOD)
        process = pool._idle[0]._process
        task = asyncio.create_task(pool.parse(big))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.wait_for(process.wait(), 10) == -signal.SIGKILL


async def test_every_library_works_inside_its_confinement() -> None:
    made = {
        "a.pdf": files.pdf([("Words", 10)]),
        "a.docx": files.word(lambda file: file.add_paragraph("Words")),
        "a.xlsx": files.sheet([["Words"]]),
        "a.pptx": files.slides(
            lambda show: setattr(
                show.slides.add_slide(show.slide_layouts[0]).shapes.title, "text", "Words"
            )
        ),
        "a.html": b"<p>Words",
        "a.txt": ("Wörter sind größer als Zahlen, heißt es. " * 20).encode("cp1252"),
    }
    async with ParserPool(processes=1) as pool:
        for name, data in made.items():
            found = await pool.parse(Raw(data=data, name=name))
            assert isinstance(found, Reading), (name, found)
            assert "W" in found.text
        assert pool.started == 1


def test_a_confined_process_has_no_network_no_files_and_no_environment() -> None:
    script = """
    import os, socket, subprocess, sys, tempfile
    from headrace.retrieval.parsing.worker import _confine
    folder = tempfile.mkdtemp()
    _confine(1 << 30)
    done = []
    def attempt(name, what):
        try:
            what()
        except (PermissionError, OSError) as error:
            return
        done.append(name)
    attempt("socket", lambda: socket.socket())
    attempt("file", lambda: open(os.path.join(folder, "x"), "w"))
    attempt("program", lambda: subprocess.run(["true"]))
    attempt("shell", lambda: os.system("true"))
    attempt("fork", lambda: os.fork())
    attempt("file", lambda: os.open(os.path.join(folder, "y"), os.O_CREAT | os.O_WRONLY))
    os.rmdir(folder)
    print(done)
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
