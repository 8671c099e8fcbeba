"""The peer: CTranslate2's Generator, greedy, static batch, as a contestant (see jobs.py).

python ctranslate2_generator.py --model DIR --threads N [--compute int8]
"""

import argparse
import json
import platform
import time
from pathlib import Path

import ctranslate2
from jobs import Answer, Book, Job, equal_lengths, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compute", default="int8")
    options = parser.parse_args()
    began = time.perf_counter()
    generator = ctranslate2.Generator(
        options.model,
        device="cpu",
        compute_type=options.compute,
        inter_threads=1,
        intra_threads=options.threads,
    )
    load_s = time.perf_counter() - began
    words = json.loads((Path(options.model) / "vocabulary.json").read_text("utf-8"))

    def run(job: Job) -> Answer:
        _, length = equal_lengths(job)
        prompts = [[words[token] for token in prompt] for prompt in job["prompts"]]
        book = Book(len(prompts))

        def step(result: ctranslate2.GenerationStepResult) -> bool:
            book.note(result.batch_id, [result.token_id])
            return False

        generator.generate_batch(
            prompts,
            beam_size=1,
            max_length=length,
            min_length=length,
            include_prompt_in_result=False,
            callback=step,
        )
        return book.answer()

    ready = {
        "ctranslate2": ctranslate2.__version__,
        "python": platform.python_version(),
        "compute": generator.compute_type,
        "load_s": load_s,
    }
    serve(ready, run)


if __name__ == "__main__":
    main()
