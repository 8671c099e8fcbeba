"""Kept results of bench/proxies.py and bench/ledger.py become docs/speed-gateway.md.

python bench/report_proxies.py [--check]

Invariant: a number in the page is one of a result file, or a ratio of two from the same one.
--check writes nothing and fails where the page is not what it would be.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "speed-gateway.md"
HEAD = """# Speed of the gateway

<!-- Written by bench/report_proxies.py from bench/results/; do not edit. -->

headrace, LiteLLM's proxy and Portkey's gateway stand side by side, one worker each, before the same
provider that costs nothing (`bench/peers/upstream.c`), and take turns in one run with nothing else
running (`bench/proxies.py`). headrace checks keys, holds and settles under five limits, books every
request and keeps its trace, in SQLite inside the process; LiteLLM checks its master key, Portkey
nothing. What counts is what arrived by processor time of the gateway's own processes; figures are
medians of the rounds, ratios headrace's figure over the peer's. headrace asks the provider as the
client asked (`stream_always = false`). Streams are of 50 chunks, 10 ms apart; at so few chunks a
second most of the work is waking up for each, which costs all gateways the same. LiteLLM cannot
keep up with 128 streams at once: its figure there is of a server that falls behind, and so is the
ratio.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = page()
    if options.check:
        stale = not PAGE.is_file() or PAGE.read_text("utf-8") != text
        sys.exit("run bench/report_proxies.py" if stale else 0)
    PAGE.write_text(text, "utf-8")
    print(PAGE.relative_to(HERE.parent))


def page() -> str:
    found = {path.name: json.loads(path.read_text("utf-8")) for path in RESULTS.glob("*.json")}
    proxies = {n: r for n, r in found.items() if r.get("what") == "proxies"}
    compared = {n: r for n, r in proxies.items() if is_mode(r, "compare")}
    parts = [HEAD]
    if compared:
        latest = max(compared.values(), key=lambda result: result["circumstances"]["date"])
        parts.append(machine(latest))
        for concurrency in sorted({r["arguments"]["concurrency"] for r in compared.values()}):
            parts.append(table(newest(compared, concurrency)))
    parts.append(memory({n: r for n, r in proxies.items() if is_mode(r, "memory")}))
    parts.append(leaving({n: r for n, r in proxies.items() if is_mode(r, "disconnects")}))
    ledger = {n: r for n, r in found.items() if r.get("what") == "ledger"}
    parts.append(books(ledger))
    return "\n".join(part for part in parts if part)


def is_mode(result: dict[str, Any], mode: str) -> bool:
    return result["arguments"]["mode"] == mode


def newest(results: dict[str, Any], concurrency: int) -> tuple[str, dict[str, Any]]:
    same = [(n, r) for n, r in results.items() if r["arguments"]["concurrency"] == concurrency]
    return max(same, key=lambda item: item[1]["circumstances"]["date"])


def machine(result: dict[str, Any]) -> str:
    about = result["circumstances"]
    versions = ", ".join(f"{n} {v}" for n, v in result["result"]["versions"].items())
    return (
        f"Machine: {about['cpu']}, {about['cores']} cores, CPython {about['python']}. {versions}. "
        f"headrace at {(about['commit'] or '')[:12]}.\n"
    )


def table(item: tuple[str, dict[str, Any]]) -> str:
    name, result = item
    figures = result["result"]["figures"]
    lines = [
        f"## {result['arguments']['concurrency']} at once ([raw](../bench/results/{name}))\n",
        "| | requests a CPU-second | ratio | chunks a CPU-second | ratio | added median | RSS |",
        "|---|---|---|---|---|---|---|",
    ]
    for who, made in figures.items():
        if who == "direct":
            continue
        ratios = [
            f"{made[key]:g}" if key in made else "" for key in ("ratio_requests", "ratio_chunks")
        ]
        lines.append(
            f"| {who} | {made['requests_per_cpu_s']:.0f} | {ratios[0]} | "
            f"{made['chunks_per_cpu_s']:.0f} | {ratios[1]} | {made['added_p50_ms']:.2f} ms | "
            f"{made['rss_mb']:.0f} MB |"
        )
    return "\n".join(lines) + "\n"


def memory(results: dict[str, Any]) -> str:
    if not results:
        return ""
    name, result = max(results.items(), key=lambda item: item[1]["circumstances"]["date"])
    made = result["result"]
    lines = [
        f"## Memory over requests ([raw](../bench/results/{name}))\n",
        f"{made['requests']} requests to one headrace worker, plain calls and streams in",
        f"turns; after the first tenth its memory moved by {made['drift_percent']:g} %.\n",
        "| requests | RSS |",
        "|---|---|",
    ]
    samples = made["samples"]
    for sample in samples[:: max(1, len(samples) // 10)]:
        lines.append(f"| {sample['requests']} | {sample['rss_mb']:.0f} MB |")
    return "\n".join(lines) + "\n"


def leaving(results: dict[str, Any]) -> str:
    if not results:
        return ""
    name, result = max(results.items(), key=lambda item: item[1]["circumstances"]["date"])
    lines = [
        f"## Clients that leave ([raw](../bench/results/{name}))\n",
        "| | clients | calls cancelled upstream | within 100 ms | median | longest |",
        "|---|---|---|---|---|---|",
    ]
    for kind, made in result["result"].items():
        lines.append(
            f"| {kind} | {made['clients']} | {made['cancelled']} | {made['within_100_ms']} | "
            f"{made['median_ms']:g} ms | {made['longest_ms']:g} ms |"
        )
    return "\n".join(lines) + "\n"


def books(results: dict[str, Any]) -> str:
    lines = [
        "## The ledger\n",
        "`bench/ledger.py`: reservations race for budgets that end before they do, from several",
        "processes that are killed in the middle of their work; and the rate of booking, one",
        "process that holds, settles and flushes, PostgreSQL on the same machine.\n",
        "| | attempts | killed | over | lost | postings a second | raw |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in sorted(results.items()):
        made, asked = result["result"], result["arguments"]
        cells = [
            f"{asked['mode']}, {asked['database']}",
            made.get("attempts", made.get("requests")),
            *(made.get(key, "") for key in ("killed", "over", "lost", "postings_a_second")),
            f"[raw](../bench/results/{name})",
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
