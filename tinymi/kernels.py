"""The matrix kernels of NumPy's BLAS, where its own choice is a slow one. Imports nothing that loads NumPy.

NumPy's wheels bring OpenBLAS, which picks its kernels by the processor's model number when it is loaded. A model that
it does not know gets AVX2 kernels, even with AVX-512 on board, and multiplies matrices at half the speed. `choose` says
so beforehand through OpenBLAS' own variable OPENBLAS_CORETYPE. It acts when tinymi is imported before NumPy, on Linux
on x86-64, on a processor with AVX-512; elsewhere it does nothing. Set the variable yourself to have your own choice
("" for OpenBLAS' own).
"""

import os
import sys
from collections.abc import Collection, MutableMapping
from pathlib import Path

VARIABLE = "OPENBLAS_CORETYPE"
AVX512 = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})  # what OpenBLAS' SkylakeX kernels use

_chosen: str | None = None


def choose(
    environ: MutableMapping[str, str] = os.environ,
    loaded: Collection[str] = sys.modules,
    cpuinfo: Path = Path("/proc/cpuinfo"),
) -> str | None:
    """Set OPENBLAS_CORETYPE for this process and its children, where that helps. Returns what was set, or None."""
    global _chosen
    if "numpy" in loaded or VARIABLE in environ or not processor_flags(cpuinfo) >= AVX512:
        return None
    environ[VARIABLE] = _chosen = "SkylakeX"
    return _chosen


def chosen() -> str | None:
    """One line about the kernels that `choose` set, or None where it set none."""
    if _chosen is None:
        return None
    return f"{_chosen} (AVX-512) kernels asked of NumPy's OpenBLAS; {VARIABLE}= in front of the command asks for none"


def processor_flags(cpuinfo: Path) -> set[str]:
    """The instruction sets of the first processor; none where Linux on x86-64 is not what runs."""
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
