"""The bytes of a file as an array."""

from pathlib import Path

from tinymi.machine.browser import IN_BROWSER

import numpy as np
import numpy.typing as npt


def mapped(path: Path) -> npt.NDArray[np.uint8]:
    """The file's bytes, mapped, so that only what is used is read. A browser maps no files: there all of it is read."""
    if IN_BROWSER:
        return np.fromfile(path, np.uint8)
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
