"""The README is a promise: every command in it runs, every link leads somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


COMMANDS = [
    line.removeprefix("$ ")
    for block in blocks("console")
    for line in block.splitlines()
    if line.startswith("$ ")
]


def environment() -> dict[str, str]:
    """The commands' `.venv/bin` is this environment's, so that the test needs no other set-up."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def recipe(target: str) -> list[str]:
    """The commands of a make target, without the set-up, which CI did already."""
    makefile = (ROOT / "Makefile").read_text()
    variables = dict(re.findall(r"^(\w+) := (.*)$", makefile, re.MULTILINE))
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert lines
    commands = lines[1].replace("\t@$(BIN)/", "").splitlines()
    return [re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], line) for line in commands]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's commands write; later ones read what earlier ones wrote."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.e2e
@pytest.mark.model
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str, folder: Path) -> None:
    commands = recipe(command.removeprefix("make ")) if command.startswith("make ") else [command]
    for one in commands:
        one = one.replace(".venv/bin/", "")
        one = re.sub(r"\b(summaries|runs)\b", lambda name: str(folder / name[1]), one)
        done = subprocess.run(
            shlex.split(one), cwd=ROOT, env=environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        if "summarize" in one and "--output-dir" not in one:
            assert "●" in done.stdout and "smollm2-135m-meetings ·" in done.stdout
        if "--output-dir" in one:
            assert (folder / "summaries" / "standup.html").stat().st_size > 1000
        if one.startswith(("featherweight eval", "featherweight score", "featherweight compare")):
            assert "ROUGE-Lsum" in done.stdout and "95% CI" in done.stdout
        if "--plot" in one:
            assert (folder / "runs" / "tradeoff.png").stat().st_size > 10_000


@pytest.mark.e2e
@pytest.mark.model
@pytest.mark.parametrize("code", blocks("python"))
def test_every_piece_of_python_runs(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # what the model says, and so what is supported, may differ between processors
    for line in done.stdout.splitlines() or [""]:
        assert re.fullmatch(r"(True|False) \S.* \[\d+(, \d+)*\]", line)


@pytest.mark.e2e
@pytest.mark.model
def test_the_python_of_the_evaluation_guide_runs(folder: Path) -> None:
    guide = (ROOT / "docs" / "evaluation.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)
    code = code.replace("runs/python", str(folder / "python"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("{}")  # nothing failed


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    for link in links:
        file, _, anchor = link.partition("#")
        assert (ROOT / file).exists() if file else anchor in headings, link


def test_what_is_there_was_found() -> None:
    assert "make demo" in COMMANDS and len(COMMANDS) >= 8 and len(blocks("python")) >= 1
