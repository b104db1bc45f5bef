"""The learner: what it decides and why, that labels are weighed right, that it learns."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from question_streams import streamed

from featherweight.cascade.course import Course
from featherweight.cascade.events import STUDENT
from featherweight.cascade.hashing import SIZE, hashed
from featherweight.cascade.hindsight import always, best_fixed
from featherweight.cascade.online import BATCH, LEAST, MOST, Learner, Settings
from featherweight.cascade.replay import Replay, Stream, replay
from featherweight.errors import CascadeError


def courses(found: Stream, learner: Learner) -> Iterator[Course]:
    """Each row's course, over but not yet observed; the caller has to go on for that."""
    for row, words, example, scores in zip(
        found.log.rows, found.words, found.examples, found.scores, strict=True
    ):
        course = learner.begin(learner.requests, words, example.choices)
        while (stage := course.next) is not None:
            score = float(scores[stage]) if stage < len(scores) else None
            course.take(row.stages[stage].text, score, row.stages[stage].flops)
        yield course
        learner.observe(course)


# ---- settings


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"price": 0.0}, "a price of 0 .* above 0"),
        ({"price": math.nan}, "a price of nan"),
        ({"price": math.inf}, "a price of inf"),
        ({"price": 0.1, "explore": 0.01}, "0.01 .* from 0.02 to 1"),
        ({"price": 0.1, "explore": 1.5}, "1.5 .* from 0.02 to 1"),
        ({"price": 0.1, "warmup": 0}, "warm-up of 0 .* 1 or more"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], wanted: str) -> None:
    with pytest.raises(CascadeError, match=wanted):
        Settings(**settings)  # type: ignore[arg-type]
    with pytest.raises(CascadeError, match="two or more"):
        Learner(1, Settings(0.1))


def test_the_chance_to_explore_falls_from_1_to_its_least() -> None:
    settings = Settings(0.1, explore=0.05, warmup=10)
    chances = [settings.chance(n) for n in range(200)]
    assert chances[:10] == [1.0] * 10 and chances[11] == pytest.approx(100 / 144)
    assert all(a >= b for a, b in pairwise(chances))
    assert chances[-1] == 0.05 and Settings(0.1).chance(10**9) == LEAST


# ---- what is decided


def test_what_is_ahead_is_the_cheaper_of_asking_and_skipping() -> None:
    learner = Learner(3, Settings(0.3))
    words = hashed("one two")
    for cost, sums in zip((1.0, 4.0, 10.0), learner.costs, strict=True):
        sums.add(cost)
    # gates at even odds: 0.12 + 0.5 * 0.3, then 0.03 + 0.5 * 0.27
    assert learner.ahead(words) == pytest.approx([0.165, 0.27, 0.3])
    learner.gates[1].weights[SIZE] = 10.0  # after stage 1 all is still to be done: skip it
    assert learner.ahead(words) == pytest.approx([0.03 + 0.5 * 0.3, 0.3, 0.3])
    learner.gates[0].weights[SIZE] = 10.0
    assert learner.ahead(words) == [0.3, 0.3, 0.3]


def quiet(price: float = 0.2) -> Learner:
    """After its warm-up, but as it began; its coin falls on exploring in one of 50 requests."""
    learner = Learner(2, Settings(price, warmup=1))
    learner.requests = 16 * 100
    for cost, sums in zip((1.0, 10.0), learner.costs, strict=True):
        sums.add(cost)
    return learner


def test_an_answer_is_kept_where_less_is_to_be_lost_than_is_ahead() -> None:
    for trust, kept in ((0.79, None), (0.81, 0)):
        learner = quiet(0.2)
        learner.judges[1].weights[SIZE : SIZE + 4] = 0
        learner.judges[1].weights[SIZE] = math.log(trust / (1 - trust))
        course = learner.begin(learner.requests, hashed("words"))
        assert not course.explored and course.next == 0 and course.propensity == 1
        course.take("small", -0.5, 1.0)
        assert course.trust == {0: pytest.approx(trust)} and course.kept == kept
        if kept is None:
            assert course.next == 1
            course.take("large", None, 10.0)
            assert (course.answered, course.text, course.propensity) == (1, "large", 1.0)
        else:
            assert course.next is None
            assert (course.answered, course.text, course.propensity) == (0, "small", LEAST)
            assert course.event is None  # nobody has said what is right
        learner.observe(course)


def test_a_stage_that_is_not_worth_its_cost_is_skipped() -> None:
    learner = quiet()
    learner.gates[0].weights[SIZE] = 10.0
    course = learner.begin(learner.requests, hashed("words"))
    assert course.next == 1
    course.take("Yes", None, 10.0)
    event = course.event
    assert event is not None and event.tries == (None,)
    assert (event.label, event.weight, course.said) == ("yes", 1.0, ("yes", "Yes"))


def test_the_student_answers_as_the_last_stage_wrote() -> None:
    learner = quiet()
    learner.labels.append(("yes", "Yes!"))
    learner.student.add_output()
    learner.student.weights[hashed("words").indices, 1] = 9.0
    learner.judges[0].weights[SIZE + 1] = 3.0
    course = learner.begin(learner.requests, hashed("words"))
    assert (course.kept, course.next, course.answered, course.text) == (-1, None, STUDENT, "Yes!")
    unknown = learner.begin(learner.requests, hashed("other things"))
    assert unknown.kept is None and unknown.next == 0


def test_an_explored_request_asks_all_and_gets_the_last_answer() -> None:
    learner = Learner(3, Settings(5.0))  # so dear that everything is kept
    course = learner.begin(0, hashed("words"))
    assert course.explored
    for stage, text in enumerate(("a b c d", "a b x y", "a b c y")):
        assert course.next == stage
        course.take(text, -1.0 if stage < 2 else None, 1.0)
    assert course.next is None and course.kept == 0 and course.text == "a b c y"
    event = course.event
    assert event is not None and event.label is None and event.weight == 1.0
    assert [one and one.agreement for one in event.tries] == [0.75, 0.75]


def test_where_a_stage_fails_the_next_one_is_asked() -> None:
    learner = quiet()
    course = learner.begin(learner.requests, hashed("words"))
    course.take(None, None, None)
    assert course.next == 1
    course.take("large", None, 10.0)
    assert course.text == "large" and course.event is not None and course.event.tries == (None,)
    learner.observe(course)
    course = learner.begin(learner.requests, hashed("words"))
    course.take(None, None, None)
    course.take(None, None, None)
    assert course.answered is None and course.text is None and course.event is None
    assert course.seen.said is None
    learner.observe(course)


def test_explored_and_the_last_fails_what_was_kept_stands() -> None:
    learner = Learner(2, Settings(5.0))
    course = learner.begin(0, hashed("words"))
    course.take("small", -1.0, 1.0)
    course.take(None, None, None)
    assert course.answered == 0 and course.text == "small" and course.event is None


def test_decisions_change_between_batches_only() -> None:
    found = streamed(3 * BATCH)
    learner = Learner(2, Settings(0.2, warmup=1))
    probe = hashed("d0t0w1 d0t1w2")
    before = None
    for number, _ in enumerate(courses(found, learner)):
        now = (learner.ahead(probe), learner.judged(0, probe, (1, 0.3, 0.3, 0)), learner.labels[:])
        if number % BATCH:
            assert now == before
        elif number:
            assert now != before
        before = now


def test_labels_are_few() -> None:
    learner = Learner(2, Settings(0.1, warmup=1000))
    for number in range(4 * BATCH):
        course = learner.begin(number, hashed(f"question {number}"))
        course.take("x", -1.0, 1.0)
        course.take(f"answer {number}", None, 1.0)
        learner.observe(course)
    assert len(learner.labels) == MOST and learner.student.outputs == MOST + 1
    assert learner.labels[0] == ("answer 0", "answer 0")


# ---- weights


def test_it_explores_as_often_as_it_says() -> None:
    settings = Settings(0.3, explore=0.1, warmup=5)
    runs = [replay(streamed(400, seed), Learner(2, Settings(0.3, 0.1, 5, seed))) for seed in (1, 2)]
    for run in runs:
        chances = np.array([settings.chance(n) for n in range(400)])
        spread = math.sqrt((chances * (1 - chances)).sum())
        assert abs(run.explored.sum() - chances.sum()) < 3.5 * spread
        assert run.explored[:5].all()
        # asked at the end: by the policy, propensity 1, or by the coin
        assert (run.asked[:, -1] == (run.explored | (run.propensity == 1))).all()
        assert set(run.propensity[run.propensity < 1]) <= set(chances)
    assert (runs[0].explored != runs[1].explored).any()


def test_weighted_estimates_are_unbiased_and_unweighted_ones_are_not() -> None:
    """Of the agreement of the small stage, and of the share of "yes", among all requests.

    Each request's estimate less the truth has mean 0 given the past, so their sum is a martingale:
    its spread is the root of the sum of squares.
    """
    small, label, plain = [], [], []
    for seed in range(4):
        found = streamed(800, seed)
        learner = Learner(2, Settings(0.3, explore=0.1, warmup=20, seed=seed))
        for row, course in enumerate(courses(found, learner)):
            event, truth = course.event, found.agreement[row, 0]
            one = event.tries[0] if event is not None else None
            small.append((one.weight * one.agreement if one else 0.0) - truth)
            yes = float(found.log.rows[row].stages[1].text == "yes")
            label.append((event.weight * (event.label == "yes") if event else 0.0) - yes)
            if one is not None:
                plain.append(one.agreement - found.agreement[:, 0].mean())
    for errors in (small, label):
        assert abs(sum(errors)) < 3.5 * math.sqrt(sum(e * e for e in errors))
        assert np.std(errors) > 0.5  # weights were at work
    assert np.mean(plain) < -8 * np.std(plain) / math.sqrt(len(plain))  # the doubtful ones


def test_the_audit_says_how_good_kept_answers_are() -> None:
    """Estimated from those explored; the truth is known of all that are kept."""
    found = streamed(2500, 5)
    learner = Learner(2, Settings(0.3, explore=0.2))
    truth, explored = [], 0
    for row, course in enumerate(courses(found, learner)):
        if course.kept is None or row < 64:
            continue
        large = found.log.rows[row].stages[1].text
        guessed = course.kept == STUDENT
        truth.append(course.guess == large if guessed else bool(found.agreement[row, 0]))
        explored += course.explored
    assert learner.audit.n == explored > 100
    spread = np.std(truth) * math.sqrt(5 / len(truth))  # each stands for five at the most
    assert abs((learner.audit.mean or 0) - np.mean(truth)) < 3.5 * spread


# ---- learning


@pytest.fixture(scope="module")
def learned() -> Replay:
    return replay(streamed(2000), Learner(2, Settings(0.2)))


def test_it_learns_whom_to_trust(learned: Replay) -> None:
    late = slice(1000, None)
    topics = np.array([int(e.prompt.split("t")[1][0]) for e in learned.stream.examples])  # type: ignore[union-attr]
    student, asked = learned.level[late] == STUDENT, learned.asked[late, -1]
    easy = topics[late] < 2
    assert student[easy].mean() > 0.85 and student[~easy].mean() < 0.1
    assert asked[topics[late] == 3].mean() > 0.6  # nobody else knows
    assert asked[topics[late] == 2].mean() < 0.5  # the small one does


def test_it_beats_always_asking_and_the_best_fixed_threshold(learned: Replay) -> None:
    price, found = learned.price, learned.stream
    large, small = always(found, price, 1), always(found, price, 0)
    best = best_fixed(found, price)
    assert learned.quality.mean() > large.quality.mean() - 0.02
    assert learned.cost.mean() < 0.5 * large.cost.mean()
    assert learned.value.mean() > max(v.value.mean() for v in (large, small, best)) + 0.05


def test_regret_per_request_falls(learned: Replay) -> None:
    best = best_fixed(learned.stream, learned.price)
    regret = learned.regret(best)
    assert regret[63] > 0  # the warm-up costs
    per = regret / np.arange(1, 2001)
    assert per[63] > per[250] > per[500] > per[1000] > per[-1]


def test_of_free_text_the_words_only_decide_who_is_asked() -> None:
    found = streamed(1500, 3, free=True)
    learner = Learner(2, Settings(0.15))
    run = replay(found, learner)
    assert not (run.level == STUDENT).any() and learner.labels == []
    kept = run.level == 0
    assert 0.2 < kept[750:].mean() < 0.9
    agreement = found.agreement[run.rows, 0]
    assert agreement[kept].mean() > agreement[~kept].mean() + 0.02


def test_a_gate_learns_where_the_small_stage_is_a_waste() -> None:
    """Its answers on one of the topics never agree, and cost half of the large one's."""
    found = streamed(1200, 4)
    cost = found.cost.copy()
    cost[:, 0] = 5.0
    topics = np.array([int(e.prompt.split("t")[1][0]) for e in found.examples])  # type: ignore[union-attr]
    dear = Stream(**{**vars(found), "cost": cost})
    run = replay(dear, Learner(2, Settings(0.1, warmup=200)))
    late = np.arange(1200) >= 600
    skipped = late & run.asked[:, 1] & ~run.asked[:, 0]
    tried = late & run.asked[:, 0]
    assert skipped[topics == 3].sum() > 2 * tried[topics == 3].sum()
