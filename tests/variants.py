"""Every kind of checkpoint that tinymi reads, tiny and random, and what transformers computes from it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.checkpoints import save_tiny
from tinymi.arrays import Array, Tokens

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

# No two sizes are equal: a swapped axis shows.
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Variant:
    """One kind of checkpoint: a family, the fields of its config that differ from SIZES, and how it is stored."""

    family: str = "llama"
    fields: dict[str, Any] = field(default_factory=dict)
    save: dict[str, Any] = field(default_factory=dict)
    tensors: Callable[[dict[str, Array]], dict[str, Array]] | None = None  # what the file holds instead of these


TIED = {"tie_word_embeddings": True}
FREE_HEAD = {"head_dim": 24}  # 4 heads of 24 are 96 numbers, in a stream of 32
SHARDED = {"max_shard_size": "20KB"}
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BIASES = {"attention_bias": True, "mlp_bias": True}


def without_prefix(tensors: dict[str, Array]) -> dict[str, Array]:
    return {name.removeprefix("model."): value for name, value in tensors.items()}


def rope(kind: str, **fields: Any) -> dict[str, Any]:
    return {"head_dim": 32, "rope_parameters": {"rope_type": kind, "rope_theta": 1000.0, "factor": 4.0, **fields}}


VARIANTS = {
    "llama-mha": Variant(fields={"num_key_value_heads": 4}),
    "llama-gqa2": Variant(),
    "llama-gqa3": Variant(fields={"hidden_size": 48, "num_attention_heads": 6}),
    "llama-mqa": Variant(fields={"num_key_value_heads": 1}),
    "llama-tied": Variant(fields=TIED),
    "llama-free-head": Variant(fields=FREE_HEAD),
    "llama-eps-base": Variant(fields={"rms_norm_eps": 0.05, "rope_parameters": {"rope_theta": 50.0}}),
    "llama3-rope": Variant(fields={"head_dim": 32, "rope_parameters": LLAMA3_ROPE}),
    "llama-linear-rope": Variant(fields=rope("linear")),
    "llama-dynamic-rope": Variant(fields=rope("dynamic")),
    "llama-yarn": Variant(fields=rope("yarn", original_max_position_embeddings=32)),
    "llama-yarn-mscale": Variant(fields=rope("yarn", beta_fast=8.0, beta_slow=2.0, mscale=0.7, mscale_all_dim=1.5)),
    "qwen3-yarn-factor": Variant("qwen3", rope("yarn", factor=1.5, truncate=False, attention_factor=0.8)),
    "llama-biases": Variant(fields=BIASES),
    "qwen3-biases": Variant("qwen3", FREE_HEAD | {"attention_bias": True}),
    "llama-tied-own-head": Variant(fields=TIED, tensors=lambda kept: kept | {HEAD: kept[EMBED][::-1].copy()}),
    "llama-tied-head-only": Variant(fields=TIED, tensors=lambda kept: {HEAD: kept.pop(EMBED)} | kept),
    "qwen3-no-prefix": Variant("qwen3", TIED | FREE_HEAD, tensors=without_prefix),
    "llama-sharded": Variant(save=SHARDED),
    "llama-bf16": Variant(save={"dtype": torch.bfloat16}),
    "llama-f16": Variant(save={"dtype": torch.float16}),
    "qwen2-gqa2": Variant("qwen2"),
    "qwen2-tied-mqa": Variant("qwen2", TIED | {"num_key_value_heads": 1}),
    "qwen2-bf16-sharded": Variant("qwen2", save=SHARDED | {"dtype": torch.bfloat16}),
    "qwen3-free-head": Variant("qwen3", FREE_HEAD),
    "qwen3-tied-mha": Variant("qwen3", TIED | {"num_key_value_heads": 4, "head_dim": 16}),
}


def save_variant(folder: Path, name: str, **changes: Any) -> Path:
    """Write a checkpoint that tinymi.load can read. Returns its folder."""
    variant = VARIANTS[name]
    save_tiny(folder, variant.family, save=variant.save, **(SIZES | variant.fields | changes))
    if variant.tensors:
        file = folder / "model.safetensors"
        save_file(variant.tensors(load_file(file)), file, metadata={"format": "pt"})
    return folder


def hugging_face(folder: Path, dtype: Any = torch.float32) -> Any:
    """The folder's model as transformers reads and runs it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


@dataclass(frozen=True)
class Reference:
    """What transformers computes for one batch."""

    logits: Array  # [batch, pos, d_vocab]
    resid_pre: list[Array]  # per layer, [batch, pos, d_model]
    resid_post: Array  # of the last layer, before the final norm
    patterns: list[Array]  # per layer, [batch, n_heads, query_pos, key_pos]


def reference(model: Any, tokens: Tokens) -> Reference:
    """Run a transformers model, keeping what its outputs show and, by a hook, the last layer's output."""
    last: list[Any] = []
    handle = model.model.norm.register_forward_pre_hook(lambda module, args: last.append(args[0]))
    with torch.no_grad():
        out = model(torch.from_numpy(tokens), output_hidden_states=True, output_attentions=True)
    handle.remove()
    return Reference(
        logits=out.logits.numpy(),
        resid_pre=[state.numpy() for state in out.hidden_states[:-1]],  # the last one is behind the final norm
        resid_post=last[0].numpy(),
        patterns=[pattern.numpy() for pattern in out.attentions],
    )


def error(actual: Array, expected: Array) -> float:
    """The largest difference, as a share of the expected values' range."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.ptp(expected))


def random_tokens(batch: int, n_pos: int, seed: int = 0) -> Tokens:
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], (batch, n_pos))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
