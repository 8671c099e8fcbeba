"""JSON to somebody's URL: three tries, each bounded, nothing of the answer but its status."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from headrace.errors import UpstreamError
from headrace.providers.http1 import BrokenAnswer, CannotConnect, Pool

_TIMEOUT_S = 10.0
_PAUSES_S = (0.0, 0.5, 2.0)


async def post_json(url: str, body: Mapping[str, Any]) -> None:
    """POST it.

    Raises: UpstreamError where no try was answered with a status of 2xx.
    """
    data = json.dumps(body).encode()
    last = ""
    headers = {"Content-Type": "application/json", "Accept": "*/*"}
    pool = Pool(connect_s=_TIMEOUT_S, keep_s=_TIMEOUT_S, headers=headers)
    try:
        for pause in _PAUSES_S:
            await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    answer = await pool.post(url, {}, data)
                answer.close()
                if 200 <= answer.status < 300:
                    return
                last = f"status {answer.status}"
            except (BrokenAnswer, CannotConnect, TimeoutError, OSError, ValueError) as error:
                last = str(error) or type(error).__name__
    finally:
        await pool.close()
    raise UpstreamError(f"the webhook did not take it: {last}")
