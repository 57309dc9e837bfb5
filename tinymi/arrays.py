"""The two kinds of array that the engine passes around."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]  # numbers: float32, or float64 in a model loaded so
Tokens = npt.NDArray[np.int64]  # token ids
