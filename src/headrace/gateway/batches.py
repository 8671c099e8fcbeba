"""OpenAI's Batches: POST and GET /v1/batches, one batch, and its cancelling."""

import json
from typing import Any

import msgspec
from sqlalchemy import Row

from headrace.errors import NotFound
from headrace.gateway.batch_queue import BatchQueue
from headrace.gateway.calls import read_body
from headrace.gateway.file_store import need_files, owner_of
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange
from headrace.gateway.keys import check_route
from headrace.gateway.queries import read_list_query, read_query
from headrace.gateway.services import Services
from headrace.store.files import Page
from headrace.types import Caller
from headrace.wire.batch_calls import WINDOW, decode_batch
from headrace.wire.file_fields import encode_list

_MOST_LISTED = 100


async def create(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/batches."""
    read_query(exchange)
    queue = _need(services)
    call = decode_batch(await read_body(services, exchange))
    check_route(caller.key_id, caller.routes, call.endpoint)
    row = await queue.create(caller, call)
    await exchange.answer(200, msgspec.json.encode(describe(row)))


async def list_batches(
    services: Services, exchange: Exchange, flight: Flight, caller: Caller
) -> None:
    """GET /v1/batches."""
    queue = _need(services)
    asked = read_list_query(exchange, default=20, most=_MOST_LISTED)
    page = Page(limit=asked.limit, after=asked.after)
    rows, more = await queue.page(owner_of(caller), page)
    await exchange.answer(200, encode_list([describe(row) for row in rows], has_more=more))


async def get_batch(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """GET /v1/batches/{batch}."""
    read_query(exchange)
    row = await _need(services).get(exchange.params["batch"], owner_of(caller))
    await exchange.answer(200, msgspec.json.encode(describe(row)))


async def cancel(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """POST /v1/batches/{batch}/cancel."""
    read_query(exchange)
    row = await _need(services).cancel(exchange.params["batch"], owner_of(caller))
    await exchange.answer(200, msgspec.json.encode(describe(row)))


def describe(row: Row[Any]) -> dict[str, Any]:
    """A batch as OpenAI shows it."""
    errors = json.loads(row.errors) if row.errors else None
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "model": row.model or None,
        "errors": None if errors is None else {"object": "list", "data": errors},
        "input_file_id": row.input_file,
        "completion_window": WINDOW,
        "status": row.state,
        "output_file_id": row.output_file or None,
        "error_file_id": row.error_file or None,
        "created_at": row.created_s,
        "in_progress_at": row.in_progress_s,
        "expires_at": row.expires_s,
        "finalizing_at": row.finalizing_s,
        "completed_at": row.completed_s,
        "failed_at": row.failed_s,
        "expired_at": row.expired_s,
        "cancelling_at": row.cancelling_s,
        "cancelled_at": row.cancelled_s,
        "request_counts": {
            "total": row.total,
            "completed": row.completed_now,
            "failed": row.failed_now,
        },
        "usage": {
            "input_tokens": row.prompt_tokens_now,
            "input_tokens_details": {"cached_tokens": row.cached_tokens_now},
            "output_tokens": row.completion_tokens_now,
            "output_tokens_details": {"reasoning_tokens": row.reasoning_tokens_now},
            "total_tokens": row.prompt_tokens_now + row.completion_tokens_now,
        },
        "metadata": json.loads(row.metadata) if row.metadata else None,
    }


def _need(services: Services) -> BatchQueue:
    need_files(services.files)
    if services.batches is None:
        raise NotFound("batches are not served here")
    return services.batches
