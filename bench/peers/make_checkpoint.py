"""A shape's name becomes a checkpoint with random weights, the same bytes every time.

python bench/peers/make_checkpoint.py llama1b DIR      (in headrace's own environment)

A Hugging Face directory that every peer reads: the published config of the shape, bfloat16
weights in one file (matrices N(0, 0.02^2), norms 1 + N(0, 0.05^2), tied head), a byte-level BPE
tokenizer with the family's split rule and special tokens at their true ids (merges learnt from
Python's standard library, then filled up to the full vocabulary with `<|pad_N|>`), a chat
template and a generation config. Speed depends on shapes alone, so nothing has to be fetched.
"""

import argparse
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SEED = 1234

# Llama-3.2-1B and Qwen3-0.6B as their config.json files state them (Meta 2024, Alibaba 2025).
LLAMA_3_2_1B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "use_cache": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 128000,
    "eos_token_id": 128009,
}
QWEN_3_0_6B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 28,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "use_cache": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
_SMALL = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    split: str
    """How the family cuts text before merging."""
    specials: tuple[str, ...]
    """In the order of their ids, the first at `first_special`."""
    template: str


def _llama_specials() -> tuple[str, ...]:
    named = {
        0: "<|begin_of_text|>",
        1: "<|end_of_text|>",
        4: "<|finetune_right_pad_id|>",
        6: "<|start_header_id|>",
        7: "<|end_header_id|>",
        8: "<|eom_id|>",
        9: "<|eot_id|>",
        10: "<|python_tag|>",
    }
    reserved = iter(range(256))
    return tuple(
        named[at] if at in named else f"<|reserved_special_token_{next(reserved)}|>"
        for at in range(256)
    )


_QWEN_SPECIALS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"),
    *("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
    # The published table is padded: these ids exist in the weights only.
    *(f"<|unused_{at}|>" for at in range(267)),
)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FAMILIES = {
    "llama": Family(
        split=_SPLIT.replace("DIGITS", "3"),
        specials=_llama_specials(),
        template=(
            "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}"
            "<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>{% endfor %}"
            "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
            "{% endif %}"
        ),
    ),
    "qwen3": Family(
        split=_SPLIT.replace("{1,DIGITS}", ""),
        specials=_QWEN_SPECIALS,
        template=(
            "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
            "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
            "{% endif %}"
        ),
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    config: dict[str, Any]
    learnt: int
    """Entries of the vocabulary that merges make."""

    @property
    def family(self) -> Family:
        return FAMILIES[self.config["model_type"]]

    @property
    def first_special(self) -> int:
        return self.config["vocab_size"] - len(self.family.specials)


def _tiny(config: dict[str, Any], *, eos: int) -> dict[str, Any]:
    first = 2000
    specials = len(FAMILIES[config["model_type"]].specials)
    ids = {"vocab_size": first + specials, "bos_token_id": first, "eos_token_id": first + eos}
    return config | _SMALL | ids


SHAPES = {
    "llama1b": Shape(config=LLAMA_3_2_1B, learnt=32000),
    "qwen06b": Shape(config=QWEN_3_0_6B, learnt=32000),
    "tiny-llama": Shape(config=_tiny(LLAMA_3_2_1B, eos=9), learnt=1500),
    "tiny-qwen": Shape(config=_tiny(QWEN_3_0_6B, eos=2), learnt=1500),
}


def weights(config: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Names as Hugging Face's; linear layers are [out, in]."""
    random = torch.Generator().manual_seed(SEED)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        values = torch.empty(rows, columns, dtype=torch.float32).normal_(0, 0.02, generator=random)
        return values.bfloat16()

    def norm(width: int) -> torch.Tensor:
        return torch.empty(width).normal_(1, 0.05, generator=random).bfloat16()

    D, F, H = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * H, config["num_key_value_heads"] * H
    yield "model.embed_tokens.weight", matrix(config["vocab_size"], D)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", norm(D)
        yield f"{at}.self_attn.q_proj.weight", matrix(queries, D)
        yield f"{at}.self_attn.k_proj.weight", matrix(keys, D)
        yield f"{at}.self_attn.v_proj.weight", matrix(keys, D)
        yield f"{at}.self_attn.o_proj.weight", matrix(D, queries)
        if config["model_type"] == "qwen3":
            yield f"{at}.self_attn.q_norm.weight", norm(H)
            yield f"{at}.self_attn.k_norm.weight", norm(H)
        yield f"{at}.post_attention_layernorm.weight", norm(D)
        yield f"{at}.mlp.gate_proj.weight", matrix(F, D)
        yield f"{at}.mlp.up_proj.weight", matrix(F, D)
        yield f"{at}.mlp.down_proj.weight", matrix(D, F)
    yield "model.norm.weight", norm(D)


def tokenizer(shape: Shape) -> Tokenizer:
    """Merges from the standard library's sources, then padding, then the special tokens."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(shape.family.split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=shape.learnt,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    learner.train([str(path) for path in sources], trainer)
    state = json.loads(learner.to_str())
    vocabulary: dict[str, int] = state["model"]["vocab"]
    for at in range(shape.first_special - len(vocabulary)):
        vocabulary[f"<|pad_{at}|>"] = len(vocabulary)
    full = Tokenizer.from_str(json.dumps(state))
    full.decoder = decoders.ByteLevel()
    full.add_special_tokens([AddedToken(word, special=True) for word in shape.family.specials])
    return full


def make(shape: Shape, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    config, specials = shape.config, shape.family.specials
    words = tokenizer(shape)
    if words.get_vocab_size() != config["vocab_size"]:
        raise SystemExit(f"{words.get_vocab_size()} words of {config['vocab_size']}")
    words.save(str(directory / "tokenizer.json"))
    state = json.loads(words.to_str())["model"]
    # Older readers want the two lists apart.
    _write(directory / "vocab.json", state["vocab"])
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in state["merges"])
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n", "utf-8")
    first = shape.first_special
    bos = specials[config["bos_token_id"] - first]
    eos = specials[config["eos_token_id"] - first]
    llama = config["model_type"] == "llama"
    _write(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast" if llama else "Qwen2Tokenizer",
            "bos_token": bos if llama else None,
            "eos_token": eos,
            "pad_token": eos,
            "add_bos_token": llama,
            "clean_up_tokenization_spaces": False,
            "model_max_length": config["max_position_embeddings"],
            "chat_template": shape.family.template,
            "added_tokens_decoder": {
                str(first + at): {
                    "content": word,
                    "special": True,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "single_word": False,
                }
                for at, word in enumerate(specials)
            },
        },
    )
    ends = {key: config[key] for key in ("bos_token_id", "eos_token_id")}
    _write(directory / "generation_config.json", {**ends, "do_sample": False})
    tensors = dict(weights(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    # Last: a directory with a config is a whole one.
    _write(directory / "config.json", config)
    print(f"{directory}: {sum(t.numel() for t in tensors.values()):,} parameters")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    make(SHAPES[options.shape], options.directory)


if __name__ == "__main__":
    main()
