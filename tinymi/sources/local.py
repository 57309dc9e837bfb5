"""A folder that is already on disk: used where it lies, after a look at what it holds."""

from __future__ import annotations

from pathlib import Path

from tinymi.errors import SourceError

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def checked(folder: Path) -> Path:
    """`folder`, when it holds what a checkpoint needs; else SourceError naming what is missing."""
    has_weights = any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").is_file()
    if not has_weights:
        raise SourceError(_no_weights(folder))
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise SourceError(
                f"the folder {folder} has no {name}: a checkpoint needs config.json, tokenizer.json and "
                "model.safetensors; copy the file from where the model comes from"
            )
    return folder


def _no_weights(folder: Path) -> str:
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        return (
            f"the folder {folder} has its weights only as {pickles[0]}, a pickle: pickles are never opened, because "
            "opening one can run any code its author put in; get the model.safetensors of this model, or convert it"
        )
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if ggufs:
        return f"the folder {folder} has no safetensors but {ggufs[0]}: give that file itself as the model"
    return (
        f"the folder {folder} has no *.safetensors: a checkpoint needs config.json, tokenizer.json and "
        "model.safetensors, or shards with model.safetensors.index.json"
    )
