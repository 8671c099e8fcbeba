"""A decoder and texts as ids → the same decoder, quantized so that these texts see least of it.

Layer by layer, in the order that data runs. A matrix's inputs are taken from the decoder as far as
it is quantized already, with activations rounded as serving will round them, so that it answers for
what it will really meet; and it is fitted to give what the full-precision decoder gives on its own
inputs (`gptq.toward`). Within a layer likewise: queries, keys and values; the attention's output;
gate and up; down. The head comes first, because the embedding may be it.

Invariant: the decoder is changed in place; beside it live one layer's copy and two sets of hidden
states, `[tokens, width]` each.

Shapes: T rows, D model, I inputs, O outputs.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from headrace.kernels import tiles
from headrace.kernels.tiles import Quantized
from headrace.model import gptq
from headrace.model.attend import Packed
from headrace.model.decoder import Decoder
from headrace.model.quantization import FULL, HEAD, Quantization
from headrace.model.quantized import from_integers, linear_of, put
from headrace.model.rope import Angles

_STAGES = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""Matrices of a layer that share their inputs, in the order they run."""

_TIED_DAMPING = 1.0
"""A tied head's rows are also looked up as they are, where an error in any column counts alike: its
gram is halfway the identity's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """Packed documents: what `Decoder.hidden` takes."""

    ids_T: Tensor
    pos_T: Tensor
    doc_T: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixDone:
    """One matrix is quantized."""

    name: str
    format: str
    error: float
    """Mean square of what quantizing changes in its outputs on the texts, over that of the outputs
    themselves; activations that are rounded to int8 are not counted."""
    rounding_error: float
    """The same if it were rounded to nearest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stream:
    """One text on its way through the layers."""

    angles: Angles
    attend: Packed


class _Moments(NamedTuple):
    """Means over the rows of a matrix's inputs."""

    gram_II: Tensor
    """Of x x^T, x as the quantized decoder has it."""
    drift_II: Tensor
    """Of (x' - x) x^T, x' as the full-precision decoder has it."""


class _Reached(Exception):
    """A forward pass came to the module whose input is wanted."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


@torch.no_grad()
def quantize_calibrated(
    decoder: Decoder, texts: Sequence[Text], quantization: Quantization
) -> Iterator[MatrixDone]:
    """Quantize a full-precision decoder in place, by error compensation.

    Args:
        decoder: In float32.
        texts: What to calibrate on.
        quantization: As `quantized.plan` makes it, of int8 or int4.
    """
    streams = [
        _Stream(angles=decoder.rope.angles(text.pos_T), attend=Packed(text.doc_T)) for text in texts
    ]
    exact = [decoder.embed_tokens(text.ids_T) for text in texts]
    if quantization.of(HEAD) != FULL:
        yield _fit_head(decoder, exact, streams, quantization)
    hidden = [decoder.embed_tokens(text.ids_T) for text in texts]
    for number, layer in enumerate(decoder.layers):
        original = copy.deepcopy(layer)
        for stage in _STAGES:
            names = [f"model.layers.{number}.{name}" for name in stage]
            names = [name for name in names if quantization.of(name) != FULL]
            if not names:
                continue
            moments = _moments(
                _inputs(original, stage[0], exact, streams),
                _inputs(layer, stage[0], hidden, streams),
                quantization.group,
            )
            for name in names:
                yield _fit(decoder, name, moments, quantization, damping=gptq.DAMPING)
        exact = _run(original, exact, streams)
        hidden = _run(layer, hidden, streams)


def _fit_head(
    decoder: Decoder, hidden: list[Tensor], streams: Sequence[_Stream], quantization: Quantization
) -> MatrixDone:
    for layer in decoder.layers:
        hidden = _run(layer, hidden, streams)
    final = [decoder.norm(x_TD) for x_TD in hidden]
    moments = _moments(final, final, quantization.group)
    damping = _TIED_DAMPING if decoder.config.tie_word_embeddings else gptq.DAMPING
    return _fit(decoder, HEAD, moments, quantization, damping=damping)


def _fit(
    decoder: Decoder, name: str, moments: _Moments, quantization: Quantization, *, damping: float
) -> MatrixDone:
    linear = linear_of(decoder, name)
    weight_OI = linear.weight.detach().float()
    format, group = quantization.of(name), quantization.group
    target_OI = gptq.toward(weight_OI, moments.gram_II, moments.drift_II, damping=damping)
    fitted = gptq.fit(target_OI, moments.gram_II, format=format, group=group, damping=damping)
    put(decoder, name, from_integers(linear, *fitted, format=format, group=group))
    nearest = tiles.quantize(weight_OI, format, group)
    whole = float(gptq.power(weight_OI, moments.gram_II).sum())

    def share(made: Quantized) -> float:
        error = float(gptq.errors(target_OI, made, moments.gram_II, group).sum())
        return error / whole if whole else 0.0

    return MatrixDone(name=name, format=format, error=share(fitted), rounding_error=share(nearest))


def _moments(exact: Iterable[Tensor], current: Iterable[Tensor], group: int) -> _Moments:
    """Means over all rows, with the current inputs rounded as serving rounds them."""
    rows, gram_II, drift_II = 0, torch.zeros(()), torch.zeros(())
    for exact_TI, current_TI in zip(exact, current, strict=True):
        rounded_TI = tiles.round_activations(current_TI, group)
        gram_II = gram_II + rounded_TI.T @ rounded_TI
        drift_II = drift_II + (exact_TI - rounded_TI).T @ rounded_TI
        rows += len(rounded_TI)
    return _Moments(gram_II / rows, drift_II / rows)


def _run(layer: nn.Module, hidden: Sequence[Tensor], streams: Sequence[_Stream]) -> list[Tensor]:
    return [
        layer(x_TD, stream.angles, stream.attend)
        for x_TD, stream in zip(hidden, streams, strict=True)
    ]


def _inputs(
    layer: nn.Module, name: str, hidden: Sequence[Tensor], streams: Sequence[_Stream]
) -> Iterator[Tensor]:
    """What one of the layer's modules is given; the layer runs no further than there."""

    def stop(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise _Reached(inputs[0])

    for x_TD, stream in zip(hidden, streams, strict=True):
        hook = layer.get_submodule(name).register_forward_pre_hook(stop)
        try:
            layer(x_TD, stream.angles, stream.attend)
        except _Reached as reached:
            yield reached.x
        finally:
            hook.remove()
