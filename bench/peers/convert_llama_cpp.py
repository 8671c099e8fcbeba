"""A checkpoint of make_checkpoint.py becomes llama.cpp's files: bf16, Q8_0 and Q4_0.

python convert_llama_cpp.py --tree DIR --binaries DIR MODEL OUT    (in transformers' environment)

llama.cpp's own converter and `llama-quantize` do the work. The one thing changed is the converter's
guess of how a tokenizer cuts text: it knows published tokenizers by a hash, and ours, which cuts
the same way, is not among them.
"""

import argparse
import json
import runpy
import subprocess
import sys
from pathlib import Path

CUTS = {"llama": "llama-bpe", "qwen3": "qwen2"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, required=True, help="of llama.cpp")
    parser.add_argument("--binaries", type=Path, required=True, help="folder of llama-quantize")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, help="folder; gets bf16.gguf, q8_0.gguf, q4_0.gguf")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cut = CUTS[json.loads((options.model / "config.json").read_text())["model_type"]]
    full = options.out / "bf16.gguf"
    if not full.exists():
        sys.path[:0] = [str(options.tree), str(options.tree / "gguf-py")]
        import conversion.base

        conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: cut
        sys.argv = ["convert", str(options.model), "--outtype", "bf16", "--outfile", str(full)]
        runpy.run_path(str(options.tree / "convert_hf_to_gguf.py"), run_name="__main__")
    quantize = str(options.binaries / "llama-quantize")
    for name in ("q8_0", "q4_0"):
        out = options.out / f"{name}.gguf"
        if not out.exists():
            subprocess.run([quantize, str(full), str(out), name.upper()], check=True)


if __name__ == "__main__":
    main()
