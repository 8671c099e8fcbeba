"""How many wrong citations are caught and right ones struck, by kind, on articles of SQuAD.

The verifier's bars were chosen on the articles of even number (`--split dev`); what is reported is
the others' (`--split test`). Cases are `tests/citation_cases.py`.

    python bench/citations.py ../shared/data --split test --out bench/results/DATE-citations.json
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from citation_cases import Case, cases
from headrace.bench.results import write_result
from headrace.data.grounded import Passage
from headrace.data.squad import passages
from headrace.retrieval.answering.marks import Reference
from headrace.retrieval.answering.verifying import Verifier
from headrace.types import CitationVerdict


def split(found: list[Passage], side: str) -> list[Passage]:
    """Articles of even number by name are for choosing bars, the others for reporting."""
    names = sorted({passage.article for passage in found})
    return [p for p in found if (names.index(p.article) % 2 == 0) is (side == "dev")]


async def judge(found: list[Case], *, show: int = 0) -> dict[str, Any]:
    """Verdicts by kind, and the shares that the bar is about."""
    table: dict[str, Counter[str]] = {}
    for case in found:
        verifier = Verifier(case.sources, question=case.question)
        [checked] = await verifier.verify(case.claim, [Reference(case.number)])
        table.setdefault(case.kind, Counter())[checked.verdict.value] += 1
        if checked.good is not case.right and show > 0:
            show -= 1
            print(f"{case.kind}: {checked.verdict} {checked.reason}\n    {case.text}")
            print(f"    -> {checked.quote[:400]}")
    good = CitationVerdict.SUPPORTED.value
    right = [case.kind for case in found if case.right]
    struck = sum(
        count
        for kind, verdicts in table.items()
        if kind in right
        for verdict, count in verdicts.items()
        if verdict != good
    )
    missed = sum(verdicts[good] for kind, verdicts in table.items() if kind not in right)
    wrong = len(found) - len(right)
    return {
        "right": len(right),
        "right_struck": struck / len(right),
        "wrong": wrong,
        "wrong_caught": 1 - missed / wrong,
        "verdicts": {kind: dict(table[kind]) for kind in sorted(table)},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--show", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    texts = split(passages(given.data / "squad_v2_dev" / "articles.json.gz"), given.split)
    half = given.cases // 2
    found = list(cases(texts, seed=given.seed, right=half, wrong=given.cases - half))
    began = time.perf_counter()
    result = asyncio.run(judge(found, show=given.show))
    result |= {
        "split": given.split,
        "articles": len({passage.article for passage in texts}),
        "seed": given.seed,
        "ms_a_claim": 1000 * (time.perf_counter() - began) / len(found),
    }
    print(json.dumps(result, indent=2))
    if given.out is not None:
        asked = {name: value for name, value in vars(given).items() if name not in ("data", "out")}
        write_result(given.out, what="planted citations", arguments=asked, result=result)


if __name__ == "__main__":
    main()
