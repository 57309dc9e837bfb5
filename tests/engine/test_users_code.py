"""The code that people write first, and what it says when it is not quite right.

Sources: TransformerLens demos/LLaMA.ipynb and Exploratory_Analysis_Demo (names, in-place edits, `hook=` by name);
neuronpedia #163 and TransformerLens #697 (a hook that indexes a position while generating); TransformerLens 4 (names).
"""

from typing import Any

import tinymi
from tinymi.arrays import Array

import numpy as np
import pytest
import torch


def test_text_goes_in_where_tokens_do(tiny_model: tinymi.Model) -> None:
    tokens = tiny_model.to_tokens("abc")
    assert np.array_equal(tiny_model("abc"), tiny_model(tokens))
    assert np.array_equal(tiny_model(["abc", "abd"])[:1], tiny_model(tiny_model.to_tokens(["abc", "abd"]))[:1])
    assert np.array_equal(tiny_model.generate("abc", 3), tiny_model.generate(tokens, 3))
    assert np.array_equal(tiny_model.run_with_cache("abc")[0], tiny_model(tokens))


def test_top_tokens_are_torchs(tiny_model: tinymi.Model) -> None:
    logits = tiny_model("abc")
    values, ids = torch.from_numpy(logits[0, -1].copy()).softmax(-1).topk(4)
    for given in (logits, logits[0], logits[0, -1]):
        top = tiny_model.top_tokens(given, 4)
        assert [row.id for row in top] == ids.tolist()
        np.testing.assert_allclose([row.probability for row in top], values.numpy(), rtol=1e-5)
        assert [row.text for row in top] == tiny_model.to_str_tokens(ids.numpy())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("blocks.1.hook_in", "blocks.1.hook_resid_pre"),
        ("blocks.1.hook_out", "blocks.1.hook_resid_post"),
        ("blocks.1.attn.hook_out", "blocks.1.hook_attn_out"),
        ("blocks.1.mlp.hook_out", "blocks.1.hook_mlp_out"),
        (("pattern", 1, "attn"), "blocks.1.attn.hook_pattern"),
        (("post", 1, "mlp"), "blocks.1.mlp.hook_post"),
    ],
)
def test_names_of_transformer_lens(theirs: Any, ours: str, tiny_model: tinymi.Model) -> None:
    _, cache = tiny_model.run_with_cache("abc")
    assert cache[theirs] is cache[ours]
    if isinstance(theirs, str):
        assert list(tiny_model.run_with_cache("abc", theirs)[1]) == [ours]


def test_hook_by_its_name(tiny_model: tinymi.Model) -> None:
    def only_by_name(value: Array, *, hook: tinymi.HookPoint) -> Array:
        return value * (2 if hook.layer == 0 else 1)

    def by_position(value: Array, hook: tinymi.HookPoint) -> Array:
        return value * 2

    name = "blocks.0.mlp.hook_post"
    one, other = (tiny_model.run_with_hooks("abc", [(name, fn)]) for fn in (only_by_name, by_position))  # type: ignore[list-item]
    assert np.array_equal(one, other)
    assert not np.array_equal(one, tiny_model("abc"))


def edits_in_place(value: Any, hook: Any) -> None:
    value[:] = 0


def looks_at_position_2(value: Any, hook: Any) -> None:
    value[:, 2].sum()


def fails(value: Any, hook: Any) -> None:
    raise RuntimeError("own")


@pytest.mark.parametrize(
    ("fn", "words"),
    [
        (edits_in_place, r"blocks.0.hook_resid_pre: the callback edits_in_place failed.*value = value.copy\(\)"),
        (fails, "blocks.0.hook_resid_pre: the callback fails failed: RuntimeError: own"),
        (lambda value: None, r"write def fn\(value, hook\)"),
    ],
)
def test_a_callback_that_fails_says_where_and_what_helps(fn: Any, words: str, tiny_model: tinymi.Model) -> None:
    with pytest.raises(tinymi.HookError, match=words) as caught:
        tiny_model.run_with_hooks("abc", [("blocks.0.hook_resid_pre", fn)])
    assert caught.value.__cause__ is not None or "write def" in words


def test_a_step_of_generation_sees_one_position(tiny_model: tinymi.Model) -> None:
    with pytest.raises(tinymi.HookError, match="use_past_kv_cache=False"):
        tiny_model.generate("abc", 3, fwd_hooks=[("blocks.0.hook_resid_pre", looks_at_position_2)])
    tiny_model.generate("abc", 3, fwd_hooks=[("blocks.0.hook_resid_pre", looks_at_position_2)], use_past_kv_cache=False)


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda model: model.cfg, "model.config here"),
        (lambda model: model.W_U, "model.weights.W_U here"),
        (lambda model: model.W_Q, r"model.weights.blocks\[layer\].W_Q here"),
        (lambda model: model(np.array([1, 2])), r"write tokens\[None\]"),
        (lambda model: model.run_with_cache("a", "blocks.9.hook_resid_pre"), "layers 0 to 1"),
        (lambda model: model.run_with_cache("a", "blocks.1.mlp.hook_in"), "ln2.hook_normalized"),
        (lambda model: model.top_tokens(np.zeros((2, 3, 4))), "logits of one prompt|those of one prompt"),
        (lambda model: model.top_tokens(model("a"), 0), "k: 0"),
    ],
)
def test_words_that_are_spelled_otherwise_here(use: Any, words: str, tiny_model: tinymi.Model) -> None:
    with pytest.raises((tinymi.TinymiError, AttributeError), match=words):
        use(tiny_model)


def test_everything_has_a_short_repr(tiny_model: tinymi.Model) -> None:
    weights = tiny_model.weights
    things = [tiny_model, weights, weights.blocks[0], weights.blocks[0].heads, tiny_model.tokenizer]
    things.append(tinymi.KeyValueCache(2, 9, tiny_model.config))
    for thing in things:
        assert type(thing).__name__ in repr(thing)
        assert len(repr(thing)) < 400
    _, cache = tiny_model.run_with_cache("abc")
    assert set(cache._ipython_key_completions_()) == set(cache)
