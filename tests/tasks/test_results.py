"""From a run's rows to its figures, against sums by hand."""

import math
from typing import Any

import pytest

from featherweight.errors import DataError
from featherweight.evaluate.predictions import Reference
from featherweight.evaluate.score import METRICS, measure
from featherweight.evaluate.statistics import Estimate
from featherweight.tasks.results import Results, results
from featherweight.tasks.run import Outcome
from featherweight.tasks.types import Example, Task

ANSWERS = {
    "M1/0": "The group settled the budget of the remote control.",
    "M1/1": "They met.",
    "M2/0": "",
    "M3/0": "Nobody objected to the new price of nineteen euros.",
}
TARGETS = {
    "M1/0": "The budget of the remote was settled.",
    "M1/1": "They met on Monday.",
    "M2/0": "Nothing.",
    "M3/0": "The price is nineteen euros.",
}


def summaries(**more: Any) -> Task:
    examples = (Example(id, "?", target, id.split("/")[0]) for id, target in TARGETS.items())
    return Task("t", "summary", tuple(examples), **more)


def rows_of(answers: dict[str, str]) -> dict[str, Any]:
    return {id: {"id": id, "prediction": text} for id, text in answers.items()}


def means(found: Results) -> dict[str, float]:
    return {name: one.mean for name, one in found.metrics.items()}


# ---- summaries


def test_summaries_are_scored_against_their_targets() -> None:
    found = results(summaries(), Outcome(rows_of(ANSWERS), {}))
    assert (found.n, found.groups, found.missing) == (4, 3, 0)
    references = [Reference(text, "", False, "", "") for text in TARGETS.values()]
    table = measure(list(ANSWERS.values()), references)
    assert means(found) == pytest.approx(dict(zip(METRICS, table.mean(axis=0), strict=True)))
    assert found.metrics["words"].mean == pytest.approx((9 + 2 + 0 + 9) / 4)
    for one in found.metrics.values():
        assert one.ci95[0] <= one.mean <= one.ci95[1] and one.ci95[0] < one.ci95[1]


def test_the_order_of_answers_does_not_matter() -> None:
    backwards = dict(reversed(rows_of(ANSWERS).items()))
    assert results(summaries(), Outcome(backwards, {})) == results(
        summaries(), Outcome(rows_of(ANSWERS), {})
    )
    rows, task = text_rows(40)  # enough for intervals to tell draws apart
    assert results(task, Outcome(dict(reversed(rows.items())), {})) == results(
        task, Outcome(rows, {})
    )


def test_what_failed_is_counted_and_left_out() -> None:
    rows = rows_of(ANSWERS)
    del rows["M1/1"]
    found = results(summaries(), Outcome(rows, {"M1/1": "no"}))
    assert (found.n, found.groups, found.missing) == (3, 3, 1)
    assert found.metrics["words"].mean == pytest.approx(6)


def test_nothing_answered() -> None:
    with pytest.raises(DataError, match="t: nothing to score; the server is gone"):
        results(summaries(), Outcome({}, {"M1/0": "the server is gone"}))
    with pytest.raises(DataError, match="t: nothing to score; no example was answered"):
        results(summaries(), Outcome({}, {}))


def test_without_targets_only_words_are_counted() -> None:
    task = Task("t", "summary", (Example("a", "?"), Example("b", "?", "x")))
    found = results(task, Outcome(rows_of({"a": "one two", "b": "x"}), {}))
    assert means(found) == {"words": 1.5}
    assert (found.n, found.groups) == (2, 2)  # no group: each its own


def test_the_seed_is_of_the_interval_only() -> None:
    rows, task = text_rows(40)
    one, two = (results(task, Outcome(rows, {}), seed) for seed in (0, 1))
    assert means(one) == means(two) and one != two


def test_as_plain_data() -> None:
    found = Results(3, 2, 1, 0, 2, {"words": Estimate(1.5, (1.0, 2.0))})
    assert found.to_json() == {
        "n": 3,
        "groups": 2,
        "missing": 1,
        "empty": 0,
        "cut_off": 2,
        "metrics": {"words": {"mean": 1.5, "ci95": [1.0, 2.0]}},
    }


# ---- did short come out short


def test_instructions_followed() -> None:
    counts = {
        "M1": (30, 100, 200),  # all as asked
        "M2": (30, 30, 200),  # medium too short, and equal is no order
        "M3": (10, 90, 300),  # in order, but two out of range
        "M4": (60, 61, 250),  # at the edges
    }
    examples, rows = [], {}
    for meeting, words in counts.items():
        for length, count in zip(("short", "medium", "long"), words, strict=True):
            id = f"{meeting}/{length}"
            examples.append(Example(id, "?", "a b", meeting, (), {"length": length}))
            rows[id] = {"prediction": "word " * count}
    found = results(Task("t", "summary", tuple(examples)), Outcome(rows, {}))
    assert found.metrics["length_followed"].mean == pytest.approx(100 * (3 + 2 + 1 + 3) / 12)
    assert found.metrics["lengths_in_order"].mean == pytest.approx(75.0)
    assert set(found.metrics) == {*METRICS, "length_followed", "lengths_in_order"}
    one = results(Task("t", "summary", tuple(examples[:1])), Outcome(rows, {}))
    assert "lengths_in_order" not in one.metrics and "length_followed" in one.metrics
    assert one.n == 1


# ---- choices


def choices(*scores: dict[str, float], **more: Any) -> tuple[Task, Outcome]:
    examples = tuple(Example(f"q{n}", "?", "yes", None, ("yes", "no")) for n in range(len(scores)))
    rows = {f"q{n}": {"scores": one, "picked": 0, **more} for n, one in enumerate(scores)}
    return Task("creak", "choice", examples), Outcome(rows, {})


def test_accuracy_by_likelihood() -> None:
    pairs = ((1, 1), (0, 1), (1, 0), (1, 1))
    scores = ({"accuracy": float(a), "accuracy_norm": float(b)} for a, b in pairs)
    found = results(*choices(*scores, logprobs=[-1.0, -2.0]))
    assert means(found) == {"accuracy": 75.0, "accuracy_norm": 75.0}
    assert (found.n, found.groups) == (4, 4)


def test_accuracy_by_generation_and_unparsed() -> None:
    task, outcome = choices(*({"accuracy": a} for a in (1.0, 0.0, 0.0, 0.0, 1.0)))
    for id in ("q1", "q2"):
        outcome.rows[id]["picked"] = None
    found = results(task, outcome)
    assert means(found) == {"accuracy": 40.0, "unparsed": 40.0}
    outcome.rows["q1"]["picked"] = 1
    assert means(results(task, outcome)) == {"accuracy": 40.0, "unparsed": 20.0}


# ---- texts


def text_rows(number: int = 5) -> tuple[dict[str, Any], Task]:
    rows = {
        f"val/{n}": {"logprob": -1.5 * n - 4, "tokens": n + 2, "words": n + 1, "bytes": 5 * n + 6}
        for n in range(number)
    }
    examples = tuple(Example(id, "", "text") for id in rows)
    return rows, Task("wikitext2", "text", examples)


def test_word_and_byte_perplexity_by_hand() -> None:
    rows, task = text_rows()
    found = results(task, Outcome(rows, {}))
    total = 1.5 * 10 + 4 * 5
    assert means(found) == pytest.approx(
        {
            "word_perplexity": math.exp(total / 15),
            "byte_perplexity": math.exp(total / 80),
            "bits_per_byte": total / 80 / math.log(2),
        }
    )
    byte, bits = found.metrics["byte_perplexity"], found.metrics["bits_per_byte"]
    assert bits.ci95 == pytest.approx(tuple(map(math.log2, byte.ci95)))
    assert (found.n, found.groups, found.missing) == (5, 5, 0)


def test_token_perplexity_by_hand() -> None:
    rows, task = text_rows()
    found = results(Task("wikitext2-tokens", "text", task.examples), Outcome(rows, {}))
    assert means(found) == pytest.approx({"token_perplexity": math.exp(35 / 20)})
