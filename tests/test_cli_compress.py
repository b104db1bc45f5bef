"""The command prune: what it prints, exit codes, streams."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from featherweight.cli import app

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_stacks import save_tiny

pytestmark = pytest.mark.model


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["prune", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


def refused(code: int, *arguments: object) -> str:
    """The one sentence on standard error; standard output stays clean."""
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(".")
    return line


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"hf:{save_tiny('llama', tmp_path_factory.mktemp('teacher'))}"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "The meeting was short."}\n{"text": "Nobody objected."}\n')
    return path


def test_what_it_prints(teacher: str, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "student"
    how = ("--texts", texts, "--output", output, "--drop-layers", 3, "--width", 0.5)
    result = call(teacher, *how)
    assert (result.exit_code, result.stderr) == (0, "")
    manifest = json.loads((output / "manifest.json").read_text())
    kept = manifest["layers"]["decoder"]["kept"]
    lines = result.stdout.splitlines()
    for layer, value in enumerate(manifest["layers"]["decoder"]["influence"]):
        cells = lines[1 + layer].split()
        assert cells[:2] == [str(layer), f"{value:.4f}"]
        assert (cells[2:] == ["dropped"]) == (layer not in kept)
    assert f"decoder: 3 of 6 layers kept: {', '.join(map(str, kept))}" in lines
    assert "MLP neurons of a layer: 64 → 32" in lines
    after = manifest["parameters"]["after"]
    assert any(line.startswith("parameters: ") and f"{after:,}" in line for line in lines)


def test_json_is_the_manifest(teacher: str, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "student"
    result = call(teacher, "--texts", texts, "--output", output, "--keep-layers", 4, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads((output / "manifest.json").read_text())


def test_t5_needs_targets(texts: Path, tmp_path: Path) -> None:
    teacher = f"hf:{save_tiny('t5', tmp_path / 'teacher')}"
    output = ("--output", tmp_path / "student")
    line = refused(1, teacher, "--texts", texts, *output, "--keep-layers", 3)
    assert "is an encoder-decoder" in line
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,target\nSummarize this.,It is short.\n")
    result = call(teacher, "--texts", rows, *output, "--keep-layers", 3)
    assert result.exit_code == 0 and "encoder: 3 of 6 layers kept: 0, " in result.stdout
    assert "decoder: 3 of 5 layers kept: 0, " in result.stdout


def test_refusals(teacher: str, texts: Path, tmp_path: Path) -> None:
    output = ("--output", tmp_path / "student")
    known = ("--texts", texts, *output)
    assert "nothing to cut" in refused(2, teacher, *known)
    both = ("--keep-layers", 3, "--drop-layers", 3)
    assert "give one of them" in refused(2, teacher, *known, *both)
    assert "neither a task nor a file" in refused(
        2, teacher, "--texts", "nothing", *output, "--width", 0.5
    )
    assert "add --data DIR" in refused(2, teacher, "--texts", "qmsum", *output, "--width", 0.5)
    assert "no engine" in refused(2, "nonsense", *known, "--width", 0.5)
    assert "9 layers cannot be kept of 6" in refused(1, teacher, *known, "--keep-layers", 9)
    assert "no share of the neurons" in refused(1, teacher, *known, "--width", 2)
    assert "not empty" in refused(
        1, teacher, "--texts", texts, "--output", tmp_path, "--width", 0.5
    )
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]
