"""What quantizing costs: perplexity and divergence, rounded and calibrated, on held-out text.

python bench/quantization.py --model DIR --texts DIR --held-out NAME=PATH --out FILE.json

Calibrates on documents of --texts that `headrace train sprout` trains on. Measures on those it sets
aside, and on all of every --held-out. Losses are nats a token in the arithmetic that serves, int8
activations included. The last lines say how issue 3's bars stand; exit code 1 where one is missed.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.bench.results import write_result
from headrace.data import sources
from headrace.data.pack import PackedBatch
from headrace.model import checkpoint
from headrace.model.calibrate import quantize_calibrated
from headrace.model.decoder import Decoder
from headrace.model.quantization import Keep
from headrace.model.quantized import plan, quantize_decoder
from headrace.tokens import Tokenizer
from headrace.training.quality import Quality, baseline, compare
from headrace.training.quantize import batches, text
from headrace.training.recipes.sprout import default

Sets = Mapping[str, Sequence[PackedBatch]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to quantize."""

    format: str
    method: str
    group: int = 32
    keep: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        kept = "".join(f" {rule}" for rule in self.keep)
        group = "" if self.format == "fp8" else f" g{self.group}"
        return f"{self.format}{group} {self.method}{kept}"


HEAD = ("lm_head=int8",)
VARIANTS = (
    Variant(format="int8", method="rtn"),
    Variant(format="fp8", method="rtn"),
    *(
        Variant(format="int4", method=method, group=group, keep=keep)
        for group in (32, 128)
        for keep in ((), HEAD)
        for method in ("rtn", "gptq")
    ),
)


def main() -> int:
    options = _options()
    tokenizer = Tokenizer.load(options.model)
    calibration, held = _texts(options, tokenizer)
    exact = checkpoint.load(options.model, dtype="float32").decoder
    before = {name: baseline(exact, found) for name, found in held.items()}
    measured: dict[str, dict[str, Quality]] = {}
    for variant in VARIANTS:
        decoder = _quantized(variant, options.model, calibration)
        measured[variant.name] = {name: compare(before[name], decoder) for name in held}
        for name, found in measured[variant.name].items():
            print(
                f"{variant.name:28} {name:10} perplexity {found.perplexity_before:.4f} -> "
                f"{found.perplexity_after:.4f}, loss {found.loss_increase:+.6f}, KL "
                f"{found.kl_mean:.2e}, p99 {found.kl_p99:.2e}",
                flush=True,
            )
    bars = list(_bars(measured))
    for bar in bars:
        print(bar)
    write_result(
        options.out,
        what="quantization",
        arguments={
            "model": options.model.name,
            "calibration_tokens": sum(batch.tokens for batch in calibration),
            "fingerprint": checkpoint.load(options.model).fingerprint,
        },
        result={
            "measured": {
                variant: {name: _numbers(found) for name, found in by_text.items()}
                for variant, by_text in measured.items()
            },
            "bars": [asdict(bar) for bar in bars],
        },
    )
    return 0 if all(bar.met for bar in bars) else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A claim about one text, and how it stands."""

    text: str
    claim: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "met" if self.met else "MISSED"
        return f"{verdict}: {self.text}, {self.claim}: {self.value:.4f} (limit {self.limit})"


def _bars(measured: Mapping[str, Mapping[str, Quality]]) -> Iterator[Bar]:
    for text_name, found in measured["int8 g32 rtn"].items():
        yield Bar(
            text=text_name,
            claim="int8 perplexity off full precision's, %",
            value=abs(found.perplexity_after / found.perplexity_before - 1) * 100,
            limit=0.1,
        )
    for variant in VARIANTS:
        if variant.method != "gptq":
            continue
        rounded = measured[variant.name.replace("gptq", "rtn")]
        for text_name, found in measured[variant.name].items():
            increase = max(found.loss_increase, 0.0)
            yield Bar(
                text=text_name,
                claim=f"{variant.name}, loss increase over that of rtn",
                value=increase / rounded[text_name].loss_increase,
                limit=0.5,
            )


def _quantized(variant: Variant, model: Path, calibration: Sequence[PackedBatch]) -> Decoder:
    decoder = checkpoint.load(model, dtype="float32").decoder
    keep = [Keep.parse(rule) for rule in variant.keep]
    if variant.method == "rtn":
        quantize_decoder(decoder, format=variant.format, group=variant.group, keep=keep)
    else:
        chosen = plan(decoder, format=variant.format, group=variant.group, keep=keep)
        for _ in quantize_calibrated(decoder, [text(batch) for batch in calibration], chosen):
            pass
    return decoder


def _texts(options: argparse.Namespace, tokenizer: Tokenizer) -> tuple[Sequence[PackedBatch], Sets]:
    documents = list(sources.texts(options.texts))
    aside = [
        document
        for document in documents
        if sources.is_held_out(document.id, one_in=default().held_out_one_in)
    ]
    ids = {document.id for document in aside}
    others = dict(item.split("=", 1) for item in options.held_out)
    held = {"aside": aside, **{name: sources.texts(Path(at)) for name, at in others.items()}}
    return (
        batches(
            [document for document in documents if document.id not in ids],
            tokenizer,
            row_tokens=512,
            tokens=options.calibration_tokens,
        ),
        {
            name: batches(found, tokenizer, row_tokens=512, tokens=options.tokens)
            for name, found in held.items()
        },
    )


def _numbers(found: Quality) -> dict[str, Any]:
    return {
        **asdict(found),
        "loss_increase": found.loss_increase,
        "perplexity_before": found.perplexity_before,
        "perplexity_after": found.perplexity_after,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path, required=True, help="full-precision checkpoint")
    parser.add_argument("--texts", type=Path, required=True, help="what it was trained on")
    parser.add_argument("--held-out", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--out", type=Path, required=True, help="result file; must not exist")
    parser.add_argument("--calibration-tokens", type=int, default=65_536)
    parser.add_argument("--tokens", type=int, default=32_768, help="of each held-out text")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


if __name__ == "__main__":
    sys.exit(main())
