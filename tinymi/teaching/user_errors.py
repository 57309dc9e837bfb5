"""How a lesson or a command speaks to its user when something goes wrong: one line, and an exit status."""

import errno
import os
import sys
import warnings
from types import TracebackType
from typing import Any

from tinymi.errors import TinymiError, TinymiWarning


def install_user_facing_errors() -> None:
    """Errors and warnings in one line; a character that the terminal's encoding lacks is spelled out."""
    sys.excepthook = _explain
    warnings.showwarning = _show_warning
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, or a program without a console
            setattr(sys, name, os.fdopen(_nowhere(), "w"))
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _nowhere() -> int:
    """A file descriptor that swallows what is written."""
    return os.open(os.devnull, os.O_WRONLY)


_python_shows = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Warnings meant for the user in one line; others as Python shows them, with their place in the code."""
    if issubclass(category, TinymiWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        _python_shows(message, category, *where, **more)


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The excepthook of a lesson: explained errors in one line (exit status 2); bugs keep their traceback."""
    if issubclass(kind, TinymiError):
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # standard output is a file
        print(f"error: standard output: cannot be written ({error.strerror}); make room", file=sys.stderr)
        os.dup2(_nowhere(), sys.stdout.fileno())
        sys.exit(2)
    if issubclass(kind, BrokenPipeError):  # the reader (head, less) has seen enough
        os.dup2(_nowhere(), sys.stdout.fileno())
        sys.exit(141)
    sys.__excepthook__(kind, error, trace)
