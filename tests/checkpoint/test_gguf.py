"""GGUF files: the same weights and tokens as transformers reads from them, and every refusal in one line."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import tinymi
from tests.checkpoint.gguf_files import SIZES, bpe_metadata, contents, paired, save_pair, sentencepiece_metadata, write
from tests.variants import error, hugging_face
from tinymi.checkpoint.find import folder_for
from tinymi.checkpoint.gguf.reader import Numbers, read
from tinymi.errors import SourceError

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
import torch
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = [
    "The capital of France is Paris, isn't it? They'RE sure.",
    "def f(x):\n    if x == 10:\n\t\treturn  x ** 2   # done\n\n\n",
    "1234567890 3.14 12,345 2024-01-02  42 v2 ½ ١٢٣",
    "  leading and trailing   ",
    "🙂 🎉 👨‍👩‍👧 🏳️‍🌈",
    "日本語の文。中文 한국어",
    "עברית ושלום العربية",
    "naïve café résumé",
    "\x00\x01\x1b[31m\x7f\t\r\n",
    "<|im_start|>user\nhi<|im_end|><|endoftext|> <think> < think >",
    "<s>hello</s> <unk> <0x41>",
    "",
    " ",
    "\n",
    "supercalifragilisticexpialidocious ZZZ qqq \u200b\ufeff\U0010ffff",
]
COMBINING = "e\u0301 a\u0308\u0323 \u1100\u1161"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensors of one good LLaMA file, to be changed by one thing each."""
    original, _ = save_pair(tmp_path_factory.mktemp("base"), num_hidden_layers=1)
    return contents(original, "llama", bpe_metadata("llama-bpe"))


def by_transformers(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


# ---- weights


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_weights_equal_transformers_reading_of_the_same_file(family: str, kind: str, tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, family, kind)
    reference = {name: value.numpy() for name, value in by_transformers(path).state_dict().items()}
    found = load_file(folder_for(path) / "model.safetensors")
    assert found.keys() == reference.keys()
    for name, value in found.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, reference[name], err_msg=name)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_float32_comes_back_bit_for_bit_and_computes_the_same(family: str, tmp_path: Path) -> None:
    original, path = save_pair(tmp_path, family)
    folder = folder_for(path)
    source, found = load_file(original / "model.safetensors"), load_file(folder / "model.safetensors")
    assert found.keys() == source.keys()
    assert all(np.array_equal(found[name], source[name]) for name in source)
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        logits = [hugging_face(place)(tokens).logits.numpy() for place in (folder, original)]
    assert error(*logits) == 0


def test_llama3_rope_scaling_is_recovered_from_its_factors(tmp_path: Path) -> None:
    # transformers' own reading of GGUF drops rope_freqs: the reference is the model the file was written from
    original, path = save_pair(tmp_path, rope_parameters=LLAMA3, max_position_embeddings=32768)
    folder = folder_for(path)
    config = json.loads((folder / "config.json").read_text())
    assert config["rope_scaling"] == {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    tokens = torch.randint(0, 400, (1, 500), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = hugging_face(original)(tokens).logits.numpy()
        assert error(hugging_face(folder)(tokens).logits.numpy(), expected) == 0
        assert error(by_transformers(path).eval()(tokens).logits.numpy(), expected) > 1e-3  # it does matter


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "llama3"])
def test_tinymi_loads_a_gguf_file_and_computes_what_transformers_does(family: str, tmp_path: Path) -> None:
    scaled: dict[str, Any] = {}
    if family == "llama3":
        scaled = {"rope_parameters": LLAMA3, "max_position_embeddings": 32768}
    original, path = save_pair(tmp_path, family.removesuffix("3") if scaled else family, **scaled)
    model = tinymi.load(path)
    tokens = np.random.default_rng(0).integers(0, model.config.d_vocab, (2, 60))
    with torch.no_grad():
        expected = hugging_face(original)(torch.from_numpy(tokens)).logits.numpy()
    assert error(model(tokens), expected) < 1e-5


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, tie_word_embeddings=True)
    folder = folder_for(path)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True


def test_the_file_is_plain_safetensors_in_aligned_float32(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path)
    file = folder_for(path) / "model.safetensors"
    with safe_open(file, "np") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert (8 + int.from_bytes(file.read_bytes()[:8], "little")) % 64 == 0


def test_the_reader_equals_the_gguf_packages(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, kind="Q5_1")
    ours, theirs = read(path), GGUFReader(path)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(reversed(tensor.shape.tolist()))
        assert mine.kind == tensor.tensor_type
        assert mine.data.tobytes() == tensor.data.tobytes()
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert fields.keys() == ours.metadata.keys()
    for key, value in ours.metadata.items():
        assert fields[key] == (value.values.tolist() if isinstance(value, Numbers) else plain(value)), key


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# ---- tokenizers


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_tokens_equal_transformers_reading_of_the_same_file(family: str, tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, family)
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    folder = folder_for(path)
    found, loaded = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert found.encode(text).ids == reference(text).input_ids == loaded(text).input_ids, text
        assert found.decode(found.encode(text).ids, skip_special_tokens=False) == text
    # LLaMA's tokenizer leaves text as it is; Qwen's composes it first, which transformers' reading of GGUF forgets
    composed = COMBINING if family == "llama" else unicodedata.normalize("NFC", COMBINING)
    assert found.encode(COMBINING).ids == reference(composed).input_ids
    assert loaded.chat_template == "{{ messages[0]['content'] }}"
    assert (loaded.bos_token, loaded.eos_token) == ("<|im_start|>", "<|im_end|>")


def digits_apart(reference: Any, text: str) -> list[int]:
    """What SmolLM's tokenizer gives: transformers' reading of GGUF takes GPT-2's rule and leaves digits in."""
    return [index for piece in regex.split(r"(\p{N})", text) if piece for index in reference(piece).input_ids]


def test_smollm_splits_digits_before_all_else(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, tokenizer=bpe_metadata("smollm"))
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    found = Tokenizer.from_file(str(folder_for(path) / "tokenizer.json"))
    for text in [*TEXTS, COMBINING, "x   =   12    34\n   5"]:
        assert found.encode(text).ids == digits_apart(reference, text), text


def test_sentencepiece_equals_transformers_reading_of_the_same_file(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, tokenizer=sentencepiece_metadata())
    reference = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    folder = folder_for(path)
    found, loaded = Tokenizer.from_file(str(folder / "tokenizer.json")), AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, COMBINING]:
        assert found.encode(text).ids == loaded(text).input_ids, text
        assert found.encode(text).ids[0] == 1  # <s>, which files that say nothing mean
        if not text.startswith(" ") and "<" not in text:  # there, it forgets the space before a text
            assert found.encode(text).ids == reference(text).input_ids, text
    assert found.decode(found.encode("héllo 🙂 wörld").ids) == "héllo 🙂 wörld"


def test_a_sentencepiece_file_may_forbid_the_leading_space(tmp_path: Path) -> None:
    tokenizer = sentencepiece_metadata() | {"tokenizer.ggml.add_space_prefix": False}
    _, path = save_pair(tmp_path, tokenizer=tokenizer)
    found = Tokenizer.from_file(str(folder_for(path) / "tokenizer.json"))
    assert found.encode("of it").tokens[1][0] == "o"
    assert found.decode(found.encode(" of it").ids) == " of it"


@pytest.mark.parametrize(("said", "expected"), [(None, 1), (True, 1), (False, None)])
def test_llama3_texts_begin_with_bos_unless_the_file_says_no(
    said: bool | None, expected: int | None, tmp_path: Path
) -> None:
    tokenizer = bpe_metadata("llama-bpe")
    del tokenizer["tokenizer.ggml.add_bos_token"]
    _, path = save_pair(
        tmp_path, tokenizer=tokenizer | ({} if said is None else {"tokenizer.ggml.add_bos_token": said})
    )
    folder = folder_for(path)
    plain_ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("hello", add_special_tokens=False).ids
    for ids in (
        Tokenizer.from_file(str(folder / "tokenizer.json")).encode("hello").ids,
        AutoTokenizer.from_pretrained(folder)("hello").input_ids,
    ):
        assert ids == ([] if expected is None else [expected]) + plain_ids


def test_a_llama3_word_that_is_a_token_needs_no_merges(tmp_path: Path) -> None:
    tokenizer = bpe_metadata("llama-bpe")
    tokenizer["tokenizer.ggml.tokens"] += ["Ġzyxwvut"]
    tokenizer["tokenizer.ggml.token_type"] += [1]
    _, path = save_pair(tmp_path, tokenizer=tokenizer)
    found = Tokenizer.from_file(str(folder_for(path) / "tokenizer.json"))
    assert found.encode("a zyxwvut").tokens == ["a", "Ġzyxwvut"]


# ---- the cache of converted files


def test_an_edited_file_is_converted_again_and_its_old_folder_goes(tmp_path: Path) -> None:
    original, path = save_pair(tmp_path)
    first = folder_for(path)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert folder_for(str(path)) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    metadata, tensors = contents(original, "llama", bpe_metadata("llama-bpe"))
    write(path, metadata, tensors | {"output_norm.weight": np.full(SIZES["hidden_size"], 7, np.float32)})
    second = folder_for(path)
    assert (load_file(second / "model.safetensors")["model.norm.weight"] == 7).all()
    assert [place for place in (tmp_path / "home").iterdir() if place.is_dir()] == [second]


def test_files_of_one_name_in_two_places_do_not_meet(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path)
    (tmp_path / "other").mkdir()
    shutil.copy(path, tmp_path / "other" / path.name)
    assert folder_for(path) != folder_for(tmp_path / "other" / path.name)


def test_a_damaged_folder_is_made_again(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path)
    folder = folder_for(path)
    before = (folder / "model.safetensors").read_bytes()
    for damage in ("cut", "gone"):
        (folder / "model.safetensors").write_bytes(before[:1000])
        if damage == "gone":
            (folder / "tokenizer.json").unlink()
        assert folder_for(path) == folder
        assert (folder / "model.safetensors").read_bytes() == before


# ---- refusals


def refused(tmp_path: Path, metadata: dict[str, Any], tensors: dict[str, Any]) -> str:
    path = write(tmp_path / "bad.gguf", {k: v for k, v in metadata.items() if v is not None}, tensors)
    with pytest.raises(SourceError) as caught:
        folder_for(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert not [place for place in (tmp_path / "home").glob("*") if place.is_dir()], "something half-made was left"
    assert not list((tmp_path / "home").glob(".*partial*"))
    return message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("general.architecture", "gemma3", "gemma3.*llama, qwen2, qwen3"),
        ("llama.expert_count", 8, "llama.expert_count is 8"),
        ("llama.attention.sliding_window", 4096, "sliding_window is 4096"),
        ("llama.rope.scaling.type", "longrope", "rope.scaling.type is 'longrope'.*'yarn'"),
        ("llama.rope.scaling.factor", -4.0, "rope.scaling.factor is -4.0"),
        ("llama.rope.scaling.attn_factor", 0.5, "rope.scaling.attn_factor is 0.5"),
        ("llama.rope.dimension_count", 16, "rope.dimension_count is 16.*32"),
        ("llama.attention.value_length", 16, "value_length is 16"),
        ("llama.logit_scale", 0.5, "logit_scale is 0.5"),
        ("llama.residual_scale", 0.5, "residual_scale.*not implemented"),
        ("llama.attention.head_count", None, "attention.head_count is missing"),
        ("llama.attention.head_count", [4, 4], "head_count is an array of 2 numbers"),
        ("llama.attention.head_count", 0, "head_count is 0"),
        ("llama.attention.head_count_kv", 3, "head_count 4 is not a multiple of head_count_kv 3"),
        ("llama.attention.key_length", 33, "key_length is 33"),
        ("llama.embedding_length", "64", "embedding_length is 64"),
        ("llama.embedding_length", 32, r"token_embd.weight.*\[\d+, 64\].*\[\d+, 32\]"),
        ("llama.attention.layer_norm_rms_epsilon", None, "rms_epsilon is None"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "rms_epsilon is nan"),
        ("llama.rope.freq_base", -1.0, "freq_base is -1.0"),
        ("llama.block_count", 2, "blk.1.attn_norm.weight' is missing"),
        ("llama.block_count", 2**31 - 1, "blk.1.attn_norm.weight' is missing"),
        ("llama.block_count", 2**31, "block_count is 2147483648"),
        ("llama.vocab_size", 7, "vocab_size is 7"),
        ("general.type", "adapter", "general.type is 'adapter'"),
        ("split.count", 3, "split.no is 0 and split.count 3, but by its name 0 and 1"),
        ("tokenizer.ggml.tokens", None, "vocabulary tokenizer.ggml.tokens is missing"),
        ("tokenizer.ggml.model", "bert", "tokenizer.ggml.model is 'bert'.*gpt2, llama"),
        ("tokenizer.ggml.pre", "tekken", "tokenizer.ggml.pre is 'tekken'.*smollm"),
        ("tokenizer.ggml.pre", None, "tokenizer.ggml.pre, .*is missing: files made since"),
        ("tokenizer.ggml.pre", ["a", "b"], "tokenizer.ggml.pre is"),
        ("tokenizer.ggml.merges", None, "merges is missing"),
        ("tokenizer.ggml.merges", ["Ġ xyz"], "merge 'Ġ xyz'"),
        ("tokenizer.ggml.token_type", [1, 2], "token_type is missing or broken"),
        ("tokenizer.ggml.bos_token_id", 10**6, "bos_token_id is 1000000"),
    ],
)
def test_metadata_that_does_not_fit_is_refused_by_name(
    key: str, value: Any, expected: str, base: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    metadata, tensors = base
    message = refused(tmp_path, metadata | {key: value}, tensors)
    assert regex.search(expected, message), message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"output_norm.weight": None}, "'output_norm.weight' is missing"),
        ({"blk.0.attn_q.weight": None}, "'blk.0.attn_q.weight' is missing"),
        ({"blk.0.attn_q.bias": np.ones(128, np.float32)}, "'blk.0.attn_k.bias' is missing"),
        ({"blk.0.attn_k.bias": np.ones(64, np.float32)}, "'blk.0.attn_k.bias' is not part of a llama"),
        ({"blk.0.ffn_gate_inp.weight": np.ones((8, 64), np.float32)}, "ffn_gate_inp"),
        (
            {"blk.0.attn_k.weight": np.ones((128, 64), np.float32)},
            r"attn_k.weight' has shape \[128, 64\], expected \[64, 64\]",
        ),
        ({"output_norm.weight": np.ones((1, 64), np.float32)}, r"\[1, 64\], expected \[64\]"),
        ({"rope_freqs.weight": np.linspace(1, 8, 16, dtype=np.float32)}, "rope_freqs.weight is not LLaMA 3's"),
        ({"rope_freqs.weight": np.ones(5, np.float32)}, "rope_freqs.weight is F32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    change: dict[str, Any], expected: str, base: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    metadata, tensors = base
    changed = {name: value for name, value in (tensors | change).items() if value is not None}
    message = refused(tmp_path, metadata, changed)
    assert regex.search(expected, message), message


def test_a_type_that_cannot_be_read_back_is_refused(
    base: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    metadata, tensors = base
    message = refused(
        tmp_path, metadata, tensors | {"output.weight": np.ones(tensors["output.weight"].shape, np.int32)}
    )
    assert "'output.weight' is of type I32" in message


def test_pairing_is_undone_head_by_head() -> None:
    weight = np.arange(12.0).reshape(12, 1)
    assert paired(weight, 6).ravel().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


# ---- damage


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, num_hidden_layers=1)
    whole = path.read_bytes()
    header = whole.index(b"output_norm") + 100
    cuts = [*range(64), *range(64, header, 997), *range(header, len(whole), 20_011), len(whole) - 1]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(SourceError, match=r"not a GGUF file|truncated"):
            read(path)


def put(whole: bytes, at: int, value: bytes) -> bytes:
    return whole[:at] + value + whole[at + len(value) :]


@pytest.mark.parametrize(
    ("at", "value", "expected"),
    [
        (0, b"GGML", "begins with b'GGML'"),
        (0, b"PK\x03\x04", "begins with"),
        (4, (1).to_bytes(4, "little"), "version 1 is not supported: 2 or 3"),
        (4, (3).to_bytes(4, "big"), "big-endian"),
        (8, (2**63).to_bytes(8, "little"), "truncated|dimensions"),  # as many tensors
        (16, (2**63).to_bytes(8, "little"), "truncated"),  # as many metadata keys
        (24, (2**63).to_bytes(8, "little"), "truncated"),  # as long a first key
        (32, b"\xff", "not UTF-8"),
    ],
)
def test_a_damaged_header_is_refused(at: int, value: bytes, expected: str, tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, num_hidden_layers=1)
    path.write_bytes(put(path.read_bytes(), at, value))
    with pytest.raises(SourceError, match=expected):
        folder_for(path)


def test_an_array_longer_than_the_file_ends_at_once(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, num_hidden_layers=1)
    whole = path.read_bytes()
    at = whole.index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 4 + 4
    path.write_bytes(put(whole, at, (2**60).to_bytes(8, "little")))
    with pytest.raises(SourceError, match="truncated"):
        folder_for(path)


def outcome(path: Path) -> str:
    try:
        folder = folder_for(path)
    except SourceError as caught:
        return "refused" if "\n" not in str(caught) else str(caught)
    return "converted" if (folder / "config.json").is_file() else str(folder)


def test_random_damage_ends_in_an_error_of_ours_or_in_a_checkpoint(tmp_path: Path) -> None:
    _, path = save_pair(tmp_path, num_hidden_layers=1)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    outcomes = {"refused": 0, "converted": 0}
    for round_ in range(150):
        bad = whole.copy()
        where = random.integers(0, 1200 if round_ % 2 else len(whole), random.integers(1, 6))
        bad[where] = random.integers(0, 256, len(where))
        path.write_bytes(bad.tobytes())
        outcomes[outcome(path)] += 1
    assert min(outcomes.values()) > 10, outcomes


def test_an_empty_file_and_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(SourceError, match="begins with b''"):
        folder_for(tmp_path / "empty.gguf")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(SourceError, match=r"no \*.safetensors"):
        folder_for(tmp_path / "folder.gguf")


@pytest.mark.parametrize("name", ["ż" * 120, "\x1b[2J\u202e", "\udcff", "..", "a b"])
def test_a_file_of_any_name_is_converted_and_its_name_drives_no_terminal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_pair(tmp_path, num_hidden_layers=1)[1].rename(tmp_path / f"{name}.gguf")
    folder = folder_for(path)
    assert folder.parent == tmp_path / "home"
    assert folder.name.isascii()
    said = capsys.readouterr().err
    assert "converting" in said
    assert not {"\x1b", "\u202e"} & set(said)


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_numbers_that_are_none_are_converted_and_warned_of(kind: str, tmp_path: Path) -> None:
    original, path = save_pair(tmp_path, num_hidden_layers=1)
    metadata, tensors = contents(original, "llama", bpe_metadata("llama-bpe"))
    tensors["blk.0.ffn_up.weight"][:] = np.inf
    with np.errstate(all="ignore"):
        write(path, metadata, tensors, kind=kind)
    with pytest.warns(tinymi.WeightsWarning, match="mlp.up_proj.weight: 6,144 of 6,144") as caught:
        tinymi.load(path)
    assert len(caught) == 1


def test_scores_that_are_all_equal_are_no_order_of_merges(tmp_path: Path) -> None:
    tokenizer = sentencepiece_metadata()  # what a folder without a tokenizer.model becomes:
    tokenizer["tokenizer.ggml.scores"] = [-1000.0] * len(tokenizer["tokenizer.ggml.tokens"])
    _, path = save_pair(tmp_path, tokenizer=tokenizer, num_hidden_layers=1)
    with pytest.raises(
        SourceError, match=r"all of tokenizer.ggml.scores are equal.*without the model's tokenizer.model"
    ):
        folder_for(path)


def test_a_piece_that_would_take_for_ever_is_refused(tmp_path: Path) -> None:
    tokenizer = sentencepiece_metadata()
    tokenizer["tokenizer.ggml.tokens"][-1] = "x" * 2_000_000
    _, path = save_pair(tmp_path, tokenizer=tokenizer, num_hidden_layers=1)
    with pytest.raises(SourceError, match="a token of 2,000,000 characters: 1,000 are the most"):
        folder_for(path)


def test_a_cache_folder_of_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYMI_HOME", "~no-such-user-here/x")
    _, path = save_pair(tmp_path, num_hidden_layers=1)
    with pytest.raises(SourceError, match="~no-such-user-here/x cannot be found: set TINYMI_HOME"):
        folder_for(path)
