"""Logs as arrays: what is refused, failures, and who answers."""

import math

import numpy as np
import pytest
from cascade_logs import log, made
from hypothesis import given
from hypothesis import strategies as st

from featherweight.cascade.path import along, answered
from featherweight.cascade.sample import answering, defers, keys, sample
from featherweight.cascade.types import Threshold
from featherweight.errors import CascadeError


def test_a_failed_answer_is_passed_on_whatever_its_score_and_worth_the_least() -> None:
    one = made([[math.nan, 80], [60, 70]], [[math.nan], [0.5]])
    assert one.scores.tolist() == [[-math.inf], [0.5]]
    assert one.quality.tolist() == [[0, 80], [60, 70]]
    assert one.loss.tolist() == [[80, 0], [10, 0]]
    all_trusted = [Threshold(0.5)]
    assert answering(one.scores, all_trusted, keys(one.log))[0].tolist() == [1, 0]
    assert made([[math.nan, 80], [60, 70]], [9.0, 0.5]).scores[0, 0] == -math.inf


def test_a_row_without_a_last_answer_cannot_be_judged() -> None:
    with pytest.raises(
        CascadeError, match=r"row 'calibrate-1': the last stage, m1, failed \(timed"
    ):
        made([[60, 80], [60, math.nan]], [1, 2])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_is_a_finite_number(bad: float) -> None:
    with pytest.raises(
        CascadeError, match=r"row 'calibrate-1': the score of stage 1 is -?(nan|inf)"
    ):
        made([[1, 2, 3]] * 2, [[1, 2], [1, bad]])


def test_shapes_must_fit_and_rows_be_there() -> None:
    with pytest.raises(ValueError, match=r"scores of shape \(2, 2\) for a log of \(2, 1\)"):
        sample(log([[1, 2]] * 2), np.ones((2, 2)))
    with pytest.raises(CascadeError, match="no rows in this split"):
        sample(log([[1, 2]]).part("test"), np.ones((0, 1)))


def test_group_means_and_costs() -> None:
    one = made([[0, 100], [100, 100], [50, 60]], [1, 2, 3], ["b", "a", "b"])
    assert one.group_means(one.quality).tolist() == [[100, 100], [25, 80]]
    assert one.cost("seconds").tolist() == [[1, 9]] * 3
    with pytest.raises(CascadeError, match=r"row 'calibrate-0': the usd of stage 0 \(m0\) are not"):
        one.cost("usd")


scores = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@given(scores, st.integers(0, 3), st.floats(0, 1), st.integers(0, 5))
def test_rows_are_decided_as_a_threshold_decides(
    values: list[int], at: int, tie: float, seed: int
) -> None:
    threshold = Threshold(at, tie, seed)
    names = [f"q{number}" for number in range(len(values))]
    expected = [threshold.defers(value, name) for value, name in zip(values, names, strict=True)]
    assert defers(np.array(values, float), threshold, names).tolist() == expected


@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=1), st.integers(0, 4), st.integers(0, 4)
)
def test_the_first_stage_that_is_trusted_answers(
    values: list[tuple[int, int]], a: int, b: int
) -> None:
    table = np.array(values, float)
    expected = [0 if x >= a else 1 if y >= b else 2 for x, y in values]
    names = ["q"] * len(values)
    chosen, passed = answering(table, [Threshold(a), Threshold(b)], names)
    assert chosen.tolist() == expected
    assert passed.sum(axis=1).tolist() == expected
    assert answered(table, np.array([a, b])).tolist() == expected
    steps = np.array([[a, b], [9, 9], [math.inf, b]])
    assert along(table, steps)[:, 0].tolist() == expected
    assert (along(table, steps)[:, 1] == 2).all()
