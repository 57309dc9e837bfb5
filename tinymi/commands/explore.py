"""`tinymi explore "My prompt"`: what the explorer shows of a prompt, in the terminal or as a page."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

import tinymi
from tinymi.serve import explorer, panels
from tinymi.teaching.options import Option, Parser
from tinymi.teaching.report import html, items, json, terminal

HTML = Option("html", str, None, "write it as one page for the browser", metavar="FILE")


def explore(arguments: Sequence[str]) -> int:
    """Print it all; the options are those of the form, which depend on the model. Raises InputError."""
    first = ArgumentParser("tinymi explore", add_help=False, allow_abbrev=False)
    first.add_argument("--model", metavar="SOURCE", help="folder, hub id or .gguf file; without it, the default model")
    named, rest = first.parse_known_args(arguments)
    model = tinymi.load(named.model)
    asked = Parser([*explorer.options(model.config), HTML], __doc__).read(rest)
    document, screen = panels.document(model, asked, named.model), terminal.Screen.of(sys.stdout)
    shown = [item for item in document.items if not isinstance(item, items.Code)]
    print("\n\n".join(terminal.render(item, screen) for item in shown))
    if asked.html is not None:
        json.write_text(asked.html, html.page(document))
    return 0
