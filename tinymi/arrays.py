"""The two kinds of array that the engine passes around, and what may be given in their place."""

from typing import Any

from tinymi.errors import InputError

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]  # numbers: float32, or float64 in a model loaded so
Tokens = npt.NDArray[np.int64]  # token ids


def as_array(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """`values` as an array. name: how an InputError calls them where they are none."""
    try:
        return np.asarray(values)
    except ValueError:
        raise InputError(
            f"{name}: rows of unequal length, but a batch is one array; give rows of one length, or run them one by one"
        ) from None


def is_int(number: object) -> bool:
    """True for Python and NumPy integers; bools and floats do not count."""
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
