"""Whether a lesson runs in a notebook, and what it finds there."""

import ast
import sys
from typing import Any


def shell() -> Any:
    """IPython's shell, or None in plain Python."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def in_notebook() -> bool:
    """Whether pictures can be shown: wherever IPython runs, but for its shell in a terminal."""
    return shell() is not None and "TerminalInteractiveShell" not in [kind.__name__ for kind in type(shell()).__mro__]


def publish(page: str, text: str) -> None:
    """Show HTML, and its text to those who have no pictures."""
    shell().display_pub.publish({"text/html": page, "text/plain": text})


def docstring() -> str:
    """The docstring of a lesson that runs as a notebook: the text at the top of the first cell that has one.

    There `__doc__` is IPython's own. A lesson whose docstring became a Markdown cell has none to find, and shows
    its title there.
    """
    for cell in shell().user_ns.get("In", []):
        try:
            text = ast.get_docstring(ast.parse(cell))
        except SyntaxError:  # a cell with a %magic
            continue
        if text:
            return text
    return ""
