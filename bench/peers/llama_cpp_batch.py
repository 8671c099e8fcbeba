"""The peer: llama.cpp through its C API, greedy, as a contestant (see jobs.py).

python llama_cpp_batch.py --model FILE.gguf --threads N

The loop is that of llama.cpp's own batched-bench: all prompts through `llama_decode` in batches of
2048 (and 512 inside), then one batch of all sequences a step; the argmax is numpy's. Needs
`llama_cpp` importable and LLAMA_CPP_LIB_PATH set to a built library.
"""

import argparse
import ctypes
import platform
import time

import llama_cpp
import numpy as np
from jobs import Answer, Book, Job, serve

BATCH = 2048


class Llama:
    """One model, and a context that fits the job."""

    def __init__(self, path: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self._threads = threads
        self._model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._words = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._context = None
        self._fits = (0, 0)

    def make_room(self, sequences: int, tokens: int) -> None:
        """An empty cache for sequences of at most `tokens`."""
        tokens = -(-tokens // 256) * 256
        if self._fits != (sequences, tokens):
            if self._context:
                llama_cpp.llama_free(self._context)
            params = llama_cpp.llama_context_default_params()
            params.n_seq_max, params.n_ctx = sequences, sequences * tokens
            params.n_batch = BATCH
            params.n_threads = params.n_threads_batch = self._threads
            self._context = llama_cpp.llama_init_from_model(self._model, params)
            if not self._context:
                raise SystemExit(f"llama.cpp has no room for {sequences} x {tokens} tokens")
            self._fits = (sequences, tokens)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def decode(self, entries: list[tuple[int, int, int, bool]]) -> dict[int, int]:
        """(token, position, sequence, wanted) each; sequence -> next token, where wanted."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for at, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = sequence
        if code := llama_cpp.llama_decode(self._context, batch):
            raise SystemExit(f"llama_decode failed with {code}")
        return {
            sequence: self._argmax(at)
            for at, (_, _, sequence, wanted) in enumerate(entries)
            if wanted
        }

    def _argmax(self, at: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, at)
        address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return int(np.ctypeslib.as_array(address, (self._words,)).argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    began = time.perf_counter()
    llama = Llama(options.model, options.threads)
    load_s = time.perf_counter() - began

    def run(job: Job) -> Answer:
        prompts, wanted = job["prompts"], job["output_tokens"]
        longest = max(len(p) + n for p, n in zip(prompts, wanted, strict=True))
        llama.make_room(len(prompts), longest)
        waiting = [
            (token, position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        lengths = [len(prompt) for prompt in prompts]
        made = [0] * len(prompts)
        last: dict[int, int] = {}
        book = Book(len(prompts))

        def note(tokens: dict[int, int]) -> None:
            for sequence, token in tokens.items():
                book.note(sequence, [token])
                made[sequence] += 1
                last[sequence] = token

        for begin in range(0, len(waiting), BATCH):
            note(llama.decode(waiting[begin : begin + BATCH]))
        while running := [at for at in last if made[at] < wanted[at]]:
            note(llama.decode([(last[at], lengths[at] + made[at] - 1, at, True) for at in running]))
        return book.answer()

    ready = {
        "llama-cpp-python": llama_cpp.__version__,
        "system": llama_cpp.llama_print_system_info().decode().strip(),
        "python": platform.python_version(),
        "load_s": load_s,
    }
    serve(ready, run)


if __name__ == "__main__":
    main()
