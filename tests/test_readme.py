"""The README's Python example does what its comments say."""

import re

import tinymi
from tests.running import ROOT

import numpy as np


def test_the_example_prints_what_its_comments_say(default_model: tinymi.Model) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    printed: list[str] = []
    exec(code, {"print": lambda value: printed.append(str(value))})
    expected = re.findall(r"^print\(.*\)  # (.*?)(?:: .*)?$", code, flags=re.MULTILINE)
    assert len(expected) == 3
    assert printed == expected


def test_its_output_is_the_lessons(default_model: tinymi.Model) -> None:
    """The probabilities shown at the top are the model's, to the digits shown."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    logits = default_model(default_model.to_tokens("The capital of France is"), positions=-1)[0, 0]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    shown = re.findall(r"^    ␣(\w+) +([\d.]+) │", text, flags=re.MULTILINE)
    assert len(shown) == 5
    for word, number in shown:
        assert f"{probabilities[default_model.to_single_token(' ' + word)]:.3f}" == number
