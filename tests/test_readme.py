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


@pytest.mark.e2e
@pytest.mark.model
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command: str, tmp_path: Path) -> None:
    command = command.replace(".venv/bin/", "").replace("summaries", str(tmp_path / "summaries"))
    if command == "make demo":  # the same command without the set-up, which CI did already
        recipe = re.search(r"^demo:.*\n\t@\$\(BIN\)/(.*)$", (ROOT / "Makefile").read_text(), re.M)
        meeting = re.search(r"^MEETING := (.*)$", (ROOT / "Makefile").read_text(), re.M)
        assert recipe and meeting
        command = recipe[1].replace("$(MEETING)", meeting[1])
    done = subprocess.run(
        shlex.split(command), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "summarize" in command and "--output-dir" not in command:
        assert "●" in done.stdout and "smollm2-135m ·" in done.stdout
    if "--output-dir" in command:
        assert (tmp_path / "summaries" / "standup.html").stat().st_size > 1000


@pytest.mark.e2e
@pytest.mark.model
@pytest.mark.parametrize("code", blocks("python"))
def test_every_piece_of_python_runs(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "True" in done.stdout


def test_every_link_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_what_is_there_was_found() -> None:
    assert "make demo" in COMMANDS and len(COMMANDS) >= 8 and len(blocks("python")) >= 1
