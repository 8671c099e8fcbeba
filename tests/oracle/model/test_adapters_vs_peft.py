"""Adapters against PEFT: the same forward, gradients and merged weights from the same numbers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adapted
import checkpoints
from headrace.model import adapters, checkpoint
from headrace.model.adapters import Adapter
from headrace.model.decoder import Decoder

peft: Any = pytest.importorskip("peft")

pytestmark = [
    # PEFT asks transformers 5 for a name that transformers 6 will drop, and remarks on tied heads.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
]


def their_config(chosen: Adapter, decoder: Decoder) -> Any:
    made = adapters.plan(decoder.config, chosen)
    return peft.LoraConfig(
        r=chosen.rank,
        lora_alpha=chosen.alpha,
        lora_dropout=chosen.dropout,
        target_modules=list(made.specs),
        modules_to_save=list(made.whole) or None,
        use_rslora=chosen.spec.rslora,
        use_dora=chosen.spec.dora,
        task_type="CAUSAL_LM",
    )


def pair(directory: Path, chosen: Adapter) -> tuple[Decoder, Any]:
    """Our model and PEFT's, every adapter filled with the same random numbers."""
    decoder = checkpoint.load(directory).decoder
    theirs = peft.get_peft_model(
        checkpoints.oracle(directory), their_config(chosen, decoder)
    ).eval()
    adapters.attach(decoder, adapters.plan(decoder.config, chosen))
    adapted.fill(decoder)
    named = dict(theirs.named_parameters())
    for name, wrapper in adapters.wrappers(decoder).items():
        for own, parameter in wrapper.own_parameters().items():
            their_parameter(named, name, own).data.copy_(parameter.data)
    return decoder, theirs


def their_parameter(named: dict[str, Any], module: str, own: str) -> Any:
    stem = f"base_model.model.{module}."
    kind, _, rest = own.partition(".")
    for key in (
        f"{stem}{kind}.default" + (f".{rest}" if rest else ""),
        f"{stem}{kind}.default.weight",
        f"{stem}modules_to_save.default.{own}",
    ):
        if key in named:
            return named[key]
    raise KeyError(f"{module} {own}")


def ties_broken(decoder: Decoder) -> bool:
    """PEFT adds both corrections to the one tensor that the ends share, a wrong sum: no oracle."""
    ends = {"lm_head", "model.embed_tokens"} & adapters.wrappers(decoder).keys()
    return decoder.config.tie_word_embeddings and bool(ends)


def their_logits(model: Any) -> Tensor:
    return model(input_ids=adapted.IDS[None], use_cache=False).logits[0]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "base"
    return checkpoints.make(path, "qwen2", tie_word_embeddings=request.param)


@pytest.mark.parametrize("name", adapted.SETTINGS)
def test_forward_gradients_merge_and_unmerge_are_those_of_peft(directory: Path, name: str) -> None:
    decoder, theirs = pair(directory, adapted.SETTINGS[name])
    plain = {key: value.detach().clone() for key, value in decoder.named_parameters()}
    weight = torch.randn(len(adapted.IDS), 211, generator=torch.Generator().manual_seed(1))

    ours, expected = adapted.logits(decoder), their_logits(theirs)
    assert adapted.error(ours, expected) <= 1e-6
    assert adapted.error(decoder.logits(adapted.hidden(decoder)), expected) <= 1e-6

    (ours * weight).sum().backward()
    (expected * weight).sum().backward()
    named = dict(theirs.named_parameters())
    for module, wrapper in adapters.wrappers(decoder).items():
        for own, parameter in wrapper.own_parameters().items():
            grad = their_parameter(named, module, own).grad
            assert parameter.grad is not None
            assert adapted.error(parameter.grad, grad) <= 5e-6, (module, own)
    assert all(p.grad is None for p in decoder.parameters() if not p.requires_grad)

    before = ours.detach()
    adapters.merge(decoder)
    rounding = adapted.error(adapted.logits(decoder), expected)
    if ties_broken(decoder):
        assert rounding <= 2e-6
    else:
        theirs.merge_adapter()
        # A merged weight is rounded once more; how far that leads depends on the processor.
        assert rounding <= max(2e-6, 1.5 * adapted.error(their_logits(theirs), expected))
        for module, wrapper in adapters.wrappers(decoder).items():
            layer = theirs.base_model.model.get_submodule(module)
            if hasattr(layer, "base_layer"):
                assert adapted.error(wrapper.weight, layer.base_layer.weight) <= 1e-6, module
        assert adapted.error(adapted.logits(decoder), their_logits(theirs)) <= 1e-6

    adapters.unmerge(decoder)
    assert torch.equal(adapted.logits(decoder), before)
    for key, value in decoder.named_parameters():
        assert torch.equal(value, plain[key])
    adapters.merge(decoder)
    adapters.unmerge(decoder)
    with adapters.adapters_off(decoder):
        off = adapted.logits(decoder)
    base = checkpoint.load(directory).decoder
    assert torch.equal(off, adapted.logits(base))
    adapters.detach(decoder)
    assert torch.equal(adapted.logits(decoder), adapted.logits(base))
    assert dict(decoder.named_parameters()).keys() == dict(base.named_parameters()).keys()


def test_baking_gives_what_peft_merges_and_unloads(directory: Path, tmp_path: Path) -> None:
    chosen = Adapter(method="dora", rank=4, targets="all-linear,embed_tokens,lm_head")
    decoder, theirs = pair(directory, chosen)
    expected = their_logits(theirs).detach()
    broken = ties_broken(decoder)
    config = adapters.bake(decoder)
    checkpoint.save(decoder, config, tmp_path / "merged")
    again = checkpoints.oracle(tmp_path / "merged")
    logits = again(input_ids=adapted.IDS[None]).logits[0]
    assert adapted.error(logits, expected) <= 2e-6
    if broken:
        return
    merged = copy.deepcopy(theirs).merge_and_unload()
    state = dict(again.named_parameters())
    for key, value in merged.named_parameters():
        assert adapted.error(state[key], value) <= 1e-6, key


def test_a_base_in_bfloat16_computes_in_the_types_that_peft_does(tmp_path: Path) -> None:
    path = checkpoints.make(tmp_path / "base", "llama", dtype=torch.bfloat16)
    for method in ("lora", "dora"):
        decoder = checkpoint.load(path).decoder
        chosen = Adapter(method=method, rank=4)
        model = checkpoints.oracle(path, dtype=torch.bfloat16)
        theirs = peft.get_peft_model(model, their_config(chosen, decoder)).eval()
        adapters.attach(decoder, adapters.plan(decoder.config, chosen))
        adapted.fill(decoder)
        wrapper = adapters.wrappers(decoder)["model.layers.0.mlp.down_proj"]
        layer = theirs.base_model.model.model.layers[0].mlp.down_proj
        named = dict(theirs.named_parameters())
        for own, parameter in wrapper.own_parameters().items():
            theirs_own = their_parameter(named, "model.layers.0.mlp.down_proj", own)
            if own == "lora_magnitude_vector":
                parameter.data.copy_(theirs_own.data)
            else:
                theirs_own.data.copy_(parameter.data)
        x = torch.randn(5, 90).bfloat16()
        assert torch.equal(wrapper(x), layer(x))
