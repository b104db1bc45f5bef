"""From a task's name to its examples."""

from pathlib import Path

import pytest

from featherweight.errors import DataError
from featherweight.tasks import TASKS, load_task
from featherweight.tasks.choice import SETS

HERE = ("qmsum", "qmsum-instruct", "creak", "strategyqa", "pubmedqa", "wikitext2")


@pytest.fixture
def data(root: Path) -> Path:
    return root / "examples" / "data"


@pytest.mark.parametrize("name", [*HERE, "wikitext2-tokens"])
def test_the_samples_are_a_data_directory(data: Path, name: str) -> None:
    task = load_task(name, data)
    assert task.name == name and task.examples
    assert task.kind == (
        "choice" if name in SETS else "text" if name.startswith("wiki") else "summary"
    )
    assert task.settings["split"] == "val" and len(task.settings["data_sha256"]) == 64
    assert len({example.id for example in task.examples}) == len(task.examples)


def test_options_reach_the_task(data: Path) -> None:
    assert load_task("qmsum", data, words=50, input="gold").settings["words"] == 50
    assert load_task("qmsum", data, locator="bm25").settings["locator"] == "bm25"
    assert all("/s" in e.id for e in load_task("qmsum", data, input="gold").examples)
    assert load_task("creak", data, how="generation").max_tokens > 0
    assert load_task("creak", data).max_tokens == 0
    for name in ("creak", "wikitext2"):
        assert len(load_task(name, data, limit=2).examples) == 2
    assert len(load_task("qmsum-instruct", data, limit=2, words=70).examples) == 3
    assert load_task("wikitext2-tokens", data, limit=2).settings["limit"] == 2
    with pytest.raises(DataError, match="no test"):
        load_task("creak", data, split="test")


@pytest.mark.parametrize("name", TASKS)
def test_a_task_needs_its_data(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} reads its data from a directory; add --data DIR"):
        load_task(name)
    with pytest.raises(DataError, match=r"github\.com/"):
        load_task(name, tmp_path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own"
    path.write_text('{"prompt": "Hi", "target": "Ho"}\n{"prompt": "Hm", "target": "Ha"}\n')
    assert len(load_task(str(path)).examples) == 2  # without a suffix too
    assert load_task(str(path), limit=1).examples[0].target == "Ho"
    with pytest.raises(DataError, match=r"cannot read .*missing\.jsonl"):
        load_task(str(tmp_path / "missing.jsonl"))


def test_an_unknown_name() -> None:
    with pytest.raises(DataError, match="'creaks' is neither a task nor a file") as error:
        load_task("creaks")
    assert all(name in str(error.value) for name in TASKS)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("qmsum", {"how": "generation"}, "--how"),
        ("qmsum", {"references": Path("r")}, "--references"),
        ("qmsum-instruct", {"input": "full"}, "--input"),
        ("creak", {"words": 3}, "--words"),
        ("qmsum-instruct", {"locator": "bm25"}, "--locator"),
        ("wikitext2", {"how": "generation"}, "--how"),
        ("own.jsonl", {"split": "test"}, "--split"),
        ("own.jsonl", {"data": Path("d")}, "--data"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(name: str, options: dict, named: str) -> None:
    with pytest.raises(DataError, match=f"{name} does not read {named}; leave it out"):
        load_task(name, **{"data": None, **options})
