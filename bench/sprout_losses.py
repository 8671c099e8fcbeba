"""The losses of the run that made sprout, as a picture.

    python bench/sprout_losses.py [TRAINING_LOG.jsonl] [PICTURE.svg]

Each stage beside the last: the loss of every step, averaged over 15, and of held-out text.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOG = ROOT / "src" / "headrace" / "sprout" / "training_log.jsonl"
PICTURE = ROOT / "docs" / "images" / "sprout-losses.svg"
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 260, 46, 24, 40
AVERAGED = 15
COLOURS = {"pretrain": "#1f5fa8", "chat": "#b4520f", "prefer": "#3c7a3c"}


def picture(records: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of steps and held-out scores in the order they came."""
    steps = [record for record in records if record["kind"] == "step"]
    held = [record for record in records if "perplexity" in record]
    low, high = 0.0, max(record["loss"] for record in steps)
    place = {(step["stage"], step["step"]): at for at, step in enumerate(steps)}

    def x_of(at: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 12) * at / max(1, len(steps) - 1), 1)

    def y_of(loss: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low), 1)

    parts = ['<text x="8" y="14">nats a supervised token</text>']
    for loss in range(int(high) + 1):
        parts.append(f'<path class="grid" d="M{LEFT} {y_of(loss)}H{WIDTH - 12}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y_of(loss) + 4}" text-anchor="end">{loss}</text>')
    for row, (stage, group) in enumerate(groupby(steps, key=lambda step: step["stage"])):
        losses = [step["loss"] for step in group]
        first, colour = place[stage, 1], COLOURS.get(stage, "#555")
        points = [
            f"{x_of(first + at)},{y_of(sum(some) / len(some))}"
            for at in range(len(losses))
            if (some := losses[max(0, at - AVERAGED + 1) : at + 1])
        ]
        parts.append(f'<polyline fill="none" stroke="{colour}" points="{" ".join(points)}"/>')
        middle = x_of(first + len(losses) / 2)
        parts.append(
            f'<text x="{min(middle, WIDTH - 60)}" y="{HEIGHT - 26 + row % 2 * 14}" '
            f'text-anchor="middle" fill="{colour}">'
            f"{stage}, {len(losses)} steps</text>"
        )
    for score in held:
        at = place.get((score["stage"], score["step"]))
        if at is not None:
            parts.append(f'<circle cx="{x_of(at)}" cy="{y_of(score["loss"])}" r="3"/>')
    parts.append(f'<text x="{WIDTH - 12}" y="14" text-anchor="end">dots: held-out text</text>')
    style = "text{font:12px sans-serif}.grid{stroke:#ddd}polyline{stroke-width:1.6}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}"><style>{style}</style>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    log, out = (Path(text) for text in (*sys.argv[1:], *(LOG, PICTURE)[len(sys.argv) - 1 :]))
    records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    out.write_text(picture(records), encoding="utf-8")


if __name__ == "__main__":
    main()
