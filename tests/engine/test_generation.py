"""generate: equal to Hugging Face's, with and without the cache, and honest about hooks."""

import json
from pathlib import Path
from typing import Any

import tinymi
from tests.variants import hugging_face, save_variant
from tinymi.arrays import Array
from tinymi.generation import sample_token
from tinymi.hooks import HookPoint

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("variant", ["llama-free-head", "llama3-rope", "qwen2-gqa2", "qwen3-free-head"])
def test_greedy_equals_hugging_face_generate(variant: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path, variant)
    prompt = np.random.default_rng(1).integers(0, 256, (2, 7))
    reference = hugging_face(folder).generate(
        torch.tensor(prompt), max_new_tokens=20, min_new_tokens=20, do_sample=False
    )
    model = tinymi.load(folder)
    assert model.generate(prompt, 20).tolist() == reference.tolist()
    assert model.generate(prompt, 20, use_past_kv_cache=False).tolist() == reference.tolist()


def test_the_default_model_goes_on_as_in_hugging_face(default_model: tinymi.Model, default_model_folder: Path) -> None:
    tokens = default_model.to_tokens("The capital of France is")
    reference = hugging_face(default_model_folder).generate(
        torch.tensor(tokens), max_new_tokens=12, min_new_tokens=12, do_sample=False
    )
    assert default_model.generate(tokens, 12).tolist() == reference.tolist()


def test_it_stops_at_the_end_of_text_as_hugging_face_does(tmp_path: Path) -> None:
    """Two rows: the first says one of the ends early, the second another one later, or none."""
    folder, prompt = save_variant(tmp_path, "qwen3-free-head"), np.random.default_rng(1).integers(0, 256, (2, 7))
    model = tinymi.load(folder)
    free = model.generate(prompt, 20, stop_at_end=False)
    for ends in ([int(free[0, 9])], [int(free[0, 9]), int(free[1, 12])]):
        config = {"eos_token_id": ends}
        (folder / "generation_config.json").write_text(json.dumps(config), "utf-8")
        model = tinymi.load(folder)
        assert list(model.config.end_tokens) == ends
        reference = hugging_face(folder).generate(
            torch.tensor(prompt), max_new_tokens=20, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
        )
        written, expected = model.generate(prompt, 20), np.array(reference.tolist())
        assert written.shape == expected.shape
        ended = np.cumsum(np.isin(written[:, 7:], ends), axis=1) > 0
        said = np.hstack([np.ones((2, 8), dtype=bool), ~ended[:, :-1]])  # the prompt, and up to the first end
        assert (written[said] == expected[said]).all()
        assert set(written[~said]) <= set(ends)
        assert written.tolist() == model.generate(prompt, 20, use_past_kv_cache=False).tolist()


def test_a_stream_gives_each_token_when_it_is_known(tiny: tinymi.Model) -> None:
    runs: list[str] = []
    hooks = [("ln_final.hook_scale", lambda value, hook: runs.append(hook.name))]
    tokens = tiny.to_tokens("abc")
    steps = tiny.stream(tokens, 6, fwd_hooks=hooks, use_past_kv_cache=False)
    assert runs == []
    first = next(steps)
    assert len(runs) == 1
    rest = list(steps)
    assert len(runs) == 6
    assert np.hstack([tokens[0], first, *rest]).tolist() == tiny.generate(tokens, 6)[0].tolist()


def test_a_hook_that_treats_positions_alike_may_use_the_cache(tiny: tinymi.Model) -> None:
    seen = []

    def without_head_1(z: Array, hook: HookPoint) -> Array:
        seen.append(z.shape[1])
        z = z.copy()
        z[:, :, 1] = 0
        return z

    tokens = tiny.to_tokens("abc")
    hooks = [("blocks.1.attn.hook_z", without_head_1)]
    cached = tiny.generate(tokens, 8, fwd_hooks=hooks)
    assert 1 in seen  # the cache was at work
    assert cached.tolist() == tiny.generate(tokens, 8, fwd_hooks=hooks, use_past_kv_cache=False).tolist()
    assert cached.tolist() != tiny.generate(tokens, 8).tolist()


def test_a_hook_that_makes_the_cache_wrong_is_refused(tiny: tinymi.Model) -> None:
    def double_the_last_position(resid: Array, hook: HookPoint) -> Array:
        resid = resid.copy()
        resid[:, -1] *= 2
        return resid

    hooks = [("blocks.1.hook_attn_out", double_the_last_position)]
    tokens = tiny.to_tokens("abc")
    with pytest.raises(tinymi.HookError, match="use_past_kv_cache=False"):
        tiny.generate(tokens, 8, fwd_hooks=hooks)
    assert tiny.generate(tokens, 8, fwd_hooks=hooks, use_past_kv_cache=False).shape == (1, tokens.shape[1] + 8)


def test_sampling_follows_the_distribution_and_the_seed(tiny: tinymi.Model) -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], dtype=np.float32)).repeat(4000, axis=0)
    drawn = sample_token(logits, 1.0, None, np.random.default_rng(0))
    assert np.bincount(drawn, minlength=4) / 4000 == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    drawn = sample_token(logits, 1.0, 2, np.random.default_rng(0))
    assert np.bincount(drawn, minlength=4) / 4000 == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    tokens = tiny.to_tokens("abc")
    first, again, other = (tiny.generate(tokens, 10, temperature=1.0, seed=seed).tolist() for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 10_000}, "max_new_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0, "temperature": 1.0}, "top_k"),
    ],
)
def test_settings_that_mean_nothing_are_named(tiny: tinymi.Model, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(tinymi.InputError, match=named):
        tiny.generate(tiny.to_tokens("abc"), **settings)
