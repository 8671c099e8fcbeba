"""What quantizing did -> the section of a model card that says so, in Markdown.

Every number comes from the run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace import __version__
from headrace.data.manifest import SourceCount
from headrace.model.quantization import FP8, Quantization
from headrace.training.quality import Quality

CARDS = ("MODEL_CARD.md", "README.md")
"""Names a model's card may have, the first for a new one."""

_TITLE = "## Quantization"
_METHODS = {
    "rtn": "rounded to nearest",
    "gptq": "error-compensated (GPTQ, scales searched by group, fitted to the full-precision "
    "model's outputs)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the section is made from."""

    quantization: Quantization
    method: str
    texts: Sequence[SourceCount]
    calibration_tokens: int
    quality: Quality
    max_loss: float
    weight_bytes_before: int
    weight_bytes: int


def with_section(card: str, facts: Facts) -> str:
    """A card with the section at its end; an older one of the same title gives way."""
    kept = re.sub(rf"(?ms)^{_TITLE}\n.*?(?=^## |\Z)", "", card).rstrip()
    return f"{kept}\n\n{section(facts)}"


def section(facts: Facts) -> str:
    """The section."""
    made, seen = facts.quantization, facts.quality
    size = facts.weight_bytes / facts.weight_bytes_before
    scales = (
        "one scale a row (a power of two)"
        if made.format == FP8
        else f"one scale for {made.group} inputs, activations rounded to int8 alike"
    )
    calibrated = (
        f"Calibrated on {facts.calibration_tokens:,} others. " if facts.calibration_tokens else ""
    )
    return (
        "\n\n".join(
            (
                _TITLE,
                f"Made by `headrace quantize` {__version__} from the full-precision model: "
                f"{made.format}, {_METHODS[facts.method]}, {scales}. {_kept(made.kept)}",
                _table(
                    ("", "full precision", made.format),
                    (
                        (
                            "perplexity",
                            f"{seen.perplexity_before:.4f}",
                            f"{seen.perplexity_after:.4f}",
                        ),
                        ("loss, nats a token", f"{seen.loss_before:.5f}", f"{seen.loss_after:.5f}"),
                        ("KL to full precision, mean", "0", f"{seen.kl_mean:.2e}"),
                        ("KL to full precision, 99th percentile", "0", f"{seen.kl_p99:.2e}"),
                        ("same likeliest token", "100 %", f"{seen.same_choice:.2%}"),
                        (
                            "weights, bytes",
                            f"{facts.weight_bytes_before:,}",
                            f"{facts.weight_bytes:,} ({size:.0%})",
                        ),
                    ),
                ),
                f"Measured on {seen.tokens:,} held-out tokens in the arithmetic that serves; "
                f"allowed was a loss increase of {facts.max_loss:g}. {calibrated}The texts:",
                _table(
                    ("source", "licence", "documents", "bytes", "SHA-256 of ids and texts"),
                    [
                        (
                            row.source,
                            row.licence,
                            f"{row.documents:,}",
                            f"{row.text_bytes:,}",
                            f"`{row.sha256}`",
                        )
                        for row in facts.texts
                    ],
                ),
            )
        )
        + "\n"
    )


def _kept(kept: Mapping[str, str]) -> str:
    if not kept:
        return "Every matrix is quantized; norms and biases are not."
    names = ", ".join(f"`{name}` in {format}" for name, format in kept.items())
    return f"Otherwise kept: {names}; norms and biases in bfloat16."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
