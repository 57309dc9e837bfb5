"""Python code in pieces, each with its part of speech, for colours made when a page is made."""

import io
import keyword
import tokenize
from collections.abc import Iterator

KEYWORD, STRING, COMMENT, NUMBER, DEFINED, PLAIN = "keyword", "string", "comment", "number", "defined", ""


def lines_of(code: str) -> list[list[tuple[str, str]]]:
    """Each line of `code` as (text, part of speech) pieces; their texts together are the code.

    What Python cannot read, such as a cell with a %magic, is plain.
    """
    try:
        pieces = list(_pieces(code))
    except (tokenize.TokenError, SyntaxError):
        pieces = [(code, PLAIN)]
    lines: list[list[tuple[str, str]]] = [[]]
    for text, part in pieces:
        first, *others = text.split("\n")
        lines[-1].append((first, part))
        lines += [[(line, part)] for line in others]
    return [[piece for piece in line if piece[0]] for line in lines]


def _pieces(code: str) -> Iterator[tuple[str, str]]:
    starts = [0]
    for line in code.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    end, before = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        start, stop = (min(starts[row - 1] + column, len(code)) for row, column in (token.start, token.end))
        if part := _part(token, before):
            yield code[end:start], PLAIN
            yield code[start:stop], part
            end = stop
        before = token.string
    yield code[end:], PLAIN


def _part(token: tokenize.TokenInfo, before: str) -> str:
    kind = tokenize.tok_name[token.type]
    if kind == "NAME":
        if before in ("def", "class"):
            return DEFINED
        return KEYWORD if keyword.iskeyword(token.string) else PLAIN
    return {"COMMENT": COMMENT, "NUMBER": NUMBER}.get(kind, STRING if "STRING" in kind else PLAIN)
