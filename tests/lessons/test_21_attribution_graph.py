"""Lesson 21: its shares, edges and exchanges by torch's autograd through transformers.

The reference holds patterns and norm scales. Each neuron is a straight line in it: its value stays, and its derivatives
are the slopes between the clean and the frozen run.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tinymi
from tests.checkpoint.test_dictionaries import exact, sparsify
from tests.engine.torch_gradients import torch_gradients
from tests.running import ROOT, default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant
from tinymi import Model
from tinymi.arrays import Array
from tinymi.ops import rope_angles
from tinymi.teaching.cells import cells

import numpy as np
import pytest
import torch

sys.path.append(str(ROOT / "lessons"))
LESSON = "21_attribution_graph"
DEEPER = f"deeper/{LESSON}"
FRANCE = ("The capital of France is", "The capital of Italy is"), (" Paris", " Rome")
Edits = Mapping[str, Callable[[Any], Any]]


class Everywhere(dict[str, Any]):
    """Edits that also keep the value of every hook point."""

    def __init__(self, edits: Edits) -> None:
        super().__init__(edits)
        self.kept: dict[str, Any] = {}

    def __bool__(self) -> bool:
        return True

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> Callable[[Any], Any]:
        def keep(value: Any) -> Any:
            self.kept[name] = value = self.get(name, lambda x: x)(value)
            return value

        return keep


class Reference:
    """The clean, the corrupted and the frozen run of a transformers model, and the slopes between clean and frozen."""

    def __init__(self, folder: Path, prompts: tuple[str, str], answers: tuple[str, str]) -> None:
        model = tinymi.load(folder)
        self.model, self.n_layers = hugging_face(folder).double(), model.config.n_layers
        self.tokens = [model.to_tokens(prompt) for prompt in prompts]
        self.answers = [model.to_single_token(text) for text in answers]
        self.angles = rope_angles(model.config, np.arange(self.tokens[0].shape[1])[None])
        self.high, self.clean = self.run(self.tokens[0])
        self.low, self.corrupted = self.run(self.tokens[1])
        held = [name for name in self.clean if name.endswith(("hook_pattern", "hook_scale"))]
        put = {name: lambda value, name=name: self.clean[name] + 0 * value for name in held}
        self.frozen_low, self.frozen = self.run(self.tokens[1], put)
        self.gap = self.high - self.frozen_low

    def run(self, tokens: Any, edits: Edits | None = None) -> tuple[float, dict[str, Any]]:
        """The logit difference, and all values."""
        every = Everywhere(edits or {})
        logits = self.gradients(tokens, every)[0]
        values = {name: value.detach().clone() for name, value in every.kept.items()}
        return float(logits[0, -1, self.answers[0]] - logits[0, -1, self.answers[1]]), values

    def gradients(self, tokens: Any, edits: Edits | None = None, freeze: tuple[str, ...] = ()) -> Any:
        return torch_gradients(self.model, tokens, self.metric, edits, freeze, angles=self.angles)

    def metric(self, logits: Array) -> Array:
        d_logits = np.zeros_like(logits)
        d_logits[0, -1, self.answers] = 1, -1
        return d_logits

    def change(self, name: str) -> Array:
        return np.asarray((self.clean[name] - self.frozen[name])[0])

    def line(self, layer: int) -> Edits:
        """Edits that make the neurons of a layer straight lines of their two inputs."""
        pre, linear, post = (f"blocks.{layer}.mlp.hook_{name}" for name in ("pre", "pre_linear", "post"))
        now: dict[str, Any] = {}

        def straight(value: Any) -> Any:
            gates = [torch.nn.functional.silu(run[pre]) for run in (self.clean, self.frozen)]
            by_gate = (gates[0] - gates[1]) / (self.clean[pre] - self.frozen[pre])
            by_gate = by_gate.nan_to_num(0.0) * (self.clean[linear] + self.frozen[linear]) / 2
            by_input = (gates[0] + gates[1]) / 2
            moved = [now[name] - now[name].detach() for name in (pre, linear)]
            return value.detach() + by_gate * moved[0] + by_input * moved[1]

        return {pre: keep_in(now, pre), linear: keep_in(now, linear), post: straight}

    def worth(self, more: Edits | None = None) -> dict[str, Array]:
        """What each value is worth for the gap."""
        edits = {name: edit for layer in range(self.n_layers) for name, edit in self.line(layer).items()}
        gradients: dict[str, Array] = self.gradients(self.tokens[0], edits | dict(more or {}), ("pattern", "scale"))[1]
        return gradients


def keep_in(now: dict[str, Any], name: str) -> Callable[[Any], Any]:
    def keep(value: Any) -> Any:
        now[name] = value
        return value

    return keep


def check_shares(reference: Reference, lesson: dict[str, Any]) -> None:
    worth, size = reference.worth(), abs(reference.gap)
    assert lesson["gap"] == pytest.approx(reference.gap, abs=1e-4 * size)
    assert lesson["error"] == pytest.approx(reference.frozen_low - reference.low, abs=1e-4 * size)
    for layer, heads in enumerate(lesson["heads"]):
        name = f"blocks.{layer}.attn.hook_z"
        expected = (worth[name][0] * reference.change(name)).sum(axis=-1)  # [pos, n_heads]
        assert np.array(heads) == pytest.approx(expected, abs=1e-4 * size)


@pytest.mark.parametrize("family", ["llama-gqa3", "llama-biases", "qwen2-gqa2", "qwen3-free-head"])
def test_any_model(family: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", family)
    own = ["--clean", "abcdef", "--corrupted", "abXdYf", "--answer", "q", "--wrong", "w"]
    lesson = lesson_json(LESSON, tmp_path, "--model", str(folder), *own)
    check_shares(Reference(folder, ("abcdef", "abXdYf"), ("q", "w")), lesson)
    into: dict[str, float] = {}
    for _, end, weight in lesson["edges"]:
        into[end] = into.get(end, 0.0) + weight
    assert into["logits"] == pytest.approx(lesson["gap"] + lesson["error"], abs=abs(lesson["gap"]) / 20 + 1e-6)


@pytest.mark.parametrize("other", ["ab", "abc", "xbd"])
def test_wrong_options_are_one_line_and_status_2(other: str, tiny_folder: Path) -> None:
    options = ["--clean", "abc", "--corrupted", other, "--answer", "x", "--wrong", "y"]
    assert f"--corrupted {len(other)}; give as many" in refusal(LESSON, "--model", str(tiny_folder), *options)


@pytest.fixture(scope="module")
def france(default_model_folder: Path) -> Reference:
    return Reference(default_model_folder, *FRANCE)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("21"))


def test_the_shares_are_autograds(lesson: dict[str, Any], france: Reference) -> None:
    check_shares(france, lesson)
    shares = dict(zip(lesson["nodes"]["node"], lesson["nodes"]["share"], strict=True))
    worth = france.worth()
    for layer, n, pos in ((13, 1033, 3), (23, 325, 4), (29, 864, 4)):
        name = f"blocks.{layer}.mlp.hook_post"
        expected = (worth[name][0] * france.change(name))[pos, n]
        assert shares[f"neuron {layer}.{n} @{pos}"] == pytest.approx(expected, abs=1e-3)
    assert max(shares, key=lambda name: shares[name] if name[0].isdigit() else 0) == "23.4 @4"
    assert shares["23.4 @4"] > 12


def test_the_edges_are_those_of_single_steps(lesson: dict[str, Any], france: Reference) -> None:
    """What head 23.4 wrote differently, handed to one reader in transformers' own modules."""
    edges, worth = {(start, end): weight for start, end, weight in lesson["edges"]}, france.worth()
    layers = france.model.model.layers
    z = torch.from_numpy(france.change("blocks.23.attn.hook_z"))[-1, 4]
    written = (z @ layers[23].self_attn.o_proj.weight[:, 4 * 64 : 5 * 64].T).detach()  # [d_model]
    final = written * france.model.model.norm.weight / france.clean["ln_final.hook_scale"][0, -1]
    to_logits = france.model.lm_head(final)[france.answers]
    assert edges["23.4 @4", "logits"] == pytest.approx(float(to_logits[0] - to_logits[1]), abs=1e-3)
    into_mlp = layers[23].post_attention_layernorm.weight * written / france.clean["blocks.23.ln2.hook_scale"][0, -1]
    gate, linear = (f"blocks.23.mlp.hook_{name}" for name in ("pre", "pre_linear"))
    inputs = layers[23].mlp.gate_proj(into_mlp)[325], layers[23].mlp.up_proj(into_mlp)[325]
    expected = sum(worth[name][0, -1, 325] * float(x) for name, x in zip((gate, linear), inputs, strict=True))
    assert edges["23.4 @4", "neuron 23.325 @4"] == pytest.approx(expected, abs=1e-3)


def test_the_exchanges_are_hugging_faces(lesson: dict[str, Any], france: Reference) -> None:
    costs = dict(zip(lesson["nodes"]["node"], lesson["nodes"]["exchanged"], strict=True))

    def head(value: Any) -> Any:
        value = value.clone()
        value[0, -1, 4] = france.corrupted["blocks.23.attn.hook_z"][0, -1, 4]
        return value

    def neuron(value: Any) -> Any:
        value = value.clone()
        value[0, 3, 1033] = france.corrupted["blocks.13.mlp.hook_post"][0, 3, 1033]
        return value

    with_head = france.run(france.tokens[0], {"blocks.23.attn.hook_z": head})[0]
    with_neuron = france.run(france.tokens[0], {"blocks.13.mlp.hook_post": neuron})[0]
    assert costs["23.4 @4"] == pytest.approx(france.high - with_head, abs=1e-3)
    assert costs["neuron 13.1033 @3"] == pytest.approx(france.high - with_neuron, abs=1e-3)
    kept = france.run(france.tokens[0], all_but(lesson["nodes"]["node"], france))[0]
    assert lesson["kept"][0] == pytest.approx((kept - france.low) / (france.high - france.low), abs=1e-3)
    assert 0.6 > lesson["kept"][0] > 2 * lesson["kept"][1]


def all_but(nodes: list[str], france: Reference) -> Edits:
    """Edits that put the corrupted run's values everywhere but at these nodes."""
    keep = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in france.clean.items()}
    for node in nodes:
        name, pos = node.split(" @")
        layer, _, number = name.removeprefix("neuron ").removeprefix("MLP ").partition(".")
        if name[0].isdigit():
            keep[f"blocks.{layer}.attn.hook_z"][0, int(pos), int(number)] = True
        else:  # what an MLP leaves out are large neurons, each of which is a node
            keep[f"blocks.{layer}.mlp.hook_post"][0, int(pos), int(number) if number else slice(None)] = True

    def put(name: str) -> Callable[[Any], Any]:
        return lambda value: torch.where(keep[name], value, france.corrupted[name])

    return {name: put(name) for name in keep if name.endswith(("hook_z", "hook_post"))}


# --- the deeper file ----------------------------------------------------------------------------------------------


def defined(model: Model) -> dict[str, Any]:
    """What the deeper file's cells of definitions define, for a model, without running the rest."""
    texts = [cell.text for cell in cells((ROOT / "lessons" / f"{DEEPER}.py").read_text("utf-8"))]
    (setup,) = [text for text in texts if "lesson = Lesson" in text]
    imports = [line for line in setup.splitlines() if line.startswith(("from ", "import "))]
    known = [
        line for line in setup.splitlines() if line.startswith(("Place =", "Parts =", "Masks =", "blocks, config"))
    ]
    space: dict[str, Any] = {"model": model}
    for text in [
        "\n".join([*imports, *known]),
        *(text for text in texts if text.lstrip().startswith(("class ", "def "))),
    ]:
        exec(text, space)
    return space


def two_pairs(folder: Path) -> tuple[dict[str, Any], Any]:
    """The deeper file's functions, and two pairs of prompts as it batches them."""
    space = defined(model := tinymi.load(folder))
    tokens = [np.concatenate([model.to_tokens(pair[side]) for pair in PAIRS]) for side in (0, 1)]
    answers = np.array([[model.to_single_token(text) for text in "qw"]] * 2)
    return space, space["make_pairs"](*tokens, answers)


def check_worth(worth: dict[tuple[str, int], Array], row: int, expected: dict[str, Array], layers: range) -> None:
    for layer in layers:
        for point, name in (("z", "attn.hook_z"), ("post", "mlp.hook_post")):
            if (point, layer) in worth:
                right = expected[f"blocks.{layer}.{name}"][0]
                size = abs(right).max()
                assert worth[point, layer][row].reshape(right.shape) == pytest.approx(right, abs=1e-4 * size), name


PAIRS = (("abcdef", "abXdYf"), ("axcdef", "aqcdzf"))


@pytest.mark.parametrize("family", ["llama-gqa3", "llama-biases", "qwen3-free-head"])
def test_many_pairs_at_once(family: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", family)
    space, pairs = two_pairs(folder)
    worth, d_words, _ = space["go_back"](pairs)
    words = (d_words * pairs.change("resid_pre", 0)).sum(axis=(1, 2))
    for row, prompts in enumerate(PAIRS):
        reference = Reference(folder, prompts, ("q", "w"))
        check_worth(worth, row, reference.worth(), range(3))
        assert pairs.gap[row] == pytest.approx(reference.gap, abs=1e-4 * abs(reference.gap))
        assert words[row] == pytest.approx(reference.gap, abs=1e-4 * abs(reference.gap))


def test_features_that_lose_nothing_change_nothing(free_head_folder: Path) -> None:
    space, pairs = two_pairs(free_head_folder)
    point = "blocks.1.hook_mlp_out"
    pairs = space["with_features"](pairs, dataclasses.replace(exact(space["model"]), reads=point, writes=(point,)))
    assert abs(pairs.features.error).max() < 1e-5
    both = [space["shares_of"](one, space["go_back"](one)[0]) for one in (pairs, pairs._replace(features=None))]
    for place in (("z", 0), ("post", 0), ("z", 1)):
        assert both[0][place] == pytest.approx(both[1][place], abs=1e-4 * abs(both[1][place]).max())


@pytest.mark.parametrize("skip", [True, False])
def test_a_transcoder_by_autograd(skip: bool, free_head_folder: Path, tmp_path: Path) -> None:
    tensors, _ = sparsify(tmp_path / "model.layers.1.mlp", transcode=True, skip_connection=skip)
    space, pairs = two_pairs(free_head_folder)
    dictionary = tinymi.load_dictionary(tmp_path, space["model"], layer=1)
    pairs = space["with_features"](pairs, dictionary)
    worth, d_words, d_error = space["go_back"](pairs)
    words = (d_words * pairs.change("resid_pre", 0)).sum(axis=(1, 2))
    error = (d_error * pairs.features.error).sum(axis=(1, 2))
    assert words + error == pytest.approx(pairs.gap, abs=1e-4 * abs(pairs.gap).max())
    assert (abs(error) > 0.01 * abs(pairs.gap)).all()
    for row, prompts in enumerate(PAIRS):
        reference = Reference(free_head_folder, prompts, ("q", "w"))
        check_worth(worth, row, reference.worth(features_in_torch(reference, tensors)), range(1))


def features_in_torch(reference: Reference, tensors: dict[str, Any]) -> Edits:
    """Edits that let the MLP of layer 1 go through the features, straight lines of what they read, and W_skip."""
    read, written = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
    now: dict[str, Any] = {}
    weight = reference.model.model.layers[1].post_attention_layernorm.weight.detach()
    t = {name: tensor.double() for name, tensor in tensors.items()}

    def pre(x: Any) -> Any:
        return (x * weight) @ t["encoder.weight"].T + t["encoder.bias"]

    def top(x: Any) -> Any:
        values, places = pre(x).relu().topk(5)
        return torch.zeros_like(pre(x)).scatter(-1, places, values)

    def through(value: Any) -> Any:
        clean, frozen = reference.clean[read], reference.frozen[read]
        slope = ((top(clean) - top(frozen)) / (pre(clean) - pre(frozen))).nan_to_num(0.0)
        moved = now[read] - now[read].detach()
        out = ((moved * weight) @ t["encoder.weight"].T * slope) @ t["W_dec"]
        if "W_skip" in t:
            out = out + (moved * weight) @ t["W_skip"].T
        return value.detach() + out

    return {read: keep_in(now, read), written: through}


def test_a_dictionary_of_something_else_is_refused(free_head_folder: Path) -> None:
    space, pairs = two_pairs(free_head_folder)
    with pytest.raises(tinymi.InputError, match="give one that rebuilds an MLP"):
        space["with_features"](pairs, exact(space["model"]))


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(DEEPER, tmp_path_factory.mktemp("deeper21"))


def test_what_the_deeper_file_holds_up(deeper: dict[str, Any]) -> None:
    assert [finding["established"] for finding in deeper["findings"]] == [True] * 5
    assert deeper["head"] == [23, 4]
    kept = {name: np.mean(values, axis=1) for name, values in deeper["kept"].items()}
    assert kept["shares"][0] < 0.01 < 0.3 < kept["shares"][2] < kept["shares"][3]
    assert max(kept["others"]) < 0.05
    assert np.mean(deeper["miss"][0]) < 2 < np.mean(deeper["miss_short"][0])  # the largest
    assert np.mean(deeper["miss"][1:]) > np.mean(deeper["miss_short"][1:])  # and the others
    assert min(deeper["errors"]) > 0.4


def test_the_largest_exchange_of_a_pair(deeper: dict[str, Any], default_model_folder: Path) -> None:
    (country, capital), (other, wrong) = deeper["lines"][2:4]
    prompts = f"The capital of {country} is", f"The capital of {other} is"
    reference = Reference(default_model_folder, prompts, (capital, wrong))

    def head(value: Any) -> Any:
        value = value.clone()
        value[0, -1, 4] = reference.corrupted["blocks.23.attn.hook_z"][0, -1, 4]
        return value

    cost = reference.high - reference.run(reference.tokens[0], {"blocks.23.attn.hook_z": head})[0]
    assert deeper["real"][0][1] == pytest.approx(cost, abs=2e-3)
    share = (reference.worth()["blocks.23.attn.hook_z"][0] * reference.change("blocks.23.attn.hook_z"))[-1, 4].sum()
    assert deeper["miss"][0][1] == pytest.approx(abs(share - cost), abs=2e-3)
    assert deeper["gap"][1] == pytest.approx(reference.gap, abs=1e-3)
