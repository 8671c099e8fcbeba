"""A decoder ⇄ the same decoder with adapters around some of its modules.

    chosen = Adapter(method="lora", rank=16, targets="q_proj,v_proj")
    attach(decoder, plan(decoder.config, chosen), seed=0)   # base frozen, adapters trainable
    with adapters_off(decoder): ...                         # the base alone: a DPO reference
    merge(decoder); unmerge(decoder)                        # exact: the base is kept beside
    detach(decoder)                                         # the decoder that there was
    config = bake(decoder)                                  # or one with the sums in its place

Invariant: `attach` changes no output (B, or an embedding's A, is zero) and freezes every parameter
that was there; `detach` and `unmerge` give the base back bit for bit, for its tensors are never
written.

A head that is tied to the embedding is untied as soon as either end is adapted, as in PEFT: the two
then compute different things. Until something is baked they still share the one tensor.

Modules go by their names in a checkpoint file, without `.weight`.
"""

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from headrace.errors import ConfigError, UserError
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder, Embedding, Linear
from headrace.model.lora import LoraEmbedding, LoraLinear, Spec, Whole, Wrapper
from headrace.model.matrices import matrices
from headrace.model.nf4 import BLOCKS, Nf4Linear, quantize
from headrace.model.quantization import HEAD

EMBEDDING = "model.embed_tokens"
ALL_LINEAR = "all-linear"
METHODS = ("lora", "rslora", "dora", "qlora")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """What to train of a model, as a section of a recipe: `--set adapter.rank=8`."""

    method: Literal["none", "lora", "rslora", "dora", "qlora"] = "none"
    """none = the whole model; rslora = lora with scale alpha / sqrt(rank); dora = lora with a
    trained magnitude a row; qlora = lora over a base in NF4."""
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    """Share of an adapter's inputs dropped while training."""
    targets: str = ALL_LINEAR
    """Modules that get an adapter, parted by commas: a name or part of one between dots, `*` for
    anything (q_proj, mlp, layers.0.self_attn.*); all-linear = every matrix but the head."""
    whole: str = ""
    """Modules trained whole beside the adapters, likewise: lm_head, embed_tokens, norm."""
    rslora: bool = False
    """The scale of rslora with another method."""
    dora: bool = False
    """The magnitudes of dora with another method."""
    nf4_block: int = 64
    """Numbers that share a scale in a qlora base."""
    nf4_double: bool = True
    """Whether those scales are quantized as well."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"adapter.rank {self.rank} is not a positive integer")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"adapter.dropout {self.dropout} is not in [0, 1)")
        if self.nf4_block not in BLOCKS:
            raise ConfigError(
                f"adapter.nf4_block {self.nf4_block} is not one of {', '.join(map(str, BLOCKS))}"
            )

    @property
    def spec(self) -> Spec:
        """The adapter of each target."""
        return Spec(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            rslora=self.rslora or self.method == "rslora",
            dora=self.dora or self.method == "dora",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Which modules of a decoder are adapted, and how; names as in a checkpoint file."""

    specs: Mapping[str, Spec]
    whole: tuple[str, ...] = ()
    base: Mapping[str, int | bool] = field(default_factory=dict[str, int | bool])
    """`block` and `double` of an NF4 base; empty = full precision."""


def plan(config: ModelConfig, adapter: Adapter) -> Plan:
    """Resolve a recipe's patterns against a model.

    Raises:
        ConfigError: A pattern that fits nothing, a module named twice, dropout before the head, or
            a model that is quantized already.
    """
    if adapter.method == "none":
        raise ConfigError(f"adapter.method is none; choose one of {', '.join(METHODS)}")
    if config.quantization is not None:
        raise ConfigError(
            f"the model is stored as {config.quantization.format}, which cannot be adapted; use "
            "the full-precision checkpoint, with adapter.method=qlora for a small base"
        )
    targets = _matched(config, adapter.targets, "adapter.targets", _adaptable(config))
    if not targets:
        raise ConfigError("adapter.targets is empty; name modules, or all-linear")
    whole = _matched(config, adapter.whole, "adapter.whole", module_names(config))
    twice = sorted(set(targets) & set(whole))
    if twice:
        raise ConfigError(f"{twice[0]} is named by both adapter.targets and adapter.whole")
    quantized = adapter.method == "qlora"
    made = Plan(
        specs=dict.fromkeys(targets, adapter.spec),
        whole=whole,
        base={"block": adapter.nf4_block, "double": adapter.nf4_double} if quantized else {},
    )
    check(config, made)
    return made


def check(config: ModelConfig, plan: Plan) -> None:
    """Refuse what cannot be computed.

    Raises:
        ConfigError: Dropout before the head, whose scores are made from its matrix alone.
    """
    if HEAD in plan.specs and plan.specs[HEAD].dropout > 0:
        raise ConfigError(
            f"adapter.dropout {plan.specs[HEAD].dropout} cannot act before lm_head, whose loss is "
            "computed in chunks from its matrix; set adapter.dropout=0 or leave lm_head out"
        )
    del config


def module_names(config: ModelConfig) -> tuple[str, ...]:
    """Every module that has weights, in the order they run."""
    layer = ("self_attn", "mlp")
    names = [EMBEDDING]
    listed = [name for name in matrices(config) if name != HEAD]
    for index in range(config.num_hidden_layers):
        prefix = f"model.layers.{index}."
        names.append(f"{prefix}input_layernorm")
        own = [name for name in listed if name.startswith(prefix)]
        names += [name for name in own if f".{layer[0]}." in name]
        if config.qk_norm:
            names += [f"{prefix}self_attn.q_norm", f"{prefix}self_attn.k_norm"]
        names.append(f"{prefix}post_attention_layernorm")
        names += [name for name in own if f".{layer[1]}." in name]
    return (*names, "model.norm", HEAD)


def attach(decoder: Decoder, plan: Plan, *, seed: int = 0) -> None:
    """Freeze a decoder, quantize its base if so planned, put adapters around the planned modules.

    Args:
        decoder: Changed. A base that is loaded in NF4 already stays as it is.
        plan: Of this decoder's config.
        seed: Of the random halves of the adapters.

    Raises:
        UserError: The decoder has adapters already, or lacks a module of the plan.
    """
    if wrappers(decoder):
        raise UserError("the model has adapters already; detach or bake them first")
    decoder.requires_grad_(requires_grad=False)
    if plan.base:
        quantize_base(
            decoder,
            block=int(plan.base["block"]),
            double=bool(plan.base["double"]),
            skip=plan.whole,
        )
    if {HEAD, EMBEDDING} & {*plan.specs, *plan.whole} and decoder.lm_head is None:
        decoder.lm_head = _linear(decoder.embed_tokens.weight, None)
    generator = torch.Generator().manual_seed(seed)
    for name, spec in plan.specs.items():
        base = module_of(decoder, name)
        if isinstance(base, nn.Embedding):
            put(decoder, name, LoraEmbedding(base, spec, generator=generator))
        elif isinstance(base, nn.Linear | Nf4Linear):
            put(decoder, name, LoraLinear(base, spec, generator=generator))
        else:
            raise UserError(f"{name} is a {type(base).__name__}, which cannot get an adapter")
    for name in plan.whole:
        base = module_of(decoder, name)
        put(decoder, name, Whole(base, _trained_copy(base)))


def wrappers(decoder: Decoder) -> dict[str, Wrapper]:
    """The adapted modules by name."""
    return {
        _file_name(name): module
        for name, module in decoder.named_modules()
        if isinstance(module, Wrapper)
    }


@contextmanager
def adapters_off(decoder: Decoder) -> Generator[None]:
    """The base model inside the block: a reference without a second copy of the weights.

    Raises:
        UserError: The adapters are merged: there is nothing to switch off.
    """
    found = list(wrappers(decoder).values())
    if any(wrapper.merged is not None for wrapper in found):
        raise UserError("the adapters are merged; unmerge them before asking for the base model")
    before = [wrapper.enabled for wrapper in found]
    try:
        for wrapper in found:
            wrapper.enabled = False
        yield
    finally:
        for wrapper, enabled in zip(found, before, strict=True):
            wrapper.enabled = enabled


@torch.no_grad()
def merge(decoder: Decoder) -> None:
    """Compute with one matrix a module; the base's stays beside it, so memory holds both.

    Over an NF4 base the sum is with the matrix that NF4 stands for.

    Raises:
        UserError: A sum that is not finite; nothing is merged then.
    """
    sums: list[tuple[Wrapper, Tensor]] = []
    for name, wrapper in wrappers(decoder).items():
        total = wrapper.effective().detach()
        if not bool(torch.isfinite(total).all()):
            raise UserError(f"the adapter of {name} makes weights that are not finite; drop it")
        sums.append((wrapper, total))
    for wrapper, total in sums:
        wrapper.merged = total


def unmerge(decoder: Decoder) -> None:
    """Compute with base and adapter apart again, exactly as before `merge`."""
    for wrapper in wrappers(decoder).values():
        wrapper.merged = None


def detach(decoder: Decoder) -> None:
    """Take all adapters off; the base is what it was, an NF4 one still in NF4."""
    for name, wrapper in wrappers(decoder).items():
        put(decoder, name, wrapper.base)
    head = decoder.lm_head
    if head is not None and decoder.config.tie_word_embeddings:
        decoder.lm_head = None


@torch.no_grad()
def bake(decoder: Decoder) -> ModelConfig:
    """Put the sums in the modules' places: a plain decoder without adapters or NF4.

    Returns:
        Its config, whose head is its own where adapting untied it.

    Raises:
        UserError: As `merge`.
    """
    merge(decoder)
    untied = decoder.lm_head is not None and decoder.config.tie_word_embeddings
    for name, wrapper in wrappers(decoder).items():
        put(decoder, name, _plain(wrapper))
    for name, module in list(decoder.named_modules()):
        if isinstance(module, Nf4Linear):
            put(decoder, _file_name(name), _dense(module))
    if untied:
        decoder.config = replace(decoder.config, tie_word_embeddings=False)
    return decoder.config


def quantize_base(
    decoder: Decoder, *, block: int = 64, double: bool = True, skip: Collection[str] = ()
) -> None:
    """Store the layers' matrices in NF4, in place.

    Embeddings, norms and head stay as they are, and so does what `skip` names; a matrix that is in
    NF4 already, too.
    """
    for name in matrices(decoder.config):
        module = None if name == HEAD or name in skip else module_of(decoder, name)
        if isinstance(module, nn.Linear):
            dtype = module.weight.dtype
            stored = quantize(module.weight.detach(), block=block, double=double)
            put(decoder, name, Nf4Linear(stored, dtype=dtype, bias=module.bias))


def module_of(decoder: Decoder, name: str) -> nn.Module:
    """A module by its name in a file.

    Raises:
        UserError: There is none.
    """
    try:
        return decoder.get_submodule(name.removeprefix("model."))
    except AttributeError:
        raise UserError(
            f"the model has no module {name!r}; there are {', '.join(_kinds(decoder.config))}"
        ) from None


def put(decoder: Decoder, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    parent, _, attribute = name.removeprefix("model.").rpartition(".")
    module.train(decoder.training)
    owner = decoder.get_submodule(parent)
    owner.register_module(attribute, module)


def _plain(wrapper: Wrapper) -> nn.Module:
    if isinstance(wrapper, Whole):
        return wrapper.trained.requires_grad_(requires_grad=False)
    assert wrapper.merged is not None
    if isinstance(wrapper, LoraEmbedding):
        rows, dim = wrapper.merged.shape
        table = Embedding(rows, dim, device="meta")
        table.weight = nn.Parameter(wrapper.merged, requires_grad=False)
        return table
    assert isinstance(wrapper, LoraLinear)
    return _linear(wrapper.merged, wrapper.linear.bias)


def _dense(module: Nf4Linear) -> nn.Linear:
    return _linear(module.weight, module.bias)


def _linear(weight_OI: Tensor, bias: nn.Parameter | None) -> Linear:
    rows, cols = weight_OI.shape
    made = Linear(cols, rows, bias=False, device="meta")
    frozen = nn.Parameter(weight_OI, requires_grad=False)
    made.weight = weight_OI if isinstance(weight_OI, nn.Parameter) else frozen
    made.register_parameter("bias", bias)
    return made


def _trained_copy(base: nn.Module) -> nn.Module:
    made = deepcopy(base)
    return made.requires_grad_(requires_grad=True)


def _file_name(name: str) -> str:
    return name if name == HEAD else f"model.{name}"


def _adaptable(config: ModelConfig) -> tuple[str, ...]:
    return (EMBEDDING, *matrices(config))


def _matched(
    config: ModelConfig, patterns: str, key: str, names: tuple[str, ...]
) -> tuple[str, ...]:
    """The names that comma-separated patterns fit, in the model's order."""
    found: set[str] = set()
    for pattern in (part.strip() for part in patterns.split(",")):
        if not pattern:
            continue
        if pattern == ALL_LINEAR and names == _adaptable(config):
            found |= {name for name in names if name not in (HEAD, EMBEDDING)}
            continue
        fitting = {name for name in names if fnmatchcase(f".{name}.", f"*.{pattern}.*")}
        if not fitting:
            kinds = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            also = f"; or {ALL_LINEAR}" if names == _adaptable(config) else ""
            raise ConfigError(f"{key}: {pattern!r} fits no module; there are {kinds}{also}")
        found |= fitting
    return tuple(name for name in names if name in found)


def _kinds(config: ModelConfig) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in module_names(config)})
