"""The metadata of a GGUF file as Hugging Face's config.json, or a refusal that names what does not fit."""

from __future__ import annotations

from typing import Any

from tinymi.checkpoint.gguf.reader import GGUFFile

import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# Keys that are read, here or by the caller.
_READ = {
    "embedding_length",
    "feed_forward_length",
    "block_count",
    "context_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scale_linear",
    "rope.scaling.finetuned",
    "pooling_type",  # what an embedding model does with the last residual stream
}
# Keys that change nothing at these values; at any other value the file is refused.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.sliding_window": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "use_parallel_residual": (False,),
    "logit_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}


def config_of(file: GGUFFile) -> dict[str, Any]:
    """The content of config.json. Raises SourceError for what it cannot express or tinymi does not compute."""
    arch = file.metadata.get("general.architecture")
    if not isinstance(arch, str) or arch not in _CLASSES:
        raise file.refuse(f"general.architecture is {str(arch)[:40]!r}: valid are {', '.join(_CLASSES)}")
    _refuse_unknown_keys(file, arch)
    n_heads = _size(file, f"{arch}.attention.head_count")
    config: dict[str, Any] = {
        "architectures": [_CLASSES[arch]],
        "model_type": arch,
        "hidden_size": _size(file, f"{arch}.embedding_length"),
        "intermediate_size": _size(file, f"{arch}.feed_forward_length"),
        "num_hidden_layers": _size(file, f"{arch}.block_count"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": _size(file, f"{arch}.attention.head_count_kv", default=n_heads),
        "max_position_embeddings": _size(file, f"{arch}.context_length"),
        "rms_norm_eps": _positive(file, f"{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": _positive(file, f"{arch}.rope.freq_base", default=10_000.0),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "torch_dtype": "float32",
    }
    config["head_dim"] = _head_dim(file, arch, config)
    config["vocab_size"] = _vocab_size(file, arch)
    scalings = [_llama3_scaling(file, config), _rope_scaling(file, arch, config)]
    if all(scalings):
        raise file.refuse("it has both rope_freqs.weight and rope.scaling: one of them would be valid")
    config["rope_scaling"] = scalings[0] or scalings[1]
    config["attention_bias"] = arch != "qwen2" and "blk.0.attn_q.bias" in file.tensors
    config["mlp_bias"] = "blk.0.ffn_gate.bias" in file.tensors
    return config | {name: token_id(file, name.removesuffix("_id")) for name in ("bos_token_id", "eos_token_id")}


def token_id(file: GGUFFile, name: str) -> int | None:
    """The id the file gives for `name` ("bos_token", "unknown_token", ...), checked against its vocabulary."""
    value = file.metadata.get(key := f"tokenizer.ggml.{name}_id")
    n_tokens = len(file.metadata["tokenizer.ggml.tokens"])
    if value is None or value == 2**32 - 1:  # llama.cpp's "no such token"
        return None
    if not isinstance(value, int) or not 0 <= value < n_tokens:
        raise file.refuse(f"{key} is {value!r}: 0 to {n_tokens - 1} would be valid")
    return value


def _refuse_unknown_keys(file: GGUFFile, arch: str) -> None:
    if file.metadata.get("general.type", "model") != "model":
        raise file.refuse(f"general.type is {str(file.metadata['general.type'])[:40]!r}: only 'model' can be loaded")
    for key, value in file.metadata.items():
        own = key.removeprefix(f"{arch}.")
        if own == key or own in _READ:
            continue
        if own not in _NEUTRAL:
            raise file.refuse(
                f"{key} is set to {str(value)[:40]}, and its effect is not implemented", "use another model"
            )
        if value not in _NEUTRAL[own]:
            valid = " or ".join(map(str, _NEUTRAL[own]))
            raise file.refuse(f"{key} is {str(value)[:40]}, and only {valid} is implemented", "use another model")


def _size(file: GGUFFile, key: str, *, default: int | None = None) -> int:
    value = file.metadata.get(key, default)
    if value is None:
        raise file.refuse(f"{key} is missing from the metadata: a positive whole number would be valid")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        shown = str(value)[:40].replace("\n", " ")
        raise file.refuse(f"{key} is {shown}: one positive whole number for the whole model would be valid")
    return value


def _positive(file: GGUFFile, key: str, *, default: float | None = None) -> float:
    value = file.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-30 <= value <= 1e30:
        raise file.refuse(f"{key} is {str(value)[:40]}: a number from 1e-30 to 1e30 would be valid")
    return float(str(np.float32(value)))  # 1e-5, as the model's author wrote it, not 9.99999974e-06


def _head_dim(file: GGUFFile, arch: str, config: dict[str, Any]) -> int:
    n_heads, n_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    if n_heads % n_kv_heads:
        raise file.refuse(f"{arch}.attention.head_count {n_heads} is not a multiple of head_count_kv {n_kv_heads}")
    d_head = _size(file, f"{arch}.attention.key_length", default=config["hidden_size"] // n_heads)
    if d_head % 2:
        raise file.refuse(f"{arch}.attention.key_length is {d_head}: RoPE needs an even number")
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := file.metadata.get(f"{arch}.{key}", d_head)) != d_head:
            raise file.refuse(f"{arch}.{key} is {str(found)[:40]}: only the size of a head, {d_head}, is implemented")
    return d_head


def _vocab_size(file: GGUFFile, arch: str) -> int:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, tuple) or not tokens:
        raise file.refuse("the vocabulary tokenizer.ggml.tokens is missing", "use a GGUF file that has one")
    stated = file.metadata.get(f"{arch}.vocab_size", len(tokens))
    if stated != len(tokens):
        raise file.refuse(f"{arch}.vocab_size is {str(stated)[:40]}, but the file lists {len(tokens)} tokens")
    return len(tokens)


def _rope_scaling(file: GGUFFile, arch: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """Linear scaling, which files may state by its factor alone (0 and 1 are none), and YaRN."""
    key = f"{arch}.rope.scaling"
    kind = file.metadata.get(f"{key}.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise file.refuse(f"{key}.type is {str(kind)[:40]!r}: valid are 'none', 'linear' and 'yarn'")
    stated = [name for name in (f"{key}.factor", f"{arch}.rope.scale_linear") if file.metadata.get(name)]
    if kind == "none" or not stated or file.metadata[stated[0]] == 1.0:
        return None
    scaling: dict[str, Any] = {"rope_type": kind, "factor": _positive(file, stated[0])}
    if kind == "yarn":
        original = _size(file, f"{key}.original_context_length", default=config["max_position_embeddings"])
        scaling["original_max_position_embeddings"] = original
        for name, usual in (("beta_fast", 32.0), ("beta_slow", 1.0)):
            scaling[name] = _positive(file, f"{key}.yarn_{name}", default=usual)
    return scaling


def _llama3_scaling(file: GGUFFile, config: dict[str, Any]) -> dict[str, Any] | None:
    """LLaMA 3.1's scaling, recovered from the factors that the file holds in its stead.

    GGUF stores the factor by which each of RoPE's d_head / 2 frequencies is divided. They are recomputed from
    their maximum and the parameters all LLaMA 3 models share; only equality is accepted.
    """
    tensor = file.tensors.get("rope_freqs.weight")
    if tensor is None:
        return None
    if tensor.shape != (config["head_dim"] // 2,) or tensor.kind.name != "F32":
        raise file.refuse(
            f"rope_freqs.weight is {tensor.kind.name} {list(tensor.shape)}, expected one F32 per frequency"
        )
    found = dequantize(tensor.data, tensor.kind).ravel().astype(np.float64)
    if np.all(found == 1.0):
        return None
    if not np.all((found > 0.0) & (found < 1e30)):
        raise file.refuse("rope_freqs.weight holds factors that are no positive numbers")
    scaling: dict[str, Any] = {"rope_type": "llama3", "factor": float(str(np.float32(found.max())))}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    if not np.allclose(found, llama3_factors(config, scaling), rtol=1e-5, atol=0.0):
        raise file.refuse(
            "rope_freqs.weight is not LLaMA 3's scaling (low_freq_factor 1, high_freq_factor 4, "
            "original_max_position_embeddings 8192), and no other is implemented"
        )
    return scaling


def llama3_factors(config: dict[str, Any], scaling: dict[str, Any]) -> NDArray[np.float64]:
    """What LLaMA 3.1's RoPE scaling divides each of the d_head / 2 frequencies by.

    Frequencies that turn often within the original context stay; those that turn less than once are divided
    by `factor`; between the two the frequency is interpolated.
    """
    exponents = np.arange(0, config["head_dim"], 2) / config["head_dim"]
    turns = scaling["original_max_position_embeddings"] / (2 * np.pi * config["rope_theta"] ** exponents)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / (kept + (1.0 - kept) / scaling["factor"]))
