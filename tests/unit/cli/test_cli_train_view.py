"""What a person sees of a run: the curve, the lines that stay, the panel."""

import io
import math

import pytest
from rich.console import Console

from headrace.cli.train.view import _View, curve, follow
from headrace.errors import ServiceError
from headrace.training.loop import Interrupted, StepReport
from headrace.training.watch import Event, Prepared, Sampled, Scored


def _report(step: int, **changes: object) -> StepReport:
    values: dict[str, object] = {
        "stage": "sft",
        "step": step,
        "steps": 4,
        "loss": 3.0 / step,
        "grad_norm": 0.5,
        "lr_factor": 1.0,
        "tokens": 100 * step,
        "tokens_per_s": 1000.0,
        "seconds": float(step),
        **changes,
    }
    return StepReport(**values)  # type: ignore[arg-type]


def test_a_curve_is_low_to_high_and_no_wider_than_asked() -> None:
    assert curve([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert curve([4.0] * 5, 60) == "▁▁▁▁▁"
    assert len(curve([float(n) for n in range(1000)], 60)) == 60
    assert curve([math.nan, 1.0, math.inf, 2.0], 60) == "▁█"
    assert curve([], 60) == ""


def test_what_stays_is_said_on_lines(capsys: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = [
        Prepared(parameters=1000, trained=10, facts={"documents": 12}),
        _report(1),
        _report(2, warning="skipped, because its loss is nan", skipped=1),
        Scored(stage="sft", step=2, scores={"loss": 1.25, "tokens": 1200.0}),
        Sampled(stage="sft", step=2, prompt="a", answer="b\x1b]0;title"),
        _report(4),
    ]
    ended = follow(iter(events), waiting="reading")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1,000 parameters, 10 trained; 12 documents"
    assert "sft step 1/4: loss 3.0000, gradient 0.5, 1,000 tok/s" in lines[1]
    assert lines[2] == "sft step 2: skipped, because its loss is nan"
    assert lines[3] == "sft step 2: held out loss 1.25, tokens 1,200"
    assert "\x1b" not in lines[4]
    assert "step 4/4" in lines[5]
    assert ended.scores["sft"].scores["loss"] == 1.25
    assert ended.published is None


def test_a_stopped_run_is_an_error_with_the_way_on() -> None:
    def events() -> object:
        yield _report(1)
        raise Interrupted("stopped after step 1 of sft; --resume auto goes on from it")

    with pytest.raises(ServiceError, match="--resume auto"):
        follow(events(), waiting="")  # type: ignore[arg-type]


def test_the_panel_shows_where_the_run_stands() -> None:
    view = _View("reading the texts")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(view)
    for step in (1, 2, 3):
        view.take(_report(step, metrics={"margin": 0.25}, skipped=2))
    view.take(Scored(stage="sft", step=3, scores={"loss": 1.5}))
    console.print(view)
    shown = console.export_text()
    for text in ("reading the texts", "sft step 3 of 4", "loss 1.0000", "margin 0.25", "skipped 2"):
        assert text in shown
    assert "held out at step 3: loss 1.5" in shown
    assert "0:01" in shown
