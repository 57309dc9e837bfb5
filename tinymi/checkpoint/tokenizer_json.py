"""A tokenizer.json read so that it can do no harm: what `except` could not catch is refused beforehand.

The tokenizers library trusts its file. Replacements one after the other may make a text a million times as long, and
a table that states a wrong length takes gigabytes: where they are not there, the interpreter ends.
"""

import base64
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tinymi.checkpoint import tokenizer_config
from tinymi.checkpoint.json_object import parse_object, read_bytes
from tinymi.checkpoint.tokenizer_library import IN_PYTHON
from tinymi.checkpoint.tokenizer_library import Tokenizer as Backend
from tinymi.errors import TokenizerError
from tinymi.tokenizer import Tokenizer, attempt

_SAMPLE = "Ünder the sea. 42\n"
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_MOST_GROWTH = 100  # real ones make a text up to ten times as long


def read_tokenizer(folder: Path, d_vocab: int) -> Tokenizer | None:
    """Read `folder/tokenizer.json`, with what its tokenizer_config.json adds; None where there is no such file.

    d_vocab: rows of the embedding that the vocabulary must fit into. Tokens that were added to it need not: a prompt
    that holds one is refused.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    try:
        backend = read_backend(path)
        path = folder / "tokenizer_config.json"
        tokenizer_config.apply(path, backend)
        template = tokenizer_config.chat_template(folder)
        around = attempt(lambda: backend.encode("").ids)  # what comes around every text need not be a token
    except ValueError as error:
        raise TokenizerError(f"{path}: cannot be read ({error}); take the file that belongs to the model") from None
    highest = max([*backend.get_vocab(with_added_tokens=False).values(), *around], default=-1)
    if not 0 <= highest < d_vocab:
        raise TokenizerError(
            f"{folder / 'tokenizer.json'}: has ids up to {highest}, but the model's vocabulary ends at {d_vocab - 1}; "
            "it belongs to another model: take the model's own"
        )
    return Tokenizer(backend, template)


def read_backend(path: Path) -> Backend:
    """The library's tokenizer. Raises ValueError, which says what is wrong with the file."""
    text = read_bytes(path)
    if IN_PYTHON:  # it refuses whatever could do harm
        return Backend.from_buffer(text)
    if b"charsmap" in text or b"\\u" in text:  # "charsmap" may be spelled with escapes; only then is all of it parsed
        _check_tables(parse_object(text))
    with _panics_not_printed():
        backend = attempt(lambda: Backend.from_buffer(text))
        backend.no_truncation()  # a prompt is never cut or padded in silence
        backend.no_padding()
        for part in _PARTS:
            _check_growth(part, getattr(backend, part))
        attempt(lambda: _use(backend))
    if dropout := getattr(backend.model, "dropout", None):
        raise ValueError(f"its model has a dropout of {dropout:g}, with which no two runs give the same tokens")
    return backend


def _use(backend: Backend) -> None:
    """There and back once. A tokenizer that does not know these letters may know others; one that panics is broken."""
    with suppress(Exception):
        backend.decode(backend.encode(_SAMPLE).ids, skip_special_tokens=False)


@contextmanager
def _panics_not_printed() -> Iterator[None]:
    """Rust tells a panic to standard error before it becomes an exception, which says the same."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: nobody is told anything
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check_tables(raw: dict[str, Any]) -> None:
    """A table of Unicode replacements begins with its length, four bytes, which are not to promise too much."""
    for part in _PARTS:
        for step in _objects(raw.get(part)):
            if (table := step.get("precompiled_charsmap")) is not None and not _is_whole(table):
                raise ValueError(f"its {part} holds a precompiled_charsmap that is cut short")


def _is_whole(table: Any) -> bool:
    try:
        content = base64.b64decode(table, validate=True)
    except (TypeError, ValueError):
        return False
    return len(content) > 4 and int.from_bytes(content[:4], "little") <= len(content) - 4


def _check_growth(name: str, part: Any) -> None:
    """That no text grows without measure in one part: its steps follow each other, so that their factors multiply."""
    state = {} if part is None else json.loads(part.__getstate__())
    growth = math.prod(map(_growth, _objects(state)))
    if growth > _MOST_GROWTH:
        raise ValueError(
            f"its {name} may make a text {growth:,.0f} times as long, and {_MOST_GROWTH} times is the most"
        )


def _growth(step: dict[str, Any]) -> float:
    """By which factor one step can make a text longer."""
    if isinstance(step.get("pattern"), dict) and isinstance(step.get("content"), str):  # Replace
        replaced = step["pattern"].get("String") or " "  # what a regular expression finds may be a single letter
        return max(1.0, len(step["content"].encode()) / len(replaced.encode()))
    if isinstance(step.get("single"), list):  # TemplateProcessing
        return max(1.0, sum("Sequence" in piece for piece in step["single"]))
    return 2.0 if step.get("type") == "ByteLevel" and "use_regex" in step else 1.0


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object anywhere in a piece of JSON."""
    left = [value]
    while left:
        found = left.pop()
        if isinstance(found, dict):
            yield found
            left += found.values()
        elif isinstance(found, list):
            left += found
