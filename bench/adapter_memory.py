"""Peak memory of a full fine-tuning step beside LoRA and QLoRA, measured and as estimated.

    python bench/adapter_memory.py --out bench/results/adapter_memory.json

Writes a random checkpoint in bfloat16, then, each in a process of its own, loads it as training
does, takes `--steps` steps and reads the kernel's high-water mark of the process (VmHWM), the
interpreter and its libraries included. The estimate is made in that process before the model is
loaded.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from headrace.bench.results import write_result
from headrace.data.pack import PackedBatch
from headrace.model import adapters, checkpoint
from headrace.model.adapters import Adapter
from headrace.model.config import ModelConfig
from headrace.model.decoder import Decoder
from headrace.model.files import peek
from headrace.model.nf4_load import load_nf4
from headrace.training import memory, step
from headrace.training.optim import optimizers
from headrace.training.recipe import Updates
from headrace.training.task import NextToken

METHODS = ("none", "lora", "qlora")
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=16_384)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.model, tokens=args.tokens, steps=args.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        parameters = write_model(model, args.layers, args.width, args.vocab)
        rows = {method: in_a_process(method, model, args) for method in args.methods}
    result = {"parameters": parameters, "methods": rows, "factors": factors(rows)}
    print(json.dumps(result, indent=1))
    if args.out:
        arguments = {n: v for n, v in vars(args).items() if n not in ("one", "model", "out")}
        write_result(args.out, what="adapter memory", arguments=arguments, result=result)


def write_model(path: Path, layers: int, width: int, vocab: int) -> int:
    config = ModelConfig(
        family="qwen3",
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 128),
        head_dim=64,
        max_position_embeddings=4096,
        qk_norm=True,
        tie_word_embeddings=True,
    )
    decoder = Decoder(config)
    decoder.init_weights(0)
    checkpoint.save(decoder, config, path, dtype="bfloat16")
    return sum(parameter.numel() for parameter in decoder.parameters())


def in_a_process(method: str, model: Path, args: argparse.Namespace) -> dict[str, object]:
    command = [sys.executable, __file__, "--one", method, "--model", str(model)]
    command += ["--tokens", str(args.tokens), "--steps", str(args.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def one(method: str, model: Path, *, tokens: int, steps: int) -> dict[str, object]:
    adapter = Adapter(method=method)  # pyright: ignore[reportArgumentType]
    found = memory.estimate(
        memory.Workload(config=peek(model).config, adapter=adapter, batch_tokens=tokens)
    )
    if method == "qlora":
        memory.tighten()
        decoder = load_nf4(model, dtype="float32").decoder
    else:
        decoder = checkpoint.load(model, dtype="float32").decoder
    if method == "none":
        decoder.requires_grad_(requires_grad=True)
    else:
        adapters.attach(decoder, adapters.plan(decoder.config, adapter))
    loaded = high_water()
    decoder.train()
    named = [(name, p) for name, p in decoder.named_parameters() if p.requires_grad]
    optims = optimizers(named, Updates(steps=steps, lr=1e-4))
    ids = np.arange(tokens, dtype=np.int64) % decoder.config.vocab_size
    batch = PackedBatch(
        ids_T=ids,
        targets_T=ids,
        pos_T=np.arange(tokens, dtype=np.int64) % 512,
        doc_T=np.arange(tokens, dtype=np.int64) // 512,
        weight_T=np.ones(tokens, np.float32),
    )
    began = time.monotonic()
    for _ in range(steps):
        step.accumulate(decoder, NextToken(), [batch])
        step.clip([parameter for _, parameter in named], 1.0)
        for optim in optims:
            optim.step()
            optim.zero_grad(set_to_none=True)
    return {
        "measured_mib": high_water() / MIB,
        "loaded_mib": loaded / MIB,
        "estimated_mib": found.peak_bytes / MIB,
        "phase": found.phase,
        "parts_mib": {name: round(size / MIB, 1) for name, size in found.parts.items()},
        "step_s": (time.monotonic() - began) / steps,
        "threads": torch.get_num_threads(),
    }


def high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def factors(rows: dict[str, dict[str, object]]) -> dict[str, object]:
    """By how much less each method needs than full fine-tuning, measured and estimated."""
    if "none" not in rows:
        return {}
    made: dict[str, object] = {}
    for method, row in rows.items():
        measured, estimated = (
            float(str(rows["none"][key])) / float(str(row[key]))
            for key in ("measured_mib", "estimated_mib")
        )
        made[method] = {
            "measured": measured,
            "estimated": estimated,
            "estimate_is_off_by": estimated / measured - 1,
        }
    return made


if __name__ == "__main__":
    main()
