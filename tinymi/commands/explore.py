"""`tinymi explore "My prompt"`: what the explorer shows of a prompt, in the terminal or as a page."""

import sys
from collections.abc import Sequence

import tinymi
from tinymi.serve import explorer, panels
from tinymi.teaching.options import COMMON, Option, Parser
from tinymi.teaching.report import html, items, json, terminal

HTML = Option("html", str, None, "write it as one page for the browser", metavar="FILE")
MODEL = next(option for option in COMMON if option.name == "model")


def explore(arguments: Sequence[str]) -> int:
    """Print it all; the options are those of the form, which depend on the model. Raises InputError."""
    named, _ = Parser([MODEL]).parse_known_args(arguments)
    model = tinymi.load(vars(named).get("model"))
    parser = Parser([*explorer.options(model.config), HTML, MODEL], "What the explorer shows of a prompt.")
    parser.prog = "tinymi explore"
    asked = parser.read(arguments)
    document, screen = panels.document(model, asked, asked.model), terminal.Screen.of(sys.stdout)
    shown = [item for item in document.items if not isinstance(item, items.Code)]
    print("\n\n".join(terminal.render(item, screen) for item in shown))
    if asked.html is not None:
        json.write_text(asked.html, html.page(document))
    return 0
