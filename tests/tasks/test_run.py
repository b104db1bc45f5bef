"""A model over a task: what is asked, what is stored, what is asked again."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from scripted import ScoringEngine, ScriptedEngine, letter_likelihood, said, text_of

from featherweight.engines import Generation, Prompt, Request, TopLogprob
from featherweight.engines.types import failed
from featherweight.errors import DataError, EngineError
from featherweight.tasks import run
from featherweight.tasks.run import Outcome, prompt_sha256, prompts_sha256, run_task
from featherweight.tasks.store import Store
from featherweight.tasks.types import Example, Task

SUMMARIES = tuple(
    Example(f"M{n // 2}/{n}", f"{'long ' * (n % 3)}question {n}", f"answer {n}", f"M{n // 2}")
    for n in range(6)
)
CHOICES = (
    Example("q1", "Is it?", "yes", None, ("yes", "no"), {"answer": 0}),
    Example("q2", "Why, in many more words than before?", "b c d", None, ("a", "b c d", "e")),
)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(run.time, "perf_counter", found)
    return found


def ran(task: Task, engine: ScriptedEngine, folder: Path, **more: Any) -> Outcome:
    store = Store(folder, {"task": task.name})
    try:
        return run_task(task, engine, store, **more)
    finally:
        store.close()


def summary(examples: tuple[Example, ...] = SUMMARIES) -> Task:
    return Task("t", "summary", examples, max_tokens=7)


def echo(request: Request, before: int) -> str:
    return f" said {text_of(request)} "


# ---- summaries


def test_answers_are_stored_with_what_made_them(tmp_path: Path) -> None:
    engine = ScriptedEngine(echo)
    outcome = ran(summary(), engine, tmp_path)
    assert outcome.failed == {} and outcome.rows.keys() == {e.id for e in SUMMARIES}
    for example in SUMMARIES:
        row = dict(outcome.rows[example.id])
        assert row.pop("wall") >= 0 and row.pop("seconds") == 0.0
        assert row == {
            "id": example.id,
            "group": example.group,
            "prediction": f"said {example.prompt}",
            "model": "scripted",
            "prompt_sha256": prompt_sha256(example),
            "date": row["date"],
            "finish_reason": "stop",
            "prompt_tokens": row["prompt_tokens"],
            "completion_tokens": len(example.prompt.split()) + 1,  # type: ignore[union-attr]
        }
        assert date.fromisoformat(row["date"]) and row["prompt_tokens"] > 0
    assert all(request.max_tokens == 7 and request.temperature == 0 for request in engine.asked)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(outcome.rows)


def test_log_probabilities_are_kept(tmp_path: Path) -> None:
    """The tokens' own as they came, and of each token's alternatives the largest first."""

    def sure(request: Request, before: int) -> Generation:
        tops = tuple(
            tuple(TopLogprob(None, b"x", value) for value in pair)
            for pair in ((-3.0, -0.125), (-0.5, -1.0))
        )
        given = tops if request.top_logprobs == 2 else None
        return replace(said("so be it", 3), token_logprobs=(-0.125, -0.5), top_logprobs=given)

    task = summary()
    for row in ran(task, ScriptedEngine(sure), tmp_path / "a").rows.values():
        assert row["token_logprobs"] == (-0.125, -0.5) and "top_logprobs" not in row
    ran(task, ScriptedEngine(sure), tmp_path / "b", top_logprobs=2)
    for line in (tmp_path / "b" / "predictions.jsonl").read_text().splitlines():
        assert json.loads(line)["top_logprobs"] == [[-0.125, -3.0], [-0.5, -1.0]]


def test_requests_block_repetitions_where_asked(tmp_path: Path) -> None:
    engine = ScriptedEngine(echo)
    ran(summary(), engine, tmp_path, no_repeat=3)
    assert engine.asked and all(request.no_repeat == 3 for request in engine.asked)


def test_longest_first(tmp_path: Path) -> None:
    engine = ScriptedEngine(echo)
    ran(summary(), engine, tmp_path)
    lengths = [len(text_of(request)) for request in engine.asked]
    assert lengths == sorted(lengths, reverse=True) and len(set(lengths)) > 1


def test_the_order_of_examples_does_not_matter(tmp_path: Path) -> None:
    def kept(folder: str, examples: tuple[Example, ...]) -> dict[str, Any]:
        rows = ran(summary(examples), ScriptedEngine(echo), tmp_path / folder).rows
        return {id: {k: v for k, v in row.items() if k != "wall"} for id, row in rows.items()}

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert kept("a", SUMMARIES) == kept("b", SUMMARIES[::-1])


def test_failed_examples_are_not_stored_and_tried_again(tmp_path: Path) -> None:
    def moody(request: Request, before: int) -> Any:
        if re.search("[14]", text_of(request)) and not recovered:
            return failed("scripted", f"no: {text_of(request)}")
        return echo(request, before)

    recovered = False
    engine = ScriptedEngine(moody)
    seen: list[tuple[int, int]] = []
    outcome = ran(summary(), engine, tmp_path, progress=lambda *pair: seen.append(pair))
    assert set(outcome.failed) == {"M0/1", "M2/4"}
    assert outcome.failed["M0/1"] == "no: long question 1"
    assert outcome.rows.keys() == {"M0/0", "M1/2", "M1/3", "M2/5"}
    assert seen == [(n, 6) for n in range(7)]

    again = ran(summary(), engine, tmp_path)  # still the same
    assert set(again.failed) == set(outcome.failed) and len(engine.asked) == 8
    recovered = True
    seen.clear()
    last = ran(summary(), engine, tmp_path, progress=lambda *pair: seen.append(pair))
    assert last.failed == {} and len(last.rows) == 6 and len(engine.asked) == 10
    assert seen == [(4, 6), (5, 6), (6, 6)]
    assert ran(summary(), engine, tmp_path).rows == last.rows and len(engine.asked) == 10


def test_an_engine_that_stops_leaves_what_it_answered(tmp_path: Path) -> None:
    def breaks(request: Request, before: int) -> str:
        if "question 3" in text_of(request):
            raise EngineError("scripted: gone; start it again.")
        return echo(request, before)

    with pytest.raises(EngineError, match="gone"):
        ran(summary(), ScriptedEngine(breaks), tmp_path)
    engine = ScriptedEngine(echo)
    outcome = ran(summary(), engine, tmp_path)
    asked = {text_of(request) for request in engine.asked}
    assert "question 3" in asked and 0 < len(asked) < 6 and len(outcome.rows) == 6


def test_wall_time_adds_up_over_the_parts_of_a_run(tmp_path: Path, clock: Clock) -> None:
    def slow(request: Request, before: int) -> Any:
        clock.now += 2.5
        if "question 3" in text_of(request) and clock.now < 1000:
            raise EngineError("scripted: gone; start it again.")
        return echo(request, before)

    engine = ScriptedEngine(slow)
    with pytest.raises(EngineError):
        ran(summary(), engine, tmp_path)
    clock.now = 5000.0  # nobody waits for the time between
    outcome = ran(summary(), engine, tmp_path)
    assert sum(row["wall"] for row in outcome.rows.values()) == pytest.approx(6 * 2.5)


def test_references_are_written_beside(tmp_path: Path) -> None:
    ran(summary(), ScriptedEngine(echo), tmp_path)
    lines = (tmp_path / "references.jsonl").read_text().splitlines()
    assert {row["id"]: row["reference"] for row in map(json.loads, lines)} == {
        e.id: e.target for e in SUMMARIES
    }


# ---- choices


def test_choices_by_likelihood(tmp_path: Path) -> None:
    table = {"yes": -1.0, "no": -0.5, "a": -3.0, "b": -1.0, "c": -2.0, "d": -0.25, "e": -3.2}
    engine = ScoringEngine(lambda prompt, word: table[word])
    outcome = ran(Task("creak", "choice", CHOICES), engine, tmp_path)
    first, second = outcome.rows["q1"], outcome.rows["q2"]
    assert first["logprobs"] == [-1.0, -0.5] and second["logprobs"] == [-3.0, -3.25, -3.2]
    assert (first["picked"], first["prediction"]) == (1, "no")
    # per character: -1/3 against -0.5/2, and -3, -3.25/5, -3.2
    assert first["scores"] == {"accuracy": 0.0, "accuracy_norm": 0.0}
    assert second["scores"] == {"accuracy": 0.0, "accuracy_norm": 1.0}
    assert (second["picked"], second["prediction"]) == (0, "a")
    assert (first["completion_tokens"], second["completion_tokens"]) == (2, 5)
    assert engine.scored == [
        (e.prompt, f" {text}") for e in (CHOICES[1], CHOICES[0]) for text in e.choices
    ]
    assert first["prompt_tokens"] == engine.count_tokens("Is it?")


def test_choices_by_likelihood_without_a_tokenizer(tmp_path: Path) -> None:
    engine = ScoringEngine(counts_tokens=False)
    outcome = ran(Task("creak", "choice", CHOICES), engine, tmp_path)
    assert all(row["prompt_tokens"] == 0 for row in outcome.rows.values())


def test_choices_by_generation(tmp_path: Path) -> None:
    answers = {"Is it?": "A.", "Why": "I have no idea."}
    engine = ScriptedEngine(lambda r, n: next(v for k, v in answers.items() if k in text_of(r)))
    outcome = ran(Task("creak", "choice", CHOICES, max_tokens=8), engine, tmp_path)
    first, second = outcome.rows["q1"], outcome.rows["q2"]
    assert (first["picked"], first["scores"]) == (0, {"accuracy": 1.0})
    assert (second["picked"], second["scores"]) == (None, {"accuracy": 0.0})
    assert second["prediction"] == "I have no idea." and "logprobs" not in second
    assert not (tmp_path / "references.jsonl").exists()


def test_the_same_choice_twice_is_right_twice(tmp_path: Path) -> None:
    twins = (Example("q", "Which?", "same", None, ("same", "other", "same"), {"answer": 2}),)
    outcome = ran(Task("t", "choice", twins, max_tokens=8), ScriptedEngine("A"), tmp_path)
    assert outcome.rows["q"]["scores"]["accuracy"] == 1.0


# ---- texts


def texts(name: str, *targets: str, limit: int | None = None) -> Task:
    examples = tuple(
        Example(f"val/{n}", "", target, meta={"words": 10 + n, "bytes": 100 + n})
        for n, target in enumerate(targets)
    )
    return Task(name, "text", examples, settings={"limit": limit})


def test_articles(tmp_path: Path) -> None:
    engine = ScoringEngine(context_length=16)
    task = texts("wikitext2", "a short one", "one that is longer than the context is")
    outcome = ran(task, engine, tmp_path)
    for number, example in enumerate(task.examples):
        row = dict(outcome.rows[example.id])
        assert row.pop("wall") >= 0
        logprob = sum(letter_likelihood(ord(letter)) for letter in example.target or "")
        assert row.pop("logprob") == pytest.approx(logprob)
        size = len(example.target or "")
        assert row == {
            "id": example.id,
            "tokens": size,
            "prompt_tokens": size,
            "words": 10 + number,
            "bytes": 100 + number,
        }


@pytest.mark.parametrize(("size", "numbers"), [(10, 2), (12, 2), (24, 1), (64, 1)])
def test_token_chunks_are_of_the_engines_tokens(tmp_path: Path, size: int, numbers: int) -> None:
    engine = ScoringEngine(context_length=size)
    text = "one that is longer a bit"
    outcome = ran(texts("wikitext2-tokens", text), engine, tmp_path)
    assert list(outcome.rows) == [f"val/0/{size}-{n}" for n in range(numbers)]
    for number, row in enumerate(outcome.rows.values()):
        part = text[number * size : (number + 1) * size]
        logprob = sum(letter_likelihood(ord(letter)) for letter in part[1:])
        assert row["logprob"] == pytest.approx(logprob)
        assert (row["tokens"], row["prompt_tokens"]) == (len(part) - 1, len(part))


def test_limit_takes_the_first_chunks(tmp_path: Path) -> None:
    engine = ScoringEngine(context_length=5)
    outcome = ran(texts("wikitext2-tokens", "abcdefghijklmnop", limit=2), engine, tmp_path)
    assert len(outcome.rows) == 2
    assert ["".join(map(chr, row)) for row in engine.rows] == ["abcde", "fghij"]
    ran(texts("wikitext2-tokens", "abcdefghijklmnop", limit=2), engine, tmp_path)
    assert len(engine.rows) == 2  # chunks too are scored once


def test_a_prefix_is_read_and_not_scored(tmp_path: Path) -> None:
    engine = ScoringEngine(context_length=10)
    task = texts("wikitext2-tokens", "abcdefghijklmnopqrst")
    task = replace(task, settings={**task.settings, "prefix": 4})
    outcome = ran(task, engine, tmp_path / "a")
    for row, part in zip(outcome.rows.values(), ("efghij", "opqrst"), strict=True):
        assert row["logprob"] == pytest.approx(sum(letter_likelihood(ord(c)) for c in part))
        assert (row["tokens"], row["prompt_tokens"]) == (6, 10)
    task = replace(task, settings={**task.settings, "prefix": 10})
    with pytest.raises(DataError, match="a prefix of 10 leaves nothing of chunks of 10 tokens"):
        ran(task, engine, tmp_path / "b")


def test_an_engine_that_cannot_is_named(tmp_path: Path) -> None:
    class Silent(ScoringEngine):
        def encode(self, text: str) -> tuple[int, ...]:
            raise EngineError(f"{self.name}: no probabilities; name another.")

        def score(self, pairs: Any) -> Iterator[tuple[float, ...]]:
            raise EngineError(f"{self.name}: no probabilities; name another.")

    for number, task in enumerate(
        (texts("wikitext2", "a"), texts("wikitext2-tokens", "a"), Task("t", "choice", CHOICES))
    ):
        with pytest.raises(EngineError, match="scripted: no probabilities"):
            ran(task, Silent(), tmp_path / str(number))


# ---- hashes


def test_hashes_follow_what_is_asked() -> None:
    base = prompts_sha256(summary())
    assert prompts_sha256(summary(SUMMARIES[:5])) != base
    chat: Prompt = [{"role": "user", "content": "question 0"}]
    assert prompts_sha256(summary((Example("M0/0", chat), *SUMMARIES[1:]))) != base
    other = Example("M0/0", "question 0", "another target", "M0")
    assert prompts_sha256(summary((other, *SUMMARIES[1:]))) == base  # not what is asked
    one, two = (texts("wikitext2", target) for target in ("a", "b"))
    assert prompts_sha256(one) != prompts_sha256(two)
    choices = [
        Task("t", "choice", (Example("q", "?", "a", None, c),)) for c in (("a", "b"), ("a", "c"))
    ]
    assert prompts_sha256(choices[0]) != prompts_sha256(choices[1])
    assert prompt_sha256(SUMMARIES[0]) != prompt_sha256(SUMMARIES[1])


def test_an_answer_cut_off_says_so(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda request, before: said("so it", 5, cut_off=True))
    outcome = ran(summary(SUMMARIES[:1]), engine, tmp_path)
    assert outcome.rows["M0/0"]["finish_reason"] == "length"
