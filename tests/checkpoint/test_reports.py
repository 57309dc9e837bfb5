"""The table of checkpoints that people really have: one row per kind, named by the project and issue that reports it.

Each row is a tiny model of that kind. What tinymi computes from it, or which tokens it gives, equals transformers 5;
where another program is the truth, the row says so. SentencePiece has its own test (test_sentencepiece.py).
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import tinymi
from tests.checkpoint.gguf_files import ROOT, bpe_metadata, contents, save_pair, write
from tests.checkpoint.test_config_json import RAW
from tests.checkpoints import byte_tokenizer
from tests.variants import EMBED, HEAD, edit_json, error, hugging_face, random_tokens, save_variant
from tests.variants import rope as rope_fields
from tinymi.arrays import Array
from tinymi.checkpoint.config_json import config_from_dict
from tinymi.ops import rope_angles, rope_frequencies

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

Make = Callable[[Path], tuple[Path, Path]]  # fills a folder; what tinymi loads, and the folder that transformers reads


def variant(name: str, **fields: Any) -> Make:
    """One of the variants, with these fields in its config.json, too."""

    def make(folder: Path) -> tuple[Path, Path]:
        save_variant(folder, name)
        edit_json(folder / "config.json", lambda config: config.update(fields))
        return folder, folder

    return make


def tensors(name: str, change: Callable[[dict[str, Array]], dict[str, Array]]) -> Make:
    """One of the variants, its file with other tensors; transformers reads it as it was."""

    def make(folder: Path) -> tuple[Path, Path]:
        original = save_variant(folder / "original", name)
        shutil.copytree(original, folder / "changed")
        for file in (folder / "changed").glob("*.safetensors"):
            save_file(change(load_file(file)), file)
        return folder / "changed", original

    return make


def prefixed(prefix: str, head: str) -> Make:
    """Another prefix before all names, beside tensors of something else; `head` is the unembedding's name."""

    def change(found: dict[str, Array]) -> dict[str, Array]:
        names = {name: prefix + name.removeprefix("model.") for name in found} | {HEAD: head}
        other = {f"vision.layers.0.{part}": np.ones(3, np.float32) for part in ("input_layernorm.weight", "x")}
        return {names[name]: value for name, value in found.items()} | other

    return tensors("llama-gqa2", change)


def gguf(family: str = "llama", split: dict[str, Any] | None = None, **fields: Any) -> Make:
    """A GGUF file; fields with a dot are its metadata, the others belong to config.json."""

    def make(folder: Path) -> tuple[Path, Path]:
        changes = {name: value for name, value in fields.items() if "." not in name}
        tokenizer = bpe_metadata("llama-bpe")
        original, path = save_pair(folder, family, tokenizer=tokenizer, **changes)
        metadata, stored = contents(original, family, tokenizer)
        path.unlink()
        write(path, metadata | {name: fields[name] for name in fields if "." in name}, stored, **(split or {}))
        return sorted(folder.glob("*.gguf"))[-1], original

    return make


@dataclass(frozen=True)
class Row:
    """One kind of checkpoint whose logits must be right."""

    source: str
    what: str
    make: Make
    warns: str = ""  # what the one warning says: a regular expression; "" for none
    matters: dict[str, Any] = field(default_factory=dict)  # fields of Config without which the logits would be wrong


LINEAR, YARN = rope_fields("linear"), rope_fields("yarn", original_max_position_embeddings=32)
ROWS = [
    Row("sglang Model_Config.md of LLM-Prof", "use_mrope false", variant("qwen2-gqa2", use_mrope=False)),
    Row("tt-metal, ALLaM-7B", "an own field", variant("llama-gqa2", internal_version="x"), 'internal_version "x"'),
    Row("transformers #45127, peft #2777", "tied, own head", variant("llama-tied-own-head"), "lm_head.weight differs"),
    Row("vllm #3344, exllamav2 #408", "tied, stored twice", tensors("llama-tied", lambda t: t | {HEAD: t[EMBED]})),
    Row("transformers #41038, #38870", "tied, only lm_head", variant("llama-tied-head-only")),
    Row("vllm #19250, mistral.rs #1492", "no prefix", variant("qwen3-no-prefix")),
    Row("nanoGPT #325", "_orig_mod.", prefixed("_orig_mod.model.", "_orig_mod.lm_head.weight")),
    Row("vllm #19250", "language_model.", prefixed("language_model.model.", "language_model.lm_head.weight")),
    Row("vllm #19250", "model.language_model.", prefixed("model.language_model.", "lm_head.weight")),
    Row("vllm #1436, FastChat #2731", "linear RoPE", variant("llama-linear-rope"), "", {"rope_scaling": None}),
    Row("vllm #10537", "dynamic RoPE below n_ctx", variant("llama-dynamic-rope")),
    Row("DeepSeek-R1 #684", "YaRN", variant("llama-yarn"), "", {"rope_scaling": None}),
    Row("DeepSeek-R1 #684", "YaRN, own factor", variant("qwen3-yarn-factor"), "", {"rope_scaling": None}),
    Row("sglang, vllm", "dual chunks", variant("qwen2-gqa2", dual_chunk_attention_config={"chunk_size": 100})),
    Row("mlc-llm #3494, vllm #4636", "biases", variant("llama-biases")),
    Row("llama.cpp #7116", "biases in GGUF", gguf(attention_bias=True, mlp_bias=True)),
    Row("transformers #46489", "linear RoPE in GGUF", gguf(**LINEAR), "", {"rope_scaling": None}),
    Row("DeepSeek-R1 #684", "YaRN in GGUF", gguf(**YARN), "", {"rope_scaling": None}),
    Row("llama.cpp #9023, transformers #32266", "split GGUF", gguf(split={"split_max_tensors": 7})),
    Row("llama-box #7", "split GGUF, no tensor first", gguf(split={"split_max_tensors": 9, "small_first_shard": True})),
    Row("llama.cpp #14028", "pooling_type", gguf("qwen3", None, **{"qwen3.pooling_type": 3})),
]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.source}: {row.what}" for row in ROWS])
def test_logits_equal_transformers(row: Row, tmp_path: Path) -> None:
    source, original = row.make(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", tinymi.TinymiWarning)
        model = tinymi.load(source)
    assert [bool(re.search(row.warns, str(one.message))) for one in caught] == ([True] if row.warns else [])
    tokens = random_tokens(2, 100)
    with torch.no_grad():
        expected = hugging_face(original)(torch.from_numpy(tokens)).logits.numpy()
    assert error(model(tokens), expected) <= 1e-5
    if row.matters:
        without = tinymi.Model(model.config.__class__(**(vars(model.config) | row.matters)), model.weights)
        assert error(without(tokens), expected) > 1e-2


def test_a_field_that_only_other_programs_read_is_named(tmp_path: Path) -> None:
    """DeepSeek-R1 #684: transformers does not read YaRN's attn_factor; vllm multiplies the attention factor by it."""
    plain, _ = variant("llama-yarn")(tmp_path)
    expected = hugging_face(plain)(torch.arange(60)[None]).logits.detach().numpy()
    edit_json(plain / "config.json", lambda config: config["rope_parameters"].update(attn_factor=0.8782488562869419))
    assert np.array_equal(hugging_face(plain)(torch.arange(60)[None]).logits.detach().numpy(), expected)
    with pytest.warns(tinymi.ConfigWarning, match=r"rope_scaling.attn_factor 0.878"):
        assert error(tinymi.load(plain)(np.arange(60)[None]), expected) <= 1e-5


def random_rope(random: Random) -> dict[str, Any]:
    """RoPE's fields, some of them left out."""
    kind = random.choice(("linear", "yarn", "yarn", "llama3"))
    fields: dict[str, Any] = {"rope_type": kind, "factor": random.choice((1.0, 1.5, 4.0, 40.0))}
    fields["rope_theta"] = random.choice((500.0, 10_000.0, 1e6))
    if kind == "llama3":
        fields |= {"low_freq_factor": 1.0, "high_freq_factor": random.choice((2.0, 4.0))}
    if kind == "yarn":
        choices = {"beta_fast": (32, 8.0, 0), "beta_slow": (1, 2.0, 40.0), "truncate": (True, False)}
        choices |= {"attention_factor": (0.7, 1.0), "mscale": (0.7, 0, 1.0), "mscale_all_dim": (1.0, 0.3)}
        fields |= {name: random.choice(values) for name, values in choices.items() if random.random() < 0.5}
    if kind != "linear" and random.random() < 0.7:
        fields["original_max_position_embeddings"] = random.choice((8, 64, 4096))
    return fields


def test_rope_of_any_fields_equals_transformers() -> None:
    random = Random(0)
    for _ in range(400):
        rope = random_rope(random)
        d_head, own = random.choice((2, 10, 64, 128)), random.choice(({}, {"original_max_position_embeddings": 100}))
        raw = RAW | {"head_dim": d_head, "rope_parameters": rope, "max_position_embeddings": 512, **own}
        theirs = LlamaConfig(head_dim=d_head, rope_parameters=dict(rope), max_position_embeddings=512, **own)
        frequencies, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs, "cpu")
        config = config_from_dict({name: value for name, value in raw.items() if name != "rope_theta"})
        np.testing.assert_allclose(rope_frequencies(config), frequencies.numpy(), rtol=1e-5, atol=0, err_msg=str(rope))
        cos, _ = rope_angles(config, np.zeros((1, 1), np.int64))
        np.testing.assert_allclose(cos, factor, rtol=1e-6, err_msg=str(rope))


def test_the_outputs_bias_is_added_once_to_edited_heads(tmp_path: Path) -> None:
    """mlc-llm #3494: the heads' results do not hold the bias, whether someone changes them or not."""
    model, tokens = tinymi.load(variant("llama-biases")(tmp_path)[0]), random_tokens(2, 20)
    logits, cache = model.run_with_cache(tokens)
    b_O = model.weights.blocks[1].b_O
    assert b_O is not None
    assert error(cache["result", 1].sum(axis=2) + b_O, cache["attn_out", 1]) <= 1e-5
    copied = model.run_with_hooks(tokens, [("blocks.1.attn.hook_result", lambda value, hook: value.copy())])
    assert error(copied, logits) <= 1e-5


# What is loaded, and how far it may be used.


@pytest.mark.parametrize(
    ("make", "limit", "reason"),
    [
        (variant("llama-dynamic-rope"), 128, "dynamic RoPE scaling"),  # vllm #10537
        (variant("qwen2-gqa2", dual_chunk_attention_config={"chunk_size": 40}), 40, "dual chunk attention"),
    ],
)
def test_prompts_beyond_a_limit_are_refused_with_its_reason(
    make: Make, limit: int, reason: str, tmp_path: Path
) -> None:
    model = tinymi.load(make(tmp_path)[0])
    words = rf"takes 1 to {limit} \(beyond begins {reason}, which is not implemented\)"
    assert model(random_tokens(1, limit)).shape[1] == limit
    for run in (lambda: model(random_tokens(1, limit + 1)), lambda: model.to_tokens("x" * (limit + 1))):
        with pytest.raises(tinymi.InputError, match=words):
            run()


def test_added_tokens_beyond_the_embedding(tmp_path: Path) -> None:
    """transformers #26156, CTranslate2 #1415: CodeLlama-34b has 32,000 rows and 32,004 tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(f"<{number}>", special=True) for number in range(50)])  # 256 to 305, of 300 rows
    save_variant(tmp_path, "llama-gqa2")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model, reference = tinymi.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in ("abc", "a<43>b", "a<44>b"):
        assert model.to_tokens(text)[0].tolist() == reference(text).input_ids
    assert model(model.to_tokens("a<43>b")).shape == (1, 3, 300)
    with pytest.raises(tinymi.InputError, match="id 300 is outside the vocabulary, 0 to 299"):
        model(model.to_tokens("a<44>b"))


@pytest.mark.parametrize("there", [(), ("tokenizer.model",)])
def test_a_folder_without_a_tokenizer(there: tuple[str, ...], tmp_path: Path) -> None:
    """llama2.c #411, FastChat #153: token ids work, and texts say what is missing and how to make it."""
    save_variant(tmp_path, "llama-gqa2")
    (tmp_path / "tokenizer.json").unlink()
    for name in there:
        (tmp_path / name).touch()
    model = tinymi.load(tmp_path)
    assert model([[1, 2]]).shape == (1, 2, 300)
    with pytest.raises(tinymi.InputError, match=r"no tokenizer.json.*AutoTokenizer.from_pretrained\(folder\)"):
        model.to_tokens("abc")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: {f"a.{name}": found[name] for name in found if "layers.2" not in name}, "begin with 'a.model.'"),
        (
            lambda found: {f"{p}{name}": found[name] for p in ("a.", "b.") for name in found},
            "'a.model.'; names begin w",
        ),
        (lambda found: {name: found[name] for name in found if "norm" not in name}, "nearest name is"),
    ],
)
def test_names_that_fit_no_prefix_are_refused_with_what_was_seen(
    change: Callable[[dict[str, Array]], dict[str, Array]], words: str, tmp_path: Path
) -> None:
    source, _ = tensors("llama-gqa2", change)(tmp_path)
    with pytest.raises(tinymi.WeightsError, match=rf"missing; expected one of shape.*{words}") as caught:
        tinymi.load(source)
    assert "download" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda parts: parts[1].unlink(), r"-00002-of-0000\d.gguf is not beside it; fetch that too"),
        (lambda parts: parts[1].write_bytes(parts[2].read_bytes()), r"split.no is 2 and split.count \d, but by its na"),
        (lambda parts: parts[0].rename(parts[0].with_name("all.gguf")), "-00001-of-.* is not beside it"),
        (lambda parts: [part.unlink() for part in parts[1:]], "is not beside it"),
    ],
)
def test_a_split_file_with_a_part_amiss(damage: Callable[[list[Path]], object], words: str, tmp_path: Path) -> None:
    last, _ = gguf(split={"split_max_tensors": 7})(tmp_path)
    parts = sorted(tmp_path.glob("*.gguf"))
    damage(parts)
    with pytest.raises(tinymi.SourceError, match=words):
        tinymi.load(parts[0] if parts[0].exists() else last)


def test_a_changed_part_is_converted_again(tmp_path: Path) -> None:
    last, original = gguf(split={"split_max_tensors": 7})(tmp_path)
    first = sorted(tmp_path.glob("*.gguf"))[0]
    before = tinymi.load(first)
    assert (tmp_path / "home").exists()
    assert np.array_equal(tinymi.load(last)([[1, 2]]), before([[1, 2]]))
    whole = last.read_bytes()
    last.write_bytes(whole[:-64] + bytes(64))
    assert not np.array_equal(tinymi.load(first)([[1, 2]]), before([[1, 2]]))
    assert original.is_dir()


# Tokens.

# What each family's authors published, as regexes one after the other, here run by another engine than tokenizers'.
# deepseek-llm lists letters; here they are the cased ones, of which its list has all that the texts below have.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
WORDS += r"|\s+(?!\S)|\s+"
EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
SPLITS = {
    "falcon3": [WORDS],  # llama.cpp #7724: llama-bpe's rule
    "smaug-bpe": [WORDS],  # llama.cpp #6920
    "deepseek-llm": [
        *(r"[\r\n]", r"\s?[\p{Lu}\p{Ll}\p{Lt}]+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
        *(r"\s+$", EAST_ASIAN, r"\p{N}"),
    ],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", EAST_ASIAN, r"\p{N}"],
}
TEXTS = [
    "The capital of France is Paris, isn't it? They'RE sure.  ",
    "def f(x):\n    if x == 10:\n\t\treturn  x ** 2   # done\r\n\n\n",
    "1234567890 3.14 12,345 ½ ١٢٣ a1b22",
    "naïve café, Ελλάδα ΑΒΓ, Привет, ǅ ﬁ Ω K ﬀ ａＢ ℕ 𐐀",
    "日本語の文。中文 한국어 ａ、“quoted”！ 中",
    "🙂 🎉  👨‍👩‍👧 עברית العربية \u200b x\u0301 ªº",
]


def pieces(text: str, patterns: list[str]) -> list[str]:
    """The text split by one regex after the other; what a regex does not match stays together."""
    parts = [text]
    for pattern in patterns:
        parts = [part for whole in parts for part in regex.split(f"({pattern})", whole) if part]
    return parts


@pytest.mark.parametrize("rule", SPLITS)
def test_a_gguf_files_split_rule(rule: str, tmp_path: Path) -> None:
    metadata = bpe_metadata("llama-bpe") | {"tokenizer.ggml.pre": rule}
    _, path = save_pair(tmp_path, tokenizer=metadata, num_hidden_layers=1)
    model = tinymi.load(path)
    merges_alone = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(metadata["tokenizer.ggml.tokens"])},
            merges=[tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]],
            ignore_merges=rule == "falcon3",
        )
    )
    merges_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in [*TEXTS, *(ROOT / "README.md").read_text(encoding="utf-8").splitlines()]:
        expected = [token for piece in pieces(text, SPLITS[rule]) for token in merges_alone.encode(piece).ids]
        assert not expected or model.to_tokens(text)[0].tolist() == expected, text


ENDS: list[tuple[dict[str, Any], bool, str]] = [
    # What tokenizer_config.json says, whether tokenizer.json puts <B> before a text, and the tokens of "a" as
    # transformers 4.57.6 gives them (LlamaTokenizerFast; transformers 5 heeds only what tokenizer.json says).
    ({"add_bos_token": True}, False, "Ba"),  # swift-transformers #161, TGI #2137: DeepSeek, R1-Distill
    ({"add_bos_token": True}, True, "Ba"),
    ({"add_bos_token": False}, False, "a"),
    ({"add_bos_token": False}, True, "a"),  # transformers #30947
    ({"add_bos_token": True, "add_eos_token": True}, False, "BaE"),  # transformers #25886
    ({"add_bos_token": False, "add_eos_token": True}, True, "aE"),
    ({"add_eos_token": True}, True, "BaE"),
    ({"add_eos_token": False}, True, "Ba"),
    ({}, True, "Ba"),
    ({}, False, "a"),  # llama.cpp and transformers 5; transformers 4 puts <B> here
]


def ended_tokenizer(template: bool) -> Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(["<B>", "<E>"])
    single = [("<B>", tokenizer.token_to_id("<B>"))]
    begins = processors.TemplateProcessing(single="<B> $A", special_tokens=single)
    tokenizer.post_processor = begins if template else processors.ByteLevel(trim_offsets=False)
    return tokenizer


def spelled(model: tinymi.Model, text: str = "a") -> str:
    return "".join(model.to_str_tokens(text)).replace("<B>", "B").replace("<E>", "E")


@pytest.mark.parametrize(("fields", "template", "expected"), ENDS)
@pytest.mark.parametrize("as_object", [False, True])
def test_what_begins_and_ends_a_text(
    fields: dict[str, Any], template: bool, expected: str, as_object: bool, tmp_path: Path
) -> None:
    names = {"bos_token": "<B>", "eos_token": "<E>"}
    ends = {name: {"content": token, "lstrip": False} if as_object else token for name, token in names.items()}
    save_variant(tmp_path, "llama-gqa2")
    ended_tokenizer(template).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizerFast"} | ends | fields)
    )
    assert spelled(tinymi.load(tmp_path)) == expected


def test_one_answer_by_folder_and_by_gguf(tmp_path: Path) -> None:
    """swift-transformers #161: a GGUF file says the same as its model's tokenizer_config.json."""
    for bos, eos in ((True, False), (False, True), (True, True), (False, False)):
        flags = {"add_bos_token": bos, "add_eos_token": eos}
        tokenizer = bpe_metadata("qwen2") | {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
        original, path = save_pair(tmp_path / f"{bos}{eos}", "qwen2", tokenizer=tokenizer, num_hidden_layers=1)
        from_gguf = tinymi.load(path)
        converted = next(place for place in (tmp_path / "home").iterdir() if (place / "tokenizer.json").exists())
        saved = Tokenizer.from_file(str(converted / "tokenizer.json"))
        saved.post_processor = processors.ByteLevel(trim_offsets=False)
        saved.save(str(original / "tokenizer.json"))
        names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
        (original / "tokenizer_config.json").write_text(json.dumps(names | flags))
        shutil.rmtree(tmp_path / "home")
        ids = tinymi.load(original).to_tokens("Paris")[0].tolist()
        assert ids == from_gguf.to_tokens("Paris")[0].tolist()
        assert (ids[0] == 1, ids[-1] == 2) == (bos, eos)


def test_tokens_that_only_tokenizer_config_adds(tmp_path: Path) -> None:
    """Seen in fine-tunes: <|im_start|> is in added_tokens_decoder and not in tokenizer.json."""
    save_variant(tmp_path, "llama-gqa2")
    flags = {"lstrip": False, "rstrip": True, "single_word": False, "normalized": False, "special": True}
    tokens = {"257": {"content": "<two>"} | flags, "256": {"content": "<one>"} | flags}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens}))
    model, reference = tinymi.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert model.to_tokens("<one>").tolist() == [[256]]
    for text in ("<one>a<two>", "<two>  b", "<one", "a<one><one>\n"):
        assert model.to_tokens(text)[0].tolist() == reference(text).input_ids


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "a JSON list, not an object"),
        ('{"add_bos_token": true}', "add_bos_token is True, but its bos_token None is not in tokenizer.json"),
        ('{"add_eos_token": true, "eos_token": "<none>"}', "eos_token '<none>' is not in tokenizer.json"),
        ('{"added_tokens_decoder": [1]}', "added_tokens_decoder is not an object"),
        ('{"added_tokens_decoder": {"x": {"content": "y"}}}', "added_tokens_decoder is not an object"),
        ('{"added_tokens_decoder": {"1": {"content": 5}}}', "a token without content"),
        ('{"added_tokens_decoder": {"1": {"content": "y", "special": "no"}}}', "cannot be read"),
    ],
)
def test_a_broken_tokenizer_config_is_refused(content: str, words: str, tmp_path: Path) -> None:
    save_variant(tmp_path, "llama-gqa2")
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(tinymi.TokenizerError, match=rf"tokenizer_config.json: cannot be read \(.*{words}|{words}"):
        tinymi.load(tmp_path)


def test_gpt2_is_told_what_there_is() -> None:
    with pytest.raises(
        tinymi.SourceError, match=r"'gpt2' does not exist here.*LLaMA, Qwen2 or Qwen3.*load\(\) without"
    ):
        tinymi.load("gpt2")
