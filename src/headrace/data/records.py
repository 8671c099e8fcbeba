"""Lines of JSON -> what tuning takes: chats, completions, preferences, ratings, prompts.

One record a line, `*.jsonl` or `*.jsonl.gz`, in the order of the file. The fields are OpenAI's and
TRL's, the messages are those of the chat API, read by the same decoder:

| reader | a line has |
|---|---|
| `chats` | `messages`, perhaps `tools` |
| `completions` | `prompt`, `completion` |
| `preferences` | `prompt` or `messages`, `chosen`, `rejected`; or the two whole conversations |
| `ratings` | `prompt`, `completion`, `label` (KTO's: true = desirable) |
| `prompts` | `prompt` or `messages` |

A prompt may be a string, which is one user turn, or messages; an answer a string, which is one
assistant turn, or messages that an assistant begins and ends. `id` and `tools` may stand in every
record. What else stands in a line is kept in `extra`, but a name that is nearly a field's is an
error, so that a slip of the pen is not read as metadata.

Invariant: a line is a whole record or a `DataError` that names file, line and field; which of the
two does not depend on other lines. Sources: OpenAI's fine-tuning guide; TRL, "Dataset formats and
types".
"""

import difflib
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from headrace.data.chat import Conversation
from headrace.errors import DataError, UserError
from headrace.types import Message, Role, ToolSpec
from headrace.wire.json_body import Fields, parse, shown
from headrace.wire.openai_messages import decode_messages, decode_tools

OnError = Callable[[DataError], None]
"""Called for each bad line, which is then skipped; without one the first bad line is raised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """What is asked, for roll-outs; a reference answer is in `extra`, under its own name."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A prompt and the answer to learn; earlier assistant turns in the prompt are not targets."""

    id: str
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Two different answers to one prompt, the better one named."""

    id: str
    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Rating:
    """One answer and whether it is a good one (KTO)."""

    id: str
    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    desirable: bool
    tools: tuple[ToolSpec, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


def chats(path: Path, *, on_error: OnError | None = None) -> Iterator[Conversation]:
    """Conversations with at least one assistant turn.

    Raises:
        DataError: As all readers here: a file that cannot be read or has no record, a bad line.
    """
    return _read(path, _chat, on_error)


def completions(path: Path, *, on_error: OnError | None = None) -> Iterator[Completion]:
    """Prompts with the answer to learn."""
    return _read(path, _completion, on_error)


def preferences(
    path: Path, *, on_error: OnError | None = None, keep_equal: bool = False
) -> Iterator[Preference]:
    """Prompts with a better and a worse answer.

    Args:
        path: The file.
        on_error: See `OnError`.
        keep_equal: Hand over two equal answers as well, to be counted; otherwise an error.
    """
    return _read(path, partial(_preference, keep_equal=keep_equal), on_error)


def ratings(path: Path, *, on_error: OnError | None = None) -> Iterator[Rating]:
    """Prompts with an answer and its label."""
    return _read(path, _rating, on_error)


def prompts(path: Path, *, on_error: OnError | None = None) -> Iterator[Prompt]:
    """Prompts alone."""
    return _read(path, _prompt_record, on_error)


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a text file, gzip or not, that are not blank, with their numbers from 1.

    Raises:
        DataError: The file cannot be read, or its gzip is damaged; the message has the line.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path} after line {number}: {error}") from error


_Record = TypeVar("_Record")


def _read(
    path: Path, make: Callable[[Fields, str], _Record], on_error: OnError | None
) -> Iterator[_Record]:
    found = 0
    for number, line in lines(path):
        found += 1
        try:
            record = make(parse(line, what="the line"), f"{path.name}:{number}")
        except (UserError, DataError) as error:
            bad = DataError(f"{path}:{number}: {error.message}", param=error.param)
            if on_error is None:
                raise bad from error
            on_error(bad)
        else:
            yield record
    if not found:
        raise DataError(f"{path} has no record; each line must be one JSON object")


def _chat(fields: Fields, place: str) -> Conversation:
    messages = decode_messages(fields.take("messages"))
    if all(message.role is not Role.ASSISTANT for message in messages):
        raise DataError("`messages` has no assistant turn, so there is nothing to learn")
    id, tools, extra = _common(fields, place, ("messages",))
    return Conversation(id=id, messages=messages, tools=tools, extra=extra)


def _completion(fields: Fields, place: str) -> Completion:
    prompt = _prompt(fields, ("prompt",))
    completion = _answer(fields, "completion")
    id, tools, extra = _common(fields, place, ("prompt", "completion"))
    return Completion(id=id, prompt=prompt, completion=completion, tools=tools, extra=extra)


def _preference(fields: Fields, place: str, *, keep_equal: bool) -> Preference:
    prompt, chosen, rejected = _sides(fields)
    id, tools, extra = _common(fields, place, ("prompt", "messages", "chosen", "rejected"))
    if chosen == rejected and not keep_equal:
        raise DataError("`chosen` and `rejected` are equal, so neither is preferred; drop the line")
    return Preference(
        id=id, prompt=prompt, chosen=chosen, rejected=rejected, tools=tools, extra=extra
    )


def _rating(fields: Fields, place: str) -> Rating:
    prompt = _prompt(fields, ("prompt",))
    completion = _answer(fields, "completion")
    label = fields.take("label")
    if not isinstance(label, bool):
        found = "missing" if label is None else f"{shown(label)}"
        raise DataError(f"`label` must be true (desirable) or false; it is {found}", param="label")
    id, tools, extra = _common(fields, place, ("prompt", "completion", "label"))
    return Rating(
        id=id, prompt=prompt, completion=completion, desirable=label, tools=tools, extra=extra
    )


def _prompt_record(fields: Fields, place: str) -> Prompt:
    messages = _prompt(fields, ("prompt", "messages"))
    id, tools, extra = _common(fields, place, ("prompt", "messages"))
    return Prompt(id=id, messages=messages, tools=tools, extra=extra)


def _common(
    fields: Fields, place: str, known: tuple[str, ...]
) -> tuple[str, tuple[ToolSpec, ...], dict[str, Any]]:
    """`id`, `tools` and what is left of the line."""
    given = fields.take("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        raise DataError(f"`id` must be a string or a number, not {shown(given)}", param="id")
    tools = decode_tools(fields)
    names = (*known, "id", "tools")
    extra = fields.rest()
    for name in extra:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
        if close:
            raise DataError(
                f"`{name}` is not a field; did you mean `{close[0]}`? Rename it otherwise",
                param=name,
            )
    return place if given is None else str(given), tools, extra


def _prompt(fields: Fields, names: tuple[str, ...]) -> tuple[Message, ...]:
    """The one of `names` that is there, as messages that wait for an answer."""
    given = [name for name in names if fields.take(name) is not None]
    if len(given) != 1:
        wanted = " or ".join(f"`{name}`" for name in names)
        raise DataError(
            f"{wanted} is missing; give a string or a list of messages"
            if not given
            else f"{' and '.join(f'`{name}`' for name in given)} are both there; keep one"
        )
    (name,) = given
    value: object = fields.take(name)
    if isinstance(value, str) and name != "messages":
        if not value.strip():
            raise DataError(f"`{name}` is empty", param=name)
        return decode_messages([{"role": "user", "content": value}], name)
    messages = decode_messages(value, name)
    if messages[-1].role is Role.ASSISTANT:
        raise DataError(
            f"`{name}` ends with an assistant turn; the answer must follow another's, "
            "so end it before",
            param=name,
        )
    return messages


def _answer(fields: Fields, name: str) -> tuple[Message, ...]:
    messages = _spoken(fields, name)
    if messages[0].role is not Role.ASSISTANT or messages[-1].role is not Role.ASSISTANT:
        raise DataError(
            f"`{name}` must begin and end with an assistant turn; it begins with "
            f"{messages[0].role} and ends with {messages[-1].role}",
            param=name,
        )
    return messages


def _spoken(fields: Fields, name: str) -> tuple[Message, ...]:
    """A string, one message or messages; a string is an assistant's."""
    value: object = fields.take(name)
    if value is None:
        raise DataError(f"`{name}` is missing; give a string or a list of messages", param=name)
    if isinstance(value, str):
        if not value.strip():
            raise DataError(f"`{name}` is empty, so there is nothing to learn", param=name)
        return decode_messages([{"role": "assistant", "content": value}], name)
    return decode_messages([value] if isinstance(value, dict) else value, name)


def _sides(
    fields: Fields,
) -> tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]:
    """(prompt, chosen, rejected), also where both sides are whole conversations."""
    chosen, rejected = _spoken(fields, "chosen"), _spoken(fields, "rejected")
    if chosen[0].role is Role.ASSISTANT and rejected[0].role is Role.ASSISTANT:
        prompt = _prompt(fields, ("prompt", "messages"))
        return prompt, _answer(fields, "chosen"), _answer(fields, "rejected")
    # Whole conversations: what they have in common up to an assistant's turn is the prompt.
    shared = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        shared += 1
    while shared and (
        shared >= min(len(chosen), len(rejected))
        or chosen[shared].role is not Role.ASSISTANT
        or rejected[shared].role is not Role.ASSISTANT
    ):
        shared -= 1
    if not shared:
        raise DataError(
            "`chosen` and `rejected` are conversations without a common beginning that an "
            "assistant answers; give the prompt in `prompt` and the answers alone"
        )
    prompt = chosen[:shared]
    for side, name in ((chosen, "chosen"), (rejected, "rejected")):
        if side[-1].role is not Role.ASSISTANT:
            raise DataError(f"`{name}` must end with an assistant turn", param=name)
    given = fields.take("prompt"), fields.take("messages")
    if given != (None, None) and _prompt(fields, ("prompt", "messages")) not in (
        prompt,
        prompt[-1:],
    ):
        raise DataError(
            "`prompt` is not how `chosen` and `rejected` begin; leave it out, or give the answers "
            "alone",
            param="prompt",
        )
    return prompt, chosen[shared:], rejected[shared:]
