"""Settings → where the prices of each provider come from, and what one's own tokens cost.

`genai-prices` is imported where it is needed first, as in `prices`.
"""

import ipaddress
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from urllib.parse import urlsplit

from headrace.config import PricingSettings, ProviderSettings
from headrace.errors import ConfigError
from headrace.gateway.price import Price, Rate
from headrace.gateway.prices import OWN, nanousd

_BY_KIND = {
    "openai": "openai",
    "azure": "azure",
    "anthropic": "anthropic",
    "gemini": "google",
    "vertex": "google",
    "bedrock": "aws",
}


def sources(providers: Mapping[str, ProviderSettings]) -> dict[str, str]:
    """Provider -> `own`, a provider in `genai-prices`, or empty where nobody knows.

    Raises: ConfigError for a name that is not in its table.
    """
    return {name: _source(name, settings) for name, settings in providers.items()}


def own_price(settings: PricingSettings) -> Price:
    """What tokens of one's own engine cost. Raises: ConfigError."""
    gpu, kv = _rate("gpu_hour", settings.gpu_hour), _rate("kv_gib_hour", settings.kv_gib_hour)
    fresh, output = _rate("input", settings.input), _rate("output", settings.output)
    cached = _rate("cached", settings.cached) if settings.cached else fresh
    if (gpu or kv) and not (fresh and output):
        raise ConfigError(
            "pricing.gpu_hour and kv_gib_hour need pricing.input and output too: what a request "
            "may cost at most must be known before it runs, so that a budget can hold it"
        )
    return Price(
        (Rate(input=fresh, cached=cached, written=fresh, output=output),),
        gpu_hour_nanousd=gpu,
        kv_gib_hour_nanousd=kv,
    )


def _source(name: str, settings: ProviderSettings) -> str:
    chosen = settings.prices
    if chosen == OWN:
        return OWN
    if chosen:
        from genai_prices.data_snapshot import get_snapshot

        snapshot = get_snapshot()
        known = [provider.id for provider in snapshot.providers]
        if chosen not in known:
            raise ConfigError(
                f"providers.{name}.prices = {chosen!r} is not {OWN!r} and not in the table of "
                f"genai-prices: {', '.join(known)}"
            )
        return chosen
    if settings.kind != "compatible":
        return _BY_KIND.get(settings.kind, "")
    if _is_private(settings.url):
        return OWN
    from genai_prices.data_snapshot import get_snapshot

    try:
        return get_snapshot().find_provider(None, None, settings.url).id
    except LookupError:
        return ""


def _is_private(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or "." not in host  # a name within one's own network
    return address.is_private or address.is_loopback


def _rate(name: str, text: str) -> int:
    try:
        dollars = Decimal(text)
    except InvalidOperation:
        raise ConfigError(f"pricing.{name} = {text!r} is not a number of dollars") from None
    if not dollars.is_finite() or not 0 <= dollars < 4_000_000:
        raise ConfigError(f"pricing.{name} = {text!r} is not a price")
    return nanousd(dollars)
