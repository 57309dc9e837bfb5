"""The key-value cache as lessons use it: runs in two parts equal runs in one."""

from tinymi import KeyValueCache, Model
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import HookPoint

import numpy as np
import pytest

TOKENS = np.random.default_rng(0).integers(0, 200, (3, 9))


def test_two_parts_equal_one_run(tiny: Model) -> None:
    past = KeyValueCache(3, 9, tiny.config)
    first = tiny(TOKENS[:, :5], past_kv_cache=past)
    second = tiny(TOKENS[:, 5:], past_kv_cache=past)
    np.testing.assert_allclose(np.hstack([first, second]), tiny(TOKENS), atol=1e-5)


def test_from_a_layer_on_with_hooks_in_both_parts(tiny: Model) -> None:
    def double(z: Array, hook: HookPoint) -> Array:
        return 2 * z

    hooks = [("blocks.1.attn.hook_z", double)]
    resid = tiny(TOKENS, stop_at_layer=1)
    whole = tiny.run_with_hooks(resid, hooks, start_at_layer=1, stop_at_layer=3)
    past = KeyValueCache(3, 9, tiny.config)
    parts = [
        tiny.run_with_hooks(part, hooks, start_at_layer=1, stop_at_layer=3, past_kv_cache=past)
        for part in (resid[:, :4], resid[:, 4:])
    ]
    np.testing.assert_allclose(np.hstack(parts), whole, atol=1e-5)
    assert np.abs(whole - tiny(resid, start_at_layer=1, stop_at_layer=3)).max() > 1e-3  # the hook did something


def test_hooks_see_the_new_positions_only(tiny: Model) -> None:
    past = KeyValueCache(3, 9, tiny.config)
    tiny(TOKENS[:, :5], past_kv_cache=past)
    _, cache = tiny.run_with_cache(TOKENS[:, 5:], past_kv_cache=past)
    _, whole = tiny.run_with_cache(TOKENS)
    assert cache["pattern", 2].shape[-2:] == (4, 9)  # 4 queries, 9 keys
    np.testing.assert_allclose(cache["pattern", 2], whole["pattern", 2][:, :, 5:], atol=1e-5)
    np.testing.assert_allclose(cache["resid_post", 2], whole["resid_post", 2][:, 5:], atol=1e-5)


def test_several_endings_of_one_beginning(tiny: Model) -> None:
    past = KeyValueCache(1, 9, tiny.config)
    tiny(TOKENS[:1, :5], past_kv_cache=past)
    endings = TOKENS[:, 5:]
    logits = tiny(endings, past_kv_cache=past.repeat(3))
    expected = tiny(np.hstack([np.repeat(TOKENS[:1, :5], 3, axis=0), endings]))[:, 5:]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    # The original has not moved on: it takes other endings.
    np.testing.assert_allclose(tiny(endings[:1], past_kv_cache=past), expected[:1], atol=1e-5)


def test_repeat_keeps_the_rows_in_order(tiny: Model) -> None:
    past = KeyValueCache(3, 9, tiny.config)
    tiny(TOKENS[:, :5], past_kv_cache=past)
    logits = tiny(np.repeat(TOKENS[:, 5:], 2, axis=0), past_kv_cache=past.repeat(2))
    np.testing.assert_allclose(logits, np.repeat(tiny(TOKENS)[:, 5:], 2, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("n_first", "batch", "start", "problem"),
    [(5, 2, None, "3 rows for a batch of 2"), (8, 3, None, "10 positions"), (5, 3, 1, "hold")],
    ids=["another batch", "overfull", "other layers"],
)
def test_what_does_not_fit_is_refused(tiny: Model, n_first: int, batch: int, start: int | None, problem: str) -> None:
    past = KeyValueCache(3, 9, tiny.config)
    tiny(TOKENS[:, :n_first], past_kv_cache=past) if start is None else tiny(
        tiny(TOKENS[:, :n_first], stop_at_layer=start), start_at_layer=start, past_kv_cache=past
    )
    with pytest.raises(InputError, match=problem):
        tiny(TOKENS[:batch, 5:7], past_kv_cache=past)
