"""A lesson's source as cells, exercises and items, and its docstring as title and paragraphs."""

from tinymi.teaching.catalogue import all_lessons, read_docstring
from tinymi.teaching.cells import Question, as_items, cells, question
from tinymi.teaching.report import items

import pytest

SOURCE = '''# %% [markdown]
"""What is this?

Time: soon
"""

# %% Set-up
x = 1  # %% no mark

# %% [markdown]
# Before.
#
# ## 1. A heading
#
# One *paragraph*,
# two lines.
#
#     indented

# %%

# %% [markdown]
# Exercise (hard, 1 minute): What is
# x? And why?
#
# Hint: look
# above

# %%
y = "# %% [markdown]"
'''


def test_cells_are_cut_at_their_marks() -> None:
    parts = cells(SOURCE)
    assert [(cell.line, cell.title, cell.is_markdown) for cell in parts] == [
        (7, "Set-up", False),
        (10, "", True),
        (22, "", True),
        (29, "", False),
    ]
    assert parts[0].text == "x = 1  # %% no mark"
    assert parts[-1].text == 'y = "# %% [markdown]"'
    assert cells("x = 1\n") == cells("") == []


def test_a_cell_becomes_code_or_headings_and_prose() -> None:
    code, prose, *_ = cells(SOURCE)
    assert as_items(code) == [items.Code("x = 1  # %% no mark", folded=True)]
    assert as_items(prose) == [
        items.Prose("Before."),
        items.Section("1. A heading"),
        items.Prose("One *paragraph*,\ntwo lines.\n\n    indented"),
    ]


def test_an_exercise_is_question_hint_difficulty_and_minutes() -> None:
    asked = [question(cell) for cell in cells(SOURCE)]
    assert asked == [None, None, Question("What is x? And why?", "look above", "hard", 1), None]
    (bare,) = cells("# %% [markdown]\n# Exercise (easy): Why?")
    assert question(bare) == Question("Why?", "", "easy", None)
    (code,) = cells('# %%\nExercise (easy): "Why?"')
    assert question(code) is None


@pytest.mark.parametrize(
    ("docstring", "title", "paragraphs"),
    [
        ("", "", ()),
        ("A title", "A title", ()),
        ("Is it?\nmore\nof it\n\nTime: 3\n  minutes", "Is it?", (("", "more of it"), ("Time", "3 minutes"))),
        ("T\n\nPaper: One\nInterpretability in the Wild: a", "T", (("Paper", "One Interpretability in the Wild: a"),)),
        ("T\n\nno name: x\n\nhttps://x.org", "T", (("", "no name: x"), ("", "https://x.org"))),
    ],
)
def test_a_docstring_is_a_title_and_paragraphs(docstring: str, title: str, paragraphs: object) -> None:
    assert read_docstring(docstring) == (title, paragraphs)


def test_every_lesson_has_its_paragraphs() -> None:
    for lesson in all_lessons():
        assert {"What you will learn", "Needs", "Time", "Paper"} <= dict(lesson.about).keys(), lesson.path.name
        assert all(lesson.times)
