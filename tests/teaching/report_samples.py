"""One item of every kind, some with hostile content: what the tests of the three writers have in common."""

from typing import Any

from tinymi.teaching.report import items
from tinymi.text import Token

import numpy as np

HOSTILE = ("<script>alert(1)</script>", "\x1b[31mred", "\u202eevil", "\ud800", "</table>", '"onmouseover="x', "\x9b2J")


def pattern(n_heads: int, n_pos: int, seed: int = 0) -> Any:
    """Causal attention patterns [n_heads, query_pos, key_pos] whose rows sum to 1."""
    weights = np.tril(np.random.default_rng(seed).random((n_heads, n_pos, n_pos)))
    return weights / weights.sum(axis=2, keepdims=True)


def samples() -> list[items.Item]:
    random = np.random.default_rng(1)
    tokens = [Token(text) for text in HOSTILE]
    wide = [Token(text) for text in ("日本語の長いトークン", " " * 70, "🙂🙂", "a" * 90)]
    numbers = np.tile([0.25, -1234.5, np.nan, -0.0], (7, 2, 1))
    rows = [[number, token, number / 7, "a sentence of words " * 4] for number, token in enumerate(tokens + wide)]
    bars = items.Bars(
        ("a " + HOSTILE[0], tokens[1]), items.make_series([0.5, -1.0], 2, "bars"), "caption " + HOSTILE[1]
    )
    return [
        items.Section("A heading with " + HOSTILE[0] + HOSTILE[1]),
        items.Prose("Words in `code` and " + " ".join(HOSTILE) + "\n\n" + "and many more words " * 30),
        items.Prose(
            "*Look* at **this** [paper](https://e.org/a?b=1):\n\n- a `point`\n- more\n\n1. one\n\n    x\n      <b>"
        ),
        items.Headline("The answer is `x`, " + HOSTILE[0], bars),
        items.Code('# %% a <comment>\nx = f\'{y!r}</pre>\' + """a\nb"""  # ' + HOSTILE[1]),
        items.Code("def f(x):\n    return 1.5 * x\n" + "y = 1\n" * 3, folded=True),
        items.Code("%matplotlib inline\nx = ("),
        bars,
        items.Preformatted("a drawing\n  " + HOSTILE[1], "its " + HOSTILE[0]),
        items.Step(
            "hook " + HOSTILE[0],
            "means " + HOSTILE[1],
            "q = x @ W\n" + HOSTILE[2],
            ((("pos", 6), ("d_model", 576)), (("d_model", 576), ("n_heads*d_head", 576))),
            "for each of 9 heads",
            (("batch", 1), ("pos", 6), ("1", 1)),
            1_990_656,
            *items.make_choices({"position": (tokens, 5), "head": (range(2), 0)}, numbers),
            True,
        ),
        items.Step("plain", "one sentence", "", (), "", (("pos", 6),), 0, *items.make_choices({}, [1.0]), False),
        items.make_table(["number", "token", "share of " + HOSTILE[0], "note"], rows, "caption " + HOSTILE[1], {}),
        items.make_table([f"column {n}" for n in range(25)], random.normal(size=(3, 25)), "wide", {}),
        items.make_table(["empty", "table"], [], "", {}),
        items.Bars(tuple(tokens), items.make_series(random.normal(size=len(tokens)), len(tokens), "bars"), "bars"),
        items.Bars(
            tuple(range(30)),
            {name: items.numbers(random.normal(size=30) * 1e3) for name in ("attention", HOSTILE[0], HOSTILE[1])},
        ),
        items.Bars(("only zero", "nothing"), {"": (0.0, None)}),
        items.make_heatmap(random.normal(size=(5, 9)), None, None, None, row_axis="layer", column_axis="head"),
        items.make_heatmap(random.normal(size=(3, 200)), None, None, None, caption="very wide"),
        items.make_heatmap([[0.5, np.nan]], [tokens[0]], tokens[1:3], None, caption="x" * 200, center=None),
        items.make_heatmap(random.random((2, 11)), None, (tokens + wide), [tokens + wide] * 2, center=None),
        items.make_attention(tokens, {3: pattern(4, 7), 9: pattern(4, 7, 1)}, "attention " + HOSTILE[0], None),
        items.make_attention([Token(" a")] * 70, pattern(2, 70), "long", [0, 1]),
        items.Lines(tuple(map(float, range(90))), {"p": items.numbers(random.random(90)), HOSTILE[1]: (None,) * 90}),
        items.Lines((0.0,), {"": (1.0,)}, "one point", "dose"),
        items.make_highlight([(tokens, random.random(7)), ([" a", " *b*"], [-1.0, np.nan])], ["x", 2], HOSTILE[0], ""),
        items.make_highlight([(wide, random.random(4))], (), "", ".1f"),
        items.Graph(
            (("0.1 " + HOSTILE[0], 0, "reads " + HOSTILE[1]), ("3.2", 3, "writes " * 9), ("3.3", 3, ""), ("9", 9, "")),
            (("0.1 " + HOSTILE[0], "3.2", 0.5), ("0.1 " + HOSTILE[0], "9", -1.5), ("3.2", "9", 0.0), ("3.3", "9", 1.0)),
            "a circuit " + HOSTILE[0],
        ),
        items.Check("pattern rows sum to 1 " + HOSTILE[1], 1e-7, 1e-5),
        items.Check("a long name " * 12, None, 1e-5),
        items.Finding("claim " + HOSTILE[0], True, "evidence " + HOSTILE[1], "control " + HOSTILE[2]),
        items.Finding("claim " * 30, False, "too little", ""),
        items.Exercise(
            "question " + HOSTILE[0], "0.773", "hint " + HOSTILE[1], 5, "easy", 0.773, 0.01, "x = '</pre>'", "7.1"
        ),
    ]


def document(*extra: items.Item) -> items.Document:
    model = {
        "source": HOSTILE[0],
        "stored_as": "F32",
        "description": "a model " + HOSTILE[0] + HOSTILE[1],
        "n_heads": 9,
    }
    intro = (("Needs", "nothing " + HOSTILE[0] + HOSTILE[1]), ("", "see https://example.org/a?b=1."))
    options = {"prompt": HOSTILE[1]}
    return items.Document("Why " + HOSTILE[0] + "?", intro, "python x.py", options, model, (*samples(), *extra), "0.1")
