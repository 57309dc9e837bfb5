"""A GGUF file as a model, without a converted copy on disk: for a browser, whose disk is its memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tinymi.checkpoint.config_json import read_config
from tinymi.checkpoint.gguf.config import config_of
from tinymi.checkpoint.gguf.convert import Entry, entries_of, float32_rows, write_about
from tinymi.checkpoint.gguf.reader import GGUFFile
from tinymi.checkpoint.mapped_weights import MappedWeights
from tinymi.checkpoint.safetensors_file import StoredTensor
from tinymi.checkpoint.tokenizer_json import read_tokenizer
from tinymi.run import Model

import numpy as np


def load(file: GGUFFile, on_progress: Callable[[int, int], object]) -> Model:
    """The model in float32. on_progress: called with the number of tensors read, and of all. Raises a TinymiError."""
    raw = config_of(file)
    entries = entries_of(file, raw)
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_about(file, raw, folder)
        config = read_config(folder)
        tokenizer = read_tokenizer(folder, config.d_vocab)
    stored = {}
    for number, entry in enumerate(entries):
        on_progress(number, len(entries))
        stored[entry.name] = _float32(file, entry, config.d_head)
    weights = MappedWeights(file.path, config, np.dtype(np.float32), stored)
    return Model(config, weights.loaded(), tokenizer)


def _float32(file: GGUFFile, entry: Entry, d_head: int) -> StoredTensor:
    values = np.empty(entry.shape, np.float32).reshape(len(file.tensors[entry.stored].data), -1)
    end = 0
    for rows in float32_rows(file.tensors[entry.stored], d_head, entry.paired):
        start, end = end, end + len(rows)
        values[start:end] = rows
    return StoredTensor("F32", entry.shape, values.reshape(-1).view(np.uint8))
