"""The user's own rows as a task."""

import csv
import gzip
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.tasks import Example, Task
from featherweight.tasks.own import own_task

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

Rows = list[dict[str, Any]]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n"}]


def lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: Rows) -> bytes:
    """CSV: lists as JSON, nothing as an empty cell."""
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: json.dumps(value) if isinstance(value, list) else value
                for key, value in row.items()
            }
        )
    return sink.getvalue().encode("utf-8-sig")


def columns(rows: Rows) -> bytes:
    sink = io.BytesIO()
    names = dict.fromkeys(name for row in rows for name in row)
    parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), sink)
    return sink.getvalue()


FORMS: dict[str, Callable[[Rows], bytes]] = {
    "own.jsonl": lines,
    "own.csv": table,
    "own.parquet": columns,
    "own.jsonl.gz": lambda rows: gzip.compress(lines(rows)),
    "own.csv.gz": lambda rows: gzip.compress(table(rows)),
    "own.parquet.gz": lambda rows: gzip.compress(columns(rows)),
}


def task(folder: Path, rows: Rows, name: str = "own.jsonl", limit: int | None = None) -> Task:
    (folder / name).write_bytes(FORMS[name](rows))
    return own_task(folder / name, limit)


def refused(folder: Path, rows: Rows, name: str = "own.jsonl") -> str:
    with pytest.raises(DataError) as caught:
        task(folder, rows, name)
    message = str(caught.value)
    assert message.endswith(".") and message.isprintable() and caught.value.__cause__ is None
    return message.replace(str(folder / name), "FILE")


@pytest.mark.parametrize("name", FORMS)
def test_summaries_in_every_form(tmp_path: Path, name: str) -> None:
    rows: Rows = [
        {"id": "a", "prompt": 'Was?\n"Ja", é', "target": "Ja.", "group": "m1", "source": "x"},
        {"id": "b", "prompt": CHAT, "target": "Nein.", "group": "m1", "source": "y"},
    ]
    if "parquet" in name:  # a column of Parquet has one type
        rows[0]["prompt"] = [{"role": "user", "content": rows[0]["prompt"]}]
    found = task(tmp_path, rows, name)
    assert found.examples == (
        Example("a", rows[0]["prompt"], "Ja.", "m1", meta={"source": "x"}),
        Example("b", CHAT, "Nein.", "m1", meta={"source": "y"}),
    )
    assert (found.kind, found.name) == ("summary", name)
    assert found.settings == {"file": name, "sha256": sha256(tmp_path / name), "rows": 2}


@pytest.mark.parametrize("name", FORMS)
def test_choices_in_every_form(tmp_path: Path, name: str) -> None:
    rows: Rows = [
        {"id": 7, "prompt": "1 + 1 =", "choices": ["1", "2"], "answer": 1, "subject": "sums"},
        {"id": 8, "prompt": "Yes?", "choices": ["no", "yes", "é,"], "answer": 0, "subject": None},
    ]
    found = task(tmp_path, rows, name)
    nothing = "" if ".csv" in name else None
    assert found.kind == "choice"
    assert found.examples == (
        Example("7", "1 + 1 =", "2", None, ("1", "2"), {"subject": "sums", "answer": 1}),
        Example("8", "Yes?", "no", None, ("no", "yes", "é,"), {"subject": nothing, "answer": 0}),
    )
    assert [type(example.meta["answer"]) for example in found.examples] == [int, int]


def test_synonyms(tmp_path: Path) -> None:
    (example,) = task(tmp_path, [{"prompt": "p", "reference": "r", "meeting_id": 3}]).examples
    assert example == Example("1", "p", "r", "3")
    # a synonym that is there but empty is not there
    rows: Rows = [
        {"prompt": "p", "reference": "r", "target": None, "group": " ", "meeting_id": "m"}
    ]
    assert task(tmp_path, rows).examples == (Example("1", "p", "r", "m"),)
    assert refused(tmp_path, [{"prompt": "p", "reference": "r", "target": "r"}]) == (
        "FILE line 1: both 'target' and 'reference'; keep one."
    )


def test_a_target_that_is_the_choice(tmp_path: Path) -> None:
    (example,) = task(tmp_path, [GOOD | {"target": "x\n"}]).examples
    assert example == Example("a", "p", "x", choices=("x", "y"), meta={"answer": 0})


def test_answer_without_choices_is_meta(tmp_path: Path) -> None:
    (example,) = task(tmp_path, [{"prompt": "p", "answer": 3, "choices": None}]).examples
    assert example == Example("1", "p", meta={"answer": 3})


def test_rows_without_ids_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"prompt": "p"}\n\n{"prompt": "q", "id": null}\n')
    assert [example.id for example in own_task(tmp_path / "a").examples] == ["1", "2"]


def test_limit_looks_no_further(tmp_path: Path) -> None:
    rows: Rows = [{"prompt": "p"}, {"prompt": "q"}, {"prompt": ""}]
    found = task(tmp_path, rows, limit=2)
    assert [example.prompt for example in found.examples] == ["p", "q"]
    assert found.settings["rows"] == 2
    assert len(task(tmp_path, rows[:2], limit=9).examples) == 2


@pytest.mark.parametrize(
    "text", ["[Ann] Hello", "[1, 2]", "[]", '[{"name": "Ann"}]', '{"role": 1}']
)
def test_text_in_brackets_is_text(tmp_path: Path, text: str) -> None:
    for name in ("own.jsonl", "own.csv"):
        assert task(tmp_path, [{"prompt": text}], name).examples[0].prompt == text


def test_messages_of_parquet_have_all_keys(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi", "name": None}]
    expected = [{"role": "user", "content": "Hi"}]
    assert task(tmp_path, [{"prompt": chat}], "own.parquet").examples[0].prompt == expected


GOOD = {"id": "a", "prompt": "p", "choices": ["x", "y"], "answer": 0}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "p"}, "it has no column 'prompt', only 'text'; rename"),
        ({"prompt": " \n"}, "'prompt' is empty"),
        ({"prompt": None}, "'prompt' is missing (null)"),
        ({"prompt": 3}, "'prompt' is a whole number, not text"),
        ({"prompt": []}, "'prompt' is an empty list"),
        ({"prompt": ["p"]}, "message 1 of 'prompt' is text; write an object"),
        (
            {"prompt": [*CHAT, {"role": "robot", "content": "p"}]},
            "message 3 of 'prompt' has the role 'robot'; write one of system, user, assistant.",
        ),
        ({"prompt": [{"content": "p"}]}, "message 1 of 'prompt' has the role None"),
        ({"prompt": [{"role": "user"}]}, "message 1 of 'prompt': its content is missing (null)"),
        (
            {"prompt": [{"role": "user", "content": ["p"]}]},
            "message 1 of 'prompt': its content is a list",
        ),
        ({"prompt": [{"role": "user", "content": " "}]}, "message 1 of 'prompt' is empty"),
        (
            {"prompt": [{"role": "user", "content": "p", "name": "Ann"}]},
            "message 1 of 'prompt' has the key 'name' too",
        ),
        (
            {"prompt": json.dumps([{"role": "robot", "content": "p"}])},
            "message 1 of 'prompt' has the role 'robot'",
        ),
        ({"prompt": "p", "id": 1.5}, "'id' is a decimal number"),
        ({"prompt": "p", "target": 1}, "'target' is a whole number, not text"),
        ({"prompt": "p", "group": ["m"]}, "'group' is a list"),
        ({"prompt": "p", "group": "m", "meeting_id": "m"}, "both 'group' and 'meeting_id'"),
        (GOOD | {"prompt": ""}, "'prompt' is empty"),
        (
            GOOD | {"answer": 2},
            "'answer' is 2; write the right choice's index, a whole number from 0 to 1.",
        ),
        (GOOD | {"answer": -1}, "'answer' is -1;"),
        (GOOD | {"answer": 0.5}, "'answer' is 0.5;"),
        (GOOD | {"answer": 1.0}, "'answer' is 1.0;"),
        (GOOD | {"answer": True}, "'answer' is True;"),
        (GOOD | {"answer": "B"}, "'answer' is 'B';"),
        (GOOD | {"answer": "x"}, "'answer' is 'x';"),
        (GOOD | {"answer": [0]}, "'answer' is [0];"),
        (GOOD | {"answer": None}, "'answer' is missing (null)"),
        (
            {"prompt": "p", "choices": ["x", "y"]},
            "it has no column 'answer', only 'prompt', 'choices'",
        ),
        (GOOD | {"choices": ["x"]}, "1 in 'choices'; write at least two."),
        (GOOD | {"choices": []}, "0 in 'choices'"),
        (GOOD | {"choices": ["x", ""]}, "choice 1 is empty"),
        (GOOD | {"choices": ["x", 2]}, "choice 1 is a whole number"),
        (GOOD | {"choices": {"A": "x"}}, "'choices' is an object, no list"),
        (GOOD | {"choices": "x, y"}, '\'choices\' is text, no list; write ["one", "two"].'),
        (GOOD | {"target": "y"}, "the target is not choice 0, which 'answer' names"),
    ],
)
def test_what_is_refused(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    assert refused(tmp_path, [row]).startswith(f"FILE line 1: {says}")


def test_lines_are_named(tmp_path: Path) -> None:
    good = [GOOD | {"id": str(number)} for number in range(2)]
    bad = GOOD | {"answer": 9}
    assert refused(tmp_path, [*good, bad]).startswith("FILE line 3: 'answer' is 9")
    assert refused(tmp_path, [*good, bad], "own.csv").startswith("FILE line 4: 'answer' is '9'")
    assert refused(tmp_path, [*good, bad], "own.parquet").startswith("FILE row 3: 'answer' is 9")


def test_repeated_ids_name_both_lines(tmp_path: Path) -> None:
    rows: Rows = [{"id": 1, "prompt": "p"}, {"id": 2, "prompt": "p"}, {"id": "1", "prompt": "p"}]
    assert refused(tmp_path, rows) == (
        "FILE line 3: the id '1' stands at FILE line 1 too; give each row its own."
    )


@pytest.mark.parametrize("order", [1, -1])
def test_ids_in_some_rows(tmp_path: Path, order: int) -> None:
    rows: Rows = [{"id": "1", "prompt": "p"}, {"prompt": "p"}][::order]
    places = ["line 1", "line 2"][::order]
    assert refused(tmp_path, rows) == (
        f"FILE {places[1]}: it has no 'id', unlike FILE {places[0]}; give every row one, or none."
    )


@pytest.mark.parametrize("order", [1, -1])
def test_mixed_kinds(tmp_path: Path, order: int) -> None:
    rows: Rows = [GOOD, {"id": "b", "prompt": "p"}][::order]
    message = refused(tmp_path, rows)
    assert message.startswith("FILE line 2: ") and "unlike FILE line 1" in message
    assert ("no column 'choices'" in message) == (order == 1)


@pytest.mark.parametrize("column", ["id", "prompt", "target", "group", "choices", "answer"])
def test_nan(tmp_path: Path, column: str) -> None:
    rows: Rows = [{"prompt": "p", "choices": ["x", "y"], "answer": 0} | {column: math.nan}]
    message = refused(tmp_path, rows, "own.parquet")
    assert message.startswith(f"FILE row 1: '{column}' is ") and "nan" in message.lower()
    assert refused(tmp_path, rows).startswith("FILE line 1: not JSON")


@pytest.mark.parametrize("name", FORMS)
def test_no_rows(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path, [], name) == "FILE has no rows; write one example a row."


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).filter(str.strip)


@settings(max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "id": texts,
                "prompt": texts.filter(lambda text: text.lstrip()[:1] != "["),
                "choices": st.lists(texts, min_size=2, max_size=4, unique_by=str.strip),
                "answer": st.integers(0, 1),
                "note": texts,
            }
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda row: row["id"],
    )
)
def test_every_form_says_the_same(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> None:
    folder = tmp_path_factory.mktemp("own")
    found = [task(folder, rows, name).examples for name in FORMS]
    assert all(examples == found[0] for examples in found)
    for row, example in zip(rows, found[0], strict=True):
        assert (example.id, example.prompt, example.target) == (
            row["id"],
            row["prompt"],
            row["choices"][row["answer"]],
        )
        assert example.meta == {"note": row["note"], "answer": row["answer"]}


def test_equal_choices_are_kept_as_published_sets_have_them(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "p", "choices": ["x", "y", "x"], "answer": 0}]
    (tmp_path / "own.jsonl").write_text(json.dumps(rows[0]))
    assert own_task(tmp_path / "own.jsonl").examples[0].choices == ("x", "y", "x")


def test_a_row_without_target_among_rows_with_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: it has no target, unlike .* line 1"):
        task(tmp_path, [{"prompt": "p", "target": "t"}, {"prompt": "q", "target": None}])
    with pytest.raises(DataError, match="line 2: it has a target, unlike"):
        task(tmp_path, [{"prompt": "p"}, {"prompt": "q", "target": "t"}])


def test_choices_to_be_named_follow_the_question_with_letters(tmp_path: Path) -> None:
    rows: Rows = [
        {"prompt": "1 + 1 =", "choices": ["1", "2"], "answer": 1},
        {"prompt": CHAT, "choices": ["1", "2"], "answer": 1},
    ]
    (tmp_path / "own.jsonl").write_bytes(lines(rows))
    found = own_task(tmp_path / "own.jsonl", how="generation")
    plain, chat = (example.prompt for example in found.examples)
    assert plain[-1]["content"].startswith("1 + 1 =\n\nA. 1\nB. 2\n")
    assert list(chat[:-1]) == CHAT[:-1] and "A. 1\nB. 2" in chat[-1]["content"]
    assert found.max_tokens > 0 and found.settings["how"] == "generation"
    assert own_task(tmp_path / "own.jsonl").max_tokens == 0


@pytest.mark.parametrize(("written", "meant"), [("true", True), ("False", False), ("", False)])
def test_general_in_csv_is_true_or_false(tmp_path: Path, written: str, meant: bool) -> None:
    (tmp_path / "own.csv").write_text(f"prompt,general\np,{written}\n")
    assert own_task(tmp_path / "own.csv").examples[0].meta["general"] is meant


def test_general_that_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("prompt,general\np,perhaps\n")
    with pytest.raises(DataError, match="line 2: 'general' is 'perhaps'"):
        own_task(tmp_path / "own.csv")
