"""The bodies of /v1/indexes: bytes → what is asked, or a 400 that names the field.

A filter is one of `{"field": F, "eq": V}` (or ne, lt, le, gt, ge, prefix), `{"field": F, "in":
[...]}`, `{"all": [...]}`, `{"any": [...]}`, `{"not": {...}}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.errors import InvalidParameter
from headrace.types import (
    CitationPolicy,
    IndexSpec,
    Integrity,
    Message,
    NewDocument,
    Role,
    SamplingParams,
    TextPart,
)
from headrace.types.retrieval import (
    AllOf,
    AnyOf,
    Compare,
    Filter,
    Not,
    OneOf,
    Scalar,
    SearchMode,
    Where,
)
from headrace.wire.json_body import Fields, array_at, object_at, one_of, parse, shown, string_at
from headrace.wire.openai_chat import decode_deadline, decode_end_user

MAX_DOCUMENTS = 1000
MAX_KEYS = 1000
MAX_KEY = 1024
MAX_K = 1000
FORM_FIELDS = ("readers", "metadata")
MAX_QUERY = 32_768
_DEPTH = 16
_MAX_VALUES = 1000
_MAX_READERS = 1000
_INTEGRITY = (Integrity.UNTRUSTED.value, Integrity.USER.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """A decoded question to an index."""

    query: str
    k: int = 10
    mode: SearchMode = SearchMode.HYBRID
    filter: Filter | None = None
    principals: frozenset[str] | None = None
    """Whose eyes it is to be searched with; None = the caller's own."""
    rerank: bool = True
    deadline_s: float | None = None
    end_user: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """A decoded question that is to be answered."""

    messages: tuple[Message, ...]
    sampling: SamplingParams
    model: str = ""
    stream: bool = False
    k: int | None = None
    budget_tokens: int | None = None
    policy: CitationPolicy | None = None
    escalate: str = ""
    """The model that is asked where the answer fails; of policy escalate."""
    filter: Filter | None = None
    principals: frozenset[str] | None = None
    deadline_s: float | None = None
    end_user: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sync:
    """A decoded wish to be brought up to date."""

    source: str = ""
    """Empty = all."""
    only: tuple[str, ...] | None = None
    """Items of it; None = all."""


def decode_create(body: bytes) -> IndexSpec:
    """POST /v1/indexes. Raises: UserError."""
    fields = parse(body)
    plain = IndexSpec(name="")

    def tokens(name: str, low: int, high: int) -> int:
        return _or(fields.integer(name, low=low, high=high), getattr(plain, name))

    spec = IndexSpec(
        name=fields.required_string("name", max_chars=256),
        embedder=fields.string("embedder", max_chars=256) or "",
        shared=fields.boolean("shared"),
        chunk_tokens=tokens("chunk_tokens", 16, 8192),
        overlap_tokens=_or(
            fields.integer("overlap_tokens", low=0, high=4096), plain.overlap_tokens
        ),
        parent_tokens=tokens("parent_tokens", 0, 65_536),
        policy=_policy(fields) or plain.policy,
        model=fields.string("model", max_chars=256) or "",
        budget_tokens=tokens("budget_tokens", 0, 1_000_000),
        k=tokens("k", 1, MAX_K),
    )
    fields.close()
    return spec


def decode_documents(body: bytes) -> tuple[NewDocument, ...]:
    """POST /v1/indexes/NAME/documents as JSON. Raises: UserError."""
    fields = parse(body)
    items = fields.array("documents")
    if not items:
        raise InvalidParameter(
            "`documents` is missing or empty; send a list of objects with `id` and `text`",
            param="documents",
        )
    if len(items) > MAX_DOCUMENTS:
        raise InvalidParameter(
            f"`documents` has {len(items)} entries, more than {MAX_DOCUMENTS}; send several "
            "requests",
            param="documents",
        )
    found = tuple(_document(object_at(item, f"documents[{at}]")) for at, item in enumerate(items))
    fields.close()
    return found


def decode_file(id: str, filename: str, data: bytes, form: Mapping[str, str]) -> NewDocument:
    """A file of a form, whose `readers` and `metadata`, as JSON, are of all its files.

    Raises: UserError.
    """
    spelled = ", ".join(f'"{name}": {form.get(name) or "null"}' for name in FORM_FIELDS)
    fields = parse(f"{{{spelled}}}".encode(), what="`readers` or `metadata` of the form")
    made = NewDocument(
        id=id,
        data=data,
        filename=filename,
        readers=_readers(fields, "readers"),
        metadata=_metadata(fields),
    )
    fields.close()
    return made


def decode_search(body: bytes) -> Search:
    """POST /v1/indexes/NAME/search. Raises: UserError."""
    fields = parse(body)
    mode = fields.string("mode") or SearchMode.HYBRID.value
    search = Search(
        query=_question(fields, "query"),
        k=_or(fields.integer("k", low=1, high=MAX_K), 10),
        mode=SearchMode(one_of(mode, "mode", [item.value for item in SearchMode])),
        filter=_filter(fields),
        principals=_readers(fields, "principals"),
        rerank=fields.boolean("rerank", default=True),
        deadline_s=decode_deadline(fields),
        end_user=decode_end_user(fields),
    )
    fields.close()
    return search


def decode_ask(body: bytes) -> Ask:
    """POST /v1/indexes/NAME/answer. Raises: UserError."""
    fields = parse(body)
    sampling = SamplingParams(
        max_tokens=fields.integer("max_tokens", low=1, high=1_000_000),
        temperature=_or(fields.number("temperature", low=0, high=2), 0.0),
        seed=fields.integer("seed", low=-(2**63), high=2**63 - 1),
    )
    ask = Ask(
        messages=(Message(role=Role.USER, parts=(TextPart(text=_question(fields, "question")),)),),
        sampling=sampling,
        model=fields.string("model", max_chars=256) or "",
        stream=fields.boolean("stream"),
        k=fields.integer("k", low=1, high=MAX_K),
        budget_tokens=fields.integer("budget_tokens", low=1, high=1_000_000),
        policy=_policy(fields),
        escalate=fields.string("escalate", max_chars=256) or "",
        filter=_filter(fields),
        principals=_readers(fields, "principals"),
        deadline_s=decode_deadline(fields),
        end_user=decode_end_user(fields),
    )
    fields.close()
    return ask


def decode_sync(body: bytes) -> Sync:
    """POST /v1/indexes/NAME/sync. Raises: UserError."""
    if not body.strip():
        return Sync()
    fields = parse(body)
    source = fields.string("source", max_chars=256) or ""
    items = fields.array("only")
    fields.close()
    if items is None:
        return Sync(source=source)
    if not source:
        raise InvalidParameter("`only` has items of one source; name it: `source`", param="only")
    return Sync(source=source, only=decode_keys(items, "only"))


def decode_keys(items: Sequence[Any], path: str) -> tuple[str, ...]:
    """Items of a source, as it names them. Raises: UserError."""
    if not 0 < len(items) <= MAX_KEYS:
        raise InvalidParameter(
            f"`{path}` has {len(items)} entries; it takes 1 to {MAX_KEYS}", param=path
        )
    return tuple(dict.fromkeys(decode_key(item, f"{path}[{at}]") for at, item in enumerate(items)))


def decode_key(item: object, path: str) -> str:
    """One of them. Raises: UserError."""
    key = string_at(item, path, max_chars=MAX_KEY)
    if not key or "\0" in key:
        raise InvalidParameter(
            f"`{path}` is {shown(key)}; it takes the item's path or address, without NUL",
            param=path,
        )
    return key


def decode_filter(value: object, path: str = "filter") -> Filter:
    """Raises: UserError."""
    return _filter_at(value, path, _DEPTH)


def _document(fields: Fields) -> NewDocument:
    text = fields.string("text")
    if text is None:
        raise InvalidParameter(
            f"`{fields.at('text')}` is missing; send a string", param=fields.at("text")
        )
    integrity = fields.string("integrity") or Integrity.UNTRUSTED.value
    made = NewDocument(
        id=fields.required_string("id", max_chars=1024),
        data=text.encode("utf-8"),
        media_type=fields.string("media_type", max_chars=256) or "",
        title=fields.string("title", max_chars=1024) or "",
        modified_s=_or(fields.number("modified_at", low=0, high=1e11), 0.0),
        readers=_readers(fields, "readers"),
        integrity=Integrity(one_of(integrity, fields.at("integrity"), _INTEGRITY)),
        metadata=_metadata(fields),
    )
    fields.close()
    return made


def _question(fields: Fields, name: str) -> str:
    text = fields.required_string(name, max_chars=MAX_QUERY)
    if not text.strip():
        raise InvalidParameter(f"`{name}` is blank; ask something", param=name)
    return text


def _policy(fields: Fields) -> CitationPolicy | None:
    given = fields.string("policy")
    if given is None:
        return None
    return CitationPolicy(
        one_of(given, fields.at("policy"), [item.value for item in CitationPolicy])
    )


def _readers(fields: Fields, name: str) -> frozenset[str] | None:
    items = fields.array(name)
    if items is None:
        return None
    path = fields.at(name)
    if len(items) > _MAX_READERS:
        raise InvalidParameter(
            f"`{path}` has {len(items)} entries, more than {_MAX_READERS}", param=path
        )
    return frozenset(
        string_at(item, f"{path}[{at}]", max_chars=256) for at, item in enumerate(items)
    )


def _metadata(fields: Fields) -> dict[str, Scalar]:
    given = fields.mapping("metadata") or {}
    path = fields.at("metadata")
    return {name: _scalar(value, f"{path}.{name[:80]}") for name, value in given.items()}


def _filter(fields: Fields) -> Filter | None:
    value = fields.take("filter")
    return None if value is None else decode_filter(value, fields.at("filter"))


def _filter_at(value: object, path: str, depth: int) -> Filter:
    if not depth:
        raise InvalidParameter(f"`{path}` is nested deeper than {_DEPTH}", param=path)
    fields = object_at(value, path)
    for name, kind in (("all", AllOf), ("any", AnyOf)):
        several = fields.array(name)
        if several is not None:
            fields.close()
            return kind(filters=_filters(several, f"{path}.{name}", depth))
    negated = fields.take("not")
    if negated is not None:
        fields.close()
        return Not(filter=_filter_at(negated, f"{path}.not", depth - 1))
    return _comparison(fields, path)


def _filters(items: Sequence[Any], path: str, depth: int) -> tuple[Filter, ...]:
    if not 0 < len(items) <= _MAX_VALUES:
        raise InvalidParameter(
            f"`{path}` has {len(items)} entries; it takes 1 to {_MAX_VALUES}", param=path
        )
    return tuple(_filter_at(item, f"{path}[{at}]", depth - 1) for at, item in enumerate(items))


def _comparison(fields: Fields, path: str) -> Filter:
    field = fields.required_string("field", max_chars=256)
    several = fields.take("in")
    found = [
        (compare, value) for compare in Compare if (value := fields.take(compare.value)) is not None
    ]
    fields.close()
    if (several is not None) + len(found) != 1:
        known = ", ".join([*(item.value for item in Compare), "in"])
        raise InvalidParameter(f"`{path}` must have exactly one of {known}", param=path)
    if several is not None:
        items = array_at(several, f"{path}.in")
        if not 0 < len(items) <= _MAX_VALUES:
            raise InvalidParameter(
                f"`{path}.in` has {len(items)} entries; it takes 1 to {_MAX_VALUES}",
                param=f"{path}.in",
            )
        values = tuple(_scalar(item, f"{path}.in[{at}]") for at, item in enumerate(items))
        return OneOf(field=field, values=values)
    [(compare, value)] = found
    value = _scalar(value, f"{path}.{compare.value}")
    if compare is Compare.PREFIX and not isinstance(value, str):
        raise InvalidParameter(f"`{path}.prefix` must be a string", param=f"{path}.prefix")
    return Where(field=field, compare=compare, value=value)


def _scalar(value: object, path: str) -> Scalar:
    if isinstance(value, str | bool | int | float):
        return value
    raise InvalidParameter(
        f"`{path}` is {shown(value)}; it takes a string, a number, true or false", param=path
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
