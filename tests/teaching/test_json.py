"""A lesson as JSON: strict, complete, harmless to print, never half written."""

import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

from tests.teaching.report_samples import HOSTILE, document, pattern
from tinymi.errors import InputError
from tinymi.teaching.report import items
from tinymi.teaching.report import json as data
from tinymi.text import Token

import numpy as np
import pytest


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numpy_values_and_what_is_no_number() -> None:
    fields = {"a": np.float32(0.5), "b": np.arange(3), "c": float("nan"), "d": [np.inf, (1,)], "e": {1: np.bool_(True)}}
    made = strict(data.to_json(document(), fields))
    assert {name: made[name] for name in fields} == {
        "a": 0.5,
        "b": [0, 1, 2],
        "c": None,
        "d": [None, [1]],
        "e": {"1": True},
    }


def test_everything_said_is_in_it() -> None:
    whole = document()
    made = strict(data.to_json(whole, {}))
    assert made["lesson"] == whole.title
    assert made["model"] == whole.model
    assert [entry["kind"] for entry in made["report"]] == [item.kind for item in whole.items]
    for entry, item in zip(made["report"], whole.items):
        assert set(entry) >= {field.name for field in dataclasses.fields(item)}
    assert made["checks"][0] == {"name": whole.items[-5].name, "error": 1e-7, "tolerance": 1e-5, "passed": True}  # type: ignore[attr-defined]
    assert [check["passed"] for check in made["checks"]] == [True, False]
    assert [finding["established"] for finding in made["findings"]] == [True, False]


def test_a_headline_names_its_picture_by_its_place_in_the_report() -> None:
    bars = items.Bars(("a",), {"": (0.5,)})
    made = strict(data.to_json(document(bars, items.Headline("b", bars), items.Headline("none")), {}))
    *_, shown, alone = made["report"]
    assert made["report"][shown["picture"]]["labels"] == ["a"]
    assert alone["picture"] is None


def test_a_step_holds_its_numbers_at_every_place() -> None:
    where = {"position": ([Token(" a"), "b"], -1)}
    step = items.Step("q", "m", "", (), "", (), 0, *items.make_choices(where, [[0.1, 2], [3, np.nan]]), False)
    made = strict(data.to_json(document(step), {}))["report"][-1]
    assert made["numbers"] == [[0.1, 2.0], [3.0, None]]
    assert made["where"] == [{"axis": "position", "places": [" a", "b"], "first": 1}]


def test_tokens_and_patterns_come_back_as_they_were() -> None:
    table = items.make_table(["token"], [[Token(text)] for text in HOSTILE], "", {})
    patterns = pattern(2, 7)
    made = strict(data.to_json(document(table, items.make_attention(HOSTILE, patterns, "", None)), {}))
    assert [row[0] for row in made["report"][-2]["rows"]] == list(HOSTILE)
    np.testing.assert_allclose(made["report"][-1]["patterns"]["0"], patterns, atol=1e-5)


def test_no_control_character_is_raw_in_the_file() -> None:
    text = data.to_json(document(), {"x": "".join(map(chr, range(0x110))) + "\u202e\u2066\ufeff"})
    assert not [
        char for char in text if (ord(char) < 32 and char != "\n") or char in "\x1b\x7f\x9b\u202e\u2066\ufeff\ud800"
    ]
    text.encode("utf-8")
    assert "é" in data.to_json(document(), {"x": "é"})


def test_the_frames_own_fields_cannot_be_overwritten() -> None:
    with pytest.raises(ValueError, match="checks"):
        data.to_json(document(), {"checks": []})


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    data.write_text(str(path), "old")
    path.chmod(0o640)

    def fail(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(InputError, match=r"x\.json: cannot be written \(no room\)"):
            data.write_text(str(path), "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    data.write_text(str(path), "né")
    assert path.read_text("utf-8") == "né"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    data.write_text(str(tmp_path / "link"), "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "x"
    data.require_writable(os.devnull, "--json")
    data.write_text(os.devnull, "x")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("name", [".", "absent/x.json", "file/x.json"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^--json .*(folder|written)"):
        data.require_writable(str(tmp_path / name), "--json")
