"""The matrix product of the linear layers: NumPy's, but in a browser's tab, where NumPy has no BLAS, one of our own.

`products.wat` multiplies four numbers at once. GFLOP/s in Pyodide 0.27, of processor time on an AMD Zen 5:

    [6, 576] @ [576, 1536]     np.matmul 2.9    np.einsum 5.2    SciPy's sgemm 5.7    products.wat 20
    [1, 576] @ [576, 1536]               2.9              4.9                  2.7                 8
"""

import ctypes
import tempfile
from collections.abc import Callable
from pathlib import Path

from tinymi.arrays import Array
from tinymi.machine.browser import IN_BROWSER

import numpy as np

Kernel = Callable[[int, int, int, int, int, int], object]  # where weights, rows and out begin; n_out, n_rows, n_in
CODE = Path(__file__).with_suffix(".wasm")
_SHARED = b"\0\x0f\x08dylink.0\x01\x04\0\0\0\0"  # the section by which Emscripten knows a shared library


def matmul(left: Array, right: Array) -> Array:
    """left @ right, [n_out, n_in] @ [n_in, n]."""
    if _kernel is None or type(left) is not np.ndarray:  # an array that watches what becomes of it sees this only
        return left @ right
    if not _fits(left, right):
        summed: Array = np.einsum("oi,in->on", left, right)
        return summed
    (n_out, n_in), n = left.shape, right.shape[1]
    rows = np.zeros((n + n % 2, n_in), np.float32)
    rows[:n] = right.T
    out = np.empty((n_out, len(rows)), np.float32)
    _kernel(left.ctypes.data, rows.ctypes.data, out.ctypes.data, n_out, len(rows), n_in)
    return out[:, :n]


def _fits(left: Array, right: Array) -> bool:
    """Whether products.wat can do it. It needs a copy of `right`, which is too dear where `left` has few rows."""
    n_out, n_in = left.shape
    sizes = n_out % 2 == n_in % 4 == 0 and n_out >= 64 and min(n_in, right.shape[1]) > 0
    return sizes and left.flags.c_contiguous and left.dtype == right.dtype == np.float32


def _load() -> Kernel | None:
    """The function of products.wasm; None where the browser cannot multiply four numbers at once."""
    code = CODE.read_bytes()
    library = Path(tempfile.mkdtemp()) / "products.so"
    library.write_bytes(code[:8] + _SHARED + code[8:])
    try:
        kernel = ctypes.CDLL(str(library)).products
    except OSError:
        return None
    kernel.argtypes = [ctypes.c_uint32] * 6
    kernel.restype = None
    return kernel


_kernel = _load() if IN_BROWSER else None
