"""The little Markdown of a lesson's prose, read into plain data that each writer shows in its own way.

Blocks: paragraphs, lists ("- ", or "1. " and so on), and text indented by four spaces, which keeps its line breaks.
Inside a line: `code`, *emphasis*, **strong**, [text](https://...), and bare addresses. Anything else is text.
"""

import re
from dataclasses import dataclass

_MARKER = re.compile(r"(?:[-*]|(\d+\.)) +")
_ADDRESS = r"https?://[\w./%~?=&#:+-]*[\w/]"
_SPAN = re.compile(
    r"`(?P<code>[^`\n]+)`"
    r"|(?<![\w*])\*\*(?P<strong>[^\s*](?:[^*]*[^\s*])?)\*\*(?![\w*])"
    r"|(?<![\w*])\*(?P<em>[^\s*](?:[^*]*[^\s*])?)\*(?![\w*])"
    rf"|\[(?P<link>[^\]\n]+)\]\((?P<address>{_ADDRESS})\)"
    rf"|(?P<bare>{_ADDRESS})"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph (one entry), a list (an entry per point), or verbatim text (one entry)."""

    kind: str  # paragraph, bullets, numbers, verbatim
    entries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a line; emphasis, strong text and links hold spans in turn."""

    kind: str  # text, code, em, strong, link
    text: str = ""
    parts: tuple["Span", ...] = ()
    address: str = ""


def blocks(text: str) -> list[Block]:
    """The blocks of a text, in order."""
    groups: list[tuple[str, list[str]]] = []
    after_blank = True
    for line in text.split("\n"):
        if line.strip():
            _add_line(groups, line, after_blank)
        elif groups and groups[-1][0] == "verbatim":
            groups[-1][1].append("")
        after_blank = not line.strip()
    return [Block(kind, _entries(kind, lines)) for kind, lines in groups]


def _add_line(groups: list[tuple[str, list[str]]], line: str, after_blank: bool) -> None:
    """Put a line into the group that is open, or begin the next one."""
    kind = groups[-1][0] if groups else ""
    if line.startswith("    ") and (after_blank or kind == "verbatim"):
        if kind != "verbatim":
            groups.append(("verbatim", []))
        groups[-1][1].append(line[4:].rstrip())
    elif (marker := _MARKER.match(line.lstrip())) and (not marker[1] or kind == "numbers" or marker[1] == "1."):
        kind = "numbers" if marker[1] else "bullets"
        if not groups or groups[-1][0] != kind:
            groups.append((kind, []))
        groups[-1][1].append(line.lstrip()[marker.end() :])
    elif after_blank or kind == "verbatim":
        groups.append(("paragraph", [line]))
    else:
        groups[-1][1][-1] += f" {line}"


def _entries(kind: str, lines: list[str]) -> tuple[str, ...]:
    if kind == "verbatim":
        return ("\n".join(lines).rstrip("\n"),)
    return tuple(" ".join(line.split()) for line in lines)


def spans(text: str) -> tuple[Span, ...]:
    """The pieces of one line."""
    pieces, end = [], 0
    for match in _SPAN.finditer(text):
        pieces += [Span("text", text[end : match.start()])] if match.start() > end else []
        pieces.append(_span(match))
        end = match.end()
    return (*pieces, Span("text", text[end:])) if end < len(text) else tuple(pieces)


def _span(match: re.Match[str]) -> Span:
    if match["code"]:
        return Span("code", match["code"])
    if match["bare"]:
        return Span("link", parts=(Span("text", match["bare"]),), address=match["bare"])
    if match["link"]:
        return Span("link", parts=(Span("text", match["link"]),), address=match["address"])
    kind = "strong" if match["strong"] else "em"
    return Span(kind, parts=spans(match[kind]))
