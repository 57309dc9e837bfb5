"""Where a checkpoint comes from: `folder_for` turns any source into a folder of safetensors.

The folder holds config.json, model.safetensors (or shards with their index) and mostly a tokenizer.json, as Hugging
Face lays them out. What a source needs (the GGUF reader, the hub client, an installer) is imported only when
that source is asked for, so that a model which is already on disk is found in milliseconds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from tinymi.errors import SourceError

__all__ = ["folder_for"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_VALID = "a local folder, a .gguf file, or a hub id of the form owner/name"


def folder_for(source: str | os.PathLike[str] | None = None, *, revision: str | None = None) -> Path:
    """The folder of the checkpoint that `source` names, fetched and converted first where that is needed.

    `source` is None (the default model), an existing folder, a .gguf file (LLaMA, Qwen2 or Qwen3), or a hub
    id `owner/name`. `revision` is a branch, tag or commit of a hub id, and of nothing else.
    Raises SourceError when the source is none of these, or cannot be fetched, read or converted.
    """
    path = None if source is None else _path(source)
    exists = path is not None and path.exists()
    if path is not None and not exists and _looks_like_hub_id(str(source)):
        snapshot: Path = _hub().folder(str(source), revision=revision)
        return snapshot
    _refuse_revision(source, revision)
    if path is None:
        from tinymi.checkpoint import default_model

        return default_model.folder()
    if not exists:
        raise SourceError(
            f"{str(source)!r} does not exist here and is not a hub id: give {_VALID}, of a LLaMA, Qwen2 or Qwen3 "
            "model; load() without a name loads the default model, SmolLM2-135M-Instruct"
        )
    return _local(path)


def files_of(source: str | os.PathLike[str], choose: Callable[[set[str]], list[str]], *, revision: str | None) -> Path:
    """A folder with those files of a folder or hub id that `choose` takes from the names of all. Raises SourceError."""
    path = _path(source)
    if not path.exists() and _looks_like_hub_id(str(source)):
        folder: Path = _hub().files(str(source), revision=revision, choose=choose)
        return folder
    if not path.is_dir():
        problem = "is a file" if path.exists() else "does not exist here and is not a hub id"
        raise SourceError(
            f"{str(source)!r} {problem}: give a folder, or a hub id of the form owner/name; revision= may then be a "
            "branch, a tag or a commit of it"
        )
    _refuse_revision(source, revision)
    choose({file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()})
    return path


def _refuse_revision(source: str | os.PathLike[str] | None, revision: str | None) -> None:
    if revision is not None:
        raise SourceError(
            f"revision={revision!r} needs a hub id of the form owner/name, and the source is "
            f"{'the default model' if source is None else repr(str(source))}: leave revision out"
        )


def _hub() -> ModuleType:
    try:
        from tinymi.checkpoint import hub
    except ImportError as error:
        raise SourceError(f"the hub's client is not installed ({error}): give a local folder or a .gguf file") from None
    except ValueError as error:  # the client reads its environment variables when it is imported
        raise SourceError(
            f"the hub's client cannot start ({error}): correct or unset the variables HF_ENDPOINT and HF_HUB_*, or "
            "give a local folder"
        ) from None
    return hub


def _path(source: str | os.PathLike[str]) -> Path:
    try:
        text = os.fspath(source)
        if not isinstance(text, str) or not text.strip():
            raise SourceError(f"the model source {source!r} is not a name: give {_VALID}")
        path = Path(text).expanduser()
        path.exists()  # raises for a name that the file system cannot hold or may not look up
        return path
    except (TypeError, RuntimeError):  # neither text nor a path; or a ~user that does not exist
        raise SourceError(f"the model source {source!r} is not a path: give {_VALID}") from None
    except OSError as error:
        raise SourceError(f"the model source {str(source)[:200]!r} cannot be read: {error.strerror}") from error


def _looks_like_hub_id(text: str) -> bool:
    return _HUB_ID.fullmatch(text) is not None and not text.lower().endswith(".gguf")


def _local(path: Path) -> Path:
    from tinymi.checkpoint import local

    if path.is_dir():
        return local.checked(path)
    if path.suffix.lower() == ".gguf" and path.is_file():
        from tinymi.checkpoint.gguf import convert

        return convert.folder(path)
    if path.suffix.lower() in local.PICKLE_ENDINGS:
        raise SourceError(f"{path} is {local.PICKLE}; {local.CONVERT}")
    raise SourceError(f"{path} is neither a folder nor a .gguf file: give {_VALID}")
