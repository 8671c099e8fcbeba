"""What a request may use at worst: what is asked of the ledger before it runs."""

from dataclasses import dataclass

from headrace.gateway.tariff import Tariff
from headrace.types import Caller


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """The worst that a request may use."""

    id: str
    caller: Caller
    model: str
    route: str
    batch: str = ""
    """Id of the batch that it is a line of."""
    input_tokens: int
    """The prompt, exactly; of several prompts together."""
    output_tokens: int
    """All choices together."""
    least_output: int = 1
    """With less there is no answer worth having: one token a choice."""
    tariff: Tariff
    """The prices of whatever it may ask."""
