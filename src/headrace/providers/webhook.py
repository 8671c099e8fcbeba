"""JSON to somebody's URL: three tries, each bounded, nothing of the answer but its status."""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp

from headrace.errors import UpstreamError

_TIMEOUT_S = 10.0
_PAUSES_S = (0.0, 0.5, 2.0)


async def post_json(url: str, body: Mapping[str, Any]) -> None:
    """POST it.

    Raises: UpstreamError where no try was answered with a status of 2xx.
    """
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    last = ""
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for pause in _PAUSES_S:
            await asyncio.sleep(pause)
            try:
                async with session.post(url, json=body, allow_redirects=False) as answer:
                    if 200 <= answer.status < 300:
                        return
                    last = f"status {answer.status}"
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                last = str(error) or type(error).__name__
    raise UpstreamError(f"the webhook did not take it: {last}")
