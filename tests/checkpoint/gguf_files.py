"""Tiny GGUF files, written by the gguf package from transformers checkpoints and trained tokenizers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.checkpoints import save_tiny
from tinymi.arrays import Array

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter, quantize
from safetensors.numpy import load_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

CONTROL, USER_DEFINED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"), ("<think>",)
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
}
# The only sizes of a head that transformers' reading of GGUF handles: it ignores attention.key_length for Qwen.
HEAD_DIMS = {"llama": 32, "qwen2": 16, "qwen3": 128}
TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
# What the authors of each family published in their tokenizer.json.
SPLITS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
}
ROOT = Path(__file__).parents[2]


def corpus() -> Iterator[str]:
    """Something to train on: this project's own files, and a line of other scripts."""
    for file in sorted(ROOT.glob("tinymi/*.py"))[:8]:
        yield from file.read_text(encoding="utf-8").splitlines(keepends=True)
    yield "日本語の文 עברית العربية naïve café 12 345 2024 🙂 🎉 résumé " * 4


def bpe_metadata(rule: str, n_tokens: int = 480) -> dict[str, Any]:
    """The tokenizer's part of a GGUF file: byte-level BPE, trained with the split `rule`."""
    tokenizer = Tokenizer(BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rule not in SPLITS)
    before: dict[str, Any] = {"smollm": pre_tokenizers.Digits(individual_digits=True)}
    before |= {name: pre_tokenizers.Split(Regex(pattern), "isolated") for name, pattern in SPLITS.items()}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([before[rule], byte_level] if rule in before else [byte_level])
    if rule == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_tokens, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    added = [*CONTROL, *USER_DEFINED]
    tokens = [*CONTROL, *sorted(trained["vocab"], key=trained["vocab"].__getitem__), *USER_DEFINED]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": rule,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in CONTROL else 4 if t in added else 1 for t in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in trained["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }


def sentencepiece_metadata(n_tokens: int = 400) -> dict[str, Any]:
    """The tokenizer's part as LLaMA 1 and 2 have it: pieces with scores, bytes for what has no piece."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁")
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=n_tokens, show_progress=False))
    trained = json.loads(tokenizer.to_str())["model"]
    merged = ["".join(merge) for merge in trained["merges"]]
    single = sorted(set(trained["vocab"]) - set(merged))
    pieces = [*dict.fromkeys(merged), *single]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [*first, *pieces],
        "tokenizer.ggml.scores": [0.0] * len(first) + [-float(rank) for rank in range(len(pieces))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def rule_of(family: str) -> str:
    return {"llama": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}[family]


def save_pair(
    folder: Path, family: str = "llama", kind: str = "F32", tokenizer: dict[str, Any] | None = None, **changes: Any
) -> tuple[Path, Path]:
    """A random checkpoint and the GGUF file of the same weights: (folder of the first, path of the second)."""
    tokenizer = tokenizer or bpe_metadata(rule_of(family))
    sizes = SIZES | {"head_dim": HEAD_DIMS[family]} | {"vocab_size": len(tokenizer["tokenizer.ggml.tokens"])} | changes
    original = save_tiny(folder / "original", family, **sizes)
    path = folder / "model.gguf"
    write(path, *contents(original, family, tokenizer), kind=kind)
    return original, path


def contents(original: Path, family: str, tokenizer: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Metadata and tensors of the GGUF file for a transformers checkpoint, as llama.cpp lays them out."""
    config = json.loads((original / "config.json").read_text())
    metadata = {
        "general.architecture": family,
        "general.name": "tiny",
        f"{family}.block_count": config["num_hidden_layers"],
        f"{family}.context_length": config["max_position_embeddings"],
        f"{family}.embedding_length": config["hidden_size"],
        f"{family}.feed_forward_length": config["intermediate_size"],
        f"{family}.attention.head_count": config["num_attention_heads"],
        f"{family}.attention.head_count_kv": config["num_key_value_heads"],
        f"{family}.attention.key_length": (d_head := config.get("head_dim", HEAD_DIMS[family])),
        f"{family}.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        f"{family}.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        f"{family}.rope.dimension_count": d_head,
    }
    tensors = {}
    for name, value in load_file(original / "model.safetensors").items():
        tensors[gguf_name(name)] = (
            paired(value, d_head) if family == "llama" and ("q_proj" in name or "k_proj" in name) else value
        )
    rope = config["rope_parameters"]
    if (kind := rope.get("rope_type")) == "llama3":
        tensors["rope_freqs.weight"] = rope_factors(rope, d_head)
    if kind in ("linear", "yarn"):
        metadata |= {f"{family}.rope.scaling.type": kind, f"{family}.rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        metadata[f"{family}.rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    return metadata | tokenizer, tensors


def gguf_name(name: str) -> str:
    stem, _, ending = name.rpartition(".")
    if stem in ENDS:
        return f"{ENDS[stem]}.{ending}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{TENSORS[part]}.{ending}"


def paired(weight: Array, d_head: int) -> Array:
    """q or k rows [heads * d_head, ...] as llama.cpp keeps them: row i of a head next to row i + d_head / 2."""
    heads = weight.reshape(-1, d_head, *weight.shape[1:])
    order = [row for i in range(d_head // 2) for row in (i, i + d_head // 2)]
    return np.ascontiguousarray(heads[:, order].reshape(weight.shape))


def rope_factors(rope: dict[str, Any], d_head: int) -> Array:
    """The rope_freqs tensor, as the ratio of the frequencies that transformers computes without and with scaling."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(head_dim=d_head, hidden_size=d_head, num_attention_heads=1, rope_parameters=rope)
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
    plain = rope["rope_theta"] ** -(np.arange(0, d_head, 2) / d_head)
    return np.asarray(plain / scaled, np.float32)


def write(path: Path, metadata: dict[str, Any], tensors: dict[str, Array], kind: str = "F32", **split: Any) -> Path:
    """Write a GGUF file, or several (split: GGUFWriter's split_max_tensors and such); matrices are stored as `kind`."""
    writer = GGUFWriter(path, metadata.get("general.architecture", "none"), **split)
    for key, value in metadata.items():
        if key != "general.architecture":
            add(writer, key, value)
    for name, value in tensors.items():
        stored = GGMLQuantizationType["I32" if value.dtype == np.int32 else kind if value.ndim > 1 else "F32"]
        writer.add_tensor(name, value if stored.name == "I32" else quantize(value, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, list):
        kinds = {str: GGUFValueType.STRING, int: GGUFValueType.INT32, float: GGUFValueType.FLOAT32}
        writer.add_key_value(key, value, GGUFValueType.ARRAY, sub_type=kinds[type(value[0])])
    else:
        scalars = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        scalars[type(value)](key, value)
