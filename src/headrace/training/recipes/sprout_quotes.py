"""Questions with sources put to the model in training: its score, and pairs to prefer by.

Invariant: the pairs of a run are made once, from the model as the chat stage left it, and kept
beside the run, so that a resumed run prefers by the same ones.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from headrace.data import grounded, order
from headrace.data.chat import Conversation, pick, said
from headrace.data.grounded import Question
from headrace.errors import DataError
from headrace.model.decoder import Decoder
from headrace.tokens import ChatTemplate, Tokenizer, render
from headrace.training import quoting
from headrace.training.policy.rollouts import Asking, Sampler, roll_out
from headrace.training.preference.batches import PairBatch, PairRow, pair_batches
from headrace.training.preference.logps import reference_logps
from headrace.training.preference.tasks import Dpo
from headrace.training.recipes.sprout_plan import Preferring
from headrace.training.supervise import Supervisor
from headrace.types import Role

FILE = "pairs.jsonl"
_CHUNK = 64
_GOOD_ENOUGH = 0.5  # F1 from which an own answer with the right citation is not held against it


def task(plan: Preferring) -> Dpo:
    return Dpo(plan.loss)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quoter:
    """Asks the model, greedily."""

    tokenizer: Tokenizer
    template: ChatTemplate
    sampler: Callable[[], Sampler]
    max_tokens: int
    context_tokens: int

    def answers(self, questions: Sequence[Question]) -> list[str]:
        """What it says to each; nothing to one that leaves no room for an answer."""
        prompts = [self._prompt(question) for question in questions]
        fits = [
            n for n, ids in enumerate(prompts) if len(ids) + self.max_tokens <= self.context_tokens
        ]
        answers = [""] * len(questions)
        sampler = self.sampler()
        asking = Asking(group=1, max_tokens=self.max_tokens, greedy=True)
        for first in range(0, len(fits), _CHUNK):
            some = fits[first : first + _CHUNK]
            for found in roll_out(sampler, [prompts[n] for n in some], asking, seed=0):
                ids = found.ids if found.truncated else found.ids[:-1]
                answers[some[found.prompt]] = self.tokenizer.decode(ids)
        return answers

    def score(self, questions: Sequence[Question]) -> Mapping[str, float]:
        """SQuAD's marks over them, and what is counted beside those.

        Raises:
            DataError: No question.
        """
        said_to = dict(zip((q.id for q in questions), self.answers(questions), strict=True))
        return asdict(quoting.score(lambda question: said_to[question.id], questions))

    def pairs(
        self,
        decoder: Decoder,
        questions: Sequence[Question],
        plan: Preferring,
        *,
        seed: int,
        out: Path,
        fingerprint: str,
    ) -> Callable[[int], Sequence[PairBatch]]:
        """The batches of a step: each right answer beside a wrong one.

        Raises:
            DataError: No question leaves room for an answer.
        """
        asked = questions[: plan.asked]
        rejected = self._rejected(asked, out / FILE, fingerprint)
        supervisor = Supervisor.of(self.tokenizer, self.template)
        rows = [
            pair
            for question in asked
            if (pair := _pair(supervisor, question, rejected.get(question.id)))
            and len(pair.chosen.ids) <= self.context_tokens
            and len(pair.rejected.ids) <= self.context_tokens
        ]
        if not rows:
            raise DataError(
                f"of {len(asked)} questions none makes a pair within {self.context_tokens} tokens; "
                "lower quoting.source_chars or quoting.sources"
            )
        known_N2 = reference_logps(
            decoder,
            [row for pair in rows for row in (pair.chosen, pair.rejected)],
            max_tokens=plan.batch_tokens,
            cache=out / "pairs.safetensors",
            fingerprint=fingerprint,
        ).reshape(-1, 2)

        def batches(step: int) -> Sequence[PairBatch]:
            chosen = order.documents(
                seed=seed, step=step, count=len(rows), per_step=plan.pairs_per_step
            )
            return pair_batches(
                [rows[n] for n in chosen], known_N2[list(chosen)], max_tokens=plan.batch_tokens
            )

        return batches

    def _prompt(self, question: Question) -> tuple[int, ...]:
        rendered = render(
            self.tokenizer, self.template, (grounded.prompt(question),), add_generation_prompt=True
        )
        return tuple(rendered.ids)

    def _rejected(
        self, questions: Sequence[Question], path: Path, fingerprint: str
    ) -> Mapping[str, str]:
        """A wrong answer to each: the model's own where it was wrong."""
        if path.is_file():
            first, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            if first == {"fingerprint": fingerprint}:
                return {line["id"]: line["rejected"] for line in lines}
        wrong: dict[str, str] = {}
        for question, own in zip(questions, self.answers(questions), strict=True):
            made = grounded.wrong_answers(question)
            own = own.strip()  # a first line break would merge with the template's
            if own and _is_wrong(question, own):
                wrong[question.id] = own
            elif made:
                wrong[question.id] = pick(made, f"{question.id}/wrong")
        lines = [{"fingerprint": fingerprint}]
        lines += [{"id": name, "rejected": text} for name, text in wrong.items()]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        partial.replace(path)
        return wrong


def _is_wrong(question: Question, own: str) -> bool:
    quote = grounded.parse(own)
    mark = quoting.mark(question, quote)
    return mark.f1 < _GOOD_ENOUGH or (question.answerable and quote.number != question.cited)


def _pair(supervisor: Supervisor, question: Question, rejected: str | None) -> PairRow | None:
    if rejected is None:
        return None
    worse = Conversation(
        id=question.id, messages=(grounded.prompt(question), said(Role.ASSISTANT, rejected))
    )
    return PairRow(
        id=question.id,
        chosen=supervisor.row(grounded.conversation(question)),
        rejected=supervisor.row(worse),
    )
