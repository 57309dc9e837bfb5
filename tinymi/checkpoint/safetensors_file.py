"""The tensors of a checkpoint folder as its safetensors files hold them: mapped, with their types and shapes.

The format is a length, a JSON header (name -> type, shape, first and last byte) and the numbers. The safetensors
library checks header, offsets and sizes before a byte is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinymi.arrays import Array
from tinymi.checkpoint.json_object import parse_object, read_object
from tinymi.errors import WeightsError

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

INDEX = "model.safetensors.index.json"
DTYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "BF16": np.uint16}


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
        with safe_open(path, framework="np"):
            pass
        mapped = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        header_size = int(mapped[:8].view("<u8")[0])
        header = parse_object(mapped[8 : 8 + header_size].tobytes())
    except (SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path}: cannot be read as safetensors ({error}); the file is damaged or incomplete: download it again"
        ) from None
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "out of memory"
        raise WeightsError(f"{path}: cannot be opened ({reason}); see to that and start again") from None
    header.pop("__metadata__", None)
    data = mapped[8 + header_size :]
    return {name: _stored(entry, data) for name, entry in header.items()}


def _stored(entry: Mapping[str, Any], data: npt.NDArray[np.uint8]) -> StoredTensor:
    begin, end = entry["data_offsets"]
    return StoredTensor(entry["dtype"], tuple(entry["shape"]), data[begin:end])


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
