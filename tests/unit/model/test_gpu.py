"""The GPU's stack against the torch decoder: families, formats, graphs and their bookkeeping."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.quantized import (
    Fp8Linear,
    QuantizedEmbedding,
    QuantizedLinear,
    quantize_decoder,
)
from triton_device import DEVICE, INTERPRETED, relative_error

# isort: split
from gpu_steps import BLOCK_TOKENS, BLOCKS, TINY, Traffic, decoder, eager
from headrace.kernels.triton.tables import Capacity
from headrace.model.gpu import GpuDecoder, obstacle
from headrace.model.graphs import CudaRecorder, GraphStack, Recorder, buckets

BAR = 1e-5


@dataclass(slots=True)
class Replayed:
    """Runs the captured computation again, over the addresses that it captured."""

    run: Callable[[], Tensor]
    output: Tensor

    def replay(self) -> None:
        self.output.copy_(self.run())


class FakeRecorder:
    """Holds a megabyte a recording."""

    def __init__(self) -> None:
        self.made = 0

    def record(self, run: Callable[[], Tensor]) -> Replayed:
        self.made += 1
        return Replayed(run, run().clone())

    def held_bytes(self) -> int:
        return self.made << 20


def recorder() -> Recorder:
    return FakeRecorder() if INTERPRETED else CudaRecorder()


def stack(
    model: Decoder, *, recorder: Recorder | None = None, graph_bytes: int = 1 << 30, rows: int = 8
) -> GraphStack:
    return GraphStack(
        GpuDecoder.take(model),
        blocks=BLOCKS,
        block_tokens=BLOCK_TOKENS,
        most_rows=rows,
        recorder=recorder,
        graph_bytes=graph_bytes,
    )


MIXED: list[dict[int, int]] = [{0: 20, 1: 3}, {0: 1, 1: 1, 2: 5}, {2: 1}]


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, tie_word_embeddings=True, num_attention_heads=4, windows=(9, None)),
        replace(TINY, family="qwen2", qkv_bias=True, o_bias=True, mlp_bias=True),
        replace(TINY, family="qwen3", qk_norm=True, head_dim=24, num_key_value_heads=2),
    ],
    ids=["llama", "windows", "biases", "head norms"],
)
@torch.inference_mode()
def test_families(config: ModelConfig) -> None:
    expected, ours = eager(decoder(config, DEVICE)), stack(decoder(config, DEVICE))
    traffic = Traffic()
    for rows in MIXED:
        step = traffic.step(rows)
        hidden, truth = ours.hidden(step), expected.hidden(step)
        assert relative_error(hidden, truth) < BAR
        assert relative_error(ours.logits(hidden[-1:]), expected.logits(truth[-1:])) < BAR
        assert relative_error(ours.logits(hidden), expected.logits(truth)) < BAR


def dense_twin(model: Decoder) -> Decoder:
    """The same weights without a format; activations are not rounded."""
    twin = decoder(model.config, DEVICE)
    for name, module in model.named_modules():
        if isinstance(module, QuantizedLinear | Fp8Linear) and (twin.lm_head or name != "lm_head"):
            linear = twin.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight.data = module.dense(torch.float32)
    if isinstance(model.embed_tokens, QuantizedEmbedding):
        twin.embed_tokens.weight.data = model.embed_tokens.table.dense(torch.float32)
    return twin


@pytest.mark.parametrize("format", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("tied", [False, True])
@torch.inference_mode()
def test_formats(format: str, tied: bool) -> None:
    model = decoder(replace(TINY, tie_word_embeddings=tied), DEVICE)
    quantize_decoder(model, format=format, group=32)
    expected, ours = eager(dense_twin(model)), stack(model)
    traffic = Traffic()
    for rows in MIXED[1:]:
        step = traffic.step(rows)
        hidden, truth = ours.hidden(step), expected.hidden(step)
        assert relative_error(hidden, truth) < BAR
        assert relative_error(ours.logits(hidden), expected.logits(truth)) < BAR
    assert ours.name == ("triton fp8" if format == "fp8" else f"triton {format} g32")


@torch.inference_mode()
def test_weights_are_not_kept_twice() -> None:
    model = decoder(TINY, DEVICE)
    ours = GpuDecoder.take(model)
    joined = ours.layers[0].qkv.data
    attention = model.layers[0].get_submodule("self_attn")
    start = joined.data_ptr()
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = attention.get_parameter(f"{name}.weight")
        assert weight.data_ptr() == start
        start += weight.nbytes
    assert start == joined.data_ptr() + joined.nbytes
    linears = sum(p.numel() for n, p in model.named_parameters() if n.endswith("proj.weight"))
    assert ours.weight_bytes == 4 * (linears + TINY.vocab_size * TINY.hidden_size)


@torch.inference_mode()
def test_graphs_begin_at_the_second_use_and_change_nothing() -> None:
    ours, plain = (stack(decoder(TINY, DEVICE), recorder=made) for made in (recorder(), None))
    expected = eager(decoder(TINY, DEVICE))
    traffic = Traffic()
    script = [{0: 20, 1: 3, 2: 9}, {0: 1, 1: 1, 2: 1}, {0: 1, 1: 1, 2: 1}, {1: 1}, {1: 1}]
    script += [{0: 1, 1: 1, 2: 1, 3: 1}, {0: 1, 2: 5}, {2: 1}]
    for rows in script:
        step = traffic.step(rows)
        hidden, truth = ours.hidden(step), expected.hidden(step)
        assert hidden.shape == truth.shape
        assert relative_error(hidden, truth) < BAR
        assert relative_error(hidden, plain.hidden(step)) < BAR
    stats = ours.stats()
    assert stats.captured == (4, 1)
    assert (stats.replayed, stats.eager) == (4, 4)
    assert plain.stats().eager == len(script)


@torch.inference_mode()
def test_a_replay_gives_the_bits_of_an_eager_step() -> None:
    ours, plain = (stack(decoder(TINY, DEVICE), recorder=made) for made in (recorder(), None))
    traffic = Traffic()
    for _ in range(4):
        step = traffic.step({0: 1})
        assert torch.equal(ours.hidden(step), plain.hidden(step))
    assert ours.stats().replayed == 3


@torch.inference_mode()
def test_padding_writes_to_no_block_of_the_pool() -> None:
    ours = stack(decoder(TINY, DEVICE), recorder=recorder())
    kv = ours._kv
    traffic = Traffic()
    steps = [traffic.step(dict.fromkeys(range(3), 1)) for _ in range(3)]
    for tensor in (*kv.k, *kv.v):
        tensor.fill_(7.0)
    for step in steps:
        ours.hidden(step)
    assert ours.stats().replayed == 2
    mine = {block for table in traffic.tables.values() for block in table}
    others = [block for block in range(BLOCKS) if block not in mine]
    for tensor in (*kv.k, *kv.v):
        assert (tensor[others] == 7.0).all()
        assert (tensor[list(mine), :3] != 7.0).any(dim=-1).all()
        assert (tensor[list(mine), 3:] == 7.0).all()


@torch.inference_mode()
def test_no_graph_beyond_the_budget_or_the_largest_bucket() -> None:
    ours = stack(decoder(TINY, DEVICE), recorder=FakeRecorder(), graph_bytes=1, rows=4)
    traffic = Traffic()
    for rows in ([0], [0], [0, 1], [0, 1], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]):
        ours.hidden(traffic.step(dict.fromkeys(rows, 1)))
    assert ours.stats().captured == (1,)
    assert ours.stats().replayed == 1
    assert ours.stats().held_bytes == 1 << 20


@torch.inference_mode()
def test_a_step_that_its_graph_cannot_hold_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Capacity(rows=1, sequences=1, blocks=1, splits=1, tiles=0)
    monkeypatch.setattr(GraphStack, "_capacity", lambda self, rows: small)
    ours, expected = (
        stack(decoder(TINY, DEVICE), recorder=FakeRecorder(), rows=1),
        eager(decoder(TINY, DEVICE)),
    )
    traffic = Traffic()
    for rows in ({0: 1}, {0: 1}, {0: 20}, {0: 1}):
        step = traffic.step(rows)
        assert relative_error(ours.hidden(step), expected.hidden(step)) < BAR
    assert (ours.stats().replayed, ours.stats().eager) == (1, 3)


def test_buckets() -> None:
    assert buckets(1) == (1,)
    assert buckets(3) == (1, 2, 3)
    assert buckets(8) == (1, 2, 4, 8)
    assert buckets(20) == (1, 2, 4, 8, 16, 20)
    assert buckets(32) == (1, 2, 4, 8, 16, 24, 32)


@pytest.mark.skipif(not INTERPRETED, reason="says why a CPU's model cannot")
def test_obstacle() -> None:
    assert "for CUDA devices, and the model is on cpu" in (obstacle(decoder(TINY, DEVICE)) or "")
