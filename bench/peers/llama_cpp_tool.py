"""The peer: llama.cpp's own `llama-batched-bench`, as a contestant (see jobs.py).

python llama_cpp_tool.py --binary PATH --model FILE.gguf --threads N

Each job is one run of the tool on random ids; its own clocks count, not its start and load. It
neither samples nor tells when each token came.
"""

import argparse
import json
import platform
import subprocess

from jobs import Answer, Job, equal_lengths, serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    def run(job: Job) -> Answer:
        prompt, output = equal_lengths(job)
        sequences = len(job["prompts"])
        # Its steps begin after the prefill's own token.
        steps = max(1, output - 1)
        each = -(-(prompt + steps) // 256) * 256
        command = [options.binary, "-m", options.model, "-c", str(sequences * each)]
        # The second run only gives the tool time to print: it can exit before its log is written.
        command += ["-npp", str(prompt), "-ntg", f"{steps},1", "-npl", str(sequences)]
        command += ["-t", str(options.threads), "-tb", str(options.threads)]
        command += ["--output-format", "jsonl"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        times = json.loads(lines[0])
        later = times["t_tg"] if output > 1 else 0.0
        return {
            "first_s": times["t_pp"],
            "total_s": times["t_pp"] + later,
            "tokens": [],
            "times_s": [],
        }

    told = subprocess.run([options.binary, "--version"], capture_output=True, text=True)
    lines = (told.stdout + told.stderr).strip().splitlines()
    version = next((line for line in lines if line.startswith("version")), "unknown")
    serve({"llama.cpp": version, "python": platform.python_version()}, run)


if __name__ == "__main__":
    main()
