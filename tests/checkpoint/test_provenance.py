"""What the model line says of a model's weights."""

import json
from pathlib import Path

from tests.variants import save_variant
from tinymi.checkpoint.gguf.reader import read
from tinymi.checkpoint.provenance import Provenance, provenance

import pytest


def test_the_default_model_says_that_it_is_rounded(default_model_folder: Path) -> None:
    line = "SmolLM2-135M-Instruct, weights rounded to 4 bits (Q4_1), run on raw text without its chat template"
    assert str(provenance(None, default_model_folder)) == line
    assert str(provenance(str(default_model_folder), default_model_folder)) == line


def test_it_is_the_type_of_most_weights_of_the_pinned_file(pinned_gguf: Path, tiny_folder: Path) -> None:
    kinds = [tensor.kind.name for tensor in read(pinned_gguf).tensors.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {"Q8_0": 1, "F32": 61, "Q4_1": 210}
    assert provenance(str(pinned_gguf), tiny_folder) == Provenance(str(pinned_gguf), "Q4_1", chat=True)
    assert provenance(None, tiny_folder).stored_as == "Q4_1"


@pytest.mark.parametrize(
    ("variant", "stored_as"),
    [("llama-gqa2", "F32"), ("llama-bf16", "BF16"), ("qwen2-bf16-sharded", "BF16"), ("llama-f16", "F16")],
)
def test_a_folder_says_its_stored_type(variant: str, stored_as: str, tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "m", variant)
    assert provenance("my/model", folder) == Provenance("my/model", stored_as, chat=False)
    assert str(provenance("my/model", folder)) == f"my/model, weights stored as {stored_as}"


def test_a_chat_model_is_told_by_its_template_or_its_name(tiny_folder: Path, tmp_path: Path) -> None:
    assert not provenance("x/base", tiny_folder).chat
    assert provenance("x/Some-Instruct", tiny_folder).chat
    folder = save_variant(tmp_path / "m", "llama-tied")
    for content, chat in (({"chat_template": "{{ x }}"}, True), ({"bos_token": "a"}, False), ([], False)):
        (folder / "tokenizer_config.json").write_text(json.dumps(content))
        assert provenance("x", folder).chat == chat
    (folder / "tokenizer_config.json").write_text("{")
    assert not provenance("x", folder).chat
    (folder / "chat_template.jinja").write_text("{{ x }}")
    assert provenance("x", folder).chat


@pytest.mark.parametrize(
    ("stored_as", "words"),
    [
        ("Q8_0", "rounded to 8 bits (Q8_0)"),
        ("IQ3_XXS", "rounded to 3 bits (IQ3_XXS)"),
        ("Q4_K", "rounded to 4 bits (Q4_K)"),
        ("MXFP4", "rounded to 4 bits (MXFP4)"),
        ("BF16", "stored as BF16"),
        ("F64", "stored as F64"),
    ],
)
def test_a_quantisation_is_given_in_bits(stored_as: str, words: str) -> None:
    assert str(Provenance("m", stored_as, chat=False)) == f"m, weights {words}"
