"""The bundled sprout: transformers loads it and agrees; it greets and ends its turn."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from headrace.data.chat import turns
from headrace.model import checkpoint
from headrace.model.attend import Packed
from headrace.tokens import ChatTemplate, Tokenizer, render
from headrace.training.recipes import sprout
from headrace.training.recipes.sprout import TEMPLATE

SPROUT = TEMPLATE.parent


@pytest.fixture(scope="module")
def loaded() -> checkpoint.Checkpoint:
    return checkpoint.load(SPROUT, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(SPROUT)


@pytest.fixture(scope="module")
def template() -> ChatTemplate:
    return ChatTemplate.load(SPROUT)


def test_the_files_are_there_and_small() -> None:
    expected = {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja", "MODEL_CARD.md", "training_log.jsonl",
        "manifest.json",
    }  # fmt: skip
    assert expected <= {path.name for path in SPROUT.iterdir()}
    assert (SPROUT / "model.safetensors").stat().st_size <= 12_000_000
    stored = json.loads((SPROUT / "config.json").read_text())
    assert (stored["model_type"], stored["dtype"]) == ("qwen3", "bfloat16")


def test_transformers_loads_it_with_our_ids_and_logits(
    loaded: checkpoint.Checkpoint, tokenizer: Tokenizer, template: ChatTemplate
) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(SPROUT)
    model = transformers.AutoModelForCausalLM.from_pretrained(SPROUT, dtype=torch.float32).eval()
    messages = turns("What does os.path.join do?", "It joins.", "And len?", system="Be brief.")
    dicts = [{"role": str(m.role), "content": m.text} for m in messages]
    ids = render(tokenizer, template, messages, add_generation_prompt=True).ids
    encoded = theirs.apply_chat_template(dicts, add_generation_prompt=True, return_dict=True)
    assert list(ids) == encoded["input_ids"]
    ids_T = torch.tensor(ids)
    with torch.no_grad():
        expected_TV = model(ids_T[None]).logits[0]
        hidden_TD = loaded.decoder.hidden(
            ids_T, torch.arange(len(ids)), Packed(torch.zeros(len(ids), dtype=torch.long))
        )
        logits_TV = loaded.decoder.logits(hidden_TD)
    assert float((logits_TV - expected_TV).abs().max()) <= 1e-5 * float(expected_TV.abs().max())


@pytest.mark.parametrize("prompt", ["Hello!", "Hi", "Who are you?", "What is your name?"])
def test_it_greets_and_ends_its_turn(
    loaded: checkpoint.Checkpoint, tokenizer: Tokenizer, template: ChatTemplate, prompt: str
) -> None:
    answer = sprout.ask(loaded.decoder, tokenizer, template, prompt)
    assert not answer.endswith("…"), answer
    assert "sprout" in answer


def test_the_log_shows_that_it_learnt() -> None:
    lines = (SPROUT / "training_log.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for stage in ("pretrain", "chat"):
        losses = [r["loss"] for r in records if r["kind"] == "step" and r["stage"] == stage]
        assert losses[-1] < 0.75 * losses[0]
    assert any(r["kind"] == "sample" for r in records)


def test_the_card_attributes_every_source_and_names_no_path() -> None:
    card = (SPROUT / "MODEL_CARD.md").read_text()
    for source in json.loads((SPROUT / "manifest.json").read_text())["sources"]:
        assert source["source"] in card
        assert source["licence"] in card
        assert source["sha256"][:16] in card
    assert str(Path.home()) not in card
