"""Roll-outs by the engine in process: the same weights, a ratio of exactly 1, rewards that rise."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from headrace.errors import DataError, ServiceError
from headrace.training import loop
from headrace.training.compute import wrap
from headrace.training.objectives.grpo import GrpoTerms
from headrace.training.objectives.policy import Clip
from headrace.training.policy.batches import PolicyBatch, as_tensors, from_tensors, shares
from headrace.training.policy.experience import Experience, ThroughTime, Uses
from headrace.training.policy.rewards import Reward
from headrace.training.policy.rollouts import Asking, Completion, roll_out
from headrace.training.policy.tasks import Grpo, Ppo, ValueHead, see
from headrace.training.policy.twin import twin
from headrace.training.recipe import Compute
from headrace.training.step import accumulate
from headrace.types import FinishReason
from policy_fixtures import EOS, GROUP, collector, engine, questions
from training_fixtures import decoder as tiny
from training_fixtures import updates

# --- the engine ------------------------------------------------------------------------------


def test_the_engine_samples_from_the_weights_as_they_are() -> None:
    """Log-probabilities follow an update at once, for a prompt whose keys were in the cache."""
    policy = tiny()
    sampler = engine(policy)
    asking = Asking(group=3, max_tokens=6)
    prompts = [q.prompt_ids for q in questions()]
    for change in (0.0, 0.3):
        with torch.no_grad():
            for param in policy.parameters():
                param += change * torch.sin(torch.arange(param.numel())).view_as(param)
        found = roll_out(sampler, prompts, asking, seed=5)
        (batches,) = shares(found, parts=1, max_tokens=999, max_completion_tokens=6)
        for batch in batches:
            trained_R = see(policy, batch, temperature=1.0).logprob_R.detach().numpy()
            np.testing.assert_allclose(batch.sampled_R, trained_R, atol=2e-5)
    sampler.core.check_integrity()


def test_equal_seeds_draw_equally_and_others_do_not() -> None:
    policy, asking = tiny(), Asking(group=2, max_tokens=8)
    prompts = [(1, 2, 3), (1, 2, 3)]
    first = roll_out(engine(policy), prompts, asking, seed=1)
    assert first == roll_out(engine(policy), prompts, asking, seed=1)
    assert first != roll_out(engine(policy), prompts, asking, seed=9)
    assert len({c.ids for c in first}) == 4  # one prompt twice: other draws


def test_a_completion_keeps_its_end_and_says_when_it_was_cut_off() -> None:
    found = roll_out(engine(tiny()), [(1, 2)] * 8, Asking(group=8, max_tokens=30), seed=0)
    assert {c.truncated for c in found} == {True, False}
    for completion in found:
        assert completion.truncated == (completion.ids[-1] != EOS or len(completion.ids) == 30)
        assert EOS not in completion.ids[:-1]
        assert len(completion.logprobs) == len(completion.ids)


def test_weights_that_are_no_numbers_end_the_run() -> None:
    policy = tiny()
    policy.norm.weight.data.fill_(torch.nan)
    with pytest.raises(ServiceError, match=r"prompt 0 ended with error.*not finite"):
        roll_out(engine(policy), [(1, 2)], Asking(group=2, max_tokens=3), seed=0)


def test_a_sampler_that_stops_halfway_is_no_completion() -> None:
    choice = SimpleNamespace(tokens=(1,), logprobs=(), finish=FinishReason.ABORT, error=None)
    sampler: Any = SimpleNamespace(generate=lambda asked: [SimpleNamespace(choices=[choice])])
    with pytest.raises(ServiceError, match="ended with abort: no reason given"):
        roll_out(sampler, [(1,)], Asking(group=1, max_tokens=1), seed=0)


# --- the ratio ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_ratio_is_exactly_1_on_the_first_inner_step(
    dtype: torch.dtype, temperature: float, minibatches: int
) -> None:
    """Bit for bit, over batches of several completions, in the type that trains."""
    policy = tiny().to(dtype)
    made = collector(
        policy,
        asking=Asking(group=GROUP, max_tokens=8, temperature=temperature),
        uses=Uses(prompts=4, minibatches=minibatches, batch_tokens=60),
    )
    found = made.collect(0)
    assert len(found) == minibatches
    assert sum(len(share) for share in found) > 2
    for share in found:
        for batch in share:
            logprob_R = see(policy, batch, temperature=temperature).logprob_R.detach()
            ratio_R = (logprob_R - torch.from_numpy(batch.old_R).to(logprob_R)).exp()
            assert float((ratio_R - 1).abs().max()) == 0.0
    done = accumulate(policy, Grpo(temperature=temperature), found[0])
    assert done.metrics["ratio_error"] == 0.0
    assert done.metrics["clipped"] == 0.0
    if dtype == torch.float32:
        assert done.metrics["mismatch_max"] < 2e-5
        assert 0 <= done.metrics["mismatch_kl"] < 1e-9


def test_the_second_inner_step_has_moved() -> None:
    policy = tiny()
    uses = Uses(prompts=4, epochs=2)
    experience = Experience(collector(policy, uses=uses).collect, uses)
    task = Grpo()
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    errors: list[float] = []
    for step in range(3):
        errors.append(accumulate(policy, task, experience.batches(step)).metrics["ratio_error"])
        optimizer.step()
        optimizer.zero_grad()
    assert errors[0] == 0.0
    assert errors[1] > 1e-4  # the same completions, another policy
    assert errors[2] == 0.0  # a new generation


# --- advantages in batches -----------------------------------------------------------------------


def test_equal_groups_teach_nothing_and_are_counted() -> None:
    policy = tiny()
    same = Reward(name="same", function=lambda answer, record: float(record["place"] % 2))
    batches = [b for share in collector(policy, rewards=[same]).collect(0) for b in share]
    assert all(not batch.advantage_R.any() for batch in batches)
    assert batches[0].stats["equal_groups"] == 1.0
    accumulate(policy, Grpo(), batches)
    assert all(not p.grad.any() for p in policy.parameters() if p.grad is not None)


def test_ppo_at_lambda_1_credits_every_token_with_what_is_to_come() -> None:
    """gamma = lambda = 1, no KL, values 0: every token's advantage is the completion's reward."""
    policy = tiny()
    head = ValueHead(32)
    advantage = ThroughTime(head=head, gamma=1.0, lam=1.0, kl=0.0, whiten=False)
    made = collector(policy, advantage)
    batches = [b for share in made.collect(0) for b in share]
    plain = [b for share in collector(policy).collect(0) for b in share]
    rewards = np.concatenate([np.unique(b.advantage_R) for b in batches])
    assert rewards.min() >= 0
    assert rewards.max() <= 1
    for batch, other in zip(batches, plain, strict=True):
        assert batch.return_R is not None
        np.testing.assert_array_equal(batch.advantage_R, batch.return_R)
        np.testing.assert_array_equal(batch.packed.ids_T, other.packed.ids_T)
    done = accumulate(policy, Ppo(head), batches)
    assert done.metrics["ratio_error"] == 0.0
    assert head.weight.grad is not None
    assert bool(head.weight.grad.any())


def test_cut_off_completions_can_be_left_out() -> None:
    found = [
        Completion(
            prompt=0, prompt_ids=(1, 2), ids=(3,) * n, logprobs=(-1.0,) * n, truncated=n == 4
        )
        for n in (2, 4, 3, 4)
    ]
    (batches,) = shares(found, parts=1, max_tokens=99, max_completion_tokens=4, mask_truncated=True)
    (batch,) = batches
    assert (batch.counts.sequences, batch.counts.tokens, batch.counts.mean_tokens) == (4, 5, 1.25)
    assert batch.sequence_R.tolist() == [0, 0, 2, 2, 2]
    with pytest.raises(DataError, match="all 1 completions reached 4 tokens"):
        shares(found[1:2], parts=1, max_tokens=99, max_completion_tokens=4, mask_truncated=True)
    with pytest.raises(DataError, match="raise batch_tokens to 5"):
        shares(found, parts=1, max_tokens=4, max_completion_tokens=4)
    with pytest.raises(DataError, match="4 completions cannot be 3 shares"):
        shares(found, parts=3, max_tokens=99, max_completion_tokens=4)


# --- runs ---------------------------------------------------------------------------------------


def _experience(policy: Any, uses: Uses, **changes: Any) -> Experience:
    return Experience(collector(policy, uses=uses, **changes).collect, uses)


def test_a_batch_survives_a_checkpoint() -> None:
    reference = tiny(1)
    advantage = ThroughTime(head=ValueHead(32))
    for share in collector(tiny(), advantage, reference=reference).collect(0):
        for batch in share:
            again = from_tensors({k: v.clone() for k, v in as_tensors(batch).items()})
            assert again.stats == dict(batch.stats)
            assert again.counts == batch.counts
            for mine, theirs in zip(_arrays(batch), _arrays(again), strict=True):
                np.testing.assert_array_equal(mine, theirs)
                assert mine.dtype == theirs.dtype


def _arrays(batch: PolicyBatch) -> list[np.ndarray]:
    tensors = as_tensors(batch)
    return [tensors[name].numpy() for name in sorted(tensors)]


def test_a_run_that_is_resumed_within_a_generation_is_the_uninterrupted_one(
    tmp_path: Path,
) -> None:
    """Two passes of two shares: the run stops after the third of a generation's four steps."""
    uses = Uses(prompts=4, minibatches=2, epochs=2, batch_tokens=60)
    task = Grpo(GrpoTerms(kl=0.1, clip=Clip(level="sequence")))

    def run(directory: Path, *, stop_after: int = 0, resume: bool = False) -> list[float]:
        policy = tiny()
        experience = _experience(policy, uses, reference=copy.deepcopy(policy))
        trainee = loop.Trainee(
            decoder=policy,
            task=task,
            batches=experience.batches,
            fingerprint="f",
            memory=experience,
        )
        losses: list[float] = []
        reports = loop.run(
            trainee,
            "grpo",
            updates(steps=7, lr=0.005, optimizer="adamw"),
            directory=directory,
            resume=resume,
            should_stop=lambda: bool(stop_after) and len(losses) >= stop_after,
        )
        try:
            losses.extend(report.loss for report in reports)
        except loop.Interrupted:
            assert stop_after
        return losses + [float(p.detach().double().sum()) for p in policy.parameters()]

    whole = run(tmp_path / "whole")
    first = run(tmp_path / "cut", stop_after=3)[:3]
    assert first == whole[:3]
    assert run(tmp_path / "cut", resume=True) == whole[3:]


def _mean_rewards(task: Any, policy: Any, experience: Experience, directory: Path) -> list[float]:
    trainee = loop.Trainee(
        decoder=policy,
        task=task,
        batches=experience.batches,
        fingerprint="f",
        beside=getattr(task, "head", None),
        memory=experience,
    )
    plan = updates(steps=24, lr=0.004, optimizer="adamw", warmup_steps=0, schedule="constant")
    return [
        report.metrics["reward"] for report in loop.run(trainee, "rl", plan, directory=directory)
    ]


def test_grpo_learns_what_is_rewarded(tmp_path: Path) -> None:
    policy = tiny()
    experience = _experience(policy, Uses(prompts=6))
    rewards = _mean_rewards(Grpo(), policy, experience, tmp_path)
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.3


def test_ppo_learns_what_is_rewarded(tmp_path: Path) -> None:
    policy, head = tiny(), ValueHead(32)
    experience = Experience(
        collector(
            policy,
            ThroughTime(head=head, kl=0.01),
            reference=copy.deepcopy(policy),
            uses=Uses(prompts=6),
        ).collect,
        Uses(prompts=6),
    )
    rewards = _mean_rewards(Ppo(head), policy, experience, tmp_path)
    assert np.mean(rewards[-4:]) > np.mean(rewards[:4]) + 0.3


# --- refusals ------------------------------------------------------------------------------------


def test_kl_without_a_reference_is_refused() -> None:
    policy = tiny()
    batches = collector(policy).collect(0)[0]
    with pytest.raises(DataError, match=r"kl 0\.1 needs a reference"):
        Grpo(GrpoTerms(kl=0.1)).loss(policy, batches[0])
    with pytest.raises(DataError, match="PPO needs values"):
        Ppo(ValueHead(32)).loss(policy, batches[0])


@pytest.mark.parametrize(("group", "max_tokens", "temperature"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_roll_outs_that_are_none_are_refused(
    group: int, max_tokens: int, temperature: float
) -> None:
    with pytest.raises(DataError, match="no roll-outs with group"):
        Asking(group=group, max_tokens=max_tokens, temperature=temperature)


def test_a_twin_has_the_same_parameters_and_none_of_the_wrapping() -> None:
    policy = tiny()
    other = twin(policy)
    wrap(policy, Compute(precision="bfloat16", checkpoint_activations=True))
    for mine, theirs in zip(policy.parameters(), other.parameters(), strict=True):
        assert mine is theirs
    asking = Asking(group=2, max_tokens=6)
    (batches,) = shares(
        roll_out(engine(other), [(1, 2, 3)], asking, seed=0),
        parts=1,
        max_tokens=99,
        max_completion_tokens=6,
    )
    logprob_R = see(other, batches[0], temperature=1.0).logprob_R.detach()
    np.testing.assert_allclose(batches[0].sampled_R, logprob_R, atol=2e-5)
    lower_R = see(policy, batches[0], temperature=1.0).logprob_R.detach()
    assert lower_R.dtype == torch.float32
    apart = float((lower_R - logprob_R).abs().max())
    assert 0 < apart < 0.05  # bfloat16 is another rounding, and no more


@pytest.mark.parametrize("sets", [{"precision": "bfloat16"}, {"checkpoint_activations": True}])
def test_the_ratio_is_1_however_the_layers_are_wrapped(sets: dict[str, Any]) -> None:
    policy = tiny()
    sampler = engine(twin(policy))
    wrap(policy, Compute(**sets))
    found = collector(policy, sampler=sampler).collect(0)
    assert accumulate(policy, Grpo(), found[0]).metrics["ratio_error"] == 0.0
