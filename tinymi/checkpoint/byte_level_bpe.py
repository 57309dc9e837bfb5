"""Byte-level BPE in plain Python, for where the `tokenizers` library cannot be: in a browser's tab.

A text is cut at its added tokens, then into words by the model's split rule. The bytes of each word are merged, pair by
pair, in the order that training found. Names and results are the library's. What is not implemented is refused by its
name: other models such as SentencePiece's, other normalizers, split rules and decoders.
"""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain
from typing import Any, NoReturn

from tinymi.checkpoint.json_object import parse_object
from tinymi.checkpoint.words import (
    GPT2,
    LLAMA3,
    QWEN,
    SPACES,
    Split,
    begin_with_space,
    composed,
    split_by,
    split_digits,
)

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that are written as themselves
_OTHERS = sorted({*range(256)} - {*_PRINTED})
_LETTERS = {byte: chr(byte) for byte in _PRINTED} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}

Merges = Mapping[tuple[int, int], tuple[int, int]]  # a pair of ids -> the rank of its merge, and what it becomes


@dataclass(frozen=True)
class AddedToken:
    """A token that is found before a text is split. lstrip, rstrip: together with the spaces before it, behind it."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True  # it is looked for in the normalized text
    special: bool = False

    def __post_init__(self) -> None:
        flags = [getattr(self, field.name) for field in fields(self)[1:]]
        if not isinstance(self.content, str) or not all(isinstance(flag, bool) for flag in flags):
            raise ValueError(f"its added token {str(self.content)[:80]!r} is no text with flags")
        if self.single_word:
            _refuse(f"single_word, of the added token {self.content[:80]!r}")


@dataclass(frozen=True)
class TemplateProcessing:
    """What stands around each text: tokens and, for the text, "$A:0"."""

    single: Sequence[str]
    pair: Sequence[str]  # around two texts at once
    special_tokens: Sequence[tuple[str, int]]

    def __post_init__(self) -> None:
        known = {name: index for name, index in self.special_tokens if type(index) is int and 0 <= index < 2**32}
        if len(known) < len(self.special_tokens) or not {*self.single} <= {"$A:0", *known}:
            _refuse("a template with tokens of no single id")
        if list(self.single).count("$A:0") != 1:
            _refuse("a template that has not the text once")

    @property
    def ends(self) -> tuple[list[int], list[int]]:
        """The ids before a text, and those after it."""
        at, known = list(self.single).index("$A:0"), dict(self.special_tokens)
        return [known[token] for token in self.single[:at]], [known[token] for token in self.single[at + 1 :]]


@dataclass(frozen=True)
class Encoding:
    """A text's ids, their tokens, and 1 for each that the template has put around it."""

    ids: list[int]
    tokens: list[str | None]
    special_tokens_mask: list[int]


class Tokenizer:
    """A tokenizer.json."""

    @classmethod
    def from_buffer(cls, text: bytes) -> "Tokenizer":
        """Raises ValueError for what is broken or not implemented."""
        try:
            return cls(parse_object(text))
        except (AttributeError, IndexError, KeyError, TypeError):
            raise ValueError("its parts are not those of a tokenizer") from None

    def __init__(self, content: Mapping[str, Any]) -> None:
        model = content["model"]
        _check(model, content["decoder"])
        self._vocab: dict[str, int] = model["vocab"]
        self._tokens = {index: token for token, index in self._vocab.items()}
        self._merges = _merges(model["merges"], self._vocab)
        self._takes_whole_words = model.get("ignore_merges") is True
        self._composes = _composes(content.get("normalizer"))
        self._splits = _splits(content["pre_tokenizer"])
        self._ids_of = lru_cache(maxsize=1 << 16)(self._merged)
        self._added: dict[int, AddedToken] = {}
        self._added_ids: dict[str, int] = {}
        self.add_tokens(map(_added_token, content.get("added_tokens") or []))
        self.post_processor = _template(content.get("post_processor"))

    def no_truncation(self) -> None:
        """A text is never cut here."""

    def no_padding(self) -> None:
        """A text is never padded here."""

    # --- the vocabulary ----------------------------------------------------------------------------------------

    def add_tokens(self, tokens: Iterable[AddedToken]) -> None:
        """Those that the vocabulary has keep their id; others get the next ones."""
        free = max([len(self._vocab), *(index + 1 for index in self._added)])
        for token in tokens:
            if not token.content:
                continue
            index = self.token_to_id(token.content)
            if index is None:
                index, free = free, free + 1
            self._added[index], self._added_ids[token.content] = token, index
        places: dict[bool, dict[str, tuple[int, AddedToken]]] = {False: {}, True: {}}
        for index, token in self._added.items():
            places[token.normalized][self._written(token)] = index, token
        self._verbatim, self._normalized = _Finder(places[False]), _Finder(places[True])

    def _written(self, token: AddedToken) -> str:
        return self._normal(token.content) if token.normalized else token.content

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self._added

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        return self._vocab | self._added_ids if with_added_tokens else self._vocab

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        return len(self.get_vocab(with_added_tokens))

    def token_to_id(self, token: str) -> int | None:
        return self._added_ids.get(token, self._vocab.get(token))

    def id_to_token(self, index: int) -> str | None:
        return self._written(self._added[index]) if index in self._added else self._tokens.get(index)

    # --- text to ids and back ----------------------------------------------------------------------------------

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoding:
        template = self.post_processor if add_special_tokens else None
        before, after = template.ends if template else ([], [])
        inner = list(self._ids(text))
        ids = [*before, *inner, *after]
        mask = [1] * len(before) + [0] * len(inner) + [1] * len(after)
        return Encoding(ids, [self.id_to_token(index) for index in ids], mask)

    def _ids(self, text: str) -> Iterator[int]:
        for part, token in self._verbatim.cut(text):
            for piece, other in [(part, token)] if token is not None else self._normalized.cut(self._normal(part)):
                yield from self._word_ids(piece) if other is None else [other]

    def _normal(self, text: str) -> str:
        return composed(text) if self._composes else text

    def _word_ids(self, text: str) -> Iterator[int]:
        words = [text]
        for split in self._splits:
            words = list(chain.from_iterable(map(split, words)))
        return chain.from_iterable(map(self._ids_of, words))

    def _merged(self, word: str) -> list[int]:
        letters = [_LETTERS[byte] for byte in word.encode()]
        if self._takes_whole_words and (index := self._vocab.get("".join(letters))) is not None:
            return [index]
        return merge([self._vocab[letter] for letter in letters if letter in self._vocab], self._merges)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of ids, without those that do not exist. Bytes that are no UTF-8 become U+FFFD."""
        dropped = {index for index, token in self._added.items() if token.special and skip_special_tokens}
        tokens = [self.id_to_token(index) for index in ids if index not in dropped]
        return b"".join(_content(token) for token in tokens if token is not None).decode("utf-8", "replace")


def _content(token: str) -> bytes:
    """Its bytes. An added token may have letters that stand for no byte; then its text is meant."""
    return bytes(_BYTES[letter] for letter in token) if _BYTES.keys() >= {*token} else token.encode()


def merge(ids: Sequence[int], merges: Merges) -> list[int]:
    """`ids` when all pairs are merged that can be, the lowest rank first, and of equals the leftmost.

    A heap holds the pairs in this order, so that a word of 100,000 letters takes a second and not a day.
    """
    ids, left, right = list(ids), list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))

    def pair_at(at: int) -> list[tuple[int, int, int]]:
        """The rank, the place and the result of a merge that begins here, if there is one."""
        if at < 0 or right[at] == len(ids) or (ids[at], ids[right[at]]) not in merges:
            return []
        rank, result = merges[ids[at], ids[right[at]]]
        return [(rank, at, result)]

    heap = [pair for at in range(len(ids)) for pair in pair_at(at)]
    heapq.heapify(heap)
    while heap:
        _, at, result = heapq.heappop(heap)
        if [result] != [pair[2] for pair in pair_at(at)]:  # one of the two has been merged with another
            continue
        gone = right[at]
        ids[at], ids[gone], right[at] = result, -1, right[gone]
        if right[at] < len(ids):
            left[right[at]] = at
        for pair in [*pair_at(left[at]), *pair_at(at)]:
            heapq.heappush(heap, pair)
    return [index for index in ids if index >= 0]


class _Finder:
    """Finds added tokens in a text: the leftmost, and of those that begin there the longest."""

    def __init__(self, tokens: Mapping[str, tuple[int, AddedToken]]) -> None:
        self._tokens = tokens
        longest_first = sorted(tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # which is nowhere

    def cut(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The text in pieces, each with the id of the token that it is, or None."""
        at = 0
        for match in self._pattern.finditer(text):
            (index, token), (start, stop) = self._tokens[match[0]], match.span()
            if token.lstrip:
                start = max(at, len(text[:start].rstrip(SPACES)))
            if token.rstrip:
                stop = len(text) - len(text[stop:].lstrip(SPACES))
            if at < start:
                yield text[at:start], None
            yield text[start:stop], index
            at = stop
        if at < len(text):
            yield text[at:], None


# --- the parts of a tokenizer.json -----------------------------------------------------------------------------


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"it needs {what}, which only the tokenizers library has")


def _kind(part: Any) -> str:
    return "null" if part is None else str(part["type"])[:40]


def _check(model: Mapping[str, Any], decoder: Any) -> None:
    """That the model is plain byte-level BPE, and its vocabulary a list of tokens."""
    if model.get("type", "BPE") != "BPE":
        _refuse(f"a model of type {_kind(model)}")
    for name in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            _refuse(f"{name} {str(model[name])[:40]}")
    if _kind(decoder) != "ByteLevel":
        _refuse(f"a decoder of type {_kind(decoder)}")
    vocab = model["vocab"]
    if not all(type(index) is int and 0 <= index < 2**32 for index in vocab.values()):
        raise ValueError("its vocab has ids that are no whole numbers")
    if len({*vocab.values()}) < len(vocab):
        raise ValueError("its vocab has two tokens with one id")
    if model.get("unk_token") is not None and not _BYTES.keys() <= vocab.keys():
        _refuse(f"the token {str(model['unk_token'])[:40]!r} for bytes that have none")


def _merges(entries: Iterable[Any], vocab: Mapping[str, int]) -> Merges:
    merges = {}
    for rank, entry in enumerate(entries):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
            raise ValueError(f"its merge {str(entry)[:80]!r} does not fit the vocab")
        merges[vocab[pair[0]], vocab[pair[1]]] = rank, vocab["".join(pair)]
    return merges


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    return AddedToken(**{field.name: entry[field.name] for field in fields(AddedToken)})


def _composes(normalizer: Any) -> bool:
    """Whether a text is brought to Unicode's composed form first."""
    if normalizer is None:
        return False
    if _kind(normalizer) == "Sequence":
        return True in list(map(_composes, normalizer["normalizers"]))  # a list, so that each is looked at
    return _kind(normalizer) == "NFC" or _refuse(f"a normalizer of type {_kind(normalizer)}")


def _splits(pre_tokenizer: Any) -> list[Split]:
    steps = pre_tokenizer["pretokenizers"] if _kind(pre_tokenizer) == "Sequence" else [pre_tokenizer]
    if [_kind(step) == "ByteLevel" for step in steps] != [False] * (len(steps) - 1) + [True]:
        _refuse("a pre_tokenizer that does not end in ByteLevel")
    return [split for step in steps for split in _steps(step)]


def _steps(step: Mapping[str, Any]) -> list[Split]:
    kind = _kind(step)
    if kind == "ByteLevel":
        rule = [split_by(GPT2)] if step.get("use_regex", True) else []
        return [begin_with_space, *rule] if step["add_prefix_space"] else rule
    if kind == "Digits":
        return [split_digits(step["individual_digits"])]
    if kind != "Split":
        _refuse(f"a pre_tokenizer of type {kind}")
    rule = step["pattern"].get("Regex")
    if rule not in (QWEN, LLAMA3) or step["behavior"] != "Isolated" or step["invert"]:
        _refuse(f"the split rule {str(step['pattern'])[:200]}")
    return [split_by(rule)]


def _template(processor: Any) -> TemplateProcessing | None:
    if processor is None or _kind(processor) == "ByteLevel":  # which is about where a token stands
        return None
    if _kind(processor) == "Sequence":
        templates = [template for template in map(_template, processor["processors"]) if template]
        return templates[0] if len(templates) == 1 else _refuse("two templates") if templates else None
    if _kind(processor) != "TemplateProcessing":
        _refuse(f"a post_processor of type {_kind(processor)}")
    pieces = [(kind, piece) for entry in processor["single"] for kind, piece in entry.items()]
    single = [f"${piece['id']}:0" if kind == "Sequence" else piece["id"] for kind, piece in pieces]
    known = [(name, index) for name, token in processor["special_tokens"].items() for index in token["ids"]]
    return TemplateProcessing(single, (), known)
