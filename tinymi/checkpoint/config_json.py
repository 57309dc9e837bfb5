"""config.json: Hugging Face's names for a model's numbers, translated and checked.

A field that is known to change numbers is read, or refused by its name unless its value switches the effect off.
A field that is not known here is passed over with a warning: vendors add many that no forward pass reads.
"""

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tinymi.checkpoint.json_object import read_object
from tinymi.config import Config
from tinymi.errors import ConfigError, ConfigWarning
from tinymi.rope_scaling import Llama3RopeScaling, RopeScaling, YarnRopeScaling

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

# Fields with an effect that is not implemented, and the values that switch it off. So do null and a missing field.
_OFF: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention", "rope_interleaved", "use_mrope", "alibi"), (False,)),
    **dict.fromkeys(("qk_layernorm", "use_qk_norm", "use_parallel_residual", "parallel_attn"), (False,)),
    **dict.fromkeys(("logit_scale", "logits_scaling", "embedding_multiplier", "residual_multiplier"), (1,)),
    **dict.fromkeys(("scale_emb", "partial_rotary_factor"), (1,)),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"), (0,)),
    **dict.fromkeys(("attention_multiplier", "scale_depth", "query_pre_attn_scalar", "clip_qkv", "kv_lora_rank"), ()),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "attention_chunk_size"), ()),
    **dict.fromkeys(("quantization_config", "compression_config", "no_rope_layers"), ()),
    "pruned_heads": ({},),
}
_READ = {
    *("architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps"),
    *("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings", "tie_word_embeddings"),
    *("attention_bias", "mlp_bias", "layer_types", "use_sliding_window", "sliding_window", "max_window_layers"),
    *("dual_chunk_attention_config", "eos_token_id"),
}
# Training, text generation, bookkeeping: common, and without effect on the logits of a forward pass.
_NO_EFFECT = {
    *("attention_dropout", "initializer_range", "use_cache", "pretraining_tp", "bos_token_id"),
    *("pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id", "auto_map"),
    *("torch_dtype", "dtype", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash"),
    *("_attn_implementation", "attn_implementation", "_attn_implementation_autoset", "return_dict"),
    *("output_attentions", "output_hidden_states", "output_scores", "torchscript", "use_bfloat16", "id2label"),
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
_ROPE_FIELDS = ("rope_scaling", "rope_parameters")  # which hold RoPE's own fields
_ROPE_COMMON = {"rope_theta", "rope_type", "type", "partial_rotary_factor"}
_ROPE_KINDS = {  # and what else each kind reads there
    "default": set[str](),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        *("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate"),
        *("attention_factor", "mscale", "mscale_all_dim"),
    },
}


def read_config(folder: Path, ignore: Iterable[str] = ()) -> Config:
    """Read `folder/config.json`, without the fields named in `ignore`. Raises ConfigError, warns (ConfigWarning)."""
    path = folder / "config.json"
    try:
        raw = read_object(path)
    except ValueError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}; a checkpoint folder needs its config.json, one JSON object in "
            "UTF-8: download the file again or name another folder"
        ) from None
    for_generation = folder / "generation_config.json"
    with suppress(OSError, ValueError):  # without it, or where it is broken, config.json says where a text ends
        ends = read_object(for_generation).get("eos_token_id")
        raw = raw if ends is None else {**raw, "eos_token_id": ends}
    return config_from_dict({name: value for name, value in raw.items() if name not in set(ignore)})


def config_from_dict(raw: Mapping[str, Any]) -> Config:
    """Translate Hugging Face's names to ours, and check every value. Raises ConfigError, warns (ConfigWarning)."""
    architecture = _architecture(raw)
    _refuse_unimplemented(raw, architecture)
    n_heads = _whole(raw, "num_attention_heads")
    d_model = _whole(raw, "hidden_size")
    rope = _rope_fields(raw)
    n_ctx, n_ctx_reason = _n_ctx(raw, rope)
    out_bias = architecture != "Qwen2ForCausalLM" and _flag(raw, "attention_bias")
    config = Config(
        architecture=architecture,
        n_layers=_whole(raw, "num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=_whole(raw, "num_key_value_heads", default=n_heads),
        d_model=d_model,
        d_head=_whole(raw, "head_dim", default=max(d_model // n_heads, 1)),
        d_mlp=_whole(raw, "intermediate_size"),
        d_vocab=_whole(raw, "vocab_size"),
        n_ctx=n_ctx,
        rms_eps=_real(raw, "rms_norm_eps", default=1e-6),
        rope_base=_real(rope, "rope_theta", default=10000.0),
        rope_scaling=_rope_scaling(rope),
        qkv_bias=architecture == "Qwen2ForCausalLM" or out_bias,
        out_bias=out_bias,
        mlp_bias=_flag(raw, "mlp_bias"),
        qk_norm=architecture == "Qwen3ForCausalLM",
        tied_embeddings=_flag(raw, "tie_word_embeddings"),
        end_tokens=tuple(token for token in _items(raw.get("eos_token_id")) if _is_token(token, raw)),
        n_ctx_reason=n_ctx_reason,
    )
    _check_sizes(config, head_dim_given=raw.get("head_dim") is not None)
    _warn_of_unknown(raw, rope)
    return config


def _architecture(raw: Mapping[str, Any]) -> str:
    """The one architecture that `architectures` and `model_type` agree on."""
    listed = raw.get("architectures") or []
    names = {str(name) for name in listed} if isinstance(listed, list) else {str(listed)}
    if raw.get("model_type") is not None:
        model_type = raw["model_type"]
        names.add(ARCHITECTURES.get(model_type, str(model_type)) if isinstance(model_type, str) else "?")
    if len(names) == 1 and names <= set(ARCHITECTURES.values()):
        return names.pop()
    raise ConfigError(
        f"config.json: architecture is {', '.join(sorted(names)) or 'missing'}, but implemented are "
        f"{', '.join(ARCHITECTURES.values())}; load a checkpoint of one of these"
    )


def _refuse_unimplemented(raw: Mapping[str, Any], architecture: str) -> None:
    for name, allowed in _OFF.items():
        if raw.get(name) is not None and raw[name] not in allowed:
            valid = " or ".join(json.dumps(value) for value in allowed) or "absent"
            raise _refusal(name, raw[name], f"implemented is {valid}")
    if architecture != "LlamaForCausalLM" and raw.get("mlp_bias") not in (None, False):
        raise _refusal("mlp_bias", raw["mlp_bias"], f"a {architecture} has none")
    if raw.get("sliding_window") is not None and _slides(raw, architecture):
        raise _refusal("sliding_window", raw["sliding_window"], "implemented is full attention (null)")
    layer_types = raw.get("layer_types")
    if layer_types is not None and any(kind != "full_attention" for kind in _items(layer_types)):
        raise _refusal("layer_types", layer_types, 'implemented is "full_attention" in every layer')


def _slides(raw: Mapping[str, Any], architecture: str) -> bool:
    """Whether the sliding window hides a position from a layer. In Qwen, the first layers have none."""
    is_llama = architecture == "LlamaForCausalLM"
    first = raw.get("max_window_layers", 28)
    full = not is_llama and isinstance(first, int) and first >= _whole(raw, "num_hidden_layers")
    wide = _whole(raw, "sliding_window") >= _whole(raw, "max_position_embeddings", default=2048)
    return bool(raw.get("use_sliding_window", is_llama)) and not full and not wide


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_token(token: Any, raw: Mapping[str, Any]) -> bool:
    """Whether the model can say it: some files name ids that it cannot, such as -1."""
    return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < raw["vocab_size"]


def _warn_of_unknown(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> None:
    known, known_of_rope = _READ | _NO_EFFECT | set(_OFF), _ROPE_KINDS[_rope_type(rope)] | _ROPE_COMMON
    top = {name: value for name, value in raw.items() if name not in known and value is not None}
    inner = {f"rope_scaling.{name}": value for name, value in rope.items() if name not in known_of_rope}
    if top or inner:
        shown = ", ".join(f"{name} {_short(value)}" for name, value in (top | inner).items())
        silenced = f"; ignore_config={json.dumps(list(top))} silences this" if top else ""
        message = f"config.json: fields that are not known here are passed over: {shown}{silenced}"
        warnings.warn(message, ConfigWarning, stacklevel=4)


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


def _rope_fields(raw: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's fields in one object: newer files have `rope_parameters`, older ones `rope_theta` and `rope_scaling`."""
    fields = _mapping(raw, "rope_scaling") | _mapping(raw, "rope_parameters")
    fields = {name: value for name, value in fields.items() if value is not None}
    if raw.get("rope_theta") is not None:
        fields = {"rope_theta": raw["rope_theta"]} | fields
    original = "original_max_position_embeddings"
    if _rope_type(fields) in ("llama3", "yarn"):  # in Hugging Face's order: the file's own, RoPE's, the whole length
        lengths = (raw.get(original), fields.get(original), raw.get("max_position_embeddings"))
        fields[original] = next((length for length in lengths if length is not None), None)
    if fields.get("partial_rotary_factor") not in (None, 1):
        raise _refusal("partial_rotary_factor", fields["partial_rotary_factor"], "implemented is 1.0", _ROPE_FIELDS)
    for name, value in fields.items():
        if isinstance(value, dict):
            raise _refusal(f"rope_parameters.{name}", value, "implemented is one RoPE for all layers", _ROPE_FIELDS)
    return fields


def _rope_type(fields: Mapping[str, Any]) -> str:
    """The kind of RoPE that `rope_type`, and `type` in older files, agree on."""
    kinds = [fields[name] for name in ("rope_type", "type") if fields.get(name) is not None]
    if kinds and kinds != [kinds[0]] * len(kinds):
        raise _refusal("rope_type", kinds[0], f"type is {_short(kinds[1])}: they must be the same", _ROPE_FIELDS)
    kind = kinds[0] if kinds else "default"
    if not isinstance(kind, str) or kind not in _ROPE_KINDS:
        raise _refusal("rope_type", kind, f"implemented are {', '.join(_ROPE_KINDS)}", _ROPE_FIELDS)
    return kind


def _rope_scaling(fields: Mapping[str, Any]) -> RopeScaling | None:
    match _rope_type(fields):
        case "linear":
            return RopeScaling(_real(fields, "factor"))
        case "llama3":
            return _llama3_scaling(fields)
        case "yarn":
            return _yarn_scaling(fields)
    return None  # dynamic scaling, too, begins only beyond the original context


def _llama3_scaling(fields: Mapping[str, Any]) -> Llama3RopeScaling:
    scaling = Llama3RopeScaling(
        factor=_real(fields, "factor"),
        low_freq_factor=_real(fields, "low_freq_factor"),
        high_freq_factor=_real(fields, "high_freq_factor"),
        original_n_ctx=_whole(fields, "original_max_position_embeddings"),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise ConfigError(
            f"config.json: rope scaling has high_freq_factor {scaling.high_freq_factor:g}, but it must be "
            f"above low_freq_factor {scaling.low_freq_factor:g}; correct the file or load another checkpoint"
        )
    return scaling


def _yarn_scaling(fields: Mapping[str, Any]) -> YarnRopeScaling:
    """Hugging Face's defaults; the attention factor is the paper's unless the file gives one, or two `mscale`s."""
    factor = _real(fields, "factor")
    attention_factor = _yarn_mscale(factor)
    if fields.get("mscale") and fields.get("mscale_all_dim"):
        attention_factor = _yarn_mscale(factor, _real(fields, "mscale"))
        attention_factor /= _yarn_mscale(factor, _real(fields, "mscale_all_dim"))
    if _real(fields, "rope_theta", default=10000.0) <= 1:
        raise _wrong("rope_theta", fields["rope_theta"], "a number above 1 with rope_type yarn")
    return YarnRopeScaling(
        factor=factor,
        beta_fast=_real({"beta_fast": fields.get("beta_fast") or None}, "beta_fast", default=32.0),
        beta_slow=_real({"beta_slow": fields.get("beta_slow") or None}, "beta_slow", default=1.0),
        original_n_ctx=_whole(fields, "original_max_position_embeddings"),
        truncate=_flag(fields, "truncate", default=True),
        attention_factor=_real(fields, "attention_factor", default=attention_factor),
    )


def _yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def _n_ctx(raw: Mapping[str, Any], rope: Mapping[str, Any]) -> tuple[int, str]:
    """The most positions, and the name of what begins beyond them where that is not implemented."""
    n_ctx = _whole(raw, "max_position_embeddings", default=2048)
    kind, reason = _rope_type(rope), ""
    if kind in ("linear", "yarn"):  # the file states either the stretched length or the original one
        original = _whole(rope, "original_max_position_embeddings") if kind == "yarn" else n_ctx
        n_ctx = min(max(n_ctx, int(original * _real(rope, "factor"))), 2**31 - 1)
    if kind == "dynamic":
        reason = "dynamic RoPE scaling"
    if chunks := _mapping(raw, "dual_chunk_attention_config"):
        n_ctx, reason = min((n_ctx, reason), (_whole(chunks, "chunk_size"), "dual chunk attention"))
    return n_ctx, reason


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


def _flag(raw: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = raw.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _wrong(name, value, "true or false")
    return value


def _wrong(name: str, value: Any, valid: str) -> ConfigError:
    return ConfigError(
        f"config.json: {name} is {_short(value)}, but it must be {valid}; correct the file or load another checkpoint"
    )


def _check_sizes(config: Config, head_dim_given: bool) -> None:
    """The sizes must fit each other."""
    if config.n_heads % config.n_kv_heads:
        raise ConfigError(
            f"config.json: num_attention_heads {config.n_heads} is not a multiple of num_key_value_heads "
            f"{config.n_kv_heads}; each key-value head must serve equally many query heads: correct the file"
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
