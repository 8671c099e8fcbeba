"""The peer: transformers' `generate`, greedy, static batch, as a contestant (see jobs.py).

python transformers_generate.py --model DIR --threads N

Runs in the peer's own environment: it needs torch and transformers, not headrace. Equal prompt
lengths, so the batch has no padding: the peer at its best.
"""

import argparse
import platform
import time

import torch
from jobs import Answer, Book, Job, equal_lengths, serve, versions
from transformers import AutoModelForCausalLM, StoppingCriteria


class Notes(StoppingCriteria):
    """Stops nothing; notes when each token was there."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def __call__(self, input_ids, scores, **kwargs):  # transformers' own signature
        for sequence, token in enumerate(input_ids[:, -1].tolist()):
            self._book.note(sequence, [token])
        return torch.zeros(len(input_ids), dtype=torch.bool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).eval()
    load_s = time.perf_counter() - began

    def run(job: Job) -> Answer:
        _, length = equal_lengths(job)
        ids = torch.tensor(job["prompts"])
        book = Book(len(ids))
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            min_new_tokens=length,
            pad_token_id=0,
            stopping_criteria=[Notes(book)],
        )
        return book.answer()

    ready = {
        **versions(["torch", "transformers"]),
        "python": platform.python_version(),
        "attention": model.config._attn_implementation,
        "load_s": load_s,
    }
    serve(ready, run)


if __name__ == "__main__":
    main()
