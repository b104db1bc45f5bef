"""QMSum-instruct: three lengths a meeting, human references or an engine's."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.tasks.instruct import LENGTHS, prompt, qmsum_instruct
from featherweight.tasks.qmsum import ODD, clipped, meetings, spoken, spread


@pytest.fixture
def data(root: Path) -> Path:
    return root / "examples" / "data"


def written(path: Path, names: list[str], **change: Any) -> Path:
    """A run's predictions."""
    rows = [
        {"id": name, "prediction": f"Summary {name}.", "model": "m"}
        | {"prompt_sha256": "abc", "date": "2026-01-31"}
        | change
        for name in names
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_three_lengths_a_meeting(data: Path) -> None:
    task = qmsum_instruct(data, words=200)
    assert [example.id for example in task.examples] == [
        f"{meeting}/{length}"
        for meeting in ("IS1006a", "TS3010a")
        for length in ("short", "medium", "long")
    ]
    row = meetings(data, "val")[0][0]
    turns = spoken(row)
    text = clipped(turns, spread(turns, 200), 200)
    human = row.data["general_query_list"][0]["answer"]
    for example, length in zip(task.examples, LENGTHS, strict=False):
        assert example.prompt == prompt(text, length)
        assert example.target == human and example.group == "IS1006a"
        assert example.meta == {
            "general": True,
            "length": length,
            "human": human,
            "reference": {"by": "human"},
        }
    assert (task.name, task.kind, task.max_tokens) == ("qmsum-instruct", "summary", 400)
    assert task.settings["words"] == 200 and task.settings["references_sha256"] is None


@pytest.mark.parametrize("length", LENGTHS)
def test_the_prompt_says_the_words(length: str) -> None:
    (message,) = prompt("Ann: Hello.", length)
    low, high = LENGTHS[length]
    content = message["content"]  # type: ignore[index,typeddict-item]
    assert f"a {length} summary" in content and f"{low} to {high} words" in content
    assert "\n\nAnn: Hello.\n\n" in content


def test_lengths_do_not_overlap() -> None:
    ranges = list(LENGTHS.values())
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_limit_takes_whole_meetings(data: Path) -> None:
    assert [len(qmsum_instruct(data, limit=n).examples) for n in (1, 3, 4, None)] == [3, 3, 6, 6]


def test_references_of_an_engine(data: Path, tmp_path: Path) -> None:
    plain = qmsum_instruct(data)
    path = written(tmp_path / "predictions.jsonl", [e.id for e in plain.examples])
    task = qmsum_instruct(data, references=path)
    for example, before in zip(task.examples, plain.examples, strict=True):
        assert example.prompt == before.prompt
        assert example.target == f"Summary {example.id}."
        assert example.meta["human"] == before.target
        assert example.meta["reference"] == {
            "by": "m",
            "prompt_sha256": "abc",
            "date": "2026-01-31",
        }
    assert task.settings["references_sha256"] == sha256(path)


def test_references_that_do_not_fit(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    written(path, ["IS1006a/short", "IS1006a/medium"])
    with pytest.raises(DataError, match=r"no reference for 'IS1006a/long'; finish the run"):
        qmsum_instruct(data, references=path)
    names = [example.id for example in qmsum_instruct(data).examples]
    for change in ({"prediction": ""}, {"model": None}, {"date": 3}, {"prompt_sha256": ""}):
        written(path, names, **change)
        with pytest.raises(DataError, match=rf"line 1: '{next(iter(change))}'"):
            qmsum_instruct(data, references=path)
    written(path, [*names, names[0]])
    with pytest.raises(DataError, match=r"line 7: 'IS1006a/short' stands at .* line 1 too"):
        qmsum_instruct(data, references=path)


def test_questions_that_ask_for_no_summary_are_left_out(tmp_path: Path) -> None:
    odd = {"query": f" {min(ODD).upper()} ", "answer": "Odd."}
    first, second = ({"query": f"Summarize {n}.", "answer": f"Answer {n}."} for n in (1, 2))
    rows = [
        {"meeting_id": name, "general_query_list": queries, "specific_query_list": []}
        | {"meeting_transcripts": [{"speaker": "Ann", "content": "Hello."}]}
        for name, queries in (("M1", [odd]), ("M2", []), ("M3", [odd, first, second]))
    ]
    (tmp_path / "qmsum").mkdir()
    (tmp_path / "qmsum" / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = qmsum_instruct(tmp_path, "test")
    assert {(e.group, e.target) for e in task.examples} == {("M3", "Answer 1.")}


def test_missing_data_says_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Yale-LILY/QMSum"):
        qmsum_instruct(tmp_path)
