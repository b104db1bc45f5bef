"""The log: what is written is read, and what is wrong is said with its line."""

import copy
import gzip
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.cascade.log import header_json, read_log, row_json, write_log
from featherweight.cascade.tokens import ROUNDING
from featherweight.cascade.types import SPLITS, Answer, Log, Metric, Row
from featherweight.errors import DataError
from featherweight.files import sha256

METRIC = Metric("accuracy", 0, 100)
MODELS = ("small", "large")


def row(id: str, group: str, split: str = "fit", low: float | None = 0.0) -> Row:
    error = "timed out" if low is None else None
    small = Answer("small", "" if error else "B", low, (-0.5, -1.0), seconds=0.1, error=error)
    large = Answer("large", "C", 100.0, None, prompt_tokens=8, completion_tokens=2, flops=1e9)
    return Row(id, group, split, (small, large))  # type: ignore[arg-type]


def example(root: Path) -> tuple[list[str], dict[str, Any]]:
    """The lines of docs/cascade-log.md's example, and its schema."""
    blocks = re.findall(r"```json\n(.*?)```", (root / "docs" / "cascade-log.md").read_text(), re.S)
    return blocks[0].splitlines(), json.loads(blocks[1])


# ---- what is written is read


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_a_log_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    full = Answer(
        "small",
        "",
        37.5,
        (-0.5, -1.0),
        margins=(0.3, 0.1),
        entropies=(1.0, 2.0),
        ended=True,
        prompt_tokens=3,
        completion_tokens=2,
        seconds=0.25,
        flops=3e9,
        usd=0.001,
    )
    first = row("1", "a")
    rows = (
        replace(first, stages=(full, first.stages[1]), prompt_sha256="0f" * 32),
        row("2", "b", "test", low=None),
        row("3", "a"),
    )
    log = Log(METRIC, MODELS, rows, extra={"stages": [{"weights": "ab"}, None], "online": True})
    path = tmp_path / name
    write_log(log, path)
    assert read_log(path) == replace(log, sha256=sha256(path))
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert read_log(path).part("test").rows == rows[1:2]
    assert read_log(path).part("test").extra == log.extra


numbers = st.floats(-50, 0)
answers = st.builds(
    Answer,
    model=st.just("small"),
    text=st.text(),
    quality=st.floats(0, 100),
    token_logprobs=st.none() | st.lists(numbers, max_size=3).map(tuple),
    ended=st.booleans(),
    prompt_tokens=st.integers(0, 9),
    completion_tokens=st.integers(0, 9),
    seconds=st.floats(0, 1e6),
    flops=st.none() | st.floats(0, 1e20),
    usd=st.none() | st.floats(0, 9),
)


@given(answers, st.sampled_from(SPLITS), st.text(min_size=1).filter(str.strip))
def test_any_row_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, answer: Answer, split: Any, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    made = Row(name, name, split, (answer, answer))
    text = header_json(METRIC, ["small", "small"]) + "\n" + row_json(made) + "\n"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_log(path).rows == (made,)


def test_keys_of_the_header_cannot_be_replaced_by_further_ones() -> None:
    header = json.loads(header_json(METRIC, MODELS, {"models": ["x"], "seed": 3}))
    assert header["models"] == list(MODELS) and header["seed"] == 3
    assert next(iter(header)) == "format"  # what tells the file stands first


def test_equal_logs_make_equal_bytes(tmp_path: Path) -> None:
    log = Log(METRIC, MODELS, (row("1", "a"),))
    for name in ("a.gz", "b.gz"):
        write_log(log, tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_json_does_not_have_is_not_written(bad: float) -> None:
    made = row("q7", "a")
    for change in ({"quality": bad}, {"token_logprobs": (-1.0, bad)}, {"flops": bad}):
        stages = (made.stages[0], replace(made.stages[1], **change))
        with pytest.raises(DataError, match=r"row 'q7': '\w+' of stage 1 is not a finite"):
            row_json(replace(made, stages=stages))


def test_the_documents_example_is_a_log_and_fits_its_schema(root: Path, tmp_path: Path) -> None:
    lines, schema = example(root)
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    log = read_log(tmp_path / "log.jsonl")
    assert log.quality().tolist() == [[0.0, 100.0]]
    check = jsonschema.Draft202012Validator(schema)
    check.validate(json.loads(lines[1]))
    for made in (row("1", "a"), row("2", "a", low=None)):
        check.validate(json.loads(row_json(made)))


# ---- what is wrong


def broken(change: Callable[[dict[str, Any]], Any]) -> list[str]:
    """Three good rows, the last of them changed."""
    rows = [json.loads(row_json(row(str(number), f"g{number}"))) for number in (1, 2, 3)]
    change(rows[2])
    return [header_json(METRIC, MODELS), *map(json.dumps, rows)]


def stage(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["stages"][1].update(changes)


def drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: [data["stages"][1].pop(key) for key in keys]  # type: ignore[func-returns-value]


BAD: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (stage(quality=math.nan), "line 4: not JSON .*NaN is no JSON value"),
    (lambda d: d["stages"].pop(), "line 4: 1 stages, but the header names 2 models"),
    (lambda d: d["stages"].append(d["stages"][0]), "line 4: 3 stages, but the header names 2"),
    (lambda d: d.pop("stages"), r"line 4: 'stages' is missing \(null\); write one answer a model"),
    (lambda d: d.update(stages=[1, 2]), "line 4, stage 0: it is a whole number; write an object"),
    (lambda d: d.update(id="1"), "line 4: the id '1' also stands at .* line 2; give each"),
    (lambda d: d.pop("id"), "line 4: it has no column 'id'"),
    (lambda d: d.update(group=""), "line 4: 'group' is empty"),
    (lambda d: d.update(split="train"), "line 4: unknown split 'train'; write 'fit', 'calibrate'"),
    (
        lambda d: d.update(group="g2", split="test"),
        "line 4: the group 'g2' is in 'test', but in 'fit' at .* line 3; put all of a group's",
    ),
    (lambda d: d.update(note=1), "line 4: unknown 'note'; known are 'id', 'group'"),
    (lambda d: d.update(prompt_sha256="ab"), "line 4: 'prompt_sha256' is no sha256; write 64"),
    (stage(score=1), "line 4, stage 1: unknown 'score'; known are 'model'"),
    (stage(model="tiny"), "line 4, stage 1: the model is 'tiny'; the header says 'large'"),
    (stage(quality=100.5), "stage 1: the quality 100.5 is outside accuracy's 0 to 100; correct"),
    (stage(quality=-1), "stage 1: the quality -1 is outside accuracy's 0 to 100"),
    (stage(quality=None), r"stage 1: 'quality' is missing \(null\); write its accuracy"),
    (drop("quality"), r"stage 1: 'quality' is missing \(null\); write its accuracy"),
    (stage(quality="good"), "stage 1: 'quality' is text; write its accuracy"),
    (stage(quality=True), "stage 1: 'quality' is true or false; write its accuracy"),
    (stage(error="no", text=""), "stage 1: it has an error and a quality; take one out"),
    (stage(error=""), "stage 1: 'error' is empty"),
    (drop("text"), "stage 1: it has no column 'text'"),
    (stage(token_logprobs="-1"), "stage 1: 'token_logprobs' is text; write a list of numbers"),
    (stage(token_logprobs=[-1, None]), r"'token_logprobs' holds missing \(null\); write numbers"),
    (stage(token_logprobs=[-1, True]), "'token_logprobs' holds true or false; write numbers only"),
    (stage(token_logprobs=[-1, 0.9]), "'token_logprobs' holds 0.9; write natural logs, at most 0"),
    (stage(margins=[0.5]), "stage 1: 'margins' does not go with 'token_logprobs'"),
    (
        stage(token_logprobs=[-1], entropies=[1, 2]),
        "'entropies' does not go with 'token_logprobs'; write one number a token",
    ),
    (drop("usage"), r"stage 1: 'usage' is missing \(null\); write an object with prompt_tokens"),
    (stage(usage={"prompt_tokens": 1}), r"'completion_tokens' is missing \(null\); write a whole"),
    (
        stage(usage={"prompt_tokens": -1, "completion_tokens": 1}),
        "'prompt_tokens' is -1; write a whole number from 0",
    ),
    (drop("seconds"), r"stage 1: 'seconds' is missing \(null\); write a number from 0"),
    (stage(flops=-5), "stage 1: 'flops' is -5; write a number from 0"),
    (stage(ended="yes"), "stage 1: 'ended' is text; write true or false"),
    # scores would refuse it too: one limit for both
    (stage(token_logprobs=[2 * ROUNDING]), "'token_logprobs' holds 0.002; write natural logs"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_a_bad_row_is_named_with_its_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(broken(change)))
    with pytest.raises(DataError, match=message) as error:
        read_log(path)
    assert str(error.value).startswith(f"{path} line 4")
    path.write_text("\n".join(broken(lambda _: None)))
    assert len(read_log(path).rows) == 3


HEADERS: list[tuple[Any, str]] = [
    (None, 'its first line is no header with "format"'),
    ({"format": "other"}, 'its first line is no header with "format"'),
    ({"version": 2}, "line 1: version 2 of the log; this program reads version 1"),
    ({"version": True}, "line 1: version True"),
    ({"metric": "rouge"}, "line 1: no metric; write"),
    ({"metric": {"name": "f1", "low": 1, "high": 1}}, "line 1: the metric's low and high are no"),
    ({"metric": {"name": "f1", "low": 0}}, "line 1: the metric's low and high are no range"),
    ({"metric": {"name": "f1", "low": -1e308, "high": 1e308}}, "line 1: the metric's low and high"),
    ({"models": "small"}, "line 1: 'models' is text; write the stages' names"),
    ({"models": ["small"]}, "line 1: 1 in 'models'; a cascade has two or more"),
    ({"rows": 2}, "log.jsonl: its header says 2 rows, 1 are here; copy the whole log, or take"),
    ({"rows": "1"}, "log.jsonl: its header says text rows, 1 are here; copy the"),
]


@pytest.mark.parametrize(("changes", "message"), HEADERS)
def test_a_bad_header_is_named(tmp_path: Path, changes: Any, message: str) -> None:
    good = json.loads(header_json(METRIC, MODELS))
    head = [] if changes is None else [json.dumps(copy.copy(good) | changes)]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join([*head, row_json(row("1", "a"))]))
    with pytest.raises(DataError, match=message):
        read_log(path)


def test_a_log_that_was_cut_short_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_log(Log(METRIC, MODELS, (row("1", "a"), row("2", "b"))), path)
    assert len(read_log(path).rows) == 2
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(DataError, match="its header says 2 rows, 1 are here"):
        read_log(path)


def test_a_log_without_rows_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(header_json(METRIC, MODELS).encode()))
    with pytest.raises(DataError, match="no rows below the header; log some questions"):
        read_log(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="its first line is no header"):
        read_log(path)
