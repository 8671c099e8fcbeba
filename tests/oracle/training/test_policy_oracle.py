"""GRPO and GKD against TRL's own code: losses, and gradients of every parameter.

TRL's `_compute_loss` runs on its padded batch and transformers' model; ours on packed completions
and the headrace decoder with the same weights. float64 shows that the formulas are the same,
float32 that nothing is lost on the way.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import checkpoints
from headrace.data.pack import TokenRow, pack
from headrace.model import checkpoint
from headrace.model.decoder import Decoder
from headrace.training.distill.tasks import Distill
from headrace.training.objectives.divergence import Divergence, Scored, divergence
from headrace.training.objectives.grpo import GrpoTerms
from headrace.training.objectives.policy import Clip
from headrace.training.policy.batches import PolicyBatch, per_token, shares
from headrace.training.policy.estimates import group_advantages
from headrace.training.policy.rollouts import Completion
from headrace.training.policy.tasks import Grpo
from headrace.training.step import accumulate
from headrace.training.task import Task

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL and what it imports

VOCAB = 211
LONGEST = 9
TOLERANCE = 1e-6


class Setup:
    """A policy and a teacher, as transformers and as we load them."""

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.paths = {
            name: checkpoints.make(directory / name, "qwen3", seed=seed, std=0.1)
            for seed, name in enumerate(("policy", "teacher"))
        }

    def model(self, name: str) -> Any:
        path = self.paths[name]
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=self.dtype)

    def decoder(self, name: str) -> Decoder:
        return checkpoint.load(self.paths[name], dtype="float32").decoder.to(self.dtype)


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("policy"), request.param)


def _completions() -> list[Completion]:
    """Two prompts with three completions each, the last of each cut off."""
    random = np.random.default_rng(4)
    made: list[Completion] = []
    for prompt in range(2):
        prompt_ids = tuple(random.integers(3, VOCAB, 3 + 2 * prompt).tolist())
        for number in range(3):
            size = LONGEST if number == 2 else int(random.integers(1, LONGEST))
            ids = tuple(random.integers(3, VOCAB, size).tolist())
            made.append(
                Completion(
                    prompt=prompt,
                    prompt_ids=prompt_ids,
                    ids=ids,
                    logprobs=tuple(-random.exponential(5, size)),
                    truncated=number == 2,
                )
            )
    return made


def _filled(batches: list[PolicyBatch], advantage_S: np.ndarray) -> list[PolicyBatch]:
    """Advantages, and old and reference log-probabilities off the policy's in both directions."""
    start, done = 0, []
    for batch in batches:
        end = start + batch.counts.sequences
        advantage_R = per_token(batch, advantage_S[start:end])
        noise = np.random.default_rng(start).normal(0, 0.3, (2, batch.counts.tokens))
        base_R = np.full(batch.counts.tokens, -np.log(VOCAB))
        done.append(
            replace(
                batch,
                advantage_R=advantage_R,
                old_R=base_R + noise[0],
                reference_R=base_R + noise[1],
            )
        )
        start = end
    return done


def _padded(
    values: Sequence[Sequence[float]], width: int, *, left: bool = False, fill: float = 0
) -> Tensor:
    rows = [
        [fill] * (width - len(row)) + [*row] if left else [*row] + [fill] * (width - len(row))
        for row in values
    ]
    return torch.tensor(rows)


def _trl_grpo(
    setup: Setup,
    model: Any,
    completions: list[Completion],
    batches: list[PolicyBatch],
    task: Grpo,
    advantage_S: np.ndarray,
    *,
    mask_truncated: bool,
) -> Tensor:
    """The loss of TRL's trainer on the same numbers."""
    trainer = pytest.importorskip("trl.trainer.grpo_trainer").GRPOTrainer
    prompts = [list(c.prompt_ids) for c in completions]
    width = max(map(len, prompts))
    kept = [not (mask_truncated and c.truncated) for c in completions]
    known: dict[str, list[list[float]]] = {"old_R": [], "reference_R": []}
    for batch in batches:
        for sequence in range(batch.counts.sequences):
            for name, rows in known.items():
                rows.append(getattr(batch, name)[batch.sequence_R == sequence].tolist())
    counted = [[float(keep)] * len(c.ids) for c, keep in zip(completions, kept, strict=True)]
    mask = _padded(counted, LONGEST)
    inputs: dict[str, Any] = {
        "prompt_ids": _padded(prompts, width, left=True).long(),
        "prompt_mask": _padded([[1] * len(p) for p in prompts], width, left=True).long(),
        "completion_ids": _padded([list(c.ids) for c in completions], LONGEST).long(),
        "completion_mask": mask.long(),
        "advantages": torch.from_numpy(advantage_S).to(setup.dtype),
        "old_per_token_logps": _padded(known["old_R"], LONGEST).to(setup.dtype),
        "ref_per_token_logps": _padded(known["reference_R"], LONGEST).to(setup.dtype),
        "num_items_in_batch": mask.sum(),
    }

    def logps(
        model: Any, ids: Tensor, mask: Tensor, keep: int, **_: Any
    ) -> tuple[Tensor, Tensor, None]:
        """TRL's formula without its fused head, which rounds float64 to float32."""
        # A completion that is left out is seen all the same: its tokens merely do not count.
        seen = torch.cat([mask[:, :-keep], (inputs["completion_ids"] != 0).long()], dim=1)
        position = (seen.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=seen, position_ids=position).logits
        logp = torch.log_softmax(logits[:, -keep - 1 : -1] / task.temperature, dim=-1)
        chosen = logp.gather(-1, ids[:, -keep:, None]).squeeze(-1)
        return chosen, -(logp.exp() * logp).sum(-1), None

    terms = task.terms
    alone = SimpleNamespace(
        gather=lambda x: x, reduce=lambda x, **_: x, num_processes=1, sync_gradients=False
    )
    namespace = SimpleNamespace(
        _get_per_token_logps_and_entropies=logps,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=terms.clip.level,
        beta=terms.kl,
        loss_type=terms.average,
        epsilon_low=terms.clip.epsilon_low,
        epsilon_high=terms.clip.epsilon_high,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        model=model.train(),
        current_gradient_accumulation_steps=1,
        accelerator=alone,
        max_completion_length=LONGEST,
        _entropy_bonus_enabled=bool(terms.entropy),
        use_adaptive_entropy=False,
        entropy_coef=terms.entropy,
        _metrics={"train": defaultdict(list)},
    )
    return trainer._compute_loss(namespace, model, inputs)


def _assert_same(
    loss: Tensor, model: nn.Module, task: Task[Any], decoder: Decoder, batches: list[Any]
) -> None:
    """TRL's loss and its gradient are what the loop's step would take."""
    model.zero_grad()
    loss.backward()
    theirs = {name: param.grad for name, param in model.named_parameters()}
    ours = accumulate(decoder, task, batches)
    assert ours.loss == pytest.approx(float(loss.detach()), rel=TOLERANCE, abs=TOLERANCE)
    moved = 0
    for name, param in decoder.named_parameters():
        expected = theirs[checkpoint.hub_name(name)]
        assert param.grad is not None
        assert expected is not None
        limit = TOLERANCE * max(1.0, float(expected.abs().max()))
        assert float((param.grad - expected).abs().max()) <= limit, name
        moved += int(expected.abs().max() > 1e-4)
    assert moved > 10  # the comparison is not of zeros


GRPO_CASES = [
    GrpoTerms(average="grpo"),
    GrpoTerms(average="bnpo"),
    GrpoTerms(average="dr_grpo"),
    GrpoTerms(average="dapo"),
    GrpoTerms(average="grpo", kl=0.3),
    GrpoTerms(average="dapo", kl=0.3, clip=Clip(epsilon_low=0.1, epsilon_high=0.3)),
    GrpoTerms(average="grpo", clip=Clip(level="sequence", epsilon_low=0.01, epsilon_high=0.02)),
    GrpoTerms(average="grpo", kl=0.1, clip=Clip(level="sequence")),
    GrpoTerms(average="bnpo", entropy=0.2),
]


@pytest.mark.parametrize(("mask_truncated", "batch_tokens"), [(False, 999), (True, 26)])
@pytest.mark.parametrize(
    "terms", GRPO_CASES, ids=lambda t: f"{t.average}-{t.clip.level}-{t.kl}-{t.entropy}"
)
def test_grpo(setup: Setup, terms: GrpoTerms, mask_truncated: bool, batch_tokens: int) -> None:
    completions = _completions()
    reward_S = np.array([1.0, 0.0, 0.5, 0.0, 0.0, 1.0])
    advantage_S = group_advantages(reward_S, group=3, scale="group").advantage_S
    (empty,) = shares(
        completions,
        parts=1,
        max_tokens=batch_tokens,
        max_completion_tokens=LONGEST,
        mask_truncated=mask_truncated,
    )
    assert (len(empty) > 1) == (batch_tokens == 26)
    batches = _filled(empty, advantage_S)
    task = Grpo(terms, temperature=0.8)
    model = setup.model("policy")
    loss = _trl_grpo(
        setup, model, completions, batches, task, advantage_S, mask_truncated=mask_truncated
    )
    _assert_same(loss, model, task, setup.decoder("policy"), batches)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("batch_tokens", [20, 999])
def test_gkd(setup: Setup, beta: float, batch_tokens: int) -> None:
    """The trainer's loss over prompts and completions, from both models' weights."""
    gkd = pytest.importorskip("trl.experimental.gkd").GKDTrainer
    completions = _completions()
    width = max(len(c.prompt_ids) + len(c.ids) for c in completions)
    whole = [[*c.prompt_ids, *c.ids] for c in completions]
    labels = [[-100] * len(c.prompt_ids) + list(c.ids) for c in completions]
    inputs = {
        "input_ids": _padded(whole, width).long(),
        "attention_mask": _padded([[1] * len(ids) for ids in whole], width).long(),
        "labels": _padded(labels, width, fill=-100).long(),
    }
    namespace = SimpleNamespace(
        teacher_model=setup.model("teacher"),
        generalized_jsd_loss=gkd.generalized_jsd_loss,
        beta=beta,
    )
    model = setup.model("policy")
    counted = sum(len(c.ids) for c in completions)
    loss = gkd.compute_loss(namespace, model, inputs, num_items_in_batch=counted)
    rows = [
        TokenRow(ids=np.array(ids, np.int32), weights=(np.array(seen) != -100).astype(np.float32))
        for ids, seen in zip(whole, labels, strict=True)
    ]
    task = Distill(setup.decoder("teacher"), Divergence(beta=beta))
    batches = pack(rows, max_tokens=batch_tokens)
    _assert_same(loss, model, task, setup.decoder("policy"), batches)


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_divergence_at_a_temperature(setup: Setup, beta: float, temperature: float) -> None:
    """TRL's function itself, whose trainer leaves temperature at 1."""
    gkd = pytest.importorskip("trl.experimental.gkd").GKDTrainer
    make = torch.Generator().manual_seed(1)
    parts = [
        torch.randn(size, 6, generator=make, dtype=torch.float64).to(setup.dtype)
        for size in (8, 31, 8, 31)
    ]
    hidden_TD, head_VD = (part.requires_grad_() for part in parts[:2])
    teacher = Scored(*parts[2:])
    labels = torch.tensor([1, -100, 1, 1, -100, 1, 1, 1])
    theirs = gkd.generalized_jsd_loss(
        (hidden_TD @ head_VD.T)[None],
        (teacher.hidden_TD @ teacher.head_VD.T)[None],
        labels[None],
        beta,
        temperature,
    )
    expected = torch.autograd.grad(theirs, [hidden_TD, head_VD])
    weight_T = (labels != -100).to(setup.dtype) / 6
    ours = divergence(
        Scored(hidden_TD, head_VD),
        teacher,
        weight_T,
        Divergence(beta=beta, temperature=temperature),
    )
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6, abs=1e-6)
    for own, other in zip(torch.autograd.grad(ours, [hidden_TD, head_VD]), expected, strict=True):
        assert float((own - other).abs().max()) <= 1e-6 * max(1.0, float(other.abs().max()))
