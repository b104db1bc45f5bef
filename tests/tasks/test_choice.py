"""Nine multiple-choice tasks: what is asked, and which answer a text names."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from featherweight.errors import DataError
from featherweight.files import sha256
from featherweight.tasks.choice import SETS, choice, picked

YES_NO = ("yes", "no", "maybe")
PETS = ("A dog", "a cat", "No pet", "dog food")


@pytest.fixture
def data(root: Path) -> Path:
    return root / "examples" / "data"


def put(folder: Path, rows: list[dict[str, Any]], name: str = "valid.jsonl") -> Path:
    """The rows as the task arc."""
    path = folder / "tasks" / "arc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def row(**more: Any) -> dict[str, Any]:
    return {"id": "q", "question": " Why? ", "choices": ["one", "two"], "answer": 1} | more


def test_a_question_scored_by_likelihood(tmp_path: Path) -> None:
    path = put(tmp_path, [row(), row(id=7, answer=0)])
    task = choice("arc", tmp_path)
    first, second = task.examples
    assert first.prompt == "Question: Why?\nAnswer:"
    assert (first.id, first.choices, first.target) == ("q", ("one", "two"), "two")
    assert first.meta["answer"] == 1 and first.group is None
    assert (second.id, second.target) == ("7", "one")
    assert (task.name, task.kind, task.max_tokens) == ("arc", "choice", 0)
    assert task.settings == {
        "split": "val",
        "how": "loglikelihood",
        "data_sha256": sha256(path),
    }


def test_a_question_to_be_answered(tmp_path: Path) -> None:
    put(tmp_path, [row(choices=["one", "two", "three"])])
    task = choice("arc", tmp_path, how="generation")
    (example,) = task.examples
    assert example.prompt == [
        {
            "role": "user",
            "content": "Why?\n\nA. one\nB. two\nC. three\n\n"
            "Answer with the letter of the right choice only.",
        }
    ]
    assert task.max_tokens == 8 and task.settings["how"] == "generation"


@pytest.mark.parametrize("name", ["creak", "strategyqa", "pubmedqa"])
def test_the_samples(data: Path, name: str) -> None:
    task = choice(name, data)
    assert len(task.examples) == 12
    for example in task.examples:
        assert example.id.startswith(f"{name}-valid-")
        assert example.choices[:2] == ("yes", "no")
        assert example.target == example.choices[example.meta["answer"]]
    assert [e.id for e in choice(name, data, limit=5).examples] == [e.id for e in task.examples[:5]]


def test_splits_and_packed_files(tmp_path: Path) -> None:
    put(tmp_path, [row(id="packed")], "valid.jsonl.gz")
    put(tmp_path, [row(id="plain")], "test.jsonl")
    put(tmp_path, [row(id="tuning")], "train.jsonl")
    for split, id in (
        ("val", "packed"),
        ("valid", "packed"),
        ("test", "plain"),
        ("train", "tuning"),
    ):
        assert choice("arc", tmp_path, split).examples[0].id == id
    put(tmp_path, [row(id="short")], "val.jsonl")
    (tmp_path / "tasks" / "arc" / "valid.jsonl.gz").unlink()
    assert choice("arc", tmp_path).examples[0].id == "short"


@pytest.mark.parametrize("name", SETS)
def test_missing_data_says_where_they_come_from(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"holds no valid.*github\.com/") as error:
        choice(name, tmp_path)
    assert SETS[name] in str(error.value) and f"tasks/{name}" in str(error.value)


def test_another_split_names_those_that_are_there(tmp_path: Path) -> None:
    put(tmp_path, [row()], "test.jsonl.gz")
    put(tmp_path, [row()], "train.jsonl")
    with pytest.raises(DataError, match=r"no valid\.jsonl\.gz or \.jsonl, only test, train;"):
        choice("arc", tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no questions"),
        ([row(), row(id="r", answer=2)], "line 2: 'answer' is 2"),
        ([row(), row(id="r", choices=["one"])], "line 2: 1 in 'choices'"),
        ([row(question=" ")], "line 1: 'question' is empty"),
        ([{"question": "Why?"}], "line 1: it has no column 'choices'"),
        ([row(), row()], "line 2: 'q' stands at .*line 1 already"),
        ([row(id=None)], "line 1: 'id' is missing"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = put(tmp_path, rows)
    with pytest.raises(DataError, match=message) as error:
        choice("arc", tmp_path)
    assert str(path) in str(error.value)


def test_more_choices_than_letters(tmp_path: Path) -> None:
    put(tmp_path, [row(choices=[f"number {n}" for n in range(27)])])
    assert len(choice("arc", tmp_path).examples[0].choices) == 27
    with pytest.raises(DataError, match="line 1: 27 choices, more than letters"):
        choice("arc", tmp_path, how="generation")
    put(tmp_path, [row(choices=[f"number {n}" for n in range(26)])])
    (example,) = choice("arc", tmp_path, how="generation").examples
    assert "\nZ. number 25\n" in example.prompt[0]["content"]  # type: ignore[index,typeddict-item]


@pytest.mark.parametrize(
    "answer",
    [
        *("B", "b", " B\n", "B.", "b.", "(b)", "(B).", "[B]", "**B**", "B)", "B) no", "b: no"),
        *("B. no", "B\nno", "B, no", "B - no", "B no", "B is right", "B because it never did."),
        *("Answer: B", "answer B", "The answer is B.", "the answer is (b)", "The answer is: B"),
        *("The correct answer is **B**.", "The right answer is\n\nB", "**Answer:** B"),
        *("Option B", "Choice (B) no"),
        *("no", "No.", "no!", '"no"', "No, it did not.", "No\n\nIt did not.", "The answer is no."),
        *("Answer: No", "**No**", "The answer is: 'no'"),
    ],
)
def test_an_answer_that_names_the_second(answer: str) -> None:
    assert picked(answer, YES_NO) == 1


@pytest.mark.parametrize(
    "answer",
    [
        *("", " ", "...", "I", "I think B", "I don't know", "I am not sure", "An", "Answer", "As"),
        *("A dog", "A no", "E", "Z.", "D", "e.g. no", "B2", "B_", "Bad", "B's", "C'est", "A and B"),
        *("A or B", "nothing", "no-one", "nope", "not yes", "The answer is none", "yes no", "É"),
        *("D'Artagnan", "A/B", "b.c.", "The answer depends", "1"),
    ],
)
def test_an_answer_that_names_none(answer: str) -> None:
    assert picked(answer, YES_NO) is None


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("A dog", 0),
        ("A dog.", 0),
        ("a DOG", 0),
        ("The answer is A dog.", 0),
        ("A", 0),
        ("A cat", 1),  # in full, though it begins as the letter does
        ("A cat, of course", 1),
        ("a cat\nbecause", 1),
        ("B a cat", 1),
        ("A bird", None),
        ("No pet", 2),
        ("C", 2),
        ("D dog food", 3),
        ("D. A dog", 3),  # the letter was asked for, so it counts
        ("dog", None),
        ("dog food: cheap", 3),
    ],
)
def test_a_word_that_looks_like_a_letter(answer: str, index: int | None) -> None:
    assert picked(answer, PETS) == index


def test_choices_that_are_hard_to_tell_apart() -> None:
    assert picked("same", ("same", "Same", "other")) is None
    assert picked("B", ("same", "same", "other")) == 1
    assert picked("yes, but later", ("yes", "yes, but later")) == 1
    assert picked("yes, but. So", ("yes", "yes, but")) == 1
    assert picked("A cat", ("cat", "dog")) == 0 and picked("A dog", ("cat", "dog")) is None
    assert [picked(x, ("-3", "3", "$5")) for x in ("-3", "3", "3.", "$5", "5")] == [
        0,
        1,
        1,
        2,
        None,
    ]
    assert picked("The answer is $5.", ("4", "$5")) == 1
    assert picked("E", ("D", "E")) == 1  # no fifth choice: a text
    assert picked("B", ("B", "A")) == 1  # the letter was asked for
    assert picked("anything", ("!", "?")) is None
