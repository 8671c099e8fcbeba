"""An encoder in one thread: requests in, a step at a time, whole answers out.

    core = VectorCore(vectors, settings.engine, max_tokens=512, vocab_size=30522)
    core.submit(VectorRequest(id="a", inputs=((101, 102),)))
    while core.has_work:
        for output in core.step(): ...

A step runs inputs of all that wait, up to `engine.max_batch_tokens`: continuous batching, where a
sequence takes one step. Invariant: every request that `submit` accepted ends with exactly one
`Vectors`, whatever happens to it; an exception in a step ends the requests of that step and no
other; a request's rows are those that it would have alone.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from headrace.config import EngineSettings
from headrace.engine.request import EngineRequest
from headrace.engine.vector_queue import Item, VectorQueue, VectorRequest, by_request
from headrace.errors import InvalidParameter, Overloaded, UserError
from headrace.types import FinishReason
from headrace.wire.frames import Vectors as VectorsFrame

_LOG = logging.getLogger(__name__)
_LONGEST_RETRY_S = 60
_WARM_LENGTHS = (3, 16, 60)


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """How one request ended."""

    id: str
    event: VectorsFrame


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorStats:
    """The core at one moment; counters are sums since the start."""

    running: int
    """Requests with an input that was run, and one that was not."""
    waiting: int
    queued_tokens: int
    counters: dict[str, int]
    """requests, refused, prompt (tokens of inputs run), inputs, steps, failed_steps."""


@dataclass(slots=True)
class _Rows:
    """What a request has of its vectors."""

    request: VectorRequest
    left: int
    data: Tensor | None = None


def _zeros() -> dict[str, int]:
    names = ("requests", "refused", "prompt", "inputs", "steps", "failed_steps")
    return dict.fromkeys(names, 0)


@dataclass(slots=True)
class VectorCore:
    """Queue and encoder joined."""

    vectors: Callable[[Sequence[Sequence[int]]], Tensor]
    """Ids of inputs -> [C, D] float32, as `headrace.model.vectors.Vectors`."""
    settings: EngineSettings
    max_tokens: int
    """Of an input."""
    vocab_size: int
    clock: Callable[[], float] = time.monotonic
    """Seconds; `VectorRequest.deadline_s` is on it."""
    _queue: VectorQueue = field(default_factory=VectorQueue)
    _live: dict[str, _Rows] = field(default_factory=dict[str, _Rows])
    _counters: dict[str, int] = field(default_factory=_zeros)
    _seconds_per_token: float = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self._live)

    def submit(self, request: VectorRequest | EngineRequest) -> None:
        """Take a request.

        Raises:
            UserError: A prompt to be continued, which an encoder cannot.
            InvalidParameter: No input, or one that the encoder cannot read.
            Overloaded: The queue is full; with the time that it needs.
        """
        if isinstance(request, EngineRequest):
            raise UserError("this worker serves an encoder, which continues no prompt")
        try:
            self._check(request)
            self._check_queue(request)
        except (InvalidParameter, Overloaded):
            self._counters["refused"] += 1
            raise
        self._counters["requests"] += 1
        self._live[request.id] = _Rows(request, left=len(request.inputs))
        self._queue.add(request)

    def cancel(self, request_id: str, reason: FinishReason = FinishReason.ABORT) -> list[Output]:
        """End a request now; nothing where it is unknown."""
        if self._live.pop(request_id, None) is None:
            return []
        self._queue.drop(request_id)
        return [Output(id=request_id, event=VectorsFrame(id=request_id, finish=reason))]

    def step(self) -> list[Output]:
        """Run what fits, and say what is complete."""
        outputs: list[Output] = []
        for request in self._queue.late(self.clock()):
            outputs += self.cancel(request.id, FinishReason.DEADLINE)
        items = self._queue.plan(self.settings.max_batch_tokens)
        if not items:
            return outputs
        self._counters["steps"] += 1
        began_s = self.clock()
        try:
            rows_CD = self.vectors([item.ids for item in items])
        except Exception as error:  # noqa: BLE001 - whatever is raised ends this step's requests
            _LOG.exception("a step of %d inputs failed", len(items))
            self._counters["failed_steps"] += 1
            return outputs + self._fail(items, error)
        tokens = sum(len(item.ids) for item in items)
        self._counters["inputs"] += len(items)
        self._counters["prompt"] += tokens
        self._seconds_per_token = (self.clock() - began_s) / tokens
        return outputs + self._deliver(items, rows_CD)

    def stats(self) -> VectorStats:
        """The core now."""
        started = sum(1 for rows in self._live.values() if rows.data is not None)
        return VectorStats(
            running=started,
            waiting=len(self._live) - started,
            queued_tokens=self._queue.tokens,
            counters=dict(self._counters),
        )

    def warm_up(self) -> None:
        """Run once, so that the first request pays for no first touch."""
        self.vectors([[0] * min(length, self.max_tokens) for length in _WARM_LENGTHS])

    def _check(self, request: VectorRequest) -> None:
        if not request.inputs:
            raise InvalidParameter("`input` is empty; give at least one text", param="input")
        for at, ids in enumerate(request.inputs):
            if not 0 < len(ids) <= self.max_tokens:
                raise InvalidParameter(
                    f"`input[{at}]` has {len(ids)} tokens; the encoder reads 1 to "
                    f"{self.max_tokens}",
                    param=f"input[{at}]",
                )
            if min(ids) < 0 or max(ids) >= self.vocab_size:
                raise InvalidParameter(
                    f"`input[{at}]` has an id outside 0 to {self.vocab_size - 1}",
                    param=f"input[{at}]",
                )

    def _check_queue(self, request: VectorRequest) -> None:
        waiting, tokens = len(self._queue), self._queue.tokens
        retry_after_s = min(_LONGEST_RETRY_S, 1 + int(tokens * self._seconds_per_token))
        if waiting >= self.settings.max_queued_requests:
            raise Overloaded(
                f"{waiting} requests wait and embeddings.max_queued_requests is "
                f"{self.settings.max_queued_requests}; try again in {retry_after_s} s",
                retry_after_s=retry_after_s,
            )
        if waiting and tokens + request.tokens > self.settings.max_queued_tokens:
            raise Overloaded(
                f"{tokens} tokens wait, this request has {request.tokens} and "
                f"embeddings.max_queued_tokens is {self.settings.max_queued_tokens}; "
                f"try again in {retry_after_s} s",
                retry_after_s=retry_after_s,
            )

    def _deliver(self, items: Sequence[Item], rows_CD: Tensor) -> list[Output]:
        outputs: list[Output] = []
        for id, found in by_request(items).items():
            live = self._live[id]
            if live.data is None:
                live.data = rows_CD.new_empty(len(live.request.inputs), rows_CD.shape[1])
            places = [item.at for _, item in found]
            live.data[places] = rows_CD[[row for row, _ in found]]
            live.left -= len(found)
            if live.left == 0:
                del self._live[id]
                data = live.data.numpy().astype("<f4", copy=False).tobytes()
                event = VectorsFrame(id=id, finish=FinishReason.STOP, data=data)
                outputs.append(Output(id=id, event=event))
        return outputs

    def _fail(self, items: Sequence[Item], error: Exception) -> list[Output]:
        outputs: list[Output] = []
        for id in by_request(items):
            self._live.pop(id)
            self._queue.drop(id)
            message = f"the engine failed on this batch ({type(error).__name__}); its log says why"
            event = VectorsFrame(id=id, finish=FinishReason.ERROR, error=message)
            outputs.append(Output(id=id, event=event))
        return outputs
