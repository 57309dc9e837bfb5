"""Lesson 20: what its ablations and shares are, recomputed with transformers; a dictionary of one's own."""

from pathlib import Path
from typing import Any

import tinymi
from tests.running import default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face
from tinymi import Dictionary, Model

import numpy as np
import pytest
import torch

LESSON = "20_features_of_a_prompt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, default_model: Model) -> Path:
    """A made-up SAE of layer 9 of the default model: 700 random directions, of which 12 are active."""
    d, n, rng = default_model.config.d_model, 700, np.random.default_rng(0)
    W_dec = rng.normal(size=(n, d)).astype(np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    b = rng.normal(size=d).astype(np.float32)
    point = "blocks.9.hook_resid_post"
    sae = Dictionary(point, (point,), W_dec, np.zeros(n, np.float32), W_dec, b, b_in=b, k=12)
    folder = tmp_path_factory.mktemp("sae")
    tinymi.save_dictionary(sae, folder)
    return folder


def test_its_numbers_are_transformers(
    folder: Path, default_model: Model, default_model_folder: Path, tmp_path: Path
) -> None:
    lesson = lesson_json(LESSON, tmp_path, "--dictionary", str(folder))
    sae = tinymi.load_dictionary(folder, default_model)
    W_dec, b = torch.from_numpy(sae.W_dec.copy()), torch.from_numpy(sae.b_dec.copy())
    reference = hugging_face(default_model_folder)
    tokens = torch.from_numpy(default_model.to_tokens("import numpy as"))

    def ends(change: Any) -> Any:
        def hook(module: Any, args: Any, out: Any) -> Any:
            stream = (out[0] if isinstance(out, tuple) else out).clone()
            stream[0, -1] += change
            return (stream, *out[1:]) if isinstance(out, tuple) else stream

        handle = reference.model.layers[9].register_forward_hook(hook)
        logits = reference(tokens).logits[0, -1]
        handle.remove()
        return logits

    with torch.no_grad():
        streams = reference(tokens, output_hidden_states=True).hidden_states
        x = streams[10][0, -1]
        pre = (x - b) @ W_dec.T
        values, places = pre.relu().topk(12)
        f = torch.zeros_like(pre).scatter(-1, places, values)
        answer = int(reference(tokens).logits[0, -1].argmax())
        assert lesson["answer"] == answer
        assert lesson["active"] == sorted(places.tolist())
        usual = ends(0).log_softmax(-1)[answer]
        for i in (0, 5, 11):
            feature, other = lesson["active"][i], lesson["inactive"][i]
            for direction, moved in ((feature, lesson["without"][i]), (other, lesson["control"][i])):
                new = ends(-f[feature] * W_dec[direction]).log_softmax(-1)[answer]
                assert moved == pytest.approx(float(new - usual), abs=1e-3)
        seen: list[Any] = []
        handle = reference.model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, -1]))
        reference(tokens)
        handle.remove()
        scale = (seen[0].pow(2).mean() + reference.config.rms_norm_eps).sqrt()
        unembed = reference.model.norm.weight * reference.lm_head.weight[answer] / scale
        shares = f[lesson["active"]] * (W_dec[lesson["active"]] @ unembed)
        np.testing.assert_allclose(lesson["shares"], shares, atol=1e-3)
        np.testing.assert_allclose(
            lesson["rest"], [b @ unembed, (x - b - f @ W_dec) @ unembed, (seen[0] - x) @ unembed], atol=1e-3
        )


def test_on_lesson_19s_dictionary_the_error_matters_for_france(tmp_path: Path) -> None:
    lesson = default_lesson_json(LESSON, tmp_path)
    without_features, without_error = lesson["other_moves"]  # "The capital of France is", from its second token on
    assert without_error[2] < without_features[2] - 0.5
    assert min(lesson["without"]) < -2 * max(abs(np.array(lesson["control"])))


def test_a_dictionary_of_another_model_is_refused(folder: Path, small_folder: Path) -> None:
    message = refusal(LESSON, "--dictionary", str(folder), "--model", str(small_folder))
    assert "layers 0 to 1" in message
