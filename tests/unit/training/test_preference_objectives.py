"""Preference losses: closed forms, refusals, packing and accumulation; no reference of TRL here."""

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import logsigmoid

import preference_fixtures as prefs
import training_fixtures as fx
from headrace.data.pack import pack
from headrace.errors import ConfigError, DataError
from headrace.model.decoder import Decoder
from headrace.training.objectives.dpo import DpoKind, DpoSettings, PairLogps, dpo
from headrace.training.objectives.kto import KtoSettings, drift, kto
from headrace.training.objectives.orpo import OrpoSettings, odds_ratio
from headrace.training.objectives.reward import RewardSettings, bradley_terry
from headrace.training.preference import logps
from headrace.training.preference.batches import (
    answer_batches,
    bundled,
    mismatched,
    pair_batches,
    scored_row,
)
from headrace.training.preference.tasks import Dpo, Kto, Orpo, Reward
from headrace.training.step import accumulate

_LOGPS = st.lists(st.floats(-200, 0), min_size=1, max_size=6)


def _pairs(chosen: list[float], rejected: list[float], shift: float = 0.0) -> PairLogps:
    chosen_B = torch.tensor(chosen, dtype=torch.float64, requires_grad=True)
    rejected_B = torch.tensor(rejected, dtype=torch.float64, requires_grad=True)
    return PairLogps(
        chosen_B=chosen_B,
        rejected_B=rejected_B,
        reference_chosen_B=chosen_B.detach() - shift,
        reference_rejected_B=rejected_B.detach() + shift,
        chosen_tokens_B=torch.full_like(chosen_B, 3).detach(),
        rejected_tokens_B=torch.full_like(chosen_B, 5).detach(),
    )


@given(logp=_LOGPS, beta=st.floats(0.01, 5))
@settings(max_examples=40, deadline=None)
def test_where_policy_is_reference(logp: list[float], beta: float) -> None:
    pairs = _pairs(logp, logp)
    even = torch.full((len(logp),), math.log(2), dtype=torch.float64)
    for loss in ("sigmoid", "sigmoid_norm"):
        torch.testing.assert_close(dpo(pairs, DpoSettings(kind=loss, beta=beta)), even)
    torch.testing.assert_close(dpo(pairs, DpoSettings(beta=beta, label_smoothing=0.3)), even)
    ones = torch.ones_like(even)
    torch.testing.assert_close(dpo(pairs, DpoSettings(kind="hinge", beta=beta)), ones)
    ipo = dpo(pairs, DpoSettings(kind="ipo", beta=beta))
    torch.testing.assert_close(ipo, ones / (2 * beta) ** 2)
    # The gradient of DPO there is -beta / 2 on each chosen answer and +beta / 2 on each rejected.
    dpo(pairs, DpoSettings(beta=beta)).sum().backward()
    torch.testing.assert_close(pairs.chosen_B.grad, ones * -beta / 2)
    torch.testing.assert_close(pairs.rejected_B.grad, ones * beta / 2)


@given(shift=st.floats(-30, 30), beta=st.floats(0.05, 2), flipped=st.floats(0, 0.49))
@settings(max_examples=40, deadline=None)
def test_closed_forms(shift: float, beta: float, flipped: float) -> None:
    pairs = _pairs([-7.0, -50.0], [-9.0, -3.0], shift)
    margin_B = torch.tensor([2 * shift, 2 * shift], dtype=torch.float64)
    ipo_B = (shift / 3 + shift / 5 - 1 / (2 * beta)) ** 2 * torch.ones_like(margin_B)
    torch.testing.assert_close(dpo(pairs, DpoSettings(kind="ipo", beta=beta)), ipo_B)
    smooth = dpo(pairs, DpoSettings(beta=beta, label_smoothing=flipped))
    won, lost = logsigmoid(beta * margin_B), logsigmoid(-beta * margin_B)
    torch.testing.assert_close(smooth, -(1 - flipped) * won - flipped * lost)
    # Robust DPO is unbiased: its mean over flipped labels is the clean loss.
    robust = DpoSettings(kind="robust", beta=beta, label_smoothing=flipped)
    straight, reverse = dpo(pairs, robust), dpo(_pairs([-9.0, -3.0], [-7.0, -50.0], -shift), robust)
    torch.testing.assert_close((1 - flipped) * straight + flipped * reverse, -won)


@given(chosen=st.floats(-40, -1e-9), rejected=st.floats(-40, -1e-9))
@settings(max_examples=60, deadline=None)
def test_odds_ratio_is_the_plain_formula_and_its_gradient_is_finite(
    chosen: float, rejected: float
) -> None:
    values = [
        torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (chosen, rejected)
    ]
    loss_B = odds_ratio(*values)
    odds = [math.exp(x) / -math.expm1(x) for x in (chosen, rejected)]
    assert float(loss_B.detach()) == pytest.approx(math.log1p(odds[1] / odds[0]), rel=1e-9)
    loss_B.sum().backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in values)


def test_kto_pushes_good_up_and_bad_down_and_drift_is_never_negative() -> None:
    ratio_B = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    good_B = torch.tensor([True, False, False])
    chosen = KtoSettings(beta=0.5, desirable_weight=2.0)
    loss_B = kto(ratio_B, good_B, torch.tensor(0.3), chosen)
    plain = [2 * (1 - _sigmoid(0.5 * 0.7)), 1 - _sigmoid(0.5 * 2.3), 1 - _sigmoid(0.5 * -0.2)]
    torch.testing.assert_close(loss_B, torch.tensor(plain, dtype=torch.float64))
    loss_B.sum().backward()
    assert ratio_B.grad is not None
    assert (ratio_B.grad < 0).tolist() == [True, False, False]
    assert float(drift(torch.tensor([-3.0, 1.0]))) == 0.0
    assert float(drift(torch.tensor([3.0, 1.0]))) == 2.0


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_bradley_terry_of_equal_scores_is_log_two() -> None:
    even_B = torch.zeros(3)
    loss_B = bradley_terry(even_B, even_B, even_B, RewardSettings())
    torch.testing.assert_close(loss_B, torch.full((3,), math.log(2)))
    centred_B = bradley_terry(even_B + 1, even_B + 1, even_B, RewardSettings(center_weight=0.5))
    torch.testing.assert_close(centred_B - loss_B, torch.full((3,), 2.0))


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (DpoSettings, {"kind": "dpo"}, "kind 'dpo' is not of the DPO family: sigmoid"),
        (DpoSettings, {"beta": 0.0}, "beta 0.0 must be above 0"),
        (DpoSettings, {"beta": math.nan}, "beta nan must be above 0"),
        (DpoSettings, {"label_smoothing": 0.5}, "must be in \\[0, 0.5\\)"),
        (DpoSettings, {"kind": "ipo", "label_smoothing": 0.1}, "means nothing to kind ipo"),
        (DpoSettings, {"kind": "exo_pair"}, "needs label_smoothing above 0"),
        (DpoSettings, {"sft_weight": -1.0}, "sft_weight -1.0 must not be negative"),
        (DpoSettings, {"discopop_tau": 0.0}, "discopop_tau 0.0 must be above 0"),
        (OrpoSettings, {"beta": -0.1}, "beta -0.1 must be above 0"),
        (KtoSettings, {"kind": "dpo"}, "not of the KTO family: kto"),
        (KtoSettings, {"beta": 0.0}, "beta 0.0 must be above 0"),
        (KtoSettings, {"desirable_weight": -1.0}, "desirable_weight -1.0 must not be negative"),
        (KtoSettings, {"desirable_weight": 0.0, "undesirable_weight": 0.0}, "nothing counts"),
        (RewardSettings, {"center_weight": -1.0}, "center_weight -1.0 must not be negative"),
    ],
)
def test_settings_that_mean_nothing_are_refused(kind: Any, values: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind(**values)


def test_every_loss_of_the_family_falls_as_the_margin_grows() -> None:
    for loss in set(get_args(DpoKind)) - {"discopop"}:  # which is not monotone, by its design
        chosen = DpoSettings(kind=loss, label_smoothing=0.01 if loss == "exo_pair" else 0.0)
        pairs = _pairs([-7.0], [-9.0], 0.1)
        dpo(pairs, chosen).sum().backward()
        assert pairs.rejected_B.grad is not None
        assert float(pairs.rejected_B.grad) > 0, loss


def _gradients(decoder: Decoder) -> dict[str, Tensor]:
    found = {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}
    decoder.zero_grad()
    return found


@pytest.mark.parametrize("method", ["dpo", "orpo", "orpo-answers", "kto", "reward"])
def test_how_a_step_is_cut_changes_nothing(method: str) -> None:
    decoder = fx.decoder(tied=False).double()
    pairs = prefs.pairs(9, vocab=fx.VOCAB, margins=True)
    reference_N2 = np.random.default_rng(0).normal(-20, 3, (9, 2))
    tasks: dict[str, Any] = {
        "dpo": Dpo(DpoSettings(sft_weight=0.5)),
        "orpo": Orpo(OrpoSettings()),
        "orpo-answers": Orpo(OrpoSettings(sft_prompt=False)),
        "kto": Kto(KtoSettings()),
        "reward": Reward(RewardSettings(center_weight=0.1), _head()),
    }
    found: list[tuple[Any, dict[str, Tensor]]] = []
    for max_tokens in (999, 40, 32):
        if method == "kto":
            answers = prefs.answers(9, vocab=fx.VOCAB)
            batches = answer_batches(answers, reference_N2[:, 0], max_tokens=max_tokens, kl=0.2)
        elif method == "reward":
            scored = [_scored(pair) for pair in pairs]
            batches = pair_batches(scored, None, max_tokens=max_tokens + 4)
        else:
            batches = pair_batches(pairs, reference_N2, max_tokens=max_tokens)
        done = accumulate(decoder, tasks[method], batches)
        found.append((done, _gradients(decoder)))
        assert (len(batches) == 1) == (max_tokens == 999)
    (whole, oracle), *others = found
    for done, gradients in others:
        assert done.loss == pytest.approx(whole.loss, rel=1e-12)
        assert done.metrics == pytest.approx(whole.metrics)
        assert gradients.keys() == oracle.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, oracle[name], rtol=1e-9, atol=1e-12)


def _head() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(32, 1, bias=False, dtype=torch.float64)


def _scored(pair: prefs.PairRow) -> prefs.PairRow:
    sides = [scored_row(r.ids.tolist(), at=len(r.ids) - 1) for r in (pair.chosen, pair.rejected)]
    return prefs.PairRow(id=pair.id, chosen=sides[0], rejected=sides[1], margin=pair.margin)


def test_packed_pairs_are_their_rows_alone() -> None:
    decoder = fx.decoder().double()
    pairs = prefs.pairs(5, vocab=fx.VOCAB)
    (bundle,) = bundled([(pair.chosen, pair.rejected) for pair in pairs], max_tokens=999)
    together_S = logps.answer_logps(decoder, bundle.packed).detach()
    rows = [side for n in bundle.groups for side in (pairs[n].chosen, pairs[n].rejected)]
    for row, together in zip(rows, together_S, strict=True):
        (alone,) = pack([row], max_tokens=99)
        torch.testing.assert_close(logps.answer_logps(decoder, alone)[0], together)
        logits_TV = decoder.logits(logps.hidden(decoder, alone)).double().log_softmax(-1)
        plain = sum(
            float(logits_TV[place - 1, row.ids[place]].detach())
            for place in range(1, len(row.ids))
            if row.weights[place]
        )
        assert plain == pytest.approx(float(together), rel=1e-6)
    found = logps.row_logps(decoder, rows, max_tokens=20)
    np.testing.assert_allclose(found, together_S.numpy(), rtol=1e-12)


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12), room=st.integers(34, 80))
@settings(max_examples=40, deadline=None)
def test_groups_are_never_torn(sizes: list[int], room: int) -> None:
    pairs = prefs.pairs(len(sizes), vocab=50, seed=sum(sizes), longest=9)
    groups = [(pair.chosen, pair.rejected) for pair in pairs]
    bundles = bundled(groups, max_tokens=room)
    assert sorted(n for bundle in bundles for n in bundle.groups) == list(range(len(sizes)))
    for bundle in bundles:
        rows = [row for number in bundle.groups for row in groups[number]]
        assert bundle.packed.tokens <= room
        np.testing.assert_array_equal(
            bundle.packed.ids_T, np.concatenate([row.ids[:-1] for row in rows])
        )


def test_a_pair_longer_than_a_batch_is_refused() -> None:
    (pair,) = prefs.pairs(1, vocab=50)
    with pytest.raises(DataError, match=r"2 rows that belong together .* raise batch_tokens to"):
        pair_batches([pair], None, max_tokens=3)


def test_mismatched_answers() -> None:
    answers = prefs.answers(4, vocab=50)
    rows = mismatched(answers, longest=99)
    for place, row in enumerate(rows):
        mine, other = answers[place].answer, answers[place - 1].answer
        start = int(np.argmax(mine.weights))
        np.testing.assert_array_equal(row.ids[:start], mine.ids[:start])
        np.testing.assert_array_equal(row.ids[start:], other.ids[other.weights != 0])
        assert row.weights.sum() == other.weights.sum()
    shorter = mismatched(answers, longest=min(len(row.ids) for row in rows))
    assert 1 <= len(shorter) < len(rows)
    with pytest.raises(DataError, match="give at least 2 examples a step"):
        mismatched(answers[:1], longest=99)
    with pytest.raises(DataError, match="of the step's 4 none can be mismatched within 1 tokens"):
        mismatched(answers, longest=1)


def test_reference_log_probabilities_are_kept(tmp_path: Path) -> None:
    decoder = fx.decoder()
    rows = [pair.chosen for pair in prefs.pairs(4, vocab=fx.VOCAB)]
    cache = tmp_path / "run" / "reference.safetensors"
    options: dict[str, Any] = {"max_tokens": 40, "cache": cache, "fingerprint": "a"}
    first = logps.reference_logps(decoder, rows, **options)
    other = fx.decoder(1)  # would say something else, and is not asked
    np.testing.assert_array_equal(logps.reference_logps(other, rows, **options), first)
    changed = logps.reference_logps(other, rows, max_tokens=40, cache=cache, fingerprint="b")
    assert not np.allclose(changed, first)
    fewer = logps.reference_logps(decoder, rows[:3], **options)
    np.testing.assert_allclose(fewer, first[:3], rtol=1e-6)
    cache.write_bytes(b"not safetensors")
    np.testing.assert_allclose(logps.reference_logps(decoder, rows, **options), first, rtol=1e-6)
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
