"""Byte-level BPE in plain Python, for where the `tokenizers` library cannot be: in a browser's tab.

A text is cut at its added tokens, then into words by the model's split rule. The bytes of each word are merged, pair by
pair, in the order that training found. Names and results are the library's. What is not implemented is refused by its
name: other models such as SentencePiece's, other normalizers, split rules and decoders.
"""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from tinymi.checkpoint.json_object import parse_object
from tinymi.checkpoint.tokenizer_parts import (
    BYTES,
    LETTERS,
    AddedToken,
    Merges,
    TemplateProcessing,
    check_model,
    composes,
    flag,
    read_added_token,
    read_merges,
    read_splits,
    read_template,
)
from tinymi.checkpoint.words import SPACES, composed

__all__ = ["AddedToken", "TemplateProcessing", "Tokenizer"]  # by the names of the library's


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
        check_model(model, content["decoder"])
        self._vocab: dict[str, int] = model["vocab"]
        self._tokens = {index: token for token, index in self._vocab.items()}
        self._merges = read_merges(model["merges"], self._vocab)
        self._takes_whole_words = flag(model, "ignore_merges", False)
        self._composes = composes(content.get("normalizer"))
        self._splits = read_splits(content["pre_tokenizer"])
        self._ids_of = lru_cache(maxsize=1 << 16)(self._merged)
        self._added: dict[int, AddedToken] = {}
        self._added_ids: dict[str, int] = {}
        self.add_tokens(map(read_added_token, content.get("added_tokens") or []))
        self.post_processor = read_template(content.get("post_processor"))

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
        inner = [(self.id_to_token(index), index) for index in self._ids(text)]
        tokens, ids = zip(*before, *inner, *after) if before or inner or after else ((), ())
        return Encoding([*ids], [*tokens], [1] * len(before) + [0] * len(inner) + [1] * len(after))

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
        letters = [LETTERS[byte] for byte in word.encode()]
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
    return bytes(BYTES[letter] for letter in token) if BYTES.keys() >= {*token} else token.encode()


def merge(ids: Sequence[int], merges: Merges) -> list[int]:
    """`ids` when all pairs are merged that can be, the lowest rank first, and of equals the leftmost.

    A heap holds the pairs in this order, so that a word of 100,000 letters takes a second and not a day.
    """
    ids, left, right = list(ids), list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))

    def pair_at(at: int) -> tuple[int, int, int] | None:
        """The rank, the place and the result of a merge that begins here, if there is one."""
        if at < 0 or right[at] == len(ids) or (ids[at], ids[right[at]]) not in merges:
            return None
        rank, result = merges[ids[at], ids[right[at]]]
        return rank, at, result

    heap = [pair for pair in map(pair_at, range(len(ids))) if pair]
    heapq.heapify(heap)
    while heap:
        _, at, result = heapq.heappop(heap)
        pair = pair_at(at)
        if pair is None or pair[2] != result:  # one of the two has been merged with another
            continue
        gone = right[at]
        ids[at], ids[gone], right[at] = result, -1, right[gone]
        if right[at] < len(ids):
            left[right[at]] = at
        for new in (pair_at(left[at]), pair_at(at)):
            if new:
                heapq.heappush(heap, new)
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
