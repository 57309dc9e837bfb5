"""config.json: what is read, what has no effect, what is refused by name, and what is passed over with a warning."""

import math
import warnings
from pathlib import Path
from typing import Any

import tinymi
from tests.variants import VARIANTS, edit_json, save_variant
from tinymi import Config, ConfigError, ConfigWarning
from tinymi.checkpoint.config_json import config_from_dict, read_config
from tinymi.rope_scaling import Llama3RopeScaling, RopeScaling, YarnRopeScaling

import pytest

RAW: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "vocab_size": 300,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}


def read(**changes: Any) -> Config:
    return config_from_dict(RAW | changes)


def test_every_field_is_read() -> None:
    expected = Config(
        architecture="LlamaForCausalLM",
        n_layers=3,
        n_heads=4,
        n_kv_heads=2,
        d_model=32,
        d_head=8,
        d_mlp=56,
        d_vocab=300,
        n_ctx=128,
        rms_eps=1e-5,
        rope_base=500000.0,
    )
    assert read() == expected
    assert read(head_dim=24).d_head == 24
    assert read(tie_word_embeddings=True).tied_embeddings
    assert read(num_key_value_heads=None).n_kv_heads == 4


def test_llama3_scaling_is_read_in_both_styles() -> None:
    older = read(rope_scaling=LLAMA3)
    newer = read(rope_theta=None, rope_parameters=LLAMA3 | {"rope_theta": 500000.0})
    assert older == newer
    assert older.rope_scaling == Llama3RopeScaling(32.0, 1.0, 4.0, 8192)
    assert older.rope_base == 500000.0


@pytest.mark.parametrize("fields", [{"type": "default"}, {"rope_type": "default"}, {"rope_type": None}, {}, None])
def test_no_scaling_is_written_in_many_ways(fields: Any) -> None:
    assert read(rope_scaling=fields) == read()


def test_families_differ_in_bias_and_norm() -> None:
    assert (read().qkv_bias, read().qk_norm) == (False, False)
    assert (read(**QWEN2).qkv_bias, read(**QWEN2).qk_norm) == (True, False)
    assert (read(**QWEN3).qkv_bias, read(**QWEN3).qk_norm) == (False, True)
    assert read(model_type=None).architecture == read(architectures=None).architecture == "LlamaForCausalLM"


@pytest.mark.parametrize("name", VARIANTS)
def test_what_transformers_writes_is_read(name: str, tmp_path: Path) -> None:
    fields = VARIANTS[name].fields
    config = read_config(save_variant(tmp_path, name))
    assert config.tied_embeddings is fields.get("tie_word_embeddings", False)
    assert config.n_kv_heads == fields.get("num_key_value_heads", 2)
    assert config.d_head == fields.get("head_dim", config.d_model // config.n_heads)


# Values that would have no effect, or the one effect that is implemented, pass.
HARMLESS: list[dict[str, Any]] = [
    {"torch_dtype": "bfloat16", "use_cache": True, "bos_token_id": 1, "transformers_version": "4.44.0"},
    {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 2, "attention_dropout": 0.0},
    {"hidden_act": "swish"},
    {"hidden_act": None},
    {"sliding_window": None},
    {"partial_rotary_factor": 1.0},
    {"unheard_of": None},
    {"use_mrope": False, "logit_scale": 1.0, "num_experts": 0, "original_max_position_embeddings": 64},
    {"sliding_window": 128},
    {"auto_map": {"AutoModelForCausalLM": "modeling_evil.py--Evil"}},
    {"rope_scaling": {"rope_type": "default", "type": "default"}},
    QWEN2 | {"attention_bias": True},
    QWEN2 | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 3},
    QWEN2 | {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 0},
    QWEN2 | {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
    QWEN2 | {"layer_types": ["full_attention"] * 3},
]


@pytest.mark.parametrize("fields", HARMLESS)
def test_a_field_without_effect_passes(fields: dict[str, Any]) -> None:
    family = {name: fields[name] for name in ("architectures", "model_type") if name in fields}
    assert read(**fields) == read(**family)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "architecture is .*GPT2LMHeadModel"),
    ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, "architecture is .*MistralForCausalLM"),
    ({"architectures": ["Qwen2ForCausalLM"]}, "architecture is LlamaForCausalLM, Qwen2ForCausalLM"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "architecture is .*LlamaForSequenceClassification"),
    ({"architectures": None, "model_type": None}, "architecture is missing"),
    ({"architectures": [], "model_type": ["llama"]}, "architecture is"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    (QWEN2 | {"mlp_bias": True}, "mlp_bias"),
    ({"attention_bias": "yes"}, "attention_bias"),
    ({"use_mrope": True}, "use_mrope"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ({"rope_interleaved": True}, "rope_interleaved"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ({"sliding_window": 64}, "sliding_window is 64"),
    ({"sliding_window": 64, "max_window_layers": 3}, "sliding_window is 64"),
    ({"sliding_window": "64"}, "sliding_window"),
    (QWEN2 | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2}, "sliding_window is 64"),
    (QWEN3 | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "layer_types"),
    ({"logit_scale": 0.5}, "logit_scale"),
    ({"residual_multiplier": 0.22}, "residual_multiplier"),
    ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar"),
    ({"num_experts": 8}, "num_experts"),
    ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, 'rope_type is "longrope".*yarn'),
    ({"rope_scaling": {"rope_type": "linear"}}, "factor is null"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "beta_fast": "x"}}, "beta_fast"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": -1, "mscale_all_dim": 1}}, "mscale"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_theta": 1.0}, "rope_theta"),
    ({"dual_chunk_attention_config": {}, "rope_scaling": {"a": {}}}, "rope_parameters.a"),
    ({"dual_chunk_attention_config": {"local_size": 8}}, "chunk_size"),
    ({"rope_scaling": LLAMA3 | {"factor": None}}, "factor"),
    ({"rope_scaling": LLAMA3 | {"factor": "32"}}, 'factor is "32"'),
    ({"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor"),
    ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 1.5}}, "original_max_position_embeddings"),
    ({"rope_scaling": "llama3"}, "rope_scaling"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
    ({"rope_scaling": {"rope_type": None, "type": "proportional"}}, 'rope_type is "proportional"'),
    ({"rope_scaling": {"rope_type": "", "type": "dynamic"}}, 'rope_type is "", but type is "dynamic"'),
    ({"rope_scaling": LLAMA3 | {"type": "yarn"}}, 'rope_type is "llama3", but type is "yarn"'),
    ({"rope_scaling": {"rope_type": ["llama3"]}}, "rope_type is"),
    ({"rope_scaling": LLAMA3 | {"factor": 1e-300}}, "factor is 1e-300.*1e-30 to 1e30"),
    ({"rope_theta": 1e-320}, "rope_theta.*1e-30 to 1e30"),
    ({"rms_norm_eps": 1e-320}, "rms_norm_eps.*1e-30 to 1e30"),
    ({"rope_theta": 0}, "rope_theta"),
    ({"rope_theta": "10000"}, "rope_theta"),
    ({"rope_theta": float("inf")}, "rope_theta"),
    ({"rope_theta": 10**400}, "rope_theta"),
    ({"rms_norm_eps": -1e-5}, "rms_norm_eps"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    ({"rms_norm_eps": True}, "rms_norm_eps"),
    ({"hidden_size": None}, "hidden_size"),
    ({"hidden_size": 0}, "hidden_size"),
    ({"hidden_size": 32.0}, "hidden_size"),
    ({"hidden_size": 33}, "hidden_size 33 is not a multiple of num_attention_heads 4"),
    ({"intermediate_size": [56, 56, 56]}, "intermediate_size"),
    ({"num_hidden_layers": -3}, "num_hidden_layers"),
    ({"num_hidden_layers": True}, "num_hidden_layers"),
    ({"num_attention_heads": "4"}, "num_attention_heads"),
    ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
    ({"num_key_value_heads": 0}, "num_key_value_heads"),
    ({"head_dim": 7}, "head_dim is 7"),
    ({"max_position_embeddings": 2**40}, "max_position_embeddings"),
    ({"vocab_size": None}, "vocab_size"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_field_that_is_not_implemented_or_broken_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"config\.json: .*{words}") as caught:
        read(**fields)
    assert "\n" not in str(caught.value)


UNKNOWN: list[dict[str, Any]] = [
    {"shoe_size": 43},
    {"internal_version": "x\x1b[2J"},
    {"rope_scaling": {"rope_type": "default", "factor": 4.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0, "alpha": 1000.0}},
]


@pytest.mark.parametrize("fields", UNKNOWN)
def test_an_unknown_field_is_passed_over_with_a_warning_that_names_it(fields: dict[str, Any]) -> None:
    with pytest.warns(
        ConfigWarning, match=r"shoe_size 43|internal_version|rope_scaling.(factor 4.0|alpha 1000.0)"
    ) as one:
        assert read(**fields).rope_scaling is None
    assert len(one) == 1
    assert str(one[0].message).isprintable()


def test_all_unknown_fields_are_in_one_warning_that_can_be_silenced(tmp_path: Path) -> None:
    folder = save_variant(tmp_path, "llama-gqa2")
    edit_json(folder / "config.json", lambda config: config.update(shoe_size=43, hat_size=57))
    with pytest.warns(
        ConfigWarning, match=r'shoe_size 43, hat_size 57; ignore_config=\["shoe_size", "hat_size"\] si'
    ) as caught:
        tinymi.load(folder)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tinymi.load(folder, ignore_config=["shoe_size", "hat_size"])


def test_a_refused_field_may_be_passed_over_by_name(tmp_path: Path) -> None:
    save_variant(tmp_path, "llama-gqa2")
    edit_json(tmp_path / "config.json", lambda config: config.update(logit_scale=0.5))
    with pytest.raises(ConfigError, match=r'logit_scale is 0.5.*ignore_config=\["logit_scale"\]'):
        tinymi.load(tmp_path)
    assert tinymi.load(tmp_path, ignore_config=["logit_scale"]).config.n_layers == 3


def test_rope_scalings_are_read() -> None:
    assert read(rope_scaling={"type": "linear", "factor": 4}).rope_scaling == RopeScaling(4.0)
    yarn = read(rope_scaling={"type": "yarn", "factor": 4.0, "beta_slow": 0})
    assert yarn.rope_scaling == YarnRopeScaling(4.0, 32.0, 1.0, 128, True, attention_factor=0.1 * math.log(4.0) + 1.0)
    given = read(rope_scaling={"type": "yarn", "factor": 1.0, "original_max_position_embeddings": 64})
    assert given.rope_scaling == YarnRopeScaling(1.0, 32.0, 1.0, 64, True)
    outer = read(rope_scaling=LLAMA3, original_max_position_embeddings=77).rope_scaling
    assert outer == Llama3RopeScaling(32.0, 1.0, 4.0, 77)  # as in transformers, the file's own length goes first


def test_scaled_models_take_more_positions_and_limits_have_a_reason() -> None:
    assert read(rope_scaling={"type": "linear", "factor": 4.0}).n_ctx == 512
    original = {"original_max_position_embeddings": 32}
    assert read(rope_scaling={"type": "yarn", "factor": 4.0} | original).n_ctx == 128
    assert read(rope_scaling={"type": "yarn", "factor": 40.0} | original).n_ctx == 1280
    dynamic = read(rope_scaling={"type": "dynamic", "factor": 4.0})
    assert (dynamic.n_ctx, dynamic.n_ctx_reason) == (128, "dynamic RoPE scaling")
    chunks = read(dual_chunk_attention_config={"chunk_size": 50, "local_size": 8})
    assert (chunks.n_ctx, chunks.n_ctx_reason) == (50, "dual chunk attention")
    assert read(dual_chunk_attention_config={"chunk_size": 500}).n_ctx_reason == ""
