"""The sampling fields that chat and raw completions share become `SamplingParams`.

OpenAI's names and limits, vLLM's names for what OpenAI lacks. `given` names the fields that the
caller set, so that a model's own defaults may fill the others.

| field | limits |
|---|---|
| temperature | 0..2 |
| top_p | above 0, to 1 |
| top_k | 0 (off, as is -1) to 2^31-1 |
| min_p | 0..1 |
| frequency_penalty, presence_penalty | -2..2 |
| repetition_penalty | above 0, to 10 |
| logit_bias | token id (as a string) to -100..100 |
| seed | 64-bit signed |
| n | 1..128 |
| min_tokens | 0..2^31-1, not above max_tokens |
| stop | a string or up to 16, each of 1..1024 characters |
| stop_token_ids | up to 256 |
| prompt_logprobs | 0..20 |
"""

from typing import Any

from headrace.errors import InvalidParameter
from headrace.types import SamplingParams
from headrace.wire.json_body import (
    MAX_TOKEN_ID,
    Fields,
    array_at,
    integer_at,
    number_at,
    shown,
    string_at,
)

MAX_TOKENS = 2**31 - 1
MAX_CHOICES = 128
MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_STOP_IDS = 256
MAX_TOP_LOGPROBS = 20
_SHARED = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "logit_bias",
        "seed",
        "n",
        "min_tokens",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "include_stop_str_in_output",
        "prompt_logprobs",
    }
)
"""What `decode_sampling` takes."""


def decode_sampling(
    fields: Fields, *, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """Take the shared fields; `max_tokens` and `logprobs` differ between the routes.

    Raises:
        InvalidParameter: A wrong type or a value outside the limits above.
    """
    if fields.take_absent(_SHARED):  # most requests set none of them
        alone = {"max_tokens": max_tokens, "logprobs": logprobs}
        set_ = frozenset(name for name, value in alone.items() if value is not None)
        return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, given=set_)
    found: dict[str, Any] = {
        "temperature": fields.number("temperature", low=0, high=2),
        "top_p": fields.number("top_p", low=0, high=1, above=True),
        "top_k": _top_k(fields),
        "min_p": fields.number("min_p", low=0, high=1),
        "frequency_penalty": fields.number("frequency_penalty", low=-2, high=2),
        "presence_penalty": fields.number("presence_penalty", low=-2, high=2),
        "repetition_penalty": fields.number("repetition_penalty", low=0, high=10, above=True),
        "logit_bias": _logit_bias(fields),
        "seed": fields.integer("seed", low=-(2**63), high=2**63 - 1),
        "n": fields.integer("n", low=1, high=MAX_CHOICES),
        "max_tokens": max_tokens,
        "min_tokens": fields.integer("min_tokens", low=0, high=MAX_TOKENS),
        "stop": _stop(fields),
        "stop_token_ids": _stop_token_ids(fields),
        "ignore_eos": _boolean(fields, "ignore_eos"),
        "include_stop": _boolean(fields, "include_stop_str_in_output"),
        "logprobs": logprobs,
        "prompt_logprobs": fields.integer("prompt_logprobs", low=0, high=MAX_TOP_LOGPROBS),
    }
    given = {name: value for name, value in found.items() if value is not None}
    min_tokens = given.get("min_tokens", 0)
    if max_tokens is not None and min_tokens > max_tokens:
        raise InvalidParameter(
            f"`min_tokens` {min_tokens} exceeds `max_tokens` {max_tokens}; lower it",
            param="min_tokens",
        )
    return SamplingParams(**given, given=frozenset(given))


def decode_logprobs(fields: Fields) -> int | None:
    """Chat's pair `logprobs` (on or off) and `top_logprobs` (how many rivals)."""
    wanted = fields.boolean("logprobs")
    top = fields.integer("top_logprobs", low=0, high=MAX_TOP_LOGPROBS)
    if not wanted and top:
        raise InvalidParameter(f"`top_logprobs` {top} needs `logprobs`: true", param="top_logprobs")
    return (top or 0) if wanted else None


def token_ids_at(value: object, path: str) -> tuple[int, ...]:
    """A list of token ids."""
    return tuple(
        integer_at(item, f"{path}[{at}]", low=0, high=MAX_TOKEN_ID)
        for at, item in enumerate(array_at(value, path))
    )


def _boolean(fields: Fields, name: str) -> bool | None:
    return None if fields.take(name) is None else fields.boolean(name)


def _top_k(fields: Fields) -> int | None:
    top_k = fields.integer("top_k", low=-1, high=MAX_TOKEN_ID)
    return 0 if top_k == -1 else top_k


def _stop(fields: Fields) -> tuple[str, ...] | None:
    value = fields.take("stop")
    if value is None:
        return None
    listed = (
        [(value, "stop")]
        if isinstance(value, str)
        else [(item, f"stop[{at}]") for at, item in enumerate(array_at(value, "stop"))]
    )
    if len(listed) > MAX_STOPS:
        raise InvalidParameter(
            f"`stop` has {len(listed)} strings; the limit is {MAX_STOPS}", param="stop"
        )
    stops = tuple(string_at(item, path, max_chars=MAX_STOP_CHARS) for item, path in listed)
    for text, (_, path) in zip(stops, listed, strict=True):
        if not text:
            raise InvalidParameter(
                f"`{path}` is empty; a stop string needs a character", param=path
            )
    return stops


def _stop_token_ids(fields: Fields) -> tuple[int, ...] | None:
    value = fields.take("stop_token_ids")
    if value is None:
        return None
    ids = token_ids_at(value, "stop_token_ids")
    if len(ids) > MAX_STOP_IDS:
        raise InvalidParameter(
            f"`stop_token_ids` has {len(ids)} ids; the limit is {MAX_STOP_IDS}",
            param="stop_token_ids",
        )
    return ids


def _logit_bias(fields: Fields) -> tuple[tuple[int, float], ...] | None:
    found = fields.mapping("logit_bias")
    if found is None:
        return None
    biases: dict[int, float] = {}
    for key, value in found.items():
        path = f"logit_bias.{key[:32]}"
        if not (key.isascii() and key.isdigit() and len(key) <= 10) or int(key) > MAX_TOKEN_ID:
            raise InvalidParameter(
                f"`logit_bias` key {shown(key)} is not a token id; send ids as strings of digits",
                param=path,
            )
        if int(key) in biases:
            raise InvalidParameter(f"`logit_bias` names token {int(key)} twice", param=path)
        biases[int(key)] = number_at(value, path, low=-100, high=100)
    return tuple(biases.items())
