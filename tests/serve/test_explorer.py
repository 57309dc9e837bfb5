"""The explorer's numbers, against the lessons' formulas and hooks written by hand."""

from typing import Any

import tinymi
from tinymi.errors import InputError
from tinymi.ops import softmax
from tinymi.serve import explorer
from tinymi.serve.explorer import read, see

import numpy as np
import pytest

PROMPT = "The capital of France is"


def seen(model: tinymi.Model, prompt: str = PROMPT, **query: str) -> explorer.Seen:
    return see(model, read(model.config, query), prompt)


def test_the_prediction_and_the_shares(default_model: tinymi.Model) -> None:
    logits, cache = default_model.run_with_cache(PROMPT)
    one = seen(default_model)
    np.testing.assert_allclose(one.probs, softmax(logits[0, -1]), rtol=1e-4)
    assert [one.answer, one.wrong] == np.argsort(-logits[0, -1])[:2].tolist()
    assert one.difference == pytest.approx(float(logits[0, -1, one.answer] - logits[0, -1, one.wrong]), rel=1e-4)
    total = one.embedding + one.attention.sum() + one.mlp.sum()
    assert total == pytest.approx(one.difference, rel=1e-3)
    np.testing.assert_allclose(one.heads.sum(axis=1), one.attention, atol=1e-3)
    np.testing.assert_array_equal(one.patterns[3], cache["pattern", 3][0])
    assert one.changed is None


def test_the_lens(default_model: tinymi.Model) -> None:
    """Rows are layers: the embedding first, the prediction last; each as the norm and the unembedding read it."""
    logits, cache = default_model.run_with_cache(PROMPT)
    one = seen(default_model)
    assert one.lens_layers[0] == 0
    assert one.lens_layers[-1] == default_model.config.n_layers
    assert one.lens.shape == one.lens_probs.shape == (explorer.LENS_ROWS, len(one.pieces))
    np.testing.assert_array_equal(one.lens[-1], logits[0].argmax(axis=-1))
    np.testing.assert_allclose(one.lens_probs[-1], softmax(logits[0]).max(axis=-1), rtol=1e-4)
    row = 9
    resid = cache["resid_post", one.lens_layers[row] - 1][0]
    scale = np.sqrt((resid**2).mean(axis=-1, keepdims=True) + default_model.config.rms_eps)
    expected = softmax(resid / scale * default_model.weights.ln_final @ default_model.weights.W_U)
    np.testing.assert_array_equal(one.lens[row], expected.argmax(axis=-1))
    np.testing.assert_allclose(one.lens_probs[row], expected.max(axis=-1), rtol=1e-3)


def test_knobs(default_model: tinymi.Model) -> None:
    """Each as a hook written by hand says; and none changes what is shown of the run as it is."""
    tokens = default_model.to_tokens(PROMPT)
    plain = seen(default_model)

    def probs(point: str, edit: Any) -> Any:
        return softmax(default_model.run_with_hooks(tokens, [(point, edit)])[0, -1])

    def cut(z: Any, hook: Any) -> Any:
        keep = np.ones(z.shape[2], dtype=z.dtype)
        keep[4] = 0
        return z * keep[:, None]

    words = [
        default_model.run_with_cache(f"It is about {word}", "blocks.12.hook_resid_pre")[1]
        for word in ("Italy", "France")
    ]
    a, b = (cache["resid_pre", 12][0, -1] for cache in words)

    def add(resid: Any, hook: Any) -> Any:
        return resid + 0.3 * np.linalg.norm(resid[0, -1]) * (a - b) / np.linalg.norm(a - b)

    expected = {
        "cut": probs("blocks.23.attn.hook_z", cut),
        "scale": probs("blocks.20.hook_mlp_out", lambda value, hook: value * 0.5),
        "attention": probs("blocks.23.hook_attn_out", lambda value, hook: value * 0),
        "add": probs("blocks.12.hook_resid_pre", add),
    }
    queries = {
        "cut": {"cut": "23.4"},
        "scale": {"scale_layer": "20", "scale_by": "0.5"},
        "attention": {"scale_layer": "23", "scale_part": "attention"},
        "add": {"plus": "Italy", "minus": " France"},
    }
    for name, query in queries.items():
        one = seen(default_model, **query)
        assert one.changed is not None
        np.testing.assert_allclose(one.changed, expected[name], rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(one.probs, plain.probs)
        assert np.abs(one.changed - plain.probs).max() > 0.01
    assert seen(default_model, **queries["cut"], **queries["scale"]).changed is not None


def test_runs_of_all_panels_together(default_model: tinymi.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run through all layers; with changes, a second one. Reading the lens goes through no layer."""
    runs: list[int] = []
    run = tinymi.Model._run

    def counted(model: Any, tokens: Any, part: Any, *rest: Any, **more: Any) -> Any:
        runs.append(len(part.layers))
        return run(model, tokens, part, *rest, **more)

    monkeypatch.setattr(tinymi.Model, "_run", counted)
    seen(default_model)
    assert runs == [30, 0]
    runs.clear()
    seen(default_model, cut="23.4", plus="Italy", minus="France", at_layer="12")
    assert sorted(runs) == [0, 12, 30, 30]


def test_the_answer_asked_for(default_model: tinymi.Model) -> None:
    one = seen(default_model, answer="Rome", wrong=" Paris")
    assert default_model.to_str_tokens([one.answer, one.wrong]) == [" Rome", " Paris"]
    assert one.difference < 0
    first, second = np.argsort(-one.probs)[:2]
    likeliest = default_model.to_str_tokens([int(first)])[0]
    assert seen(default_model, answer=likeliest).wrong == second
    assert seen(default_model, wrong=likeliest).answer == second


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"answer": " two tokens"}, "tokens, not one"),
        ({"answer": "Rome", "wrong": " Rome"}, "the answer itself"),
        ({"layer": "30"}, "valid is 0 to 29"),
        ({"head": "-1"}, "valid is 0 to 8"),
        ({"layer": "x"}, "--layer"),
        ({"cut": "30.0"}, "valid are 0.0 to 29.8"),
        ({"cut": "3"}, "is no head"),
        ({"cut": "²3.1"}, "is no head"),
        ({"cut": "0.0 " * 21}, "21 heads"),
        ({"scale_by": "nan"}, "valid is -3 to 3"),
        ({"scale_part": "norm"}, "--scale-part"),
        ({"dose": "inf"}, "valid is -2 to 2"),
        ({"plus": "Italy"}, "give both"),
        ({"plus": "Italy", "minus": " Italy"}, "the same word"),
        ({"plus": "Supercalifragilistic", "minus": "Italy"}, "tokens, not one"),
        ({"prompts": "x"}, "did you mean prompt"),
    ],
)
def test_what_cannot_be_asked(default_model: tinymi.Model, query: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        seen(default_model, **query)


@pytest.mark.parametrize(
    "prompt",
    ["a", "x " * 30, "\u05e9\u05dc\u05d5\u05dd", "\U0001f469\u200d\U0001f680", "\x00\x1b[31m", "\n\n", "{{ 7*7 }}"],
)
def test_odd_prompts(tiny_model: tinymi.Model, default_model: tinymi.Model, prompt: str) -> None:
    for model in (default_model, tiny_model):
        if model.to_tokens(prompt).shape[1] <= explorer.MOST_TOKENS:
            assert np.isfinite(seen(model, prompt).lens_probs).all()


def test_a_prompt_over_the_limit(default_model: tinymi.Model) -> None:
    with pytest.raises(InputError, match="41 tokens"):
        seen(default_model, " a" * 41)
