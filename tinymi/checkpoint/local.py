"""A folder that is already on disk: used where it lies, after a look at what it holds."""

from __future__ import annotations

from pathlib import Path

from tinymi.errors import SourceError

PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PICKLE = "a pickle: pickles are never opened, because opening one can run any code its author put in"
CONVERT = (
    "get the model.safetensors of this model, or, if you trust its author, let transformers make one: "
    "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
)


def checked(folder: Path) -> Path:
    """`folder`, when it holds what a checkpoint needs; else SourceError naming what is missing."""
    has_weights = any(folder.glob("*.safetensors")) or (folder / "model.safetensors.index.json").is_file()
    if not has_weights:
        raise SourceError(_no_weights(folder))
    if not (folder / "config.json").is_file():
        raise SourceError(
            f"the folder {folder} has no config.json: a checkpoint needs config.json and model.safetensors, and for "
            "texts tokenizer.json; copy the file from where the model comes from"
        )
    return folder


def _no_weights(folder: Path) -> str:
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLE_ENDINGS)
    if pickles:
        return f"the folder {folder} has its weights only as {pickles[0]}, {PICKLE}; {CONVERT}"
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if ggufs:
        return f"the folder {folder} has no safetensors but {ggufs[0]}: give that file itself as the model"
    return (
        f"the folder {folder} has no *.safetensors: a checkpoint needs config.json and model.safetensors (or shards "
        "with model.safetensors.index.json), and for texts tokenizer.json"
    )
