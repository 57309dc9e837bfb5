"""What the prose of a page links to: papers, other lessons, and the field's words, explained where they first occur."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tinymi.teaching import glossary
from tinymi.teaching.glossary import Term
from tinymi.teaching.report.markdown import Block, Span, blocks, spans
from tinymi.text import show_text

_LESSONS = re.compile(r"\b[Ll]essons? \d{1,2}(?:(?:, | and |, and | or | to )\d{1,2})*\b")
_UNBROKEN = re.compile(r"<[^>]*>|((?<![\w&])(?:[\w&;/]*-&gt;[\w&;/-]*|[A-Z]-\w+))")  # END->S2, S-inhibition


@dataclass(frozen=True, slots=True)
class Link:
    """Another page of the site."""

    file: str
    title: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page stands in a site. A page on its own has the default: no site around it."""

    lessons: Mapping[str, Link] = field(default_factory=dict)  # by "07", "activation patching", "deeper/07_x.py"
    before: Link | None = None
    after: Link | None = None
    lesson: Link | None = None  # of a deeper page: the page that it looks deeper into
    deeper: Link | None = None
    script: str = ""  # the path of the code
    code: str = ""  # its address, if the repository has one
    data: str = ""  # the JSON file


class Links:
    """Writes the prose of one page, and remembers which words it has explained. place: None for no links at all."""

    def __init__(self, place: Place | None) -> None:
        self._explains = place is not None
        self.place = place or Place()
        self.words: dict[str, Term] = {}  # by the id of their entry at the end of the page
        self._explained: set[str] = set()

    def new_section(self) -> None:
        """From here on, a word is explained once more."""
        self._explained = set()

    def prose(self, text: str) -> str:
        """A text of blocks as HTML."""
        return "\n".join(_block(block, self) for block in blocks(show_text(text)))

    def line(self, text: str) -> str:
        """The text of one line as HTML."""
        return inline(text, self)

    def word(self, text: str) -> str:
        """Plain text as HTML, with links to lessons and words."""
        marked = glossary.pattern().sub(self._term, html.escape(text)) if self._explains else html.escape(text)
        return _LESSONS.sub(self._lessons, marked) if self.place.lessons else marked

    def _term(self, match: re.Match[str]) -> str:
        term = glossary.forms()[match[0].lower()]
        if term.name in self._explained:
            return match[0]
        self._explained.add(term.name)
        self.words[anchor(term)] = term
        return f'<a class="term" href="#{anchor(term)}">{match[0]}</a>'

    def _lessons(self, match: re.Match[str]) -> str:
        return re.sub(r"\d+", self._lesson, match[0])

    def _lesson(self, match: re.Match[str]) -> str:
        link = self.place.lessons.get(match[0].zfill(2))
        return f'<a href="{link.file}" title="{html.escape(link.title)}">{match[0]}</a>' if link else match[0]

    def names(self, text: str) -> str:
        """A list of lessons by name or number, "quick start, lesson 1", as HTML."""
        parts = []
        for name in text.split(", "):
            link = self.place.lessons.get(name.removeprefix("lesson ").replace("_", " "))
            parts.append(f'<a href="{link.file}">{inline(name)}</a>' if link else inline(name))
        return ", ".join(parts)


def inline(text: str, links: Links | None = None) -> str:
    """One line of Markdown as HTML."""
    return "".join(_span(span, links) for span in spans(show_text(str(text))))


def _block(block: Block, links: Links) -> str:
    if block.kind == "verbatim":
        return f'<pre tabindex="0">{html.escape(block.entries[0])}</pre>'
    entries = [inline(entry, links) for entry in block.entries]
    if block.kind == "paragraph":
        return f"<p>{entries[0]}</p>"
    tag = "ul" if block.kind == "bullets" else "ol"
    return f"<{tag}>{''.join(f'<li>{entry}</li>' for entry in entries)}</{tag}>"


def _span(span: Span, links: Links | None) -> str:
    if span.kind == "text":
        text = links.word(span.text) if links else html.escape(span.text)
        return _UNBROKEN.sub(lambda match: f'<span class="unbroken">{match[1]}</span>' if match[1] else match[0], text)
    if span.kind == "code":
        file = links and links.place.lessons.get(span.text.removeprefix("lessons/"))
        code = f"<code>{html.escape(span.text)}</code>"
        return f'<a href="{file.file}">{code}</a>' if file else code
    if span.kind == "link":  # no links inside links
        return f'<a href="{html.escape(span.address)}">{"".join(_span(part, None) for part in span.parts)}</a>'
    return f"<{span.kind}>{''.join(_span(part, links) for part in span.parts)}</{span.kind}>"


def references(text: str) -> str:
    """Papers as HTML: "Name et al. 2022, Title, https://..." is a link, and several are separated by "; "."""
    parts = []
    for paper in text.split("; "):
        name, _, address = paper.rpartition(", ")
        is_link = name and re.fullmatch(r"https?://\S+", address)
        parts.append(f'<a href="{html.escape(address)}">{inline(name)}</a>' if is_link else inline(paper))
    return "; ".join(parts)


def anchor(term: Term) -> str:
    """The id of a word's entry, on a page and in the glossary."""
    return "word-" + re.sub(r"[^a-z0-9]+", "-", term.name.lower())
