"""The model of a tab: a .gguf file or a checkpoint folder, from the browser's storage or the visitor's disk."""

from collections.abc import Callable
from pathlib import Path

from tinymi.checkpoint import default_model, local
from tinymi.checkpoint.config_json import read_config
from tinymi.checkpoint.gguf import in_memory, reader
from tinymi.checkpoint.mapped_weights import map_weights
from tinymi.checkpoint.provenance import Provenance, described
from tinymi.checkpoint.tokenizer_json import read_tokenizer
from tinymi.run import Model


def load(path: Path, on_progress: Callable[[int, int], object]) -> tuple[Model, Provenance]:
    """on_progress: called with the number of tensors read, and of all. Raises a TinymiError."""
    model, types = _folder(path) if path.is_dir() else _gguf(path, on_progress)
    name = default_model.NAME if path.name == Path(default_model.GGUF_IN_WHEEL).name else path.name
    return model, described(name, types, model.tokenizer.chat_template is not None)


def _gguf(path: Path, on_progress: Callable[[int, int], object]) -> tuple[Model, list[tuple[str, tuple[int, ...]]]]:
    file = reader.read(path)
    return in_memory.load(file, on_progress), [(tensor.kind.name, tensor.shape) for tensor in file.tensors.values()]


def _folder(folder: Path) -> tuple[Model, list[tuple[str, tuple[int, ...]]]]:
    config = read_config(local.checked(folder))
    mapped = map_weights(folder, config)
    model = Model(mapped.config, mapped.loaded(), read_tokenizer(folder, config.d_vocab))
    return model, [(tensor.dtype, tensor.shape) for tensor in mapped.stored.values()]
