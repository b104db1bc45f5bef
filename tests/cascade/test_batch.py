"""A file of questions in, a file of answers out, also when stopped on the way."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from scripted import said

from featherweight.cascade.batch import answer_file, read_questions
from featherweight.cascade.trace import Attempt, Trace
from featherweight.engines import Generation, Request
from featherweight.engines.types import failed
from featherweight.errors import DataError, OutputError

RUN = {"cascade": "c", "rule": "ab", "max_tokens": 9}
QUESTIONS = {f"q{i}": f"question {i}" for i in range(6)}


class Answers:
    """Every third question goes to the large stage; some fail, or the whole stops."""

    def __init__(self, fails: set[str] | None = None, stops_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.fails, self.stops_after = fails or set(), stops_after

    def __call__(self, requests: Iterable[Request]) -> Iterator[tuple[Generation, Trace]]:
        for request in requests:
            if self.stops_after is not None and len(self.asked) >= self.stops_after:
                raise KeyboardInterrupt
            prompt = str(request.prompt)
            assert request.max_tokens == 9
            self.asked.append(prompt)
            if prompt in self.fails:
                yield failed("c", "all stages failed"), Trace((), "all stages failed")
                continue
            small = Attempt(0, "small", "answered", 5, 3, 0.5, -0.1, -0.3)
            if int(prompt[-1]) % 3 == 0:
                passed = Attempt(0, "small", "deferred", 5, 3, 0.5, -0.9, -0.3, decided_at=2)
                yield said("large says"), Trace((passed, Attempt(1, "large", "answered", 5, 7)))
            else:
                yield said("small says"), Trace((small,))


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_say_who_gave_them(tmp_path: Path) -> None:
    output = tmp_path / "new" / "a.jsonl"
    found = answer_file(RUN, Answers(), QUESTIONS, output, 9)
    assert found == rows(output) and [row["id"] for row in found] == list(QUESTIONS)
    assert [row["stage"] for row in found] == [1, 0, 0, 1, 0, 0]
    assert found[0]["model"] == "large" and found[0]["text"] == "large says"
    assert [a["outcome"] for a in found[0]["attempts"]] == ["deferred", "answered"]
    assert found[0]["attempts"][0]["decided_at"] == 2 and found[1]["error"] is None


@pytest.mark.parametrize("cut", [False, True])
def test_a_stopped_one_goes_on(tmp_path: Path, cut: bool) -> None:
    output = tmp_path / "a.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_file(RUN, Answers(stops_after=3), QUESTIONS, output, 9)
    if cut:  # in the middle of a line
        output.write_bytes(output.read_bytes()[:-20])
    seen: list[tuple[int, int]] = []
    again = Answers()
    found = answer_file(RUN, again, QUESTIONS, output, 9, lambda *at: seen.append(at))
    assert again.asked == [QUESTIONS[f"q{i}"] for i in range(2 if cut else 3, 6)]
    assert found == rows(output) and [row["id"] for row in found] == list(QUESTIONS)
    assert seen[0] == (6 - len(again.asked), 6) and seen[-1] == (6, 6)


@pytest.mark.parametrize("content", [b"my notes", b"\x1f\x8b\x08", b'{"prompt": "a'])
def test_what_is_no_line_that_was_cut_off_stays(tmp_path: Path, content: bytes) -> None:
    output = tmp_path / "a.jsonl"
    output.write_bytes(content)
    with pytest.raises(DataError, match="not JSON; choose another file"):
        answer_file(RUN, Answers(), QUESTIONS, output, 9)
    assert output.read_bytes() == content


def test_what_failed_is_asked_again(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    found = answer_file(RUN, Answers(fails={"question 1"}), QUESTIONS, output, 9)
    assert [row["id"] for row in found if row["error"]] == ["q1"] and found[1]["stage"] is None
    again = Answers()
    found = answer_file(RUN, again, QUESTIONS, output, 9)
    assert again.asked == ["question 1"] and not any(row["error"] for row in found)
    assert sorted(row["id"] for row in rows(output)) == sorted(QUESTIONS)


def test_what_failed_attempts_took_is_kept(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"

    def broken(requests: Iterable[Request]) -> Iterator[tuple[Generation, Trace]]:
        for _ in requests:
            paid = Attempt(0, "small", "failed", 5, 3, error="timed out")
            yield failed("c", "all stages failed"), Trace((paid,), "all stages failed")

    one = {"q1": QUESTIONS["q1"]}
    for _ in range(2):
        answer_file(RUN, broken, one, output, 9)
    (row,) = answer_file(RUN, Answers(), one, output, 9)
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["failed", "failed", "answered"]


def test_a_stop_forgets_no_failed_attempt(tmp_path: Path) -> None:
    """What failed stays in the file until it is answered, also where it is asked no more."""
    output = tmp_path / "a.jsonl"
    answer_file(RUN, Answers(fails={"question 4", "question 5"}), QUESTIONS, output, 9)
    fewer = {id: prompt for id, prompt in QUESTIONS.items() if id != "q5"}
    with pytest.raises(KeyboardInterrupt):
        answer_file(RUN, Answers(stops_after=0), fewer, output, 9)
    assert sorted(row["id"] for row in rows(output) if row["error"]) == ["q4", "q5"]
    answer_file(RUN, Answers(), fewer, output, 9)
    assert [row["id"] for row in rows(output) if row["error"]] == ["q5"]
    assert answer_file(RUN, Answers(), fewer, output, 9) == rows(output)
    assert sorted(row["id"] for row in rows(output)) == sorted(QUESTIONS)


@pytest.mark.parametrize(("key", "value"), [("id", [1]), ("run", []), ("attempts", 3)])
def test_rows_of_other_types_are_no_answers(tmp_path: Path, key: str, value: object) -> None:
    output = tmp_path / "a.jsonl"
    answer_file(RUN, Answers(), QUESTIONS, output, 9)
    broken = {**rows(output)[0], key: value}
    output.write_text(json.dumps(broken) + "\n")
    with pytest.raises(DataError, match="no answer of a cascade"):
        answer_file(RUN, Answers(), QUESTIONS, output, 9)


def test_another_question_under_an_id_is_asked(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    answer_file(RUN, Answers(), QUESTIONS, output, 9)
    moved = {"q0": "question 9", **{f"q{i + 1}": f"question {i}" for i in range(6)}}
    again = Answers()
    found = answer_file(RUN, again, moved, output, 9)
    assert sorted(again.asked) == sorted(moved.values()) and len(found) == 7
    del moved["q3"]  # an answer whose question is gone stays
    again = Answers()
    assert len(answer_file(RUN, again, moved, output, 9)) == 7 and not again.asked


def test_another_cascades_file_is_left_alone(tmp_path: Path) -> None:
    output = tmp_path / "a.jsonl"
    answer_file(RUN, Answers(), QUESTIONS, output, 9)
    before = output.read_bytes()
    with pytest.raises(OutputError, match=r"another run \(rule differ\); choose another output"):
        answer_file({**RUN, "rule": "other"}, Answers(), QUESTIONS, output, 9)
    for text, words in (('{"id": 1}\n', "no answer of a cascade"), ("x\ny\n", "line 1: not JSON")):
        other = tmp_path / "b.jsonl"
        other.write_text(text)
        with pytest.raises(DataError, match=words):
            answer_file(RUN, Answers(), QUESTIONS, other, 9)
        assert other.read_text() == text
    assert output.read_bytes() == before


def test_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    message = {"role": "user", "content": "b?"}
    path.write_text(
        '{"id": "a", "prompt": "a?"}\n'
        + json.dumps({"id": 7, "prompt": [message]})
        + '\n{"prompt": "third"}\n'
    )
    assert read_questions(path) == {"a": "a?", "7": [message], "3": "third"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no questions in it"),
        ('{"id": "a"}', "line 1: it has no column 'prompt'"),
        ('{"id": "a", "prompt": " "}', "line 1: 'prompt' is empty"),
        ('{"prompt": []}', "line 1: 'prompt' is an empty list"),
        ('{"prompt": [{"role": "robot", "content": "x"}]}', "line 1: a message of 'prompt'"),
        ('{"prompt": ["x"]}', "line 1: a message of 'prompt' is text"),
        ('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}', "line 2: the id 'a'"),
    ],
)
def test_wrong_questions(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_questions(path)
