"""The files that a lesson writes: --json and --html."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinymi.errors import InputError
from tinymi.teaching.report import json as data
from tinymi.teaching.report.html import page
from tinymi.teaching.report.items import Document
from tinymi.text import show_text


def check(options: Namespace) -> None:
    """Refuse files that could not be written at the end, before the work begins. Raises InputError."""
    for flag, path in (("--json", options.json), ("--html", options.html)):
        if path is not None:
            data.require_writable(path, flag)
    if options.json is not None and options.html is not None and Path(options.json) == Path(options.html):
        raise InputError(f"--json and --html: both name {options.json}; give each a file of its own")


def write(options: Namespace, document: Document, fields: Mapping[str, Any]) -> list[str]:
    """Write the files that the options name. Returns a line about each. fields: the lesson's own in the JSON file."""
    lines = []
    if options.json is not None:
        data.write_text(options.json, data.to_json(document, fields))
        lines.append(f"JSON: {show_text(options.json)}")
    if options.html is not None:
        data.write_text(options.html, page(document))
        lines.append(f"Page: {show_text(options.html)}")
    return lines
