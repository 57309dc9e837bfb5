"""GGUF to an ordinary Hugging Face checkpoint: float32 safetensors, config.json and the tokenizer's files.

LLaMA, Qwen2 and Qwen3. Whatever would change the numbers and is not written out here (experts, sliding
windows, long RoPE, unknown keys and tensors) is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinymi.checkpoint import downloads, safetensors_file
from tinymi.checkpoint.config_json import config_from_dict
from tinymi.checkpoint.gguf.config import config_of
from tinymi.checkpoint.gguf.reader import GGUFFile, Tensor, parts_of, read
from tinymi.checkpoint.gguf.tokenizer import tokenizer_config_of, tokenizer_of
from tinymi.errors import ConfigError

import numpy as np
from gguf.quants import dequantize
from numpy.typing import NDArray

CONVERTER = 2  # raise it when a converted folder would come out differently
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Entry:
    """One tensor to write: its name and shape in the checkpoint, its name in the file.

    `paired` marks the rows of q and k in LLaMA's files: GGUF keeps the two halves that RoPE rotates together
    as neighbours (x0 y0 x1 y1 ...), Hugging Face one half after the other (x0 x1 ... y0 y1 ...).
    """

    name: str
    stored: str
    shape: tuple[int, ...]
    paired: bool = False


def folder(path: Path) -> Path:
    """The converted folder of the .gguf file `path`, and of the other parts of a split one, in the cache.

    An edited file is converted again.
    """
    parts = parts_of(path.absolute())
    place = hashlib.sha256(str(parts[0].resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    stats = [f"{part.name} size {part.stat().st_size} mtime {part.stat().st_mtime_ns}" for part in parts]
    recipe = f"{', '.join(stats)} converter {CONVERTER}"
    readable = re.sub(r"[^\w.-]", "_", parts[0].stem, flags=re.ASCII)[:80]
    name = f"{readable}-{place}"
    if (found := downloads.ready(name, recipe)) is not None:
        return found
    file = read(path)
    needed = 4 * sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    return downloads.build(name, recipe, needed, lambda target: convert(file, target))


def convert(file: GGUFFile, target: Path) -> None:
    """Write the checkpoint that `file` holds into the folder `target`. Raises SourceError, one line."""
    config = config_of(file)
    entries = entries_of(file, config)
    needed = 4 * sum(math.prod(entry.shape) for entry in entries)
    write_about(file, config, target)
    downloads.say(
        f"converting {file.path.name} to float32 safetensors, {needed / 1e6:,.1f} MB, once, in {downloads.home()}"
    )
    shapes = {entry.name: entry.shape for entry in entries}
    chunks = _watched(_chunks(file, entries, config["head_dim"]), needed)
    safetensors_file.write_file(target / "model.safetensors", shapes, chunks)


def write_about(file: GGUFFile, config: dict[str, Any], target: Path) -> None:
    """Everything but the weights: config.json and the tokenizer's files. Raises SourceError."""
    tokenizer = tokenizer_of(file)
    _check_config(file, config)
    _write_json(target / "config.json", config)
    _write_json(target / "tokenizer_config.json", tokenizer_config_of(file))
    _write_json(target / "tokenizer.json", tokenizer)


def _check_config(file: GGUFFile, config: dict[str, Any]) -> None:
    """That the model can be loaded, before it is converted: hundreds of MB that the next start would refuse."""
    try:
        config_from_dict(config)
    except ConfigError as error:
        raise file.refuse(str(error)) from None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def entries_of(file: GGUFFile, config: dict[str, Any]) -> list[Entry]:
    """Every tensor of the checkpoint in execution order, checked: there, of its shape, and nothing left over."""
    entries = []
    for entry in _entries(config):  # one by one: a layer count of billions ends at the first that is missing
        _check_entry(file, entry)
        entries.append(entry)
    unknown = file.tensors.keys() - {entry.stored for entry in entries} - {"rope_freqs.weight"}
    if unknown:
        raise file.refuse(f"tensor {min(unknown)!r} is not part of a {config['model_type']} model", "use another model")
    return entries


def _entries(config: dict[str, Any]) -> Iterator[Entry]:
    d_vocab, d_model = config["vocab_size"], config["hidden_size"]
    yield Entry("model.embed_tokens.weight", "token_embd.weight", (d_vocab, d_model))
    for layer in range(config["num_hidden_layers"]):
        yield from _layer_entries(config, layer)
    yield Entry("model.norm.weight", "output_norm.weight", (d_model,))
    if not config["tie_word_embeddings"]:
        yield Entry("lm_head.weight", "output.weight", (d_vocab, d_model))


def _layer_entries(config: dict[str, Any], layer: int) -> Iterator[Entry]:
    d_model, d_mlp, d_head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    d_q, d_kv = config["num_attention_heads"] * d_head, config["num_key_value_heads"] * d_head
    kind = config["model_type"]
    hf, ggml = f"model.layers.{layer}", f"blk.{layer}"
    yield Entry(f"{hf}.input_layernorm.weight", f"{ggml}.attn_norm.weight", (d_model,))
    for part, rows in (("q", d_q), ("k", d_kv), ("v", d_kv)):
        paired = kind == "llama" and part != "v"
        yield Entry(f"{hf}.self_attn.{part}_proj.weight", f"{ggml}.attn_{part}.weight", (rows, d_model), paired)
        if kind == "qwen2" or config["attention_bias"]:
            yield Entry(f"{hf}.self_attn.{part}_proj.bias", f"{ggml}.attn_{part}.bias", (rows,), paired)
        if kind == "qwen3" and part != "v":
            yield Entry(f"{hf}.self_attn.{part}_norm.weight", f"{ggml}.attn_{part}_norm.weight", (d_head,))
    yield Entry(f"{hf}.self_attn.o_proj.weight", f"{ggml}.attn_output.weight", (d_model, d_q))
    if config["attention_bias"]:
        yield Entry(f"{hf}.self_attn.o_proj.bias", f"{ggml}.attn_output.bias", (d_model,))
    yield Entry(f"{hf}.post_attention_layernorm.weight", f"{ggml}.ffn_norm.weight", (d_model,))
    for part, shape in (("gate", (d_mlp, d_model)), ("up", (d_mlp, d_model)), ("down", (d_model, d_mlp))):
        yield Entry(f"{hf}.mlp.{part}_proj.weight", f"{ggml}.ffn_{part}.weight", shape)
        if config["mlp_bias"]:
            yield Entry(f"{hf}.mlp.{part}_proj.bias", f"{ggml}.ffn_{part}.bias", shape[:1])


def _check_entry(file: GGUFFile, entry: Entry) -> None:
    tensor = file.tensors.get(entry.stored)
    if tensor is None:
        raise file.refuse(f"tensor {entry.stored!r} is missing")
    if tensor.shape != entry.shape:
        raise file.refuse(f"tensor {entry.stored!r} has shape {list(tensor.shape)}, expected {list(entry.shape)}")
    try:
        _dequantized(tensor, 0, 1)
    except NotImplementedError:
        raise file.refuse(
            f"tensor {entry.stored!r} is of type {tensor.kind.name}, which the gguf package cannot read back",
            "use a file with another quantisation, such as Q8_0 or Q4_K",
        ) from None


def _chunks(file: GGUFFile, entries: list[Entry], d_head: int) -> Iterator[NDArray[np.float32]]:
    """The entries' numbers in float32, a chunk at a time, so that memory stays low whatever the model's size."""
    for entry in entries:
        yield from float32_rows(file.tensors[entry.stored], d_head, entry.paired)


def _watched(chunks: Iterator[NDArray[np.float32]], total: int) -> Iterator[NDArray[np.float32]]:
    """The chunks, with a progress bar on a terminal. total: their bytes."""
    if not sys.stderr.isatty():
        yield from chunks
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="B", unit_scale=True, desc="converting") as bar:
        for chunk in chunks:
            yield chunk
            bar.update(chunk.nbytes)


def float32_rows(tensor: Tensor, d_head: int, paired: bool) -> Iterator[NDArray[np.float32]]:
    rows_at_once = max(1, _CHUNK_BYTES // (4 * tensor.shape[-1] * d_head)) * d_head  # whole heads
    for start in range(0, len(tensor.data), rows_at_once):
        rows = _dequantized(tensor, start, start + rows_at_once)
        yield _halves(rows, d_head, tensor.shape[1:]) if paired else rows


def _dequantized(tensor: Tensor, start: int, stop: int) -> NDArray[np.float32]:
    """Some rows in float32. What is NaN or infinite stays so, and is warned of by its name at each loading."""
    with np.errstate(all="ignore"):
        return np.asarray(dequantize(tensor.data[start:stop], tensor.kind))


def _halves(rows: NDArray[np.float32], d_head: int, width: tuple[int, ...]) -> NDArray[np.float32]:
    """Undo the pairing of rows [heads * d_head, *width]: within each head, all first halves, then all second."""
    return rows.reshape(-1, d_head // 2, 2, *width).swapaxes(1, 2).reshape(-1, *width)
