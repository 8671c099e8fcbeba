"""Calibrating quantizes what it is told to, in place, and better than rounding on its texts."""

import pytest
import torch
from torch import Tensor

from headrace.model.attend import Packed
from headrace.model.calibrate import MatrixDone, Text, quantize_calibrated
from headrace.model.decoder import Decoder
from headrace.model.matrices import matrices
from headrace.model.quantization import Keep
from headrace.model.quantized import QuantizedEmbedding, QuantizedLinear, plan, quantize_decoder
from training_fixtures import VOCAB, decoder

GENERATOR = torch.Generator().manual_seed(5)


def text(tokens: int) -> Text:
    half = tokens // 2
    return Text(
        ids_T=torch.randint(0, VOCAB, (tokens,), generator=GENERATOR),
        pos_T=torch.cat((torch.arange(half), torch.arange(tokens - half))),
        doc_T=torch.arange(tokens) // half,
    )


TEXTS = [text(120), text(80)]


@torch.no_grad()
def logits(model: Decoder) -> Tensor:
    parts = [model.hidden(t.ids_T, t.pos_T, Packed(t.doc_T)) for t in TEXTS]
    return model.logits(torch.cat(parts))


def wide(*, tied: bool) -> Decoder:
    """With weights so large that layers matter."""
    made = decoder(tied=tied)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter *= 4
    return made


def calibrated(*rules: str, tied: bool = True) -> tuple[Decoder, list[MatrixDone]]:
    made = wide(tied=tied)
    keep = [Keep.parse(rule) for rule in rules]
    chosen = plan(made, format="int4", group=32, keep=keep)
    return made, list(quantize_calibrated(made, TEXTS, chosen))


@pytest.mark.parametrize("tied", [True, False])
def test_nearer_to_full_precision_than_rounding(tied: bool) -> None:
    exact, nearest = logits(wide(tied=tied)), wide(tied=tied)
    quantize_decoder(nearest, format="int4")
    made, done = calibrated(tied=tied)
    assert (logits(made) - exact).norm() < 0.5 * (logits(nearest) - exact).norm()
    assert [one.name for one in done] == ["lm_head", *list(matrices(made.config))[:-1]]
    for one in done:
        assert 0 < one.error < one.rounding_error, one.name
    assert isinstance(made.embed_tokens, QuantizedEmbedding) == tied


def test_what_is_kept_stays_or_has_its_own_format() -> None:
    made, done = calibrated("lm_head", "layers.0.self_attn", "down_proj=int8")
    full = wide(tied=True)
    assert torch.equal(made.embed_tokens.weight, full.embed_tokens.weight)
    assert made.lm_head is None
    name = "layers.0.self_attn.q_proj.weight"
    assert torch.equal(made.get_parameter(name), full.get_parameter(name))
    formats = {one.name: one.format for one in done}
    assert not any("layers.0.self_attn" in name or name == "lm_head" for name in formats)
    assert formats["model.layers.0.mlp.down_proj"] == "int8"
    module = made.get_submodule("layers.1.mlp.down_proj")
    assert isinstance(module, QuantizedLinear)
    assert module.format == "int8"


def test_hooks_are_gone_and_it_repeats() -> None:
    one, _ = calibrated()
    two, _ = calibrated()
    assert torch.equal(logits(one), logits(two))
    assert not any(module._forward_pre_hooks for module in one.modules())
