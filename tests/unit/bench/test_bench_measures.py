"""The definitions, by hand."""

import math

import numpy as np
import pytest

from headrace.bench.arrivals import arrivals_s
from headrace.bench.datasets import Span
from headrace.bench.measures import Distribution, RequestRecord, summarize
from headrace.errors import InvalidParameter

A = RequestRecord(
    began_s=1.0, ended_s=3.0, chunks_s=(1.5, 2.0, 2.75), prompt_tokens=10, output_tokens=4
)
"""TTFT 0.5, E2EL 2, TPOT (2 - 0.5) / 3 = 0.5, gaps 0.5 and 0.75."""
ONE = RequestRecord(began_s=2.0, ended_s=2.5, chunks_s=(2.25,), prompt_tokens=5, output_tokens=1)
LOST = RequestRecord(began_s=2.6, ended_s=2.7, error="overloaded: full")


def test_of_one_request() -> None:
    assert (A.ttft_s, A.e2el_s, A.tpot_s) == (0.5, 2.0, 0.5)
    assert A.itls_s == [0.5, 0.75]
    assert (ONE.tpot_s, ONE.itls_s) == (0.0, [])


def test_summary() -> None:
    summary = summarize([A, ONE, LOST], duration_s=4.0, objectives_ms={"ttft": 500, "tpot": 400})
    assert (summary.completed, summary.failed) == (2, 1)
    assert (summary.total_input_tokens, summary.total_output_tokens) == (15, 5)
    assert summary.request_throughput == 0.5
    assert summary.output_throughput == 1.25
    assert summary.total_token_throughput == 5.0
    assert summary.request_goodput == 0.25  # A's TPOT is over; ONE's is 0
    assert summary.peak_concurrent_requests == 2
    assert summary.peak_output_chunks_per_s == 3  # at 2.0, 2.25 and 2.75
    assert summary.errors == {"overloaded: full": 1}
    assert summary.ttft is not None
    assert summary.ttft.mean_ms == 375.0
    assert summary.tpot is not None
    assert (summary.tpot.count, summary.tpot.median_ms) == (1, 500.0)
    assert summary.itl is not None
    assert summary.itl.mean_ms == 625.0


def test_nothing_completed_makes_no_numbers() -> None:
    summary = summarize([LOST], duration_s=1.0)
    assert summary.ttft is summary.tpot is summary.itl is summary.e2el is None
    assert summary.request_goodput is None
    assert summarize([], duration_s=1.0).peak_concurrent_requests == 0


def test_percentiles_are_numpys() -> None:
    values = [0.1, 0.4, 0.2, 0.9]
    found = Distribution.of(values)
    assert found is not None
    assert found.percentiles_ms["p95"] == pytest.approx(1e3 * np.percentile(values, 95))
    assert found.std_ms == pytest.approx(1e3 * np.std(values))


@pytest.mark.parametrize("burstiness", [0.3, 1.0, 5.0, math.inf])
def test_arrivals_keep_the_rate(burstiness: float) -> None:
    moments = arrivals_s(count=400, rate=20, burstiness=burstiness, seed=1)
    assert moments == sorted(moments)
    assert moments[-1] == pytest.approx(20.0)
    gaps = np.diff(moments)
    # A gamma's coefficient of variation is 1 / sqrt(shape).
    wanted = 0.0 if math.isinf(burstiness) else burstiness**-0.5
    assert gaps.std() / gaps.mean() == pytest.approx(wanted, rel=0.25, abs=1e-6)
    assert moments == arrivals_s(count=400, rate=20, burstiness=burstiness, seed=1)


def test_arrivals_at_once() -> None:
    assert arrivals_s(count=3, rate=math.inf, burstiness=1, seed=0) == [0.0] * 3
    assert arrivals_s(count=0, rate=2, burstiness=1, seed=0) == []


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_arrivals_refuse(bad: float) -> None:
    with pytest.raises(InvalidParameter, match="rate"):
        arrivals_s(count=1, rate=bad, burstiness=1, seed=0)
    with pytest.raises(InvalidParameter, match="burstiness"):
        arrivals_s(count=1, rate=1, burstiness=bad, seed=0)


def test_span() -> None:
    assert Span.parse("7", name="n") == Span(low=7, high=7)
    assert Span.parse("7-9", name="n") == Span(low=7, high=9)
    for bad in ("", "a", "9-7", "0", "1-2-3", "-4"):
        with pytest.raises(InvalidParameter, match="`n`"):
            Span.parse(bad, name="n")
