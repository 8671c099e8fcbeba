"""Ways to answer → the one that a golden set shows to be better, or the first where none does.

Whether compressing helps, or summaries, depends on the documents, the model and the room it has. So
it is measured: every way answers the same questions, and another than the first is used only where
the clustered interval of its gain lies above zero.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from headrace.errors import InvalidParameter
from headrace.retrieval.answering.styles import says_nothing_found
from headrace.retrieval.answering.words import words_of
from headrace.retrieval.measures import Comparison, Verdict, compare

Answer = Callable[[str], Awaitable[str]]
"""A question → an answer."""
Score = Callable[[str, "Asked"], float]
"""How good an answer is, 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A question of a golden set."""

    question: str
    accepted: tuple[str, ...]
    """Answers that count as right; empty = the sources do not say."""
    cluster: str
    """What it belongs to: questions of one article are no independent draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What the ways gained, and which to use."""

    use: str
    means: Mapping[str, float]
    gains: Mapping[str, Comparison]
    """Of each way but the first, over the first."""
    reason: str


async def measure(
    ways: Mapping[str, Answer], questions: Sequence[Asked], score: Score, *, seed: int = 0
) -> Measured:
    """Ask every question in every way.

    Args:
        ways: By name, the plain one first.
        questions: Of two clusters or more.
        score: Of an answer.
        seed: Of the bootstrap; equal seeds draw the same.

    Raises: InvalidParameter: Fewer than two ways, or questions of one cluster.
    """
    clusters = [asked.cluster for asked in questions]
    if len(ways) < 2 or len(set(clusters)) < 2:
        raise InvalidParameter(
            f"{len(ways)} ways and {len(set(clusters))} clusters of questions: a choice needs two "
            "of each"
        )
    scores: dict[str, list[float]] = {}
    for name, answer in ways.items():
        scores[name] = [score(await answer(asked.question), asked) for asked in questions]
    plain, *others = ways
    gains = {name: compare(scores[name], scores[plain], clusters, seed=seed) for name in others}
    better = [name for name in others if gains[name].verdict is Verdict.BETTER]
    use = max(better, key=lambda name: gains[name].difference, default=plain)
    means = {name: sum(values) / len(values) for name, values in scores.items()}
    if use == plain:
        reason = f"no other way is better than {plain} beyond chance"
    else:
        gain = gains[use]
        reason = (
            f"{use} gains {gain.difference:+.3f} over {plain}, {gain.confidence:.0%} interval "
            f"{gain.low:+.3f} to {gain.high:+.3f}"
        )
    return Measured(use=use, means=means, gains=gains, reason=reason)


def word_f1(said: str, asked: Asked) -> float:
    """Words in common with the best accepted answer; of a question without one, 1 for saying so."""
    if not asked.accepted or says_nothing_found(said):
        return float(not asked.accepted and says_nothing_found(said))
    return max(_f1(said, right) for right in asked.accepted)


def _f1(said: str, right: str) -> float:
    one = [word.lower for word in words_of(said)] + [c for c in said.split() if c[:1].isdigit()]
    other = [word.lower for word in words_of(right)] + [c for c in right.split() if c[:1].isdigit()]
    common = sum(min(one.count(word), other.count(word)) for word in set(one))
    if not common:
        return 0.0
    return 2 * common / (len(one) + len(other))
