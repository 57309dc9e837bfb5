"""The tensors of a checkpoint folder as its safetensors files hold them: mapped, with their types and shapes.

The format is a length, a JSON header (name -> type, shape, first and last byte) and the numbers. Header, offsets and
sizes are checked before a byte is used, as strictly as by the safetensors library.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tinymi.arrays import Array
from tinymi.checkpoint.json_object import parse_object, read_object
from tinymi.errors import WeightsError
from tinymi.machine.mapping import mapped

import numpy as np
import numpy.typing as npt

INDEX = "model.safetensors.index.json"
DTYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": np.uint16}
_NAMES = {
    4: "F4",
    6: "F6_E2M3 F6_E3M2",
    8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
    16: "I16 U16 F16 BF16",
    32: "I32 U32 F32",
    64: "I64 U64 F64 C64",
}
_BITS = {name: bits for bits, names in _NAMES.items() for name in names.split()}  # of one number of each type
_MOST_HEADER = 100_000_000  # bytes


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in its file: the name of its type, its shape, and its bytes, mapped."""

    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]

    @property
    def values(self) -> npt.NDArray[Any]:
        """A view of the numbers, whose type must be one of DTYPES. BF16, which NumPy has not, is seen as uint16."""
        return self.data.view(DTYPES[self.dtype]).reshape(self.shape)


def open_folder(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of one model.safetensors, or of the shards that its index lists. Raises WeightsError."""
    single, index = folder / "model.safetensors", folder / INDEX
    if index.exists() and not single.exists():  # where both are there, transformers reads the single file, too
        return _open_shards(index)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(
            f"{folder}: holds no .safetensors file; a checkpoint has model.safetensors, or shards with "
            f"{INDEX}; save it with save_pretrained(..., safe_serialization=True)"
        )
    if len(files) > 1 and single not in files:
        raise WeightsError(
            f"{folder}: holds {len(files)} .safetensors files but no {INDEX}, which says "
            "what lies where; download the index too"
        )
    return open_file(single if len(files) > 1 else files[0])


def weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> name of the file beside the index. Raises WeightsError."""
    try:
        pairs = read_object(index).get("weight_map")
        if not isinstance(pairs, dict):
            raise ValueError("it has no weight_map")
    except ValueError as error:
        raise WeightsError(
            f"{index}: cannot be read: {error}; an index is a JSON object with a weight_map of tensor names to file "
            "names: download it again"
        ) from None
    for name, file in pairs.items():
        plain = isinstance(file, str) and Path(file).name == file and not set(file) & set("\\/:\0")
        if not plain or not file.endswith(".safetensors"):
            raise WeightsError(
                f"{index}: places tensor {name[:80]!r} in {str(file)[:80]!r}, but a shard is a .safetensors file "
                "beside the index; do not use this checkpoint"
            )
    return pairs


def _open_shards(index: Path) -> dict[str, StoredTensor]:
    where = weight_map(index)
    opened = {file: open_file(index.parent / file) for file in sorted(set(where.values()))}
    for name, file in where.items():
        if name not in opened[file]:
            raise WeightsError(
                f"tensor {name}: the index says that it lies in {file}, but it is not there; "
                "take index and shards from one checkpoint"
            )
    return {name: opened[file][name] for name, file in where.items()}


def open_file(path: Path) -> dict[str, StoredTensor]:
    """Map one file."""
    try:
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "there is no such file"
            raise WeightsError(f"{path}: {what}; the checkpoint is incomplete: fetch that file")
        header, data = _parts(mapped(path))
        _check_entries(header, data.size)
    except ValueError as error:
        raise WeightsError(
            f"{path}: cannot be read as safetensors ({error}); the file is damaged or incomplete: download it again"
        ) from None
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        raise WeightsError(f"{path}: cannot be opened ({reason}); see to that and start again") from None
    return {name: _stored(entry, data) for name, entry in header.items()}


def _parts(file: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
    """The entries of the header, and the numbers behind it."""
    end = 8 + int.from_bytes(file[:8].tobytes(), "little")
    if not 8 < end <= min(file.size, 8 + _MOST_HEADER) or file[8] != ord("{"):
        raise ValueError(f"its header would end at {end:,}, and the file has {file.size:,} bytes")
    header = parse_object(file[8:end].tobytes())
    about = header.pop("__metadata__", None)
    if about is not None and (not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values())):
        raise ValueError("its __metadata__ is not an object of texts")
    return header, file[end:]


def _check_entries(header: Mapping[str, Any], n_bytes: int) -> None:
    """That the tensors are as long as type and shape say, and fill the file, one behind the other."""
    for name, entry in header.items():
        name.encode()  # raises a ValueError for half a character
        if not isinstance(entry, dict) or not _fits(*(entry.get(key) for key in ("dtype", "shape", "data_offsets"))):
            raise ValueError(f"the entry of tensor {name[:80]!r} has no type, shape and place that fit each other")
    places = sorted(entry["data_offsets"] for entry in header.values())
    if [0, *(end for _, end in places)] != [*(begin for begin, _ in places), n_bytes]:
        raise ValueError(f"its tensors do not fill the {n_bytes:,} bytes behind the header without gap or overlap")


def _fits(dtype: Any, shape: Any, place: Any) -> bool:
    """Whether a tensor of this type and shape has as many bytes as there are from its first to its last."""
    if not isinstance(dtype, str) or dtype not in _BITS or not _are_sizes(shape) or not _are_sizes(place):
        return False
    n_bits = _BITS[dtype]
    for size in shape:
        n_bits *= size
        if n_bits >= 2**63:
            return False
    return len(place) == 2 and n_bits == 8 * (place[1] - place[0])


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**64 for size in value)


def _stored(entry: Mapping[str, Any], data: npt.NDArray[np.uint8]) -> StoredTensor:
    begin, end = entry["data_offsets"]
    return StoredTensor(entry["dtype"], tuple(entry["shape"]), data[begin:end])


def write_file(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    chunks: Iterable[npt.NDArray[Any]],
    dtype: npt.DTypeLike = np.float32,
) -> None:
    """Write a file of tensors in float32 or float64. chunks: their numbers, in the order of `shapes`, in any pieces."""
    stored = np.dtype(dtype).newbyteorder("<")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    at = 0
    for name, shape in shapes.items():
        end = at + stored.itemsize * math.prod(shape)
        header[name] = {"dtype": f"F{8 * stored.itemsize}", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # the data begins on a cache line
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for chunk in chunks:
            stream.write(np.ascontiguousarray(chunk, dtype=stored).data)


def as_float(tensor: StoredTensor, dtype: npt.DTypeLike) -> Array:
    """The tensor in `dtype`: the mapped file itself where it holds that type, otherwise a converted copy."""
    return to_float(tensor.values, tensor.dtype, dtype)


def to_float(values: npt.NDArray[Any], stored_as: str, dtype: npt.DTypeLike) -> Array:
    """Some of a tensor's values, of which `stored_as` names the type in the file, in `dtype`."""
    if stored_as == "BF16":  # the upper half of a float32
        values = np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
    with np.errstate(over="ignore"):  # too large for `dtype`: infinite, of which the caller warns
        converted: Array = np.require(values.astype(dtype, copy=False), requirements="A")
    converted.flags.writeable = False
    return converted
