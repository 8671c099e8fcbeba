"""The peer: OpenVINO GenAI's continuous batching, greedy, as a contestant (see jobs.py).

python openvino_batching.py --model DIR --threads N [--kv-gib N] [--no-prefix-cache]
"""

import argparse
import itertools
import platform
import time

import numpy as np
import openvino
import openvino_genai
from jobs import Answer, Book, Job, serve, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kv-gib", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--no-prefix-cache", action="store_true")
    options = parser.parse_args()
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = options.kv_gib
    scheduler.max_num_seqs = 256
    scheduler.max_num_batched_tokens = options.batch_tokens
    scheduler.enable_prefix_caching = not options.no_prefix_cache
    began = time.perf_counter()
    pipe = openvino_genai.ContinuousBatchingPipeline(
        options.model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": options.threads}
    )
    load_s = time.perf_counter() - began
    numbers = itertools.count()

    def run(job: Job) -> Answer:
        handles = []
        book = Book(len(job["prompts"]))
        for prompt, length in zip(job["prompts"], job["output_tokens"], strict=True):
            config = openvino_genai.GenerationConfig()
            config.do_sample = False
            config.max_new_tokens = config.min_new_tokens = length
            config.ignore_eos = True
            ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
            handles.append(pipe.add_request(next(numbers), ids, config))
        while pipe.has_non_finished_requests():
            pipe.step()
            for sequence, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        book.note(sequence, output.generated_ids)
        return book.answer()

    ready = {
        **versions(["openvino-genai", "openvino"]),
        "python": platform.python_version(),
        "batch_tokens": options.batch_tokens,
        "load_s": load_s,
    }
    serve(ready, run)


if __name__ == "__main__":
    main()
