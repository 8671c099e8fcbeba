"""The standard library, texts and questions -> sprout, the bundled model, its card and its log.

Three stages: next tokens of code, documentation and prose, with questions built from them; then
conversations in the model's template, most of them answered from sources by quoting; then DPO on
what the model itself answered wrongly. Every choice is a function of the recipe's seed and of the
files, so the same interpreter, texts and thread count give the same model.
"""

import json
import platform
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from headrace.config import EngineSettings
from headrace.data.chat import turns
from headrace.data.corpus import Mixture, batches
from headrace.data.manifest import SourceCount, as_json
from headrace.data.pack import PackedBatch
from headrace.errors import ConfigError
from headrace.model import checkpoint
from headrace.model.decoder import Decoder
from headrace.model.generation import GenerationDefaults
from headrace.tokens import ChatTemplate, Tokenizer, render
from headrace.training import compute, evaluate, loop, recipe, sample, state
from headrace.training.log import FILE as LOG
from headrace.training.log import Logs
from headrace.training.parallel import ALONE
from headrace.training.policy.rollouts import Sampler
from headrace.training.recipe import Resume
from headrace.training.recipes import base, sprout_quotes
from headrace.training.recipes.card import Facts, card
from headrace.training.recipes.sprout_data import (
    END_OF_TEXT,
    END_OF_TURN,
    Corpus,
    Rows,
    gather,
    tokenised,
    train_tokenizer,
)
from headrace.training.recipes.sprout_plan import NO_PREFERENCE, Recipe, Stage
from headrace.training.task import NextToken, Sft
from headrace.training.watch import Event, Prepared, Published, Scored, Watch, observed

TEMPLATE = Path(__file__).parents[2] / "sprout" / "chat_template.jinja"
_SAMPLE_TOKENS = 64
PROMPTS = (
    "Hello!",
    "Who are you?",
    "What does os.path.join do?",
    "What is shutil.copyfile?",
    "What does len do?",
    "What is PEP 8 about?",
    "What is 3 + 4?",
    "My name is Ada.",
    "What is the capital of Spain?",
    "Write a function that adds two numbers.",
)
OpenSampler = Callable[[Decoder, Sequence[int], EngineSettings], Sampler]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What every stage works on."""

    recipe: Recipe
    corpus: Corpus
    rows: Rows
    decoder: Decoder
    quoter: sprout_quotes.Quoter
    out: Path
    hashes: tuple[str, ...]
    """Of the data and the tokenizer."""


def train(
    recipe_: Recipe,
    *,
    texts: Path | None,
    questions: Path | None,
    open_sampler: OpenSampler,
    out: Path,
    resume: Resume = Resume.ASK,
    tensorboard: bool = False,
) -> Iterator[Event]:
    """Make the model in `out`; yields what happens.

    Args:
        recipe_: All choices.
        texts: Directory of texts beside the standard library.
        questions: A file in SQuAD 2.0's form; without one, only questions built from texts.
        open_sampler: An engine over the parameters, to ask the model questions.
        out: The run's directory; the model is in `out/model`.
        resume: What to do with checkpoints that are there.
        tensorboard: Write its event files too.

    Raises:
        ConfigError: A device other than the CPU.
        Interrupted: SIGTERM or Ctrl-C; `resume` goes on from the checkpoint that was written.
    """
    if recipe_.compute.device != "cpu":
        raise ConfigError(
            f"compute.device = {recipe_.compute.device}: sprout trains on the CPU, whose engine "
            "asks it questions between stages; leave compute.device = cpu"
        )
    compute.place(recipe_.compute, ALONE)
    out.mkdir(parents=True, exist_ok=True)
    resuming = state.admit(out / "checkpoints", resume)
    corpus = gather(recipe_, texts=texts, questions=questions)
    if resuming and (out / "tokenizer.json").exists():
        tokenizer = Tokenizer.load(out)
    else:
        tokenizer = train_tokenizer(corpus, recipe_.shape.vocab_tokens)
        tokenizer.save(out)
    shutil.copyfile(TEMPLATE, out / TEMPLATE.name)
    template = ChatTemplate.load(out)
    rows = tokenised(corpus, tokenizer, template, recipe_)
    end = tokenizer.special[END_OF_TURN]
    decoder = base.fresh(
        recipe_.shape, seed=recipe_.seed, eos_id=end, pad_id=tokenizer.special[END_OF_TEXT]
    )
    compute.wrap(decoder, recipe_.compute)
    parameters = sum(param.numel() for param in decoder.parameters())
    yield Prepared(parameters=parameters, trained=parameters, facts=_counts(corpus, rows))
    logs = Logs(out, tensorboard=tensorboard)
    if not resuming:
        (out / LOG).unlink(missing_ok=True)
    run = _Run(
        recipe=recipe_,
        corpus=corpus,
        rows=rows,
        decoder=decoder,
        quoter=sprout_quotes.Quoter(
            tokenizer=tokenizer,
            template=template,
            sampler=lambda: open_sampler(decoder, (end,), _ASKING),
            max_tokens=recipe_.quoting.answer_tokens,
            context_tokens=recipe_.shape.context_tokens,
        ),
        out=out,
        hashes=(tokenizer.fingerprint, *(row.sha256 for row in corpus.manifest)),
    )
    with loop.stop_on_signal() as should_stop:
        for name, trainee, updates in _stages(run):
            reports = loop.run(
                trainee,
                name,
                updates,
                directory=out / "checkpoints",
                resume=resuming,
                should_stop=should_stop,
            )
            talks = name != "pretrain"
            watch = Watch(
                every_steps=recipe_.evaluate_every_steps,
                score=lambda: asdict(evaluate.score(decoder, rows.held_out)),
                sample=(lambda: _answers(decoder, tokenizer, template)) if talks else None,
            )
            yield from observed(reports, watch, logs)
            scores = run.quoter.score(corpus.asked_held_out)
            logs.scores(f"{name}-quoting", updates.steps, scores)
            yield Scored(stage=f"{name}-quoting", step=updates.steps, scores=scores)
    logs.close()
    yield publish(decoder, tokenizer, recipe_, corpus.manifest, out=out)


# A few hundred questions of a few hundred tokens at once.
_ASKING = EngineSettings(kv_cache_bytes=1 << 28, max_running=32, max_batch_tokens=2048)


def _counts(corpus: Corpus, rows: Rows) -> dict[str, int]:
    chats = (*rows.quoted, *rows.talk, *rows.asked, *rows.gaps)
    return {
        "documents": len(corpus.train) + len(corpus.held_out),
        "tokens of text": sum(len(row.ids) - 1 for row in rows.pretrain),
        "conversations": len(chats),
        "tokens of chat": sum(len(row.ids) - 1 for row in chats),
        "questions held out": len(corpus.asked_held_out),
    }


def _stages(run: _Run) -> Iterator[tuple[str, loop.Trainee[Any], recipe.Updates]]:
    """Each stage as it begins: the last one asks the model that the others have made."""
    plan = run.recipe
    # A stage depends on itself and on what came before, on no later one: they can be tried again
    # with other settings on the same pre-training.
    before = replace(plan, chat=plan.pretrain, prefer=NO_PREFERENCE)
    yield _texts_stage(run, "pretrain", plan.pretrain, before)
    yield _texts_stage(run, "chat", plan.chat, replace(plan, prefer=NO_PREFERENCE))
    if not plan.prefer.updates.steps:
        return
    trainee = loop.Trainee(
        decoder=run.decoder,
        task=sprout_quotes.task(plan.prefer),
        batches=run.quoter.pairs(
            run.decoder,
            run.corpus.asked or run.corpus.gaps,
            plan.prefer,
            seed=plan.seed + 4,
            out=run.out,
            fingerprint=recipe.fingerprint(plan, *run.hashes),
        ),
        fingerprint=recipe.fingerprint(plan, *run.hashes),
        config=recipe.resolved(plan),
    )
    yield "prefer", trainee, plan.prefer.updates


def _texts_stage(
    run: _Run, name: str, stage: Stage, known: Recipe
) -> tuple[str, loop.Trainee[PackedBatch], recipe.Updates]:
    trainee = loop.Trainee(
        decoder=run.decoder,
        task=NextToken() if name == "pretrain" else Sft(),
        batches=_batches(_mixtures(run, name, stage), stage.batch_tokens),
        fingerprint=recipe.fingerprint(known, *run.hashes),
        config=recipe.resolved(run.recipe),
    )
    return name, trainee, stage.updates


def _mixtures(run: _Run, name: str, stage: Stage) -> list[Mixture]:
    rows, seed = run.rows, run.recipe.seed + (name != "pretrain")
    mixed = (
        (rows.pretrain if name == "pretrain" else rows.quoted, stage.rows_per_step),
        (rows.talk, stage.talk_rows_per_step),
        (rows.replay, stage.replay_rows_per_step),
        (rows.asked, stage.asked_rows_per_step),
        (rows.gaps, stage.gap_rows_per_step),
    )
    return [
        Mixture(rows=some, per_step=count, seed=seed + 10 * place)
        for place, (some, count) in enumerate(mixed)
        if some
    ]


def _batches(mixtures: Sequence[Mixture], max_tokens: int) -> Callable[[int], list[PackedBatch]]:
    return lambda step: batches(mixtures, step, max_tokens=max_tokens)


def publish(
    decoder: Decoder,
    tokenizer: Tokenizer,
    recipe_: Recipe,
    rows: Sequence[SourceCount],
    *,
    out: Path,
) -> Published:
    """Write `out/model`: weights in bfloat16, tokenizer, template, card, log and manifest."""
    target = out / "model"
    end = tokenizer.special[END_OF_TURN]
    checkpoint.save(
        decoder,
        decoder.config,
        target,
        dtype="bfloat16",
        # Greedy: a model this small is at its best, and easiest to test, without dice.
        generation=GenerationDefaults(temperature=0.0, eos_token_ids=(end,)),
        replace_existing=True,
    )
    tokenizer.save(target, chat_template=TEMPLATE.read_text(encoding="utf-8"))
    shutil.copyfile(out / LOG, target / LOG)
    records = [json.loads(line) for line in (out / LOG).read_text("utf-8").splitlines()]
    weight_bytes = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    facts = Facts(
        recipe=recipe_,
        manifest=rows,
        parameters=sum(param.numel() for param in decoder.parameters()),
        weight_bytes=weight_bytes,
        records=records,
        versions={"Python": platform.python_version(), "torch": torch.__version__},
    )
    (target / "MODEL_CARD.md").write_text(card(facts), encoding="utf-8")
    made_from = {"recipe": asdict(recipe_), "sources": as_json(rows)}
    (target / "manifest.json").write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")
    return Published(path=target, weight_bytes=weight_bytes)


def _answers(
    decoder: Decoder, tokenizer: Tokenizer, template: ChatTemplate
) -> Iterator[tuple[str, str]]:
    for prompt in PROMPTS:
        yield prompt, ask(decoder, tokenizer, template, prompt)


def ask(decoder: Decoder, tokenizer: Tokenizer, template: ChatTemplate, prompt: str) -> str:
    """The greedy answer to one question; what the model did not end is marked with an ellipsis."""
    rendered = render(tokenizer, template, turns(prompt), add_generation_prompt=True)
    end = tokenizer.special[END_OF_TURN]
    ids = sample.greedy(decoder, rendered.ids, max_tokens=_SAMPLE_TOKENS, eos_ids={end})
    return tokenizer.decode(ids) + ("" if ids[-1] == end else " …")
