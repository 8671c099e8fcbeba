"""What runs and exports leave behind, loaded by the programs it is meant for; no warning allowed.

transformers logs its warnings, Python raises its own (pytest turns them into errors): both count.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard

import checkpoints
from headrace.errors import UserError
from headrace.model import checkpoint
from headrace.model.adapter_files import Origin, save_adapter
from headrace.model.adapters import Adapter, attach, plan
from headrace.tokens import ChatTemplate, Tokenizer, render, train_bpe
from headrace.training import card, export
from headrace.training.recipe import with_sets
from headrace.training.recipes import pretrain, sft
from headrace.types import Message, Role, TextPart

SPROUT = Path(checkpoint.__file__).parents[1] / "sprout"


@pytest.fixture
def warnings_of_transformers(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.WARNING)
    logger.propagate = True
    yield lambda: [r.getMessage() for r in caplog.records if r.name.startswith("transformers")]
    logger.propagate = False
    logger.setLevel(before)


@torch.no_grad()
def check_loads(directory: Path, said, *, chat: bool) -> None:
    """Model, tokenizer, template and generation settings, as transformers reads them."""
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    model.eval()
    words = transformers.AutoTokenizer.from_pretrained(directory)
    settings = transformers.GenerationConfig.from_pretrained(directory)
    ours = checkpoint.load(directory, dtype="float32")
    assert settings.eos_token_id in (ours.eos_ids[0], list(ours.eos_ids))
    own = Tokenizer.load(directory)
    text = "A line of text, and 12 numbers!\n\n  Ünïcode too."
    ids = own.encode(text)
    assert words(text, add_special_tokens=False)["input_ids"] == ids
    assert words.decode(ids) == text
    if chat:
        asked = "What does len do?"
        message = Message(role=Role.USER, parts=(TextPart(text=asked),))
        rendered = render(own, ChatTemplate.load(directory), [message], add_generation_prompt=True)
        theirs = words.apply_chat_template(
            [{"role": "user", "content": asked}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert list(rendered.ids) == list(theirs)
        ids = list(rendered.ids)
    given = torch.tensor(ids)
    places = torch.arange(len(ids))
    from headrace.model.attend import Packed

    logits = ours.decoder.logits(
        ours.decoder.hidden(given, places, Packed(torch.zeros_like(places)))
    )
    assert (model(given[None]).logits[0] - logits).abs().max() <= 1e-5
    greedy = model.generate(given[None], max_new_tokens=8, do_sample=False)
    assert greedy.shape[1] > len(ids)
    assert said() == []


def test_sprout_loads_without_a_warning(warnings_of_transformers):
    check_loads(SPROUT, warnings_of_transformers, chat=True)


SMALL = ("updates.steps=3", "held_out_rows=4", "compute.threads=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of three steps."""
    where = tmp_path_factory.mktemp("run")
    texts = where / "texts.jsonl"
    lines = [
        json.dumps(
            {"id": f"d{n}", "text": f"Part {n} of a small text. " * 12, "license": "CC0-1.0"}
        )
        for n in range(60)
    ]
    texts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    plan_ = with_sets(
        pretrain.default(pretrain.parse_shape("2x32")),
        [*SMALL, "shape.vocab_tokens=264", "rows.row_tokens=64", "sample_tokens=4"],
    )
    list(pretrain.train(plan_, data=texts, out=where / "out"))
    return where / "out"


def test_a_trained_model_loads_and_its_card_says_what_the_run_holds(
    trained: Path, warnings_of_transformers
):
    check_loads(trained / "model", warnings_of_transformers, chat=False)
    read = ModelCard.load(trained / "model" / card.CARD)
    told = read.data.to_dict()
    assert told["library_name"] == "transformers"
    assert told["tags"] == ["headrace", "pretrain"]
    assert "license" not in told  # nobody stated one
    assert "Not stated for the weights" in read.text
    records = [
        json.loads(line) for line in (trained / "training_log.jsonl").read_text().splitlines()
    ]
    last = next(r for r in reversed(records) if r["kind"] == "score")
    assert f"{last['bits_per_byte']:.4g} (step 3)" in read.text
    assert "| texts |" in read.text
    assert "updates.steps = 3" in read.text


def test_a_tuned_models_card_names_its_base_and_its_data(tmp_path: Path, warnings_of_transformers):
    chats = tmp_path / "chats.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n}?"},
                {"role": "assistant", "content": f"It is {n}."},
            ]
        }
        for n in range(12)
    ]
    chats.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    model = tmp_path / "small"
    shutil.copytree(SPROUT, model)
    (model / card.CARD).write_text("---\nlicense: mit\n---\n# small\n", encoding="utf-8")
    sets = ["updates.steps=2", "rows.row_tokens=200", "rows.per_step=2", "samples=1"]
    recipe = with_sets(sft.Sft(), [*sets, "sample_tokens=4"])
    list(sft.train(recipe, model=model, data=chats, out=tmp_path / "tuned"))
    check_loads(tmp_path / "tuned" / "model", warnings_of_transformers, chat=True)
    read = ModelCard.load(tmp_path / "tuned" / "model" / card.CARD)
    assert read.data.to_dict()["base_model"] == "small"
    assert read.data.to_dict()["license"] == "mit"
    assert "| chats.jsonl | not stated | 1" in read.text
    assert "sft" in read.data.to_dict()["tags"]


def test_a_card_says_what_is_missing(tmp_path: Path):
    directory = checkpoints.make(tmp_path / "bare", "qwen3")
    text = card.card(card.facts_of_directory(directory))
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["headrace"],
    }
    for missing in (
        "how it was trained is not known",
        "sources, licences and amounts are not known",
        "Nothing was held out",
        "Not stated by whoever made it",
        "How well it does was not measured",
    ):
        assert missing in text


@pytest.fixture
def adapter(tmp_path: Path) -> tuple[Path, Path]:
    """A base with a tokenizer, and a LoRA over it that does something."""
    words = train_bpe(
        [f"Line {n}.\n" for n in range(99)],
        vocab_size=280,
        special_tokens=("<|endoftext|>",),
        eos="<|endoftext|>",
    )
    base_ = checkpoints.make(tmp_path / "base", "qwen3", vocab_size=280, eos_token_id=0)
    words.save(base_)
    loaded = checkpoint.load(base_)
    made = Adapter(method="lora", rank=4, alpha=8.0)
    attach(loaded.decoder, plan(loaded.config, made))
    for name, parameter in loaded.decoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    save_adapter(
        loaded.decoder,
        tmp_path / "lora",
        base=str(base_),
        origin=Origin(fingerprint=loaded.fingerprint),
    )
    return base_, tmp_path / "lora"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
@torch.no_grad()
def test_an_adapter_is_merged_and_exported_as_peft_has_it(
    adapter: tuple[Path, Path], tmp_path: Path, warnings_of_transformers
):
    base_, lora = adapter
    export.to_hf(lora, tmp_path / "merged", base=None, dtype="auto")
    export.to_peft(lora, tmp_path / "again", base=None, dtype="float32")
    ids = torch.arange(3, 60)[None]
    merged = checkpoints.oracle(tmp_path / "merged")(ids).logits
    plain = checkpoints.oracle(base_)
    assert (plain(ids).logits - merged).abs().max() > 1e-3
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "again")(ids).logits
    assert (theirs - merged).abs().max() <= 1e-5
    for made in ("merged", "again"):
        told = ModelCard.load(tmp_path / made / card.CARD)
        assert told.data.to_dict()["base_model"] in ("base", "lora")
        assert "lora" in told.text or "adapter" in told.text


def test_whole_models_and_adapters_are_not_confused(adapter: tuple[Path, Path], tmp_path: Path):
    base_, lora = adapter
    with pytest.raises(UserError, match="is a whole model and no adapter"):
        export.to_peft(base_, tmp_path / "x", base=None, dtype="auto")
    with pytest.raises(UserError, match="is an adapter; merge it first"):
        list(export.to_gguf(lora, tmp_path / "x.gguf", type="f16"))
    with pytest.raises(UserError, match="--base is for adapters"):
        export.to_hf(base_, tmp_path / "x", base=str(base_), dtype="auto")


def test_a_gguf_file_has_its_card_beside_it(trained: Path, tmp_path: Path):
    events = list(export.to_gguf(trained / "model", tmp_path / "m.gguf", type="q8_0"))
    made = events[-1]
    assert isinstance(made, export.Exported)
    read = ModelCard.load(made.card)
    assert read.data.to_dict()["tags"] == ["headrace", "gguf", "q8_0"]
    assert "as one GGUF file" in read.text
    assert "updates.steps = 3" in read.text
    assert read.text.count("---\n") < 3
