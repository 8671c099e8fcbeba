"""How each route of the application might be made to tell one team of another.

`CASES` has an entry for every route of the data plane and of the control plane: a route that is
not in it fails the test, and so does an entry whose route is gone. A new route needs a line here:
which resource it can name (make one in `isolation_world`), and where the name goes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

PATH = ""
"""Where the id goes by default: into the path's one template name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One way to ask a route."""

    of: str = ""
    """Kind of resource that it names, of a victim; empty = it names none, and must show none."""
    body: Callable[[str], Any] | None = None
    query: Callable[[str], Mapping[str, str]] | None = None
    form: bool = False
    """The body goes as a form with a file."""
    wide: bool = False
    """An administrator of the organization may see it too, as the control plane's."""
    taken: bool = False
    """Names are the whole installation's: taking one that is taken says that, and nothing else."""


def named(of: str, *, wide: bool = False) -> Probe:
    """A probe by an id in the path."""
    return Probe(of=of, wide=wide)


def control(of: str, body: Callable[[str], Any] | None = None, **more: Any) -> Probe:
    """One of the control plane, where an administrator's reach is its organization."""
    return Probe(of=of, body=body, wide=True, **more)


def _chat(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def _input(id: str) -> dict[str, Any]:
    return {"input_file_id": id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}


def _text(text: str) -> dict[str, Any]:
    return {"model": "m", "prompt": "hi"}


def _limit(scope: str) -> Callable[[str], Any]:
    return lambda id: {
        "scope": scope,
        "subject": id,
        "amount": 1,
        "unit": "requests",
        "window": "day",
    }


LIST = Probe()
_WORK = Probe(body=_chat)

DATA: Mapping[tuple[str, str], tuple[Probe, ...]] = {
    ("POST", "/v1/chat/completions"): (_WORK,),
    ("POST", "/v1/completions"): (Probe(body=_text),),
    ("POST", "/v1/embeddings"): (Probe(body=lambda _: {"model": "m", "input": "hi"}),),
    ("POST", "/v1/responses"): (
        Probe(body=lambda _: {"model": "m", "input": "hi"}),
        Probe(
            of="response",
            body=lambda id: {"model": "m", "input": "what did I say?", "previous_response_id": id},
        ),
    ),
    ("GET", "/v1/responses/{id}"): (named("response"),),
    ("DELETE", "/v1/responses/{id}"): (named("response"),),
    ("GET", "/v1/responses/{id}/input_items"): (named("response"),),
    ("POST", "/v1/messages"): (Probe(body=lambda _: {**_chat(""), "max_tokens": 5}),),
    ("POST", "/v1/messages/count_tokens"): (_WORK,),
    ("POST", "/v1/batches"): (Probe(of="batch_file", body=_input), Probe(of="file", body=_input)),
    ("GET", "/v1/batches"): (LIST, Probe(of="batch", query=lambda id: {"after": id})),
    ("GET", "/v1/batches/{batch}"): (named("batch"),),
    ("POST", "/v1/batches/{batch}/cancel"): (named("batch"),),
    ("POST", "/v1/files"): (Probe(body=lambda _: {"purpose": "user_data"}, form=True),),
    ("GET", "/v1/files"): (LIST, Probe(of="file", query=lambda id: {"after": id})),
    ("GET", "/v1/files/{file}"): (named("file"), named("batch_file")),
    ("DELETE", "/v1/files/{file}"): (named("file"), named("batch_file")),
    ("GET", "/v1/files/{file}/content"): (named("file"), named("batch_file")),
    ("POST", "/v1/indexes"): (Probe(body=lambda _: {"name": "own"}),),
    ("GET", "/v1/indexes"): (LIST,),
    ("GET", "/v1/indexes/{index}"): (named("index"),),
    ("DELETE", "/v1/indexes/{index}"): (named("index"),),
    ("POST", "/v1/indexes/{index}/documents"): (
        Probe(of="index", body=lambda id: {"documents": [{"id": id, "text": "x"}]}),
    ),
    ("GET", "/v1/indexes/{index}/documents"): (
        named("index"),
        Probe(of="index", query=lambda _: {"after": "a"}),
    ),
    ("GET", "/v1/indexes/{index}/documents/{document:path}"): (named("index"),),
    ("DELETE", "/v1/indexes/{index}/documents/{document:path}"): (named("index"),),
    ("POST", "/v1/indexes/{index}/sync"): (Probe(of="index", body=lambda _: {}),),
    ("POST", "/v1/indexes/{index}/webhook"): (
        Probe(
            of="index",
            body=lambda _: {"source": "docs", "events": [{"type": "changed", "key": "a.md"}]},
        ),
    ),
    ("POST", "/v1/indexes/{index}/search"): (
        Probe(of="index", body=lambda _: {"query": "the secret"}),
        Probe(of="index", body=lambda _: {"query": "the secret", "principals": ["team:blue"]}),
    ),
    ("POST", "/v1/indexes/{index}/answer"): (
        Probe(of="index", body=lambda _: {"question": "what is the secret?", "model": "m"}),
    ),
    ("GET", "/v1/models"): (LIST,),
    ("GET", "/v1/models/{model:path}"): (named("key"),),  # of models there are everybody's only
    ("POST", "/tokenize"): (Probe(body=_text),),
    ("POST", "/detokenize"): (Probe(body=lambda _: {"model": "m", "tokens": [104]}),),
    ("POST", "/render"): (_WORK,),
    ("GET", "/v1/requests/{id}/explain"): (named("request", wide=True),),
    ("GET", "/metrics"): (LIST,),
}

ADMIN: Mapping[tuple[str, str], tuple[Probe, ...]] = {
    ("GET", "whoami"): (LIST,),
    ("GET", "orgs"): (control(""),),
    ("POST", "orgs"): (Probe(body=lambda _: {"id": "acme2"}),),
    ("GET", "teams"): (control(""),),
    ("POST", "teams"): (
        control("org", lambda id: {"id": "team-of-mine", "org": id}),
        control("team", lambda id: {"id": id, "org": "acme"}, taken=True),
    ),
    ("GET", "users"): (control(""),),
    ("POST", "users"): (
        control("team", lambda id: {"id": "friend-of-mine", "team": id}),
        control("user", lambda id: {"id": id, "team": "red"}, taken=True),
    ),
    ("PATCH", "users/{id}"): (
        control("user", lambda _: {"disabled": True}),
        control("user", lambda _: {"team": "red"}),
    ),
    ("GET", "sessions"): (control(""),),
    ("DELETE", "sessions/{id}"): (control("session"),),
    ("GET", "keys"): (control(""),),
    ("POST", "keys"): (
        control("team", lambda id: {"team": id}),
        control("user", lambda id: {"team": "red", "user": id}),
    ),
    ("POST", "keys/{id}/rotate"): (control("key", lambda _: {}),),
    ("DELETE", "keys/{id}"): (control("key"),),
    ("GET", "limits"): (control(""),),
    ("POST", "limits"): (
        control("team", _limit("team")),
        control("key", _limit("key")),
        control("user", _limit("user")),
        control("org", _limit("org")),
        control("org", lambda id: _limit("feature")(f"{id}/x")),
    ),
    ("DELETE", "limits/{id:int}"): (control("limit"),),
    ("GET", "spend"): (control("", query=lambda _: {"by": "org,team,user,key,model"}),),
    ("GET", "forecast"): (control(""),),
    ("GET", "spend/focus"): (control(""),),
    ("GET", "audit"): (
        control(""),
        control("user", query=lambda id: {"subject": id}),
        control("key", query=lambda id: {"actor": id}),
    ),
    ("GET", "traces"): (
        control(""),
        control("request", query=lambda id: {"id": id}),
        control("key", query=lambda id: {"key": id}),
        control("team", query=lambda id: {"team": id}),
        control("org", query=lambda id: {"org": id}),
    ),
    ("DELETE", "traces"): (
        control("request", query=lambda id: {"id": id}),
        control("key", query=lambda id: {"key": id}),
        control("team", query=lambda id: {"team": id}),
        control("org", query=lambda id: {"org": id}),
    ),
    ("DELETE", "texts"): (
        control("request", query=lambda id: {"id": id}),
        control("key", query=lambda id: {"key": id, "files": "1"}),
        control("team", query=lambda id: {"team": id}),
        control("org", query=lambda id: {"org": id}),
    ),
    ("GET", "traces/policies"): (control(""),),
    ("POST", "traces/policies"): (
        control("team", lambda id: {"scope": "team", "subject": id, "retention_days": 1}),
        control("org", lambda id: {"scope": "org", "subject": id, "retention_days": 1}),
    ),
    ("GET", "ledger/verify"): (LIST,),
    ("GET", "config"): (LIST,),
}
