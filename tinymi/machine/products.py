"""Matrix products in a browser's tab, where NumPy has no BLAS: `products.wat` multiplies four numbers at once.

NumPy looks up its loops in a table. `use` puts ours in the place of the one for float32, so that every `@`, in the
engine and in a lesson, is fast and reads as it does elsewhere. GFLOP/s in Pyodide 0.27, best of a hundred on an AMD
Zen 5 (SciPy: of processor time):

    [6, 576] @ [576, 1536]     NumPy's 3.2    np.einsum 6.5    SciPy's sgemm 5.7    ours 22
    [1, 576] @ [576, 1536]             3.5              5.6                  2.7          7

Lesson 2, whose own products are large, took 10 seconds for 76, lesson 5 took 32 for 74.
"""

import ctypes
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tinymi.arrays import Array
from tinymi.machine.browser import IN_BROWSER

import numpy as np

Kernel = Callable[[int, int, int, int, int, int], object]  # where weights, rows and out begin; n_out, n_rows, n_in
CODE = Path(__file__).with_suffix(".wasm")
LEAST = 100_000  # multiply-adds, for fewer of which NumPy's own loop is faster than a call of ours
_SHARED = b"\0\x0f\x08dylink.0\x01\x04\0\0\0\0"  # the section by which Emscripten knows a shared library

_Sizes = ctypes.POINTER(ctypes.c_ssize_t)
_Loop = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_void_p), _Sizes, _Sizes, ctypes.c_void_p)
_called: list[Any] = []  # by NumPy, so it must stay


class _UFunc(ctypes.Structure):
    """The beginning of NumPy's PyUFuncObject."""

    _fields_ = (
        *[(name, ctypes.c_ssize_t) for name in ("references", "type")],
        *[(name, ctypes.c_int) for name in ("n_in", "n_out", "n_arguments", "identity")],
        ("loops", ctypes.POINTER(ctypes.c_void_p)),
    )


def use(kernel: Kernel) -> Callable[[], None]:
    """Let NumPy multiply float32 matrices with `kernel`. Returns what undoes it."""
    loops = _UFunc.from_address(id(np.matmul)).loops
    place = np.matmul.types.index("ff->f")
    numpys = _Loop(loops[place])

    def loop(addresses: Any, sizes: Any, strides: Any, data: Any) -> None:
        """What NumPy calls: n products [rows, inner] @ [inner, columns]; strides are in bytes."""
        n, rows, inner, columns = sizes[:4]
        shapes = ((rows, inner), (inner, columns), (rows, columns))
        if not _pays(rows, inner, columns, strides[3:9]):
            numpys(addresses, sizes, strides, data)
            return
        try:
            for number in range(n):
                left, right, out = (
                    _matrix(addresses[i] + number * strides[i], shape, strides[3 + 2 * i : 5 + 2 * i])
                    for i, shape in enumerate(shapes)
                )
                out[...] = product(left, right, kernel)
        except MemoryError:  # an error in here is passed over by NumPy, and there would be no product
            numpys(addresses, sizes, strides, data)

    ours = _Loop(loop)
    _called.append(ours)
    loops[place] = ctypes.cast(ours, ctypes.c_void_p).value

    def undo() -> None:
        loops[place] = ctypes.cast(numpys, ctypes.c_void_p).value

    return undo


def _pays(rows: int, inner: int, columns: int, strides: Sequence[int]) -> bool:
    """Whether a call of ours is worth it: the product is large, and need not copy the larger matrix for a few rows."""
    in_place = strides[1 if rows >= columns else 2] == 4  # the larger one's numbers to be summed lie side by side
    return rows * inner * columns >= LEAST and min(strides) >= 0 and (in_place or min(rows, columns) > 3)


def _matrix(address: int, shape: tuple[int, int], strides: Sequence[int]) -> Array:
    n_bytes = 4 + sum((size - 1) * stride for size, stride in zip(shape, strides))
    memory = memoryview((ctypes.c_char * n_bytes).from_address(address))
    return np.ndarray(shape, np.float32, memory, 0, tuple(strides))


def product(left: Array, right: Array, kernel: Kernel) -> Array:
    """left @ right. The kernel takes rows by rows: an even number of each, of a multiple of 4 numbers."""
    if left.size < right.size:
        return product(right.T, left.T, kernel).T
    fits = left.flags.c_contiguous and left.shape[0] % 2 == left.shape[1] % 4 == 0
    weights, rows = left if fits else _padded(left), _padded(right.T)
    out = np.empty((len(weights), len(rows)), np.float32)
    kernel(weights.ctypes.data, rows.ctypes.data, out.ctypes.data, *out.shape, rows.shape[1])
    return out[: len(left), : right.shape[1]]


def _padded(x: Array) -> Array:
    """A copy with zeros at its ends."""
    n_rows, n_columns = x.shape
    copy = np.zeros((n_rows + n_rows % 2, n_columns + -n_columns % 4), np.float32)
    copy[:n_rows, :n_columns] = x
    return copy


def fast_in_browser() -> None:
    """Use products.wasm where this is a browser's tab that can multiply four numbers at once."""
    if not IN_BROWSER:
        return
    code = CODE.read_bytes()
    library = Path(tempfile.mkdtemp()) / "products.so"
    library.write_bytes(code[:8] + _SHARED + code[8:])
    try:
        kernel = ctypes.CDLL(str(library)).products
    except OSError:
        return
    kernel.argtypes = [ctypes.c_uint32] * 6
    kernel.restype = None
    use(kernel)
