"""Byte-level BPE in plain Python: the ids and texts of the `tokenizers` library, on every kind of text."""

import functools
import json
import unicodedata
from pathlib import Path
from random import Random
from typing import Any

from tests.checkpoint.gguf_files import SPLITS
from tests.checkpoint.hostile_texts import ADDED, texts
from tinymi.checkpoint import byte_level_bpe
from tinymi.checkpoint.words import GPT2, LLAMA3, QWEN, composed, split_by, split_digits

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

N_TEXTS = 10_000
DIGITS = pre_tokenizers.Digits(individual_digits=True)
RULES: dict[str, list[Any]] = {
    "gpt-2": [],
    "gpt-2, a space first": [],
    "smollm": [DIGITS],
    **{name: [pre_tokenizers.Split(Regex(pattern), "isolated")] for name, pattern in SPLITS.items()},
}
FLAGS: dict[str, dict[str, bool]] = {
    "<left>": {"lstrip": True},
    "<right>": {"rstrip": True, "special": True},
    "<both>": {"lstrip": True, "rstrip": True},
    "<think>": {"normalized": True},
    "é": {"normalized": True},
}


@functools.cache
def prompts() -> list[str]:
    return [*texts("prompts", N_TEXTS)]


@functools.cache
def trained() -> dict[str, Any]:
    """A model trained on hostile texts that were not split: its merges reach over every place where it ought to be."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=6000, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts("training", 5000), trainer)
    model: dict[str, Any] = json.loads(made.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def splitting(rule: str) -> tokenizers.Tokenizer:
    """With this split rule, and what the tokenizers that have it may have beside."""
    made = tokenizers.Tokenizer(models.BPE(**trained(), ignore_merges=rule == "llama-bpe"))
    made.normalizer = normalizers.NFC() if rule == "qwen2" else None
    prefix = rule == "gpt-2, a space first"
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=rule not in SPLITS)
    made.pre_tokenizer = pre_tokenizers.Sequence([*RULES[rule], bytes_only])
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(token, **{"normalized": False, **FLAGS.get(token, {})}) for token in ADDED])
    if rule == "llama-bpe":
        first = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
        made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), first])
    return made


@pytest.fixture(scope="module", params=["the default model", *RULES])
def both(request: pytest.FixtureRequest) -> tuple[tokenizers.Tokenizer, byte_level_bpe.Tokenizer]:
    """The library's and ours, of one tokenizer.json."""
    if request.param == "the default model":
        folder: Path = request.getfixturevalue("default_model_folder")
        library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        library = splitting(request.param)
    return library, byte_level_bpe.Tokenizer.from_buffer(library.to_str().encode())


Both = tuple[tokenizers.Tokenizer, byte_level_bpe.Tokenizer]


def test_the_same_ids(both: Both) -> None:
    library, ours = both
    for prompt, expected in zip(prompts(), library.encode_batch(prompts()), strict=True):
        found = ours.encode(prompt)
        assert found.ids == expected.ids, ascii(prompt)
        assert found.special_tokens_mask == expected.special_tokens_mask
        assert expected.special_tokens_mask[:1] != [1] or found.tokens[0] == expected.tokens[0]
    for prompt in prompts()[:500]:
        plain = library.encode(prompt, add_special_tokens=False)
        assert ours.encode(prompt, add_special_tokens=False).ids == plain.ids


def test_the_same_texts(both: Both) -> None:
    """Of random ids: most of them are bytes that are no UTF-8, and some are no ids."""
    library, ours = both
    random, size = Random(0), library.get_vocab_size()
    for _ in range(3000):
        ids = [random.randrange(random.choice((300, size, size + 9))) for _ in range(random.randint(0, 12))]
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == library.decode(ids, skip_special_tokens=skip), ids


def test_the_same_vocabulary(both: Both) -> None:
    library, ours = both
    for added in (False, True):
        assert ours.get_vocab(with_added_tokens=added) == library.get_vocab(with_added_tokens=added)
        assert ours.get_vocab_size(with_added_tokens=added) == library.get_vocab_size(with_added_tokens=added)
    ids = range(library.get_vocab_size() + 9)
    assert [*map(ours.id_to_token, ids)] == [*map(library.id_to_token, ids)]
    names = [*library.get_vocab(), "", "no such token"]
    assert [*map(ours.token_to_id, names)] == [*map(library.token_to_id, names)]


# --- characters ------------------------------------------------------------------------------------------------

# All but most of those kinds of which there are runs of thousands; more of where the newest scripts are.
RUNS = ("Lo", "Cn", "Co")
CODES = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
CHARACTERS = [chr(code) for code in CODES if code % 64 == 0 or unicodedata.category(chr(code)) not in RUNS]
CHARACTERS += map(chr, range(0x10D00, 0x17000, 7))
MARKS = [c for c in CHARACTERS if unicodedata.combining(c) or unicodedata.decomposition(c)]


@pytest.mark.parametrize("rule", [GPT2, LLAMA3, QWEN, True, False])
def test_each_character_is_of_the_kind_that_the_library_has_it(rule: str | bool) -> None:
    """Letters, numbers and spaces of a newer Unicode than Python's, too, and contractions in every case."""
    library: Any = pre_tokenizers.Digits(individual_digits=bool(rule))
    ours = split_by(rule) if isinstance(rule, str) else split_digits(rule)
    if isinstance(rule, str):
        library = pre_tokenizers.Split(Regex(rule), "isolated")
    assert len(CHARACTERS) > 15_000
    for start in range(0, len(CHARACTERS), 500):
        text = "".join(f"a{c}1{c}!{c}{c} {c}'{c}b\n{c} \n '{c}" for c in CHARACTERS[start : start + 500])
        assert ours(text) == [piece for piece, _ in library.pre_tokenize_str(text)]


def test_characters_are_composed_as_the_library_does() -> None:
    library, random = normalizers.NFC(), Random(0)
    for text in [*CHARACTERS, *texts("composing", 2000)]:
        assert composed(text) == library.normalize_str(text), ascii(text)
    for _ in range(10_000):
        text = "".join(random.choice(MARKS) if random.random() < 0.8 else "e" for _ in range(random.randint(2, 7)))
        assert composed(text) == library.normalize_str(text), ascii(text)


# --- what it refuses, and what takes long ----------------------------------------------------------------------


@pytest.mark.parametrize("word", ["a", " ", "漢字", "<|im_start|>", "<|"])
def test_a_text_of_a_hundred_thousand_letters(word: str, default_model_folder: Path) -> None:
    content = (default_model_folder / "tokenizer.json").read_bytes()
    text = word * (100_000 // len(word))
    ids = byte_level_bpe.Tokenizer.from_buffer(content).encode(text).ids
    assert ids == tokenizers.Tokenizer.from_buffer(content).encode(text).ids


BPE: dict[str, Any] = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
GOOD: dict[str, Any] = {"model": BPE, "pre_tokenizer": BYTE_LEVEL, "decoder": BYTE_LEVEL}
TOKEN = {"id": 3, "content": "<s>"} | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
TEXT, BOS = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}
KNOWN = {"id": "<s>", "ids": [3], "tokens": ["<s>"]}
TEMPLATE = {"type": "TemplateProcessing", "single": [BOS, TEXT], "pair": [], "special_tokens": {"<s>": KNOWN}}
SPLIT = {"type": "Split", "pattern": {"Regex": GPT2}, "behavior": "Isolated", "invert": False}


def test_a_small_one_is_read() -> None:
    content = GOOD | {"added_tokens": [TOKEN], "post_processor": TEMPLATE}
    assert byte_level_bpe.Tokenizer(content).encode("abba").ids == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "a model of type Unigram"),
        ({"model": BPE | {"byte_fallback": True}}, "byte_fallback True"),
        ({"model": BPE | {"dropout": 0.1}}, "dropout 0.1"),
        ({"model": BPE | {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix </w>"),
        ({"model": BPE | {"unk_token": "<unk>"}}, "the token '<unk>' for bytes that have none"),
        ({"model": BPE | {"vocab": {"a": 0, "b": 0}}}, "two tokens with one id"),
        ({"model": BPE | {"vocab": {"a": -1}}}, "ids that are no whole numbers"),
        ({"model": BPE | {"merges": [["a", "c"]]}}, "merge .*'c'.* does not fit"),
        ({"model": BPE | {"merges": ["a b c"]}}, "merge 'a b c' does not fit"),
        ({"normalizer": {"type": "NFKC"}}, "a normalizer of type NFKC"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}}, "Lowercase"),
        ({"pre_tokenizer": None}, "a pre_tokenizer that does not end in ByteLevel"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTE_LEVEL]}}, "the split rule .*'s"),
        ({"pre_tokenizer": BYTE_LEVEL | {"use_regex": "no"}}, "its use_regex is 'no', and true or false"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "does not end in ByteLevel"),
        ({"decoder": {"type": "Sequence", "decoders": []}}, "a decoder of type Sequence"),
        ({"decoder": None}, "a decoder of type null"),
        ({"post_processor": {"type": "BertProcessing"}}, "a post_processor of type BertProcessing"),
        ({"post_processor": {"type": "Sequence", "processors": [TEMPLATE, TEMPLATE]}}, "two templates"),
        ({"post_processor": TEMPLATE | {"single": [TEXT, TEXT]}}, "more than once, or not at all"),
        ({"post_processor": TEMPLATE | {"special_tokens": {}}}, "have not one id each"),
        ({"post_processor": TEMPLATE | {"special_tokens": {"<s>": KNOWN | {"tokens": ["x"]}}}}, "other names"),
        ({"added_tokens": [TOKEN | {"single_word": True}]}, "single_word, of the added token '<s>'"),
        ({"added_tokens": [TOKEN | {"lstrip": 1}]}, "'<s>' is no text with flags"),
        ({"added_tokens": [{"content": "<s>"}]}, "its parts are not those of a tokenizer"),
        ({"model": None}, "its parts are not those of a tokenizer"),
    ],
)
def test_what_it_cannot_read_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        byte_level_bpe.Tokenizer.from_buffer(json.dumps(GOOD | change).encode())
