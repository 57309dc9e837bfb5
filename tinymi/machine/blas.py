"""How NumPy's BLAS is set up when tinymi is imported before NumPy: its kernels and its threads.

NumPy's wheels bring OpenBLAS, which reads its settings from the environment when it is loaded. The two functions here
set a variable for this process and its children. They leave alone what the user has set, and a NumPy that is already
loaded. This module imports nothing that loads NumPy.
"""

import os
import sys
from collections.abc import Collection, MutableMapping
from pathlib import Path

CORETYPE = "OPENBLAS_CORETYPE"
THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")  # OpenBLAS takes the first that is set
AVX512 = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})  # what OpenBLAS' SkylakeX kernels use

_chosen: dict[str, str] = {}  # the variables that this module set, each with the reason


def request_avx512_kernels(
    environ: MutableMapping[str, str] = os.environ,
    loaded: Collection[str] = sys.modules,
    cpuinfo: Path = Path("/proc/cpuinfo"),
) -> str | None:
    """Set OPENBLAS_CORETYPE on a processor with AVX-512, under Linux on x86-64. Returns what was set, or None.

    OpenBLAS picks its kernels by the processor's model number. A model that it does not know gets AVX2 kernels, even
    with AVX-512 on board, and multiplies matrices at half the speed: 238 against 446 to 470 GFLOP/s on two cores of an
    AMD Zen 5. Set the variable yourself for another choice ("" for OpenBLAS' own).
    """
    if "numpy" in loaded or CORETYPE in environ or not processor_flags(cpuinfo) >= AVX512:
        return None
    environ[CORETYPE] = "SkylakeX"
    _chosen[CORETYPE] = f"for a processor with AVX-512; {CORETYPE}= in front of a command leaves it to OpenBLAS"
    return environ[CORETYPE]


def choose_threads(
    environ: MutableMapping[str, str] = os.environ,
    loaded: Collection[str] = sys.modules,
    cores: int | None = None,
    load: float | None = None,
) -> int | None:
    """Set OPENBLAS_NUM_THREADS to the number of idle cores, at least 1. Returns the number, or None.

    cores, load: those that this process may use, and the load average of the last minute; None asks the system.

    OpenBLAS' threads wait for each other after each product, so the slowest core sets the pace. Milliseconds of a
    forward pass of the default model on two cores (medians), for 1 x 5, 1 x 64 and 8 x 14 tokens:

        a core for each thread     2 threads   107,  230,  297    1 thread  168, 394, 588
        only one core is free      2 threads  1744, 2625, 2809    1 thread  180, 492, 724

    A lesson took 13 and 16 s with two threads and 22 s with one on idle cores, 171 and 177 s against 38 s on busy ones.
    """
    if "numpy" in loaded or any(name in environ for name in THREADS):
        return None
    cores = usable_cores() if cores is None else cores
    load = load_average() if load is None else load
    n_threads = max(1, round(cores - load))
    environ[THREADS[0]] = str(n_threads)
    _chosen[THREADS[0]] = f"for {cores} cores with a load of {load:.1f}; {THREADS[0]}=N in front of a command sets it"
    return n_threads


def chosen() -> dict[str, str]:
    """The variables that were set here, and why."""
    return dict(_chosen)


def usable_cores() -> int:
    """The processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float:
    """How many processes wanted to run, on average over the last minute; 0 where the system does not say."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has no such function
        return 0.0


def processor_flags(cpuinfo: Path) -> set[str]:
    """The instruction sets of the first processor; empty where this is not Linux on x86-64."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return set()
    try:
        with cpuinfo.open(encoding="utf-8") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == "flags":
                    return set(value.split())
    except OSError:
        pass
    return set()
