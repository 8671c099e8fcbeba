"""Advantages and PPO's objective against closed forms and numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headrace.errors import DataError
from headrace.training.objectives.policy import Clip, PolicyRows, clipped, k3
from headrace.training.objectives.ppo import PpoTerms, ValueRows, ppo, value_loss
from headrace.training.policy.estimates import (
    gae,
    group_advantages,
    token_rewards,
    whitened,
)

# --- advantages --------------------------------------------------------------------------------


def test_a_group_s_advantages_by_hand() -> None:
    found = group_advantages(np.array([1.0, 0, 0, 1, 5, 5, 5, 5]), group=4, scale="group")
    std = math.sqrt(1 / 3)  # of 1 0 0 1, with n - 1
    expected = np.array([0.5, -0.5, -0.5, 0.5, 0, 0, 0, 0]) / (std + 1e-4)
    np.testing.assert_allclose(found.advantage_S, expected, rtol=1e-12)
    assert found.equal_groups == 1
    assert found.mean_std == pytest.approx(std / 2)


def test_scales_by_hand() -> None:
    reward_S = np.array([1.0, 3.0, 10.0, 20.0])
    none = group_advantages(reward_S, group=2, scale="none")
    np.testing.assert_allclose(none.advantage_S, [-1, 1, -5, 5])
    batch = group_advantages(reward_S, group=2, scale="batch")
    np.testing.assert_allclose(batch.advantage_S, none.advantage_S / (reward_S.std(ddof=1) + 1e-4))


@given(
    value=st.floats(-1e6, 1e6),
    group=st.integers(2, 7),
    groups=st.integers(1, 4),
    scale=st.sampled_from(["group", "batch", "none"]),
)
def test_equal_rewards_teach_exactly_nothing(
    value: float, group: int, groups: int, scale: str
) -> None:
    found = group_advantages(np.full(group * groups, value), group=group, scale=scale)  # pyright: ignore[reportArgumentType]
    assert not found.advantage_S.any()
    assert found.equal_groups == groups


@given(
    rewards=st.lists(st.floats(-100, 100), min_size=6, max_size=6),
    shift=st.floats(-50, 50),
)
def test_advantages_sum_to_nothing_and_ignore_a_constant(
    rewards: list[float], shift: float
) -> None:
    reward_S = np.array(rewards)
    found = group_advantages(reward_S, group=3, scale="none")
    moved = group_advantages(reward_S + shift, group=3, scale="none")
    np.testing.assert_allclose(found.advantage_S.reshape(2, 3).sum(1), 0, atol=1e-9)
    np.testing.assert_allclose(found.advantage_S, moved.advantage_S, atol=1e-9)


@pytest.mark.parametrize(("count", "group"), [(4, 1), (5, 2), (0, 2)])
def test_groups_that_are_none_are_refused(count: int, group: int) -> None:
    with pytest.raises(DataError, match=f"{count} completions in groups of {group}"):
        group_advantages(np.zeros(count), group=group, scale="group")


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="reward 2 is not a finite number"):
        group_advantages(np.array([0, 1, np.nan, 0]), group=2, scale="group")


def test_gae_by_hand() -> None:
    """Two completions of two tokens and one; gamma 1/2, lambda 1/2."""
    reward_R, value_R = np.array([1.0, 2.0, 4.0]), np.array([0.5, 1.0, 3.0])
    found = gae(reward_R, value_R, np.array([0, 0, 1]), gamma=0.5, lam=0.5)
    # last token: 2 - 1 = 1; first: delta = 1 + 0.5 * 1 - 0.5 = 1, A = 1 + 0.25 * 1; other: 4 - 3
    np.testing.assert_allclose(found.advantage_R, [1.25, 1.0, 1.0])
    np.testing.assert_allclose(found.return_R, [1.75, 2.0, 4.0])


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    gamma=st.sampled_from([0.9, 1.0]),
    lam=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=50)
def test_gae_is_the_sum_it_stands_for(
    sizes: list[int], seed: int, gamma: float, lam: float
) -> None:
    random = np.random.default_rng(seed)
    sequence_R = np.repeat(np.arange(len(sizes)), sizes)
    reward_R, value_R = random.normal(size=(2, len(sequence_R)))
    found = gae(reward_R, value_R, sequence_R, gamma=gamma, lam=lam)
    for sequence in range(len(sizes)):
        r_t, v_t = reward_R[sequence_R == sequence], value_R[sequence_R == sequence]
        size = len(r_t)
        after = np.append(v_t[1:], 0.0)
        delta = r_t + gamma * after - v_t
        plain = [
            sum((gamma * lam) ** (l - t) * delta[l] for l in range(t, size)) for t in range(size)
        ]
        np.testing.assert_allclose(found.advantage_R[sequence_R == sequence], plain, atol=1e-12)
        if lam == 1.0:  # then the return is the discounted sum of rewards, whatever the values
            to_come = [sum(gamma ** (l - t) * r_t[l] for l in range(t, size)) for t in range(size)]
            found_R = found.return_R[sequence_R == sequence]
            np.testing.assert_allclose(found_R, to_come, atol=1e-12)


def test_a_reward_falls_on_the_last_token_and_kl_on_each() -> None:
    sequence_R = np.array([0, 0, 2])  # completion 1 has no token that counts
    found = token_rewards(
        np.array([10.0, 99.0, 20.0]), np.array([0.1, 0.2, -0.3]), sequence_R, kl=2.0
    )
    np.testing.assert_allclose(found, [-0.2, 9.6, 20.6])


def test_whitened_has_mean_0_and_variance_1() -> None:
    found = whitened(np.random.default_rng(0).normal(3, 5, 1000))
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert found.std() == pytest.approx(1, rel=1e-6)
    assert not whitened(np.full(4, 7.0)).any()


# --- the objective -----------------------------------------------------------------------------


def _rows(advantage: list[float], old: list[float], sequence: list[int]) -> PolicyRows:
    return PolicyRows(
        sequence_R=torch.tensor(sequence),
        sequences=max(sequence) + 1,
        advantage_R=torch.tensor(advantage, dtype=torch.float64),
        old_R=torch.tensor(old, dtype=torch.float64),
    )


def _log(*ratios: float) -> Tensor:
    return torch.tensor(ratios, dtype=torch.float64).log().requires_grad_()


def test_the_surrogate_in_its_six_regions() -> None:
    """Ratio below, within and above the bounds, advantage positive and negative."""
    logprob_R = _log(0.5, 1.1, 2.0, 0.5, 1.1, 2.0)
    rows = _rows([3, 3, 3, -3, -3, -3], [0.0] * 6, [0] * 6)
    found = clipped(logprob_R, rows, Clip(epsilon_low=0.2, epsilon_high=0.3))
    expected = [-1.5, -3.3, -3.9, 2.4, 3.3, 6.0]
    torch.testing.assert_close(found.loss_R.tolist(), expected)
    assert found.clipped_R.tolist() == [0, 0, 1, 1, 0, 0]
    found.loss_R.sum().backward()
    # d(-ratio A) / d log pi = -ratio A where the bound is not active, else 0
    assert logprob_R.grad is not None
    torch.testing.assert_close(logprob_R.grad.tolist(), [-1.5, -3.3, 0.0, 0.0, 3.3, 6.0])


def test_a_completion_s_ratio_is_the_geometric_mean() -> None:
    rows = _rows([1, 1, 1], [0.0] * 3, [0, 0, 1])
    found = clipped(_log(0.25, 1.0, 3.0), rows, Clip(level="sequence", epsilon_high=9.0))
    torch.testing.assert_close(found.ratio_R.tolist(), [0.5, 0.5, 3.0])


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=8), st.integers(0, 99))
def test_k3_is_never_negative_and_0_for_equals(logs: list[float], seed: int) -> None:
    policy_R = torch.tensor(logs, dtype=torch.float64)
    assert not k3(policy_R, policy_R).any()
    other_R = policy_R + torch.from_numpy(np.random.default_rng(seed).normal(size=len(logs)))
    assert bool((k3(policy_R, other_R) >= 0).all())


def test_k3_is_kl_in_expectation() -> None:
    p_V = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    q_V = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    expected = (p_V * (p_V / q_V).log()).sum()
    torch.testing.assert_close((p_V * k3(p_V.log(), q_V.log())).sum(), expected)


def test_the_value_loss_by_hand() -> None:
    values = ValueRows(old_R=torch.tensor([1.0, 1.0, 1.0]), return_R=torch.tensor([2.0, 2.0, 0.0]))
    value_R = torch.tensor([1.1, 1.9, 1.9], requires_grad=True)
    found = value_loss(value_R, values, 0.2)
    # within the range 0.9^2 / 2; beyond it the worse of two: 0.8^2 / 2 (bounded), 1.9^2 / 2 (free)
    torch.testing.assert_close(found.tolist(), [0.405, 0.32, 1.805])
    found.sum().backward()
    assert value_R.grad is not None
    torch.testing.assert_close(value_R.grad.tolist(), [-0.9, 0.0, 1.9])


def test_ppo_is_the_sum_of_its_terms() -> None:
    """Loss and gradients by numbers worked out by hand."""
    logprob_R = _log(1.0, 2.0)
    entropy_R = torch.tensor([0.5, 0.7], dtype=torch.float64, requires_grad=True)
    value_R = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    values = ValueRows(old_R=value_R.detach(), return_R=torch.tensor([2.0, 3.5]).double())
    terms = PpoTerms(value=0.5, entropy=0.1)
    loss = ppo(logprob_R, entropy_R, value_R, _rows([2, 4], [0.0, 0.0], [0, 0]), values, terms)
    # policy: -2 and -1.2 * 4; value: (1 + 0.25) / 2 * 0.5; entropy: 0.1 * 1.2
    assert float(loss.sum.detach()) == pytest.approx(-6.8 + 0.3125 - 0.12)
    assert loss.weight == 2
    loss.sum.backward()
    for part, expected in (
        (logprob_R, [-2.0, 0.0]),
        (value_R, [-0.5, -0.25]),
        (entropy_R, [-0.1, -0.1]),
    ):
        assert part.grad is not None
        torch.testing.assert_close(part.grad.tolist(), expected)
    assert loss.metrics["clipped"] == 1
    assert loss.metrics["ratio_error"] == pytest.approx(1.0)
