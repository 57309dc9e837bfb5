"""Where a checkpoint comes from: `folder_for` turns any source into a folder of safetensors.

The folder holds config.json, tokenizer.json and model.safetensors (or shards with their index), as Hugging
Face lays them out. What a source needs (the GGUF reader, the hub client, an installer) is imported only when
that source is asked for, so that a model which is already on disk is found in milliseconds.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from tinymi.errors import SourceError

__all__ = ["folder_for"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_VALID = "a local folder, a .gguf file, or a hub id of the form owner/name"


def folder_for(source: str | os.PathLike[str] | None = None, *, revision: str | None = None) -> Path:
    """The folder of the checkpoint that `source` names, fetched and converted first where that is needed.

    `source` is None (the default model), an existing folder, a .gguf file (LLaMA, Qwen2 or Qwen3), or a hub
    id `owner/name`. `revision` is a branch, tag or commit of a hub id, and of nothing else.
    Raises SourceError when the source is none of these, or cannot be fetched, read or converted.
    """
    text = "" if source is None else os.fspath(source)
    path = Path(text).expanduser()
    is_hub_id = source is not None and not path.exists() and _HUB_ID.fullmatch(text) is not None
    is_hub_id = is_hub_id and path.suffix.lower() != ".gguf"
    if revision is not None and not is_hub_id:
        raise SourceError(
            f"revision={revision!r} needs a hub id owner/name, but the source is {source!r}: leave revision out"
        )
    if source is None:
        from tinymi.sources import default_model

        return default_model.folder()
    if is_hub_id:
        from tinymi.sources import hub

        return hub.folder(text, revision=revision)
    return _local(text, path)


def _local(text: str, path: Path) -> Path:
    if "\0" in text or not text.strip():
        raise SourceError(f"the model source {text!r} is not a name: give {_VALID}")
    if path.is_dir():
        from tinymi.sources import local

        return local.checked(path)
    if path.suffix.lower() == ".gguf" and path.is_file():
        from tinymi.sources import gguf

        return gguf.folder(path)
    if path.exists():
        raise SourceError(f"{text} is a file, but not a .gguf file: give {_VALID}")
    raise SourceError(f"{text!r} does not exist here and is not a hub id: give {_VALID}")
