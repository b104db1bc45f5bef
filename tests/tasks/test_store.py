"""A run's folder: what is there stays, and only the same run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from featherweight.errors import OutputError
from featherweight.tasks.store import MANIFEST, PREDICTIONS, Store, locked

pytest.importorskip("filelock")

RUN = {
    "command": "eval",
    "task": "t",
    "settings": {"words": 9, "lengths": (1, 2)},
    "model": {"w": 1},
}


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / PREDICTIONS).read_bytes().splitlines()]


def test_rows_are_written_at_once_and_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path, RUN)
    assert store.rows == {}
    store.add({"id": "a", "prediction": "1\n2"})
    assert rows(tmp_path) == [{"id": "a", "prediction": "1\n2"}]  # before it is closed
    store.add({"id": "b", "prediction": "\u2028"})
    store.close()
    again = Store(tmp_path, RUN)
    assert list(again.rows) == ["a", "b"] and again.rows["b"]["prediction"] == "\u2028"
    again.add({"id": "c"})
    again.close()
    assert [row["id"] for row in rows(tmp_path)] == ["a", "b", "c"]


def test_the_manifest_says_what_the_run_is_before_any_row(tmp_path: Path) -> None:
    Store(tmp_path, RUN).close()
    assert json.loads((tmp_path / MANIFEST).read_bytes()) == {"run": json.loads(json.dumps(RUN))}
    store = Store(tmp_path, RUN)
    store.write_manifest({"run": RUN, "metrics": {"x": 1.5}})
    store.close()
    assert json.loads((tmp_path / MANIFEST).read_bytes())["metrics"] == {"x": 1.5}
    Store(tmp_path, RUN).close()  # a finished run is continued as well


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_cut_off_last_line_is_dropped(tmp_path: Path, kept: int) -> None:
    store = Store(tmp_path, RUN)
    store.add({"id": "a"})
    store.close()
    path = tmp_path / PREDICTIONS
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id":"b"}\n'[:kept])
    store = Store(tmp_path, RUN)
    assert list(store.rows) == (["a", "b"] if kept == 11 else ["a"])
    store.add({"id": "c"})
    store.close()
    assert path.read_bytes() == whole + (b'{"id":"b"}\n' if kept == 11 else b"") + b'{"id":"c"}\n'


@pytest.mark.parametrize(
    "line", ["nonsense", "[1]", '{"prediction": "x"}', '"id"', "3", "null", ""]
)
def test_a_line_that_is_no_row_is_refused(tmp_path: Path, line: str) -> None:
    store = Store(tmp_path, RUN)
    store.add({"id": "a"})
    store.close()
    path = tmp_path / PREDICTIONS
    before = path.read_bytes() + f'{line}\n{{"id": "b"}}\n'.encode()
    path.write_bytes(before)
    with pytest.raises(OutputError, match=r"predictions\.jsonl line 2: not a row of a run"):
        Store(tmp_path, RUN)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "u"}, r"\(task differ\)"),
        ({"model": {"w": 2}}, r"\(model differ\)"),
        ({"settings": {"words": 10}, "task": "u"}, r"\(settings, task differ\)"),
        ({"more": 1}, r"\(more differ\)"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    store = Store(tmp_path, RUN)
    store.add({"id": "a"})
    store.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match=f"holds another run {named}"):
        Store(tmp_path, RUN | change)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with pytest.raises(OutputError, match="holds another run"):
        Store(tmp_path, {key: RUN[key] for key in RUN if key != "model"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (PREDICTIONS, b'{"id": "a"}\n', "without a manifest"),
        (MANIFEST, b"{", "cannot read"),
        (MANIFEST, b'{"command": "summarize"}', "belongs to something else"),
        (MANIFEST, b"[]", "belongs to something else"),
    ],
)
def test_a_folder_of_something_else(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError, match=message):
        Store(tmp_path, RUN)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == content


# ---- the lock


def test_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with locked(folder):
        with pytest.raises(OutputError, match="another run is writing there"), locked(folder):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(folder):
        pass
    with pytest.raises(ZeroDivisionError), locked(folder):
        raise ZeroDivisionError
    with locked(folder):
        pass


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), locked(tmp_path / "file"):
        pass


# ---- processes

ANSWERS = 8
SCRIPT = """
import sys, time
from pathlib import Path
from scripted import ScriptedEngine
from featherweight.engines import Request
from featherweight.tasks.run import run_task
from featherweight.tasks.store import Store, locked
from featherweight.tasks.types import Example, Task

folder, log, stuck = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def answer(request, before):
    with log.open("a") as file:
        file.write(request.prompt + "\\n")
    if len(log.read_text().splitlines()) == stuck:
        time.sleep(300)
    return "said " + request.prompt

examples = tuple(Example(f"e{n}", f"question {n}", "said question", "g") for n in range(8))
task = Task("t", "summary", examples, 5)
with locked(folder):
    store = Store(folder, {"task": "t"})
    outcome = run_task(task, ScriptedEngine(answer), store)
    store.close()
print(len(outcome.rows))
"""


def start(folder: Path, log: Path, stuck: int = -1) -> "subprocess.Popen[str]":
    here = Path(__file__).parent.parent
    paths = [str(here), str(here.parent / "src")]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder), str(log), str(stuck)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )


def asked(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def wait_for(log: Path, questions: int) -> None:
    deadline = time.monotonic() + 60
    while len(asked(log)) < questions and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(asked(log)) >= questions


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    """What was stored, without how long it took; each example once."""
    found = rows(folder)
    assert len({row["id"] for row in found}) == len(found)
    return {row["id"]: {k: row[k] for k in row if k != "wall"} for row in found}


@pytest.mark.e2e
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_in_the_middle_and_continued(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole", tmp_path / "whole.log")
    assert whole.communicate(timeout=60)[0] == f"{ANSWERS}\n"

    folder, log = tmp_path / "cut", tmp_path / "cut.log"
    running = start(folder, log, stuck=4)
    wait_for(log, 4)
    second = start(folder, tmp_path / "second.log")
    _, stderr = second.communicate(timeout=60)
    assert running.poll() is None
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    assert second.returncode == 1 and "another run is writing there" in stderr
    assert asked(tmp_path / "second.log") == []

    done = [row["id"] for row in rows(folder)]
    assert len(done) == 3
    before = asked(log)
    with (folder / PREDICTIONS).open("ab") as file:
        file.write(b'{"id": "e7", "predi')  # cut off while writing
    again = start(folder, log)
    assert again.communicate(timeout=60)[0] == f"{ANSWERS}\n"
    later = asked(log)[len(before) :]
    assert len(later) == ANSWERS - len(done)
    assert not {f"e{question.split()[1]}" for question in later} & set(done)
    assert kept(folder) == kept(tmp_path / "whole")
    references = "references.jsonl"
    assert (folder / references).read_bytes() == (tmp_path / "whole" / references).read_bytes()
