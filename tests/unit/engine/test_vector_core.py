"""The core of vectors over a function that is easy to check: sums of ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.config import EngineSettings
from headrace.engine.vector_core import VectorCore
from headrace.engine.vector_queue import VectorRequest
from headrace.errors import InvalidParameter, Overloaded
from headrace.testing import FakeClock
from headrace.types import FinishReason

SETTINGS = EngineSettings(max_batch_tokens=10, max_queued_requests=3, max_queued_tokens=50)


@dataclass
class Sums:
    steps: list[int] = field(default_factory=list[int])
    poison: int = -1

    def __call__(self, inputs: Sequence[Sequence[int]]) -> Tensor:
        self.steps.append(sum(len(ids) for ids in inputs))
        if any(self.poison in ids for ids in inputs):
            raise RuntimeError("poisoned")
        return torch.tensor([[float(sum(ids)), float(len(ids))] for ids in inputs])


def _core(sums: Sums, settings: EngineSettings = SETTINGS) -> VectorCore:
    return VectorCore(sums, settings, max_tokens=8, vocab_size=100, clock=FakeClock())


def _request(name: str, *inputs: tuple[int, ...]) -> VectorRequest:
    return VectorRequest(id=name, inputs=inputs)


def _run(core: VectorCore) -> dict[str, list[list[float]] | FinishReason]:
    found: dict[str, list[list[float]] | FinishReason] = {}
    while core.has_work:
        for output in core.step():
            assert output.id == output.event.id
            assert output.id not in found
            rows = np.frombuffer(output.event.data, dtype="<f4").reshape(-1, 2).tolist()
            ended = output.event.finish
            found[output.id] = rows if ended is FinishReason.STOP else ended
    return found


def test_rows_in_the_order_of_the_inputs_over_several_steps() -> None:
    sums = Sums()
    core = _core(sums)
    core.submit(_request("a", (1, 2, 3, 4, 5, 6, 7), (9,), (8, 8), (1, 1, 1, 1, 1)))
    core.submit(_request("b", (50,)))
    assert _run(core) == {"a": [[28, 7], [9, 1], [16, 2], [5, 5]], "b": [[50, 1]]}
    assert len(sums.steps) > 1
    assert max(sums.steps) <= 10
    stats = core.stats()
    assert stats.counters["prompt"] == 16
    assert stats.counters["inputs"] == 5
    assert (stats.running, stats.waiting, stats.queued_tokens) == (0, 0, 0)


def test_what_is_cancelled_is_not_run() -> None:
    sums = Sums()
    core = _core(sums)
    core.submit(_request("a", (1,)))
    [output] = core.cancel("a")
    assert output.event.finish is FinishReason.ABORT
    assert core.cancel("a") == []
    assert not core.has_work
    assert sums.steps == []


def test_a_cancelled_rest_is_not_run() -> None:
    sums = Sums()
    core = _core(sums)
    core.submit(_request("a", *((1,) * 8 for _ in range(3))))
    assert core.step() == []
    core.cancel("a")
    assert core.step() == []
    assert sums.steps == [8]


def test_a_deadline() -> None:
    core = _core(Sums())
    clock = core.clock
    assert isinstance(clock, FakeClock)
    core.submit(replace(_request("a", (1,)), deadline_s=clock() + 1))
    core.submit(_request("b", (2,)))
    clock.advance(2)
    assert _run(core) == {"a": FinishReason.DEADLINE, "b": [[2, 1]]}


def test_a_failed_step_ends_its_requests_and_no_other() -> None:
    core = _core(Sums(poison=13))
    core.submit(_request("bad", (13, 1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1)))
    assert _run(core) == {"bad": FinishReason.ERROR}
    core.submit(_request("good", (1,)))
    assert _run(core) == {"good": [[1, 1]]}
    assert core.stats().counters["failed_steps"] == 1


@pytest.mark.parametrize("inputs", [(), ((),), ((1,) * 9,), ((100,),), ((-1,),)])
def test_what_cannot_be_read_is_refused(inputs: tuple[tuple[int, ...], ...]) -> None:
    core = _core(Sums())
    with pytest.raises(InvalidParameter, match="input"):
        core.submit(_request("a", *inputs))
    assert not core.has_work
    assert core.stats().counters["refused"] == 1


def test_a_full_queue_says_when_to_come_again() -> None:
    core = _core(Sums())
    for name in "abc":
        core.submit(_request(name, (1,)))
    with pytest.raises(Overloaded, match="max_queued_requests is 3") as caught:
        core.submit(_request("d", (1,)))
    assert caught.value.retry_after_s == 1
    assert set(_run(core)) == {"a", "b", "c"}


def test_too_many_tokens_wait() -> None:
    core = _core(Sums())
    core.submit(_request("a", *((1,) * 8 for _ in range(20))))  # alone it may be of any length
    with pytest.raises(Overloaded, match="max_queued_tokens is 50"):
        core.submit(_request("b", (1,)))
