"""What adapters refuse, and what switching, merging and quantizing leave as it was."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adapted
import checkpoints
from headrace.errors import CheckpointError, ConfigError, HeadraceError, UnsupportedModel, UserError
from headrace.model import adapters, checkpoint
from headrace.model.adapter_files import Origin, load_adapter, peek_adapter, save_adapter
from headrace.model.adapters import Adapter
from headrace.model.decoder import Decoder
from headrace.model.nf4 import Nf4Linear
from headrace.training.recipe import with_sets


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make(tmp_path_factory.mktemp("base") / "m", "qwen3")


def attached(directory: Path, chosen: Adapter) -> Decoder:
    decoder = checkpoint.load(directory).decoder
    adapters.attach(decoder, adapters.plan(decoder.config, chosen))
    adapted.fill(decoder)
    return decoder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": "q_prj"}, "adapter.targets: 'q_prj' fits no module; there are .*q_proj.*all-"),
        ({"whole": "heads"}, "adapter.whole: 'heads' fits no module; there are .*lm_head.*norm"),
        ({"targets": " , "}, "adapter.targets is empty"),
        ({"targets": "lm_head", "dropout": 0.1}, "dropout 0.1 cannot act before lm_head"),
        ({"targets": "mlp", "whole": "up_proj"}, "named by both"),
        ({"method": "none"}, "choose one of lora, rslora, dora, qlora"),
        ({"rank": 0}, "adapter.rank 0 is not a positive"),
        ({"dropout": 1.0}, "not in .0, 1"),
        ({"nf4_block": 48}, "48 is not one of 32, 64"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(
    directory: Path, settings: dict[str, Any], message: str
) -> None:
    config = checkpoint.load(directory).config
    made: dict[str, Any] = {"method": "lora", **settings}

    def chosen() -> None:
        adapters.plan(config, Adapter(**made))

    with pytest.raises(ConfigError, match=message):
        chosen()


def test_patterns_name_modules_from_dot_to_dot(directory: Path) -> None:
    config = checkpoint.load(directory).config

    def names(targets: str) -> list[str]:
        return list(adapters.plan(config, Adapter(method="lora", targets=targets)).specs)

    assert len(names("all-linear")) == 14
    assert names("layers.1.*.?_proj") == names("layers.1.self_attn")
    assert names("q_proj,embed_tokens") == [
        "model.embed_tokens",
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
    ]
    assert names("model.layers.0.mlp.down_proj") == ["model.layers.0.mlp.down_proj"]


def test_a_recipe_sets_every_field() -> None:
    sets = ["method=qlora", "rank=4", "dora=true", "nf4_double=false", "targets=mlp,o_proj"]
    made = with_sets(Adapter(), sets)
    assert made.spec.dora
    assert (made.rank, made.nf4_double, made.targets) == (4, False, "mlp,o_proj")


def test_attaching_changes_no_output_and_trains_nothing_else(directory: Path) -> None:
    base = checkpoint.load(directory).decoder
    expected = adapted.logits(base)
    for method in ("lora", "rslora", "dora"):
        decoder = checkpoint.load(directory).decoder
        chosen = Adapter(method=method, rank=4, targets="all-linear,embed_tokens,lm_head")
        adapters.attach(decoder, adapters.plan(decoder.config, chosen))
        assert torch.allclose(adapted.logits(decoder), expected, atol=2e-5)
        trained = {name for name, p in decoder.named_parameters() if p.requires_grad}
        assert trained
        assert all(".lora_" in name or name.endswith(".magnitude") for name in trained)


def test_the_same_seed_draws_the_same_adapters(directory: Path) -> None:
    def drawn(seed: int) -> torch.Tensor:
        decoder = checkpoint.load(directory).decoder
        plan = adapters.plan(decoder.config, Adapter(method="lora"))
        adapters.attach(decoder, plan, seed=seed)
        return torch.cat([p.flatten() for p in decoder.parameters() if p.requires_grad])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_switching_off_nests_and_survives_an_error(directory: Path) -> None:
    decoder = attached(directory, Adapter(method="dora"))
    on = adapted.logits(decoder)
    base = adapted.logits(checkpoint.load(directory).decoder)

    def off_then_raise() -> None:
        with adapters.adapters_off(decoder):
            with adapters.adapters_off(decoder):
                pass
            assert torch.equal(adapted.logits(decoder), base)
            raise KeyError

    with pytest.raises(KeyError):
        off_then_raise()
    assert torch.equal(adapted.logits(decoder), on)
    adapters.merge(decoder)
    with pytest.raises(UserError, match="unmerge them"), adapters.adapters_off(decoder):
        pass


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unmerging_is_exact_over_either_base(directory: Path, dtype: str) -> None:
    for method in ("lora", "dora", "qlora"):
        decoder = checkpoint.load(directory, dtype=dtype).decoder
        adapters.attach(decoder, adapters.plan(decoder.config, Adapter(method=method, rank=4)))
        adapted.fill(decoder)
        before = {name: value.clone() for name, value in decoder.state_dict().items()}
        apart = adapted.logits(decoder)
        for _ in range(3):
            adapters.merge(decoder)
            assert not torch.equal(adapted.logits(decoder), apart)
            adapters.unmerge(decoder)
        assert torch.equal(adapted.logits(decoder), apart)
        for name, value in decoder.state_dict().items():
            assert torch.equal(value, before[name]), name


def test_a_broken_adapter_is_not_merged(directory: Path) -> None:
    decoder = attached(directory, Adapter(method="lora"))
    wrapper = adapters.wrappers(decoder)["model.layers.1.mlp.up_proj"]
    next(iter(wrapper.parameters())).data.fill_(1.0)
    wrapper.own_parameters()["lora_B.weight"].data[0, 0] = float("inf")
    with pytest.raises(UserError, match=r"model.layers.1.mlp.up_proj makes weights.*not finite"):
        adapters.merge(decoder)
    assert all(w.merged is None for w in adapters.wrappers(decoder).values())


def test_dropout_acts_in_training_alone(directory: Path) -> None:
    for dora in (False, True):
        decoder = attached(directory, Adapter(method="lora", dropout=0.5, dora=dora))
        still = adapted.logits(decoder)
        decoder.train()
        torch.manual_seed(0)
        first = adapted.logits(decoder)
        torch.manual_seed(0)
        assert torch.equal(adapted.logits(decoder), first)
        assert not torch.equal(first, still)
        decoder.eval()
        assert torch.equal(adapted.logits(decoder), still)


def test_baking_an_nf4_base_leaves_no_nf4(directory: Path, tmp_path: Path) -> None:
    chosen = Adapter(method="qlora", targets="q_proj", whole="down_proj")
    decoder = attached(directory, chosen)
    stored = {name for name, m in decoder.named_modules() if isinstance(m, Nf4Linear)}
    assert len(stored) == 12  # of 14 matrices the two trained whole stay in full precision
    expected = adapted.logits(decoder)
    config = adapters.bake(decoder)
    checkpoint.save(decoder, config, tmp_path / "m")
    again = checkpoint.load(tmp_path / "m").decoder
    assert adapted.error(adapted.logits(again), expected) <= 2e-6


def saved(directory: Path, path: Path) -> Path:
    decoder = attached(directory, Adapter(method="dora", rank=4, targets="q_proj,v_proj"))
    save_adapter(decoder, path, base="org/base", origin=Origin(fingerprint="a" * 64))
    return path


CONFIG_FAULTS: dict[str, tuple[dict[str, Any], type[HeadraceError], str]] = {
    "method": ({"peft_type": "LOHA"}, UnsupportedModel, "peft_type 'LOHA' is not supported"),
    "bias": ({"bias": "all"}, UnsupportedModel, "bias 'all' is not supported"),
    "task": ({"task_type": "SEQ_CLS"}, UnsupportedModel, "task_type 'SEQ_CLS'"),
    "init": ({"init_lora_weights": "pissa"}, UnsupportedModel, "changes the base's weights"),
    "future": ({"use_qalora": True}, UnsupportedModel, "use_qalora True is not supported"),
    "unknown": ({"use_next_year": 2}, UnsupportedModel, "use_next_year 2 is not supported"),
    "rank": ({"r": 8}, CheckpointError, "rank 8, but the weight file holds rank 4"),
    "rank type": ({"r": "4"}, CheckpointError, "r '4' is not a positive integer"),
    "alpha": ({"lora_alpha": None}, CheckpointError, "lora_alpha None is not a number"),
    "dropout": ({"lora_dropout": 1.5}, CheckpointError, "lora_dropout 1.5 is not in"),
    "targets": ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, CheckpointError, "incomplete"),
    "regex": ({"target_modules": "(q_proj"}, CheckpointError, "is no pattern"),
    "rank regex": ({"rank_pattern": {"(": 4}}, CheckpointError, "is no pattern"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_configs_that_do_not_fit_are_refused(directory: Path, tmp_path: Path, fault: str) -> None:
    path = saved(directory, tmp_path / "a")
    fields, error, message = CONFIG_FAULTS[fault]
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    with pytest.raises(error, match=message):
        load_adapter(checkpoint.load(directory).decoder, path)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
B = A.replace("_A", "_B")
WEIGHT_FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "no A": (lambda t: t.pop(A), "target_modules name .*q_proj, but the weight file has no"),
    "no B": (lambda t: t.pop(B), "lacks model.layers.0.self_attn.q_proj.lora_B.weight"),
    "no magnitude": (
        lambda t: t.pop(A.replace("lora_A.weight", "lora_magnitude_vector")),
        "lacks .*lora_magnitude_vector",
    ),
    "shape": (lambda t: t.update({B: torch.zeros(7, 4)}), r"shape \[7, 4\] where the model calls"),
    "name": (lambda t: t.update({"x": torch.zeros(1)}), "'x' is not a name that PEFT gives"),
    "module": (
        lambda t: t.update({A.replace("layers.0", "layers.9"): torch.zeros(4, 48)}),
        "adapts 'model.layers.9.self_attn.q_proj', which the base has not",
    ),
    "base": (
        lambda t: t.update({A.replace("lora_A", "base_layer"): torch.zeros(96, 48)}),
        "not the base's own weight",
    ),
    "empty": (lambda t: t.clear() or t.update({}), "holds no adapter"),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_weights_that_do_not_fit_are_refused(directory: Path, tmp_path: Path, fault: str) -> None:
    path = saved(directory, tmp_path / "a")
    change, message = WEIGHT_FAULTS[fault]
    tensors = load_file(path / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_adapter(checkpoint.load(directory).decoder, path)


def test_damaged_foreign_and_mistaken_directories_are_refused(
    directory: Path, tmp_path: Path
) -> None:
    path = saved(directory, tmp_path / "a")
    made = checkpoint.load(directory)
    with pytest.raises(CheckpointError, match=r"trained over the weights aaaaaaaaaaaa.*org/base"):
        load_adapter(made.decoder, path, fingerprint=made.fingerprint)
    weights = path / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="download it again"):
        load_adapter(checkpoint.load(directory).decoder, path)
    weights.unlink()
    (path / "adapter_model.bin").write_bytes(whole)
    with pytest.raises(CheckpointError, match="a pickle"):
        peek_adapter(path, made.config)
    with pytest.raises(CheckpointError, match="exists already"):
        saved(directory, path)
    with pytest.raises(UserError, match="no adapter to save"):
        save_adapter(made.decoder, tmp_path / "b", base="", origin=Origin(fingerprint=""))
    twice = attached(directory, Adapter(method="lora"))
    with pytest.raises(UserError, match="has adapters already"):
        adapters.attach(twice, adapters.plan(twice.config, Adapter(method="lora")))
