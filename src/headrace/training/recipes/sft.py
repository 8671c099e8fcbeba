"""A model and chats -> the model tuned on what the assistant says in them.

The mask comes from the renderer's spans (`training.supervise`), so what is learnt is exactly what a
served model is asked to produce. A conversation without an assistant turn is an error; one longer
than a row is left out and counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from headrace.data import sources
from headrace.data.chat import Conversation
from headrace.data.chat_file import conversations
from headrace.data.corpus import Mixture, batches
from headrace.data.pack import TokenRow, pack
from headrace.errors import DataError
from headrace.model.adapters import Adapter
from headrace.training import card, compute, evaluate, loop, parallel, recipe, state
from headrace.training.log import Logs
from headrace.training.parallel import Ranks
from headrace.training.recipe import Compute, Resume, Rows, Updates
from headrace.training.recipes import base
from headrace.training.supervise import Supervisor
from headrace.training.task import Sft as SftTask
from headrace.training.watch import Event, Prepared, Watch, observed
from headrace.types import Message, Role

_STAGE = "sft"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sft:
    """Chat tuning."""

    updates: Updates = field(
        default_factory=lambda: Updates(
            steps=0, lr=1e-5, weight_decay=0.0, warmup_steps=10, schedule="cosine"
        )
    )
    """`steps` 0 = as many as `epochs` asks for."""
    rows: Rows = field(
        default_factory=lambda: Rows(per_step=32, row_tokens=2048, batch_tokens=4096)
    )
    epochs: float = 1.0
    adapter: Adapter = field(default_factory=Adapter)
    compute: Compute = field(default_factory=Compute)
    seed: int = 0
    held_out_one_in: int = 20
    """One conversation in so many is never trained on; 0 = all are."""
    evaluate_every_steps: int = 50
    samples: int = 3
    """Held-out conversations whose last answer is generated when the model is scored."""
    sample_tokens: int = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chats:
    rows: Sequence[TokenRow]
    held_out: evaluate.HeldOut | None
    prompts: Sequence[Sequence[Message]]
    too_long: int


def train(
    plan: Sft,
    *,
    model: Path,
    data: Path,
    out: Path,
    resume: Resume = Resume.ASK,
    tensorboard: bool = False,
) -> Iterator[Event]:
    """Tune the model into `out`; yields what happens.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; `resume` goes on from the checkpoint that was written.
        DataError: A conversation that cannot be trained on, or none that fits a row.
    """
    with parallel.joined() as ranks:
        for event in _train(plan, model, data, out, resume, tensorboard, ranks):
            if ranks.first:
                yield event


def _train(
    plan: Sft,
    model: Path,
    data: Path,
    out: Path,
    resume: Resume,
    tensorboard: bool,
    ranks: Ranks,
) -> Iterator[Event]:
    device = compute.place(plan.compute, ranks)
    resuming = state.admit(out / "checkpoints", resume, ranks)
    logs = Logs(out if ranks.first else None, tensorboard=tensorboard)
    out.mkdir(parents=True, exist_ok=True)
    expected = base.foresee(
        model,
        plan.adapter,
        rows=plan.rows,
        updates=plan.updates,
        compute=plan.compute,
        device=device.type,
    )
    start = base.read(model, plan.adapter, seed=plan.seed)
    start.decoder.to(device)
    chats = _prepared(plan, start, conversations(data))
    updates = base.with_steps(
        plan.updates, epochs=plan.epochs, rows=len(chats.rows), per_step=plan.rows.per_step
    )
    plan = replace(plan, updates=updates)
    yield Prepared(
        parameters=sum(param.numel() for param in start.decoder.parameters()),
        trained=sum(p.numel() for p in start.decoder.parameters() if p.requires_grad),
        facts={
            "conversations": len(chats.rows),
            "supervised tokens": sum(int((row.weights[1:] > 0).sum()) for row in chats.rows),
            "too long and left out": chats.too_long,
            **expected,
        },
    )
    if ranks.first:
        card.note_data(out, data, records=len(chats.rows))
    compute.wrap(start.decoder, plan.compute)
    parallel.shard(start.decoder, ranks)
    mixture = Mixture(rows=chats.rows, per_step=plan.rows.per_step, seed=plan.seed)
    trainee = loop.Trainee(
        decoder=start.decoder,
        task=SftTask(),
        batches=lambda step: batches([mixture], step, max_tokens=plan.rows.batch_tokens),
        fingerprint=recipe.fingerprint(
            plan,
            start.loaded.fingerprint,
            start.tokenizer.fingerprint,
            start.template.fingerprint,
            recipe.rows_hash(chats.rows),
        ),
        config=recipe.resolved(plan),
    )
    held_out = chats.held_out
    watch = Watch(
        every_steps=plan.evaluate_every_steps,
        score=(lambda: asdict(evaluate.score(start.decoder, held_out))) if held_out else None,
        sample=lambda: base.answers(start, chats.prompts, max_tokens=plan.sample_tokens),
    )
    with loop.stop_on_signal() as should_stop:
        reports = loop.run(
            trainee,
            _STAGE,
            plan.updates,
            directory=out / "checkpoints",
            resume=resuming,
            should_stop=should_stop,
            ranks=ranks,
        )
        yield from observed(reports, watch, logs)
    logs.close()
    parallel.unshard(start.decoder)
    made = base.publish(start, start.decoder, out) if ranks.first else None
    ranks.meet()
    if made is not None:
        yield made


def _prepared(plan: Sft, start: base.Base, chats: Sequence[Conversation]) -> _Chats:
    supervisor = Supervisor.of(start.tokenizer, start.template)
    rows: list[TokenRow] = []
    held: list[TokenRow] = []
    prompts: list[Sequence[Message]] = []
    too_long = 0
    longest = min(plan.rows.row_tokens, start.decoder.config.context_tokens, plan.rows.batch_tokens)
    one_in = plan.held_out_one_in
    for chat in chats:
        row = supervisor.row(chat)
        if len(row.ids) - 1 > longest:
            too_long += 1
        elif one_in and sources.is_held_out(chat.id, one_in=one_in):
            held.append(row)
            if len(prompts) < plan.samples and chat.messages[-1].role is Role.ASSISTANT:
                prompts.append(chat.messages[:-1])
        else:
            rows.append(row)
    if not rows:
        raise DataError(
            f"of {len(chats)} conversations {too_long} are longer than {longest} tokens and "
            f"{len(held)} are held out, so none is left to train on; give more, or raise "
            "rows.row_tokens and rows.batch_tokens"
        )
    held_out = None
    if held:
        size = evaluate.target_bytes(held, start.tokenizer, without=None)
        held_batches = pack(held, max_tokens=plan.rows.batch_tokens)
        held_out = evaluate.HeldOut(batches=held_batches, target_bytes=size)
    return _Chats(rows=rows, held_out=held_out, prompts=prompts, too_long=too_long)
