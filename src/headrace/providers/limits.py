"""What a provider's protocol cannot carry is refused by name before anything is sent."""

from collections.abc import Collection

from headrace.errors import UnsupportedParameter
from headrace.types import ChatRequest, SamplingParams

_DEFAULTS = SamplingParams()
_FIELDS = (
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
    "max_tokens",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "include_stop",
    "logprobs",
    "prompt_logprobs",
)


def refuse_others(request: ChatRequest, *, api: str, carried: Collection[str]) -> None:
    """Refuse every sampling field that was set and that the API does not have."""
    sampling = request.sampling
    for name in _FIELDS:
        if name not in carried and getattr(sampling, name) != getattr(_DEFAULTS, name):
            raise UnsupportedParameter(
                f"`{name}` = {getattr(sampling, name)!r} is not supported: {api} has no such "
                "parameter; leave it out",
                param=name,
            )
    if request.template_kwargs:
        raise UnsupportedParameter(
            f"`chat_template_kwargs` is not supported: {api} has a template of its own",
            param="chat_template_kwargs",
        )


def unsupported(what: str, *, api: str, param: str, way_out: str = "leave it out") -> Exception:
    """The error for one thing that an API has not."""
    return UnsupportedParameter(
        f"`{param}` {what} is not supported by {api}; {way_out}", param=param
    )
