"""This checkout beside another one, in one process: `python -m tests.bench.before_after OTHER_CHECKOUT`.

    --seconds 10     for each row
    --model FOLDER   another checkpoint; without it the default model

First that both compute the same at every hook point, then their times. The two run in turn, so that whatever else the
machine does disturbs both alike; a ratio is the median over pairs of neighbouring runs, with its quartiles. `clock` is
time on the wall, `processor` that of all threads. On a busy machine believe the second, with OPENBLAS_NUM_THREADS=1:
threads that wait for each other count as working.
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.running import ROOT
from tinymi.arrays import Array
from tinymi.checkpoint.find import folder_for

import numpy as np

SHAPES = ((1, 1), (1, 6), (1, 14), (1, 64), (1, 256), (8, 14), (16, 14), (32, 14))
N_PAIRS = 5  # at least
ROW = "{:26} {:>10} {:>10}   {:22} {:22} {:>5}"


def import_checkout(root: Path) -> ModuleType:
    """A checkout's own tinymi, whichever was imported before."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tinymi"]:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    package = importlib.import_module("tinymi")
    sys.path.pop(0)
    assert Path(str(package.__file__)).is_relative_to(root), f"{root} has no tinymi"
    return package


def largest_difference(other: Mapping[str, Array], this: Mapping[str, Array]) -> tuple[float, str]:
    """The largest difference at any point, as a share of the largest number there, and the point."""
    assert list(other) == list(this)
    differences = []
    for name, value in other.items():
        finite = np.isfinite(value)
        assert np.array_equal(value[~finite], this[name][~finite])
        largest = abs(value[finite] - this[name][finite]).max() / abs(value[finite]).max()
        differences.append((float(largest), name))
    return max(differences)


def seconds(work: Callable[[Any], object], model: Any) -> tuple[float, float]:
    """By the clock, and of the processor."""
    start, start_processor = time.perf_counter(), time.process_time()
    work(model)
    return time.perf_counter() - start, time.process_time() - start_processor


def compare(work: Callable[[Any], object], models: Sequence[Any], budget: float) -> list[str]:
    """Cells of one row: milliseconds of both, the ratios of clock and processor, the number of pairs."""
    end = time.perf_counter() + budget
    pairs: list[list[tuple[float, float]]] = []
    while len(pairs) <= N_PAIRS or time.perf_counter() < end:
        step = 1 if len(pairs) % 2 else -1  # each goes first in every other pair
        pairs.append([seconds(work, model) for model in models[::step]][::step])
    times = np.array(pairs[1:])  # [pairs, other and this, clock and processor]; the first pair warms up
    quartiles = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.5, 0.75), axis=0)  # [3, clock and processor]
    milliseconds = [f"{1e3 * clock:,.1f}" for clock in np.median(times[:, :, 0], axis=0)]
    ratios = [f"{median:.3f} ({low:.3f}-{high:.3f})" for low, median, high in quartiles.T]
    return [*milliseconds, *ratios, str(len(times))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the root of another checkout")
    parser.add_argument("--seconds", type=float, default=10, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.model or folder_for()
    models = [import_checkout(root).load(folder) for root in (options.other.resolve(), ROOT)]
    rng = np.random.default_rng(0)
    tokens = {shape: rng.integers(0, models[0].config.d_vocab, shape) for shape in SHAPES}
    caches = [model.run_with_cache(tokens[8, 14])[1] for model in models]
    difference, name = largest_difference(*caches)
    print(f"largest relative difference at {len(caches[0])} hook points: {difference:.1e}, at {name}")
    del caches
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "all")
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, OpenBLAS threads: {threads}\n")
    print(ROW.format("work", "other, ms", "this, ms", "clock, this / other", "processor", "pairs"))
    works = {f"forward {batch}x{n_pos}": methodcaller("__call__", ids) for (batch, n_pos), ids in tokens.items()}
    works["generate 8 tokens after 6"] = methodcaller("generate", tokens[1, 6], 8)
    for name, work in works.items():
        print(ROW.format(name, *compare(work, models, options.seconds)), flush=True)


if __name__ == "__main__":
    main()
