"""`headrace bench serve|latency|throughput|startup`: measurements with vLLM's definitions."""

import asyncio
import math
import shlex
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from headrace import app
from headrace.bench.arrivals import arrivals_s
from headrace.bench.datasets import BenchRequest, Span, jsonl_requests, random_requests
from headrace.bench.load import Run, by_type, run
from headrace.bench.measures import Distribution, Measure, RequestRecord, ServingSummary, summarize
from headrace.bench.offline import measure_latency, measure_throughput
from headrace.bench.results import circumstances, write_result
from headrace.bench.startup import StartupRun, evict, measure_startup
from headrace.cli.report import console, emit_json, progress, settings
from headrace.config import Settings, client_api_key, process_environment
from headrace.errors import InvalidParameter, NotFound
from headrace.providers.openai_compatible import OpenAICompatible
from headrace.types import SamplingParams

bench = typer.Typer(no_args_is_help=True, help="Measure latency and throughput.")

_URL = "http://127.0.0.1:8080"


class Dataset(StrEnum):
    RANDOM = "random"
    JSONL = "jsonl"


Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Out = Annotated[
    Path | None, typer.Option(help="Write the result, with machine, commit and versions, here.")
]
Model = Annotated[str | None, typer.Option(help="Checkpoint directory or hub id [bundled].")]
Seed = Annotated[int, typer.Option(help="Of the prompts, their lengths and the arrivals.")]


@bench.command()
def serve(
    url: Annotated[str, typer.Option(help="Of an OpenAI-compatible server.")] = _URL,
    key: Annotated[str | None, typer.Option(help="API key [$OPENAI_API_KEY].")] = None,
    model: Annotated[str | None, typer.Option(help="Name there [the only one].")] = None,
    dataset: Annotated[Dataset, typer.Option(help="Random ids, or requests of --file.")] = (
        Dataset.RANDOM
    ),
    file: Annotated[Path | None, typer.Option(help="JSONL: messages or prompt a line.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    input_tokens: Annotated[str, typer.Option(help="Length, or range as 100-1024.")] = "128",
    output_tokens: Annotated[str, typer.Option(help="Length, or range as 100-1024.")] = "64",
    prefix_tokens: Annotated[int, typer.Option(min=0, help="Of each prompt, shared.")] = 0,
    prefixes: Annotated[int, typer.Option(min=1, help="Different shared beginnings.")] = 1,
    ids: Annotated[str, typer.Option(help="Range of random token ids.")] = "256-1000",
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    rate: Annotated[float, typer.Option(help="Requests per second; inf = all at once.")] = math.inf,
    burstiness: Annotated[
        float, typer.Option(help="Gamma shape: 1 = Poisson, < 1 = bursts, inf = constant.")
    ] = 1.0,
    max_concurrency: Annotated[int, typer.Option(min=0, help="In flight; 0 = no limit.")] = 0,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before, not counted.")] = 1,
    goodput: Annotated[
        list[str] | None, typer.Option(help="Objective in ms: ttft:500, tpot:50, e2el:9000.")
    ] = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Load a running server and tell TTFT, ITL, TPOT, E2EL and throughput."""
    arguments = _arguments(locals())
    objectives = _objectives(goodput or [])
    moments = arrivals_s(count=requests, rate=rate, burstiness=burstiness, seed=seed)
    sampling = SamplingParams(temperature=temperature, given=frozenset({"temperature"}))

    def traffic(name: str, count: int, seed: int) -> list[BenchRequest]:
        output = Span.parse(output_tokens, name="output_tokens")
        if dataset is Dataset.JSONL:
            if file is None:
                raise InvalidParameter("`--dataset jsonl` needs `--file`", param="file")
            return jsonl_requests(
                file, model=name, count=count, output_tokens=output.high, sampling=sampling
            )
        return random_requests(
            model=name,
            count=count,
            input_tokens=Span.parse(input_tokens, name="input_tokens"),
            output_tokens=output,
            ids=Span.parse(ids, name="ids", at_least=0),
            sampling=sampling,
            prefix_tokens=prefix_tokens,
            prefixes=prefixes,
            seed=seed,
        )

    async def measure() -> Run:
        provider = OpenAICompatible(url=url, key=key or client_api_key())
        async with provider:
            name = model or await _only_model(provider)
            send = by_type(provider.stream, provider.complete)
            if warmup:
                before = traffic(name, warmup, seed + 1)
                await run(before, send=send, arrivals_s=[0.0] * warmup, max_concurrency=1)
            with progress(f"requests to {url}", total=requests) as step:

                def done(record: RequestRecord) -> None:
                    step.advance()

                return await run(
                    traffic(name, requests, seed),
                    send=send,
                    arrivals_s=moments,
                    max_concurrency=max_concurrency,
                    on_done=done,
                )

    found = asyncio.run(measure())
    summary = summarize(found.records, duration_s=found.duration_s, objectives_ms=objectives)
    _keep(out, "bench serve", arguments, {"summary": summary, "records": found.records})
    if as_json:
        _emit("bench serve", arguments, summary)
    else:
        _show_serving(summary)
    if summary.failed:
        raise typer.Exit(1)


@bench.command()
def latency(
    ctx: typer.Context,
    model: Model = None,
    batch: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 8,
    input_tokens: Annotated[int, typer.Option(min=1)] = 32,
    output_tokens: Annotated[int, typer.Option(min=1)] = 128,
    iterations: Annotated[int, typer.Option(min=1, help="Batches that count.")] = 10,
    warmup: Annotated[int, typer.Option(min=0, help="Batches that do not.")] = 2,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run one batch at a time in this process and tell how long it takes."""
    arguments = _arguments(locals())
    engine = app.offline_engine(settings(ctx, {"model.path": model}))
    with progress("batches", total=iterations + warmup) as step:
        summary = measure_latency(
            engine,
            batch=batch,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            iterations=iterations,
            warmup=warmup,
            seed=seed,
            on_batch=step.advance,
        )
    _keep(out, "bench latency", arguments, summary)
    if as_json:
        _emit("bench latency", arguments, summary)
        return
    title = f"{batch} x ({input_tokens} in, {output_tokens} out), {iterations} batches"
    rows = {"latency of a batch": summary.latency, "TTFT": summary.ttft, "TPOT": summary.tpot}
    console().print(_distributions(title, rows))
    console().print(f"decode throughput {summary.decode_throughput:,.1f} tok/s")


@bench.command()
def throughput(
    ctx: typer.Context,
    model: Model = None,
    sequences: Annotated[int, typer.Option(min=1)] = 256,
    input_tokens: Annotated[str, typer.Option(help="Length, or range.")] = "100-512",
    output_tokens: Annotated[str, typer.Option(help="Length, or range.")] = "100-512",
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Give many sequences to the engine at once, in this process, and tell tokens per second."""
    arguments = _arguments(locals())
    engine = app.offline_engine(settings(ctx, {"model.path": model}))
    with progress("sequences", total=sequences) as step:
        summary = measure_throughput(
            engine,
            sequences=sequences,
            input_tokens=Span.parse(input_tokens, name="input_tokens"),
            output_tokens=Span.parse(output_tokens, name="output_tokens"),
            seed=seed,
            on_finished=step.advance,
        )
    _keep(out, "bench throughput", arguments, summary)
    if as_json:
        _emit("bench throughput", arguments, summary)
        return
    table = Table(
        title=f"{sequences} sequences in {summary.duration_s:.2f} s", title_justify="left"
    )
    for name in ("", "tokens", "per second"):
        table.add_column(name, justify="right" if name else "left")
    total = summary.total_input_tokens + summary.total_output_tokens
    table.add_row("output", f"{summary.total_output_tokens:,}", f"{summary.output_throughput:,.1f}")
    table.add_row("input and output", f"{total:,}", f"{summary.total_token_throughput:,.1f}")
    table.add_row("requests", "", f"{summary.request_throughput:,.2f}")
    console().print(table)


@bench.command()
def startup(
    ctx: typer.Context,
    model: Model = None,
    port: Annotated[int, typer.Option(help="That the servers use, one after the other.")] = 18080,
    iterations: Annotated[int, typer.Option(min=1, help="Of each kind.")] = 3,
    timeout_s: Annotated[float, typer.Option(help="For one to become ready.")] = 300.0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Start `headrace serve` cold and warm; tell seconds to ready and to the first token."""
    arguments = _arguments(locals())
    made = settings(ctx, {"model.path": model})
    runs: list[StartupRun] = []
    with progress("starts", total=2 * iterations) as step:
        for cold in [True, False] * iterations:
            if cold:
                evict([app.model_path(made), Path(__file__).parents[1], _site_packages()])
            runs.append(asyncio.run(_start_once(made, port, cold=cold, timeout_s=timeout_s)))
            step.advance()
    _keep(out, "bench startup", arguments, runs)
    if as_json:
        _emit("bench startup", arguments, runs)
        return
    rows = {
        f"{'cold' if cold else 'warm'}, {what}": Distribution.of(
            [getattr(found, field) for found in runs if found.cold is cold]
        )
        for cold in (True, False)
        for what, field in (("ready", "ready_s"), ("first token", "first_token_s"))
    }
    console().print(_distributions(f"start of headrace serve, {iterations} each", rows))


async def _start_once(made: Settings, port: int, *, cold: bool, timeout_s: float) -> StartupRun:
    command = [sys.executable, "-m", "headrace"]
    for key, origin in made.origins.items():
        section, name = key.split(".")
        if origin in ("--set", "command line"):
            command += ["--set", f"{key}={getattr(getattr(made, section), name)}"]
    command += ["serve", "--no-auth", "--port", str(port)]
    async with OpenAICompatible(url=f"http://127.0.0.1:{port}") as client:
        return await measure_startup(
            command,
            client=client,
            model=app.model_name(made),
            environment=process_environment(),
            cold=cold,
            timeout_s=timeout_s,
        )


def _site_packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


async def _only_model(provider: OpenAICompatible) -> str:
    names = [card.name for card in await provider.models()]
    if len(names) != 1:
        raise NotFound(f"the server has {', '.join(names) or 'no models'}; choose with --model")
    return names[0]


def _objectives(texts: Sequence[str]) -> dict[Measure, float]:
    found: dict[Measure, float] = {}
    for text in texts:
        name, _, limit = text.partition(":")
        try:
            if name not in ("ttft", "tpot", "e2el"):
                raise ValueError
            found[name] = float(limit)
        except ValueError:
            raise InvalidParameter(
                f"`--goodput` {text!r} is not ttft:MS, tpot:MS or e2el:MS", param="goodput"
            ) from None
    return found


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """A verb's options as its result file names them; never its key."""
    return {
        "command": shlex.join(["headrace", *_without_key(sys.argv[1:])]),
        **{name: value for name, value in values.items() if name not in _NOT_ARGUMENTS},
    }


_NOT_ARGUMENTS = ("ctx", "key", "out", "as_json")


def _without_key(words: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for at, word in enumerate(words):
        if at and words[at - 1] == "--key":
            kept.append("***")
        else:
            kept.append("--key=***" if word.startswith("--key=") else word)
    return kept


def _keep(out: Path | None, what: str, arguments: Mapping[str, Any], result: object) -> None:
    if out is not None:
        write_result(out, what=what, arguments=arguments, result=result)


def _emit(what: str, arguments: Mapping[str, Any], result: object) -> None:
    emit_json(
        {
            "what": what,
            "arguments": arguments,
            "circumstances": circumstances(),
            "result": result,
        }
    )


def _show_serving(summary: ServingSummary) -> None:
    out = console()
    out.print(
        f"{summary.completed} completed, {summary.failed} failed in {summary.duration_s:.2f} s; "
        f"at most {summary.peak_concurrent_requests} at once"
    )
    for error, count in summary.errors.items():
        out.print(f"  {count} x {error}", markup=False, style="red")
    table = Table("", title="throughput", title_justify="left")
    for name in ("total", "per second"):
        table.add_column(name, justify="right")
    table.add_row("requests", f"{summary.completed:,}", f"{summary.request_throughput:,.2f}")
    if summary.request_goodput is not None:
        good = round(summary.request_goodput * summary.duration_s)
        table.add_row("good requests", f"{good:,}", f"{summary.request_goodput:,.2f}")
    table.add_row(
        "output tokens", f"{summary.total_output_tokens:,}", f"{summary.output_throughput:,.1f}"
    )
    total = summary.total_input_tokens + summary.total_output_tokens
    table.add_row("all tokens", f"{total:,}", f"{summary.total_token_throughput:,.1f}")
    table.add_row("of them cached", f"{summary.total_cached_tokens:,}", "")
    out.print(table)
    rows = {
        "TTFT": summary.ttft,
        "TPOT": summary.tpot,
        "ITL": summary.itl,
        "E2EL": summary.e2el,
    }
    out.print(_distributions("latency", rows))


def _distributions(title: str, rows: Mapping[str, Distribution | None]) -> Table:
    table = Table("ms", title=title, title_justify="left")
    for name in ("mean", "median", "std", "p90", "p95", "p99"):
        table.add_column(name, justify="right")
    for name, found in rows.items():
        if found is None:
            table.add_row(name, *["-"] * 6)
            continue
        values = [found.mean_ms, found.median_ms, found.std_ms]
        values += [found.percentiles_ms[p] for p in ("p90", "p95", "p99")]
        table.add_row(name, *(f"{value:,.2f}" for value in values))
    return table
