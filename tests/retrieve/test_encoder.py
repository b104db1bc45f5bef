import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders

from featherweight.errors import EngineError
from featherweight.retrieve import FittedLocator, Locator, open_locator
from featherweight.retrieve.encoder import SETTINGS, columns, read_settings
from featherweight.retrieve.fitted import staged

GOOD = {
    "windows": [100, 50],
    "max_tokens": 40,
    "first": {"": -1.0, "meaning 2": 2.0, "lexical": 0.5},
    "second": {"": 0.1, "meaning": 1.0, "lexical": 0.3, "likely 2": 0.7},
}
QUERY = "What did the team decide?"
WINDOWS = ["Ann: we postpone", "Bob: the budget. " * 30, "Ann: a remote control", "", "Cem: café"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tiny_encoders.bert(tmp_path_factory.mktemp("encoder"))
    (found / SETTINGS).write_text(json.dumps(GOOD))
    return found


@pytest.mark.model
def test_its_score_is_the_encoders_and_the_embedded_one_together(folder: Path) -> None:
    locator: Locator = open_locator(str(folder))
    assert (locator.window, locator.stride) == (100, 50)
    found = locator.scores(QUERY, WINDOWS)
    assert found.shape == (5,) and found.dtype == np.float32
    meaning = locator.meaning(QUERY, WINDOWS)  # type: ignore[attr-defined]
    assert len(set(meaning)) == 5 and abs(meaning).max() <= 1.0001
    both = columns(meaning, FittedLocator().scores(QUERY, WINDOWS))
    np.testing.assert_allclose(found, staged(both, GOOD["first"], GOOD["second"]), rtol=1e-5)
    assert locator.scores(QUERY, []).shape == (0,)
    assert locator.scores("word " * 200, WINDOWS).shape == (5,)  # a query above max_tokens


@pytest.mark.model
def test_windows_are_embedded_once_for_all_questions(folder: Path) -> None:
    locator = open_locator(str(folder))
    alone = open_locator(str(folder)).scores("Who?", WINDOWS)
    asked: list[int] = []
    embedded = locator.embedded  # type: ignore[attr-defined]
    locator.embedded = lambda texts: asked.append(len(texts)) or embedded(texts)  # type: ignore
    locator.scores(QUERY, WINDOWS)
    np.testing.assert_array_equal(locator.scores("Who?", WINDOWS), alone)
    locator.scores(QUERY, WINDOWS[:2])
    assert sorted(asked) == [1, 1, 1, 2, 5]


@pytest.mark.model
def test_a_batch_is_as_one_by_one(folder: Path) -> None:
    locator = open_locator(str(folder))
    many = WINDOWS * 8
    together = locator.embedded(many)  # type: ignore[attr-defined]
    alone = [locator.embedded([text])[0] for text in many]  # type: ignore[attr-defined]
    np.testing.assert_allclose(together, alone, atol=0.05)  # bf16 on some machines


@pytest.mark.model
def test_its_name_tells_weights_and_settings(folder: Path, tmp_path: Path) -> None:
    name = open_locator(str(folder)).name
    assert name.startswith("encoder:") and len(name) == len("encoder:") + 64
    assert open_locator(str(folder)).name == name
    copy = tiny_encoders.bert(tmp_path)
    (copy / SETTINGS).write_text(json.dumps(GOOD | {"max_tokens": 30}))
    assert open_locator(str(copy)).name != name


@pytest.mark.model
def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    tiny_encoders.bert(tmp_path)
    (tmp_path / SETTINGS).write_text(json.dumps(GOOD))
    tiny_encoders.change_config(tmp_path, num_hidden_layers=4)
    with pytest.raises(EngineError, match=r"is no whole locator: .* copy the directory again"):
        open_locator(str(tmp_path))


@pytest.mark.model
def test_broken_weights_are_one_sentence(tmp_path: Path) -> None:
    tiny_encoders.bert(tmp_path)
    (tmp_path / SETTINGS).write_text(json.dumps(GOOD))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(EngineError, match="cannot be opened: "):
        open_locator(str(tmp_path))


@pytest.mark.parametrize("lacking", ["locator.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, lacking: str) -> None:
    for file in {"locator.json", "model.safetensors", "config.json", "tokenizer.json"} - {lacking}:
        (tmp_path / file).touch()
    with pytest.raises(EngineError, match=f"is no trained locator: it has no {lacking}; give"):
        open_locator(str(tmp_path))


def without(key: str) -> dict:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    "wrong",
    [
        "no json",
        "[]",
        *(json.dumps(without(key)) for key in GOOD),
        json.dumps(GOOD | {"windows": [50, 100]}),
        json.dumps(GOOD | {"windows": [100.5, 50]}),
        json.dumps(GOOD | {"max_tokens": "40"}),
        json.dumps(GOOD | {"first": {"meaning": 1.0}}),
        json.dumps(GOOD | {"second": {"": "1"}}),
        json.dumps(GOOD | {"second": {"": 0.0, "near": 1.0}}),
        json.dumps(GOOD | {"second": [1]}),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / SETTINGS
    path.write_text(wrong)
    with pytest.raises(EngineError, match="is not as training writes it; copy the directory again"):
        read_settings(path)


def test_without_torch_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / file).touch()
    (tmp_path / SETTINGS).write_text(json.dumps(GOOD))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match=r"needs torch .* install featherweight\[train\]"):
        open_locator(str(tmp_path))
