"""Every hook point: what it shows, what an edit there does (also in transformers), and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tinymi
from tests.variants import error, hugging_face, random_tokens, save_variant
from tinymi import POINTS, ActivationCache, HookError, HookPoint, NotCachedError, Point
from tinymi.arrays import Array, Tokens
from tinymi.hooks import hook_points
from tinymi.ops import silu, softmax

import numpy as np
import pytest
import torch

LAYER = 1
SHORT = [point.short for point in POINTS]
N_POS = 7


def name_of(short: str, layer: int = LAYER) -> str:
    point = next(point for point in POINTS if point.short == short)
    return point.template.format(layer=layer)


def all_names(model: tinymi.Model) -> list[str]:
    return list(hook_points(range(model.config.n_layers)))


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return random_tokens(2, N_POS)


@pytest.fixture(scope="module")
def clean(tiny: tinymi.Model, tokens: Tokens) -> tuple[Array, ActivationCache]:
    return tiny.run_with_cache(tokens)


@pytest.fixture(scope="module")
def cache(clean: tuple[Array, ActivationCache]) -> ActivationCache:
    return clean[1]


# What a run shows.


def test_the_table_has_every_name_of_the_contract(tiny: tinymi.Model, cache: ActivationCache) -> None:
    in_block = (
        *("hook_resid_pre", "ln1.hook_scale", "ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v"),
        *("attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z"),
        *("attn.hook_result", "hook_attn_out", "hook_resid_mid", "ln2.hook_scale", "ln2.hook_normalized"),
        *("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post", "hook_mlp_out", "hook_resid_post"),
    )
    blocks = [f"blocks.{layer}.{name}" for layer in range(3) for name in in_block]
    assert list(cache) == ["hook_embed", *blocks, "ln_final.hook_scale", "ln_final.hook_normalized", "unembed.hook_out"]
    assert list(cache) == all_names(tiny)


@pytest.mark.parametrize("point", POINTS, ids=SHORT)
def test_a_captured_shape_is_the_tables(tiny: tinymi.Model, cache: ActivationCache, point: Point) -> None:
    config = tiny.config
    assert (
        len({config.d_model // config.n_heads, config.d_head, config.d_model, config.n_heads, config.n_kv_heads}) == 5
    )
    sizes = vars(config) | {"batch": 2, "pos": N_POS, "query_pos": N_POS, "key_pos": N_POS, "1": 1}
    value = cache[name_of(point.short)]
    assert value.shape == tuple(sizes[axis] for axis in point.axes)
    assert value.dtype == np.float32


def test_the_stream_is_a_sum(cache: ActivationCache) -> None:
    assert np.array_equal(cache["hook_embed"], cache["resid_pre", 0])
    for layer in range(3):
        assert np.array_equal(cache["resid_mid", layer], cache["resid_pre", layer] + cache["attn_out", layer])
        assert np.array_equal(cache["resid_post", layer], cache["resid_mid", layer] + cache["mlp_out", layer])
    assert np.array_equal(cache["resid_post", 0], cache["resid_pre", 1])


@pytest.mark.parametrize(
    ("stream", "norm"),
    [("resid_pre", "blocks.1.ln1"), ("resid_mid", "blocks.1.ln2"), ("resid_post", "ln_final")],
)
def test_normalized_times_scale_is_the_stream(
    tiny: tinymi.Model, cache: ActivationCache, stream: str, norm: str
) -> None:
    x = cache[stream, -1 if norm == "ln_final" else 1]
    scale, normalized = cache[f"{norm}.hook_scale"], cache[f"{norm}.hook_normalized"]
    np.testing.assert_allclose(normalized * scale, x, rtol=1e-5, atol=1e-7)
    expected = np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + tiny.config.rms_eps)
    np.testing.assert_allclose(scale, expected, rtol=1e-5)


def test_scores_and_pattern(cache: ActivationCache, tiny: tinymi.Model) -> None:
    future = np.triu(np.ones((N_POS, N_POS), bool), k=1)
    for layer in range(3):
        scores, pattern = cache["attn_scores", layer], cache["pattern", layer]
        q, k = cache["rot_q", layer], np.repeat(cache["rot_k", layer], 2, axis=2)
        products = np.einsum("bqhd,bkhd->bhqk", q, k) / tiny.config.d_head**0.5
        np.testing.assert_allclose(scores[..., ~future], products[..., ~future], rtol=1e-4, atol=1e-5)
        assert np.isneginf(scores[..., future]).all()
        assert np.array_equal(softmax(scores), pattern)
        assert (pattern[..., future] == 0).all()
        np.testing.assert_allclose(pattern.sum(axis=-1), 1, rtol=1e-6)


def test_heads_write_what_attention_adds(cache: ActivationCache, tiny: tinymi.Model) -> None:
    for layer in range(3):
        v = np.repeat(cache["v", layer], 2, axis=2)
        z = np.einsum("bhqk,bkhd->bqhd", cache["pattern", layer], v)
        np.testing.assert_allclose(cache["z", layer], z, rtol=1e-4, atol=1e-6)
        result = np.einsum("bphd,hdm->bphm", cache["z", layer], tiny.weights.blocks[layer].heads.W_O)
        np.testing.assert_allclose(cache["result", layer], result, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(cache["result", layer].sum(axis=2), cache["attn_out", layer], rtol=1e-4, atol=1e-5)


def test_neurons_write_what_the_mlp_adds(cache: ActivationCache, tiny: tinymi.Model) -> None:
    for layer in range(3):
        pre, pre_linear, post = (cache[short, layer] for short in ("pre", "pre_linear", "post"))
        assert np.array_equal(post, silu(pre) * pre_linear)
        np.testing.assert_allclose(
            post @ tiny.weights.blocks[layer].W_out, cache["mlp_out", layer], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", ["llama-free-head", "qwen2-gqa2", "qwen3-free-head"])
def test_queries_are_taken_before_rope_and_norm_as_in_transformers(name: str, tmp_path: Path, tokens: Tokens) -> None:
    model, peer = tinymi.load(save_variant(tmp_path, name)), hugging_face(tmp_path)
    attention, seen = peer.model.layers[LAYER].self_attn, {}
    for short, module in (("q", attention.q_proj), ("k", attention.k_proj), ("v", attention.v_proj)):
        module.register_forward_hook(lambda module, args, out, short=short: seen.update({short: out.numpy()}))
    with torch.no_grad():
        peer(torch.from_numpy(tokens))
    _, cache = model.run_with_cache(tokens)
    for short, value in seen.items():
        assert error(cache[short, LAYER], value.reshape(cache[short, LAYER].shape)) <= 1e-5


# A hook that changes nothing.


def test_a_hook_that_changes_nothing_is_bit_identical_to_none(tiny: tinymi.Model, tokens: Tokens) -> None:
    plain = tiny(tokens)
    seen: list[str] = []
    logits = tiny.run_with_hooks(tokens, [(None, lambda value, hook: seen.append(hook.name))])
    assert np.array_equal(logits, plain)
    assert seen == all_names(tiny)
    for unchanged in (lambda value, hook: value, lambda value, hook: value.copy()):
        others = [name for name in all_names(tiny) if not name.endswith("hook_result")]
        assert np.array_equal(tiny.run_with_hooks(tokens, [(others, unchanged)]), plain)


def test_looking_at_results_is_bit_identical_to_none(tiny: tinymi.Model, tokens: Tokens) -> None:
    for look in (lambda value, hook: None, lambda value, hook: value):
        assert np.array_equal(tiny.run_with_hooks(tokens, [(name_of("result"), look)]), tiny(tokens))


def test_rewriting_results_is_equal_up_to_rounding(tiny: tinymi.Model, tokens: Tokens) -> None:
    logits = tiny.run_with_hooks(tokens, [(name_of("result"), lambda value, hook: value.copy())])
    assert error(logits, tiny(tokens)) <= 1e-6


def test_hooks_leave_no_trace(tiny: tinymi.Model, tokens: Tokens) -> None:
    plain = tiny(tokens)
    assert error(tiny.run_with_hooks(tokens, [(None, shifted)]), plain) > 1e-3
    with pytest.raises(HookError):
        tiny.run_with_hooks(tokens, [(name_of("z"), lambda value, hook: value[:1])])
    with pytest.raises(HookError, match="ZeroDivisionError"):
        tiny.run_with_hooks(tokens, [(name_of("z"), lambda value, hook: value / (1 // 0))])
    assert np.array_equal(tiny(tokens), plain)


# A hook that changes something: the same change made in transformers gives the same logits.


def bend(x: Any) -> Any:
    """A change that NumPy and torch make alike."""
    return 1.25 * x + 0.125


def bent(value: Array, hook: HookPoint) -> Array:
    edited: Array = bend(value)
    return edited


def doubled(value: Array, hook: HookPoint) -> Array:
    return value * np.float32(2)


def after(module: Any, change: Callable[[Any], Any]) -> None:
    """Change what a torch module gives (the first of several things)."""

    def hook(module: Any, args: Any, out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    module.register_forward_hook(hook)


def before(module: Any, change: Callable[[Any], Any]) -> None:
    """Change what a torch module gets."""
    module.register_forward_pre_hook(lambda module, args: (change(args[0]), *args[1:]))


def before_norm(module: Any, change: Callable[[Any], Any]) -> None:
    """Change the normalized stream: what a norm gives, apart from its weight."""
    after(module, lambda out: change(out / module.weight) * module.weight)


PEER_EDITS: dict[str, Callable[[Any], None]] = {
    "embed": lambda peer: after(peer.model.embed_tokens, bend),
    "resid_pre": lambda peer: before(peer.model.layers[LAYER], bend),
    "ln1.scale": lambda peer: before_norm(peer.model.layers[LAYER].input_layernorm, lambda x: x / 2),
    "ln1.normalized": lambda peer: before_norm(peer.model.layers[LAYER].input_layernorm, bend),
    "q": lambda peer: after(peer.model.layers[LAYER].self_attn.q_proj, bend),
    "k": lambda peer: after(peer.model.layers[LAYER].self_attn.k_proj, bend),
    "v": lambda peer: after(peer.model.layers[LAYER].self_attn.v_proj, bend),
    "z": lambda peer: before(peer.model.layers[LAYER].self_attn.o_proj, bend),
    "result": lambda peer: after(peer.model.layers[LAYER].self_attn, lambda x: 1.25 * x + 4 * 0.125),
    "attn_out": lambda peer: after(peer.model.layers[LAYER].self_attn, bend),
    "ln2.scale": lambda peer: before_norm(peer.model.layers[LAYER].post_attention_layernorm, lambda x: x / 2),
    "ln2.normalized": lambda peer: before_norm(peer.model.layers[LAYER].post_attention_layernorm, bend),
    "pre": lambda peer: after(peer.model.layers[LAYER].mlp.gate_proj, bend),
    "pre_linear": lambda peer: after(peer.model.layers[LAYER].mlp.up_proj, bend),
    "post": lambda peer: before(peer.model.layers[LAYER].mlp.down_proj, bend),
    "mlp_out": lambda peer: after(peer.model.layers[LAYER].mlp, bend),
    "resid_post": lambda peer: after(peer.model.layers[LAYER], bend),
    "ln_final.scale": lambda peer: before_norm(peer.model.norm, lambda x: x / 2),
    "ln_final.normalized": lambda peer: before_norm(peer.model.norm, bend),
    "logits": lambda peer: after(peer.lm_head, bend),
}


@pytest.mark.parametrize("name", ["llama-free-head", "qwen3-free-head"])
@pytest.mark.parametrize("short", PEER_EDITS)
def test_an_edit_equals_the_same_edit_in_transformers(short: str, name: str, tmp_path: Path, tokens: Tokens) -> None:
    model, peer = tinymi.load(save_variant(tmp_path, name)), hugging_face(tmp_path)
    PEER_EDITS[short](peer)
    with torch.no_grad():
        expected = peer(torch.from_numpy(tokens)).logits.numpy()
    logits = model.run_with_hooks(tokens, [(name_of(short), doubled if short.endswith("scale") else bent)])
    assert error(logits, expected) <= 1e-5
    assert error(logits, model(tokens)) > 1e-3


def shifted(value: Array, hook: HookPoint) -> Array:
    return value + np.float32(0.125)


def scaled(value: Array, hook: HookPoint) -> Array:
    return value * np.float32(1.5)


# The points that no torch module gives: an edit there must equal another edit, whose effect is proven above.
SAME_EFFECT = [
    (("resid_mid", shifted), ("attn_out", shifted)),
    (("rot_q", scaled), ("q", scaled)),  # RoPE is linear
    (("rot_k", scaled), ("k", scaled)),
    (("attn_scores", scaled), ("q", scaled)),
    (("pattern", scaled), ("z", scaled)),
]


@pytest.mark.parametrize(("one", "other"), SAME_EFFECT, ids=[one[0] for one, _ in SAME_EFFECT])
def test_an_edit_equals_another_of_the_same_effect(one: Any, other: Any, tiny: tinymi.Model, tokens: Tokens) -> None:
    logits = tiny.run_with_hooks(tokens, [(name_of(one[0]), one[1])])
    assert error(logits, tiny.run_with_hooks(tokens, [(name_of(other[0]), other[1])])) <= 1e-5
    assert error(logits, tiny(tokens)) > 1e-3


def test_every_point_is_edited_above() -> None:
    assert {*PEER_EDITS, *(one[0] for one, _ in SAME_EFFECT)} == set(SHORT)


@pytest.mark.parametrize("head", range(4))
def test_a_head_is_removed_alike_at_z_and_result_and_in_transformers(
    head: int, tiny: tinymi.Model, free_head_folder: Path, tokens: Tokens
) -> None:
    def without(value: Array, hook: HookPoint) -> Array:
        rest = value.copy()
        rest[:, :, head] = 0
        return rest

    peer, part = hugging_face(free_head_folder), slice(24 * head, 24 * head + 24)
    before(peer.model.layers[LAYER].self_attn.o_proj, lambda z: z.index_fill(2, torch.arange(96)[part], 0))
    with torch.no_grad():
        expected = peer(torch.from_numpy(tokens)).logits.numpy()
    for short in ("z", "result"):
        assert error(tiny.run_with_hooks(tokens, [(name_of(short), without)]), expected) <= 1e-5
    assert error(expected, tiny(tokens)) > 1e-3


def test_an_edge_is_cut_alike_in_scores_and_pattern(tiny: tinymi.Model, tokens: Tokens) -> None:
    def cut_score(value: Array, hook: HookPoint) -> Array:
        edited = value.copy()
        edited[:, :, -1, 2] = -np.inf
        return edited

    def cut_pattern(value: Array, hook: HookPoint) -> Array:
        edited = value.copy()
        edited[:, :, -1, 2] = 0
        edited /= edited.sum(axis=-1, keepdims=True)
        return edited

    one = tiny.run_with_hooks(tokens, [(name_of("attn_scores"), cut_score)])
    other = tiny.run_with_hooks(tokens, [(name_of("pattern"), cut_pattern)])
    assert error(one, other) <= 1e-5
    assert np.array_equal(one[:, :-1], tiny(tokens)[:, :-1])
    assert error(one[:, -1], tiny(tokens)[:, -1]) > 1e-3


def test_callbacks_of_one_point_act_in_order(tiny: tinymi.Model, tokens: Tokens) -> None:
    name = name_of("attn_out")
    scaled_then_shifted = tiny.run_with_hooks(tokens, [(name, scaled), (name, shifted)])
    both = tiny.run_with_hooks(tokens, [(name, lambda value, hook: shifted(scaled(value, hook), hook))])
    assert np.array_equal(scaled_then_shifted, both)
    assert error(scaled_then_shifted, tiny.run_with_hooks(tokens, [(name, shifted), (name, scaled)])) > 1e-3


@pytest.mark.parametrize("short", SHORT)
def test_a_cache_holds_what_the_model_went_on_with(short: str, tiny: tinymi.Model, tokens: Tokens) -> None:
    name = name_of(short)
    logits, cache = tiny.run_with_cache(tokens, fwd_hooks=[(name, scaled)])
    _, before_edit = tiny.run_with_cache(tokens, name)
    np.testing.assert_array_equal(cache[name], before_edit[name] * np.float32(1.5))
    assert np.array_equal(logits, cache["unembed.hook_out"])


def test_a_callback_knows_where_it_is(tiny: tinymi.Model, tokens: Tokens) -> None:
    seen: list[tuple[str, int | None, str]] = []
    names = ["hook_embed", "blocks.2.attn.hook_z", "unembed.hook_out"]
    tiny.run_with_hooks(tokens, [(names, lambda value, hook: seen.append((hook.name, hook.layer, hook.point.short)))])
    assert seen == [(names[0], None, "embed"), (names[1], 2, "z"), (names[2], None, "logits")]


@pytest.mark.parametrize("short", SHORT)
def test_values_are_read_only_for_callbacks_and_in_caches(
    short: str, tiny: tinymi.Model, tokens: Tokens, cache: ActivationCache
) -> None:
    def in_place(value: Array, hook: HookPoint) -> None:
        value[...] = 0

    plain = tiny(tokens)
    with pytest.raises(ValueError, match="read-only"):
        tiny.run_with_hooks(tokens, [(name_of(short), in_place)])
    with pytest.raises(ValueError, match="read-only"):
        cache[name_of(short)][...] = 0
    assert np.array_equal(tiny(tokens), plain)


def test_a_returned_array_stays_the_callers_own(tiny: tinymi.Model, tokens: Tokens) -> None:
    mine = np.ones((2, N_POS, tiny.config.d_model), np.float32)
    _, cache = tiny.run_with_cache(tokens, fwd_hooks=[(name_of("mlp_out"), lambda value, hook: mine)])
    mine[...] = 5
    assert (cache["mlp_out", LAYER] == 1).all()


def test_what_a_run_returns_is_the_callers_own(tiny: tinymi.Model, tokens: Tokens) -> None:
    logits = tiny(tokens)
    plain = logits.copy()
    logits[...] = 0
    assert np.array_equal(tiny(tokens), plain)


# What is refused.

REFUSED_NAMES = [
    ("blocks.1.attn.hook_patern", r'"blocks\.1\.attn\.hook_patern".*did you mean blocks\.1\.attn\.hook_pattern'),
    ("blocks.3.hook_resid_pre", r"blocks\.3\.hook_resid_pre.*goes through layers 0 to 2"),
    ("blocks.-1.hook_resid_pre", "goes through layers 0 to 2"),
    ("nonsense!", "`tinymi points` lists the names"),
    ("hook_z", r"; its full name is blocks\.LAYER\.attn\.hook_z; `tinymi points` lists all$"),
    ("mlp.hook_post", r"full name is blocks\.LAYER\.mlp\.hook_post;"),
    ("pattern", r"full name is blocks\.LAYER\.attn\.hook_pattern;"),
    ("hook_scale", r"blocks\.LAYER\.ln1\.hook_scale or blocks\.LAYER\.ln2\.hook_scale or ln_final\.hook_scale;"),
    ("", 'no hook point "" in this run'),
    ([], "empty list"),
    (["hook_embed", "hook_embedd"], r'"hook_embedd".*did you mean hook_embed'),
    ([3], 'no hook point "3" in this run'),
    ([["hook_embed"]], "no hook point"),
    (lambda name: False, "matches none of this run's"),
    (lambda name: "blocks.7." in name, "matches none of this run's"),
]


@pytest.mark.parametrize(("names", "words"), REFUSED_NAMES)
def test_a_name_that_the_run_does_not_reach_is_refused(
    names: Any, words: str, tiny: tinymi.Model, tokens: Tokens
) -> None:
    with pytest.raises(HookError, match=words):
        tiny.run_with_hooks(tokens, [(names, lambda value, hook: pytest.fail("the run began"))])
    with pytest.raises(HookError, match=words):
        tiny.run_with_cache(tokens, names)


def test_a_hook_outside_the_part_is_refused(tiny: tinymi.Model, tokens: Tokens, cache: ActivationCache) -> None:
    hooks = [(name_of("z", 0), scaled)]
    with pytest.raises(
        HookError, match=r"\(from blocks\.1\.hook_resid_pre to unembed\.hook_out\); the run goes through layers 1 to 2"
    ):
        tiny.run_with_hooks(cache["resid_pre", 1], hooks, start_at_layer=1)
    with pytest.raises(HookError, match=r"from hook_embed to blocks\.0\.hook_resid_post"):
        tiny.run_with_hooks(tokens, [(name_of("z", 1), scaled)], stop_at_layer=1)
    with pytest.raises(HookError, match="through no layer"):
        tiny.run_with_hooks(cache["resid_pre", 1], hooks, start_at_layer=1, stop_at_layer=1)
    for outside in ("hook_embed", "unembed.hook_out"):
        with pytest.raises(HookError, match=outside):
            tiny.run_with_hooks(cache["resid_pre", 1], [(outside, scaled)], start_at_layer=1, stop_at_layer=2)


def test_a_predicate_sees_the_names_of_the_part(tiny: tinymi.Model, cache: ActivationCache) -> None:
    _, rest = tiny.run_with_cache(cache["resid_pre", 1], lambda name: name.endswith("hook_z"), start_at_layer=1)
    assert list(rest) == [name_of("z", 1), name_of("z", 2)]
    assert np.array_equal(rest["z", 2], cache["z", 2])


def with_number(number: float) -> Callable[[Array, HookPoint], Array]:
    def put(value: Array, hook: HookPoint) -> Array:
        edited = value.copy()
        edited[0, 1, 0] = number
        return edited

    return put


REFUSED_VALUES: list[tuple[Any, str]] = [
    (lambda value, hook: value[:, :-1], r"returned shape \[2, 6, 32\] for \[2, 7, 32\] \(batch pos d_model\)"),
    (lambda value, hook: value[None], "returned shape"),
    (lambda value, hook: np.float32(0), "returned a float32; return None"),
    (lambda value, hook: np.zeros(()), "returned shape"),
    (lambda value, hook: np.zeros(value.shape, np.int64), "returned a int64 array"),
    (lambda value, hook: np.zeros(value.shape, bool), "returned a bool array"),
    (lambda value, hook: value.astype(np.complex64), "returned a complex64 array"),
    (lambda value, hook: value.astype(object), "returned a object array"),
    (lambda value, hook: value.tolist(), "returned a list"),
    (lambda value, hook: 0.0, "returned a float"),
    (lambda value, hook: torch.zeros(value.shape), "returned a Tensor"),
    (with_number(np.nan), r"returned nan at \[0, 1, 0\] \(batch pos d_model\)"),
    (with_number(np.inf), r"returned inf at \[0, 1, 0\]"),
    (with_number(-np.inf), r"returned -inf at \[0, 1, 0\]"),
    (lambda value, hook: np.full(value.shape, 1e300), r"returned inf at \[0, 0, 0\]"),
]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(("callback", "words"), REFUSED_VALUES)
def test_a_value_that_cannot_take_its_place_is_refused(
    callback: Any, words: str, tiny: tinymi.Model, tokens: Tokens
) -> None:
    with pytest.raises(HookError, match=rf"^blocks\.1\.hook_attn_out: the callback {words}"):
        tiny.run_with_hooks(tokens, [(name_of("attn_out"), callback)])


def test_float64_and_float16_are_converted(tiny: tinymi.Model, tokens: Tokens, cache: ActivationCache) -> None:
    for kind in (np.float64, np.float16):
        hooks = [(name_of("z"), lambda value, hook, kind=kind: np.ones(value.shape, kind))]
        logits, edited = tiny.run_with_cache(tokens, name_of("z"), fwd_hooks=hooks)
        assert logits.dtype == edited["z", LAYER].dtype == np.float32


def scores_with(number: float, keys: Any) -> Callable[[Array, HookPoint], Array]:
    def put(value: Array, hook: HookPoint) -> Array:
        edited = value.copy()
        edited[0, 1, 3, keys] = number
        return edited

    return put


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (scores_with(-np.inf, slice(None)), r"returned -inf at \[0, 1, 3, 0\]"),
        (scores_with(np.inf, 0), r"returned inf at \[0, 1, 3, 0\]"),
        (scores_with(np.nan, 2), r"returned nan at \[0, 1, 3, 2\]"),
    ],
)
def test_scores_that_leave_a_row_nothing_are_refused(
    callback: Any, words: str, tiny: tinymi.Model, tokens: Tokens
) -> None:
    with pytest.raises(HookError, match=words):
        tiny.run_with_hooks(tokens, [(name_of("attn_scores"), callback)])


def test_scores_of_minus_infinity_hide_keys(tiny: tinymi.Model, tokens: Tokens) -> None:
    hide = scores_with(-np.inf, slice(1, 4))
    logits, cache = tiny.run_with_cache(tokens, fwd_hooks=[(name_of("attn_scores"), hide)])
    assert np.isfinite(logits).all()
    assert cache["pattern", LAYER][0, 1, 3].tolist() == [1, 0, 0, 0, 0, 0, 0]


# The cache and the names.


def test_a_cache_is_read_by_full_name_and_by_short_name(cache: ActivationCache) -> None:
    assert cache["blocks.1.attn.hook_pattern"] is cache["pattern", 1]
    assert cache["pattern", -1] is cache["pattern", 2]
    assert cache["scale", 1, "ln1"] is cache["blocks.1.ln1.hook_scale"]
    assert len(cache) == len(list(cache)) == 3 * 21 + 4


@pytest.mark.parametrize(
    "names", ["blocks.1.attn.hook_z", ["blocks.1.attn.hook_z"], lambda name: "1.attn.hook_z" in name]
)
def test_a_filter_keeps_what_it_names(names: Any, tiny: tinymi.Model, tokens: Tokens) -> None:
    _, cache = tiny.run_with_cache(tokens, names)
    assert list(cache) == ["blocks.1.attn.hook_z"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (("pattern", 3), "layer 3 of a model with layers 0 to 2"),
        (("pattern", -4), "layer -4"),
        (
            "blocks.1.attn.hook_pattern",
            r"\(name it in names_filter\); did you mean blocks\.1\.attn\.hook_z\?",
        ),
        ("nonsense!", "names_filter chose 1 others"),
        ("hook_z", r"its full name is blocks\.LAYER\.attn\.hook_z"),
    ],
)
def test_a_cache_miss_says_what_is_there(key: Any, words: str, tiny: tinymi.Model, tokens: Tokens) -> None:
    _, cache = tiny.run_with_cache(tokens, "blocks.1.attn.hook_z")
    with pytest.raises(NotCachedError, match=words):
        cache[key]
    with pytest.raises(KeyError):
        cache[key]


def test_a_cache_refuses_a_short_name_that_is_none(cache: ActivationCache) -> None:
    with pytest.raises(HookError, match=r'"patern" in a block; did you mean pattern'):
        cache["patern", 1]


@pytest.mark.parametrize("point", POINTS, ids=SHORT)
def test_short_names_and_full_names_agree(point: Point) -> None:
    layer = 5 if point.in_block else None
    assert tinymi.get_act_name(point.short, layer) == point.template.format(layer=5)


def test_a_short_name_on_the_wrong_side_is_refused() -> None:
    with pytest.raises(HookError, match='no hook point "embed" in a block'):
        tinymi.get_act_name("embed", 0)
    with pytest.raises(HookError, match='no hook point "pattern" outside the blocks'):
        tinymi.get_act_name("pattern")


def test_what_a_watched_run_returns_cannot_be_edited_under_the_cache(tiny: tinymi.Model, tokens: Tokens) -> None:
    logits, cache = tiny.run_with_cache(tokens)
    with pytest.raises(ValueError, match="read-only"):
        logits[0] = 0
    assert np.array_equal(cache["unembed.hook_out"], logits)
    resid, _ = tiny.run_with_cache(tokens, stop_at_layer=LAYER)
    with pytest.raises(ValueError, match="read-only"):
        resid[0] = 0
    plain = tiny(tokens)
    plain[0] = 0  # nobody else has it


@pytest.mark.parametrize("short", ["ln1.scale", "ln2.scale"])
def test_a_scale_of_zero_is_refused(tiny: tinymi.Model, tokens: Tokens, short: str) -> None:
    with pytest.raises(HookError, match=r"scale of 0"):
        tiny.run_with_hooks(tokens, [(name_of(short), lambda value, hook: value * 0)])
