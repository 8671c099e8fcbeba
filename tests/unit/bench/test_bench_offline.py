"""Latency and throughput over a fake engine with a fake clock: the arithmetic is exact."""

from collections.abc import Sequence

import pytest

from headrace.bench import offline
from headrace.bench.datasets import Span
from headrace.bench.offline import measure_latency, measure_throughput
from headrace.errors import ServiceError
from headrace.types import FinishReason, SamplingParams, TokenEvent


class FakeEngine:
    """A step takes one second and gives each sequence a token; the first step is the prompt's."""

    vocab_size = 50

    def __init__(self) -> None:
        self.now = 0.0
        self.left: dict[str, int] = {}
        self.prompts: list[tuple[int, ...]] = []
        self.finish = FinishReason.LENGTH
        self.short = 0

    def submit(self, request_id: str, prompt: Sequence[int], sampling: SamplingParams) -> None:
        assert sampling.seed is not None
        assert sampling.ignore_eos
        self.left[request_id] = (sampling.max_tokens or 0) - self.short
        self.prompts.append(tuple(prompt))

    def step(self) -> list[tuple[str, TokenEvent]]:
        self.now += 1.0
        events: list[tuple[str, TokenEvent]] = []
        for id in list(self.left):
            self.left[id] -= 1
            over = self.left[id] == 0
            events.append((id, TokenEvent(tokens=(1,), finish=self.finish if over else None)))
            if over:
                del self.left[id]
        return events

    @property
    def has_work(self) -> bool:
        return bool(self.left)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    made = FakeEngine()

    class Clock:
        @staticmethod
        def perf_counter() -> float:
            return made.now

    monkeypatch.setattr(offline, "time", Clock)
    return made


def test_latency(engine: FakeEngine) -> None:
    summary = measure_latency(
        engine, batch=3, input_tokens=4, output_tokens=5, iterations=2, warmup=1
    )
    assert summary.latency.count == 2
    assert summary.latency.median_ms == 5000
    assert summary.ttft.mean_ms == 1000
    assert summary.tpot is not None
    assert summary.tpot.mean_ms == 1000
    assert summary.decode_throughput == 3.0
    assert len(engine.prompts) == 9
    assert len(set(engine.prompts)) == 9, "a repeated prompt would hit the prefix cache"


def test_one_token_has_no_tpot(engine: FakeEngine) -> None:
    summary = measure_latency(
        engine, batch=1, input_tokens=1, output_tokens=1, iterations=1, warmup=0
    )
    assert summary.tpot is None
    assert summary.decode_throughput == 0.0


def test_throughput(engine: FakeEngine) -> None:
    finished: list[None] = []
    summary = measure_throughput(
        engine,
        sequences=8,
        input_tokens=Span(low=2, high=6),
        output_tokens=Span(low=1, high=9),
        on_finished=lambda: finished.append(None),
    )
    assert len(finished) == 8
    assert summary.total_input_tokens == sum(len(prompt) for prompt in engine.prompts[1:])
    assert summary.duration_s == engine.now - 2
    assert summary.output_throughput == summary.total_output_tokens / summary.duration_s
    assert summary.request_throughput == 8 / summary.duration_s


def test_an_engine_that_stops_early_is_no_result(engine: FakeEngine) -> None:
    engine.short = 1
    with pytest.raises(ServiceError, match="4 tokens of 6"):
        measure_latency(engine, batch=2, input_tokens=1, output_tokens=3, iterations=1, warmup=0)


def test_an_error_is_no_result(engine: FakeEngine) -> None:
    engine.finish = FinishReason.ERROR
    with pytest.raises(ServiceError, match="ended with error"):
        measure_latency(engine, batch=1, input_tokens=1, output_tokens=3, iterations=1, warmup=0)
