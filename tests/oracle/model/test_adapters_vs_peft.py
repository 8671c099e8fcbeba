"""Adapters against PEFT: the same forward, gradients and merged weights from the same numbers."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import checkpoints
from headrace.model import adapters, checkpoint
from headrace.model.adapters import Adapter
from headrace.model.attend import Packed
from headrace.model.decoder import Decoder

peft: Any = pytest.importorskip("peft")

pytestmark = [
    # PEFT asks transformers 5 for a name that transformers 6 will drop, and remarks on tied heads.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
]

SETTINGS = {
    "lora": Adapter(method="lora", rank=4, targets="q_proj,v_proj,down_proj"),
    "rslora": Adapter(method="rslora", rank=9, alpha=8.0),
    "dora": Adapter(method="dora", rank=4),
    "dora rslora": Adapter(method="dora", rank=3, rslora=True, targets="mlp,o_proj"),
    "lora embeddings": Adapter(method="lora", rank=4, targets="all-linear,embed_tokens,lm_head"),
    "dora embeddings": Adapter(method="dora", rank=4, targets="q_proj,embed_tokens,lm_head"),
    "whole": Adapter(method="lora", targets="k_proj", whole="lm_head,embed_tokens,norm"),
}
IDS = torch.tensor([5, 17, 200, 3, 3, 90, 41, 77])


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
    fill(decoder)
    named = dict(theirs.named_parameters())
    for name, wrapper in adapters.wrappers(decoder).items():
        for own, parameter in wrapper.own_parameters().items():
            their_parameter(named, name, own).data.copy_(parameter.data)
    return decoder, theirs


def fill(decoder: Decoder) -> None:
    generator = torch.Generator().manual_seed(7)
    for wrapper in adapters.wrappers(decoder).values():
        for own, parameter in wrapper.own_parameters().items():
            noise = torch.randn(parameter.shape, generator=generator) * 0.2
            if own == "lora_magnitude_vector":
                parameter.data.mul_(1 + noise)
            else:
                parameter.data.add_(noise)


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


def hidden(decoder: Decoder) -> Tensor:
    return decoder.hidden(IDS, torch.arange(len(IDS)), Packed(torch.zeros(len(IDS)).int()))


def our_logits(decoder: Decoder) -> Tensor:
    """As the losses make them: from the head's matrix."""
    return hidden(decoder) @ decoder.head_VD.T


def ties_broken(decoder: Decoder) -> bool:
    """PEFT adds both corrections to the one tensor that the ends share, a wrong sum: no oracle."""
    ends = {"lm_head", "model.embed_tokens"} & adapters.wrappers(decoder).keys()
    return decoder.config.tie_word_embeddings and bool(ends)


def error(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, in units of the largest value (or of one, where that is smaller)."""
    scale = max(1.0, float(theirs.detach().abs().max()))
    return float((ours.detach() - theirs.detach()).abs().max()) / scale


def their_logits(model: Any) -> Tensor:
    return model(input_ids=IDS[None], use_cache=False).logits[0]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "base"
    return checkpoints.make(path, "qwen2", tie_word_embeddings=request.param)


@pytest.mark.parametrize("name", SETTINGS)
def test_forward_gradients_merge_and_unmerge_are_those_of_peft(directory: Path, name: str) -> None:
    decoder, theirs = pair(directory, SETTINGS[name])
    plain = {key: value.detach().clone() for key, value in decoder.named_parameters()}
    weight = torch.randn(len(IDS), 211, generator=torch.Generator().manual_seed(1))

    ours, expected = our_logits(decoder), their_logits(theirs)
    assert error(ours, expected) <= 1e-6
    assert error(decoder.logits(hidden(decoder)), expected) <= 1e-6

    (ours * weight).sum().backward()
    (expected * weight).sum().backward()
    named = dict(theirs.named_parameters())
    for module, wrapper in adapters.wrappers(decoder).items():
        for own, parameter in wrapper.own_parameters().items():
            grad = their_parameter(named, module, own).grad
            assert parameter.grad is not None
            assert error(parameter.grad, grad) <= 1e-5, (module, own)
    assert all(p.grad is None for p in decoder.parameters() if not p.requires_grad)

    before = ours.detach()
    adapters.merge(decoder)
    assert error(our_logits(decoder), expected) <= 2e-6
    if not ties_broken(decoder):
        theirs.merge_adapter()
        for module, wrapper in adapters.wrappers(decoder).items():
            layer = theirs.base_model.model.get_submodule(module)
            if hasattr(layer, "base_layer"):
                assert error(wrapper.weight, layer.base_layer.weight) <= 1e-6, module
        assert error(our_logits(decoder), their_logits(theirs)) <= 1e-6

    adapters.unmerge(decoder)
    assert torch.equal(our_logits(decoder), before)
    for key, value in decoder.named_parameters():
        assert torch.equal(value, plain[key])
    adapters.merge(decoder)
    adapters.unmerge(decoder)
    with adapters.adapters_off(decoder):
        off = our_logits(decoder)
    base = checkpoint.load(directory).decoder
    assert torch.equal(off, our_logits(base))
    adapters.detach(decoder)
    assert torch.equal(our_logits(decoder), our_logits(base))
    assert dict(decoder.named_parameters()).keys() == dict(base.named_parameters()).keys()


def test_baking_gives_what_peft_merges_and_unloads(directory: Path, tmp_path: Path) -> None:
    chosen = Adapter(method="dora", rank=4, targets="all-linear,embed_tokens,lm_head")
    decoder, theirs = pair(directory, chosen)
    expected = their_logits(theirs).detach()
    broken = ties_broken(decoder)
    config = adapters.bake(decoder)
    checkpoint.save(decoder, config, tmp_path / "merged")
    again = checkpoints.oracle(tmp_path / "merged")
    logits = again(input_ids=IDS[None]).logits[0]
    assert error(logits, expected) <= 2e-6
    if broken:
        return
    merged = copy.deepcopy(theirs).merge_and_unload()
    state = dict(again.named_parameters())
    for key, value in merged.named_parameters():
        assert error(state[key], value) <= 1e-6, key


def test_a_base_in_bfloat16_computes_in_the_types_that_peft_does(tmp_path: Path) -> None:
    path = checkpoints.make(tmp_path / "base", "llama", dtype=torch.bfloat16)
    for method in ("lora", "dora"):
        decoder = checkpoint.load(path).decoder
        chosen = Adapter(method=method, rank=4)
        model = checkpoints.oracle(path, dtype=torch.bfloat16)
        theirs = peft.get_peft_model(model, their_config(chosen, decoder)).eval()
        adapters.attach(decoder, adapters.plan(decoder.config, chosen))
        fill(decoder)
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
