"""A model, what is trained of it, a batch -> the memory that a step needs, by a dry run.

    found = estimate(Workload(config=config, adapter=adapter, batch_tokens=4096))
    found.peak_bytes, found.parts                # what it needs and of what

The decoder that will be trained is built without values, with its adapters, and one step goes
through it while every tensor that comes and goes is counted: nothing is assumed of what a layer
keeps for its backward pass, so a change of decoder or adapter is a change of the estimate. Three
and four layers are run; all that is counted grows by the same amount with each layer more.

What glibc's allocator adds to that, in fragments, is allowed for: 35 % of what comes and goes, as
measured; nearly nothing after `tighten`, which QLoRA runs call.

Legend: T tokens of a batch, C rows of a chunk, D model width, V vocabulary, N query heads, K key
heads, H head dim.
"""

import ctypes
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from headrace.model import adapters
from headrace.model.adapters import Adapter
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.training.ledger import Ledger
from headrace.training.logprobs import CHUNK_ROWS

_LOOSE, _TIGHT = 0.35, 0.05
_MMAP_THRESHOLD, _TIGHT_BYTES = -3, 1 << 20  # glibc's M_MMAP_THRESHOLD
_PHASES = ("forward", "loss", "backward begins", "backward ends")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """All that the memory of a step depends on."""

    config: ModelConfig
    adapter: Adapter
    batch_tokens: int
    """Tokens of one forward and backward pass."""
    passes: int = 1
    """Passes of a step: from the second on, gradients are there while activations are."""
    supervised: float = 1.0
    """Share of the tokens whose scores the loss needs."""
    optimizer: str = "adamw"
    """adamw | muon."""
    precision: str = "float32"
    """Of products: float32 | bfloat16; weights that are not in NF4 are float32 either way."""
    checkpoint_activations: bool = False
    """Whether each layer's inside is computed again in the backward pass."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a step needs."""

    peak_bytes: int
    phase: str
    """When: forward, loss, backward begins, backward ends, update."""
    parts: Mapping[str, int]
    """What is there at the peak: weights, adapters, gradients, optimizer, activations (all that
    lives for a part of a step), process (what the interpreter and its libraries occupy)."""


def estimate(work: Workload, *, process_bytes: int | None = None) -> Estimate:
    """Run one step without values.

    Args:
        work: The step.
        process_bytes: What the process occupies beside; None = what this one does now, before a
            model is loaded, on a CPU, and nothing on a GPU.
    """
    layers = work.config.num_hidden_layers
    short, long = (_dry_run(work, count) for count in (3, 4))

    if process_bytes is None:  # after the run, which loads what training will load as well
        process_bytes = resident_bytes() if work.device == "cpu" else 0

    def grown(name: str) -> int:
        return short[name] + (long[name] - short[name]) * (layers - 3)

    weights, trained = grown("weights"), grown("trained")
    states = grown("optimizer")
    fixed = weights + states + process_bytes
    gradients = grown("gradients")
    peaks = {name: grown(name) + process_bytes + states for name in _PHASES}
    if work.passes > 1:
        peaks = {
            name: peak + (0 if name == "backward ends" else gradients)
            for name, peak in peaks.items()
        }
    # A GPU's AdamW makes its temporaries for all parameters at once, a CPU's for one at a time.
    update = gradients if work.device != "cpu" else 2 * short["largest"]
    peaks["update"] = fixed + gradients + update
    late = ("backward ends", "update")
    there = {name: gradients if name in late or work.passes > 1 else 0 for name in peaks}
    if work.device == "cpu":
        share = _TIGHT if work.adapter.method == "qlora" else _LOOSE
        for name, peak in peaks.items():
            peaks[name] = peak + int(share * max(0, peak - fixed - there[name]))
    phase = max(peaks, key=lambda name: peaks[name])
    return Estimate(
        peak_bytes=peaks[phase],
        phase=phase,
        parts={
            "weights": weights - (trained if work.adapter.method != "none" else 0),
            "adapters": trained if work.adapter.method != "none" else 0,
            "gradients": there[phase],
            "optimizer": states,
            "activations": peaks[phase] - fixed - there[phase],
            "process": process_bytes,
        },
    )


def _dry_run(work: Workload, layers: int) -> dict[str, int]:
    """Bytes that exist at the moments of a step of a model with so many layers."""
    config = replace(work.config, num_hidden_layers=layers, windows=work.config.windows[:layers])
    ledger = Ledger()
    found: dict[str, int] = {}
    with ledger, torch.device("meta"):
        decoder = Decoder(config)
        if work.adapter.method == "none":
            decoder.requires_grad_(requires_grad=True)
        else:
            adapters.attach(decoder, _plan(work, layers))
        decoder.train()
        found["weights"] = ledger.live
        trained = [p for p in decoder.parameters() if p.requires_grad]
        found["trained"] = sum(p.nbytes for p in trained)
        found["largest"] = max(p.nbytes for p in trained)
        found["optimizer"] = _optimizer_bytes(decoder, work.optimizer)
        _wrap(decoder, work)
        _watch(decoder, ledger, found)
        ids_T = torch.zeros(work.batch_tokens, dtype=torch.long)
        pos_T = torch.arange(work.batch_tokens)
        ledger.restart()
        hidden_TD = decoder.hidden(ids_T, pos_T, _attend)
        if work.precision == "bfloat16":
            hidden_TD = hidden_TD.to(torch.bfloat16)
        found["forward"] = ledger.peak
        ledger.restart()
        rows = max(1, round(work.batch_tokens * work.supervised))
        loss = _HeadLoss.apply(hidden_TD, decoder.head_VD, rows)
        found["loss"] = ledger.peak
        ledger.restart()
        del hidden_TD
        loss.backward()
        found["backward ends"] = ledger.peak
        found["gradients"] = sum(p.grad.nbytes for p in trained if p.grad is not None)
    return found


def _plan(work: Workload, layers: int) -> adapters.Plan:
    """The model's adapters on fewer layers: what one layer has, all are taken to have."""
    full = adapters.plan(work.config, work.adapter)

    def here(name: str) -> list[str]:
        _, found, rest = name.partition("model.layers.")
        kind = rest.partition(".")[2]
        return [f"model.layers.{index}.{kind}" for index in range(layers)] if found else [name]

    return replace(
        full,
        specs={own: spec for name, spec in full.specs.items() for own in here(name)},
        whole=tuple(dict.fromkeys(own for name in full.whole for own in here(name))),
    )


def _wrap(decoder: Decoder, work: Workload) -> None:
    """What `training.compute` puts around layers, as far as it changes what is kept."""
    for layer in decoder.layers:
        forward = layer.forward
        if work.precision == "bfloat16":
            forward = partial(_narrowly, forward)
        if work.checkpoint_activations:
            forward = partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
        layer.forward = forward


def _narrowly(forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
    with _Narrow():
        return forward(*inputs)


class _Narrow(TorchFunctionMode):
    """Autocast as far as linears go: the meta device has none."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.linear:
            args = tuple(x.to(torch.bfloat16) if isinstance(x, Tensor) else x for x in args)
        return func(*args, **(kwargs or {}))


def _watch(decoder: Decoder, ledger: Ledger, found: dict[str, int]) -> None:
    """Note the peak of the last layer's backward pass, and of the first's apart."""

    def of_last(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        def note(_: Tensor) -> None:
            found["backward begins"] = ledger.peak
            ledger.restart()

        if inputs[0].requires_grad:
            inputs[0].register_hook(note)

    def of_first(_: nn.Module, __: Any, output: Tensor) -> None:
        output.register_hook(lambda _: ledger.restart())

    decoder.layers[-1].register_forward_pre_hook(of_last)
    decoder.layers[0].register_forward_hook(of_first)


def _optimizer_bytes(decoder: Decoder, optimizer: str) -> int:
    """AdamW keeps two numbers a parameter, Muon one; both in the parameter's own type."""
    total = 0
    for name, param in decoder.named_parameters():
        if param.requires_grad:
            muon = optimizer == "muon" and param.ndim == 2 and ".layers." in f".{name}"
            total += param.nbytes * (1 if muon else 2)
    return total


def _attend(layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, window: int | None) -> Tensor:
    del layer, window
    return _Attention.apply(q_TNH, k_TKH, v_TKH)


class _Attention(torch.autograd.Function):
    """What fused attention keeps: its operands, its output and a normaliser a row."""

    @staticmethod
    def forward(ctx: Any, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor) -> Tensor:
        out_TNH = torch.empty_like(q_TNH)
        normaliser_TN = q_TNH.new_empty(q_TNH.shape[:2], dtype=torch.float32)
        ctx.save_for_backward(q_TNH, k_TKH, v_TKH, out_TNH, normaliser_TN)
        return out_TNH.clone()  # documents are laid end to end again

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_TNH, k_TKH, v_TKH = ctx.saved_tensors[:3]
        return torch.empty_like(q_TNH), torch.empty_like(k_TKH), torch.empty_like(v_TKH)


class _HeadLoss(torch.autograd.Function):
    """What cross entropy in chunks makes: `objectives.cross_entropy`, which asks for values."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, head_VD: Tensor, rows: int) -> Tensor:
        wants_hidden, wants_head, _ = ctx.needs_input_grad
        grad_hidden_TD = torch.zeros_like(hidden_TD) if wants_hidden else None
        grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32) if wants_head else None
        narrow_VD = head_VD.to(hidden_TD.dtype)
        # A chunk is there until the next one is.
        for count in (min(rows, CHUNK_ROWS), min(rows - CHUNK_ROWS, CHUNK_ROWS)):
            if count <= 0:
                continue
            hidden_CD = hidden_TD[:count].clone()
            logp_CV = torch.log_softmax((hidden_CD @ narrow_VD.T).float(), dim=-1)
            grad_CV = logp_CV.exp_().to(hidden_TD.dtype)
            if grad_hidden_TD is not None:
                grad_hidden_TD[: len(grad_CV)] = grad_CV @ narrow_VD
        hidden_CD = logp_CV = grad_CV = None
        if grad_head_VD is not None:
            grad_head_VD = grad_head_VD.to(head_VD.dtype)
        ctx.save_for_backward(grad_hidden_TD, grad_head_VD)
        return hidden_TD.new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden_TD, grad_head_VD = ctx.saved_tensors
        return (
            None if grad_hidden_TD is None else grad_hidden_TD * grads[0],
            None if grad_head_VD is None else grad_head_VD * grads[0],
            None,
        )


def tighten() -> bool:
    """Have tensors of a mebibyte and more go back to the system as soon as they are freed.

    glibc keeps blocks of up to 32 MiB for itself, whose fragments grow a LoRA step's memory by a
    fifth; without that a step takes some per cent longer, for its pages are cleared anew.

    Returns:
        Whether this C library can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, _TIGHT_BYTES))


def resident_bytes() -> int:
    """What this process occupies now."""
    status = Path("/proc/self/statm")
    if not status.is_file():
        return 0
    return int(status.read_text().split()[1]) * 4096
