"""PEFT's files both ways: what PEFT saved we load, what we saved PEFT loads, with equal outputs."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import adapted
import checkpoints
from headrace.model import adapters, checkpoint
from headrace.model.adapter_files import Origin, load_adapter, peek_adapter, save_adapter
from headrace.model.adapters import Adapter

peft: Any = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "base"
    return checkpoints.make(path, "qwen3", tie_word_embeddings=request.param)


def their_logits(model: Any) -> torch.Tensor:
    return model(input_ids=adapted.IDS[None], use_cache=False).logits[0].detach()


@pytest.mark.parametrize("name", adapted.SETTINGS)
def test_peft_loads_what_we_saved(directory: Path, tmp_path: Path, name: str) -> None:
    decoder = checkpoint.load(directory).decoder
    adapters.attach(decoder, adapters.plan(decoder.config, adapted.SETTINGS[name]))
    adapted.fill(decoder)
    save_adapter(decoder, tmp_path / "a", base=str(directory), origin=Origin(fingerprint="f"))
    with warnings.catch_warnings():
        # Were a key missing or left over, PEFT would say so and go on.
        warnings.filterwarnings("error", message=".*(missing|unexpected|Unexpected).*")
        theirs = peft.PeftModel.from_pretrained(checkpoints.oracle(directory), tmp_path / "a")
    assert adapted.error(adapted.logits(decoder), their_logits(theirs.eval())) <= 1e-6
    assert not theirs.load_adapter(tmp_path / "a", "again").unexpected_keys

    again = checkpoint.load(directory).decoder
    file = load_adapter(again, tmp_path / "a")
    assert torch.equal(adapted.logits(again), adapted.logits(decoder))
    assert file.fingerprint == "f"


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj", "down_proj"], "r": 4},
        {"target_modules": "all-linear", "use_rslora": True, "r": 5},
        {"target_modules": r".*layers\.1\..*(up|gate)_proj", "use_dora": True},
        {"target_modules": ["v_proj", "embed_tokens", "lm_head"], "use_dora": True},
        {"target_modules": ["v_proj", "embed_tokens"], "ensure_weight_tying": True},
        {"target_modules": ["o_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["o_proj"], "layers_to_transform": [1]},
        {"target_modules": ["mlp.up_proj", "k_proj"], "exclude_modules": ["layers.0.mlp.up_proj"]},
        {
            "target_modules": ["q_proj", "k_proj"],
            "rank_pattern": {"k_proj": 3, r"layers\.1\.self_attn\.q_proj": 2},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 5},
        },
    ],
    ids=lambda fields: " ".join(f"{key}" for key in fields),
)
@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")
def test_we_load_what_peft_saved(directory: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_alpha=7, lora_dropout=0.1, **fields)
    if {"lm_head", "embed_tokens"} & set(fields["target_modules"]):
        config.lora_dropout = 0.0
    theirs = peft.get_peft_model(checkpoints.oracle(directory), config).eval()
    generator = torch.Generator().manual_seed(3)
    for _, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    theirs.save_pretrained(tmp_path / "a")
    decoder = checkpoint.load(directory).decoder
    load_adapter(decoder, tmp_path / "a")
    assert adapted.error(adapted.logits(decoder), their_logits(theirs)) <= 1e-6


def test_a_saved_config_is_what_peft_would_write(directory: Path, tmp_path: Path) -> None:
    decoder = checkpoint.load(directory).decoder
    chosen = Adapter(method="rslora", rank=8, alpha=16, dropout=0.1, targets="q_proj,layers.1.mlp")
    adapters.attach(decoder, adapters.plan(decoder.config, chosen))
    save_adapter(decoder, tmp_path / "a", base="org/base", origin=Origin(fingerprint=""))
    ours = json.loads((tmp_path / "a/adapter_config.json").read_text())
    expected = peft.LoraConfig(
        r=8,
        lora_alpha=16,
        lora_dropout=0.1,
        use_rslora=True,
        target_modules=[
            "q_proj",
            *(f"model.layers.1.mlp.{x}_proj" for x in ("gate", "up", "down")),
        ],
        task_type="CAUSAL_LM",
        base_model_name_or_path="org/base",
        inference_mode=True,
    ).to_dict()
    for key, value in ours.items():
        theirs = expected[key]
        assert (sorted(theirs) if key == "target_modules" else theirs) == value, key
    assert isinstance(ours["lora_alpha"], int)


def test_peft_reads_an_adapter_over_nf4_as_one_over_the_matrix_it_stands_for(
    directory: Path, tmp_path: Path
) -> None:
    decoder = checkpoint.load(directory).decoder
    adapters.attach(decoder, adapters.plan(decoder.config, Adapter(method="qlora", rank=4)))
    adapted.fill(decoder)
    origin = Origin(fingerprint="f", nf4={"block": 64, "double": True})
    save_adapter(decoder, tmp_path / "a", base=str(directory), origin=origin)
    assert peek_adapter(tmp_path / "a", decoder.config).plan.base == origin.nf4
    ours = adapted.logits(decoder)
    again = checkpoint.load(directory).decoder
    load_adapter(again, tmp_path / "a")
    assert torch.equal(adapted.logits(again), ours)

    base = checkpoint.load(directory).decoder
    adapters.quantize_base(base)
    config = adapters.bake(base)
    checkpoint.save(base, config, tmp_path / "dense")
    theirs = peft.PeftModel.from_pretrained(checkpoints.oracle(tmp_path / "dense"), tmp_path / "a")
    assert adapted.error(ours, their_logits(theirs.eval())) <= 1e-6
