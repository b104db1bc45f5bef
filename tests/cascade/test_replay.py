"""A learner's way through a log: what it may look at, orders, regret, and bad logs."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from question_streams import made, streamed

from featherweight.cascade.events import STUDENT
from featherweight.cascade.hindsight import always, best_fixed, fixed, from_first
from featherweight.cascade.online import Learner, Settings
from featherweight.cascade.replay import Replay, Stream, question, replay, stream
from featherweight.cascade.scores import Score
from featherweight.cascade.types import Answer, Log, Metric, Row
from featherweight.errors import CascadeError
from featherweight.tasks import Example


def same(a: Replay, b: Replay) -> bool:
    names = ("rows", "level", "asked", "explored", "propensity")
    return all((getattr(a, name) == getattr(b, name)).all() for name in names)


# ---- what it may look at


def test_answers_that_nobody_asked_for_are_not_looked_at() -> None:
    """Poisoned ones change no decision: not their text, quality, cost or log-probabilities."""
    log, examples = made(600)
    settings = Settings(0.3)
    clean = stream(log, examples, [Score("mean")], "flops")
    first = replay(clean, Learner(2, settings))
    assert (~first.asked[:, 1]).sum() > 50 and (~first.asked[:, 0]).sum() > 50
    rows = []
    for row, asked in zip(log.rows, first.asked, strict=True):
        poison = Answer("", "poison", 0.0, (-9.0,), flops=1e6, seconds=1e6)
        stages = [
            answer if there else replace(poison, model=answer.model)
            for answer, there in zip(row.stages, asked, strict=True)
        ]
        rows.append(replace(row, stages=tuple(stages)))
    poisoned = stream(replace(log, rows=tuple(rows)), examples, [Score("mean")], "flops")
    again = replay(poisoned, Learner(2, settings))
    assert same(first, again) and (first.cost == again.cost).all()
    # and those that were asked for do: the check above can fail
    swapped = [replace(r, stages=(r.stages[0], replace(r.stages[1], text="no"))) for r in log.rows]
    other = stream(replace(log, rows=tuple(swapped)), examples, [Score("mean")], "flops")
    assert not same(first, replay(other, Learner(2, settings)))


def test_qualities_are_for_measuring_only() -> None:
    log, examples = made(400)
    wrong = [
        replace(r, stages=tuple(replace(a, quality=100 - (a.quality or 0)) for a in r.stages))
        for r in log.rows
    ]
    settings = Settings(0.3)
    one = replay(stream(log, examples, [Score("mean")], "flops"), Learner(2, settings))
    two = replay(
        stream(replace(log, rows=tuple(wrong)), examples, [Score("mean")], "flops"),
        Learner(2, settings),
    )
    assert same(one, two) and one.quality.mean() > 0.8


# ---- what it measures


def test_cost_and_quality_are_those_of_who_was_asked_and_who_answered() -> None:
    found = streamed(300)
    run = replay(found, Learner(2, Settings(0.3)), order=range(299, -1, -1))
    assert run.rows.tolist() == list(range(299, -1, -1))
    for n, row in enumerate(run.rows):
        answers = found.log.rows[row].stages
        asked = [a for a, there in zip(answers, run.asked[n], strict=True) if there]
        assert run.cost[n] == sum(a.flops or 0 for a in asked)
        if run.level[n] != STUDENT:
            assert run.quality[n] == (answers[run.level[n]].quality or 0) / 100
            assert run.agreement[n] == (answers[run.level[n]].text == answers[1].text)
        elif run.agreement[n]:
            assert run.quality[n] == (answers[1].quality or 0) / 100
        else:  # a yes/no question: right where the large one is wrong
            assert run.quality[n] == 1 - (answers[1].quality or 0) / 100
    assert (run.level == STUDENT).any() and run.unjudged == 0
    expected = run.quality - 0.3 * run.cost / found.cost[:, 1].mean()
    np.testing.assert_allclose(run.value, expected)


def test_an_answer_that_nobody_can_judge_counts_as_wrong() -> None:
    log, examples = made(300)
    bare = {id: replace(e, choices=(), meta={}) for id, e in examples.items()}
    run = replay(stream(log, bare, [Score("mean")], "flops"), Learner(2, Settings(0.3)))
    told = [
        [a.text for a in log.rows[row].stages]
        for row, level in zip(run.rows, run.level, strict=True)
        if level == STUDENT
    ]
    alone = (run.level == STUDENT) & (run.agreement == 0)
    agreeing = sum(a == b for a, b in told)
    assert 0 < run.unjudged <= alone.sum() and len(told) > agreeing
    assert (run.quality[alone] == 0).sum() >= run.unjudged


def test_the_curve_ends_with_the_whole_stream() -> None:
    found = streamed(300)
    run = replay(found, Learner(2, Settings(0.3)))
    best = best_fixed(found, 0.3)
    rows = run.curve(best, points=7)
    assert [row["requests"] for row in rows][:2] == [1, 51] and len(rows) == 7
    last = rows[-1]
    assert last["requests"] == 300 and last["cost"] == pytest.approx(run.cost.sum())
    assert last["quality"] == pytest.approx(run.quality.mean())
    assert last["regret"] == pytest.approx(best.value.sum() - run.value.sum())
    assert last["regret_per_request"] == pytest.approx(last["regret"] / 300)
    assert last["student"] == (run.level == STUDENT).mean()
    assert 0 < last["explored"] < 1 and last["asked_last"] == run.asked[:, 1].mean()


# ---- whom it is compared with


def brute(found: Stream, price: float, scores: np.ndarray, rows: list[int]) -> float:
    """The best value of all thresholds, row by row."""
    worth = []
    grid = [[-np.inf, *sorted(set(scores[rows, j])), np.inf] for j in range(scores.shape[1])]
    for thresholds in product(*grid):
        total = 0.0
        for row in rows:
            paid = 0.0
            for stage in range(found.cost.shape[1]):
                paid += found.cost[row, stage]
                if stage == scores.shape[1] or (
                    np.isfinite(scores[row, stage]) and scores[row, stage] >= thresholds[stage]
                ):
                    break
            total += found.quality[row, stage] - price * paid / found.unit
        worth.append(total)
    return max(worth)


@pytest.mark.parametrize("stages", [2, 3])
def test_the_best_fixed_thresholds_are_the_best(stages: int) -> None:
    rng = np.random.default_rng(stages)
    for price in (0.05, 0.3, 1.0):
        n = 24 if stages == 3 else 60
        rows, examples = [], {}
        for number in range(n):
            answers = [
                Answer(
                    f"m{stage}",
                    str(rng.integers(3)),
                    float(rng.integers(2)),
                    (float(-rng.integers(1, 8)),),  # with ties
                    flops=float(rng.uniform(1, 3) * 4**stage),
                )
                for stage in range(stages)
            ]
            if number % 9 == 0:  # one that failed
                answers[0] = Answer("m0", "", error="broke", flops=0.5)
            rows.append(Row(str(number), str(number), "test", tuple(answers)))
            examples[str(number)] = Example(str(number), "words")
        models = tuple(f"m{stage}" for stage in range(stages))
        log = Log(Metric("accuracy", 0, 1), models, tuple(rows))
        found = stream(log, examples, [Score("sum")] * (stages - 1), "flops")
        best = best_fixed(found, price)
        every = list(range(n))
        assert best.value.sum() == pytest.approx(brute(found, price, found.scores, every))
        part = every[: n // 2]
        chosen = best_fixed(found, price, rows=part)
        wanted = brute(found, price, found.scores, part)
        assert chosen.value[part].sum() == pytest.approx(wanted)
        other = rng.normal(size=found.scores.shape)
        other[np.isneginf(found.scores)] = -np.inf
        two = best_fixed(found, price, {"sum": found.scores, "noise": other})
        wanted = max(brute(found, price, scores, every) for scores in (found.scores, other))
        assert two.value.sum() == pytest.approx(wanted) and two.name in ("sum", "noise")


def test_the_ends_of_fixed_thresholds_are_single_models() -> None:
    found = streamed(100)
    trusts = fixed(found, 0.2, "all", [-np.inf], found.scores)
    small = always(found, 0.2, 0)
    assert (trusts.value == small.value).all() and small.name == "always small"
    doubts = fixed(found, 0.2, "none", [np.inf], found.scores)
    assert (doubts.quality == found.quality[:, 1]).all()
    assert (doubts.cost == found.cost.sum(axis=1)).all()
    assert always(found, 0.2, 1).cost.mean() == found.unit


def test_thresholds_from_the_first_pay_for_their_labels() -> None:
    found = streamed(400)
    order = np.random.default_rng(1).permutation(400)
    first, rest = order[:100], order[100:]
    chosen = from_first(found, 0.2, order, 100)
    assert (chosen.cost[first] == found.cost[first].sum(axis=1)).all()
    assert (chosen.quality[first] == found.quality[first, 1]).all()
    seen = best_fixed(found, 0.2, rows=first.tolist(), by="agreement")
    assert chosen.thresholds == seen.thresholds
    assert (chosen.value[rest] == seen.value[rest]).all()
    paid = chosen.quality[first] - 0.2 * chosen.cost[first] / found.unit
    np.testing.assert_allclose(chosen.value[first], paid)


def test_a_threshold_can_be_chosen_by_agreement() -> None:
    """Where the large one is always wrong, agreeing with it is worth nothing in hindsight."""
    log, examples = made(300)
    wrong = [replace(r, stages=(r.stages[0], replace(r.stages[1], quality=0.0))) for r in log.rows]
    found = stream(replace(log, rows=tuple(wrong)), examples, [Score("mean")], "flops")
    by_quality = best_fixed(found, 0.2)
    by_agreement = best_fixed(found, 0.2, by="agreement")
    assert by_quality.quality.mean() > by_agreement.quality.mean()
    assert by_agreement.agreement.mean() > by_quality.agreement.mean()


# ---- a domain shift


def test_after_a_shift_it_learns_again() -> None:
    """In the second domain the small model knows other topics, and all words are new."""
    found = streamed(2400, domains=2)
    domain = np.array([row.group == "domain 1" for row in found.log.rows])
    order = np.argsort(domain, kind="stable")
    learner = Learner(2, Settings(0.2))
    run = replay(found, learner, order)
    begin = int((~domain).sum())
    assert not domain[run.rows[:begin]].any() and domain[run.rows[begin:]].all()
    value = run.value
    before, after, later = value[begin - 400 : begin], value[begin : begin + 100], value[-400:]
    assert after.mean() < before.mean() - 0.05 and later.mean() > after.mean() + 0.05
    large = always(found, 0.2, 1)
    assert later.mean() > large.value.mean() + 0.05
    mixed = replay(found, Learner(2, Settings(0.2)), np.random.default_rng(0).permutation(2400))
    assert sorted(mixed.rows) == sorted(run.rows) and not same(mixed, run)


# ---- logs that cannot be replayed


def test_bad_logs() -> None:
    log, examples = made(20)
    score = [Score("mean")]
    with pytest.raises(CascadeError, match=r"'q0': no such question; name the task"):
        stream(log, {}, score, "flops")
    with pytest.raises(CascadeError, match="2 scores for 2 stages"):
        stream(log, examples, score * 2, "flops")
    with pytest.raises(CascadeError, match="'q0': the usd of small are not known"):
        stream(log, examples, score, "usd")

    def with_last(answer: Answer) -> Log:
        first = replace(log.rows[0], stages=(log.rows[0].stages[0], answer))
        return replace(log, rows=(first, *log.rows[1:]))

    broken = with_last(Answer("large", "", error="it broke", flops=1.0))
    with pytest.raises(CascadeError, match=r"large, failed \(it broke\); ask it again"):
        stream(broken, examples, score, "flops")
    free = [replace(r, stages=tuple(replace(a, seconds=0.0) for a in r.stages)) for r in log.rows]
    with pytest.raises(CascadeError, match="all seconds of large are 0"):
        stream(replace(log, rows=tuple(free)), examples, score, "seconds")
    mute = replace(log.rows[0].stages[0], token_logprobs=None)
    silent = replace(log.rows[0], stages=(mute, log.rows[0].stages[1]))
    with pytest.raises(CascadeError, match=r"small.*log-probabilities"):
        stream(replace(log, rows=(silent,)), examples, score, "flops")


def test_failed_answers_of_the_small_model_are_passed_on() -> None:
    log, examples = made(200)
    rows = []
    for number, row in enumerate(log.rows):
        first = row.stages[0]
        if number % 5 == 0:
            first = Answer("small", "", error="it broke")
        elif number % 5 == 1:  # it wrote nothing
            first = replace(first, text="", token_logprobs=(), quality=0.0)
        rows.append(replace(row, stages=(first, row.stages[1])))
    found = stream(replace(log, rows=tuple(rows)), examples, [Score("mean")], "flops")
    run = replay(found, Learner(2, Settings(0.3, warmup=10)))
    bad = run.rows % 5 < 2
    tried = run.asked[:, 0] & bad & (run.level != STUDENT)
    assert tried.any() and (run.level[tried] == 1).all()


def test_the_question_is_what_the_user_says() -> None:
    assert question("plain") == "plain"
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    assert question(messages) == "one\nthree"  # type: ignore[arg-type]
