"""DPO's family, ORPO, KTO and reward models against TRL's own trainers: losses and gradients.

TRL's `compute_loss` runs on its own collator's batch and transformers' model; ours on packed rows
and the headrace decoder with the same weights. float64 shows that the formulas are the same,
float32 that nothing is lost on the way.
"""

import functools
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
import preference_fixtures as fx
from headrace.data.pack import TokenRow
from headrace.model import checkpoint, reward
from headrace.model.decoder import Decoder
from headrace.training.objectives.dpo import DpoSettings
from headrace.training.objectives.kto import KtoSettings, drift
from headrace.training.objectives.orpo import OrpoSettings
from headrace.training.objectives.reward import RewardSettings
from headrace.training.preference.batches import (
    AnswerRow,
    PairRow,
    answer_batches,
    mismatched,
    pair_batches,
    scored_row,
)
from headrace.training.preference.logps import row_logps
from headrace.training.preference.tasks import Dpo, Kto, Orpo, Reward
from headrace.training.step import accumulate
from headrace.training.task import Task

pytestmark = pytest.mark.filterwarnings("ignore")  # of TRL and what it imports

SPROUT = Path(checkpoint.__file__).parents[1] / "sprout"
VOCAB = 4096
TOLERANCE = 1e-6
DTYPES = [torch.float64, torch.float32]


class Setup:
    """A policy and a reference as transformers and as we load them, and TRL's arguments."""

    def __init__(self, directory: Path, dtype: torch.dtype) -> None:
        self.dtype, self.directory = dtype, directory
        self.policy = checkpoints.make(directory / "policy", "qwen3", **_SHAPE)
        self.reference = checkpoints.make(directory / "reference", "qwen3", seed=1, **_SHAPE)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(SPROUT)
        self.arguments: dict[str, Any] = {
            "output_dir": str(directory / "out"),
            "report_to": [],
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
        }

    def model(self, which: Path) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(which, dtype=self.dtype)

    def unrounded(self, trainer: Any) -> Any:
        """The trainer, its models' heads no longer rounding float64 values to float32."""
        for model in (trainer.model, trainer.ref_model):
            if self.dtype == torch.float64:
                model.forward = functools.partial(_exact_head, type(model).forward, model)
        return trainer

    def decoder(self, which: Path) -> Decoder:
        return checkpoint.load(which, dtype="float32").decoder.to(self.dtype)

    def reference_logps(self, rows: Sequence[TokenRow]) -> np.ndarray:
        return row_logps(self.decoder(self.reference), rows, max_tokens=40)


def _exact_head(
    forward: Any, model: Any, *, labels: Tensor, fused_lm_head: bool, **inputs: Any
) -> Any:
    """What TRL's fused head returns, by the plain formula."""
    assert fused_lm_head
    logp_BTV = torch.log_softmax(forward(model, **inputs).logits[:, :-1], dim=-1)
    shifted_BT = labels[:, 1:]
    chosen_BT = logp_BTV.gather(-1, shifted_BT.clamp(min=0)[..., None]).squeeze(-1)
    zeros_BT = torch.zeros_like(chosen_BT)
    return SimpleNamespace(
        log_probs=chosen_BT.where(shifted_BT != -100, zeros_BT),
        entropy=zeros_BT,
        mean_logits=zeros_BT,
        is_top1=zeros_BT.bool(),
    )


_SHAPE: dict[str, Any] = {"vocab_size": VOCAB, "pad_token_id": 0, "std": 0.06}
_DATASET = [
    {"prompt": "one two", "chosen": " three", "rejected": " four"},
    {"prompt": "two three", "chosen": " four", "rejected": " five"},
]


@pytest.fixture(scope="module", params=DTYPES, ids=["float64", "float32"])
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("preference"), request.param)


@pytest.fixture(scope="module")
def trl_dpo(setup: Setup) -> Any:
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    trainer = trl.DPOTrainer(
        setup.model(setup.policy),
        setup.model(setup.reference),
        args=trl.DPOConfig(**setup.arguments),
        train_dataset=datasets.Dataset.from_list(_DATASET),
        processing_class=setup.tokenizer,
    )
    return setup.unrounded(trainer)


def _pairs(margins: bool = False) -> list[PairRow]:
    return fx.pairs(7, vocab=VOCAB, seed=3, margins=margins)


def _examples(pairs: Sequence[PairRow]) -> list[dict[str, list[int]]]:
    made: list[dict[str, list[int]]] = []
    for pair in pairs:
        prompt, chosen = _parts(pair.chosen)
        _, rejected = _parts(pair.rejected)
        made.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    return made


def _parts(row: TokenRow) -> tuple[list[int], list[int]]:
    start = int(np.argmax(row.weights))
    return row.ids[:start].tolist(), row.ids[start:].tolist()


def _assert_same(
    loss: Tensor,
    model: nn.Module,
    task: Task[Any],
    decoder: Decoder,
    batches: Sequence[Any],
    *,
    loose: float = 0.0,
) -> None:
    """TRL's loss and its gradient are what the loop's step would take."""
    model.zero_grad()
    loss.backward()
    theirs = {name: param.grad for name, param in model.named_parameters()}
    decoder.zero_grad()
    ours = accumulate(decoder, task, batches)
    assert ours.loss == pytest.approx(float(loss.detach()), rel=loose or TOLERANCE, abs=TOLERANCE)
    compared = 0
    for name, param in decoder.named_parameters():
        expected = theirs.get(checkpoint.hub_name(name))
        if expected is None:
            assert param.grad is None, name
            continue
        assert param.grad is not None
        limit = max(TOLERANCE, loose) * max(1.0, float(expected.abs().max()))
        assert float((param.grad - expected).abs().max()) <= limit, name
        compared += int(expected.abs().max() > 1e-4)
    assert compared > 10  # the comparison is not of zeros


DPO_CASES = [
    DpoSettings(),
    DpoSettings(beta=0.5, kind="sigmoid_norm"),
    DpoSettings(kind="hinge"),
    DpoSettings(kind="ipo", beta=0.3),
    DpoSettings(kind="robust", label_smoothing=0.2),
    DpoSettings(kind="exo_pair", label_smoothing=0.01),
    DpoSettings(kind="nca_pair"),
    DpoSettings(kind="bco_pair"),
    DpoSettings(kind="sppo_hard", beta=2.0),
    DpoSettings(kind="apo_zero"),
    DpoSettings(kind="apo_down"),
    DpoSettings(kind="discopop"),
    DpoSettings(sft_weight=0.7),
]


@pytest.mark.parametrize("batch_tokens", [60, 999])
@pytest.mark.parametrize("settings", DPO_CASES, ids=lambda s: f"{s.kind}-{s.sft_weight}")
def test_dpo_family(setup: Setup, trl_dpo: Any, settings: DpoSettings, batch_tokens: int) -> None:
    pairs = _pairs()
    trl_dpo.beta, trl_dpo.label_smoothing = settings.beta, settings.label_smoothing
    trl_dpo.loss_types, trl_dpo.loss_weights = [settings.kind], [1.0]
    if settings.sft_weight:
        trl_dpo.loss_types, trl_dpo.loss_weights = [settings.kind, "sft"], [1, settings.sft_weight]
    loss = trl_dpo.compute_loss(trl_dpo.model, trl_dpo.data_collator(_examples(pairs)))
    sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    reference_N2 = setup.reference_logps(sides).reshape(-1, 2)
    batches = pair_batches(pairs, reference_N2, max_tokens=batch_tokens)
    assert (len(batches) > 1) == (batch_tokens == 60)
    # TRL adds up in float32, and SPPO squares the sums.
    loose = 1e-5 if settings.kind == "sppo_hard" and setup.dtype == torch.float32 else 0.0
    decoder = setup.decoder(setup.policy)
    _assert_same(loss, trl_dpo.model, Dpo(settings), decoder, batches, loose=loose)


@pytest.mark.parametrize("batch_tokens", [60, 999])
def test_orpo(setup: Setup, batch_tokens: int) -> None:
    datasets = pytest.importorskip("datasets")
    orpo = pytest.importorskip("trl.experimental.orpo")
    trainer = orpo.ORPOTrainer(
        setup.model(setup.policy),
        args=orpo.ORPOConfig(**setup.arguments, beta=0.4, remove_unused_columns=False),
        train_dataset=datasets.Dataset.from_list(_DATASET),
        processing_class=setup.tokenizer,
    )
    pairs = _pairs()
    examples: list[dict[str, list[int]]] = []
    for pair in pairs:
        example: dict[str, list[int]] = {}
        for name, row in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            labels = np.where(row.weights != 0, row.ids, -100)
            example[f"{name}_input_ids"] = row.ids.tolist()
            example[f"{name}_attention_mask"] = [1] * len(row.ids)
            example[f"{name}_labels"] = labels.tolist()
        examples.append(example)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(examples))
    batches = pair_batches(pairs, None, max_tokens=batch_tokens)
    task = Orpo(OrpoSettings(beta=0.4))
    _assert_same(loss, trainer.model, task, setup.decoder(setup.policy), batches)


KTO_CASES = [
    KtoSettings(),
    KtoSettings(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5),
    KtoSettings(kind="apo_zero_unpaired"),
]


@pytest.mark.parametrize("swapped", [False, True], ids=["kl-one-way", "kl-other-way"])
@pytest.mark.parametrize("settings", KTO_CASES, ids=lambda s: f"{s.kind}-{s.beta}")
def test_kto(setup: Setup, settings: KtoSettings, swapped: bool) -> None:
    # Of two models one has a positive estimate of drift; the other way round it is clamped at 0.
    policy, reference = setup.policy, setup.reference
    if swapped:
        policy, reference = reference, policy
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    examples = [
        {"prompt": one["prompt"], "completion": one["chosen"], "label": bool(number)}
        for number, one in enumerate(_DATASET)
    ]
    trainer = trl.KTOTrainer(
        setup.model(policy),
        setup.model(reference),
        args=trl.KTOConfig(
            **setup.arguments,
            beta=settings.beta,
            loss_type=settings.kind,
            desirable_weight=settings.desirable_weight,
            undesirable_weight=settings.undesirable_weight,
        ),
        train_dataset=datasets.Dataset.from_list(examples),
        processing_class=setup.tokenizer,
    )
    setup.unrounded(trainer)
    answers = fx.answers(6, vocab=VOCAB, seed=5)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(_kto_examples(answers)))
    decoder, frozen = setup.decoder(policy), setup.decoder(reference)
    strangers = mismatched(answers, longest=99)
    ratio_M = row_logps(decoder, strangers, max_tokens=60)
    ratio_M -= row_logps(frozen, strangers, max_tokens=99)
    kl = float(drift(torch.from_numpy(ratio_M))) if settings.wants_kl else 0.0
    assert kl == pytest.approx(trainer._metrics["eval"]["kl"][-1], rel=1e-5, abs=1e-6)
    reference_N = row_logps(frozen, [a.answer for a in answers], max_tokens=99)
    batches = answer_batches(answers, reference_N, max_tokens=30, kl=kl)
    assert len(batches) > 1
    _assert_same(loss, trainer.model, Kto(settings), decoder, batches)


def _kto_examples(answers: Sequence[AnswerRow]) -> list[dict[str, Any]]:
    parts = [_parts(answer.answer) for answer in answers]
    return [
        {
            "prompt_ids": prompt,
            "completion_ids": completion,
            "KL_completion_ids": parts[place - 1][1],
            "label": answers[place].good,
        }
        for place, (prompt, completion) in enumerate(parts)
    ]


@pytest.mark.parametrize("batch_tokens", [60, 999])
@pytest.mark.parametrize("center_weight", [0.0, 0.1])
@pytest.mark.parametrize("margins", [False, True])
def test_reward(setup: Setup, margins: bool, center_weight: float, batch_tokens: int) -> None:
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    base = checkpoint.load(setup.policy, dtype="float32")
    head, config = reward.fresh_head(base.config, seed=7, dtype=torch.float32), base.config
    directory = setup.directory / "reward"
    reward.RewardModel(decoder=base.decoder, head=head, config=config).save(
        directory, replace_existing=True
    )
    decoder, head = setup.decoder(setup.policy), head.to(setup.dtype)
    trainer = trl.RewardTrainer(
        transformers.AutoModelForSequenceClassification.from_pretrained(
            directory, dtype=setup.dtype
        ).eval(),
        args=trl.RewardConfig(
            **setup.arguments, center_rewards_coefficient=center_weight or None, pad_token="!"
        ),
        train_dataset=datasets.Dataset.from_list(_DATASET),
        processing_class=setup.tokenizer,
    )
    trainer.model.config.pad_token_id = config.pad_token_id
    pairs = _pairs(margins)
    examples: list[dict[str, Any]] = []
    rows: list[PairRow] = []
    for pair in pairs:
        # Whole conversations; some end with the padding token, which transformers looks past.
        sides = [
            [*side.ids.tolist(), 0][: len(side.ids) + 1] for side in (pair.chosen, pair.rejected)
        ]
        example: dict[str, Any] = {"chosen_ids": sides[0], "rejected_ids": sides[1]}
        examples.append(example | ({"margin": pair.margin} if margins else {}))
        chosen, rejected = (
            scored_row(ids, at=reward.scored_position(ids, config.pad_token_id)) for ids in sides
        )
        rows.append(replace(pair, chosen=chosen, rejected=rejected))
    collator = trl.trainer.reward_trainer.DataCollatorForPreference(pad_token_id=0)
    loss = trainer.compute_loss(trainer.model, collator(examples))
    batches = pair_batches(rows, None, max_tokens=batch_tokens)
    task = Reward(RewardSettings(center_weight=center_weight), head)
    _assert_same(loss, trainer.model, task, decoder, batches)
    expected = trainer.model.score.weight.grad
    assert head.weight.grad is not None
    assert float((head.weight.grad - expected).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_reward_models_load_in_transformers_and_back(family: str, tmp_path: Path) -> None:
    made = checkpoint.load(checkpoints.make(tmp_path / "base", family))
    config = reward.with_padding(made.config, 5)
    head = reward.fresh_head(config, seed=3, dtype=torch.float32)
    model = reward.RewardModel(decoder=made.decoder, head=head, config=config)
    model.save(tmp_path / "reward")
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "reward", output_loading_info=True
    )
    assert not any(report.values()), report
    assert theirs.config.num_labels == 1
    conversations = [[7, 8, 9, 10], [11, 12, 5], [13], [5, 14, 5, 5]]
    padded = torch.tensor([[*ids, 5, 5, 5, 5][:4] for ids in conversations])
    with torch.no_grad():
        expected_S = theirs.eval()(padded, attention_mask=torch.ones_like(padded)).logits[:, 0]
    again = reward.load(tmp_path / "reward")
    for mine in (model, again):
        torch.testing.assert_close(mine.scores(conversations), expected_S, rtol=0, atol=1e-6)
    theirs.save_pretrained(tmp_path / "theirs")
    back = reward.load(tmp_path / "theirs")
    assert torch.equal(back.scores(conversations), again.scores(conversations))
