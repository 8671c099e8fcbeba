"""The reports of a loop -> the events of a run: logged, with scores and samples in between.

Every method's run is a stream of these events; the command line only shows them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.training.log import Logs
from headrace.training.loop import StepReport


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The run is about to begin."""

    parameters: int
    trained: int
    """Of them, those that are trained."""
    facts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Counts that the method wants seen: documents, tokens, pairs, what was dropped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The model on what was held out."""

    stage: str
    step: int
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampled:
    """What the model says."""

    stage: str
    step: int
    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """The finished checkpoint."""

    path: Path
    weight_bytes: int


Event = Prepared | StepReport | Scored | Sampled | Published


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What is looked at while a model trains, and how often."""

    every_steps: int = 0
    """0 = after the last step alone; after the last step in any case."""
    score: Callable[[], Mapping[str, float]] | None = None
    sample: Callable[[], Iterable[tuple[str, str]]] | None = None
    """(prompt, answer) pairs."""


def observed(reports: Iterator[StepReport], watch: Watch, logs: Logs) -> Iterator[Event]:
    """The reports of one stage, each logged, and what `watch` asks for between them."""
    for place, report in enumerate(reports):
        stage, step = report.stage, report.step
        if place == 0:
            logs.begin(stage, step)
        logs.step(report)
        yield report
        if step != report.steps and (not watch.every_steps or step % watch.every_steps):
            continue
        if watch.score is not None:
            scores = watch.score()
            logs.scores(stage, step, scores)
            yield Scored(stage=stage, step=step, scores=scores)
        if watch.sample is not None:
            for prompt, answer in watch.sample():
                logs.sample(stage, step, prompt, answer)
                yield Sampled(stage=stage, step=step, prompt=prompt, answer=answer)
