"""`headrace generate` and `headrace chat` as processes, before a scripted backend."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Runs in the child: what `app.open_backend` yields is replaced, all else is the real command.
DRIVER = """
import asyncio, contextlib, sys
import headrace.app
from headrace.cli import connect, main
from headrace.errors import Overloaded
from headrace.types import (ChatRequest, Finished, FinishReason, ModelCard, Started, TextDelta,
                            Usage)

class Scripted:
    card = ModelCard(name="scripted", context_tokens=64, created_s=0)

    async def stream(self, request):
        said = request.messages[-1].text
        turns = "/".join(m.role.value + ":" + m.text for m in request.messages)
        async for event in self.play(said, f"[{turns}] Grüße"):
            yield event

    async def complete(self, request):
        given = ",".join(sorted(request.sampling.given))
        async for event in self.play(request.prompt, f"{request.prompt}|{given}"):
            yield event

    async def play(self, said, text):
        if said == "refuse":
            raise Overloaded("the queue is full; try again")
        yield Started(id="r1", model="scripted", created_s=0, prompt_tokens=3, seed=5)
        try:
            if said == "forever":
                for number in range(2000):
                    yield TextDelta(text=f"word{number} ")
                    await asyncio.sleep(0.01)
            if said == "escape":
                text = chr(27) + "]0;owned" + chr(7) + chr(0x9b) + "2J"
            for letter in text:
                yield TextDelta(text=letter)
        except BaseException as error:
            sys.stderr.write(f"<closed by {type(error).__name__}>")
            raise
        usage = Usage(prompt_tokens=3, completion_tokens=len(text))
        yield Finished(reason=FinishReason.STOP, usage=usage)

@contextlib.asynccontextmanager
async def open_backend(settings, *, url=None, key=None):
    yield Scripted()
    sys.stderr.write("<backend closed>")

headrace.app.open_backend = open_backend
connect.answers = lambda host, port: False
main()
"""
START_S = 30.0


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", DRIVER, *words]


def run(cwd: Path, *words: str, stdin: str | bytes = "") -> "subprocess.CompletedProcess[str]":
    data = stdin if isinstance(stdin, bytes) else stdin.encode()
    done = subprocess.run(command(*words), input=data, capture_output=True, cwd=cwd, timeout=60)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def test_generate_streams_the_answer_to_stdout(tmp_path: Path) -> None:
    done = run(tmp_path, "generate", "hello", "--system", "be kind")
    assert (done.returncode, done.stdout) == (0, "[system:be kind/user:hello] Grüße\n")
    assert done.stderr == "<backend closed>"


def test_a_pipe_gets_every_character(tmp_path: Path) -> None:
    done = run(tmp_path, "generate", "escape")
    assert done.stdout == "\x1b]0;owned\x07\x9b2J\n"


def test_generate_raw_from_stdin(tmp_path: Path) -> None:
    words = ("generate", "-", "--raw", "--max-tokens", "5", "--temperature", "0", "--stop", "x")
    done = run(tmp_path, *words, stdin="once upon")
    assert (done.returncode, done.stdout) == (0, "once upon|max_tokens,stop,temperature\n")


def test_generate_json_is_one_document(tmp_path: Path) -> None:
    done = run(tmp_path, "generate", "hi", "--json")
    data = json.loads(done.stdout)
    assert (data["text"], data["finish_reason"]) == ("[user:hi] Grüße", "stop")
    assert data["usage"]["completion_tokens"] == len(data["text"])
    assert (data["id"], data["model"], data["seed"]) == ("r1", "scripted", 5)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (("generate", ""), 2, "error: the prompt is empty"),
        (("generate", "x", "--raw", "--system", "y"), 2, "error: --system needs the chat template"),
        (("generate", "x", "--url", "localhost:1"), 2, "error: --url 'localhost:1' is not an http"),
        (("generate", "refuse"), 1, "error: the queue is full; try again"),
        (("generate", "-"), 2, "error: the text is not UTF-8"),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, words: tuple[str, ...], code: int, line: str
) -> None:
    done = run(tmp_path, *words, stdin=b"\xff\xfe")
    assert (done.returncode, done.stdout) == (code, "")
    assert line in done.stderr


def test_generate_ends_quietly_on_interrupt_and_on_a_closed_pipe(tmp_path: Path) -> None:
    for way in ("interrupt", "pipe"):
        with subprocess.Popen(
            command("generate", "forever"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
        ) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert child.stdout.read(5) == b"word0"
            if way == "interrupt":
                child.send_signal(signal.SIGINT)
                assert child.wait(20) == 130
            else:
                child.stdout.close()
                assert child.wait(20) in (1, 141)
            said = child.stderr.read().decode()
        assert "Traceback" not in said
        assert "error" not in said.replace("CancelledError", "").replace("BrokenPipeError", "")


def test_chat_from_a_pipe_keeps_its_history(tmp_path: Path) -> None:
    lines = "hello\n\nagain\n/reset\nanew\n/exit\nnever\n"
    done = run(tmp_path, "chat", "--system", "s", stdin=lines)
    first = "[system:s/user:hello] Grüße"
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        first,
        f"[system:s/user:hello/assistant:{first}/user:again] Grüße",
        "[system:s/user:anew] Grüße",
    ]
    assert done.stderr.endswith("<backend closed>")


def test_chat_from_a_pipe_fails_with_the_answer(tmp_path: Path) -> None:
    done = run(tmp_path, "chat", stdin="refuse\n")
    assert done.returncode == 1
    assert "error: the queue is full; try again" in done.stderr


class Terminal:
    """The other end of a terminal in which a command runs."""

    def __init__(self, child: "subprocess.Popen[bytes]", master: int) -> None:
        self.child = child
        self._master = master
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def see(self, pattern: str) -> str:
        """Wait until the pattern is on the screen; what came before it is forgotten."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = re.search(pattern, self._seen)
            if found:
                self._seen = self._seen[found.end() :]
                return found.group()
            if select.select([self._master], [], [], 0.1)[0]:
                self._seen += os.read(self._master, 65536).decode("utf-8", "replace")
        raise AssertionError(f"never saw {pattern!r} in {self._seen!r}")


@contextmanager
def terminal(cwd: Path, *words: str) -> Generator[Terminal]:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command(*words), stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env=environment
    ) as child:
        os.close(slave)
        try:
            yield Terminal(child, master)
        finally:
            if child.poll() is None:
                child.kill()
            os.close(master)


def test_chat_in_a_terminal_stops_goes_on_and_leaves(tmp_path: Path) -> None:
    with terminal(tmp_path, "chat") as screen:
        screen.see("scripted · sprout on this machine")
        screen.see("> ")
        screen.type("forever\n")
        screen.see("word3 ")
        screen.child.send_signal(signal.SIGINT)
        screen.see("<closed by CancelledError>")
        screen.see("stopped")
        screen.type("and now\n")
        screen.see(r"\[user:forever/assistant:word0 .*user:and now\] Grüße")
        screen.see(r"TTFT \d+ ms")
        screen.type("escape\n")
        screen.see("␛]0;owned␇\ufffd2J")
        screen.type("refuse\n")
        screen.see("error: the queue is full; try again")
        screen.type("/help\n")
        screen.see("no command /help: /reset starts anew")
        screen.see(r"\n> ")
        # CPython loses a signal that comes between the prompt and its wait for a key.
        time.sleep(0.5)
        screen.child.send_signal(signal.SIGINT)
        screen.see("Ctrl-D leaves")
        screen.see(r"\n> ")
        screen.type("\x04")
        screen.see("<backend closed>")
        assert screen.child.wait(10) == 0
