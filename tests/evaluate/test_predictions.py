"""Predictions meet their references by id, and what does not fit says where it stands."""

import gzip
import json
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from featherweight.errors import DataError
from featherweight.evaluate.predictions import Joined, join, read_references

Rows = Iterable[object]

REFERENCES = [
    {"query_id": "m1-q0", "meeting_id": "m1", "reference": "They agreed.", "general": True},
    {"id": "m1-q1", "meeting_id": "m1", "target": "It ships in March.", "query": "When?"},
    {"query_id": 7, "group": "m2", "reference": "Titanium.", "general": False},
    {"id": "lone", "reference": "Nobody knows.", "general": None, "query": None},
]
PREDICTIONS = [
    {"id": "m1-q0", "prediction": "We agreed."},
    {"query_id": "m1-q1", "prediction": "In May.\n"},
    {"id": 7, "prediction": "Rubber."},
    {"query_id": "lone", "prediction": "I know.", "meeting_id": "not read"},
]


def write(path: Path, rows: Rows) -> Path:
    """Rows as JSON lines; a text is a line as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    text = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def joined(
    folder: Path, *systems: Rows, references: Rows = REFERENCES, allow_missing: bool = False
) -> Joined:
    known = read_references(write(folder / "references.jsonl", references))
    paths = [write(folder / f"{number}.jsonl", rows) for number, rows in enumerate(systems)]
    return join(paths, known, allow_missing)


def test_ids_under_either_name_and_of_either_kind(tmp_path: Path) -> None:
    found = joined(tmp_path, PREDICTIONS)
    assert found.ids == ["m1-q0", "m1-q1", "7", "lone"]
    assert found.predictions == [["We agreed.", "In May.\n", "Rubber.", "I know."]]
    assert [one.text for one in found.references] == [
        *("They agreed.", "It ships in March.", "Titanium.", "Nobody knows.")
    ]
    assert (found.missing, found.empty) == (0, [0])


def test_what_a_reference_says(tmp_path: Path) -> None:
    path = write(tmp_path / "references.jsonl", REFERENCES)
    found = read_references(path)
    assert [one.general for one in found.values()] == [True, False, False, False]
    assert [one.query for one in found.values()] == ["", "When?", "", ""]
    assert [one.where for one in found.values()] == [f"{path} line {n}" for n in (1, 2, 3, 4)]


def test_the_cluster_is_the_meeting_then_the_group_then_the_row_itself(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "reference": "a", "meeting_id": "m", "group": "g"},
        {"id": 2, "reference": "a", "meeting_id": None, "group": "g"},
        {"id": 3, "reference": "a", "meeting_id": 12},
        {"id": 4, "reference": "a"},
    ]
    answers = [{"id": number, "prediction": "b", "group": "x"} for number in (1, 2, 3, 4)]
    assert joined(tmp_path, answers, references=rows).groups == ["m", "g", "12", "4"]


def test_the_order_is_that_of_the_references(tmp_path: Path) -> None:
    expected = joined(tmp_path, PREDICTIONS)
    for seed in range(5):
        shuffled = random.Random(seed).sample(PREDICTIONS, len(PREDICTIONS))
        assert joined(tmp_path, shuffled) == expected
    backwards = joined(tmp_path, PREDICTIONS, references=REFERENCES[::-1])
    assert backwards.ids == expected.ids[::-1]
    assert backwards.predictions[0] == expected.predictions[0][::-1]


def test_packed_files_and_csv(tmp_path: Path) -> None:
    expected = joined(tmp_path, PREDICTIONS)
    packed = write(tmp_path / "predictions.jsonl.gz", PREDICTIONS)
    assert packed.read_bytes().startswith(b"\x1f\x8b")
    table = tmp_path / "predictions.csv"
    table.write_text('id,prediction\nlone,I know.\n7,Rubber.\nm1-q1,"In May.\n"\nm1-q0,We agreed.')
    references = read_references(write(tmp_path / "references.jsonl.gz", REFERENCES))
    found = join([packed, table], references)
    assert found.predictions == expected.predictions * 2
    assert found.ids == expected.ids


@pytest.mark.parametrize(
    ("written", "means"),
    [("true", True), ("True", True), (" TRUE ", True), ("false", False), ("FALSE", False),
     ("", False)],
)  # fmt: skip
def test_general_in_csv(tmp_path: Path, written: str, means: bool) -> None:
    path = tmp_path / "references.csv"
    path.write_text(f"id,reference,general\n1,yes,{written}\n")
    assert read_references(path)["1"].general is means


@pytest.mark.parametrize("value", ["yes", 1, 0, "1", [True]])
def test_general_that_is_neither(tmp_path: Path, value: object) -> None:
    path = write(tmp_path / "r.jsonl", [{"id": 1, "reference": "yes", "general": value}])
    with pytest.raises(DataError, match=r"r\.jsonl line 1: 'general' is .*; write true or false\."):
        read_references(path)


# ---- several systems


def test_several_systems_keep_what_all_answered(tmp_path: Path) -> None:
    first, second = PREDICTIONS[:3], [*PREDICTIONS[1:3], {"id": "lone", "prediction": " "}]
    found = joined(tmp_path, first, second, allow_missing=True)
    assert found.ids == ["m1-q1", "7"]
    assert found.predictions == [["In May.\n", "Rubber."]] * 2
    assert (found.missing, found.empty) == (2, [0, 0])
    assert found.groups == ["m1", "m2"]


def test_missing_is_counted_and_empty_is_kept(tmp_path: Path) -> None:
    silent = [{"id": "m1-q0", "prediction": ""}, {"id": 7, "prediction": " \n"}, PREDICTIONS[3]]
    talking = PREDICTIONS
    found = joined(tmp_path, silent, talking, allow_missing=True)
    assert found.ids == ["m1-q0", "7", "lone"]
    assert found.predictions[0] == ["", " \n", "I know."]
    assert (found.missing, found.empty) == (1, [2, 0])


def test_all_is_there_whether_or_not_it_may_be_missing(tmp_path: Path) -> None:
    assert joined(tmp_path, PREDICTIONS, allow_missing=True) == joined(tmp_path, PREDICTIONS)


# ---- what does not fit


def says(folder: Path, predictions: Rows, references: Rows, allow_missing: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        joined(folder, predictions, references=references, allow_missing=allow_missing)
    message = str(caught.value)
    assert message.endswith(".") and ";" in message and message.isprintable()
    return (
        message.replace(f"{folder}/", "").replace("0.jsonl", "P").replace("references.jsonl", "R")
    )


TWO = [{"id": "a", "reference": "one"}, {"id": "b", "reference": "two"}]
A, B = {"id": "a", "prediction": "one"}, {"id": "b", "prediction": "two"}

# predictions, and how the message begins and what it holds
BAD_PREDICTIONS: dict[str, tuple[Rows, str, str]] = {
    "row without id": ([A, {"prediction": "two"}], "P line 2: ", "'query_id' or 'id'"),
    "id is null": ([A, {"id": None, "prediction": "two"}], "P line 2: ", "'id' is missing"),
    "id is a decimal": ([A, {"id": 1.0, "prediction": "two"}], "P line 2: ", "decimal number"),
    "id is true": ([{"id": True, "prediction": "two"}, A], "P line 1: ", "true or false"),
    "id is empty": ([A, {"id": " ", "prediction": "two"}], "P line 2: ", "'id' is empty"),
    "repeated": ([A, B, "", A], "P line 4: ", "'a' stands at P line 1 already; keep one"),
    "repeated under the other name": (
        [A, B, {"query_id": "b", "prediction": "x"}],
        "P line 3: ",
        "'b' stands at P line 2 already",
    ),
    "unknown": ([A, {"id": "c", "prediction": "two"}], "P line 2: ", "'c' is not among"),
    "no prediction column": (
        [A, {"id": "b", "answer": "two"}],
        "P line 2: ",
        "only 'id', 'answer'",
    ),
    "prediction is null": ([A, {"id": "b", "prediction": None}], "P line 2: ", "missing (null)"),
    "prediction is a number": ([A, {"id": "b", "prediction": 2}], "P line 2: ", "a whole number"),
    "prediction is a list": ([{"id": "b", "prediction": ["x"]}], "P line 1: ", "a list, not text"),
    "NaN": ([A, '{"id": "b", "prediction": NaN}'], "P line 2: ", "NaN is no JSON value"),
    "not JSON": ([A, "b: two"], "P line 2: ", "not JSON"),
    "half a row": ([A, '{"id": "b", "predi'], "P line 2: ", "not JSON"),
    "no object": ([A, '["b", "two"]'], "P line 2: ", "not an object"),
    "empty file": ([], "P: ", "no predictions in it"),
    "blank file": (["", " "], "P: ", "no predictions in it"),
}


@pytest.mark.parametrize("case", BAD_PREDICTIONS)
@pytest.mark.parametrize("allow_missing", [False, True])
def test_bad_predictions(tmp_path: Path, case: str, allow_missing: bool) -> None:
    rows, begins, holds = BAD_PREDICTIONS[case]
    message = says(tmp_path, rows, TWO, allow_missing)
    assert message.startswith(begins) and holds in message


BAD_REFERENCES: dict[str, tuple[Rows, str, str]] = {
    "row without id": ([TWO[0], {"reference": "two"}], "R line 2: ", "'query_id' or 'id'"),
    "repeated": ([*TWO, {"query_id": "a", "target": "x"}], "R line 3: ", "stands at R line 1"),
    "repeated as a number": (
        [{"id": 1, "reference": "x"}, {"id": "1", "reference": "x"}],
        "R line 2: ",
        "'1' stands at R line 1 already",
    ),
    "no text": ([TWO[0], {"id": "b"}], "R line 2: ", "no column 'reference' or 'target'"),
    "text is null": ([{"id": "b", "reference": None}], "R line 1: ", "'reference' is missing"),
    "text is empty": ([{"id": "b", "reference": " \n"}], "R line 1: ", "'reference' is empty"),
    "target is a number": ([{"id": "b", "target": 1.5}], "R line 1: ", "'target' is a decimal"),
    "meeting is a list": (
        [{"id": "b", "reference": "x", "meeting_id": ["m"]}],
        "R line 1: ",
        "'meeting_id' is a list",
    ),
    "meeting is empty": (
        [{"id": "b", "reference": "x", "meeting_id": ""}],
        "R line 1: ",
        "'meeting_id' is empty",
    ),
    "query is a number": ([{"id": "b", "reference": "x", "query": 1}], "R line 1: ", "'query'"),
    "NaN": (['{"id": "a", "reference": NaN}'], "R line 1: ", "NaN is no JSON value"),
    "not JSON": ([TWO[0], "{'id': 'b'}"], "R line 2: ", "not JSON"),
    "empty file": ([], "R: ", "no references in it"),
}


@pytest.mark.parametrize("case", BAD_REFERENCES)
def test_bad_references(tmp_path: Path, case: str) -> None:
    rows, begins, holds = BAD_REFERENCES[case]
    message = says(tmp_path, [A, B], rows, allow_missing=True)
    assert message.startswith(begins) and holds in message


def test_missing_predictions(tmp_path: Path) -> None:
    three = [{"id": "c", "reference": "three"}, *TWO]
    message = says(tmp_path, [A], three)
    assert message.startswith("R line 1: 'c' has no prediction in P (2 of 3 are missing); ")
    assert "--allow-missing" in message
    found = joined(tmp_path, [A], references=three, allow_missing=True)
    assert (found.ids, found.missing) == (["a"], 2)


def test_the_system_that_lacks_an_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'b' has no prediction in .*1\.jsonl \(1 of 2"):
        joined(tmp_path, [A, B], [A], references=TWO)


def test_an_empty_prediction(tmp_path: Path) -> None:
    message = says(tmp_path, [A, {"id": "b", "prediction": " \n"}], TWO)
    assert message.startswith("P line 2: 'prediction' is empty; ")


def test_nothing_in_common(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0\.jsonl and .*1\.jsonl: no prediction is left to score"):
        joined(tmp_path, [A], [B], references=TWO, allow_missing=True)


def test_parquet_holds_nan(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "p.parquet"
    parquet.write_table(pa.table({"id": ["a", "b"], "prediction": [float("nan"), 1.0]}), path)
    references = read_references(write(tmp_path / "r.jsonl", TWO))
    with pytest.raises(DataError, match=r"p\.parquet row 1: 'prediction' is NaN, not text"):
        join([path], references, allow_missing=True)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl: .*; check the path"):
        read_references(tmp_path / "none.jsonl")
    known = read_references(write(tmp_path / "r.jsonl", TWO))
    with pytest.raises(DataError, match=r"cannot read .*none\.jsonl"):
        join([tmp_path / "none.jsonl"], known)
