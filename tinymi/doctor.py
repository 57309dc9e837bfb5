"""What a report of a problem needs: versions, the machine, its matrix kernels, memory, caches."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import tinymi
from tinymi import kernels, memory
from tinymi.report.terminal import Screen
from tinymi.sources import cache, default_model

import numpy as np

PACKAGES = ("numpy", "safetensors", "tokenizers", "huggingface_hub", "gguf", "loky")
OPTIONAL = ("distributed", "torch", "transformers")
VARIABLES = ("TINYMI_HOME", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", kernels.VARIABLE, memory.VARIABLE, "NO_COLOR")


def facts() -> Iterator[tuple[str, str]]:
    """What there is, one thing after the other: (name, value)."""
    yield "tinymi", f"{tinymi.__version__} in {Path(tinymi.__file__).parent}"
    yield "Python", f"{platform.python_version()} {platform.python_implementation()}, {sys.executable}"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    for package in (*PACKAGES, *OPTIONAL):
        version = _version(package)
        if version or package in PACKAGES:
            yield package, version or "missing: install tinymi again"
    yield "processors", str(os.cpu_count())
    yield from _blas()
    yield "matrix product", f"{_gflops():.0f} thousand million multiply-adds a second (float32, 2048 x 2048)"
    yield "memory", f"{memory.available_bytes() / 2**20:,.0f} MiB available"
    yield from _caches()
    screen = Screen.of(sys.stdout)
    yield "terminal", f"{screen.width} columns, colour {_on(screen.color)}, Unicode {_on(screen.unicode)}"
    for name in VARIABLES:
        if name in os.environ:
            yield name, repr(os.environ[name])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _blas() -> Iterator[tuple[str, str]]:
    """The library that multiplies matrices, the kernels that it has chosen, and its threads."""
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        name = f"{library['internal_api']} {library['version'] or ''}".strip()
        yield "BLAS", f"{name}, {library.get('architecture', 'unknown')} kernels, {library['num_threads']} threads"
    if kernels.chosen():
        yield "kernels", str(kernels.chosen())


def _gflops() -> float:
    a = np.ones((2048, 2048), np.float32)
    a @ a
    start = time.perf_counter()
    a @ a
    return 2048**3 / (time.perf_counter() - start) / 1e9


def _caches() -> Iterator[tuple[str, str]]:
    home = cache.home()
    there = next(place for place in (home, *home.parents) if place.exists())
    size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) if home.exists() else 0
    free = shutil.disk_usage(there).free
    yield "cache", f"{home}: {size / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB free on its disk"
    found = (home / default_model.NAME / "model.safetensors").is_file()
    yield "default model", f"{default_model.NAME}: {'there' if found else 'not fetched yet'}"


def _on(value: bool) -> str:
    return "on" if value else "off"
