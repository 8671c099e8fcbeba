"""transformers' continuous batching over gpu_models' 256 sequences; a process of its own.

    PYTHONPATH=src python bench/gpu_peer.py --out FILE

Random weights of the 1B shape, bfloat16, its own choice of attention and graphs.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from gpu_models import SMALL, workload


def model() -> Any:
    config = LlamaConfig(
        vocab_size=SMALL.vocab_size,
        hidden_size=SMALL.hidden_size,
        intermediate_size=SMALL.intermediate_size,
        num_hidden_layers=SMALL.num_hidden_layers,
        num_attention_heads=SMALL.num_attention_heads,
        num_key_value_heads=SMALL.num_key_value_heads,
        head_dim=SMALL.head_dim,
        max_position_embeddings=SMALL.max_position_embeddings,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.device("cuda"):
        made = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    return made.eval()


def answer(manager: Any, jobs: list[tuple[list[int], int]]) -> int:
    """Tokens made."""
    for n, (prompt, count) in enumerate(jobs):
        manager.add_request(prompt, request_id=f"{len(prompt)}-{count}-{n}", max_new_tokens=count)
    made = done = 0
    while done < len(jobs):
        result = manager.get_result(timeout=60)
        if result is None:
            raise RuntimeError(f"no answer for a minute; {done} of {len(jobs)} done")
        if result.is_finished():
            done += 1
            made += len(result.generated_tokens)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    settings = GenerationConfig(
        max_new_tokens=1024, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    manager = model().init_continuous_batching(generation_config=settings)
    manager.start()
    jobs = workload()
    answer(manager, [(prompt, 16) for prompt, _ in jobs[:64]])  # sets itself up
    begun = time.perf_counter()
    made = answer(manager, jobs)
    spent = time.perf_counter() - begun
    manager.stop(block=True, timeout=10)
    found = {"peer": f"transformers {transformers.__version__} continuous batching"}
    found |= {"model": "1b", "seconds": spent, "tokens": made, "tok_s": made / spent}
    out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
