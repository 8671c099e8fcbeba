"""What every data route does first: read the body, find the model, tell the flight of it."""

from headrace.errors import ModelNotFound, UnsupportedParameter
from headrace.gateway.codec import TextCodec
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange
from headrace.gateway.services import Served, ServedEmbedder, Services
from headrace.types import Caller, CompletionBackend, ModelCard


def find(services: Services, name: str, caller: Caller) -> Served:
    """The model of that name.

    Raises:
        ModelNotFound: There is none that this caller may use; it lists those that are.
    """
    served = services.models.get(name) if may_use(caller, name) else None
    if served is None and name in services.embedders and may_use(caller, name):
        raise UnsupportedParameter(
            f"the model {name!r} makes vectors; send it to /v1/embeddings", param="model"
        )
    if served is None:
        known = ", ".join(model for model in services.models if may_use(caller, model)) or "none"
        shown = name if len(name) <= 80 else name[:80] + "…"
        raise ModelNotFound(
            f"the model {shown!r} is not served here; there is: {known}", param="model"
        )
    return served


def find_embedder(services: Services, name: str, caller: Caller) -> ServedEmbedder:
    """The model of that name that makes vectors.

    Raises:
        ModelNotFound: There is none that this caller may use; it lists those that are.
        UnsupportedParameter: A model that answers conversations.
    """
    served = services.embedders.get(name) if may_use(caller, name) else None
    if served is None:
        known = ", ".join(key for key in services.embedders if may_use(caller, key)) or "none"
        if name in services.models and may_use(caller, name):
            raise UnsupportedParameter(
                f"the model {name!r} makes no vectors; models that do: {known}", param="model"
            )
        shown = name if len(name) <= 80 else name[:80] + "…"
        raise ModelNotFound(
            f"the model {shown!r} is not served here; models that make vectors: {known}",
            param="model",
        )
    return served


def cards(services: Services, caller: Caller) -> list[ModelCard]:
    """Of every model that this caller may use, those that make vectors last."""
    found = [served.card for name, served in services.models.items() if may_use(caller, name)]
    for name, served in services.embedders.items():
        if may_use(caller, name):
            card = served.embedder.card
            found.append(
                ModelCard(
                    name=card.name,
                    context_tokens=card.max_tokens,
                    created_s=card.created_s,
                    fingerprint=card.fingerprint,
                )
            )
    return found


def may_use(caller: Caller, name: str) -> bool:
    """Whether a key is scoped to this model, or to none."""
    return not caller.models or name in caller.models


def name_flight(
    flight: Flight, served: Served, *, streamed: bool = False, end_user: str = ""
) -> None:
    """What the flight's record says of the call."""
    flight.model = served.card.name
    flight.streamed = streamed
    flight.end_user = end_user


async def read_body(services: Services, exchange: Exchange) -> bytes:
    """The whole body, within the limits of bytes and seconds."""
    limits = services.limits
    return await exchange.body(max_bytes=limits.max_body_bytes, timeout_s=limits.body_s)


def need_codec(served: Served) -> TextCodec:
    """The text side of a model whose tokens are ours to see.

    Raises: UnsupportedParameter for one that a provider serves.
    """
    if served.codec is None:
        raise UnsupportedParameter(
            f"the model {served.card.name!r} is a provider's, which shows no tokens",
            param="model",
        )
    return served.codec


def need_completions(served: Served) -> CompletionBackend:
    """The raw-prompt side of a model.

    Raises: UnsupportedParameter for one that answers conversations only.
    """
    if served.completions is None:
        raise UnsupportedParameter(
            f"the model {served.card.name!r} answers conversations only; send it to "
            "/v1/chat/completions",
            param="model",
        )
    return served.completions
