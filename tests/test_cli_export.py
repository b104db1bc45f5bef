"""The command export: what it prints, exit codes, and one sentence where it refuses."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("gguf")

from tiny_llama import save_tiny_llama, save_tiny_lora

from featherweight.cli import app

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_lora(tmp_path_factory.mktemp("lora"), base)


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def printed(*arguments: object) -> str:
    result = call(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refused(code: int, *arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == code and result.stdout == "", result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(".")
    return line


def test_safetensors_are_what_is_written_unless_asked(lora: Path, tmp_path: Path) -> None:
    first, merged, again = printed(lora, "--output", tmp_path / "out").splitlines()
    assert first == f"{tmp_path / 'out'}: safetensors, f32, 0.2 MB"
    assert merged.startswith("merged in float32: logits differ by at most ")
    assert again.startswith("opened again: logits differ by at most ")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_gguf_file(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    out = tmp_path / "out.gguf"
    first, checked, note = printed(
        base, "--output", out, "--format", "gguf", "--type", "q8_0"
    ).splitlines()
    assert first == f"{out}: gguf, q8_0, 0.1 MB"
    assert checked.startswith("in llama.cpp: log-probabilities differ by ")
    assert (
        note == "note: 2 matrices are F16, their rows are no multiple of 32 (blk.0.ffn_down.weight)"
    )


def test_json(lora: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    out = tmp_path / "out.gguf"
    text = printed(lora, "--output", out, "--format", "gguf", "--adapter", "--json")
    found = json.loads(text)
    assert found["path"] == str(out) and found["bytes"] == out.stat().st_size
    assert (found["format"], found["type"], found["notes"]) == ("gguf-adapter", "f32", [])
    assert 0 < found["check"]["mean"] < found["check"]["maximum"] < 0.2
    assert found["merge_difference"] is None and found["written_difference"] is None


def test_wrong_usage(lora: Path, tmp_path: Path) -> None:
    out = ("--output", tmp_path / "out")
    assert "belong to --format gguf" in refused(2, lora, *out, "--adapter")
    assert "belong to --format gguf" in refused(2, lora, *out, "--like", "a.gguf")
    assert "not written as q8_0; choose f16, bf16" in refused(2, lora, *out, "--type", "q8_0")
    gguf = ("--format", "gguf", "--adapter", "--type", "q8_0")
    assert "choose f32, f16, bf16" in refused(2, lora, *out, *gguf)
    assert list(tmp_path.iterdir()) == []


def test_what_fails(base: Path, tmp_path: Path) -> None:
    out = ("--output", tmp_path / "out")
    assert "is not a directory" in refused(1, tmp_path / "nothing", *out)
    assert "not a LoRA adapter" in refused(1, base, *out, "--format", "gguf", "--adapter")
    (tmp_path / "out").write_text("mine")
    assert "is there already" in refused(1, base, *out)


def test_without_torch(lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith("featherweight.distill")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    line = refused(1, lora, "--output", tmp_path / "out")
    assert "pip install 'featherweight[train]'" in line


def test_stopped(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from featherweight.distill import export

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "open_merged", stop)
    result = call(base, "--output", tmp_path / "out")
    assert result.exit_code == 130 and result.stderr == "stopped; nothing was written.\n"
