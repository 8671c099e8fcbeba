"""Who meets whom, at what, with which settings: the plain data of `side_by_side.py`.

A peer runs in the configuration its own documentation recommends for a CPU; what differs from its
defaults stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace.bench.measures import Measure


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Ranges are lengths drawn uniformly, both ends included."""

    sequences: int
    input_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    prefix_tokens: int = 0
    """Of each prompt, the same in all; new each round."""
    rate: float = float("inf")
    """Requests per second, Poisson; infinite = all at once."""
    objectives_ms: Mapping[Measure, float] | None = None


def _all(length: int) -> tuple[int, int]:
    return (length, length)


WORKLOADS: dict[str, Workload] = {
    "decode": Workload(sequences=1, input_tokens=_all(128), output_tokens=_all(128)),
    "prefill-512": Workload(sequences=1, input_tokens=_all(512), output_tokens=_all(1)),
    "prefill-2048": Workload(sequences=1, input_tokens=_all(2048), output_tokens=_all(1)),
    "prefill-8192": Workload(sequences=1, input_tokens=_all(8192), output_tokens=_all(1)),
    "batch-8": Workload(sequences=8, input_tokens=_all(128), output_tokens=_all(64)),
    "batch-16": Workload(sequences=16, input_tokens=_all(128), output_tokens=_all(64)),
    "batch-64": Workload(sequences=64, input_tokens=_all(128), output_tokens=_all(64)),
    "batch-16-long": Workload(sequences=16, input_tokens=_all(1000), output_tokens=_all(64)),
    "shared-prefix": Workload(
        sequences=16, input_tokens=_all(1088), output_tokens=_all(32), prefix_tokens=1024
    ),
    # nano-vllm's bench.py: 256 sequences, lengths U(100, 1024); --scale 0.125 runs 32 of them.
    "many": Workload(sequences=256, input_tokens=(100, 1024), output_tokens=(100, 1024)),
    # The rate is the offered load; --rate changes it. Objectives: a reader's patience.
    "poisson": Workload(
        sequences=32,
        input_tokens=_all(128),
        output_tokens=_all(64),
        rate=1.0,
        objectives_ms={"ttft": 2000.0, "tpot": 200.0},
    ),
}

KV = "engine.kv_cache_bytes=2147483648"
_BF16 = ("engine.kernels=native", KV)
_INT8 = ("model.quantization=int8", KV)
_INT4 = ("model.quantization=int4", KV)

HEADRACE: dict[str, tuple[str, ...]] = {
    "headrace-bf16": _BF16,
    "headrace-int8": _INT8,
    "headrace-int4": _INT4,
    "headrace-int8-kv8": (*_INT8, "engine.kv_dtype=int8"),
    "headrace-int4-kv8": (*_INT4, "engine.kv_dtype=int8"),
    "headrace-torch": ("engine.kernels=torch", KV),
    "headrace-bf16-no-cache": (*_BF16, "engine.prefix_cache=false"),
    "headrace-int8-no-cache": (*_INT8, "engine.prefix_cache=false"),
    "headrace-torch-no-cache": ("engine.kernels=torch", KV, "engine.prefix_cache=false"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    script: str
    python: str
    """Name in the peers file of the environment it runs in."""
    model: str
    """Name in the peers file of the form of the model it reads."""
    flags: tuple[str, ...] = ()


PEERS: dict[str, Peer] = {
    "transformers": Peer(script="transformers_generate", python="transformers", model="hf"),
    "llama.cpp-bf16": Peer(script="llama_cpp_batch", python="llama_cpp", model="gguf-bf16"),
    "llama.cpp-q8_0": Peer(script="llama_cpp_batch", python="llama_cpp", model="gguf-q8_0"),
    "llama.cpp-q4_0": Peer(script="llama_cpp_batch", python="llama_cpp", model="gguf-q4_0"),
    "llama-tool-bf16": Peer(script="llama_cpp_tool", python="llama_cpp", model="gguf-bf16"),
    "llama-tool-q8_0": Peer(script="llama_cpp_tool", python="llama_cpp", model="gguf-q8_0"),
    "llama-tool-q4_0": Peer(script="llama_cpp_tool", python="llama_cpp", model="gguf-q4_0"),
    "vllm": Peer(script="vllm_engine", python="vllm", model="hf"),
    "vllm-eager": Peer(script="vllm_engine", python="vllm", model="hf", flags=("--eager",)),
    "openvino-int8": Peer(script="openvino_batching", python="openvino", model="openvino-int8"),
    "ctranslate2-int8": Peer(
        script="ctranslate2_generator", python="ctranslate2", model="ctranslate2-int8"
    ),
}

# Servers; {python}, {binaries}, {model}, {port}, {threads} are filled in. As many slots as the
# most concurrent workload has requests, so that none waits for a slot.
SERVERS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    f"llama-server-{form}": (
        "llama_cpp",
        f"gguf-{form}",
        (
            *("{binaries}/llama-server", "-m", "{model}", "--port", "{port}", "-np", "16"),
            *(
                "-c",
                "20480",
                "-t",
                "{threads}",
                "-tb",
                "{threads}",
                "--no-webui",
                "--cache-ram",
                "0",
            ),
        ),
    )
    for form in ("bf16", "q8_0", "q4_0")
} | {
    "vllm-server": (
        "vllm",
        "hf",
        (
            *("{python}", "-m", "vllm.entrypoints.openai.api_server", "--model", "{model}"),
            *("--port", "{port}", "--host", "127.0.0.1", "--dtype", "bfloat16"),
            *("--max-model-len", "9216", "--max-num-seqs", "256"),
        ),
    ),
}

# Of a peer's processes, beside its own in the peers file. vLLM counts its threads itself.
ENVIRONMENT: dict[str, dict[str, str]] = {
    "vllm": {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": "0-{last}",
        "VLLM_NO_USAGE_STATS": "1",
    },
}

# A headrace contestant as a server: the same settings with this ending.
SERVE = "-serve"

# Rows are read as: the first contestant's ratio to each of the others.
MATCHES: dict[str, tuple[str, ...]] = {
    "bf16": ("headrace-bf16", "llama.cpp-bf16", "transformers"),
    "bf16-vllm": ("headrace-bf16", "vllm"),
    "int8": ("headrace-int8", "llama.cpp-q8_0", "openvino-int8"),
    "int8-kv8": ("headrace-int8-kv8", "llama.cpp-q8_0", "openvino-int8"),
    "int8-ctranslate2": ("headrace-int8", "ctranslate2-int8"),
    "int4": ("headrace-int4", "llama.cpp-q4_0", "openvino-int8"),
    "int4-kv8": ("headrace-int4-kv8", "llama.cpp-q4_0"),
    "torch": ("headrace-torch", "transformers", "llama.cpp-bf16"),
    "tool-q8_0": ("llama.cpp-q8_0", "llama-tool-q8_0"),
    "tool-q4_0": ("llama.cpp-q4_0", "llama-tool-q4_0"),
    "tool-bf16": ("llama.cpp-bf16", "llama-tool-bf16"),
    "prefix-bf16": ("headrace-bf16", "headrace-bf16-no-cache"),
    "prefix-int8": ("headrace-int8", "headrace-int8-no-cache", "openvino-int8"),
    "prefix-torch": ("headrace-torch", "headrace-torch-no-cache"),
    "serve-bf16": ("headrace-bf16-serve", "llama-server-bf16"),
    "serve-bf16-vllm": ("headrace-bf16-serve", "vllm-server"),
    "serve-int8": ("headrace-int8-serve", "llama-server-q8_0"),
    "serve-int4": ("headrace-int4-serve", "llama-server-q4_0"),
    "serve-torch": ("headrace-torch-serve", "llama-server-bf16"),
}

# Bits a weight of a matrix takes where it is stored, scales included; norms are negligible.
# ggml: blocks of 32 with one fp16 scale. headrace group 32: the same, group 128 a quarter of it.
BITS: dict[str, float] = {"bf16": 16.0, "int8": 8.5, "int4": 4.5}
