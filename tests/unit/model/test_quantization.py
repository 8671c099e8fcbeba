"""`quantization_config`: what is written is read, and what is not understood is refused by name."""

from typing import Any

import pytest

from headrace.errors import CheckpointError, UnsupportedModel, UserError
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.matrices import matrices
from headrace.model.quantization import Keep, Quantization, choose_kept
from headrace.model.quantized import linear_of
from training_fixtures import decoder

NAMES = ("model.layers.0.mlp.down_proj", "model.layers.10.mlp.down_proj", "lm_head")


def hf(**changes: Any) -> dict[str, Any]:
    return {**Quantization(format="int4", group=64).to_hf(), **changes}


@pytest.mark.parametrize(
    "made",
    [
        Quantization(format="int8", group=128),
        Quantization(format="int4", group=32, kept={"lm_head": "int8", NAMES[0]: "bf16"}),
        Quantization(format="fp8", kept={"lm_head": "bf16"}),
    ],
)
def test_round_trip(made: Quantization) -> None:
    assert Quantization.from_hf(made.to_hf()) == made


def test_round_trip_in_config_json() -> None:
    plain = decoder().config
    made = Quantization(format="int8", group=32)
    both = ModelConfig.from_hf({**plain.to_hf(), "quantization_config": made.to_hf()})
    assert both.quantization == made
    assert ModelConfig.from_hf(both.to_hf()) == both
    assert ModelConfig.from_hf(plain.to_hf()).quantization is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quant_method": "gptq"}, "quant_method 'gptq' is not supported; use the full-precision"),
        ({"quant_method": None}, "quant_method None"),
        ({"layout": 2}, "layout 2 is not supported; this version of headrace reads 1"),
        ({"layout": True}, "layout True"),
        ({"format": "int3"}, "format 'int3' is not supported; supported are int8, int4, fp8"),
        ({"group": 48}, "group 48 is not supported for int4; supported are 32, 64, 128"),
        ({"group": True}, "group True"),
        ({"format": "fp8"}, "group 64 is not supported for fp8; supported are 0"),
        ({"kept": {"lm_head": "int2"}}, "kept lm_head 'int2' is not supported"),
        ({"format": "fp8", "group": 0, "kept": {"lm_head": "int8"}}, "kept lm_head 'int8'"),
        ({"act_order": True}, "with 'act_order' is not supported"),
    ],
)
def test_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        Quantization.from_hf(hf(**changes))
    assert says in caught.value.message


@pytest.mark.parametrize("value", ["int8", ["int8"], 8])
def test_not_an_object(value: object) -> None:
    with pytest.raises(CheckpointError, match="is not an object"):
        Quantization.from_hf(value)
    with pytest.raises(CheckpointError, match=r"kept .* is not an object"):
        Quantization.from_hf(hf(kept=value))


@pytest.mark.parametrize(
    ("text", "matching"),
    [
        ("lm_head", [NAMES[2]]),
        ("down_proj", list(NAMES[:2])),
        ("layers.0", [NAMES[0]]),
        ("layers.1", []),
        ("layers.*.mlp", list(NAMES[:2])),
        ("model.layers.1?", [NAMES[1]]),
        ("down", []),
    ],
)
def test_keep_matches_from_dot_to_dot(text: str, matching: list[str]) -> None:
    assert [name for name in NAMES if Keep.parse(text).matches(name)] == matching


def test_keep_says_in_what() -> None:
    assert Keep.parse("lm_head") == Keep(pattern="lm_head", format="bf16")
    assert Keep.parse("layers.0=int8") == Keep(pattern="layers.0", format="int8")
    for wrong in ("lm_head=fp16", "lm_head="):
        with pytest.raises(UserError, match="is not a format to keep"):
            Keep.parse(wrong)


def test_first_rule_that_matches_decides() -> None:
    rules = [Keep.parse("layers.0=int4"), Keep.parse("down_proj=int8"), Keep.parse("lm_head")]
    assert choose_kept(NAMES, rules, "int4") == {NAMES[1]: "int8", "lm_head": "bf16"}


def test_rules_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="'gate' matches no matrix; there are down_proj, lm_head"):
        choose_kept(NAMES, [Keep.parse("gate")], "int8")
    with pytest.raises(UserError, match="every matrix is kept from int8"):
        choose_kept(NAMES, [Keep.parse("*")], "int8")


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_are_the_decoders_own(tied: bool) -> None:
    made: Decoder = decoder(tied=tied)
    shapes = matrices(made.config)
    for name, (rows, cols) in shapes.items():
        assert tuple(linear_of(made, name).weight.shape) == (rows, cols)
    two_dimensional = {p for p in made.parameters() if p.ndim == 2}
    assert len(shapes) == len(two_dimensional) - (0 if tied else 1)  # the embedding look-up
