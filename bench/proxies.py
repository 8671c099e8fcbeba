"""headrace beside LiteLLM's proxy and Portkey's gateway, before a provider that costs nothing.

    python bench/proxies.py compare --peers DIR --concurrency 32 --out FILE
    python bench/proxies.py memory [--requests 200000] --out FILE
    python bench/proxies.py disconnects --out FILE

`compare`: all are started, then take turns, A B C A B C ..., with plain calls and with streams of
chunks 10 ms apart; a figure is a ratio of what arrived to the processor time of the gateway's own
processes. `memory`: resident memory of a headrace worker over many requests. `disconnects`: clients
leave in the middle of streams and of plain calls, and the provider sees its connection close.

DIR holds `litellm`, a virtual environment with litellm[proxy], the opentelemetry packages (without
them it fails to import them on each request) and httptools, its bytecode compiled; and `portkey`, a
folder with the npm package @portkey-ai/gateway in which `updateHeaders` copies the response it was
given (`e=new Response(e.body,e)`; unpatched, each stream of its 1.15.2 is an error 500 on Node 20).
"""

import argparse
import asyncio
import collections
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from headrace.bench.results import write_result
from proxy_load import Load, Window
from proxy_peers import Gateway, start_headrace, start_litellm, start_portkey

HERE = Path(__file__).resolve().parent
CHUNKS = 50
PACE_US = 10_000
STREAM_S = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("compare", "memory", "disconnects"))
    parser.add_argument("--peers", type=Path, help="without it headrace is alone")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plain-s", type=float, default=2.0, help="long enough for the slowest")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--stream-always", action="store_true", help="headrace's default")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    modes = {"compare": compare, "memory": memory, "disconnects": disconnects}
    result = modes[options.mode](options)
    if options.out is not None:
        arguments = {
            "mode": options.mode,
            "concurrency": options.concurrency,
            "rounds": options.rounds,
            "plain_s": options.plain_s,
            "stream_s": STREAM_S,
            "chunks": CHUNKS,
            "pace_us": PACE_US,
            "stream_always": options.stream_always,
        }
        write_result(options.out, what="proxies", arguments=arguments, result=result)


# --- compare ---------------------------------------------------------------------------------


def compare(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, provider(Path(name)) as upstream:
        gateways = [Gateway(name="direct", port=upstream, headers={})]
        try:
            start_all(gateways, options, upstream, Path(name))
            turns: list[dict[str, Any]] = []
            for kind in ("plain", "streamed"):
                for number in range(options.rounds):
                    for gateway in gateways:
                        turns.append(turn(gateway, kind, number, options))
            rss = {each.name: round(each.rss_mb(), 1) for each in gateways[1:]}
        finally:
            for each in gateways:
                each.stop()
    figures = summary(turns, rss)
    show(figures)
    versions = {n: v for each in gateways for n, v in each.versions.items()}
    return {"figures": figures, "versions": versions, "turns": turns}


def start_all(
    gateways: list[Gateway], options: argparse.Namespace, upstream: int, directory: Path
) -> None:
    for name in ("headrace", "litellm", "portkey"):
        folder = directory / name
        folder.mkdir()
        port = free_port()
        if name == "headrace":
            always = options.stream_always
            made = start_headrace(sys.executable, port, upstream, folder, stream_always=always)
        elif options.peers is None:
            continue
        else:
            start = {"litellm": start_litellm, "portkey": start_portkey}[name]
            made = start((options.peers / name).resolve(), port, upstream, folder)
        gateways.append(made)


def turn(gateway: Gateway, kind: str, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """One gateway's turn: what arrived, and what it cost."""
    stream = kind == "streamed"
    load = Load(gateway.port, gateway.request(stream=stream, tokens=CHUNKS), options.concurrency)
    load.run(warm_s=0, seconds=0.3 if number else 1.0)
    cpu, began = gateway.cpu_s(), time.perf_counter()
    window = load.run(warm_s=0, seconds=STREAM_S if stream else options.plain_s)
    spent, took = gateway.cpu_s() - cpu, time.perf_counter() - began
    return {
        "gateway": gateway.name,
        "kind": kind,
        "round": number,
        "cpu_s": round(spent, 4),
        "seconds": round(took, 3),
        **counted(window, stream=stream),
    }


def counted(window: Window, *, stream: bool) -> dict[str, Any]:
    latencies = sorted(window.latencies_s)
    found: dict[str, Any] = {"answers": window.answers, "events": window.events}
    if latencies and not stream:
        found["p50_ms"] = round(statistics.median(latencies) * 1e3, 4)
        found["p99_ms"] = round(latencies[int(len(latencies) * 0.99)] * 1e3, 4)
    return found


def summary(turns: list[dict[str, Any]], rss: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Medians over the rounds, by gateway."""
    figures: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(each["gateway"] for each in turns):
        plain = [t for t in turns if t["gateway"] == name and t["kind"] == "plain"]
        streamed = [t for t in turns if t["gateway"] == name and t["kind"] == "streamed"]
        made: dict[str, Any] = {
            "requests_s": median(t["answers"] / t["seconds"] for t in plain),
            "p50_ms": median(t["p50_ms"] for t in plain if "p50_ms" in t),
            "chunks_s": median(t["events"] / t["seconds"] for t in streamed),
        }
        if name != "direct":
            made |= {
                "requests_per_cpu_s": median(t["answers"] / t["cpu_s"] for t in plain),
                "chunks_per_cpu_s": median(t["events"] / t["cpu_s"] for t in streamed),
                "added_p50_ms": round(made["p50_ms"] - figures["direct"]["p50_ms"], 3),
                "rss_mb": rss[name],
            }
        figures[name] = made
    for name, made in figures.items():
        if name not in ("direct", "headrace"):
            ours = figures["headrace"]
            made["ratio_requests"] = round(
                ours["requests_per_cpu_s"] / made["requests_per_cpu_s"], 2
            )
            made["ratio_chunks"] = round(ours["chunks_per_cpu_s"] / made["chunks_per_cpu_s"], 2)
    return figures


def median(values: Any) -> float:
    found = sorted(values)
    return round(statistics.median(found), 3) if found else 0.0


def show(figures: dict[str, dict[str, Any]]) -> None:
    for name, made in figures.items():
        print(f"{name:>9}  " + "  ".join(f"{key} {value:g}" for key, value in made.items()))


# --- memory ----------------------------------------------------------------------------------


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Plain calls and streams in turns; the resident memory after every twentieth of them."""
    with tempfile.TemporaryDirectory() as name, provider(Path(name), pace_us=0) as upstream:
        folder = Path(name) / "headrace"
        folder.mkdir()
        gateway = start_headrace(sys.executable, free_port(), upstream, folder)
        try:
            samples = [{"requests": 0, "rss_mb": gateway.rss_mb()}]
            done = 0
            while done < options.requests:
                until = done + options.requests // 20
                while done < until:
                    for stream, seconds in ((False, 2.0), (True, 0.5)):
                        request = gateway.request(stream=stream, tokens=CHUNKS)
                        load = Load(gateway.port, request, options.concurrency)
                        done += load.run(warm_s=0, seconds=seconds).answers
                samples.append({"requests": done, "rss_mb": gateway.rss_mb()})
                print(samples[-1], flush=True)
        finally:
            gateway.stop()
    later = [each["rss_mb"] for each in samples[len(samples) // 10 :] if each["requests"]]
    drift = (max(later) - min(later)) / min(later) * 100
    print(f"after the first tenth memory moved by {drift:.2f} %")
    return {"samples": samples, "drift_percent": round(drift, 2), "requests": done}


# --- disconnects -----------------------------------------------------------------------------


def disconnects(options: argparse.Namespace) -> dict[str, Any]:
    return asyncio.run(_disconnects(options.clients))


async def _disconnects(clients: int) -> dict[str, Any]:
    closed: dict[str, float] = {}
    arrived: dict[str, asyncio.Event] = collections.defaultdict(asyncio.Event)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        except asyncio.IncompleteReadError:  # a connection that was opened and not used
            writer.close()
            return
        size = int(head.partition("content-length:")[2].split("\r\n")[0])
        body = json.loads(await reader.readexactly(size))
        who = body["messages"][-1]["content"]
        arrived[who].set()
        delta = {"choices": [{"index": 0, "delta": {"content": "word"}}], "id": "c", "model": "m"}
        event = b"data: " + json.dumps({**delta, "created": 1}).encode() + b"\n\n"
        gone = asyncio.ensure_future(reader.read())  # ends when the gateway closes
        if body.get("stream"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
            writer.write(b"transfer-encoding: chunked\r\n\r\n")
        try:
            while not gone.done():
                if body.get("stream"):
                    writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await asyncio.wait({gone}, timeout=0.02)
        except ConnectionError:
            pass
        closed[who] = time.perf_counter()
        writer.close()

    async def leave(port: int, key: str, who: str, *, stream: bool) -> float:
        message = [{"role": "user", "content": who}]
        body = json.dumps({"model": "fake", "messages": message, "stream": stream}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n"
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        if stream:
            seen = b""
            while seen.count(b"data: ") < 5:
                seen += await reader.read(4096)
        else:
            await asyncio.wait_for(arrived[who].wait(), 30)
        writer.close()
        return time.perf_counter()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        gateway = await asyncio.to_thread(
            start_headrace, sys.executable, free_port(), upstream, Path(name)
        )
        try:
            result: dict[str, Any] = {}
            for kind in ("streamed", "plain"):
                left = await asyncio.gather(
                    *(
                        leave(
                            gateway.port,
                            gateway.headers["Authorization"],
                            f"{kind}-{at}",
                            stream=kind == "streamed",
                        )
                        for at in range(clients)
                    )
                )
                await asyncio.sleep(1.0)
                waits = sorted(
                    (closed[f"{kind}-{at}"] - when) * 1e3
                    for at, when in enumerate(left)
                    if f"{kind}-{at}" in closed
                )
                result[kind] = {
                    "clients": clients,
                    "cancelled": len(waits),
                    "within_100_ms": sum(wait < 100 for wait in waits),
                    "median_ms": round(statistics.median(waits), 2),
                    "longest_ms": round(waits[-1], 2),
                }
                print(kind, result[kind], flush=True)
        finally:
            gateway.stop()
            server.close()
    return result


# --- what all need ---------------------------------------------------------------------------


@contextlib.contextmanager
def provider(directory: Path, *, pace_us: int = PACE_US) -> Generator[int]:
    """The fake provider, compiled here; its port."""
    binary = directory / "upstream"
    subprocess.run(["cc", "-O2", str(HERE / "peers" / "upstream.c"), "-o", str(binary)], check=True)
    port = free_port()
    process = subprocess.Popen([str(binary), str(port), str(CHUNKS), str(pace_us)])
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
