"""Time stamps of requests become TTFT, ITL, TPOT, E2EL, throughput and goodput.

The definitions are those of `vllm bench serve` (vllm/benchmarks/serve.py), so that the numbers
compare. One deviation: a chunk that carries the role only is not a first token here.

TTFT  from sending a request to its first chunk with tokens
ITL   each gap between two chunks of one request; a chunk may carry several tokens
E2EL  from sending a request to its end
TPOT  (E2EL - TTFT) / (output tokens - 1), of requests with at least two
goodput  requests per second that meet every objective; a request of one token has a TPOT of 0
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
Measure: TypeAlias = Literal["ttft", "tpot", "e2el"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestRecord:
    """One request's times, in seconds since the run began."""

    began_s: float
    ended_s: float
    chunks_s: tuple[float, ...] = ()
    """When each chunk with tokens came."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None
    """Code and message of the error that ended it; such a request counts as failed only."""

    @property
    def ttft_s(self) -> float:
        return self.chunks_s[0] - self.began_s if self.chunks_s else self.e2el_s

    @property
    def e2el_s(self) -> float:
        return self.ended_s - self.began_s

    @property
    def tpot_s(self) -> float:
        """0 for a request of one token."""
        if self.output_tokens < 2:
            return 0.0
        return (self.e2el_s - self.ttft_s) / (self.output_tokens - 1)

    @property
    def itls_s(self) -> list[float]:
        return [after - before for before, after in itertools.pairwise(self.chunks_s)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """Milliseconds, of `count` values; percentiles interpolate linearly."""

    count: int
    mean_ms: float
    median_ms: float
    std_ms: float
    percentiles_ms: Mapping[str, float]
    """`p99` -> value."""

    @classmethod
    def of(cls, values_s: Sequence[float]) -> "Distribution | None":
        """None where there are no values: no number is made up for them."""
        if not values_s:
            return None
        values_ms = np.asarray(values_s) * 1e3
        return cls(
            count=len(values_s),
            mean_ms=float(values_ms.mean()),
            median_ms=float(np.median(values_ms)),
            std_ms=float(values_ms.std()),
            percentiles_ms={f"p{p:g}": float(np.percentile(values_ms, p)) for p in PERCENTILES},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingSummary:
    """What a run of many requests showed; rates are per second of `duration_s`."""

    duration_s: float
    completed: int
    failed: int
    total_input_tokens: int
    total_cached_tokens: int
    total_output_tokens: int
    request_throughput: float
    output_throughput: float
    total_token_throughput: float
    request_goodput: float | None
    """None where no objective was given."""
    peak_output_chunks_per_s: int
    """Most chunks in one second of the run's clock; vLLM calls it peak output tokens."""
    peak_concurrent_requests: int
    ttft: Distribution | None
    tpot: Distribution | None
    itl: Distribution | None
    e2el: Distribution | None
    errors: Mapping[str, int] = field(default_factory=dict[str, int])


def summarize(
    records: Sequence[RequestRecord],
    *,
    duration_s: float,
    objectives_ms: Mapping[Measure, float] | None = None,
) -> ServingSummary:
    """Fold the records of one run.

    Args:
        records: Every request of the run, failed ones too.
        duration_s: From the first arrival's moment to the last end.
        objectives_ms: The most that a good request may take.
    """
    done = [record for record in records if record.error is None]
    input_tokens = sum(record.prompt_tokens for record in done)
    output_tokens = sum(record.output_tokens for record in done)
    good = [record for record in done if _meets(record, objectives_ms or {})]
    buckets = Counter(int(at) for record in done for at in record.chunks_s)
    return ServingSummary(
        duration_s=duration_s,
        completed=len(done),
        failed=len(records) - len(done),
        total_input_tokens=input_tokens,
        total_cached_tokens=sum(record.cached_tokens for record in done),
        total_output_tokens=output_tokens,
        request_throughput=len(done) / duration_s,
        output_throughput=output_tokens / duration_s,
        total_token_throughput=(input_tokens + output_tokens) / duration_s,
        request_goodput=len(good) / duration_s if objectives_ms else None,
        peak_output_chunks_per_s=max(buckets.values(), default=0),
        peak_concurrent_requests=_peak_concurrency(records),
        ttft=Distribution.of([record.ttft_s for record in done]),
        tpot=Distribution.of([record.tpot_s for record in done if record.output_tokens > 1]),
        itl=Distribution.of([gap for record in done for gap in record.itls_s]),
        e2el=Distribution.of([record.e2el_s for record in done]),
        errors=dict(Counter(record.error for record in records if record.error is not None)),
    )


def _meets(record: RequestRecord, objectives_ms: Mapping[Measure, float]) -> bool:
    took_s: dict[Measure, float] = {
        "ttft": record.ttft_s,
        "tpot": record.tpot_s,
        "e2el": record.e2el_s,
    }
    return all(took_s[name] * 1e3 <= limit for name, limit in objectives_ms.items())


def _peak_concurrency(records: Sequence[RequestRecord]) -> int:
    # An end at the moment of a beginning comes first: the two do not overlap.
    edges = sorted([(r.began_s, 1) for r in records] + [(r.ended_s, -1) for r in records])
    return max(itertools.accumulate(change for _, change in edges), default=0)
