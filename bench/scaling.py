"""Scaling laws on real texts: a grid of small runs, and how well any five of six predict the sixth.

python bench/scaling.py --data TEXTS --out DIR [--write]

Trains (or finds in DIR) every shape of 2x32, 3x64, 4x96 with 250k, 500k and 1M tokens. Then, of
each two amounts, the six runs: each in turn is held out, the law is fitted to the other five and
predicts it. The whole grid predicts its largest run from the other eight. --write keeps the result
under bench/results/ and the picture under docs/images/.
"""

import argparse
import datetime
import itertools
import shutil
from dataclasses import asdict
from pathlib import Path

from headrace.bench.results import write_result
from headrace.training.scaling import sweep
from headrace.training.scaling.fit import fit

HERE = Path(__file__).resolve().parent
GRID = "2x32,3x64,4x96:250k,500k,1M"
BUDGETS = (1e14, 1e16)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--data", type=Path, required=True)
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--write", action="store_true")
    given = asked.parse_args()
    plan, cells = sweep.template([]), sweep.parse_grid([GRID])
    swept = None
    for event in sweep.sweep(plan, cells, data=given.data, out=given.out, budgets=BUDGETS):
        match event:
            case sweep.Done():
                print(f"{event.run.name}: {event.run.loss:.4f}", flush=True)
            case sweep.Swept():
                swept = event
            case _:
                pass
    assert swept is not None
    assert swept.held_out is not None
    sixths = []
    for amounts in itertools.combinations(dict.fromkeys(cell.amount for cell in cells), 2):
        names = {cell.name for cell in cells if cell.amount in amounts}
        six = [run for run in swept.runs if run.name in names]
        for held in six:
            law = fit([run for run in six if run is not held], resamples=0).law
            predicted = law.loss(held.parameters, held.tokens)
            error = predicted / held.loss - 1
            sixths.append(
                {"grid": amounts, "held_out": held.name, "predicted": predicted}
                | {"measured": held.loss, "relative_error": error}
            )
            print(f"five of {amounts} predict {held.name}: {error:+.2%}")
    worst = max(abs(one["relative_error"]) for one in sixths)
    print(f"worst {worst:.2%}; eight of nine predict {swept.held_out.run.name}: "
          f"{swept.held_out.error:+.2%}")  # fmt: skip
    if given.write:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        write_result(
            HERE / "results" / f"{today}-scaling.json",
            what="scaling sweep",
            arguments={"grid": GRID, "data": given.data.name, "budgets": BUDGETS},
            result={
                **sweep.as_json(swept, plan),
                "fitted_runs": swept.fit.runs,
                "five_predict_a_sixth": sixths,
                "worst_of_them": worst,
                "law_of_eight": asdict(swept.fit.law),
            },
        )
        shutil.copyfile(given.out / sweep.PICTURE, HERE.parent / "docs" / "images" / "scaling.svg")


if __name__ == "__main__":
    main()
