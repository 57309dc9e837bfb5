"""A lesson as one HTML page: self-contained, without a network, for a browser, a phone, paper or a screen reader.

The templates (page.html, items.html) escape whatever they are given; views.py turns items into the plain values that a
template places. Pictures are real tables with coloured cells, so that every value is text; curves and circuits are
drawn as SVG, with their values beside them. The one script of the page serves what can be pointed at, picked and slid
(page.js says how); the page's content security policy allows that script, by its hash, and nothing else. Without the
script all is there but for these.

Curves are drawn here and not by a chart library: those that fit the page's size draw on a canvas, which can neither be
read aloud nor printed sharply nor follow the reader's colour scheme, and those that write SVG from Python bring fixed
colours and scripts of their own.
"""

import base64
import functools
import hashlib
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinymi.teaching.report import links
from tinymi.teaching.report.drawing import LEVELS
from tinymi.teaching.report.items import Check, Code, Document, Finding, Headline, Item, Section
from tinymi.teaching.report.links import Links, Place
from tinymi.teaching.report.views import markup, picks, poster, view
from tinymi.text import SPACE, show_text, show_token

_HERE = Path(__file__).parent / "templates"
_PAPER, _PLUS, _MINUS, _AMOUNT = (
    ("#ffffff", "#15181d"),
    ("#f0745e", "#a4352b"),
    ("#6fa8f2", "#2b5fae"),
    ("#f2a93b", "#8a5700"),
)


def page(document: Document, place: Place | None = None) -> str:
    """The whole page. place: where it stands in a site."""
    return fill("page.html", **contents(document, place))


def contents(document: Document, place: Place | None = None) -> dict[str, Any]:
    """What the template of a page places."""
    writer = Links(place or Place())
    intro = [(name, _intro(name, text, writer)) for name, text in document.intro]
    shown = _views(document.items, writer)
    headline = next((item for item in document.items if isinstance(item, Headline)), None)
    return {
        "document": document,
        "place": writer.place,
        "intro": intro,
        "answer": None if headline is None else poster(headline, document.items),
        "sections": [(one["id"], one["item"].title) for one in shown if one["kind"] == "section"],
        "views": shown,
        "picks": picks(document.items),
        "first_pick": next((one["id"] for one in shown if one["kind"] == "step" and one["payload"]), ""),
        "checks": [item for item in document.items if isinstance(item, Check)],
        "findings": [item for item in document.items if isinstance(item, Finding)],
        "words": sorted(writer.words.items()),
        "style": style(),
        "script": script(),
        "policy": policy(script_hash()),
    }


def notebook_head() -> str:
    """Style and script for all fragments of a notebook. They go into the head of its page: cells come and go."""
    stronger = style().replace(".tinymi", ".tinymi.tinymi.tinymi")  # than the notebook's own rules
    return fill("notebook_head.html", style=stronger, script=script())


def _views(items: Sequence[Item], writer: Links) -> list[dict[str, Any]]:
    """The page's items in order. The headline has its place at the top; code that shows nothing closes no page."""
    end = max((number for number, item in enumerate(items, 1) if not isinstance(item, (Code, Headline))), default=0)
    views = []
    for number, item in enumerate(items[:end]):
        if isinstance(item, Section):
            writer.new_section()
        if not isinstance(item, Headline):
            views.append(view(item, number, writer))
    return views


def fragment(item: Item) -> str:
    """One item for display in a notebook, which has `notebook_head` already."""
    return fill("fragment.html", view=view(item, id(item), Links(None)))


def fill(template: str, **values: Any) -> str:
    """One of the templates, with its values in place."""
    return str(environment().get_template(template).render(values))


@functools.cache
def environment() -> Any:
    """The templates and their filters."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(text=show_text, rich=_rich, token=_token, indentation=_indentation, papers=_papers)
    environment.tests["named"] = _begins_with_a_name
    return environment


@functools.cache
def style() -> str:
    """The style sheet, with the colour scales for light and dark written out as classes."""
    light, dark = (_scale(scheme) for scheme in (0, 1))
    text = (_HERE / "page.css").read_text("utf-8")
    return f"{text}\n{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


@functools.cache
def script() -> str:
    """The one script of a page."""
    return (_HERE / "page.js").read_text("utf-8")


@functools.cache
def script_hash() -> str:
    """By which the content security policy of a page allows its script."""
    return base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()


def policy(hash_of_script: str = "") -> str:
    """The content security policy of a page that stands alone: its own style, this script, and nothing else."""
    scripts = f"script-src 'sha256-{hash_of_script}'; " if hash_of_script else ""
    return f"default-src 'none'; style-src 'unsafe-inline'; {scripts}img-src data:; base-uri 'none'; form-action 'none'"


def _scale(scheme: int) -> str:
    """Classes p0..p10, n0..n10, a0..a10: positive, negative and one-sided, pale enough for the text on them."""
    rules = []
    for letter, strong in (("p", _PLUS), ("n", _MINUS), ("a", _AMOUNT)):
        for step in range(LEVELS + 1):
            color = _mix(_PAPER[scheme], strong[scheme], step / LEVELS)
            rules.append(f".tinymi .{letter}{step}{{background:{color};fill:{color}}}")
    return "\n".join(rules)


def _mix(start: str, end: str, share: float) -> str:
    pairs = ((int(start[i : i + 2], 16), int(end[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


# --- text -----------------------------------------------------------------------------------------------------


def _begins_with_a_name(caption: str) -> bool:
    """Is the first word no word of the language, such as blocks.0.hook_resid_pre? Then it keeps its small letter."""
    return re.fullmatch(r"[^\W\d_]+[,:;]?", caption.partition(" ")[0]) is None


def _rich(text: str) -> Any:
    return markup(links.inline(text))


def _papers(text: str) -> Any:
    return markup(links.references(text))


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _token(text: str) -> Any:
    """A visible token; its marks for spaces and controls are dimmer than its letters."""
    shown = html.escape(show_token(text))
    return markup(
        re.sub(rf"{SPACE}+|(?:\\(?:[nrt]|x\w\w|u\w{{4}}|U\w{{8}}))+", r'<span class="mark">\g<0></span>', shown)
    )


def _intro(name: str, text: str, writer: Links) -> Any:
    """A paragraph of the docstring: lessons and papers are links."""
    if name == "Needs":
        return markup(writer.names(text))
    return markup(links.references(text) if name.startswith("Paper") else writer.line(text))
