"""What a gateway holds does not grow with the requests that it has answered."""

import asyncio
import gc
import http.client
import json
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace.store.database import Database
from headrace.store.limits import Unit
from ledgers import limit
from whole_gateway import Whole, serving_all

ROOT = Path(__file__).parents[3]
CLIENTS = 8
ASKED = 960
OURS = ("Exchange", "Flight", "Hold", "Charge", "Entry", "Slice", "Task", "coroutine")
"""Of each request there is one of these or more; the scripted model keeps what it was asked."""


def test_objects_do_not_grow_with_requests(tmp_path: Path) -> None:
    asyncio.run(_limited(tmp_path))
    with serving_all(tmp_path) as whole:
        _ask(whole, 240)
        before = _objects()
        _ask(whole, ASKED)
        until = time.monotonic() + 20
        while True:  # the ledger books in the background
            held = _objects()
            grown = {name: held[name] - before[name] for name in OURS}
            if max(grown.values()) < ASKED / 10 or time.monotonic() > until:
                break
            time.sleep(0.2)
        assert max(grown.values()) < ASKED / 10, grown


async def _limited(directory: Path) -> None:
    database = await Database.open(f"sqlite:///{directory / 'whole.db'}")
    await limit(database, Unit.REQUESTS, 10**9, window="minute")
    await limit(database, Unit.OUTPUT_TOKENS, 10**12, scope="org", window="day")
    await database.close()


def _ask(whole: Whole, count: int) -> None:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
    headers = {"Authorization": f"Bearer {whole.key}", "Content-Type": "application/json"}

    def work(_: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", whole.port, timeout=60)
        for _ in range(count // CLIENTS):
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status == 200, said
        connection.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, range(CLIENTS)))


def _objects() -> Counter[str]:
    gc.collect()
    return Counter(type(each).__qualname__ for each in gc.get_objects())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_resident_memory_is_flat_over_fifty_thousand_requests() -> None:
    command = [sys.executable, "bench/proxies.py", "memory", "--requests", "50000"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=840, check=True
    )
    moved = re.search(r"memory moved by ([0-9.]+) %", done.stdout)
    assert moved is not None, done.stdout
    assert float(moved.group(1)) < 10, done.stdout
