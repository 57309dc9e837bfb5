"""Config: the numbers that fix a model's shape and formulas, read from a Hugging Face config.json.

A config.json holds some fields that change the model's numbers and many that do not. Every field is either
read, required to have the one value that the forward pass implements, or known to be without effect on a
forward pass. Anything else is refused by name: a wrong answer never comes out of a field that was ignored.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinymi.errors import ConfigError
from tinymi.json_file import read_object


@dataclass(frozen=True)
class Llama3RopeScaling:
    """How LLaMA 3.1 and later stretch RoPE's long wavelengths beyond the context they were trained on."""

    factor: float  # long wavelengths become this many times longer
    low_freq_factor: float  # "long" means longer than original_n_ctx / low_freq_factor
    high_freq_factor: float  # shorter than original_n_ctx / high_freq_factor stays as it is
    original_n_ctx: int  # positions of the context before the stretch


@dataclass(frozen=True)
class Config:
    """The shape of a LLaMA, Qwen2 or Qwen3 model. All sizes count numbers, not bytes."""

    architecture: str  # Hugging Face's class name, such as "LlamaForCausalLM"
    n_layers: int  # transformer blocks
    n_heads: int  # query heads per layer
    n_kv_heads: int  # key and value heads per layer; each serves n_heads / n_kv_heads query heads
    d_model: int  # width of the residual stream
    d_head: int  # width of a head's queries, keys and values
    d_mlp: int  # neurons per layer
    d_vocab: int  # rows of the embedding
    n_ctx: int  # most positions that the model was made for
    rms_eps: float  # added to the mean square in RMSNorm
    rope_base: float  # RoPE's longest wavelength is about 2 * pi * rope_base positions
    rope_scaling: Llama3RopeScaling | None = None
    qkv_bias: bool = False  # Qwen2: queries, keys and values have a bias
    qk_norm: bool = False  # Qwen3: RMSNorm on each head's queries and keys
    tied_embeddings: bool = False  # the unembedding is the embedding, transposed

    @classmethod
    def from_folder(cls, folder: Path, ignore: Iterable[str] = ()) -> "Config":
        """Read `folder/config.json`. Fields named in `ignore` are passed over. Raises ConfigError."""
        path = folder / "config.json"
        try:
            raw = read_object(path)
        except ValueError as error:
            raise ConfigError(
                f"{path}: cannot be read: {error}; a checkpoint folder needs its config.json, one JSON object in "
                "UTF-8: download the file again or name another folder"
            ) from None
        return cls.from_dict({name: value for name, value in raw.items() if name not in set(ignore)})

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "Config":
        """Translate Hugging Face's names to ours, and check every value. Raises ConfigError."""
        architecture = _architecture(raw)
        _refuse_unimplemented(raw, architecture)
        n_heads = _whole(raw, "num_attention_heads")
        d_model = _whole(raw, "hidden_size")
        rope_base, rope_scaling = _rope(raw)
        config = cls(
            architecture=architecture,
            n_layers=_whole(raw, "num_hidden_layers"),
            n_heads=n_heads,
            n_kv_heads=_whole(raw, "num_key_value_heads", default=n_heads),
            d_model=d_model,
            d_head=_whole(raw, "head_dim", default=max(d_model // n_heads, 1)),
            d_mlp=_whole(raw, "intermediate_size"),
            d_vocab=_whole(raw, "vocab_size"),
            n_ctx=_whole(raw, "max_position_embeddings", default=2048),
            rms_eps=_real(raw, "rms_norm_eps", default=1e-6),
            rope_base=rope_base,
            rope_scaling=rope_scaling,
            qkv_bias=architecture == "Qwen2ForCausalLM",
            qk_norm=architecture == "Qwen3ForCausalLM",
            tied_embeddings=_flag(raw, "tie_word_embeddings", default=False),
        )
        _check_sizes(config, head_dim_given=raw.get("head_dim") is not None)
        return config


ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# The forward pass implements exactly these values; None and a missing field mean the same.
_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1.0,),
    "rope_interleaved": (False,),
    "quantization_config": (),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
}

_READ = {
    *("architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps"),
    *("rope_theta", "rope_scaling", "rope_parameters", "tie_word_embeddings", "layer_types"),
    *("sliding_window", "max_window_layers"),
}
_ROPE_FIELDS = ("rope_scaling", "rope_parameters")  # which hold RoPE's own fields

# Training, text generation, bookkeeping: nothing here changes the logits of a forward pass.
_NO_EFFECT = {
    *(
        "attention_dropout",
        "initializer_range",
        "use_cache",
        "pretraining_tp",
        "bos_token_id",
        "eos_token_id",
    ),
    *("pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id", "auto_map"),
    *("torch_dtype", "dtype", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash"),
    *("_attn_implementation", "attn_implementation", "_attn_implementation_autoset", "return_dict"),
    *(
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "torchscript",
        "use_bfloat16",
        "id2label",
    ),
    *("label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params", "tokenizer_class"),
    *("prefix", "is_decoder", "chunk_size_feed_forward", "gradient_checkpointing", "max_sequence_length"),
    *("is_llama_config", "transformers.js_config", "max_length", "min_length", "do_sample", "early_stopping"),
    *("num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
    *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "num_return_sequences", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
    *("suppress_tokens", "begin_suppress_tokens", "tf_legacy_loss", "tie_encoder_decoder"),
    *("cross_attention_hidden_size", "unsloth_fixed", "unsloth_version"),
}


def _architecture(raw: Mapping[str, Any]) -> str:
    """The one architecture that `architectures` and `model_type` agree on."""
    listed = raw.get("architectures") or []
    names = {str(name) for name in listed} if isinstance(listed, list) else {str(listed)}
    if raw.get("model_type") is not None:
        model_type = raw["model_type"]
        names.add(ARCHITECTURES.get(model_type, str(model_type)) if isinstance(model_type, str) else "?")
    if len(names) == 1 and names <= set(ARCHITECTURES.values()):
        return names.pop()
    found = ", ".join(sorted(names)) or "nothing"
    raise ConfigError(
        f"config.json: architecture is {found}, but implemented are {', '.join(ARCHITECTURES.values())}; "
        "load a checkpoint of one of these"
    )


def _refuse_unimplemented(raw: Mapping[str, Any], architecture: str) -> None:
    for name, allowed in _ONLY.items():
        if raw.get(name) is not None and raw[name] not in allowed:
            valid = " or ".join(json.dumps(value) for value in allowed) or "absent"
            raise _refusal(name, raw[name], f"implemented is {valid}")
    slides = raw.get("use_sliding_window", architecture == "LlamaForCausalLM")
    if slides and raw.get("sliding_window") is not None:
        raise _refusal("sliding_window", raw["sliding_window"], "implemented is full attention (null)")
    layer_types = raw.get("layer_types")
    if layer_types is not None and any(kind != "full_attention" for kind in _items(layer_types)):
        raise _refusal("layer_types", layer_types, 'implemented is "full_attention" in every layer')
    known = _READ | _NO_EFFECT | set(_ONLY)
    for name, value in raw.items():
        if name not in known and value is not None:
            raise _refusal(name, value, "its effect on the forward pass is not known here")


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _refusal(name: str, value: Any, reason: str, fields: Sequence[str] = ()) -> ConfigError:
    """fields: those of the file's top level that hold the value, where it is not `name` itself."""
    ignored = '", "'.join(fields or [name])
    return ConfigError(
        f"config.json: {name} is {_short(value)}, but {reason}; load another checkpoint, or pass "
        f'ignore_config=["{ignored}"] if you know that {"they change" if fields else "it changes"} no number'
    )


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _rope(raw: Mapping[str, Any]) -> tuple[float, Llama3RopeScaling | None]:
    """RoPE's base and scaling, from `rope_parameters` (newer files) or `rope_theta` and `rope_scaling`."""
    fields = _mapping(raw, "rope_scaling") | _mapping(raw, "rope_parameters")
    if raw.get("rope_theta") is not None:
        fields = {"rope_theta": raw["rope_theta"]} | fields
    base = _real(fields, "rope_theta", default=10000.0)
    kind = _rope_type(fields)
    known = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
    if kind == "llama3":
        known |= {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
    if fields.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise _refusal("partial_rotary_factor", fields["partial_rotary_factor"], "implemented is 1.0", _ROPE_FIELDS)
    for name, value in fields.items():
        if name not in known and value is not None:
            raise _refusal(f"rope_parameters.{name}", value, f'rope_type "{kind}" has no such field', _ROPE_FIELDS)
    if kind == "default":
        return base, None
    return base, _llama3_scaling(fields, n_ctx=raw.get("max_position_embeddings"))


def _rope_type(fields: Mapping[str, Any]) -> str:
    """The kind of RoPE that `rope_type`, and `type` in older files, agree on."""
    kinds = [fields[name] for name in ("rope_type", "type") if fields.get(name) is not None]
    if kinds and kinds != [kinds[0]] * len(kinds):
        raise _refusal("rope_type", kinds[0], f"type is {_short(kinds[1])}: they must be the same", _ROPE_FIELDS)
    kind = kinds[0] if kinds else "default"
    if kind not in ("default", "llama3"):
        raise _refusal("rope_type", kind, 'implemented are "default" and "llama3"', _ROPE_FIELDS)
    return str(kind)


def _llama3_scaling(fields: Mapping[str, Any], n_ctx: Any) -> Llama3RopeScaling:
    original = {"original_max_position_embeddings": n_ctx} | dict(fields)
    scaling = Llama3RopeScaling(
        factor=_real(fields, "factor"),
        low_freq_factor=_real(fields, "low_freq_factor"),
        high_freq_factor=_real(fields, "high_freq_factor"),
        original_n_ctx=_whole(original, "original_max_position_embeddings"),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise ConfigError(
            f"config.json: rope scaling has high_freq_factor {scaling.high_freq_factor:g}, but it must be "
            f"above low_freq_factor {scaling.low_freq_factor:g}; download the file again"
        )
    return scaling


def _mapping(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong(name, value, "a JSON object or null")
    return value


def _whole(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = raw.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise _wrong(name, raw.get(name), "a whole number from 1 to 2147483647")
    return value


def _real(raw: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = raw.get(name)
    value = default if value is None else value
    # Numbers are compared before they are converted: JSON allows integers too large for a float.
    # Beyond these bounds float32 knows only 0 and infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-30 <= value <= 1e30:
        raise _wrong(name, raw.get(name), "a number from 1e-30 to 1e30")
    return float(value)


def _flag(raw: Mapping[str, Any], name: str, default: bool) -> bool:
    value = raw.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _wrong(name: str, value: Any, valid: str) -> ConfigError:
    return ConfigError(
        f"config.json: {name} is {_short(value)}, but it must be {valid}; "
        "download the file again or load another checkpoint"
    )


def _check_sizes(config: Config, head_dim_given: bool) -> None:
    """The sizes must fit each other."""
    if config.n_heads % config.n_kv_heads:
        raise ConfigError(
            f"config.json: num_attention_heads {config.n_heads} is not a multiple of num_key_value_heads "
            f"{config.n_kv_heads}; each key-value head must serve equally many query heads: download the file again"
        )
    if not head_dim_given and config.d_model % config.n_heads:
        raise ConfigError(
            f"config.json: hidden_size {config.d_model} is not a multiple of num_attention_heads "
            f"{config.n_heads}, and head_dim is absent; give head_dim"
        )
    if config.d_head % 2:
        raise ConfigError(
            f"config.json: head_dim is {config.d_head}, but RoPE turns pairs of numbers and needs an even one; "
            "load another checkpoint"
        )
