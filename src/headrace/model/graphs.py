"""The `Stack` of a GPU: eager from the first step, decode steps as captured graphs once they recur.

A decode step of a small model is hundreds of kernels of microseconds each, which a Python process
cannot launch as fast as they run. A graph launches them as one. It is captured for a number of rows
(a bucket), over buffers that stay where they are: a step is copied in, its missing rows are padding
that writes to a block nobody reads and attends nothing. Steps with longer rows (prefill), and steps
that no graph holds, run eagerly.

A bucket is captured at its second use: the first one ran eagerly and compiled what it needs. One
step captures at most one graph. What the graphs hold is measured, and past `graph_bytes` no more
are captured.

Invariant: a replayed step and the same step run eagerly on as many rows give the same bits; which
one ran shows in nothing but time.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from headrace.kernels.triton.tables import (
    SPLIT_TOKENS,
    Capacity,
    HostStep,
    Int32s,
    Layout,
    Tables,
    lay_out,
    upload,
)
from headrace.model.attend import KvCache
from headrace.model.gpu import GpuDecoder
from headrace.model.stack import Step

GRAPH_BYTES = 1 << 30
"""Memory that all graphs of a stack may hold together."""

_PARTIAL_BYTES = 64 << 20
"""Partial attention results of one layer; a step with more pieces of work runs eagerly."""

_USES_BEFORE_CAPTURE = 1


class Recording(Protocol):
    """A captured computation."""

    output: Tensor
    """Where each replay leaves its result."""

    def replay(self) -> None: ...


class Recorder(Protocol):
    """Captures computations that read and write fixed addresses."""

    def record(self, run: Callable[[], Tensor]) -> Recording: ...

    def held_bytes(self) -> int:
        """Device memory that recordings hold."""
        ...


class CudaRecorder:
    """CUDA graphs that share one pool of memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._held = 0

    def record(self, run: Callable[[], Tensor]) -> "CudaRecording":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what the first run sets up must not be captured
            run()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        before = torch.cuda.memory_reserved()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = run()
        self._held += max(0, torch.cuda.memory_reserved() - before)
        return CudaRecording(graph, output)

    def held_bytes(self) -> int:
        return self._held


@dataclass(slots=True)
class CudaRecording:
    """A graph and its output."""

    graph: torch.cuda.CUDAGraph
    output: Tensor

    def replay(self) -> None:
        self.graph.replay()


@dataclass(frozen=True, slots=True)
class _Captured:
    layout: Layout
    recording: Recording


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphStats:
    """What the graphs did so far."""

    captured: tuple[int, ...]
    """Rows of each graph."""
    replayed: int
    eager: int
    """Steps that ran without one."""
    held_bytes: int


def buckets(most: int) -> tuple[int, ...]:
    """Rows that graphs are captured for: 1, 2, 4, then eights up to `most`, which is the last."""
    sizes = [1, 2, 4, *range(8, most + 1, 8)]
    return (*(size for size in sizes if size < most), most)


class GraphStack:
    """A `Stack` over a `GpuDecoder`, with a pool of its own.

    Args:
        model: The weights.
        blocks: KV blocks; one more is allocated, for padding.
        block_tokens: Tokens a block, a power of two.
        most_rows: Largest decode step that gets a graph.
        recorder: Captures; None = everything runs eagerly.
        graph_bytes: Memory that graphs may hold.
    """

    def __init__(
        self,
        model: GpuDecoder,
        *,
        blocks: int,
        block_tokens: int,
        most_rows: int,
        recorder: Recorder | None,
        graph_bytes: int = GRAPH_BYTES,
    ) -> None:
        self.config = model.config
        self.device = model.device
        self.context_tokens = model.context_tokens
        self.pool = None
        self.name = f"triton {model.layers[0].down.describe()}"
        self._model = model
        self._block_tokens = block_tokens
        self._idle_slot = blocks * block_tokens
        self._kv = KvCache.allocate(
            model.config,
            blocks=blocks + 1,
            block_tokens=block_tokens,
            dtype=model.dtype,
            device=model.device,
        )
        self._windows = model.windows
        self._tile_rows = model.tile_rows
        self._recorder = recorder
        self._graph_bytes = graph_bytes
        self._buckets = buckets(most_rows)
        self._uses: Counter[int] = Counter()
        self._captured: dict[int, _Captured] = {}
        self._mailbox = _Mailbox(
            max(Layout(self._capacity(rows), self._windows).size for rows in self._buckets)
            if recorder is not None
            else 0,
            model.device,
        )
        self._replayed = self._eager = 0

    @torch.inference_mode()
    def hidden(self, step: Step) -> Tensor:
        host = lay_out(
            step.ids_T,
            step.pos_T,
            step.row_start_S1,
            step.context_S,
            step.blocks_SB,
            block_tokens=self._block_tokens,
            windows=self._windows,
            tile_rows=self._tile_rows,
        )
        captured = self._graph(host)
        if captured is None:
            self._eager += 1
            return self._model.hidden(upload(host, self._windows, self.device), self._kv)
        self._replayed += 1
        self._mailbox.send(captured.layout, host, self._idle_slot)
        captured.recording.replay()
        return captured.recording.output[: host.capacity.rows]

    @torch.inference_mode()
    def logits(self, hidden_RD: Tensor) -> Tensor:
        return self._model.logits(hidden_RD)

    def stats(self) -> GraphStats:
        """What the graphs did so far."""
        return GraphStats(
            captured=tuple(self._captured),
            replayed=self._replayed,
            eager=self._eager,
            held_bytes=0 if self._recorder is None else self._recorder.held_bytes(),
        )

    def _graph(self, host: HostStep) -> _Captured | None:
        """The graph that takes this step, captured now if it is its time."""
        need = host.capacity
        rows = next((size for size in self._buckets if size >= need.rows), None)
        if self._recorder is None or rows is None or need.tiles:
            return None
        captured = self._captured.get(rows)
        if captured is None:
            self._uses[rows] += 1
            if self._uses[rows] <= _USES_BEFORE_CAPTURE:
                return None
            if self._recorder.held_bytes() >= self._graph_bytes:
                return None
            captured = self._capture(rows, self._recorder)
        return captured if captured.layout.capacity.holds(need) else None

    def _capture(self, rows: int, recorder: Recorder) -> _Captured:
        layout = Layout(self._capacity(rows), self._windows)
        self._mailbox.send(layout, _nothing(self._windows), self._idle_slot)
        tables = self._mailbox.views(layout)
        captured = _Captured(layout, recorder.record(lambda: self._model.hidden(tables, self._kv)))
        self._captured[rows] = captured
        return captured

    def _capacity(self, rows: int) -> Capacity:
        """The largest step of so many rows that its graph takes."""
        config = self.config
        piece_bytes = 4 * config.num_attention_heads * (config.head_dim + 2)
        pieces = -(-self.context_tokens // SPLIT_TOKENS)
        return Capacity(
            rows=rows,
            sequences=rows,
            blocks=rows * -(-self.context_tokens // self._block_tokens),
            splits=min(rows * pieces, _PARTIAL_BYTES // piece_bytes),
            tiles=0,
        )


class _Mailbox:
    """One buffer on the device that steps are copied into, from two on the host in turn."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._device = torch.zeros(size, dtype=torch.int32, device=device)
        pinned = device.type == "cuda"
        self._host = [torch.zeros(size, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]
        self._arrays: list[Int32s] = [buffer.numpy() for buffer in self._host]
        self._sent = [torch.cuda.Event() for _ in range(2)] if pinned else []
        self._turn = 0

    def send(self, layout: Layout, host: HostStep, idle_slot: int) -> None:
        """Put a step where the graph of this layout reads it."""
        turn = self._turn = 1 - self._turn
        if self._sent:
            self._sent[turn].synchronize()  # the copy before the last has long been read
        used = layout.fill(self._arrays[turn], host, idle_slot=idle_slot)
        self._device[:used].copy_(self._host[turn][:used], non_blocking=True)
        if self._sent:
            self._sent[turn].record()

    def views(self, layout: Layout) -> Tables:
        return layout.views(self._device, tiles=0)


def _nothing(windows: tuple[int, ...]) -> HostStep:
    """A step without rows: all padding."""
    none = np.zeros(0, np.int32)
    return lay_out(
        none,
        none,
        np.zeros(1, np.int32),
        none,
        np.zeros((0, 1), np.int32),
        block_tokens=1,
        windows=windows,
        tile_rows=1,
    )
