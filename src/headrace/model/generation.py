"""`generation_config.json` → the sampling defaults that a checkpoint's makers recommend.

Invariant: None means the file is silent, so that a server's own default applies; a value out of
range is an error and never clipped. Loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import CheckpointError
from headrace.model.config import token_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationDefaults:
    """What to sample with where a request does not say; None = no recommendation."""

    temperature: float | None = None
    """0 where the file says `do_sample: false`."""
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    eos_token_ids: tuple[int, ...] = ()

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "GenerationDefaults":
        """Parse a `generation_config.json`.

        Raises:
            CheckpointError: A value of the wrong type or out of range.
        """
        temperature = _number(hf, "temperature", 0.0, 100.0)
        top_k = hf.get("top_k")
        if top_k is not None and (
            isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 0
        ):
            raise CheckpointError(f"generation_config.json: top_k {top_k!r} is not an integer >= 0")
        return cls(
            temperature=0.0 if hf.get("do_sample") is False else temperature,
            top_p=_number(hf, "top_p", 0.0, 1.0),
            top_k=top_k,
            min_p=_number(hf, "min_p", 0.0, 1.0),
            repetition_penalty=_number(hf, "repetition_penalty", 1e-6, 100.0),
            eos_token_ids=token_ids(hf, "eos_token_id", file="generation_config.json"),
        )

    def to_hf(self) -> dict[str, Any]:
        """The `generation_config.json` of these defaults."""
        names = ("top_p", "top_k", "min_p", "repetition_penalty")
        hf: dict[str, Any] = {
            name: getattr(self, name) for name in names if getattr(self, name) is not None
        }
        if self.temperature == 0:
            hf["do_sample"] = False
        elif self.temperature is not None:
            hf |= {"do_sample": True, "temperature": self.temperature}
        if self.eos_token_ids:
            hf["eos_token_id"] = list(self.eos_token_ids)
        return hf


def _number(hf: Mapping[str, Any], key: str, low: float, high: float) -> float | None:
    value = hf.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise CheckpointError(
            f"generation_config.json: {key} {value!r} is not a number between {low:g} and {high:g}"
        )
    return float(value)
