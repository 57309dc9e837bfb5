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
    """The nodes are all heads and neurons above the bar, and the rest of an MLP where that is above it, too."""
    worth, size = reference.worth(), abs(reference.gap)
    assert lesson["gap"] == pytest.approx(reference.gap, abs=1e-4 * size)
    assert lesson["error"] == pytest.approx(reference.frozen_low - reference.low, abs=1e-4 * size)
    expected: dict[str, float] = {}
    for layer in range(reference.n_layers):
        name = f"blocks.{layer}.attn.hook_z"
        heads = (worth[name][0] * reference.change(name)).sum(axis=-1)  # [pos, n_heads]
        name = f"blocks.{layer}.mlp.hook_post"
        neurons = worth[name][0] * reference.change(name)  # [pos, d_mlp]
        expected |= {f"{layer}.{n} @{pos}": float(share) for (pos, n), share in np.ndenumerate(heads)}
        expected |= {f"neuron {layer}.{n} @{pos}": float(share) for (pos, n), share in np.ndenumerate(neurons)}
        rest = np.where(abs(neurons) > size / 10, 0, neurons).sum(axis=-1)
        expected |= {f"MLP {layer} @{pos}": float(share) for pos, share in enumerate(rest)}
    shares = dict(zip(lesson["nodes"]["node"], lesson["nodes"]["share"], strict=True))
    assert sorted(shares) == sorted(name for name, share in expected.items() if abs(share) > size / 10)
    assert shares == pytest.approx({name: expected[name] for name in shares}, abs=1e-4 * size)


@pytest.mark.parametrize("family", ["llama-gqa3", "llama-biases", "qwen2-gqa2", "qwen3-free-head"])
def test_any_model(family: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", family)
    own = ["--clean", "abcdef", "--corrupted", "abXdYf", "--answer", "q", "--wrong", "w"]
    lesson = lesson_json(LESSON, tmp_path, "--model", str(folder), *own)
    check_shares(Reference(folder, ("abcdef", "abXdYf"), ("q", "w")), lesson)
    check_edges(lesson)


def check_edges(lesson: dict[str, Any]) -> None:
    """All that goes into a node sums to its share, and into the logits to the whole fall."""
    into: dict[str, float] = {}
    for _, end, weight in lesson["edges"]:
        into[end] = into.get(end, 0.0) + weight
    shares = dict(zip(lesson["nodes"]["node"], lesson["nodes"]["share"], strict=True))
    assert into == pytest.approx(shares | {"logits": lesson["gap"] + lesson["error"]}, abs=1e-6 * abs(lesson["gap"]))


@pytest.mark.parametrize("other", ["ab", "abc", "xbd"])
def test_wrong_options_are_one_line_and_status_2(other: str, tiny_folder: Path) -> None:
    options = ["--clean", "abc", "--corrupted", other, "--answer", "x", "--wrong", "y"]
    assert f"--corrupted {len(other)}; give as many" in refusal(LESSON, "--model", str(tiny_folder), *options)


def test_a_frozen_run_that_overflows_is_refused(default_model_folder: Path) -> None:
    prompts = ("--clean", "My dog is a", "--corrupted", "My cat is a", "--answer", " dog", "--wrong", " cat")
    assert "the frozen run overflows, as the prompts differ at token 1 already; give" in refusal(LESSON, *prompts)


@pytest.fixture(scope="module")
def france(default_model_folder: Path) -> Reference:
    return Reference(default_model_folder, *FRANCE)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("21"))


def test_the_shares_are_autograds(lesson: dict[str, Any], france: Reference) -> None:
    check_shares(france, lesson)
    check_edges(lesson)
    shares = dict(zip(lesson["nodes"]["node"], lesson["nodes"]["share"], strict=True))
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

    def rest(value: Any) -> Any:  # no neuron of this layer is a node
        value = value.clone()
        value[0, 4] = france.corrupted["blocks.27.mlp.hook_post"][0, 4]
        return value

    with_head = france.run(france.tokens[0], {"blocks.23.attn.hook_z": head})[0]
    with_rest = france.run(france.tokens[0], {"blocks.27.mlp.hook_post": rest})[0]
    with_neuron = france.run(france.tokens[0], {"blocks.13.mlp.hook_post": neuron})[0]
    assert costs["23.4 @4"] == pytest.approx(france.high - with_head, abs=1e-3)
    assert costs["neuron 13.1033 @3"] == pytest.approx(france.high - with_neuron, abs=1e-3)
    assert costs["MLP 27 @4"] == pytest.approx(france.high - with_rest, abs=1e-3)
    missed = abs(np.subtract(lesson["nodes"]["share"], lesson["nodes"]["exchanged"])).max()
    assert 1.0 < missed < 2.5
    assert max(map(abs, lesson["nodes"]["elsewhere"])) < 0.5


# --- the deeper file ----------------------------------------------------------------------------------------------


def defined(model: Model) -> dict[str, Any]:
    """What the deeper file's cells of definitions define, for a model, without running the rest."""
    texts = [cell.text for cell in cells((ROOT / "lessons" / f"{DEEPER}.py").read_text("utf-8"))]
    (setup,) = [text for text in texts if "lesson = Lesson" in text]
    imports = [line for line in setup.splitlines() if line.startswith(("from ", "import "))]
    known = [line for line in setup.splitlines() if line.startswith(("Parts =", "blocks, config"))]
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
    return space, space["make_pairs"](model, *tokens, answers)


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
    worth, streams = space["go_back"](pairs)
    words = (streams[-1] * pairs.change("resid_pre", 0)).sum(axis=(1, 2))
    for row, prompts in enumerate(PAIRS):
        reference = Reference(folder, prompts, ("q", "w"))
        check_worth(worth, row, reference.worth(), range(3))
        assert pairs.gap[row] == pytest.approx(reference.gap, abs=1e-4 * abs(reference.gap))
        assert words[row] == pytest.approx(reference.gap, abs=1e-4 * abs(reference.gap))


def shares_of_features(space: dict[str, Any], pairs: Any, own: tinymi.Dictionary) -> Any:
    return space["feature_shares"](pairs, own, 1, space["go_back"](pairs)[1][1])


def test_features_that_lose_nothing_have_the_share_of_the_mlp(free_head_folder: Path) -> None:
    space, pairs = two_pairs(free_head_folder)
    point = "blocks.1.hook_mlp_out"
    own = dataclasses.replace(exact(space["model"]), reads=point, writes=(point,))
    _, shares, past = shares_of_features(space, pairs, own)
    for row, prompts in enumerate(PAIRS):
        reference = Reference(free_head_folder, prompts, ("q", "w"))
        expected = (reference.worth()[point] * reference.change(point)).sum()
        assert shares[row].sum() == pytest.approx(expected, rel=1e-3)
    assert abs(past).max() < 1e-4 * abs(pairs.gap).max()


@pytest.mark.parametrize("skip", [True, False])
def test_a_transcoder_by_autograd(skip: bool, free_head_folder: Path, tmp_path: Path) -> None:
    tensors, _ = sparsify(tmp_path / "model.layers.1.mlp", transcode=True, skip_connection=skip)
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    space, pairs = two_pairs(free_head_folder)
    numbers, shares, past = shares_of_features(space, pairs, tinymi.load_dictionary(tmp_path, space["model"], layer=1))
    for row, prompts in enumerate(PAIRS):
        reference = Reference(free_head_folder, prompts, ("q", "w"))
        weight = reference.model.model.layers[1].post_attention_layernorm.weight.detach().numpy()
        clean, frozen = (
            run["blocks.1.ln2.hook_normalized"][0].numpy() * weight for run in (reference.clean, reference.frozen)
        )
        a, b = (top(x @ t["encoder.weight"].T + t["encoder.bias"], 5) for x in (clean, frozen))
        d = reference.worth()["blocks.1.hook_mlp_out"][0]
        size = abs(reference.gap)
        assert shares[row] == pytest.approx(((a - b) * (d @ t["W_dec"].T))[:, numbers], abs=1e-3 * size)
        skipped = (d * ((clean - frozen) @ t["W_skip"].T)).sum() if skip else 0
        assert past[0, row] == pytest.approx(skipped, abs=1e-3 * size)
        whole = (d * reference.change("blocks.1.hook_mlp_out")).sum()
        assert shares[row].sum() + past[:, row].sum() == pytest.approx(whole, abs=1e-3 * size)
        assert abs(past[1, row]) > 0.01 * size


def top(pre: Any, k: int) -> Array:
    values, places = torch.as_tensor(pre).relu().topk(k)
    return np.asarray(torch.zeros(pre.shape, dtype=torch.float64).scatter(-1, places, values))


def test_a_dictionary_of_something_else_is_refused(free_head_folder: Path) -> None:
    space, pairs = two_pairs(free_head_folder)
    with pytest.raises(tinymi.InputError, match="give one that rebuilds an MLP"):
        shares_of_features(space, pairs, exact(space["model"]))


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
