"""Spikes and NaNs are skipped and counted, and whether they are survives a restart."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import training_fixtures as fx
from headrace.data.pack import PackedBatch
from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.training import loop
from headrace.training.guard import Guard
from headrace.training.objectives import Loss
from headrace.training.task import NextToken


def _guard(**changes: Any) -> Guard:
    return Guard(fx.updates(**{"spike_window": 8, "skip_limit": 3, **changes}))


def test_a_spike_is_skipped_after_half_a_window_and_not_before() -> None:
    guard = _guard()
    assert guard.judge(100.0, 1.0) == ""
    for step in range(3):
        assert guard.judge(2.0 + step / 10, 1.0 + step / 10) == ""
    for step in range(8):
        assert guard.judge(2.0 + step % 3 / 10, 1.0 + step % 3 / 10) == ""
    assert "its loss 9 is above" in guard.judge(9.0, 1.0)
    assert "its gradient norm 50 is above" in guard.judge(2.1, 50.0)
    assert guard.skipped == 2
    assert guard.judge(2.1, 1.1) == ""
    assert _guard(spike_sigmas=0.0).judge(1e30, 1e30) == ""


def test_a_new_level_is_soon_usual() -> None:
    guard = _guard(skip_limit=99)
    for step in range(8):
        guard.judge(2.0 + step % 3 / 10, 1.0)
    for step in range(8):
        guard.judge(5.0 + step % 3 / 10, 1.0)
    assert guard.judge(5.1, 1.0) == ""
    assert guard.skipped < 4


def test_numbers_that_are_none_are_skipped_until_the_limit() -> None:
    guard = _guard()
    assert "its loss is nan" in guard.judge(math.nan, 1.0)
    assert "gradient norm inf" in guard.judge(1.0, math.inf)
    assert guard.judge(1.0, 1.0) == ""
    guard.judge(math.nan, 1.0)
    guard.judge(math.nan, 1.0)
    with pytest.raises(DataError, match="3 steps in a row were not fit"):
        guard.judge(math.nan, 1.0)


_NUMBER = st.floats(0, 100) | st.sampled_from([math.nan, math.inf])


@given(steps=st.lists(st.tuples(_NUMBER, _NUMBER), max_size=40), cut=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_restored_guard_judges_as_the_one_before(
    steps: list[tuple[float, float]], cut: int
) -> None:
    whole, first = _guard(skip_limit=99), _guard(skip_limit=99)
    expected = [whole.judge(*step) for step in steps]
    judged = [first.judge(*step) for step in steps[:cut]]
    second = _guard(skip_limit=99)
    second.restore(first.state())
    judged += [second.judge(*step) for step in steps[cut:]]
    assert judged == expected
    assert second.skipped == whole.skipped


class _Spiking:
    """Next tokens, their loss a thousand times itself in some calls."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.step = 0

    def weight(self, batch: PackedBatch, /) -> float:
        return NextToken().weight(batch)

    def loss(self, decoder: Decoder, batch: PackedBatch, /) -> Loss:
        loss = NextToken().loss(decoder, batch)
        factor = 1000.0 if self.step in self.steps else 1.0
        return Loss(sum=loss.sum * factor, weight=loss.weight)


def _run(at: Path, *, resume: bool = False, stop: int = -1) -> tuple[Decoder, list[Any]]:
    plan = fx.updates(steps=20, spike_window=8)
    model, task, reports = fx.decoder(), _Spiking(9, 13), list[loop.StepReport]()
    plain = fx.trainee(model, fx.rows(50))

    def batches(step: int) -> Any:
        task.step = step
        return plain.batches(step)

    trainee = loop.Trainee(decoder=model, task=task, batches=batches, fingerprint="f")
    try:
        for report in loop.run(
            trainee,
            "pretrain",
            plan,
            directory=at,
            resume=resume,
            should_stop=lambda: len(reports) == stop,
        ):
            reports.append(report)
    except loop.Interrupted:
        pass
    return model, reports


def test_the_loop_leaves_the_model_alone_in_a_spike_and_resumes_bitwise(tmp_path: Path) -> None:
    whole, reports = _run(tmp_path / "whole")
    assert [r.skipped for r in reports] == [0] * 9 + [1] * 4 + [2] * 7
    assert reports[9].warning.startswith("skipped, because its loss")
    _run(tmp_path / "cut", stop=11)
    resumed, rest = _run(tmp_path / "cut", resume=True)
    assert fx.same(whole, resumed)
    assert [(r.loss, r.skipped) for r in rest] == [(r.loss, r.skipped) for r in reports[11:]]
    assert all(torch.isfinite(param).all() for param in whole.parameters())
