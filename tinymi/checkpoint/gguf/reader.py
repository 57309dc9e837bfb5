"""Reading a GGUF file: its metadata and views of its tensors, with every length checked against the file.

The header is parsed here rather than by `gguf.GGUFReader`, which trusts the lengths that a file states: an
array cut short makes it append empty elements for as long as the stated length says. Types and block sizes
are the `gguf` package's. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinymi.errors import SourceError
from tinymi.machine.mapping import mapped

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, eq=False)
class Numbers:
    """A numeric array of the metadata; equal to nothing but itself, so that comparing a value never surprises."""

    values: NDArray[Any]

    def __str__(self) -> str:
        return f"an array of {len(self.values)} numbers"


@dataclass(frozen=True)
class Tensor:
    """One tensor as it lies in the file: `shape` in NumPy's order, `data` uint8 [rows, bytes of a row]."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    data: NDArray[np.uint8]


@dataclass(frozen=True)
class GGUFFile:
    """A parsed file. Arrays of the metadata are tuples of strings or Numbers; every value can be hashed."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    def refuse(self, problem: str, advice: str = "use another GGUF file of this model") -> SourceError:
        """The error to raise about this file."""
        return SourceError(f"{self.path}: {problem}; {advice}")


_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.gguf)", re.IGNORECASE | re.DOTALL)


def parts_of(path: Path) -> list[Path]:
    """The files of one model: `path`, or all parts of which it is one (name-00001-of-00003.gguf), in their order."""
    if not (name := _PART.fullmatch(path.name)):
        return [path]
    stem, count, end = name["stem"], name["count"], name["end"]
    parts = [path.with_name(f"{stem}-{number:05}-of-{count}{end}") for number in range(1, int(count) + 1)]
    for part in parts:
        if not part.is_file():
            raise SourceError(f"{path}: is one part of {len(parts)}, and {part.name} is not beside it; fetch that too")
    return parts or [path]


def read(path: Path) -> GGUFFile:
    """Parse `path`, mapping its tensors, and all other parts where the file is split.

    Raises SourceError when a file is broken or cannot be read.
    """
    first, *others = files = [_read_one(part) for part in parts_of(path)]
    for number, file in enumerate(files):
        stated = file.metadata.get("split.no", 0), file.metadata.get("split.count", 0) or 1
        if stated != (number, len(files)):
            raise file.refuse(
                f"split.no is {stated[0]} and split.count {stated[1]}, but by its name {number} and {len(files)}",
                "give all parts their names back, such as model-00001-of-00003.gguf",
            )
    for file in others:
        if twice := first.tensors.keys() & file.tensors.keys():
            raise file.refuse(f"tensor {min(twice)!r} is in another part, too", "take all parts from one model")
        first.tensors.update(file.tensors)
    n_tensors = first.metadata.get("split.tensors.count", len(first.tensors))
    if n_tensors != len(first.tensors):
        raise first.refuse(
            f"split.tensors.count is {n_tensors}, but its parts have {len(first.tensors)}",
            "take all parts from one model",
        )
    return first


def _read_one(path: Path) -> GGUFFile:
    try:
        size = path.stat().st_size
        data = mapped(path) if size else np.zeros(0, np.uint8)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}; see to that and start again") from error
    try:
        return _parse(path, data)
    except _BrokenError as error:
        raise SourceError(f"{path}: {error}; fetch the file again, or use another") from error


class _BrokenError(Exception):
    """The bytes are not a GGUF file; the reader adds whose bytes they are."""


class _Cursor:
    """A position in the mapped bytes that never leaves them."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data = data
        self.buffer = data.data
        self.at = 0

    def take(self, count: int) -> memoryview:
        end = self.at + count
        if end > len(self.buffer):
            raise _BrokenError(
                f"the GGUF file is truncated: {count:,} bytes are stated at offset {self.at:,} and the file has "
                f"{len(self.buffer):,}"
            )
        piece = self.buffer[self.at : end]
        self.at = end
        return piece

    def scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        at = self.at
        try:
            return str(self.take(self.scalar("Q")), "utf-8")
        except UnicodeDecodeError as error:
            raise _BrokenError(f"the string at offset {at:,} of the GGUF file is not UTF-8") from error


def _parse(path: Path, data: NDArray[np.uint8]) -> GGUFFile:
    cursor = _Cursor(data)
    if bytes(data[:4]) != b"GGUF":
        raise _BrokenError(f"not a GGUF file: it begins with {bytes(data[:4])!r}, not b'GGUF'")
    cursor.at = 4
    version = cursor.scalar("I")
    if version not in (2, 3):
        big = " (written for a big-endian machine)" if version & 0xFFFF == 0 and version else ""
        raise _BrokenError(f"GGUF version {version}{big} is not supported: 2 or 3, little-endian, would be")
    n_tensors, n_fields = cursor.scalar("Q"), cursor.scalar("Q")
    metadata = _collect(cursor, "metadata key", n_fields, lambda: (cursor.string(), _value(cursor, cursor.scalar("I"))))
    infos = _collect(cursor, "tensor", n_tensors, lambda: _tensor_info(cursor))
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise _BrokenError(f"general.alignment is {alignment!r}: a power of two would be valid")
    start = -(-cursor.at // alignment) * alignment
    tensors = {name: _tensor(cursor, start, name, info) for name, info in infos.items()}
    _check_places([(info[2], tensors[name]) for name, info in infos.items()], alignment)
    return GGUFFile(path, metadata, tensors)


def _check_places(tensors: list[tuple[int, Tensor]], alignment: int) -> None:
    """That the tensors, by the offsets where they begin, lie one behind the other."""
    free = 0  # where the next one may begin
    for offset, tensor in sorted(tensors, key=lambda item: item[0]):
        if offset < free or offset % alignment:
            raise _BrokenError(
                f"tensor {tensor.name!r} of the GGUF file begins at {offset:,}, inside the one before it or not at a "
                f"multiple of {alignment}"
            )
        free = offset + tensor.data.size


def _collect(cursor: _Cursor, what: str, count: int, read_one: Callable[[], tuple[str, Any]]) -> dict[str, Any]:
    """So many entries, by name. Each takes more than 12 bytes of the file."""
    if count * 12 > len(cursor.buffer) - cursor.at:
        raise _BrokenError(
            f"the GGUF file is truncated: {count:,} times a {what} is announced before offset {cursor.at:,} and the "
            f"file has {len(cursor.buffer):,} bytes"
        )
    found: dict[str, Any] = {}
    for _ in range(count):
        name, value = read_one()
        if name in found:
            raise _BrokenError(f"the {what} {name!r} occurs twice in the GGUF file")
        found[name] = value
    return found


def _value(cursor: _Cursor, kind: int) -> Any:
    if kind == _STRING:
        return cursor.string()
    if kind == _ARRAY:
        return _array(cursor, cursor.scalar("I"), cursor.scalar("Q"))
    return cursor.scalar(_scalar_code(kind))


def _array(cursor: _Cursor, kind: int, count: int) -> tuple[str, ...] | Numbers:
    if kind == _STRING:
        return tuple(cursor.string() for _ in range(count))
    dtype = np.dtype("<" + _scalar_code(kind))
    return Numbers(np.frombuffer(cursor.take(count * dtype.itemsize), dtype))


def _scalar_code(kind: int) -> str:
    if kind not in _SCALARS:
        raise _BrokenError(
            f"the GGUF file has a metadata value of type {kind}, which is not supported: 0 to 12 would be"
        )
    return _SCALARS[kind]


def _tensor_info(cursor: _Cursor) -> tuple[str, tuple[tuple[int, ...], int, int]]:
    name = cursor.string()
    n_dims = cursor.scalar("I")
    if not 1 <= n_dims <= 4:
        raise _BrokenError(f"tensor {name!r} of the GGUF file has {n_dims} dimensions: 1 to 4 would be valid")
    shape = tuple(reversed(struct.unpack(f"<{n_dims}Q", cursor.take(8 * n_dims))))
    return name, (shape, cursor.scalar("I"), cursor.scalar("Q"))


def _tensor(cursor: _Cursor, start: int, name: str, info: tuple[tuple[int, ...], int, int]) -> Tensor:
    shape, code, offset = info
    try:
        kind = GGMLQuantizationType(code)
    except ValueError:
        raise _BrokenError(f"tensor {name!r} has type {code}, which the installed gguf package does not know") from None
    if not all(0 < size < 2**48 for size in shape):
        raise _BrokenError(f"tensor {name!r} has shape {list(shape)}: sizes of 1 and more would be valid")
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise _BrokenError(f"tensor {name!r} has rows of {shape[-1]}: {kind.name} needs a multiple of {block}")
    n_rows, row_bytes = math.prod(shape[:-1]), shape[-1] // block * block_bytes
    cursor.at = start + offset
    data = cursor.data[cursor.at : cursor.at + len(cursor.take(n_rows * row_bytes))]
    return Tensor(name, shape, kind, data.reshape(n_rows, row_bytes))
