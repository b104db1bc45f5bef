"""The command compress: what it prints, exit codes, streams."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from featherweight.cli import app

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_llama import TEXTS
from tiny_stacks import save_tiny

from featherweight.engines.hf_open import open_model

pytestmark = pytest.mark.model

CUT = "depth:layers=4"
BOTH = "width:kv=1,ffn=64"
GPTQ = "gptq:bits=3,group=16"
JOINT = "joint:pattern=2:4,bits=8,group=32"
RTN = "rtn:bits=4,group=16"


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["compress", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    return result


def printed(*arguments: object) -> list[str]:
    result = call(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


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
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def recipes(*texts: str) -> list[str]:
    return [part for text in texts for part in ("--recipe", text)]


def manifest(folder: Path) -> dict:  # type: ignore[type-arg]
    found: dict = json.loads((folder / "manifest.json").read_text())  # type: ignore[type-arg]
    return found


def test_one_recipe(teacher: str, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "small"
    known = ("--calibrate", texts, "--length", 32)
    heads, row, note, opens = printed(teacher, *recipes(GPTQ), "--output", output, *known)
    assert heads.split("  ")[0] == "recipe"
    assert heads.split()[-4:] == ["was", "error", "without", "calibration"]
    found = manifest(output)
    layers = found["layers"]
    error, plain = (sum(one[key] for one in layers) / 42 for key in ("error", "error_rtn"))
    sizes = [f"{found[key] / 1e6:.1f}" for key in ("bytes", "bytes_model", "bytes_dense")]
    assert row.split() == [GPTQ, "42", "of", "42", *sizes, f"{error:.4f}", f"{plain:.4f}"]
    assert note.endswith("mode: sequential")
    assert opens == f"{output} opens as hf:{output}"
    open_model(str(output), __import__("torch").float32, "cpu")


def test_several_recipes_each_in_a_line_and_a_folder(
    teacher: str, texts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "small"
    how = ("--calibrate", texts, "--length", 32, "--output", output)
    lines = printed(teacher, *recipes(GPTQ, JOINT, RTN), *how)
    assert [line.split()[0] for line in lines[1:4]] == [GPTQ, JOINT, RTN]
    assert [line.split()[1:4] for line in lines[1:4]] == [["42", "of", "42"]] * 3
    assert lines[4].endswith("mode: shared")
    assert lines[5:] == [f"{output / r} opens as hf:{output / r}" for r in (GPTQ, JOINT, RTN)]
    other = tmp_path / "other"
    again = printed(teacher, *recipes(GPTQ), *how[:-1], other, "--shared")
    assert again[2].endswith("mode: shared")
    assert manifest(other) | {"seconds": 0} == manifest(output / GPTQ) | {"seconds": 0}


def test_without_texts_errors_are_not_measured(teacher: str, tmp_path: Path) -> None:
    lines = printed(teacher, *recipes(RTN), "--output", tmp_path / "small")
    assert lines[1].split()[-4:] == ["not", "measured", "not", "measured"]


def test_raised_damping_is_told(teacher: str, texts: Path, tmp_path: Path) -> None:
    from rich.console import Console

    from featherweight.compress import Made
    from featherweight.show_compress import print_made

    output = tmp_path / "small"
    printed(teacher, *recipes(GPTQ), "--output", output, "--calibrate", texts, "--length", 32)
    found = manifest(output)
    found["layers"][3]["damping"], found["layers"][5]["damping"] = 0.1, 0.03
    with (console := Console(width=200)).capture() as told:
        print_made(console, [Made(output, found)])
    assert (
        f"{GPTQ}: 2 layers needed more damping than 1 %, most {found['layers'][3]['name']} (10%); "
        "more calibration text helps."
    ) in told.get().splitlines()


def test_what_was_cut(teacher: str, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "student"
    lines = printed(teacher, *recipes(CUT, BOTH), "--calibrate", texts, "--output", output)
    depth, width = manifest(output / CUT), manifest(output / BOTH)
    layers = depth["layers"]["decoder"]
    gone = [
        f"{layer} ({influence:.4f})"
        for layer, influence in enumerate(layers["influence"])
        if layer not in layers["kept"]
    ]
    assert len(gone) == 2
    assert lines[0] == CUT
    assert lines[1] == f"decoder: 4 of 6 layers kept; gone, by influence: {', '.join(gone)}"
    before, after = depth["parameters"]["before"], depth["parameters"]["after"]
    assert lines[2].startswith(f"parameters: {before:,} → {after:,} (")
    assert lines[3:7] == [
        BOTH,
        "decoder: 6 of 6 layers kept",
        "neurons of an MLP: 128 → 64",
        "key-value groups of an attention: 2 → 1",
    ]
    assert f"→ {width['parameters']['after']:,} (" in lines[7]
    assert lines[8:] == [f"{output / r} opens as hf:{output / r}" for r in (CUT, BOTH)]


def test_json_is_the_manifests(teacher: str, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "small"
    how = ("--calibrate", texts, "--length", 32, "--output", output, "--json")
    found = json.loads("\n".join(printed(teacher, *recipes(RTN, CUT), *how)))
    assert found == [manifest(output / RTN), manifest(output / CUT)]
    assert [one["recipe"] for one in found] == [RTN, CUT]


def test_t5_needs_targets(texts: Path, tmp_path: Path) -> None:
    teacher = f"hf:{save_tiny('t5', tmp_path / 'teacher')}"
    how = (*recipes(GPTQ), "--output", tmp_path / "small")
    assert "is an encoder-decoder" in refused(1, teacher, "--calibrate", texts, *how)
    rows = tmp_path / "rows.csv"
    rows.write_text("prompt,target\nSummarize this.,It is short.\nAnd this.,It is shorter.\n")
    assert "less than one sequence" in refused(1, teacher, "--calibrate", rows, *how)
    how = (*how, "--length", 8)
    assert printed(teacher, "--calibrate", rows, *how)[1].split()[1:4] == ["86", "of", "86"]


def test_wrong_usage(teacher: str, texts: Path, tmp_path: Path) -> None:
    known = ("--calibrate", texts, "--output", tmp_path / "small")
    assert "'awq' is not known" in refused(2, teacher, *recipes("awq:bits=4"), *known)
    assert "bits=5 does not fit" in refused(2, teacher, *recipes("rtn:bits=5"), *known)
    twice = refused(1, teacher, *recipes(RTN, CUT, RTN), *known)
    assert twice == f"error: {RTN} is named twice; name each recipe once."
    assert "leave --length out" in refused(2, teacher, *recipes(CUT), *known, "--length", 32)
    assert "leave --sequential and" in refused(2, teacher, *recipes(CUT), *known, "--shared")
    unread = refused(2, teacher, *recipes(RTN), *known[2:], "--length", 32)
    assert unread == "error: --length is of texts; add --calibrate, or leave it out."
    assert "choose auto, fp32 or bf16" in refused(
        1, teacher, *recipes(RTN), *known, "--dtype", "int8"
    )
    assert "neither a task nor a file" in refused(
        2, teacher, *recipes(RTN), "--calibrate", "nothing", *known[2:]
    )
    assert "add --data DIR" in refused(
        2, teacher, *recipes(RTN), "--calibrate", "qmsum", *known[2:]
    )
    assert "no engine" in refused(2, "nonsense", *recipes(RTN), *known)
    result = call(teacher, *known)
    assert result.exit_code == 2 and "Missing option '--recipe'" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_what_cannot_be_done(teacher: str, texts: Path, tmp_path: Path) -> None:
    known = ("--calibrate", texts, "--output", tmp_path / "small")
    misfit = refused(1, teacher, *recipes("gptq:bits=4"), *known)
    assert "groups that fit every layer are 16, 32." in misfit
    assert "must read texts" in refused(1, teacher, *recipes(GPTQ), *known[2:])
    assert "less than one sequence of 256" in refused(
        1, teacher, *recipes(GPTQ), "--limit", 1, *known
    )
    assert "9 layers cannot be kept of 6" in refused(1, teacher, *recipes("depth:layers=9"), *known)
    assert "the nearest is kv=1" in refused(1, teacher, *recipes("width:kv=4"), *known)
    assert "is a server" in refused(1, "openai:http://localhost:1/v1#m", *recipes(RTN), *known)
    assert "not empty" in refused(1, teacher, *recipes(RTN), "--output", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_stopped_by_hand_it_says_how_to_go_on(
    teacher: str, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featherweight.compress as room

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room, "compress", stopped)
        result = call(teacher, *recipes(RTN), "--output", tmp_path / "small")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "stopped; the same command goes on where it was.\n"
