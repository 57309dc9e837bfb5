"""The tokenizer of a GGUF file, rebuilt as a `tokenizers.Tokenizer` from its vocabulary and merges.

GGUF names a tokenizer's kind and the rule that splits text before merging, and leaves the rest to the reader.
Two kinds are built: byte-level BPE ("gpt2": LLaMA 3, Qwen, SmolLM) and SentencePiece BPE ("llama": LLaMA 1
and 2). A split rule that is not known for certain is refused: a wrong one gives other tokens without a sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from tinymi.sources.gguf_config import token_id
from tinymi.sources.gguf_file import GGUFFile

_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_QWEN2 = _CONTRACTION + _WORD + r"|\p{N}" + _REST  # digits one by one
_LLAMA3 = _CONTRACTION + _WORD + r"|\p{N}{1,3}" + _REST  # digits in threes


def tokenizer_of(file: GGUFFile) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer, and the content of tokenizer_config.json. Raises SourceError when it cannot be known."""
    kind = file.metadata.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        raise file.refuse(f"tokenizer.ggml.model is {kind!r}: valid are {', '.join(builders)}")
    tokenizer = builders[kind](file)
    _add_tokens(file, tokenizer)
    _add_ends(file, tokenizer)
    return tokenizer, _config(file)


def _vocabulary(file: GGUFFile) -> dict[str, int]:
    tokens: list[str] = file.metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for index, token in enumerate(tokens) if vocabulary[token] != index)
        raise file.refuse(f"the token {twice!r} occurs twice in tokenizer.ggml.tokens: the file is damaged")
    return vocabulary


def _types(file: GGUFFile) -> list[int]:
    n_tokens = len(file.metadata["tokenizer.ggml.tokens"])
    return [int(kind) for kind in _numbers(file, "tokenizer.ggml.token_type", n_tokens)]


def _numbers(file: GGUFFile, key: str, count: int) -> list[float]:
    values = file.metadata.get(key)
    if values is None or isinstance(values, list | str) or getattr(values, "shape", None) != (count,):
        raise file.refuse(f"{key} is missing or broken: one number for each of the {count} tokens would be valid")
    return list(values.tolist())


# ---- byte-level BPE


def _byte_level(file: GGUFFile) -> Tokenizer:
    split = file.metadata.get("tokenizer.ggml.pre")
    rules = {
        "gpt-2": ([], None),
        "smollm": ([pre_tokenizers.Digits(individual_digits=True)], None),
        "qwen2": (_split(_QWEN2), normalizers.NFC()),
        "deepseek-r1-qwen": (_split(_QWEN2), normalizers.NFC()),
        "llama-bpe": (_split(_LLAMA3), None),
        "llama3": (_split(_LLAMA3), None),
        "llama-v3": (_split(_LLAMA3), None),
    }
    if split not in rules:
        raise file.refuse(
            f"tokenizer.ggml.pre is {split!r}, a rule for splitting text that is not known: valid are {', '.join(rules)}"
        )
    first, normalizer = rules[split]
    own_regex = not isinstance(first[0] if first else None, pre_tokenizers.Split)  # GPT-2's, inside ByteLevel
    model = BPE(vocab=_vocabulary(file), merges=_stored_merges(file), ignore_merges=_is_llama3(file))
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own_regex)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _is_llama3(file: GGUFFile) -> bool:
    return file.metadata.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3", "llama-v3")


def _split(pattern: str) -> list[Any]:
    return [pre_tokenizers.Split(Regex(pattern), behavior="isolated")]


def _stored_merges(file: GGUFFile) -> list[tuple[str, str]]:
    lines = file.metadata.get("tokenizer.ggml.merges")
    if not isinstance(lines, list):
        raise file.refuse("tokenizer.ggml.merges is missing: byte-level BPE needs them; use another GGUF file")
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
    prefix = bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    scheme = "first" if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _merges_from_scores(file: GGUFFile, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece merges the pair whose result scores highest; BPE wants that order written out."""
    scores = _numbers(file, "tokenizer.ggml.scores", len(vocabulary))
    kinds = _types(file)
    mergeable = {token: index for token, index in vocabulary.items() if kinds[index] in (_NORMAL, _USER_DEFINED)}
    pairs = ((token, pair) for token in mergeable for pair in _cuts(token, mergeable))
    ranked = sorted(pairs, key=lambda item: (-scores[mergeable[item[0]]], *(mergeable[part] for part in item[1])))
    return [pair for _, pair in ranked]


def _cuts(token: str, vocabulary: dict[str, int]) -> Iterator[tuple[str, str]]:
    for at in range(1, len(token)):
        if token[:at] in vocabulary and token[at:] in vocabulary:
            yield token[:at], token[at:]


# ---- what both kinds share


def _add_tokens(file: GGUFFile, tokenizer: Tokenizer) -> None:
    """Control tokens (<s>, <|im_end|>) and the author's own are matched whole, before any splitting."""
    pairs = list(zip(file.metadata["tokenizer.ggml.tokens"], _types(file), strict=True))
    special = [AddedToken(token, special=True, normalized=False) for token, kind in pairs if kind == _CONTROL]
    plain = [AddedToken(token, special=False, normalized=False) for token, kind in pairs if kind == _USER_DEFINED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _add_ends(file: GGUFFile, tokenizer: Tokenizer) -> None:
    """The tokens put before and after every text. LLaMA's files mean "before" where they say nothing."""
    is_llama = file.metadata["tokenizer.ggml.model"] == "llama" or _is_llama3(file)
    before = _end(file, "bos", default=is_llama)
    after = _end(file, "eos", default=False)
    if before or after:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*before, "$A:0", *after],
            pair=[*before, "$A:0", *after, *(f"{token}:1" for token in before), "$B:1", *(f"{t}:1" for t in after)],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in {*before, *after}],
        )


def _end(file: GGUFFile, name: str, *, default: bool) -> list[str]:
    wanted = file.metadata.get(f"tokenizer.ggml.add_{name}_token", default)
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
