"""studies/cascade/online.py on small made-up logs: five orders, one shift, a table and its data."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from question_streams import made

from featherweight.cascade.log import write_log
from featherweight.cascade.types import Log
from featherweight.tasks import load_task

SCRIPT = Path(__file__).parent.parent / "studies" / "cascade" / "online.py"
N = 130


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two domains as two files of the user's own, and a log of each."""
    folder = tmp_path_factory.mktemp("study")
    log, examples = made(2 * N, domains=2)
    paths = []
    for number in (0, 1):
        rows = [row for row in log.rows if row.group == f"domain {number}"]
        data = folder / f"domain-{number}.jsonl"
        asked = [examples[row.id] for row in rows]
        data.write_text(
            "".join(
                json.dumps({"id": e.id, "prompt": e.prompt, "choices": e.choices, **e.meta}) + "\n"
                for e in asked
            )
        )
        task = load_task(str(data), how="generation")
        extra = {"task": task.name, "settings": dict(task.settings)}
        path = folder / f"log-{number}.jsonl"
        write_log(Log(log.metric, log.models, tuple(rows), extra=extra), path)
        paths.append(path)
    return paths


def study(logs: list[Path], out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--data", str(logs[0].parent), "--out", str(out)]
    command += ["--price", "0.1", "0.3", *more, "--log", *map(str, logs)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def commonest(logs: list[Path]) -> float:
    """How many of 100 are right who always say what is most often right in a domain."""
    right = 0
    for number in range(len(logs)):
        asked = load_task(str(logs[0].parent / f"domain-{number}.jsonl"), how="generation").examples
        said = [one.target for one in asked]
        right += max(said.count(target) for target in set(said))
    return 100 * right / (2 * N)


@pytest.mark.e2e
def test_five_orders_and_what_they_are_compared_with(logs: list[Path], tmp_path: Path) -> None:
    done = study(logs, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "out" / "online.json").read_text())
    assert sum(data["n"].values()) == 2 * N and list(data["n"]) == [
        "domain-0.jsonl",
        "domain-1.jsonl",
    ]
    assert list(data["prices"]) == ["0.1", "0.3"]
    orders = ["shuffle 0", "shuffle 1", "shuffle 2", "shuffle 3", "shift"]
    for part in data["prices"].values():
        systems = part["systems"]
        assert len(systems) == 7 and all(list(one) == orders for one in systems.values())
        best = systems["best fixed threshold in hindsight (mean)"]
        wider = systems["best fixed score and threshold in hindsight"]
        assert all(numbers["regret"] == 0 for numbers in best.values())
        assert all(numbers["regret"] <= 1e-9 for numbers in wider.values())
        blind = systems["each task's commonest answer, for nothing"]["shift"]
        assert blind["quality"] == pytest.approx(commonest(logs)) and blind["cost"] == 0
        large = systems["always large"]["shift"]
        assert large["cost"] == pytest.approx(100) and large["agreement"] == 100
        for order in orders:
            curve, numbers = part["curves"][order], systems["learner"][order]
            assert curve[-1]["requests"] == 2 * N
            assert curve[-1]["regret"] == pytest.approx(numbers["regret"])
        assert len({numbers["regret"] for numbers in systems["learner"].values()}) > 1
    page = (tmp_path / "out" / "online.md").read_text()
    assert page == done.stdout.removesuffix("\n") and page.count("| learner |") == 2
    again = study(logs, tmp_path / "again")
    assert again.stdout == done.stdout  # seeded


@pytest.mark.e2e
def test_other_data_are_refused(logs: list[Path], tmp_path: Path) -> None:
    moved = tmp_path / "data"
    moved.mkdir()
    for number in (0, 1):
        name = f"domain-{number}.jsonl"
        (moved / name).write_text((logs[0].parent / name).read_text() + "\n")
    paths = []
    for path in logs:
        paths.append(moved / path.name)
        paths[-1].write_bytes(path.read_bytes())
    done = study(paths, tmp_path / "out")
    assert done.returncode == 1 and "is not the data that" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_shift_has_one_domain_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import online

    domains = ["b", "a", "b", "c", "a", "b"]
    found = online.orders(domains)
    assert list(found) == ["shuffle 0", "shuffle 1", "shuffle 2", "shuffle 3", "shift"]
    assert all(sorted(order) == list(range(6)) for order in found.values())
    assert [domains[row] for row in found["shift"]] == ["b", "b", "b", "a", "a", "c"]
    assert len({tuple(order) for order in found.values()}) == 5
