"""Text to ids and back, against transformers on the default model, and on small tokenizers of two other kinds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tinymi
from tinymi import InputError, Tokenizer, TokenizerError
from tinymi.checkpoint.tokenizer_json import read_tokenizer

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

WORDS = ("Paris", "France", "the")
BOS = "<s>"

TEXTS = (
    "The capital of France is",
    " leading space, trailing space ",
    "Line one\nline two\r\n\n\n   indented\tand tabbed",
    "In 1999 they sold 1,234,567 copies at $3.50 (10% off).",
    "It's we'll they're I'd 'quoted' WORD'S",
    "Zürich, naïve café, Ελλάδα, 東京, עברית, 한국어",
    "👩‍👩‍👧 🏳️‍🌈 e\u0301 \u00a0 \u200b",
    "def f(x):\n    return x**2  # comment",
    "<|im_start|>user\nHello<|im_end|>\n",
    "\x00\x01\x7f",
)


@pytest.fixture(scope="module")
def peer(default_model_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(default_model_folder)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_equal_transformers(text: str, default_model: tinymi.Model, peer: Any) -> None:
    tokens = default_model.to_tokens(text)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == [peer(text)["input_ids"]]
    assert default_model.to_string(tokens[0]) == peer.decode(tokens[0].tolist()) == text


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_the_text_of_each_id(text: str, default_model: tinymi.Model, peer: Any) -> None:
    pieces = default_model.to_str_tokens(text)
    assert pieces == [peer.decode([token]) for token in peer(text)["input_ids"]]
    assert pieces == default_model.to_str_tokens(default_model.to_tokens(text)[0])
    assert "".join(pieces) == text or "\ufffd" in "".join(pieces)


def test_pieces_keep_their_spaces(default_model: tinymi.Model) -> None:
    pieces = default_model.to_str_tokens("The capital of France is")
    assert pieces == ["The", " capital", " of", " France", " is"]


@pytest.mark.parametrize("text", [" Paris", "Paris", " the", "\n", "<|im_start|>"])
def test_a_single_token(text: str, default_model: tinymi.Model, peer: Any) -> None:
    token = default_model.to_single_token(text)
    assert [token] == peer(text)["input_ids"]
    assert default_model.to_string([token]) == text


def test_more_than_one_token_shows_the_pieces(default_model: tinymi.Model) -> None:
    pieces = default_model.to_str_tokens(" Parisiennement")
    with pytest.raises(InputError, match=f"is {len(pieces)} tokens") as caught:
        default_model.to_single_token(" Parisiennement")
    assert all(repr(piece) in str(caught.value) for piece in pieces)
    with pytest.raises(InputError, match="0 tokens"):
        default_model.to_single_token("")


def test_prompts_of_one_length_make_a_batch(default_model: tinymi.Model) -> None:
    prompts = ["The capital of France is", "The capital of Italy is"]
    tokens = default_model.to_tokens(prompts)
    assert tokens.shape == (2, 5)
    for row, prompt in zip(tokens, prompts):
        assert row.tolist() == default_model.to_tokens(prompt)[0].tolist()


def test_prompts_of_unequal_length_are_refused(default_model: tinymi.Model) -> None:
    with pytest.raises(InputError, match=r"lengths of 1 to 2 tokens.*'Paris' has 1.*' Paris is' has 2"):
        default_model.to_tokens(["Paris", " Paris is"])


def test_a_prompt_over_the_context_is_refused(default_model: tinymi.Model) -> None:
    assert default_model.to_tokens("the" + " the" * 8191).shape == (1, 8192)
    with pytest.raises(InputError, match="has 8193 tokens, but the model takes 1 to 8192"):
        default_model.to_tokens("the" + " the" * 8192)


REFUSED_PROMPTS: list[tuple[Any, str]] = [
    ("", "has no tokens"),
    ([], "an empty list"),
    (["Paris", ""], "prompt '': has no tokens"),
    ("half \ud83d of a pair", "half a character"),
    ([3], "prompt: is int"),
    ([["a"]], "prompt: is list"),
    ([None], "prompt: is NoneType"),
    (5, "prompt: is int"),
    (None, "prompt: is NoneType"),
    (b"Paris", "prompt: is int"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED_PROMPTS)
def test_a_prompt_that_is_none_is_refused(text: Any, words: str, default_model: tinymi.Model) -> None:
    with pytest.raises(InputError, match=words):
        default_model.to_tokens(text)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([5, -2], "no id -2"),
        ([2**40], "no id 1099511627776"),
        ([[1, 2]], r"int64 of shape \[1, 2\]"),
        ([1.0], "float64"),
        ([True], "bool"),
        (3, r"shape \[\]"),
    ],
)
def test_what_is_no_row_of_ids_is_refused(ids: Any, words: str, default_model: tinymi.Model) -> None:
    for read in (default_model.to_string, default_model.to_str_tokens):
        with pytest.raises(InputError, match=words):
            read(ids)


def test_an_id_beyond_the_tokenizer_has_a_name_but_no_text(default_model: tinymi.Model) -> None:
    assert default_model.to_str_tokens([504, 49152]) == ["The", "<id 49152>"]
    with pytest.raises(InputError, match="no id 49152; valid are 0 to 49151"):
        default_model.to_string([504, 49152])


def test_no_ids_are_no_text(default_model: tinymi.Model) -> None:
    assert default_model.to_string([]) == ""
    assert default_model.to_str_tokens([]) == []


# Small tokenizers of other kinds.


def merges_of(words: list[str], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Merges that build each word from the left; what they make is added to the vocabulary."""
    merges = []
    for word in words:
        for end in range(1, len(word)):
            merges.append((word[:end], word[end]))
            vocab.setdefault(word[: end + 1], len(vocab))
    return merges


def begins_with_bos(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens([BOS])
    pair = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[pair])
    return tokenizer


def byte_level() -> Any:
    """LLaMA-3-like: bytes, a few words with a space before them, and a first token."""
    vocab = {piece: i for i, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = merges_of([f"Ġ{word}" for word in WORDS], vocab)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return begins_with_bos(tokenizer)


def sentencepiece() -> Any:
    """LLaMA-2-like: a space is put before the text and marked, unknown characters are spelt in bytes."""
    vocab = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    vocab |= {piece: 257 + i for i, piece in enumerate(sorted({"▁", *"".join(WORDS)}))}
    merges = merges_of([f"▁{word}" for word in WORDS], vocab)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return begins_with_bos(tokenizer)


def with_normalizer() -> Any:
    tokenizer = sentencepiece()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def with_metaspace() -> Any:
    tokenizer = sentencepiece()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


Maker = Callable[[], Any]
KINDS = [byte_level, with_normalizer, with_metaspace]


def saved(make: Maker, folder: Path) -> Tokenizer:
    make().save(str(folder / "tokenizer.json"))
    return read(folder)


def read(folder: Path) -> Tokenizer:
    tokenizer = read_tokenizer(folder, d_vocab=400)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize("make", KINDS)
def test_the_first_token_is_as_the_file_puts_it(make: Maker, tmp_path: Path) -> None:
    tokenizer, bos = saved(make, tmp_path), make().token_to_id(BOS)
    tokens = tokenizer.to_tokens("the Paris")
    assert tokens[0, 0] == bos
    assert tokenizer.to_str_tokens("the Paris")[0] == BOS
    bare = tokenizer.to_tokens("the Paris", add_special_tokens=False)
    assert bare.tolist() == tokens[:, 1:].tolist()
    assert BOS not in tokenizer.to_str_tokens("the Paris", add_special_tokens=False)
    assert tokenizer.to_tokens("").tolist() == [[bos]]  # a prompt of the first token alone
    with pytest.raises(InputError, match="no tokens"):
        tokenizer.to_tokens("", add_special_tokens=False)


@pytest.mark.parametrize("make", KINDS)
def test_a_single_token_with_its_space(make: Maker, tmp_path: Path) -> None:
    tokenizer, word = saved(make, tmp_path), "ĠParis" if make is byte_level else "▁Paris"
    assert tokenizer.to_single_token(" Paris") == make().token_to_id(word)
    assert tokenizer.to_single_token(" Paris") in tokenizer.to_tokens("the Paris")
    with pytest.raises(InputError, match="tokens, not one"):
        tokenizer.to_single_token(" Parisian")


@pytest.mark.parametrize("make", KINDS)
def test_pieces_keep_their_spaces_in_every_kind(make: Maker, tmp_path: Path) -> None:
    tokenizer = saved(make, tmp_path)
    pieces = tokenizer.to_str_tokens("the Paris France", add_special_tokens=False)
    assert pieces[-2:] == [" Paris", " France"]
    assert "".join(pieces).lstrip() == "the Paris France"
    assert tokenizer.to_str_tokens("\n", add_special_tokens=False)[-1] == "\n"
    ids = tokenizer.to_tokens("the Paris France")[0]
    assert tokenizer.to_str_tokens(ids) == [BOS, *pieces]


def test_settings_that_cut_or_pad_are_put_aside(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(max_length=4)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert read(tmp_path).to_tokens("abcdef").shape == (1, 7)
    assert read(tmp_path).to_tokens("a").shape == (1, 2)


def test_a_tokenizer_that_fails_when_it_is_used_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    empty = byte_level()
    empty.normalizer = normalizers.Replace(tokenizers.Regex("."), "")
    empty.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match="makes no token of 'a'"):
        read(tmp_path).to_str_tokens([1])
    panics = byte_level()
    panics.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex("(a+)+$"), "isolated")
    panics.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=r"cannot encode 'aaa.*retry-limit"):
        read(tmp_path).to_tokens("a" * 40 + "b")
    backwards = byte_level()
    backwards.decoder = decoders.Strip("a", 9, 9)
    backwards.save(str(tmp_path / "tokenizer.json"))
    capfd.readouterr()
    with pytest.raises(TokenizerError, match="cannot be read"):
        read_tokenizer(tmp_path, d_vocab=400)
    assert capfd.readouterr().err == "", "the panic itself is not printed"
    with pytest.raises(TokenizerError, match="cannot decode ids"):
        Tokenizer(backwards).to_string([backwards.token_to_id("a")])


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    saved(byte_level, tmp_path)
    with pytest.raises(TokenizerError, match=r"has ids up to .* ends at 199"):
        read_tokenizer(tmp_path, d_vocab=200)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="cannot be read"):
        read_tokenizer(tmp_path, d_vocab=400)


def test_a_model_without_a_tokenizer_says_so(tiny: tinymi.Model) -> None:
    with pytest.raises(InputError, match="give token ids, or let transformers make the file"):
        tinymi.Model(tiny.config, tiny.weights).to_tokens("Paris")
