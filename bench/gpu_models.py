"""Stages of gpu.py: random-weight models of the 1B and 8B shapes, decode, prefill, many requests.

MBU is the bytes that a step must read (every matrix once, every cached key and value once) over its
time and the reading wall; MFU the multiplications that it must do over its time and the product
wall. `ideal` of a run of many steps is the sum over its steps of the larger of the two.
"""

import gc
import statistics
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu_kernels import DEVICE, Walls, rounded, timed_s
from headrace.config import EngineSettings
from headrace.engine.core import EngineCore, generate_all
from headrace.engine.request import EngineRequest
from headrace.kernels.triton.tables import lay_out, upload
from headrace.model.attend import KvCache
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.gpu import GpuDecoder
from headrace.model.graphs import CudaRecorder, GraphStack
from headrace.model.quantized import quantize_decoder
from headrace.model.stack import Stack, Step
from headrace.types import SamplingParams

BLOCK_TOKENS = 32
SMALL = ModelConfig(
    family="llama",
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    max_position_embeddings=16384,
    tie_word_embeddings=True,
)
LARGE = replace(
    SMALL,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    head_dim=128,
    tie_word_embeddings=False,
)
MODELS = {"1b": SMALL, "8b": LARGE}


def make(name: str, format: str = "bfloat16", group: int = 128) -> GpuDecoder:
    """Random weights, quantized as a checkpoint would be."""
    with torch.device("meta"):
        decoder = Decoder(MODELS[name])
    decoder = decoder.to(torch.bfloat16).to_empty(device=DEVICE)
    decoder.init_weights(0)
    if format != "bfloat16":
        quantize_decoder(decoder, format=format, group=group)
    return GpuDecoder.take(decoder)


def stack_of(model: GpuDecoder, *, blocks: int, most_rows: int) -> GraphStack:
    return GraphStack(
        model,
        blocks=blocks,
        block_tokens=BLOCK_TOKENS,
        most_rows=most_rows,
        recorder=CudaRecorder(),
    )


@dataclass
class Fleet:
    """Sequences of equal length that advance together."""

    sequences: int
    most_tokens: int
    length: int = 0
    blocks_SB: np.ndarray[Any, np.dtype[np.int32]] = field(init=False)

    def __post_init__(self) -> None:
        width = -(-self.most_tokens // BLOCK_TOKENS)
        self.blocks_SB = np.arange(self.sequences * width, dtype=np.int32).reshape(-1, width)

    def step(self, rows: int, ids: np.ndarray[Any, Any]) -> Step:
        start, self.length = self.length, self.length + rows
        return Step(
            ids_T=ids.astype(np.int32),
            pos_T=np.tile(np.arange(start, self.length, dtype=np.int32), self.sequences),
            row_start_S1=np.arange(self.sequences + 1, dtype=np.int32) * rows,
            context_S=np.full(self.sequences, self.length, np.int32),
            blocks_SB=self.blocks_SB,
        )


def kv_bytes(config: ModelConfig, tokens: int) -> int:
    return tokens * KvCache.bytes_per_token(config, torch.bfloat16)


@torch.inference_mode()
def decode(walls: Walls, left_s: float) -> list[dict[str, Any]]:
    """Batches of 1, 16 and 64, 128 tokens in and 128 out, greedily, ids by way of the host."""
    found: list[dict[str, Any]] = []
    ends = time.monotonic() + left_s / 2
    for name in MODELS:
        for format, group in (
            ("bfloat16", 0),
            ("int8", 128),
            ("fp8", 0),
            ("int8", 32),
            ("int4", 128),
        ):
            if time.monotonic() > ends:
                found.append({"model": name, "format": format, "skipped": "no time left"})
                continue
            begun = time.monotonic()
            model = make(name, format, group or 32)
            made_s = time.monotonic() - begun
            stack = stack_of(model, blocks=64 * 9, most_rows=64)
            for sequences in (1, 16, 64):
                row = _decode_one(stack, model, sequences, walls)
                row |= {"model": name, "format": model.layers[0].down.describe()}
                found.append({key: rounded(value) for key, value in row.items()})
                print(found[-1], flush=True)
            found[-1]["load_s"] = round(made_s, 1)
            del model, stack
            gc.collect()
            torch.cuda.empty_cache()
    return found


def _decode_one(
    stack: GraphStack, model: GpuDecoder, sequences: int, walls: Walls
) -> dict[str, Any]:
    fleet = Fleet(sequences, 288)
    random = np.random.default_rng(0)
    hidden = stack.hidden(
        fleet.step(128, random.integers(0, model.config.vocab_size, 128 * sequences))
    )
    ids = stack.logits(hidden[127::128]).argmax(-1).cpu().numpy()
    times: list[float] = []
    first_s = 0.0
    for n in range(128):
        begun = time.perf_counter()
        hidden = stack.hidden(fleet.step(1, ids))
        ids = stack.logits(hidden).argmax(-1).cpu().numpy()
        spent = time.perf_counter() - begun
        first_s = first_s or spent
        if n >= 8:
            times.append(spent)
    step_s = statistics.median(times)
    device_s = _device_s(stack, fleet, ids)
    size = model.weight_bytes + kv_bytes(model.config, sequences * 192)
    return {
        "sequences": sequences,
        "ms": step_s * 1e3,
        "tok_s": sequences / step_s,
        "mbu": size / step_s / 1e9 / walls.read_gb_s,
        "device_ms": device_s * 1e3,
        "device_mbu": size / device_s / 1e9 / walls.read_gb_s,
        "first_step_ms": first_s * 1e3,
        "kernels_us": _kernels(stack, fleet, ids) if sequences == 1 else {},
    }


def _device_s(stack: GraphStack, fleet: Fleet, ids: Any) -> float:
    """A step's time on the device alone: the copy of the step, the graph, the head."""
    step = fleet.step(1, ids)

    def run() -> Tensor:
        return stack.logits(stack.hidden(step)).argmax(-1)

    return timed_s(lambda: [run() for _ in range(20)]) / 20


def _kernels(stack: GraphStack, fleet: Fleet, ids: Any) -> dict[str, float]:
    """Microseconds of a step by kernel, where the profiler can be had."""
    step = fleet.step(1, ids)
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            stack.logits(stack.hidden(step))
            torch.cuda.synchronize()
        events = sorted(profile.key_averages(), key=lambda e: -e.device_time_total)
        return {f"{e.key[:60]} x{e.count}": round(e.device_time_total, 1) for e in events[:14]}
    except (RuntimeError, AttributeError) as failure:
        return {f"no profile: {failure}"[:200]: 0.0}


@torch.inference_mode()
def prefill(walls: Walls) -> list[dict[str, Any]]:
    """One prompt in one step, and 8,192 tokens as 16 prompts."""
    found: list[dict[str, Any]] = []
    for name, format, group in (
        ("1b", "bfloat16", 0),
        ("8b", "bfloat16", 0),
        ("8b", "int8", 128),
        ("8b", "fp8", 0),
    ):
        model = make(name, format, group or 32)
        variants = [model, replace(model, fp8_rows=True)] if format == "fp8" else [model]
        kv = KvCache.allocate(
            model.config, blocks=300, block_tokens=BLOCK_TOKENS, dtype=torch.bfloat16, device=DEVICE
        )
        for variant in variants:
            for sequences, tokens in ((1, 512), (1, 2048), (1, 8192), (16, 512)):
                seconds = _prefill_s(variant, kv, sequences, tokens)
                work = flops(model.config, [(tokens, tokens)] * sequences)
                row = {"model": name, "format": model.layers[0].down.describe()}
                row |= {"fp8_rows": variant.fp8_rows, "prompts": f"{sequences}x{tokens}"}
                row |= {"ms": seconds * 1e3, "tok_s": sequences * tokens / seconds}
                row |= {"mfu": work / seconds / 1e12 / walls.bf16_tflop_s}
                found.append({key: rounded(value) for key, value in row.items()})
                print(found[-1], flush=True)
        del model, variants, kv
        gc.collect()
        torch.cuda.empty_cache()
    return found


def _prefill_s(model: GpuDecoder, kv: KvCache, sequences: int, tokens: int) -> float:
    fleet = Fleet(sequences, tokens)
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, sequences * tokens)
    step = fleet.step(tokens, ids)
    host = lay_out(
        step.ids_T,
        step.pos_T,
        step.row_start_S1,
        step.context_S,
        step.blocks_SB,
        block_tokens=BLOCK_TOKENS,
        windows=model.windows,
        tile_rows=model.tile_rows,
    )

    def run() -> Tensor:
        tables = upload(host, model.windows, model.device)
        return model.logits(model.hidden(tables, kv)[tokens - 1 :: tokens])

    return timed_s(run)


def flops(config: ModelConfig, spans: list[tuple[int, int]]) -> float:
    """Of the layers over (context, new rows) of each sequence."""
    heads = config.num_attention_heads * config.head_dim
    width, inner = config.hidden_size, config.intermediate_size
    kv = 2 * config.num_key_value_heads * config.head_dim
    linears = width * (heads + kv) + heads * width + 3 * width * inner
    seen = sum(new * (context - (new - 1) / 2) for context, new in spans)
    rows = sum(new for _, new in spans)
    return config.num_hidden_layers * (2 * linears * rows + 4 * heads * seen)


@dataclass
class Watched:
    """A `Stack` that sums up what its steps would take at the walls."""

    stack: GraphStack
    model: GpuDecoder
    walls: Walls
    ideal_s: float = 0.0
    steps: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stack, name)

    def hidden(self, step: Step) -> Tensor:
        config = self.model.config
        spans = list(zip(step.context_S.tolist(), np.diff(step.row_start_S1).tolist(), strict=True))
        head = 2 * config.hidden_size * config.vocab_size * len(spans)
        size = self.model.weight_bytes + kv_bytes(config, sum(context for context, _ in spans))
        compute_s = (flops(config, spans) + head) / self.walls.bf16_tflop_s / 1e12
        self.ideal_s += max(compute_s, size / self.walls.read_gb_s / 1e9)
        self.steps += 1
        return self.stack.hidden(step)

    def logits(self, hidden_RD: Tensor) -> Tensor:
        return self.stack.logits(hidden_RD)


def workload(count: int = 256) -> list[tuple[list[int], int]]:
    """nano-vllm's: prompts and answers of 100 to 1,024 tokens each, at random."""
    random = np.random.default_rng(0)
    shapes = random.integers(100, 1025, (count, 2))
    return [(random.integers(0, 10_000, shape[0]).tolist(), int(shape[1])) for shape in shapes]


def requests(walls: Walls) -> list[dict[str, Any]]:
    """The 256 sequences through the engine: tokens made a second, share of the ideal."""
    found: list[dict[str, Any]] = []
    for name, temperature in (("1b", 0.0), ("1b", 0.6), ("8b", 0.0)):
        model = make(name)
        jobs = workload()
        blocks = 512 + sum(-(-(len(prompt) + made) // BLOCK_TOKENS) for prompt, made in jobs)
        stack = stack_of(model, blocks=blocks, most_rows=256)
        watched = Watched(stack, model, walls)
        _answer(watched, blocks, jobs[:256], temperature, tokens=24)  # captures graphs
        watched.ideal_s = watched.steps = 0
        begun = time.perf_counter()
        made = _answer(watched, blocks, jobs, temperature, tokens=None)
        spent = time.perf_counter() - begun
        row = {"model": name, "temperature": temperature, "seconds": spent, "tokens": made}
        row |= {"tok_s": made / spent, "steps": watched.steps}
        row |= {"roofline_share": watched.ideal_s / spent, "graphs": str(stack.stats())}
        found.append({key: rounded(value) for key, value in row.items()})
        print(found[-1], flush=True)
        del model, watched, stack
        gc.collect()
        torch.cuda.empty_cache()
    return found


def _answer(
    stack: Any,
    blocks: int,
    jobs: list[tuple[list[int], int]],
    temperature: float,
    tokens: int | None,
) -> int:
    chosen: Stack = stack
    settings = EngineSettings(
        block_tokens=BLOCK_TOKENS, max_running=256, max_batch_tokens=8192, max_queued_requests=4096
    )
    core = EngineCore(chosen, settings, blocks=blocks)
    answers = generate_all(
        core,
        [
            EngineRequest(
                id=str(n),
                prompt=tuple(prompt),
                sampling=SamplingParams(
                    max_tokens=tokens or made, temperature=temperature, seed=n, ignore_eos=True
                ),
                salt=str(tokens),
            )
            for n, (prompt, made) in enumerate(jobs)
        ],
    )
    return sum(len(choice.tokens) for answer in answers.values() for choice in answer.choices)
