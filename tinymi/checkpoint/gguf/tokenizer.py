"""The tokenizer of a GGUF file, rebuilt as the content of a tokenizer.json from its vocabulary and merges.

GGUF names a tokenizer's kind and the rule that splits text before merging, and leaves the rest to the reader.
Two kinds are built: byte-level BPE ("gpt2": LLaMA 3, Qwen, SmolLM) and SentencePiece BPE ("llama": LLaMA 1
and 2). A split rule that is not known for certain is refused: a wrong one gives other tokens without a sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinymi.checkpoint.gguf.config import token_id
from tinymi.checkpoint.gguf.reader import GGUFFile, Numbers
from tinymi.checkpoint.gguf.splits import COMPOSED, LLAMA3, SPLITS, WHOLE_WORDS

import numpy as np

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_EMPTY = dict.fromkeys(
    ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
) | {"version": "1.0"}
_MODEL = {
    "type": "BPE",
    **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
    **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
}
_LONGEST = 1000  # characters of a token; real ones have up to some hundred, all of them spaces


def tokenizer_of(file: GGUFFile) -> dict[str, Any]:
    """The content of tokenizer.json. Raises SourceError when it cannot be known."""
    kind = file.metadata.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        raise file.refuse(f"tokenizer.ggml.model is {str(kind)[:40]!r}: valid are {', '.join(builders)}")
    parts = builders[kind](file)
    parts["model"] = _MODEL | parts["model"]
    return _EMPTY | {"added_tokens": _added_tokens(file), "post_processor": _template(file)} | parts


def _vocabulary(file: GGUFFile) -> dict[str, int]:
    tokens: tuple[str, ...] = file.metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for index, token in enumerate(tokens) if vocabulary[token] != index)
        raise file.refuse(f"the token {twice!r} occurs twice in tokenizer.ggml.tokens")
    return vocabulary


def _types(file: GGUFFile) -> list[int]:
    return [int(kind) for kind in _numbers(file, "tokenizer.ggml.token_type", "i")]


def _numbers(file: GGUFFile, key: str, kind: str) -> list[float]:
    """The array `key`: one number per token, of NumPy's `kind` "i" (whole) or "f"."""
    n_tokens, found = len(file.metadata["tokenizer.ggml.tokens"]), file.metadata.get(key)
    if not isinstance(found, Numbers) or found.values.dtype.kind != kind or len(found.values) != n_tokens:
        raise file.refuse(f"{key} is missing or broken: one number for each of the {n_tokens} tokens would be valid")
    if np.isnan(found.values).any():
        raise file.refuse(f"{key} holds NaN: numbers would be valid")
    return list(found.values.tolist())


def _flag(file: GGUFFile, key: str, *, default: bool) -> bool:
    value = file.metadata.get(key, default)
    if not isinstance(value, bool):
        raise file.refuse(f"{key} is {str(value)[:40]!r}: true or false would be valid")
    return value


# ---- byte-level BPE


def _byte_level(file: GGUFFile) -> dict[str, Any]:
    rule = file.metadata.get("tokenizer.ggml.pre")
    if rule is None:
        raise file.refuse(
            "tokenizer.ggml.pre, the rule for splitting text, is missing: files made since May 2024 have it",
            "use a newer GGUF file of this model",
        )
    if rule not in SPLITS:
        raise file.refuse(
            f"tokenizer.ggml.pre is {str(rule)[:40]!r}, a rule for splitting text that is not known: "
            f"valid are {', '.join(map(str, SPLITS))}"
        )
    whole = rule in WHOLE_WORDS
    return {
        "normalizer": {"type": "NFC"} if rule in COMPOSED else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": SPLITS[rule]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"ignore_merges": whole, "vocab": _vocabulary(file), "merges": _stored_merges(file)},
    }


def _stored_merges(file: GGUFFile) -> list[tuple[str, str]]:
    lines = file.metadata.get("tokenizer.ggml.merges")
    if not isinstance(lines, tuple):
        raise file.refuse("tokenizer.ggml.merges is missing: byte-level BPE needs them")
    vocabulary = file.metadata["tokenizer.ggml.tokens"]
    known = set(vocabulary)
    merges = []
    for line in lines:
        left, _, right = line.partition(" ")
        if not {left, right, left + right} <= known:
            raise file.refuse(f"the merge {line!r} of tokenizer.ggml.merges does not fit the vocabulary")
        merges.append((left, right))
    return merges


# ---- SentencePiece BPE


def _sentencepiece(file: GGUFFile) -> dict[str, Any]:
    vocabulary = _vocabulary(file)
    unknown = token_id(file, "unknown_token")
    prefix = _flag(file, "tokenizer.ggml.add_space_prefix", default=True)
    first: list[dict[str, Any]] = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    last: list[dict[str, Any]] = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    unmark = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*first, mark]},
        "decoder": {"type": "Sequence", "decoders": [unmark, {"type": "ByteFallback"}, {"type": "Fuse"}, *last]},
        "model": {
            "unk_token": None if unknown is None else file.metadata["tokenizer.ggml.tokens"][unknown],
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": _merges_from_scores(file, vocabulary),
        },
    }


def _merges_from_scores(file: GGUFFile, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece merges the pair whose result scores highest, and of equals the leftmost; BPE wants an order.

    Equal are the pieces of spaces, whose runs so grow from the left: the longer left part comes first.
    """
    scores = _numbers(file, "tokenizer.ggml.scores", "f")
    kinds = _types(file)
    mergeable = {token: index for token, index in vocabulary.items() if kinds[index] in (_NORMAL, _USER_DEFINED)}
    if (longest := max(map(len, mergeable), default=0)) > _LONGEST:  # its cuts take time that grows with its square
        raise file.refuse(f"tokenizer.ggml.tokens has a token of {longest:,} characters: {_LONGEST:,} are the most")
    pairs = [(scores[index], *pair) for token, index in mergeable.items() for pair in _cuts(token, mergeable)]
    if len(pairs) > 1 and len({score for score, _, _ in pairs}) == 1:
        raise file.refuse(
            "all of tokenizer.ggml.scores are equal, and the order of merges is nowhere else: it was made without the "
            "model's tokenizer.model"
        )
    pairs.sort(key=lambda pair: (-pair[0], -len(pair[1]), -len(pair[2])))
    return [pair[1:] for pair in pairs]


def _cuts(token: str, vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(token)):
        if token[:at] in vocabulary and token[at:] in vocabulary:
            yield token[:at], token[at:]


# ---- what both kinds share


def _added_tokens(file: GGUFFile) -> list[dict[str, Any]]:
    """Control tokens (<s>, <|im_end|>), the unknown token and the author's own are matched whole, unsplit."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": index, "content": token, **flags, "special": kind != _USER_DEFINED}
        for index, (token, kind) in enumerate(zip(file.metadata["tokenizer.ggml.tokens"], _types(file), strict=True))
        if token and kind in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]


def _template(file: GGUFFile) -> dict[str, Any] | None:
    """The tokens put before and after every text. LLaMA's files mean "before" where they say nothing."""
    is_llama = file.metadata["tokenizer.ggml.model"] == "llama" or file.metadata.get("tokenizer.ggml.pre") in LLAMA3
    before = _end(file, "bos", default=is_llama)
    after = _end(file, "eos", default=False)

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        first, last = (
            [{"SpecialToken": {"id": token, "type_id": type_id}} for token in end] for end in (before, after)
        )
        return [*first, {"Sequence": {"id": sequence, "type_id": type_id}}, *last]

    ids = {token: file.metadata["tokenizer.ggml.tokens"].index(token) for token in (*before, *after)}
    known = {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in ids.items()}
    template = {"single": around("A", 0), "pair": around("A", 0) + around("B", 1), "special_tokens": known}
    return {"type": "TemplateProcessing", **template} if known else None


def _end(file: GGUFFile, name: str, *, default: bool) -> list[str]:
    wanted = _flag(file, f"tokenizer.ggml.add_{name}_token", default=default)
    index = token_id(file, f"{name}_token")
    if wanted and index is None:
        raise file.refuse(f"the file wants a {name} token around every text, but has no tokenizer.ggml.{name}_token_id")
    return [file.metadata["tokenizer.ggml.tokens"][index]] if wanted else []


def tokenizer_config_of(file: GGUFFile) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    tokens = file.metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: token_id(file, f"{key}_token") for name, key in names.items()}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {name: tokens[index] for name, index in ids.items() if index is not None}
    template = file.metadata.get("tokenizer.chat_template")
    return config | ({"chat_template": template} if isinstance(template, str) else {})
