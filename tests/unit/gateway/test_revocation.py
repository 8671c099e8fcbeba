"""A key that is revoked at one worker is refused by all of them, at once or nearly so."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from databases import KINDS, fresh_url
from headrace.errors import Unauthorized
from headrace.gateway import admin
from headrace.gateway.control import open_control
from headrace.gateway.keys import Credentials, Keys


async def refused(keys: Keys, token: str, *, within_s: float) -> float:
    """Seconds until the key is refused."""
    began = time.monotonic()
    async with asyncio.timeout(within_s):
        while True:
            try:
                await keys.identify(Credentials(authorization=f"Bearer {token}"))
            except Unauthorized:
                return time.monotonic() - began
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", KINDS)
async def test_revoked_everywhere(kind: str, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(fresh_url(kind, tmp_path))
        workers = [
            await stack.enter_async_context(open_control(url, tmp_path / f"{at}", auth=True))
            for at in range(3)
        ]
        first = workers[0]
        assert first.new_key is not None
        keys = [worker.keys for worker in workers if worker.keys is not None]
        app: Any = admin.build(first.database, first.keys, changes=first.changes)
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app=app),
                base_url="http://x/v1/admin/",
                headers={"authorization": f"Bearer {first.new_key}"},
            )
        )
        made = (await http.post("keys", json={"team": "default"})).json()
        rotated = (await http.post(f"keys/{made['id']}/rotate", json={"overlap_s": 3600})).json()
        for known in keys:  # both tokens are in every worker's memory
            for token in (made["token"], rotated["token"]):
                caller = await known.identify(Credentials(authorization=f"Bearer {token}"))
                assert caller.key_id == made["id"]
        assert (await http.delete(f"keys/{made['id']}")).status_code == 200
        for token in (made["token"], rotated["token"]):
            with pytest.raises(Unauthorized):  # where it was asked: before the answer was sent
                await keys[0].identify(Credentials(authorization=f"Bearer {token}"))
        waits = await asyncio.gather(
            *(refused(known, made["token"], within_s=10) for known in keys[1:])
        )
        print(f"{kind}: other workers refuse after {[round(wait, 3) for wait in waits]} s")
        assert max(waits) < 5  # a quarter of a second and a read, on a machine that is not loaded
