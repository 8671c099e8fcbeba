"""A law and its runs -> an SVG: loss over tokens, a curve a size, measured points on them.

No plotting library: the picture is a few lines and circles. A filled circle was fitted, a ring is
the run that the fit did not see.
"""

import math
from collections.abc import Sequence

from headrace.training.scaling.law import Law, Run

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 400, 64, 150, 40, 48
_COLOURS = ("#0b6e99", "#c2571a", "#4a7c2c", "#8a4a9e", "#a8861d", "#b23a48", "#3d5a80", "#6b6b6b")
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.title{font-weight:bold}"
    ".grid{stroke:#e4e4e0}.curve{fill:none;stroke-width:1.6}"
)


def draw(law: Law, runs: Sequence[Run], *, held_out: Run | None, title: str) -> str:
    """The picture as SVG text."""
    sizes = sorted({run.parameters for run in runs})
    amounts = [run.tokens for run in runs]
    low_x, high_x = math.log(min(amounts) / 1.3), math.log(max(amounts) * 1.3)
    losses = [run.loss for run in runs]
    losses += [law.loss(size, math.exp(x)) for size in sizes for x in (low_x, high_x)]
    span = (max(losses) - min(losses)) or 1.0
    low_y, high_y = min(losses) - 0.05 * span, max(losses) + 0.05 * span

    def x_of(tokens: float) -> float:
        share = (math.log(tokens) - low_x) / (high_x - low_x)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y_of(loss: float) -> float:
        share = (high_y - loss) / (high_y - low_y)
        return round(_TOP + share * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = [f'<text x="8" y="18" class="title">{title}</text>']
    for tick in _ticks(low_y, high_y):
        y = y_of(tick)
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{tick:g}</text>'
        )
    for amount in sorted(set(amounts)) if len(set(amounts)) <= 6 else _decades(amounts):
        parts.append(
            f'<text x="{x_of(amount)}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">'
            f"{human(amount)}</text>"
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:g}" y="{_HEIGHT - 8}" text-anchor="middle">tokens trained on</text>'
        f'<text x="8" y="{_TOP - 6}">nats a token</text>'
    )
    for place, size in enumerate(sizes):
        colour = _COLOURS[place % len(_COLOURS)]
        points = [low_x + (high_x - low_x) * step / 40 for step in range(41)]
        line = " ".join(f"{x_of(math.exp(x))},{y_of(law.loss(size, math.exp(x)))}" for x in points)
        parts.append(f'<polyline class="curve" stroke="{colour}" points="{line}"/>')
        end = y_of(law.loss(size, math.exp(high_x)))
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 8}" y="{end + 4}" fill="{colour}">'
            f"N = {human(size)}</text>"
        )
        for run in runs:
            if run.parameters == size:
                fill = "#fff" if run is held_out else colour
                parts.append(
                    f'<circle cx="{x_of(run.tokens)}" cy="{y_of(run.loss)}" r="4.5" fill="{fill}" '
                    f'stroke="{colour}" stroke-width="1.8"/>'
                )
    note = "ring = held out, predicted by the others" if held_out else ""
    parts.append(f'<text x="{_WIDTH - 8}" y="18" text-anchor="end">{note}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}"><style>{_STYLE}</style>\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def human(number: float) -> str:
    """1234567 -> 1.23M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:  # 999,900 is 1M, not 1e+03k
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    return [
        round(step * at, 10) for at in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]


def _decades(amounts: Sequence[float]) -> list[float]:
    low, high = min(amounts), max(amounts)
    return [low * (high / low) ** (step / 4) for step in range(5)]
