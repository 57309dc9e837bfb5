"""The cache: folders that are either absent or complete, whatever happens to the process that builds them.

A folder is built under a lock in a temporary neighbour on the same file system, flushed to disk, and renamed
into place. Its manifest records the recipe it was made by and the size of every file, so that a folder made by
an older converter, or damaged since, is noticed and made again.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tinymi.errors import SourceError, one_line
from tinymi.machine.browser import IN_BROWSER

if TYPE_CHECKING:
    from filelock import BaseFileLock

MANIFEST = "tinymi.json"
WAIT_SECONDS = 3600.0


def home() -> Path:
    """The cache folder: TINYMI_HOME, else tinymi in XDG_CACHE_HOME, else ~/.cache/tinymi."""
    if chosen := os.environ.get("TINYMI_HOME"):
        return _absolute(chosen)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return _absolute(shared) / "tinymi"
    return _absolute("~/.cache/tinymi")


def _absolute(folder: str) -> Path:
    try:
        return Path(folder).expanduser().absolute()
    except (RuntimeError, OSError):  # a ~user that does not exist, no home at all, or a working folder that was removed
        raise SourceError(
            f"the cache folder {folder} cannot be found: set TINYMI_HOME to a folder that can be written"
        ) from None


def say(message: str) -> None:
    """One line on stderr: stdout belongs to the lesson."""
    print(f"tinymi: {one_line(message)}", file=sys.stderr, flush=True)


def finished(folder: Path, recipe: str) -> bool:
    """Whether `folder` was completed by `recipe` and every file still has the size it had then."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes = manifest["sizes"]
        same = all((folder / name).stat().st_size == size for name, size in sizes.items())
        return bool(same and manifest["recipe"] == recipe)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def ready(name: str, recipe: str) -> Path | None:
    """The folder `name` in the cache when it is finished, else None; what a killed process left is cleared."""
    target = home() / name
    if not finished(target, recipe):
        return None
    if any(_leftovers(target)):
        with suppress(SourceError, OSError), _locked(target, patience=0.0):
            _sweep(target)
    return target


def build(name: str, recipe: str, needed_bytes: int, make: Callable[[Path], None]) -> Path:
    """The finished folder `name` in the cache; `make(folder)` fills it when it is not there yet.

    Processes that ask at the same time wait for the one that builds. `needed_bytes` is the peak disk space of
    `make`. Raises SourceError when the disk is full or not writable.
    """
    if (found := ready(name, recipe)) is not None:
        return found
    target = home() / name
    with _explained(target.parent), _locked(target):
        if not finished(target, recipe):
            _sweep(target)
            check_space(target.parent, needed_bytes, "TINYMI_HOME")
            _build(target, recipe, make)
    return target


def _build(target: Path, recipe: str, make: Callable[[Path], None]) -> None:
    partial = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    try:
        folder = partial / "folder"
        folder.mkdir()
        make(folder)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        manifest = json.dumps({"recipe": recipe, "sizes": sizes}, indent=2)
        (folder / MANIFEST).write_text(manifest + "\n", encoding="utf-8")
        for file in [*folder.iterdir(), folder]:
            _flush(file)
        if os.path.lexists(target):  # of an older recipe, or damaged: out of the way, swept with the rest
            os.replace(target, partial / "old")
        os.replace(folder, target)
        _flush(target.parent)
    finally:
        _sweep(target)


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _sweep(target: Path) -> None:
    """Remove what this process and killed ones left; the caller holds the lock, so nobody is using it."""
    for left in _leftovers(target):
        shutil.rmtree(left, ignore_errors=True)


def _leftovers(target: Path) -> Iterator[Path]:
    return target.parent.glob(glob.escape(_prefix(target)) + "*")


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folder
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_space(folder: Path, needed_bytes: int, setting: str) -> None:
    """SourceError, naming the environment variable that moves the cache, unless `needed_bytes` are free."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise SourceError(
            f"the cache folder {folder} has {free / 1e6:,.0f} MB free and {needed_bytes / 1e6:,.0f} MB are needed: "
            f"free some space, or set {setting} to a folder on a larger disk"
        )


@contextmanager
def _locked(target: Path, patience: float = WAIT_SECONDS) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    if IN_BROWSER:  # nobody else is there
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _wait(lock, target, patience)
    try:
        yield
    finally:
        lock.release()


def _wait(lock: BaseFileLock, target: Path, patience: float) -> None:
    from filelock import Timeout

    if patience:
        say(f"another process is preparing {target}; waiting for it")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise SourceError(
            f"{target} is still being prepared by another process after {patience:,.0f} s: "
            "end that process and start again"
        ) from None


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line with the numbers."""
    try:
        yield
    except OSError as error:
        raise SourceError(
            f"the cache folder {folder} cannot be written: {error.strerror or error} ({_free(folder)}): "
            "make room or make it writable, or set TINYMI_HOME to another folder"
        ) from error


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free"
    except OSError:
        return "free space unknown"
