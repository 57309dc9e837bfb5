"""`tinymi doctor`: versions and settings to include in a bug report."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import tinymi
from tinymi.checkpoint import default_model, downloads
from tinymi.machine import blas, memory
from tinymi.teaching.report.terminal import Screen
from tinymi.version import __version__

import numpy as np

PACKAGES = ("numpy", "tokenizers", "huggingface_hub", "gguf")
OPTIONAL = ("loky", "distributed", "psutil", "threadpoolctl", "torch", "transformers")
VARIABLES = (
    "TINYMI_HOME", "HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", blas.CORETYPE, *blas.THREADS, memory.VARIABLE,
    "GLIBC_TUNABLES", "NO_COLOR",
)  # fmt: skip
SIZE = 2048  # of the matrix product that is timed


def facts() -> Iterator[tuple[str, str]]:
    """One line of the report after the other: (name, value)."""
    yield "tinymi", f"{__version__} in {Path(tinymi.__file__).parent}"
    yield "Python", f"{platform.python_version()} {platform.python_implementation()}, {sys.executable}"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    for package in PACKAGES:
        yield package, _version(package) or "missing: install tinymi again"
    for package in OPTIONAL:
        yield package, _version(package) or "not installed (optional)"
    yield "cores", f"{blas.usable_cores()}, load {blas.load_average():.1f}"
    yield from _blas()
    yield "matrix product", f"{_gflops():.0f} GFLOP/s (float32, {SIZE} x {SIZE})"
    available = memory.available_bytes()
    yield "memory", "unknown without psutil" if available is None else f"{available / 2**20:,.0f} MiB available"
    yield from _caches()
    screen = Screen.of(sys.stdout)
    yield "terminal", f"{screen.width} columns, colour {_on(screen.color)}, Unicode {_on(screen.unicode)}"
    chosen = blas.chosen()
    for name in VARIABLES:
        if name in os.environ:
            yield name, repr(os.environ[name]) + (f", set by tinymi {chosen[name]}" if name in chosen else "")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _blas() -> Iterator[tuple[str, str]]:
    """The library that multiplies matrices, its kernels and its threads."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        built_with = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        yield "BLAS", f"{built_with['name']} {built_with['version']}; threadpoolctl would name its kernels and threads"
    else:
        for library in threadpool_info():
            name = f"{library['internal_api']} {library['version'] or ''}".strip()
            yield "BLAS", f"{name}, {library.get('architecture', 'unknown')} kernels, {library['num_threads']} threads"


def _gflops() -> float:
    """Billions of floating-point operations a second in a large product; a multiply-add is two of them."""
    a = np.ones((SIZE, SIZE), np.float32)
    a @ a
    start = time.perf_counter()
    a @ a
    return 2 * SIZE**3 / (time.perf_counter() - start) / 1e9


def _caches() -> Iterator[tuple[str, str]]:
    home = downloads.home()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file()) if home.exists() else 0
    free = shutil.disk_usage(existing).free
    yield "cache", f"{home}: {size / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB free on its disk"
    fetched = (home / default_model.NAME / "model.safetensors").is_file()
    yield "default model", f"{default_model.NAME}: {'in the cache' if fetched else 'not fetched yet'}"


def _on(value: bool) -> str:
    return "on" if value else "off"
