"""The events of a run -> what a person sees: a live panel on a terminal, lines elsewhere.

Everything goes to stderr; the caller prints the result. Events are told apart by `match` on their
types, which the caller's method has imported by then.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headrace.cli.report import progress_console
from headrace.cli.terminal import visible
from headrace.errors import ServiceError
from headrace.training.loop import Interrupted, StepReport
from headrace.training.watch import Event, Prepared, Published, Sampled, Scored

_BARS = "▁▂▃▄▅▆▇█"
_CURVE_COLUMNS = 60
_LINE_EVERY_S = 30.0


@dataclass(kw_only=True, slots=True)
class Ended:
    """What is left when a run is over."""

    published: Published | None = None
    scores: dict[str, Scored] = field(default_factory=dict[str, Scored])
    """The last of each stage."""


def follow(events: Iterable[Event], *, waiting: str) -> Ended:
    """Show a run until it ends.

    Args:
        events: Of the run.
        waiting: What happens before the first event, in words.

    Raises:
        ServiceError: The run was stopped by a signal; its checkpoint is written.
    """
    console = progress_console()
    ended = Ended()
    view = _View(waiting)
    try:
        with Live(
            view, console=console, refresh_per_second=4, transient=True, auto_refresh=True
        ) as live:
            live.vertical_overflow = "crop"
            for event in events:
                view.take(event)
                for line in _lines(event, terminal=console.is_terminal, view=view):
                    console.print(line, markup=False, soft_wrap=True)
                match event:
                    case Published():
                        ended.published = event
                    case Scored():
                        ended.scores[event.stage] = event
                    case _:
                        pass
    except Interrupted as error:
        raise ServiceError(str(error)) from error
    return ended


def _lines(event: Event, *, terminal: bool, view: "_View") -> list[str]:
    """What stays on the screen of an event."""
    match event:
        case Prepared():
            trained = "" if event.trained == event.parameters else f", {event.trained:,} trained"
            facts = "".join(f"; {count:,} {name}" for name, count in event.facts.items())
            return [f"{event.parameters:,} parameters{trained}{facts}"]
        case Scored():
            scores = ", ".join(f"{name} {_number(value)}" for name, value in event.scores.items())
            return [f"{event.stage} step {event.step}: held out {scores}"]
        case Sampled():
            return [visible(f"  {event.prompt!r} -> {event.answer!r}")]
        case StepReport():
            lines = [f"{event.stage} step {event.step}: {event.warning}"] if event.warning else []
            if not terminal and view.line_is_due(event):
                lines.append(
                    f"{event.stage} step {event.step}/{event.steps}: loss {event.loss:.4f}, "
                    f"gradient {event.grad_norm:.3g}, {event.tokens_per_s:,.0f} tok/s"
                )
            return lines
        case Published():
            return []


class _View:
    """A renderable of the stage that runs; rich asks for it four times a second."""

    def __init__(self, waiting: str) -> None:
        self._waiting = waiting
        self._report: StepReport | None = None
        self._losses: list[float] = []
        self._speeds: deque[float] = deque(maxlen=20)
        self._scored: Scored | None = None
        self._printed = -_LINE_EVERY_S

    def take(self, event: Event) -> None:
        match event:
            case StepReport():
                if self._report is None or self._report.stage != event.stage:
                    self._losses.clear()
                    self._speeds.clear()
                self._report = event
                self._losses.append(event.loss)
                self._speeds.append(event.tokens_per_s)
            case Scored():
                self._scored = event
            case _:
                pass

    def line_is_due(self, report: StepReport) -> bool:
        due = report.seconds - self._printed >= _LINE_EVERY_S or report.step == report.steps
        if report.seconds < self._printed:  # another stage began
            due = True
        if due:
            self._printed = report.seconds
        return due

    def __rich__(self) -> RenderableType:
        report = self._report
        if report is None:
            return Text(f"{_spinner()} {self._waiting}")
        speed = sum(self._speeds) / len(self._speeds)
        per_step_s = report.seconds / max(1, len(self._losses))
        left_s = per_step_s * (report.steps - report.step)
        numbers = Table.grid(padding=(0, 3))
        cells = [
            ("loss", f"{report.loss:.4f}"),
            ("gradient", f"{report.grad_norm:.3g}"),
            ("rate", f"{report.lr_factor:.2f} of peak"),
            ("tokens", f"{report.tokens:,}"),
            ("tok/s", f"{speed:,.0f}"),
            ("left", _duration(left_s)),
        ]
        if report.skipped:
            cells.append(("skipped", str(report.skipped)))
        cells += [(name, _number(value)) for name, value in list(report.metrics.items())[:6]]
        for _ in range(4):
            numbers.add_column()
        for start in range(0, len(cells), 4):
            numbers.add_row(
                *(Text.assemble((f"{n} ", "dim"), v) for n, v in cells[start : start + 4])
            )
        parts: list[RenderableType] = [
            ProgressBar(total=report.steps, completed=report.step, width=_CURVE_COLUMNS),
            Text(curve(self._losses, _CURVE_COLUMNS), style="cyan"),
            numbers,
        ]
        if self._scored is not None:
            scores = ", ".join(f"{n} {_number(v)}" for n, v in self._scored.scores.items())
            parts.append(Text(f"held out at step {self._scored.step}: {scores}", style="dim"))
        return Panel(
            Group(*parts),
            title=f"{report.stage} step {report.step} of {report.steps}",
            title_align="left",
            expand=False,
        )


def curve(values: Sequence[float], columns: int) -> str:
    """The values as a line of bars, each column the mean of its share, low to high."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return ""
    columns = min(columns, len(finite))
    edges = [len(finite) * column // columns for column in range(columns + 1)]
    means = [sum(finite[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[round((mean - low) / span * (len(_BARS) - 1))] for mean in means)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 100 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _spinner() -> str:
    return "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(time.monotonic() * 8) % 10]
