"""Folders on disk, and everything that is no source at all."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

from tests.checkpoints import save_tiny
from tinymi.checkpoint import downloads
from tinymi.checkpoint.find import folder_for
from tinymi.errors import SourceError

import pytest


def test_a_good_folder_is_used_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny(tmp_path / "models" / "tiny")
    assert folder_for(folder) == folder
    assert folder_for(str(folder)) == folder
    monkeypatch.chdir(tmp_path)  # a folder wins over a hub id of the same spelling
    assert folder_for("models/tiny") == Path("models/tiny")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_for("~/models/tiny") == folder


def test_a_sharded_folder(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny", save={"max_shard_size": "20KB"})
    assert not (folder / "model.safetensors").exists()
    assert folder_for(folder) == folder


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (os.environ["BOMB"],))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickle_is_refused_and_never_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    folder = save_tiny(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    for source in (folder, folder / name):
        with pytest.raises(
            SourceError, match=f"{name}.*pickles are never opened, because opening one can run any code"
        ):
            folder_for(source)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", r"has no \*.safetensors"),
    ],
)
def test_a_folder_with_something_missing(gone: str, expected: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    (folder / gone).unlink()
    with pytest.raises(SourceError, match=expected) as caught:
        folder_for(folder)
    assert str(folder) in str(caught.value)


def test_a_folder_that_holds_only_a_gguf_file_points_to_it(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").touch()
    with pytest.raises(SourceError, match=r"but x\.gguf: give that file itself"):
        folder_for(tmp_path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", "is not a name"),
        ("  ", "is not a name"),
        (5, "is not a path"),
        (b"bytes", "is not a name"),
        ("no-such-model", "does not exist here and is not a hub id"),
        ("a/b/c", "does not exist here and is not a hub id"),
        ("./owner/name", "does not exist here and is not a hub id"),
        ("/nowhere/at/all", "does not exist here and is not a hub id"),
        ("../x/y", "does not exist here and is not a hub id"),
        ("owner/name.gguf", "does not exist here"),
        ("nul\0byte", "does not exist here"),
        ("a" * 5000, "cannot be read|does not exist"),
        ("~nobody-of-this-name/x", "is not a path|does not exist"),
        ("https://example.org/owner/name", "does not exist here"),
        ("owner/na\nme", "does not exist here"),
    ],
)
def test_what_is_no_source(source: Any, expected: str) -> None:
    with pytest.raises(SourceError, match=expected) as caught:
        folder_for(source)
    message = str(caught.value)
    assert "\n" not in message
    assert "cannot be read" in message or "a local folder, a .gguf file, or a hub id" in message


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SourceError, match=r"neither a folder nor a \.gguf file"):
        folder_for(tmp_path / "notes.txt")


@pytest.mark.parametrize("source", [None, "folder"])
def test_a_revision_belongs_to_a_hub_id(source: str | None, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="revision='main' needs a hub id"):
        folder_for(source and tmp_path, revision="main")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TINYMI_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert downloads.home() == tmp_path / ".cache" / "tinymi"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert downloads.home() == Path("/x/tinymi")
    monkeypatch.setenv("TINYMI_HOME", "~/models")
    assert downloads.home() == tmp_path / "models"


def test_space_is_looked_up_where_the_folder_will_be(tmp_path: Path) -> None:
    deep = tmp_path / "not" / "yet"
    free = shutil.disk_usage(tmp_path).free
    downloads.check_space(deep, 1000, "HF_HOME")
    with pytest.raises(SourceError, match=f"{(2 * free) / 1e6:,.0f} MB are needed.*set HF_HOME"):
        downloads.check_space(deep, 2 * free, "HF_HOME")
