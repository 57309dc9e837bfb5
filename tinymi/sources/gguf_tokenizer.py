"""The tokenizer of a GGUF file, rebuilt as a `tokenizers.Tokenizer` from its vocabulary and merges.

GGUF names a tokenizer's kind and the rule that splits text before merging, and leaves the rest to the reader.
Two kinds are built: byte-level BPE ("gpt2": LLaMA 3, Qwen, SmolLM) and SentencePiece BPE ("llama": LLaMA 1
and 2). A split rule that is not known for certain is refused: a wrong one gives other tokens without a sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinymi.sources.gguf_config import token_id
from tinymi.sources.gguf_file import GGUFFile, Numbers

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_LONGEST = 1000  # characters of a token; real ones have up to some hundred, all of them spaces

# The rules by which text is split before merging, by the names llama.cpp gave them. SmolLM and GPT-2 use the
# regex of GPT-2, which ByteLevel has built in; the others differ in how many digits stay together.
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")  # these also take a word that is a token whole, without merging
_QWEN2 = ("qwen2", "deepseek-r1-qwen")  # these also bring text to Unicode's composed form first


def _regex(digits: str) -> list[Any]:
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), bytes_only]


_GPT2_REGEX = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
_SPLITS: dict[object, list[Any]] = {
    "gpt-2": [_GPT2_REGEX],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), _GPT2_REGEX],
    **dict.fromkeys(_QWEN2, _regex(r"\p{N}")),
    **dict.fromkeys(_LLAMA3, _regex(r"\p{N}{1,3}")),
}


def tokenizer_of(file: GGUFFile) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer, and the content of tokenizer_config.json. Raises SourceError when it cannot be known."""
    kind = file.metadata.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        raise file.refuse(f"tokenizer.ggml.model is {str(kind)[:40]!r}: valid are {', '.join(builders)}")
    tokenizer = builders[kind](file)
    _add_tokens(file, tokenizer)
    _add_ends(file, tokenizer)
    return tokenizer, _config(file)


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


def _byte_level(file: GGUFFile) -> Tokenizer:
    rule = file.metadata.get("tokenizer.ggml.pre")
    if rule not in _SPLITS:
        raise file.refuse(
            f"tokenizer.ggml.pre is {str(rule)[:40]!r}, a rule for splitting text that is not known: "
            f"valid are {', '.join(map(str, _SPLITS))}"
        )
    tokenizer = Tokenizer(BPE(vocab=_vocabulary(file), merges=_stored_merges(file), ignore_merges=rule in _LLAMA3))
    if rule in _QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_SPLITS[rule])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


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


def _sentencepiece(file: GGUFFile) -> Tokenizer:
    vocabulary = _vocabulary(file)
    unknown = token_id(file, "unknown_token")
    tokens = file.metadata["tokenizer.ggml.tokens"]
    model = BPE(
        vocab=vocabulary,
        merges=_merges_from_scores(file, vocabulary),
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    prefix = _flag(file, "tokenizer.ggml.add_space_prefix", default=True)
    scheme = "first" if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _merges_from_scores(file: GGUFFile, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece merges the pair whose result scores highest; BPE wants that order written out."""
    scores = _numbers(file, "tokenizer.ggml.scores", "f")
    kinds = _types(file)
    mergeable = {token: index for token, index in vocabulary.items() if kinds[index] in (_NORMAL, _USER_DEFINED)}
    if (longest := max(map(len, mergeable), default=0)) > _LONGEST:  # its cuts take time that grows with its square
        raise file.refuse(f"tokenizer.ggml.tokens has a token of {longest:,} characters: {_LONGEST:,} are the most")
    pairs = ((token, pair) for token in mergeable for pair in _cuts(token, mergeable))
    ranked = sorted(pairs, key=lambda item: (-scores[mergeable[item[0]]], *(mergeable[part] for part in item[1])))
    return [pair for _, pair in ranked]


def _cuts(token: str, vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(token)):
        if token[:at] in vocabulary and token[at:] in vocabulary:
            yield token[:at], token[at:]


# ---- what both kinds share


def _add_tokens(file: GGUFFile, tokenizer: Tokenizer) -> None:
    """Control tokens (<s>, <|im_end|>), the unknown token and the author's own are matched whole, unsplit."""
    pairs = list(zip(file.metadata["tokenizer.ggml.tokens"], _types(file), strict=True))
    special = [
        AddedToken(token, special=True, normalized=False) for token, kind in pairs if kind in (_UNKNOWN, _CONTROL)
    ]
    plain = [AddedToken(token, special=False, normalized=False) for token, kind in pairs if kind == _USER_DEFINED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _add_ends(file: GGUFFile, tokenizer: Tokenizer) -> None:
    """The tokens put before and after every text. LLaMA's files mean "before" where they say nothing."""
    is_llama = file.metadata["tokenizer.ggml.model"] == "llama" or file.metadata.get("tokenizer.ggml.pre") in _LLAMA3
    before = _end(file, "bos", default=is_llama)
    after = _end(file, "eos", default=False)
    if before or after:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A:0", *after],
            pair=[*before, "$A:0", *after, *(f"{token}:1" for token in before), "$B:1", *(f"{t}:1" for t in after)],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*before, *after}],
        )


def _end(file: GGUFFile, name: str, *, default: bool) -> list[str]:
    wanted = _flag(file, f"tokenizer.ggml.add_{name}_token", default=default)
    index = token_id(file, f"{name}_token")
    if wanted and index is None:
        raise file.refuse(f"the file wants a {name} token around every text, but has no tokenizer.ggml.{name}_token_id")
    return [file.metadata["tokenizer.ggml.tokens"][index]] if wanted else []


def _config(file: GGUFFile) -> dict[str, Any]:
    tokens = file.metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: token_id(file, f"{key}_token") for name, key in names.items()}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {name: tokens[index] for name, index in ids.items() if index is not None}
    template = file.metadata.get("tokenizer.chat_template")
    return config | ({"chat_template": template} if isinstance(template, str) else {})
