"""Files of JSON from outside: one object, read without surprises."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_MOST_BYTES = 256 << 20  # the largest index of a published model has a few MB


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`. Raises ValueError, which says what is wrong with the file."""
    return parse_object(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The content of the file `path`. Raises ValueError for what is no file of a sensible size."""
    if not path.exists():
        raise ValueError("there is no such file")
    if not path.is_file():  # a pipe or a device might never end
        raise ValueError("it is not a regular file")
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, and more than {_MOST_BYTES:,} are not read")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None


def parse_object(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`. Raises ValueError for what is no UTF-8, no JSON, no object, or names a key twice."""
    try:
        found = json.loads(text.decode("utf-8"), object_pairs_hook=_without_doubles)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start:,})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds a JSON {type(found).__name__}, not an object")
    return found


def _without_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers of `{"a": 1, "a": 2}` may each take another value, so nobody shall take any."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(name for name in found if names.count(name) > 1)[:80]!r} twice")
    return found
