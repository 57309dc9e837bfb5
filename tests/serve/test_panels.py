"""The explorer's panels: the Python that each shows gives the numbers that it shows; pages, and the command."""

import contextlib
import io
from pathlib import Path
from typing import Any

import tinymi
from tinymi.commands.main import main
from tinymi.ops import softmax
from tinymi.serve import panels
from tinymi.serve.explorer import read, see
from tinymi.serve.panels import begin, change_code
from tinymi.teaching.report.html import page
from tinymi.teaching.report.items import Bars, Heatmap

import numpy as np
import pytest

PROMPT = "The capital of France is"
CHANGED = {"cut": "23.4 24.7", "scale_layer": "20", "scale_by": "0.5", "plus": "Italy", "minus": "France"}


@pytest.fixture
def loaded(default_model: tinymi.Model, monkeypatch: pytest.MonkeyPatch) -> tinymi.Model:
    """The model that `tinymi.load()` gives here."""
    monkeypatch.setattr(tinymi, "load", lambda source=None: default_model)
    return default_model


def run(code: str) -> tuple[dict[str, Any], list[str]]:
    """What the code leaves behind, and its lines."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return names, out.getvalue().splitlines()


def numbers(line: str) -> list[float]:
    return [float(word) for word in line.replace("[", " ").replace("]", " ").split()]


@pytest.mark.parametrize("prompt", [PROMPT, "Say \"a\" and 'b'\\", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600 \u202e x\n"])
def test_the_python_of_each_panel_gives_its_numbers(loaded: tinymi.Model, prompt: str) -> None:
    asked = read(loaded.config, {"layer": "23", "head": "4"})
    seen = see(loaded, asked, prompt)
    shown = {one.name: one for one in panels.panels(loaded, asked, prompt)}
    assert list(shown) == ["prediction", "lens", "layers", "attention", "heads"]
    lines = {name: run(one.code)[1] for name, one in shown.items()}

    bars = shown["prediction"].item
    assert isinstance(bars, Bars)
    said = [f"{value:.3f} {str(label)!r}" for label, value in zip(bars.labels, bars.series[""]) if value is not None]
    assert lines["prediction"] == said
    lens = shown["lens"].item
    assert isinstance(lens, Heatmap)
    assert lens.texts is not None
    for line, label, texts in zip(lines["lens"], lens.row_labels[1:], lens.texts[1:], strict=True):
        assert line == f"{label} {[str(text) for text in texts]}"
    for layer, line in enumerate(lines["layers"]):
        np.testing.assert_allclose(numbers(line), [layer, seen.attention[layer], seen.mlp[layer]], atol=0.006)
    for layer, line in enumerate(lines["heads"]):
        np.testing.assert_allclose(numbers(line), [layer, *seen.heads[layer]], atol=0.006)
    names, _ = run(shown["attention"].code)
    np.testing.assert_allclose(names["cache"]["pattern", 23][0, 4], seen.patterns[23][4], atol=1e-6)
    for one in shown.values():
        assert len(one.code.splitlines()) <= 11
        assert one.code.replace("\n", "").isprintable()


@pytest.mark.parametrize("names", [["cut"], ["scale_layer", "scale_by"], ["plus", "minus"], list(CHANGED)])
def test_the_python_of_a_change_gives_the_changed_prediction(loaded: tinymi.Model, names: list[str]) -> None:
    asked = read(loaded.config, {name: CHANGED[name] for name in names})
    changed = see(loaded, asked, PROMPT).changed
    assert changed is not None
    left, _ = run(change_code(loaded, asked, PROMPT, begin(None)))
    np.testing.assert_allclose(softmax(left["logits"][0, -1]), changed, rtol=1e-3, atol=1e-6)
    assert change_code(loaded, read(loaded.config, {}), PROMPT, begin(None)) == ""


def test_the_prediction_beside_the_changed_one(default_model: tinymi.Model) -> None:
    item = panels.panels(default_model, read(default_model.config, {"cut": "23.4"}), PROMPT)[0].item
    assert isinstance(item, Bars)
    assert list(item.series) == ["before", "after"]
    before, after = (column[item.labels.index(" Paris")] for column in item.series.values())
    assert before is not None
    assert after is not None
    assert before > 0.7 > 0.2 > after


def test_the_command_makes_the_page_that_is_saved(loaded: tinymi.Model, tmp_path: Path, capsys: Any) -> None:
    query = {"prompt": PROMPT, "second": "<b>Rome</b> is", "cut": "23.4", "layer": "3", "head": "2"}
    document = panels.document(loaded, read(loaded.config, query))
    expected = "tinymi explore --second '<b>Rome</b> is' --layer 3 --head 2 --cut 23.4"
    assert document.command == expected
    words = ["explore", PROMPT, "--second", "<b>Rome</b> is", "--layer", "3", "--head", "2", "--cut", "23.4"]
    assert main([*words, "--html", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert "Which heads push it?: <b>Rome</b> is" in printed
    saved = (tmp_path / "page.html").read_text("utf-8")
    assert saved == page(document)
    assert "<b>Rome" not in saved
