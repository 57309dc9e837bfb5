"""Dictionaries against the libraries that write them: SAELens and sparsify, where they are installed.

They bring hundreds of megabytes, so the usual test environment has neither: pip install sae-lens eai-sparsify.
"""

from pathlib import Path
from typing import Any

import tinymi
from tests.variants import error
from tinymi import Model

import numpy as np
import pytest
import torch

D, N = 32, 70  # d_model of `tiny`
RNG = np.random.default_rng(0)


def fill(module: Any) -> None:
    for parameter in module.parameters():
        parameter.data = torch.from_numpy(RNG.normal(size=parameter.shape).astype(np.float32))


@pytest.mark.parametrize(
    "architecture",
    ["standard", "jumprelu", "topk", "transcoder", "skip_transcoder", "jumprelu_transcoder"],
)
def test_saelens_both_ways(architecture: str, tiny: Model, tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens")
    transcodes = architecture.endswith("transcoder")
    names = {"hook_name": "blocks.1.ln2.hook_normalized" if transcodes else "blocks.1.hook_resid_post"}
    names |= {"hook_name_out": "blocks.1.hook_mlp_out"} if transcodes else {}
    fields = {"d_in": D, "d_sae": N, "apply_b_dec_to_input": not transcodes, "metadata": names}
    fields |= {"d_out": D} if transcodes else {}
    fields |= {"k": 6, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}
    theirs = sae_lens.SAE.from_dict(fields | {"architecture": architecture, "dtype": "float32", "device": "cpu"})
    fill(theirs)
    theirs.save_model(tmp_path / "theirs")
    ours = tinymi.load_dictionary(tmp_path / "theirs", tiny)
    tinymi.save_dictionary(ours, tmp_path / "ours")
    again = sae_lens.SAE.load_from_disk(tmp_path / "ours")
    x = RNG.normal(size=(9, D)).astype(np.float32)
    with torch.no_grad():
        for sae in (theirs, again):
            assert error(ours.encode(x), sae.encode(torch.from_numpy(x)).numpy()) < 1e-5
            assert error(ours.reconstruct(x), sae(torch.from_numpy(x)).numpy()) < 1e-5


@pytest.mark.parametrize("transcode", [False, True])
def test_sparsify(transcode: bool, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSIFY_DISABLE_TRITON", "1")  # its kernels need a GPU
    sparsify = pytest.importorskip("sparsify")
    config = sparsify.SparseCoderConfig(num_latents=N, k=5, transcode=transcode, skip_connection=transcode)
    theirs = sparsify.SparseCoder(D, config)
    fill(theirs)
    theirs.save_to_disk(tmp_path / "layers.1.mlp")
    ours = tinymi.load_dictionary(tmp_path, tiny, layer=1)
    x = RNG.normal(size=(9, D)).astype(np.float32)
    with torch.no_grad():
        activations, places, _ = theirs.encode(torch.from_numpy(x))
        expected = torch.zeros(9, N).scatter(-1, places, activations)
        rebuilt = theirs(torch.from_numpy(x)).sae_out
    assert error(ours.encode(x), expected.numpy()) < 1e-5
    assert error(ours.reconstruct(x), rebuilt.numpy()) < 1e-5
