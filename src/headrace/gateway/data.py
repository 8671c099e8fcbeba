"""The routes that need a key, all of them: a surface that is not here is not served."""

from collections.abc import Iterable

from headrace.errors import InvalidParameter
from headrace.gateway import batches, files, indexes, routes
from headrace.gateway.embeddings import embeddings
from headrace.gateway.explain import explain
from headrace.gateway.keys import within
from headrace.gateway.messages import count_tokens, messages
from headrace.gateway.responses import delete_response, get_response, input_items, responses
from headrace.gateway.scrape import metrics
from headrace.gateway.table import DataRoute, Handler, Table
from headrace.gateway.webhook import webhook


def _route(method: str, template: str, handler: Handler) -> DataRoute:
    return DataRoute(method=method, template=template, handler=handler)


DATA: tuple[DataRoute, ...] = (
    _route("POST", "/v1/chat/completions", routes.chat),
    _route("POST", "/v1/completions", routes.completions),
    _route("POST", "/v1/embeddings", embeddings),
    _route("POST", "/v1/responses", responses),
    _route("GET", "/v1/responses/{id}", get_response),
    _route("DELETE", "/v1/responses/{id}", delete_response),
    _route("GET", "/v1/responses/{id}/input_items", input_items),
    _route("POST", "/v1/messages", messages),
    _route("POST", "/v1/messages/count_tokens", count_tokens),
    _route("POST", "/v1/batches", batches.create),
    _route("GET", "/v1/batches", batches.list_batches),
    _route("GET", "/v1/batches/{batch}", batches.get_batch),
    _route("POST", "/v1/batches/{batch}/cancel", batches.cancel),
    _route("POST", "/v1/files", files.upload),
    _route("GET", "/v1/files", files.list_files),
    _route("GET", "/v1/files/{file}", files.get_file),
    _route("DELETE", "/v1/files/{file}", files.delete_file),
    _route("GET", "/v1/files/{file}/content", files.content),
    _route("POST", "/v1/indexes", indexes.create),
    _route("GET", "/v1/indexes", indexes.list_indexes),
    _route("GET", "/v1/indexes/{index}", indexes.get_index),
    _route("DELETE", "/v1/indexes/{index}", indexes.delete_index),
    _route("POST", "/v1/indexes/{index}/documents", indexes.add_documents),
    _route("GET", "/v1/indexes/{index}/documents", indexes.list_documents),
    _route("GET", "/v1/indexes/{index}/documents/{document:path}", indexes.get_document),
    _route("DELETE", "/v1/indexes/{index}/documents/{document:path}", indexes.delete_document),
    _route("POST", "/v1/indexes/{index}/sync", indexes.sync),
    _route("POST", "/v1/indexes/{index}/webhook", webhook),
    _route("POST", "/v1/indexes/{index}/search", indexes.search),
    _route("POST", "/v1/indexes/{index}/answer", indexes.answer),
    _route("GET", "/v1/models", routes.models),
    _route("GET", "/v1/models/{model:path}", routes.model),
    _route("POST", "/tokenize", routes.tokenize),
    _route("POST", "/detokenize", routes.detokenize),
    _route("POST", "/render", routes.render),
    _route("GET", "/v1/requests/{id}/explain", explain),
    _route("GET", "/metrics", metrics),
)

TABLE = Table(DATA)


ADMIN = "/v1/admin"


def check_scopes(wanted: Iterable[str]) -> None:
    """Whether a key for these paths could be used anywhere.

    Raises: InvalidParameter for a path that no route is, or lies below.
    """
    there = list(dict.fromkeys([*(route.prefix for route in DATA), ADMIN]))
    for path in wanted:
        scope = frozenset({path})
        if not any(within(prefix, scope) for prefix in there) and not within(path, {ADMIN}):
            raise InvalidParameter(
                f"the route {path[:80]!r} is none of this service; there is: {', '.join(there)}",
                param="routes",
            )
