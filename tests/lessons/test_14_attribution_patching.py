"""Lesson 14: its guesses by torch's autograd through transformers, and its patches by forward hooks."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tinymi
from tests.running import ROOT, default_lesson_json, lesson_json, refusal
from tests.variants import hugging_face, save_variant
from tinymi import Model

import numpy as np
import pytest
import torch

sys.path.append(str(ROOT / "lessons"))
from ioi import NAMES

LESSON = "14_attribution_patching"
FRANCE, ITALY = "The capital of France is", "The capital of Italy is"
Edit = Callable[[Any], Any]


class Traced:
    """One run of a transformers model, with the gradients of a logit difference at each layer's sites.

    values[site, layer] is a tensor with its .grad; sites are "resid_pre" and "z" (what enters o_proj, by heads), and
    "mlp_out". edits: from a site's value to what the run goes on with.
    """

    def __init__(
        self,
        reference: Any,
        answers: Sequence[int],
        edits: Mapping[tuple[str, int], Edit] | None = None,
        **inputs: Any,
    ) -> None:
        self.values: dict[tuple[str, int], Any] = {}
        edits, d_head, handles = edits or {}, reference.model.layers[0].self_attn.head_dim, []

        def keep(site: str, layer: int, value: Any) -> Any:
            value = edits.get((site, layer), lambda x: x)(value)
            if value.requires_grad:
                value.retain_grad()
            self.values[site, layer] = value
            return value

        for i, block in enumerate(reference.model.layers):

            def stream(module: Any, args: Any, i: int = i) -> Any:
                return (keep("resid_pre", i, args[0]), *args[1:])

            def z(module: Any, args: Any, i: int = i) -> Any:
                return (keep("z", i, args[0].unflatten(-1, (-1, d_head))).flatten(-2),)

            def mlp(module: Any, args: Any, out: Any, i: int = i) -> Any:
                return keep("mlp_out", i, out)

            handles.append(block.register_forward_pre_hook(stream))
            handles.append(block.self_attn.o_proj.register_forward_pre_hook(z))
            handles.append(block.mlp.register_forward_hook(mlp))
        last = reference(**inputs).logits[0, -1]
        for handle in handles:
            handle.remove()
        metric = last[answers[0]] - last[answers[1]]
        metric.backward()
        self.difference = float(metric.detach())


class Pair:
    """The clean and the corrupted run of two prompts, with guesses and patches."""

    def __init__(self, folder: Path, model: Model, prompts: tuple[str, str], answers: tuple[str, str]) -> None:
        self.reference, self.ids = hugging_face(folder), [model.to_single_token(text) for text in answers]
        self.tokens = [torch.from_numpy(model.to_tokens(prompt)) for prompt in prompts]
        self.clean, self.corrupted = (self.trace(input_ids=tokens) for tokens in self.tokens)

    def trace(self, edits: Mapping[tuple[str, int], Edit] | None = None, **inputs: Any) -> Traced:
        return Traced(self.reference, self.ids, edits, **inputs)

    def span(self) -> float:
        return self.clean.difference - self.corrupted.difference

    def guess(self, site: str, layer: int, by: Traced) -> Any:
        """[pos], or for "z" [pos, n_heads]."""
        change = (self.clean.values[site, layer] - self.corrupted.values[site, layer])[0].detach()
        return (change * by.values[site, layer].grad[0]).sum(dim=-1).numpy() / self.span()

    def moved(self, site: str, layer: int, where: Any, mlps: Edit | None = None, share: float = 1.0) -> Traced:
        """The corrupted run with a part of a value moved towards the clean run's, and all MLPs edited."""

        def put(value: Any) -> Any:
            value = value.clone()
            old, new = (run.values[site, layer][where].detach() for run in (self.corrupted, self.clean))
            value[where] = old + share * (new - old)
            return value

        edits: dict[tuple[str, int], Edit] = {(site, layer): put}
        if mlps:
            edits |= {("mlp_out", i): mlps for i in range(len(self.reference.model.layers))}
        return self.trace(edits, input_ids=self.tokens[1])

    def share(self, run: Traced) -> float:
        return (run.difference - self.corrupted.difference) / self.span()


@pytest.mark.parametrize("family", ["llama-gqa3", "qwen2-gqa2", "qwen3-free-head"])
def test_any_model_and_prompts_that_differ_in_two_places(family: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "model", family)
    pair = Pair(folder, tinymi.load(folder), ("abcdef", "abXdYf"), ("q", "w"))
    own = ["--clean", "abcdef", "--corrupted", "abXdYf", "--answer", "q", "--wrong", "w"]
    lesson = lesson_json(LESSON, tmp_path, "--model", str(folder), *own)
    for layer in range(3):
        by = pair.corrupted
        assert lesson["guesses"][layer] == pytest.approx(pair.guess("resid_pre", layer, by)[2:], abs=2e-3)
        assert lesson["heads"][layer] == pytest.approx(pair.guess("z", layer, by)[-1], abs=2e-3)
    patch = pair.moved("resid_pre", 1, (0, 4))
    assert lesson["patches"][1][2] == pytest.approx(pair.share(patch), abs=2e-3)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--clean", "abc", "--corrupted", "ab", "--answer", "x", "--wrong", "y"], "3 tokens and --corrupted 2"),
        (["--clean", "abc", "--corrupted", "abc", "--answer", "x", "--wrong", "y"], "two different prompts"),
        (["--clean", "abc", "--corrupted", "abd", "--answer", "x", "--wrong", "x"], "two different answers"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(options: list[str], problem: str, tiny_folder: Path) -> None:
    assert problem in refusal(LESSON, "--model", str(tiny_folder), *options)


@pytest.fixture(scope="module")
def pair(default_model_folder: Path, default_model: Model) -> Pair:
    return Pair(default_model_folder, default_model, (FRANCE, ITALY), (" Paris", " Rome"))


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(LESSON, tmp_path_factory.mktemp("14"))


def test_the_guesses_are_torchs(lesson: dict[str, Any], pair: Pair) -> None:
    for layer in (0, 11, 23, 29):
        by = pair.corrupted
        assert lesson["guesses"][layer] == pytest.approx(pair.guess("resid_pre", layer, by)[3:], abs=1e-3)
        assert lesson["heads"][layer] == pytest.approx(pair.guess("z", layer, by)[-1], abs=1e-3)
    assert lesson["head"] == [23, 4]
    assert lesson["back"][23] == pytest.approx(pair.guess("z", 23, pair.clean)[-1], abs=1e-3)
    ends = [pair.reference.model.embed_tokens(tokens) for tokens in pair.tokens]
    for share, value in zip((0.125, 0.375, 0.625, 0.875), lesson["mixed"], strict=True):
        between = pair.trace(inputs_embeds=(share * ends[0] + (1 - share) * ends[1]).detach())
        assert value == pytest.approx(pair.guess("z", 23, between)[-1, 4], abs=2e-3)


def test_the_patches_are_hugging_faces(lesson: dict[str, Any], pair: Pair) -> None:
    for layer, pos in ((12, 3), (24, 4)):
        patch = pair.moved("resid_pre", layer, (0, pos))
        assert lesson["patches"][layer][pos - 3] == pytest.approx(pair.share(patch), abs=1e-3)
    strongest = table(lesson)["23.4"]
    assert strongest[1] == pytest.approx(pair.share(pair.moved("z", 23, (0, -1, 4))), abs=1e-3)


def test_patched_back_the_mlps_bend_the_curve(
    lesson: dict[str, Any], default_model_folder: Path, default_model: Model
) -> None:
    """Held still: by transformers, with every MLP's output that of the run patched."""
    pair = Pair(default_model_folder, default_model, (ITALY, FRANCE), (" Paris", " Rome"))
    curves = lesson["curves"]
    for index, share in ((2, 0.4), (5, 1.0)):
        patch = pair.moved("z", 23, (0, -1, 4), share=share)
        assert curves["nothing held"][index] == pytest.approx(pair.share(patch), abs=1e-3)
        patch = pair.moved("z", 23, (0, -1, 4), one_after_another(pair.corrupted), share)
        assert curves["MLPs held"][index] == pytest.approx(pair.share(patch), abs=1e-3)
    bends = {name: curve[-1] - 5 * curve[1] for name, curve in curves.items()}
    assert bends["MLPs held"] < 0.2 < 0.4 < min(bend for name, bend in bends.items() if name != "MLPs held")


def one_after_another(run: Traced) -> Edit:
    """In place of the MLPs' outputs, those of another run."""
    outputs = iter([run.values["mlp_out", i].detach() for i in range(30)])
    return lambda out: next(outputs)


def test_one_way_it_is_right_and_the_other_way_wrong(lesson: dict[str, Any]) -> None:
    guess, there, guess_back, back = table(lesson)["23.4"]
    assert abs(guess - there) < 0.2
    assert back > 0.9 > 0.5 > guess_back
    assert abs(np.mean(lesson["mixed"]) - there) < 0.1


def table(lesson: dict[str, Any]) -> dict[str, list[float]]:
    """Guesses and patches of the strongest heads, by the head's name."""
    (rows,) = [item["rows"] for item in lesson["report"] if item["kind"] == "table"]
    return {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def deeper(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return default_lesson_json(f"deeper/{LESSON}", tmp_path_factory.mktemp("deeper14"))


def test_the_batched_guesses_and_patches(
    deeper: dict[str, Any], default_model_folder: Path, default_model: Model
) -> None:
    (country, capital), (other, wrong) = deeper["prompts"][2:4]
    texts = f"The capital of {country} is", f"The capital of {other} is"
    pair = Pair(default_model_folder, default_model, texts, (capital, wrong))
    for layer in (16, 23):
        guess = pair.guess("z", layer, pair.corrupted)[-1]
        assert np.array(deeper["one"])[layer, :, 1] == pytest.approx(guess, abs=1e-3)
    for layer, head in ((16, 0), (23, 4), (29, 1)):
        patch = pair.share(pair.moved("z", layer, (0, -1, head)))
        assert deeper["real"][layer][head][1] == pytest.approx(patch, abs=2e-3)


def test_an_edge_to_the_logits(deeper: dict[str, Any], default_model_folder: Path, default_model: Model) -> None:
    """23.3 to the logits by torch: what it writes, times the gradient at the last stream, which is MLP 29's."""
    edge = deeper["to_logits"][1 + 23 * 10 + 3]  # after the embedding, and nine heads and an MLP of each layer
    expected, gap = 0.0, 0.0
    for prompt, other in zip(*deeper["texts"], strict=True):
        io, s = (next(f" {name}" for name in NAMES if prompt.count(name) == times) for times in (1, 2))
        pair = Pair(default_model_folder, default_model, (prompt, other), (io, s))
        ends = [pair.reference.model.embed_tokens(tokens).detach() for tokens in pair.tokens]
        steps = [(i + 0.5) / 4 for i in range(4)]
        runs = [pair.trace(inputs_embeds=share * ends[0] + (1 - share) * ends[1]) for share in steps]
        gradient = torch.stack([run.values["mlp_out", 29].grad[0] for run in runs]).mean(dim=0)
        change = (pair.clean.values["z", 23] - pair.corrupted.values["z", 23])[0, :, 3].detach()
        W_O = pair.reference.model.layers[23].self_attn.o_proj.weight[:, 3 * 64 : 4 * 64].detach()
        expected += float(((change @ W_O.T) * gradient).sum()) / 2
        gap += pair.span() / 2
    assert deeper["gap"] == pytest.approx(gap, abs=1e-3)
    assert edge == pytest.approx(expected / gap, abs=1e-3)


def test_what_the_deeper_file_holds_up(deeper: dict[str, Any]) -> None:
    assert [finding["established"] for finding in deeper["findings"]] == [True] * 4
    loss, guess = np.array(deeper["loss"]), np.array(deeper["by_gradient"])
    assert loss.argmax() == guess.argmax() == 23 * 9 + 3
    assert deeper["missed"] == [16, 0]
    assert loss[16, 0] > 0.5 > 0.2 > abs(deeper["still_cost"])  # it acts through where later heads look
    assert guess[16, 0] < 0
    assert np.mean(deeper["bends"]["MLPs"]) < 0.1 < 0.2 < np.mean(deeper["bends"]["patterns"])
    mine, one, random = (np.array(deeper["curves"][name]) for name in ("four gradients", "one gradient", "random"))
    assert mine[2] > one[2] > 0.2 > random.max()
