"""A grid of sizes and tokens -> small runs on one corpus, a law, a held-out run predicted.

    DIR/tokenizer/          one vocabulary for all
    DIR/runs/3x64-500k/     each run's log, checkpoints, model, and result.json when it is done
    DIR/scaling.json, .svg  the fit and its picture

A run that has its result is kept, one that was interrupted goes on from its checkpoint; every run
is a function of (plan, corpus), so a sweep that was killed anywhere ends as one that was not.

N is every parameter: with the tied head each one is in a product, so that 6 N D are the FLOPs. D is
the tokens that were trained on, as the loop counted them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headrace.data import sources
from headrace.errors import CheckpointError, ConfigError, UserError
from headrace.tokens import Tokenizer
from headrace.training import recipe, state
from headrace.training.loop import StepReport
from headrace.training.recipe import Resume, Shape
from headrace.training.recipes import pretrain
from headrace.training.recipes.pretrain import Corpus, Pretrain
from headrace.training.scaling import picture
from headrace.training.scaling.fit import LEAST_RUNS, Fit, fit
from headrace.training.scaling.law import Optimum, Run
from headrace.training.watch import Prepared, Scored

RESULT, REPORT, PICTURE = "result.json", "scaling.json", "scaling.svg"
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
_FREE = ("shape.vocab_tokens", "shape.context_tokens", "shape.rope_theta")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One run that is to be made."""

    shape: str
    """LAYERSxWIDTH."""
    tokens: int
    amount: str
    """The tokens as they were written: 500k."""

    @property
    def name(self) -> str:
        return f"{self.shape}-{self.amount}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """The grid is laid out."""

    runs: int
    flops: float
    """Of all of them, by 6 N D; what is kept from before included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How far the run stands."""

    name: str
    step: int
    steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A run has its result."""

    run: Run
    kept: bool
    """It was there already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A run that the fit did not see."""

    run: Run
    loss: float

    @property
    def error(self) -> float:
        """Relative: 0.01 = the prediction is one per cent too high."""
        return self.loss / self.run.loss - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """What the sweep says."""

    fit: Fit
    """Of all runs but the held-out one."""
    runs: Sequence[Run]
    held_out: Prediction | None
    optima: Sequence[Optimum]
    """One a budget."""
    path: Path

    def beyond(self, optimum: Optimum) -> float:
        """The budget over the compute of the largest run: 10 = extrapolated tenfold."""
        return optimum.flops / max(run.flops for run in self.runs)


Event = Begun | Training | Done | Swept


def parse_grid(grids: Sequence[str]) -> list[Cell]:
    """`2x64,3x96:250k,1M` -> every shape with every amount, cheapest first, each once.

    Raises:
        ConfigError: Not such a text.
    """
    cells: dict[str, Cell] = {}
    for grid in grids:
        shapes, separator, amounts = grid.partition(":")
        if not (separator and shapes and amounts):
            raise ConfigError(
                f"--grid {grid!r} is not SHAPES:TOKENS; write for example 2x64,3x96:250k,1M"
            )
        for shape in shapes.split(","):
            for amount in amounts.split(","):
                cell = Cell(shape=shape.strip(), tokens=_amount(amount), amount=amount.strip())
                pretrain.parse_shape(cell.shape)
                cells[cell.name] = cell
    return sorted(cells.values(), key=lambda cell: (cell.tokens, cell.shape))


def _amount(text: str) -> int:
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]?)", text.strip())
    tokens = round(float(matched[1]) * _UNITS[matched[2]]) if matched else 0
    if not tokens:
        raise ConfigError(f"--grid: {text!r} is not a number of tokens; write 250k, 1M or 2000000")
    return tokens


def template(sets: Sequence[str]) -> Pretrain:
    """What all runs share; sizes and steps follow from the grid.

    Raises:
        ConfigError: An unknown key, or one that the grid decides.
    """
    plan = pretrain.default(pretrain.parse_shape("2x64"))
    plan = replace(
        plan,
        shape=replace(plan.shape, vocab_tokens=1024, context_tokens=256),
        rows=replace(plan.rows, per_step=8, row_tokens=256, batch_tokens=2048),
        compute=replace(plan.compute, threads=1),
        evaluate_every_steps=0,
        sample_tokens=0,
    )
    for item in sets:
        key = item.partition("=")[0].strip()
        if key == "updates.steps" or (key.startswith("shape.") and key not in _FREE):
            raise ConfigError(f"--set: {key} follows from --grid; change that")
    return recipe.with_sets(plan, sets)


def sweep(
    plan: Pretrain,
    cells: Sequence[Cell],
    *,
    data: Path,
    out: Path,
    tokenizer: Path | None = None,
    held_out: str | None = "largest",
    budgets: Sequence[float] = (),
) -> Iterator[Event]:
    """Run the grid in `out`, fit, predict, draw; yields what happens.

    Args:
        plan: From `template`.
        cells: From `parse_grid`.
        data: A file or directory of texts (see `data.sources.texts`).
        out: Gets everything.
        tokenizer: A directory or file to take the vocabulary from; None = one is trained.
        held_out: Name of the run that the fit does not see; largest = the one of most FLOPs; None =
            all are fitted.
        budgets: Training FLOPs to say the best size and tokens for.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; the same call goes on from there.
        UserError: Too few runs, or no such held-out run.
        CheckpointError: `out` holds runs of another plan or other data.
    """
    _check(cells, held_out, budgets)
    documents = list(sources.texts(data))
    vocabulary = _vocabulary(plan, documents, tokenizer, out / "tokenizer")
    plan = replace(plan, shape=replace(plan.shape, vocab_tokens=vocabulary.vocab_size))
    corpus = pretrain.tokenised(plan, documents, vocabulary)
    plans = [(cell, _plan_of(plan, cell, corpus)) for cell in cells]
    sizes = [size_of(one.shape) for _, one in plans]
    yield Begun(
        runs=len(cells),
        flops=sum(6.0 * n * cell.tokens for n, cell in zip(sizes, cells, strict=True)),
    )
    runs: list[Run] = []
    for cell, one in plans:
        for event in _run(one, cell, corpus, vocabulary, out / "runs" / cell.name):
            if isinstance(event, Done):
                runs.append(event.run)
            yield event
    yield _report(runs, held_out, budgets, out, plan)


def _check(cells: Sequence[Cell], held_out: str | None, budgets: Sequence[float]) -> None:
    names = [cell.name for cell in cells]
    if held_out not in (None, "largest", *names):
        raise UserError(
            f"--held-out {held_out} is no run of the grid; there are {', '.join(names)}"
        )
    needed = LEAST_RUNS + (held_out is not None)
    if len(cells) < needed:
        raise UserError(
            f"the grid has {len(cells)} runs; a fit{' and a run held out' if held_out else ''} "
            f"needs {needed}: add shapes or amounts of tokens"
        )
    for budget in budgets:
        if not 0 < budget < 1e40:
            raise UserError(f"--budget {budget:g} is not a number of FLOPs above 0")


def _vocabulary(
    plan: Pretrain, documents: Sequence[sources.Document], given: Path | None, kept: Path
) -> Tokenizer:
    if (kept / "tokenizer.json").is_file():
        return Tokenizer.load(kept)
    vocabulary = pretrain.vocabulary_for(plan, documents, given)
    vocabulary.save(kept)
    return vocabulary


def _plan_of(plan: Pretrain, cell: Cell, corpus: Corpus) -> Pretrain:
    a_row = sum(len(row.ids) - 1 for row in corpus.train) / len(corpus.train)
    steps = max(1, round(cell.tokens / (a_row * plan.rows.per_step)))
    warmup = min(plan.updates.warmup_steps, steps // 10)
    updates = replace(plan.updates, steps=steps, warmup_steps=warmup)
    return replace(plan, shape=shape_of(plan, cell), updates=updates)


def shape_of(plan: Pretrain, cell: Cell) -> Shape:
    """The cell's shape, with what all runs share."""
    return replace(
        pretrain.parse_shape(cell.shape),
        vocab_tokens=plan.shape.vocab_tokens,
        context_tokens=plan.shape.context_tokens,
        rope_theta=plan.shape.rope_theta,
    )


def size_of(shape: Shape) -> int:
    """Parameters of a decoder of this shape."""
    heads = 2 * (shape.heads + shape.kv_heads) * shape.head_width
    norms = 2 * shape.width + 2 * shape.head_width
    layer = shape.width * (heads + 3 * shape.mlp_width) + norms
    return shape.vocab_tokens * shape.width + shape.layers * layer + shape.width


def _run(
    plan: Pretrain, cell: Cell, corpus: Corpus, vocabulary: Tokenizer, out: Path
) -> Iterator[Event]:
    mark = recipe.fingerprint(plan, vocabulary.fingerprint, *corpus.hashes)
    found = _result(out / RESULT)
    if found is not None:
        if found.get("fingerprint") != mark:
            raise CheckpointError(
                f"{out} is of another plan or other data; give the same settings or another --out"
            )
        yield Done(run=Run(**found["run"]), kept=True)
        return
    out.mkdir(parents=True, exist_ok=True)
    resuming = state.admit(out / "checkpoints", Resume.AUTO)
    parameters, tokens, loss, scores = 0, 0, float("nan"), {}
    for event in pretrain.train_on(plan, corpus, vocabulary, out=out, resuming=resuming):
        match event:
            case Prepared():
                parameters = event.parameters
            case StepReport():
                tokens = event.tokens
                yield Training(name=cell.name, step=event.step, steps=event.steps)
            case Scored():
                scores = dict(event.scores)
                loss = scores["loss"]
            case _:
                pass
    if not tokens:  # killed between the last checkpoint and the result
        tokens, scores = _logged(out)
        loss = scores["loss"]
    run = Run(name=cell.name, parameters=parameters, tokens=tokens, loss=loss)
    written = {"run": asdict(run), "held_out": scores, "fingerprint": mark}
    _write(out / RESULT, written)
    yield Done(run=run, kept=False)


def _result(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}; delete it to run it again") from error


def _logged(out: Path) -> tuple[int, dict[str, float]]:
    """What the log says of a run that had ended but for its result."""
    lines = (out / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    steps = [record for record in records if record["kind"] == "step"]
    scores = [record for record in records if record["kind"] == "score"]
    if not steps or not scores:
        raise CheckpointError(f"{out} has ended without a score; delete it to run it again")
    numbers = {k: v for k, v in scores[-1].items() if k not in ("kind", "stage", "step")}
    return int(steps[-1]["tokens"]), numbers


def _report(
    runs: Sequence[Run],
    held_out: str | None,
    budgets: Sequence[float],
    out: Path,
    plan: Pretrain,
) -> Swept:
    hidden = None
    if held_out is not None:
        largest = max(runs, key=lambda run: run.flops)
        hidden = next((run for run in runs if run.name == held_out), largest)
    fitted = fit([run for run in runs if run is not hidden])
    law = fitted.law
    swept = Swept(
        fit=fitted,
        runs=runs,
        held_out=hidden and Prediction(run=hidden, loss=law.loss(hidden.parameters, hidden.tokens)),
        optima=[law.optimum(budget) for budget in budgets],
        path=out / REPORT,
    )
    _write(out / REPORT, as_json(swept, plan))
    (out / PICTURE).write_text(
        picture.draw(law, runs, held_out=hidden, title="held-out loss by size and tokens"),
        encoding="utf-8",
    )
    return swept


def as_json(swept: Swept, plan: Pretrain) -> dict[str, Any]:
    """Everything that is reported, and the recipe it was found with."""
    told = swept.held_out
    return {
        "law": asdict(swept.fit.law),
        "intervals_90": {name: asdict(value) for name, value in swept.fit.intervals.items()},
        "residual_rms_log": swept.fit.residual,
        "runs": [{**asdict(run), "flops": run.flops} for run in swept.runs],
        "held_out": told
        and {"name": told.run.name, "predicted": told.loss, "measured": told.run.loss}
        | {"relative_error": told.error},
        "optima": [
            {
                **asdict(optimum),
                "tokens_per_parameter": optimum.tokens_per_parameter,
                "times_the_largest_run": swept.beyond(optimum),
            }
            for optimum in swept.optima
        ],
        "recipe": recipe.resolved(plan),
    }


def _write(path: Path, value: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
