"""Questions with known answers → `learned.json`: the weights of the default fusion and its ranker.

    python bench/retrieval_learning.py --data ../shared/data --sets CACHE --out learned.json

Learned from (none of it is in the repository, nothing of it is in what is learned but sums):

new_wiki   SQuADShifts, 48 articles of Wikipedia that SQuAD does not have (github.com/modestyachts/
           squadshifts-website, datasets/new_wiki_v1.0.json); 2,000 questions
pubmedqa   1,000 expert questions and their abstracts (github.com/pubmedqa/pubmedqa, MIT)
scitrain   537 training claims of SciFact, over the 4,900 abstracts that no test claim is graded on
packages   1,500 docstrings and functions of numpy, scipy, networkx, SQLAlchemy, aiohttp, rich,
           Jinja2, Alembic, Starlette and click as installed, and identifiers of them
manuals    1,000 manual pages of the machine it was run on: what NAME says, without the name →
           DESCRIPTION; no script here cuts them
functions  the even half of the standard library's modules (by hash), and identifiers of them; the
           odd half is what `retrieval_quality.py` asks

The ranker has new_wiki and manuals twice, the second time with vectors of hashed words. No SQuAD
article, no test claim, no abstract that is graded for one, no module of the odd half is among them.

All but scitrain must lie in CACHE as `retrieval_sets.write` leaves a set: new_wiki, pubmedqa,
pkcode and pkident (packages), man, pycode and ident (the whole standard library).

The weigher and then the ranker minimise the cross entropy of the right passages among a
question's candidates; each set counts the same. PyTorch, a few minutes on one core; a fixed seed.
"""

import argparse
import asyncio
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.retrieval.ranking.features import FEATURES, features
from headrace.retrieval.ranking.fusion import parts
from headrace.retrieval.ranking.learned import PARTS, Learned, Ranker, Scale, Weigher
from headrace.retrieval.ranking.signals import SIGNALS
from headrace.retrieval.ranking.terms import Floats
from headrace.testing import HashEmbedder
from headrace.types import EmbedRequest
from retrieval_runs import request, retriever
from retrieval_sets import QuestionSet, Rows, given, scifact_training, vectors, write

LEARNED_FROM = ("new_wiki", "pubmedqa", "scitrain", "pkcode", "pkident", "man", "pycode", "ident")
HASHED = ("new_wiki", "man")
"""Learned from a second time with vectors that know words but no meaning: whoever has a weak
embedder must not be led astray."""
_HASHED = ", hashed words"
_MOST = 160
"""Candidates of a question; more are left out, which only the worst are."""
_QUESTIONS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """One set as arrays. Q questions, N candidates, S signals, P parts, F features."""

    signals_QS: Floats
    parts_QNP: Floats
    features_QNF: Floats
    right_QN: Floats
    inside_QN: Floats


def is_learned(cluster: str) -> bool:
    """Of the standard library: the half that is learned from, by the module's first name."""
    return hashlib.sha256(cluster.split("/")[0].encode()).digest()[0] % 2 == 0


def among(of: QuestionSet, kept: Sequence[int]) -> tuple[QuestionSet, list[int]]:
    """The questions that these texts answer, over them alone."""
    place = {at: number for number, at in enumerate(kept)}
    chosen = [n for n, a in enumerate(of.asked) if all(at in place for at in a.grades)]
    asked = tuple(
        replace(of.asked[n], grades={place[at]: g for at, g in of.asked[n].grades.items()})
        for n in chosen
    )
    return replace(of, texts=tuple(of.texts[at] for at in kept), asked=asked), chosen


async def lesson(of: QuestionSet, texts: Rows, questions: Rows, learned: Learned) -> Lesson:
    """Every question's candidates as the retriever has them; those without the right one teach
    nothing and are left out."""
    rows: list[tuple[Floats, Floats, Floats, Floats]] = []
    every = range(len(of.asked))
    chosen = sorted(np.random.default_rng(1).permutation(every)[:_QUESTIONS].tolist())
    with tempfile.TemporaryDirectory() as place:
        async with retriever(of, texts, questions, Path(place), learned) as way:
            for at in chosen:
                asked = of.asked[at]
                asks = request(of, asked.query)
                found, _ = way.fused(asks, await way.gather(asks))
                right = np.array(
                    [asked.grades.get(int(p.chunk.document), 0) > 0 for p in found.pool.passages],
                    float,
                )
                both = found.pool.keyword.present_N.any() and found.pool.vector.present_N.any()
                if not right.any() or not both:
                    continue
                order = np.argsort(-found.score_N, kind="stable")[:_MOST]
                row_NF = features(found.pool, found.found, found.score_N, found.now_s)
                columns_NP = parts(found.pool, found.found)
                rows.append((found.signals, columns_NP[order], row_NF[order], right[order]))
    return Lesson(
        signals_QS=np.stack([row[0] for row in rows]),
        parts_QNP=_padded([row[1] for row in rows]),
        features_QNF=_padded([row[2] for row in rows]),
        right_QN=_padded([row[3] for row in rows]),
        inside_QN=_padded([np.ones(len(row[3])) for row in rows]),
    )


def _padded(rows: Sequence[Floats]) -> Floats:
    found = np.zeros((len(rows), _MOST, *rows[0].shape[1:]))
    for at, row in enumerate(rows):
        found[at, : len(row)] = row
    return found


def scale_of(values: Floats, least: float) -> Scale:
    return Scale(mean=values.mean(axis=0), deviation=values.std(axis=0) + least)


def _loss(score_QN: torch.Tensor, right_QN: torch.Tensor, inside_QN: torch.Tensor) -> torch.Tensor:
    known = torch.log_softmax(score_QN.masked_fill(inside_QN == 0, -1e9), dim=1)
    return -((known * right_QN).sum(dim=1) / right_QN.sum(dim=1).clamp(min=1)).mean()


def learn_weigher(lessons: Sequence[Lesson], *, steps: int = 200, decay: float = 3e-3) -> Weigher:
    scale = scale_of(np.concatenate([each.signals_QS for each in lessons]), 1e-6)
    slope = torch.zeros(len(SIGNALS), len(PARTS), requires_grad=True)
    bias = torch.zeros(len(PARTS), requires_grad=True)
    sharp = torch.tensor(2.5, requires_grad=True)
    data = [
        (
            _tensor(scale.near(each.signals_QS)),
            *map(_tensor, (each.parts_QNP, each.right_QN, each.inside_QN)),
        )
        for each in lessons
    ]
    optimizer = torch.optim.Adam([slope, bias, sharp], lr=0.05)
    for _ in range(steps):
        loss = decay * (slope**2).sum()
        for signal, column, right, inside in data:
            weight = torch.softmax(signal @ slope + bias, dim=1)
            score = (column * weight[:, None, :]).sum(dim=2) * sharp.exp()
            loss = loss + _loss(score, right, inside) / len(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Weigher(scale=scale, slope_SP=_array(slope), bias_P=_array(bias))


def fused_anew(each: Lesson, weigher: Weigher) -> Lesson:
    """The same with the scores that this weigher gives."""
    weights = np.stack([weigher.weights(signal) for signal in each.signals_QS])
    column = each.features_QNF.copy()
    column[:, :, FEATURES.index("fused")] = (each.parts_QNP * weights[:, None, :]).sum(axis=2)
    return replace(each, features_QNF=column)


def learn_ranker(
    lessons: Sequence[Lesson], *, hidden: int, steps: int, decay: float, seed: int
) -> Ranker:
    torch.manual_seed(seed)
    inside = np.concatenate([each.features_QNF[each.inside_QN > 0] for each in lessons])
    scale = scale_of(inside, 1e-3)
    signal_scale = scale_of(np.concatenate([each.signals_QS for each in lessons]), 1e-6)
    wide = torch.randn(len(FEATURES), hidden) * 0.1
    context = torch.randn(len(SIGNALS), hidden) * 0.1
    bias, out, direct = torch.zeros(hidden), torch.zeros(hidden), torch.zeros(len(FEATURES))
    direct[FEATURES.index("fused")] = 12.0 * float(scale.deviation[FEATURES.index("fused")])
    learned = [tensor.requires_grad_() for tensor in (wide, context, bias, out, direct)]
    data = [
        tuple(
            map(
                _tensor,
                (
                    scale(each.features_QNF),
                    signal_scale.near(each.signals_QS),
                    each.right_QN,
                    each.inside_QN,
                ),
            )
        )
        for each in lessons
    ]
    optimizer, draws = torch.optim.Adam(learned, lr=0.02), torch.Generator().manual_seed(seed)
    for step in range(steps):
        loss = decay * sum((tensor**2).sum() for tensor in (wide, context, out, direct))
        for feature, signal, right, within in data:
            drawn = torch.randint(len(feature), (256,), generator=draws)
            inner = torch.tanh(feature[drawn] @ wide + (signal[drawn] @ context + bias)[:, None, :])
            score = inner @ out + feature[drawn] @ direct
            loss = loss + _loss(score, right[drawn], within[drawn]) / len(data)
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Ranker(
        scale=scale,
        signal_scale=signal_scale,
        hidden_FH=_array(wide),
        context_SH=_array(context),
        bias_H=_array(bias),
        out_H=_array(out),
        direct_F=_array(direct),
    )


def _tensor(values: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)


def _array(tensor: torch.Tensor) -> Floats:
    return tensor.detach().numpy().astype(np.float64)


def learn(lessons: Mapping[str, Lesson], provenance: str) -> Learned:
    """Hashed words are for the ranker alone: the weigher does not fall for them without."""
    weigher = learn_weigher([each for name, each in lessons.items() if _HASHED not in name])
    anew = [fused_anew(each, weigher) for each in lessons.values()]
    ranker = learn_ranker(anew, hidden=8, steps=500, decay=3e-4, seed=0)
    return Learned(weigher=weigher, ranker=ranker, provenance=provenance)


def untaught() -> Learned:
    """Equal weights, and a ranker that says the fused score: what candidates are gathered with."""
    none_S, none_F = np.zeros(len(SIGNALS)), np.zeros(len(FEATURES))
    signal_scale = Scale(mean=none_S, deviation=none_S + 1)
    direct_F = none_F.copy()
    direct_F[FEATURES.index("fused")] = 1.0
    return Learned(
        weigher=Weigher(
            scale=signal_scale,
            slope_SP=np.zeros((len(SIGNALS), len(PARTS))),
            bias_P=np.array([2.0, 2.0, -2.0]),
        ),
        ranker=Ranker(
            scale=Scale(mean=none_F, deviation=none_F + 1),
            signal_scale=signal_scale,
            hidden_FH=np.zeros((len(FEATURES), 1)),
            context_SH=np.zeros((len(SIGNALS), 1)),
            bias_H=np.zeros(1),
            out_H=np.zeros(1),
            direct_F=direct_F,
        ),
        provenance="nothing",
    )


def written(learned: Learned) -> str:
    """As `headrace.retrieval.ranking.learned.parse` reads it."""
    weigher, ranker = learned.weigher, learned.ranker
    value = {
        "provenance": learned.provenance,
        "signals": SIGNALS,
        "features": FEATURES,
        "weigher": {
            "scale": _scale(weigher.scale),
            "slope": _plain(weigher.slope_SP),
            "bias": _plain(weigher.bias_P),
        },
        "ranker": {
            "scale": _scale(ranker.scale),
            "signal_scale": _scale(ranker.signal_scale),
            "hidden": _plain(ranker.hidden_FH),
            "context": _plain(ranker.context_SH),
            "bias": _plain(ranker.bias_H),
            "out": _plain(ranker.out_H),
            "direct": _plain(ranker.direct_F),
        },
    }
    return json.dumps(value, indent=1) + "\n"


def _scale(scale: Scale) -> dict[str, Any]:
    return {"mean": _plain(scale.mean), "deviation": _plain(scale.deviation)}


def _plain(values: Floats) -> list[Any]:
    return [
        [round(x, 5) for x in row] if isinstance(row, list) else round(row, 5)
        for row in values.tolist()
    ]


def hashed(texts: Sequence[str]) -> Rows:
    embedder = HashEmbedder(dimensions=256, max_tokens=1 << 20)
    made = asyncio.run(embedder.embed(EmbedRequest(model="", inputs=tuple(texts))))
    return np.frombuffer(made.data, "<f4").reshape(len(texts), -1)


def lessons_of(cache: Path, names: Sequence[str]) -> dict[str, Lesson]:
    found: dict[str, Lesson] = {}
    for name in names:
        of = given(cache, name)
        texts, questions = vectors(of, cache)
        if name in ("pycode", "ident"):
            file_of = {at: a.cluster for a in given(cache, "pycode").asked for at in a.grades}
            kept = [at for at in range(len(of.texts)) if is_learned(file_of[at])]
            of, chosen = among(of, kept)
            texts, questions = texts[kept], questions[chosen]
        found[name] = asyncio.run(lesson(of, texts, questions, untaught()))
        print(name, len(found[name].right_QN), flush=True)
        if name in HASHED:
            made = hashed(of.texts), hashed([asked.query for asked in of.asked])
            found[f"{name}{_HASHED}"] = asyncio.run(lesson(of, *made, untaught()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the directory that has scifact/")
    parser.add_argument("--sets", type=Path, required=True, help="where the other sets are written")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(2)
    if not (asked.sets / "scitrain_rel.json").exists():
        write(scifact_training(asked.data / "scifact"), asked.sets)
    lessons = lessons_of(asked.sets, LEARNED_FROM)
    provenance = "; ".join(
        f"{name}: {len(each.right_QN)} questions" for name, each in lessons.items()
    )
    asked.out.write_text(written(learn(lessons, provenance)))


if __name__ == "__main__":
    main()
