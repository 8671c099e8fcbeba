"""The peer: transformers' `generate`, greedy, static batch; and the maker of random checkpoints.

python transformers_generate.py --make DIR [--tiny]     write a random checkpoint
python transformers_generate.py --model DIR --threads N serve jobs (see jobs.py)

Runs in the peer's own environment: it needs torch and transformers, not headrace. Equal prompt
lengths, so the batch has no padding: the peer at its best.
"""

import argparse
import platform
import time
from pathlib import Path

import torch
import transformers
from jobs import Answer, Job, serve
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, StoppingCriteria

# Llama-3.2-1B's config.json, Meta 2024.
LLAMA_3_2_1B = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
TINY = LLAMA_3_2_1B | {
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class Stopwatch(StoppingCriteria):
    """Stops nothing; notes when the first new token was there."""

    def __init__(self) -> None:
        self.first: float | None = None

    def __call__(self, input_ids, scores, **kwargs):  # transformers' own signature
        self.first = self.first or time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def make(directory: Path, *, tiny: bool) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**(TINY if tiny else LLAMA_3_2_1B))
    with torch.device("cpu"):
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(config).save_pretrained(directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--make", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.make:
        make(options.make, tiny=options.tiny)
        return
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()

    def run(job: Job) -> Answer:
        ids = torch.tensor(job["prompts"])
        length = job["output_tokens"]
        watch = Stopwatch()
        began = time.perf_counter()
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            min_new_tokens=length,
            pad_token_id=0,
            stopping_criteria=[watch],
        )
        total = time.perf_counter() - began
        return {
            "first_s": (watch.first or began) - began,
            "total_s": total,
            "tokens": made[:, ids.shape[1] :].tolist(),
        }

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    attention = model.config._attn_implementation
    serve({**versions, "python": platform.python_version(), "attention": attention}, run)


if __name__ == "__main__":
    main()
