"""A model directory -> what a tuning method starts from; the tuned decoder -> OUT/model.

Shared by every method that begins with a model: what is read once and written back unchanged is
the tokenizer, the chat template and the generation defaults, so that the tuned model serves as its
base does.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headrace.errors import CheckpointError, ConfigError
from headrace.model import adapters, checkpoint
from headrace.model.adapter_files import Origin, save_adapter
from headrace.model.adapters import Adapter
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.files import peek
from headrace.model.generation import GenerationDefaults
from headrace.model.nf4 import Nf4Linear
from headrace.model.nf4_load import load_nf4
from headrace.tokens import ChatTemplate, Tokenizer, render
from headrace.training import card, fit, memory, sample
from headrace.training.recipe import Compute, Rows, Shape, Updates
from headrace.training.supervise import turn_end
from headrace.training.watch import Published
from headrace.types import Message

WHOLE_MODEL = Adapter()
CARRIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
"""Files of a model beside its weights and config that stay as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A model that is to be tuned."""

    decoder: Decoder
    """In float32, its memory its own, or with adapters over weights that stay as they are."""
    tokenizer: Tokenizer
    template: ChatTemplate
    loaded: checkpoint.Checkpoint
    """As it was read: its fingerprint, generation defaults and path."""


def fresh(shape: Shape, *, seed: int, eos_id: int | None, pad_id: int | None) -> Decoder:
    """A new Qwen3-shaped decoder that begins as the identity.

    What its layers add to the stream starts at zero (as in muP, arXiv 2203.03466).
    """
    config = ModelConfig.from_hf(
        {
            "model_type": "qwen3",
            "vocab_size": shape.vocab_tokens,
            "hidden_size": shape.width,
            "intermediate_size": shape.mlp_width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_width,
            "max_position_embeddings": shape.context_tokens,
            "rope_theta": shape.rope_theta,
            "tie_word_embeddings": True,
            "eos_token_id": eos_id,
            "pad_token_id": pad_id,
        }
    )
    decoder = Decoder(config)
    decoder.init_weights(seed)
    for name, param in decoder.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            param.data.zero_()
    return decoder


def read(model: Path, adapter: Adapter = WHOLE_MODEL, *, seed: int = 0) -> Base:
    """Load what is to be tuned, with adapters where they are asked for.

    Args:
        model: A full-precision directory.
        adapter: What of it is trained.
        seed: Of fresh adapters.

    Raises:
        CheckpointError: It cannot be loaded, or is quantized.
        ConfigError: An adapter that does not fit it.
    """
    if adapter.method != "none":
        return _adapted(model, adapter, seed)
    loaded = checkpoint.load(model, dtype="float32")
    if loaded.config.quantization is not None:
        raise CheckpointError(
            f"{model} is quantized, and its weights cannot be trained; give the model it was "
            "made from"
        )
    for param in loaded.decoder.parameters():
        # Weights are mapped from the file, which a step must not write to.
        param.data = param.data.clone()
        param.requires_grad_(True)
    return _base(model, loaded)


def _adapted(model: Path, adapter: Adapter, seed: int) -> Base:
    plan = adapters.plan(peek(model).config, adapter)
    if plan.base:
        memory.tighten()
        loaded = load_nf4(
            model,
            dtype="float32",
            block=int(plan.base["block"]),
            double=bool(plan.base["double"]),
            skip=plan.whole,
        )
    else:
        loaded = checkpoint.load(model, dtype="float32")
    adapters.attach(loaded.decoder, plan, seed=seed)
    loaded.decoder.train()  # dropout; it rests wherever gradients are off
    return _base(model, loaded)


def _base(model: Path, loaded: checkpoint.Checkpoint) -> Base:
    return Base(
        decoder=loaded.decoder,
        tokenizer=Tokenizer.load(model),
        template=ChatTemplate.load(model),
        loaded=loaded,
    )


def foresee(
    model: Path, adapter: Adapter, *, rows: Rows, updates: Updates, compute: Compute, device: str
) -> dict[str, int]:
    """What a run over rows of text will need and what is there, in MiB, for `Prepared.facts`.

    Raises:
        ConfigError: It will not fit; the message says what would.
    """
    work = memory.Workload(
        config=peek(model).config,
        adapter=adapter,
        batch_tokens=min(rows.batch_tokens, rows.per_step * rows.row_tokens),
        passes=2 if rows.per_step * rows.row_tokens > rows.batch_tokens else 1,
        optimizer=updates.optimizer,
        precision=compute.precision,
        checkpoint_activations=compute.checkpoint_activations,
        device=device,
    )
    found = fit.check(work, row_tokens=rows.row_tokens)
    return {
        "MiB at most in memory, estimated": found.peak_bytes >> 20,
        "MiB free now": fit.available_bytes(device) >> 20,
    }


def publish(base: Base, decoder: Decoder, out: Path, *, dtype: str = "auto") -> Published:
    """Write OUT/model and its card, in the place of one that is there; adapters beside it, too.

    Adapters are merged into what they were trained over, and `decoder` is a plain one after it.

    Args:
        base: What it was made from.
        decoder: The tuned weights.
        out: The run's directory.
        dtype: Of the file; auto = what the base is stored in.
    """
    target = out / "model"
    config = replace(base.loaded.config, quantization=None)
    if adapters.wrappers(decoder):
        config = baked(base, decoder, out)
    stored = base.loaded.config.dtype if dtype == "auto" else dtype
    facts = card.facts_of_run(decoder, dtype=stored, run=out, base=base.loaded.path)
    checkpoint.save(
        decoder,
        config,
        target,
        dtype=stored,
        generation=_stopping(base),
        beside={**carried(base), card.CARD: card.card(facts).encode()},
        replace_existing=True,
    )
    return published(target)


def _stopping(base: Base) -> GenerationDefaults:
    """The base's defaults, which also stop at the end of a turn: a text model's do not."""
    known, ends = base.loaded.generation, end_ids(base)
    return known if ends == base.loaded.eos_ids else replace(known, eos_token_ids=ends)


def end_ids(base: Base) -> tuple[int, ...]:
    """Tokens that end an answer: where serving stops, and where the template ends a turn."""
    end, known = turn_end(base.tokenizer, base.template), base.loaded.eos_ids
    return known if end is None or end in known else (end, *known)


def baked(base: Base, decoder: Decoder, out: Path) -> ModelConfig:
    """Write OUT/adapter in PEFT's format and put the sums in the decoder; its config."""
    in_nf4 = [module for module in decoder.modules() if isinstance(module, Nf4Linear)]
    stored: dict[str, int | bool] = {}
    for module in in_nf4:
        stored = {"block": module.block, "double": module.offset is not None}
        module.dtype = checkpoint.DTYPES[base.loaded.config.dtype]  # half the sum's memory
    save_adapter(
        decoder,
        out / "adapter",
        base=str(base.loaded.path),
        origin=Origin(fingerprint=base.loaded.fingerprint, nf4=stored),
        replace_existing=True,
    )
    return adapters.bake(decoder)


def carried(base: Base) -> dict[str, bytes]:
    """The base's files that the tuned model is used with, unchanged."""
    source = base.loaded.path
    return {n: (source / n).read_bytes() for n in CARRIED if (source / n).is_file()}


def published(target: Path) -> Published:
    """What `target` holds, for the last event of a run."""
    size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    return Published(path=target, weight_bytes=size)


def with_steps(updates: Updates, *, epochs: float, rows: int, per_step: int) -> Updates:
    """The updates; where `steps` is 0, as many as `epochs` over the rows are.

    Raises:
        ConfigError: Neither says how long to train.
    """
    if updates.steps:
        return updates
    if not epochs > 0:
        raise ConfigError(f"epochs {epochs} with updates.steps 0 trains nothing; raise one")
    return replace(updates, steps=max(1, math.ceil(epochs * rows / per_step)))


def answers(
    base: Base, prompts: Sequence[Sequence[Message]], *, max_tokens: int
) -> Iterator[tuple[str, str]]:
    """(last message, greedy answer) of each conversation; an unfinished one ends in an ellipsis."""
    ends = set(end_ids(base))
    for messages in prompts:
        rendered = render(base.tokenizer, base.template, messages, add_generation_prompt=True)
        ids = sample.greedy(base.decoder, rendered.ids, max_tokens=max_tokens, eos_ids=ends)
        ended = bool(ids) and ids[-1] in ends
        yield messages[-1].text, base.tokenizer.decode(ids) + ("" if ended else " …")
