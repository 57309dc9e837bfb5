"""Dictionaries in each format, written by hand as their libraries write them; encode and decode against torch."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tinymi
from tests.checkpoint.test_hub import Repo, Server, ask, server
from tests.variants import error
from tinymi import Dictionary, Model

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

__all__ = ["server"]
D, N = 32, 70  # d_model of `tiny`, which has three layers
Tensors = dict[str, Any]


def random(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def write(folder: Path, file: str, tensors: Tensors, config: dict[str, Any] | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)
    if isinstance(config, str):
        (folder / "config.yaml").write_text(config)
    else:
        (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def top(pre: Any, k: int) -> Any:
    values, places = pre.relu().topk(k)
    return torch.zeros_like(pre).scatter(-1, places, values)


def sparsify(folder: Path, dtype: Any = torch.float32, **fields: Any) -> tuple[Tensors, dict[str, Any]]:
    config = {"d_in": D, "num_latents": N, "k": 5, "activation": "topk", "normalize_decoder": True, "transcode": False}
    config |= {"expansion_factor": 32, "multi_topk": False, "skip_connection": False, **fields}
    tensors = {"encoder.weight": random(N, D), "encoder.bias": random(N), "W_dec": random(N, D, seed=1)}
    tensors |= {"b_dec": random(D)} | ({"W_skip": random(D, D)} if config["skip_connection"] else {})
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    write(folder, "sae.safetensors", tensors, config)
    return {name: tensor.float() for name, tensor in tensors.items()}, config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["layers.1", "layers.1.mlp", "model.layers.1.mlp"])
def test_sparsify(name: str, dtype: Any, tiny: Model, tmp_path: Path) -> None:
    transcode = name == "model.layers.1.mlp"
    t, _ = sparsify(tmp_path / name, dtype, transcode=transcode, skip_connection=transcode)
    sae = tinymi.load_dictionary(tmp_path, tiny, layer=1)
    x = random(2, 7, D)
    features = top((x - (0 if transcode else t["b_dec"])) @ t["encoder.weight"].T + t["encoder.bias"], 5)
    y = features @ t["W_dec"] + t["b_dec"]
    assert error(sae.encode(x.numpy()), features.numpy()) < 1e-5
    assert error(sae.decode(features.numpy()), y.numpy()) < 1e-5
    y = y + x @ t["W_skip"].T if transcode else y
    assert error(sae.reconstruct(x.numpy()), y.numpy()) < 1e-5
    assert error(sae.error(x.numpy()), (x - y).numpy()) < 1e-5
    assert np.array_equal(sae.W_enc, t["encoder.weight"].T.numpy())
    point = {"layers.1": "hook_resid_post"}.get(name, "hook_mlp_out")
    assert sae.writes == (f"blocks.1.{point}",)
    assert sae.reads == ("blocks.1.ln2.hook_normalized" if transcode else sae.writes[0])


def test_sparsify_groupmax(tiny: Model, tmp_path: Path) -> None:
    t, _ = sparsify(tmp_path / "layers.0", activation="groupmax", k=7)
    x = random(4, D)
    pre = ((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu().unflatten(-1, (7, -1))
    values, places = pre.max(dim=-1, keepdim=True)
    expected = torch.zeros_like(pre).scatter(-1, places, values).flatten(1)
    sae = tinymi.load_dictionary(tmp_path / "layers.0", tiny)
    assert error(sae.encode(x.numpy()), expected.numpy()) < 1e-5


def saelens(folder: Path, architecture: str = "standard", **fields: Any) -> Tensors:
    config = {"d_in": D, "d_sae": N, "architecture": architecture, "apply_b_dec_to_input": True, "dtype": "float32"}
    config |= {"normalize_activations": "none", "metadata": {"hook_name": "blocks.2.hook_resid_pre"}, **fields}
    t = {"W_enc": random(D, N), "b_enc": random(N), "W_dec": random(N, D), "b_dec": random(D)}
    t |= {"threshold": random(N).abs() * 3} if "jumprelu" in architecture else {}
    t |= {"W_skip": random(D, D, seed=3)} if "skip" in architecture else {}
    write(folder, "sae_weights.safetensors", t, config)
    return t


@pytest.mark.parametrize("apply", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
def test_saelens(architecture: str, apply: bool, tiny: Model, tmp_path: Path) -> None:
    t = saelens(tmp_path, architecture, apply_b_dec_to_input=apply, k=6)
    x = random(3, 5, D)
    pre = (x - t["b_dec"] * apply) @ t["W_enc"] + t["b_enc"]
    features = top(pre, 6) if architecture == "topk" else pre.relu()
    features = features * (pre > t["threshold"]) if architecture == "jumprelu" else features
    sae = tinymi.load_dictionary(tmp_path, tiny)
    assert sae.reads == "blocks.2.hook_resid_pre"
    assert error(sae.encode(x.numpy()), features.numpy()) < 1e-5
    assert error(sae.reconstruct(x.numpy()), (features @ t["W_dec"] + t["b_dec"]).numpy()) < 1e-5
    tinymi.save_dictionary(sae, tmp_path / "again")
    again = tinymi.load_dictionary(tmp_path / "again", tiny, layer=2)
    assert np.array_equal(again.reconstruct(x.numpy()), sae.reconstruct(x.numpy()))


@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder", "jumprelu_skip_transcoder"])
@pytest.mark.parametrize("hook", ["ln2.hook_normalized", "hook_mlp_in"])
def test_saelens_transcoder(architecture: str, hook: str, tiny: Model, tmp_path: Path) -> None:
    names = {"hook_name": f"blocks.1.{hook}", "hook_name_out": "blocks.1.hook_mlp_out"}
    t = saelens(tmp_path, architecture, apply_b_dec_to_input=False, d_out=D, metadata=names)
    transcoder = tinymi.load_dictionary(tmp_path, tiny)
    _, cache = tiny.run_with_cache(np.array([[3, 5, 8, 1]]))
    given = transcoder.input(cache)
    x = torch.from_numpy(given.copy())
    features = (x @ t["W_enc"] + t["b_enc"]).relu()
    features = features * (features > t["threshold"]) if "threshold" in t else features
    y = features @ t["W_dec"] + t["b_dec"] + (x @ t["W_skip"].T if "W_skip" in t else 0)
    assert error(transcoder.reconstruct(given), y.numpy()) < 1e-5
    tinymi.save_dictionary(transcoder, tmp_path / "again")
    again = tinymi.load_dictionary(tmp_path / "again", tiny)
    assert again.reads == "blocks.1.ln2.hook_normalized"
    assert again.writes == ("blocks.1.hook_mlp_out",)
    assert error(again.reconstruct(again.input(cache)), y.numpy()) < 1e-5


def test_what_saelens_cannot_hold_is_not_saved(tiny: Model, tmp_path: Path) -> None:
    sae = exact(tiny)
    points = ("blocks.1.hook_mlp_out",)
    for other, words in [
        (dataclasses.replace(sae, writes=points * 2), "its features write to 2 layers"),
        (dataclasses.replace(sae, k=4, grouped=True), "the largest feature of each group"),
        (dataclasses.replace(sae, k=4, threshold=sae.b_enc), "both a threshold and k"),
        (dataclasses.replace(sae, k=4, writes=points), "a transcoder with k"),
        (dataclasses.replace(sae, W_skip=np.eye(D)), "an SAE with W_skip"),
        (dataclasses.replace(sae, b_in=np.ones(D)), "b_in, which is not its b_dec"),
    ]:
        with pytest.raises(tinymi.InputError, match=words):
            tinymi.save_dictionary(other, tmp_path)
    assert not list(tmp_path.iterdir())


YAML = 'model_name: "m"\nfeature_input_hook: {}\nfeature_output_hook: "mlp.hook_out"  # ours\nlist:\n  - "hf://x"\n'


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("hook", ["hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in"])
def test_circuit_tracer_layers(hook: str, turned: bool, tiny: Model, tmp_path: Path) -> None:
    t = {"W_enc": random(N, D), "b_enc": random(N), "W_dec": random(N, D, seed=2), "b_dec": random(D)}
    t |= {"W_skip": random(D, D)}
    for layer in (0, 1, 11):
        stored = t | {"W_dec": t["W_dec"].T if turned else t["W_dec"]}
        write(tmp_path, f"layer_{layer}.safetensors", stored, YAML.format(hook))
    transcoder = tinymi.load_dictionary(tmp_path, tiny, layer=1)
    _, cache = tiny.run_with_cache(np.array([[3, 5, 8, 1]]))
    name = hook if hook != "mlp.hook_in" else "ln2.hook_normalized"
    x = cache[f"blocks.1.{name}"] * (tiny.weights.blocks[1].ln2 if hook == "mlp.hook_in" else 1)
    assert np.array_equal(transcoder.input(cache), x)
    x = torch.from_numpy(x.copy())
    y = (x @ t["W_enc"].T + t["b_enc"]).relu() @ t["W_dec"] + t["b_dec"] + x @ t["W_skip"].T
    assert error(transcoder.reconstruct(x.numpy()), y.numpy()) < 1e-5
    with pytest.raises(tinymi.SourceError, match=r"give layer= or folder=, of layer_0"):
        tinymi.load_dictionary(tmp_path, tiny)


def cross_layer(folder: Path, layer: int, n_layers: int = 3, dtype: Any = torch.bfloat16) -> Tensors:
    encoder = {"W_enc": random(N, D), "b_enc": random(N), "b_dec": random(D)}
    encoder = {f"{name}_{layer}": tensor.to(dtype) for name, tensor in encoder.items()}
    decoder = {f"W_dec_{layer}": random(N, n_layers - layer, D).to(dtype)}
    write(folder, f"W_enc_{layer}.safetensors", encoder, YAML.format("hook_resid_mid"))
    write(folder, f"W_dec_{layer}.safetensors", decoder, YAML.format("hook_resid_mid"))
    return {name: tensor.float() for name, tensor in (encoder | decoder).items()}


def test_circuit_tracer_cross_layer(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinymi.dictionaries._NUMBERS_AT_ONCE", 200)  # several parts
    t = cross_layer(tmp_path, 1)
    clt = tinymi.load_dictionary(tmp_path, tiny, layer=1)
    x = random(2, 4, D)
    features = (x @ t["W_enc_1"].T + t["b_enc_1"]).relu()
    written = torch.einsum("bpf,fld->bpld", features, t["W_dec_1"])
    written[:, :, 0] += t["b_dec_1"]
    assert clt.writes == ("blocks.1.hook_mlp_out", "blocks.2.hook_mlp_out")
    assert error(clt.encode(x.numpy()), features.numpy()) < 1e-5
    assert error(clt.decode(features.numpy()), written.numpy()) < 1e-5
    with pytest.raises(tinymi.InputError, match="features of all layers below"):
        clt.reconstruct(x.numpy())


def test_a_dictionary_in_one_line(tiny: Model, tmp_path: Path) -> None:
    """Of any number of layers, and none of its numbers."""
    sparsify(tmp_path / "layers.1")
    sae = tinymi.load_dictionary(tmp_path, tiny)
    point = "blocks.1.hook_resid_post"
    assert repr(sae) == f"Dictionary({point} -> {point}: d_in 32, d_out 32, 70 features, k 5)"
    crossing = dataclasses.replace(sae, writes=tuple(f"blocks.{i}.hook_mlp_out" for i in range(1, 30)), k=None)
    to = "blocks.1.hook_mlp_out to blocks.29.hook_mlp_out"
    assert repr(crossing) == f"Dictionary({point} -> {to}: d_in 32, d_out 32, 70 features)"


def test_a_cross_layer_transcoder_rebuilds_every_layer(tiny: Model, tmp_path: Path) -> None:
    t: Tensors = {}
    for layer in range(3):
        t |= cross_layer(tmp_path, layer)
    layers = [tinymi.load_dictionary(tmp_path, tiny, layer=layer) for layer in range(3)]
    _, cache = tiny.run_with_cache(np.array([[3, 5, 8, 1], [2, 2, 7, 4]]))
    rebuilt = tinymi.reconstruct_across(layers, cache)
    for target in range(3):
        expected = t[f"b_dec_{target}"]
        for layer in range(target + 1):
            x = torch.from_numpy(cache["resid_mid", layer].copy())
            features = (x @ t[f"W_enc_{layer}"].T + t[f"b_enc_{layer}"]).relu()
            expected = expected + features @ t[f"W_dec_{layer}"][:, target - layer]
        assert error(rebuilt[f"blocks.{target}.hook_mlp_out"], expected.numpy()) < 1e-5
    for some, missing in [(layers[1:], "layer 0"), (layers[:2], "blocks.2.hook_mlp_out")]:
        with pytest.raises(tinymi.InputError, match=f"the dictionary of {missing} is missing"):
            tinymi.reconstruct_across(some, cache)


def test_only_the_files_of_the_layer_are_fetched(
    server: Server,
    free_head_folder: Path,
    tmp_path: Path,
) -> None:
    for layer in (0, 1):
        sparsify(tmp_path / "repo" / f"layers.{layer}")
    files = {
        str(f.relative_to(tmp_path / "repo")): f.read_bytes() for f in (tmp_path / "repo").rglob("*.*") if f.is_file()
    }
    server.repos["owner/saes"] = repo = Repo(files | {"evil.py": b"no"})
    code = "import sys, tinymi\nprint(tinymi.load_dictionary('owner/saes', tinymi.load(sys.argv[1]), layer=1).reads)"
    for url in (server.url, "http://127.0.0.1:9"):  # the second time nobody answers
        done = ask(url, tmp_path / "home", str(free_head_folder), code=code)
        assert done.stdout == "blocks.1.hook_resid_post\n", done.stderr
    assert {name.partition("@")[0] for name in repo.served} == {"layers.1/cfg.json", "layers.1/sae.safetensors"}


def exact(model: Model) -> Dictionary:
    """An SAE that loses nothing: one feature for each direction and its opposite."""
    both = np.vstack([np.eye(D), -np.eye(D)]).astype(np.float32)
    zero = np.zeros(D, np.float32)
    return Dictionary(
        "blocks.1.hook_resid_post", ("blocks.1.hook_resid_post",), both, np.zeros(2 * D, np.float32), both, zero
    )


def test_unexplained_variance_and_recovered_loss(tiny: Model) -> None:
    tokens = np.random.default_rng(0).integers(0, 300, (3, 9))
    sae = exact(tiny)
    assert tinymi.unexplained_variance(sae, tiny, tokens) < 1e-10
    recovered = tinymi.loss_recovered(sae, tiny, tokens)
    assert recovered.share == pytest.approx(1, abs=1e-3)
    logits = torch.from_numpy(tiny(tokens)[:, 1:-1].copy())
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(tokens[:, 2:]).flatten())
    assert recovered.clean == pytest.approx(float(expected), rel=1e-5)
    nothing = dataclasses.replace(sae, b_enc=np.full(2 * D, -1e6, np.float32))
    assert tinymi.loss_recovered(nothing, tiny, tokens).share == pytest.approx(0, abs=1e-6)
    values = tiny.run_with_cache(tokens, sae.reads)[1][sae.reads][:, 1:].reshape(-1, D)
    ratio = (values**2).sum() / ((values - values.mean(0)) ** 2).sum()
    assert tinymi.unexplained_variance(nothing, tiny, tokens) == pytest.approx(ratio, rel=1e-5)


def change(**fields: Any) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        file = folder / "cfg.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return damage


def weights(**tensors: Any) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        t = {"W_enc": random(D, N), "b_enc": random(N), "W_dec": random(N, D), "b_dec": random(D)} | tensors
        save_file({k: v for k, v in t.items() if v is not None}, folder / "sae_weights.safetensors")

    return damage


HOSTILE: list[tuple[Callable[[Path], object], str]] = [
    (change(architecture="gated"), "architecture: 'gated' asks for what is not implemented"),
    (change(normalize_activations="layer_norm"), "normalize_activations: 'layer_norm'"),
    (change(reshape_activations="hook_z"), "reshape_activations"),
    (change(twist=2), "twist: 2 is not known, and may change numbers"),
    (change(metadata={}), 'no hook point "None"'),
    (change(metadata={"hook_name": "blocks.7.hook_resid_pre"}), "the run goes through layers 0 to 2"),
    (change(metadata={"hook_name": "blocks.1.attn.hook_z"}), "has the axes"),
    (change(architecture="topk"), "k: None; 1 to 70 would be valid"),
    (change(architecture="topk", k=71), "k: 71; 1 to 70"),
    (change(architecture="topk", k="5"), "k: '5'"),
    (lambda folder: (folder / "cfg.json").write_bytes(b"[" * 99999), "cannot be read"),
    (lambda folder: (folder / "cfg.json").write_bytes(b"\xff"), "not UTF-8"),
    (lambda folder: (folder / "cfg.json").unlink(), "holds no dictionary"),
    (lambda folder: (folder / "sae_weights.safetensors").write_bytes(b"x" * 99), "damaged or incomplete"),
    (weights(W_enc=None), "has no tensor W_enc"),
    (weights(W_enc=random(D + 1, N)), rf"W_enc is F32 \[{D + 1}, {N}\]"),
    (weights(W_dec=random(N, D).int()), "W_dec is I32"),
    (weights(b_enc=random(N, 1)), r"no tensor b_enc \[n_features\]"),
    (weights(extra=random(3)), "tensor extra is not known here"),
]


@pytest.mark.parametrize(("damage", "words"), HOSTILE)
def test_hostile_files(damage: Callable[[Path], object], words: str, tiny: Model, tmp_path: Path) -> None:
    saelens(tmp_path)
    tinymi.load_dictionary(tmp_path, tiny, layer=2)
    damage(tmp_path)
    with pytest.raises(tinymi.TinymiError) as caught:
        tinymi.load_dictionary(tmp_path, tiny)
    assert re.search(words, str(caught.value))
    assert "\n" not in str(caught.value)


def test_wrong_use(tiny: Model, tmp_path: Path) -> None:
    saelens(tmp_path)
    for layer, words in [(1, "is for blocks.2.hook_resid_pre"), (3, "layers 0 to 2")]:
        with pytest.raises(tinymi.InputError, match=words):
            tinymi.load_dictionary(tmp_path, tiny, layer=layer)
    wrong: list[tuple[str | Path, str | None, str]] = [
        ("none", None, r"'none' does not exist here and is not a hub id: .*owner/name; revision= may then be a branch"),
        (tmp_path / "cfg.json", None, "cfg.json' is a file: give a folder"),
        (tmp_path, "main", "revision='main' needs a hub id of the form owner/name.*leave revision out"),
    ]
    for source, revision, words in wrong:
        with pytest.raises(tinymi.SourceError, match=words):
            tinymi.load_dictionary(source, tiny, revision=revision)
    sae = tinymi.load_dictionary(tmp_path, tiny)
    with pytest.raises(tinymi.InputError, match=r"give floats \[..., 32\]"):
        sae.encode(np.zeros(31))
    saelens(tmp_path, twist=1)
    assert tinymi.load_dictionary(tmp_path, tiny, ignore_config=["twist"]).n_features == N


def test_what_lies_deeper_than_a_formats_layout_is_named_and_not_taken(tiny: Model, tmp_path: Path) -> None:
    saelens(tmp_path / "a" / ".old" / "sae")
    write(tmp_path / "a" / "b", "layer_1.safetensors", {"b_enc": random(N)}, YAML.format("hook_resid_mid"))
    with pytest.raises(tinymi.SourceError, match=r"deeper down are a/\.old/sae, a/b: give one of these as folder="):
        tinymi.load_dictionary(tmp_path, tiny)
    saelens(tmp_path / "c", metadata={"hook_name": "blocks.1.hook_resid_pre"})
    assert tinymi.load_dictionary(tmp_path, tiny).reads == "blocks.1.hook_resid_pre"
    assert tinymi.load_dictionary(tmp_path, tiny, folder="a/.old/sae").reads == "blocks.2.hook_resid_pre"


def test_numbers_that_are_not_finite_are_warned_of(tiny: Model, tmp_path: Path) -> None:
    saelens(tmp_path)
    weights(W_enc=torch.full((D, N), torch.nan))(tmp_path)
    with pytest.warns(tinymi.WeightsWarning, match="NaN or infinite"):
        tinymi.load_dictionary(tmp_path, tiny).encode(np.ones(D, np.float32))
