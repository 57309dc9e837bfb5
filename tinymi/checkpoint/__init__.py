"""load: from a name to a model."""

import os
from collections.abc import Iterable
from typing import Literal

from tinymi.checkpoint.config_json import read_config
from tinymi.checkpoint.find import folder_for
from tinymi.checkpoint.mapped_weights import map_weights
from tinymi.checkpoint.tokenizer_json import read_tokenizer
from tinymi.errors import InputError
from tinymi.run import Model

import numpy as np
import numpy.typing as npt


def load(
    source: str | os.PathLike[str] | None = None,
    *,
    dtype: npt.DTypeLike = np.float32,
    revision: str | None = None,
    ignore_config: Iterable[str] = (),
    weights: Literal["loaded", "mapped"] = "loaded",
) -> Model:
    """Load a LLaMA, Qwen2 or Qwen3 model.

    source: None for the default model, SmolLM2-135M-Instruct; a checkpoint folder; a .gguf file; or the id of a
        model on the Hugging Face hub, such as "meta-llama/Llama-3.2-1B".
    dtype: the type to compute in, float32 or float64 (slow; for exact comparisons).
    revision: the hub's branch, tag or commit.
    ignore_config: fields of config.json to pass over although their effect is not implemented.
    weights: "loaded" converts a checkpoint in BF16 or F16 once, and needs memory for all of it in `dtype`; "mapped"
        leaves it in its file and converts one layer at a time, at each use: slow, for models larger than the memory.

    Raises a TinymiError: SourceError, ConfigError, WeightsError or TokenizerError.
    """
    if not _is_float(dtype):
        raise InputError(f"dtype: {dtype!r}, but the model computes in float32 or float64; choose one of them")
    if weights not in ("loaded", "mapped"):
        raise InputError(f"weights: {weights!r}, but weights are 'loaded' or 'mapped'; choose one of them")
    if isinstance(ignore_config, str) or not isinstance(ignore_config, Iterable):
        raise InputError(f"ignore_config: {ignore_config!r}; give a list of names of fields of config.json")
    folder = folder_for(source, revision=revision)
    config = read_config(folder, ignore=ignore_config)
    mapped = map_weights(folder, config, dtype)
    tokenizer = read_tokenizer(folder, config.d_vocab)
    return Model(mapped.config, mapped if weights == "mapped" else mapped.loaded(), tokenizer)


def _is_float(dtype: npt.DTypeLike) -> bool:
    try:
        return np.dtype(dtype) in (np.dtype(np.float32), np.dtype(np.float64))
    except TypeError:
        return False
