"""Evidence precision and recall against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.evaluate.evidence import (
    evidence_score,
    hits,
    overlap,
    prf,
    sentence_counts,
    turn_counts,
)

SPANS = st.tuples(st.integers(0, 3), st.integers(0, 20), st.integers(1, 20)).map(
    lambda s: (s[0], s[1], s[1] + s[2])
)


@given(SPANS, SPANS)
def test_overlap_counts_the_characters_in_both(a: tuple, b: tuple) -> None:
    both = set(range(a[1], a[2])) & set(range(b[1], b[2])) if a[0] == b[0] else set()
    assert overlap(a, b) == len(both) == overlap(b, a)


def test_half_of_the_gold_sentence_is_a_hit_and_less_is_none() -> None:
    gold = (4, 10, 20)
    assert hits((4, 15, 40), gold)
    assert not hits((4, 16, 40), gold)
    assert not hits((5, 10, 20), gold)


def test_counts_by_sentence_and_by_turn() -> None:
    gold = [(0, 0, 10), (0, 20, 30), (2, 0, 8)]
    predicted = [(0, 0, 10), (1, 0, 10), (2, 0, 30), (2, 40, 50)]
    assert sentence_counts(predicted, gold) == [4, 2, 3, 2]
    assert turn_counts(predicted, gold) == [3, 2, 2, 2]


def test_scores_are_micro_averages_and_bounds_hold_them() -> None:
    gold = [[(0, 0, 10)], [(1, 0, 10), (2, 0, 10)], [(3, 0, 4)]]
    predicted = [[(0, 0, 10), (5, 0, 10)], [(1, 0, 10)], []]
    found = evidence_score(predicted, gold, ["a", "b", "c"])
    assert found.precision.mean == pytest.approx(2 / 3)
    assert found.recall.mean == pytest.approx(2 / 4)
    assert found.f1.mean == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    for one in (found.precision, found.recall, found.f1):
        assert 0 <= one.ci95[0] <= one.mean <= one.ci95[1] <= 1


def test_everything_right_is_one_and_nothing_predicted_is_zero() -> None:
    gold = [[(0, 0, 10)], [(1, 3, 9)]]
    assert evidence_score(gold, gold, [0, 1]).f1.ci95 == pytest.approx((1, 1))
    nothing = evidence_score([[], []], gold, [0, 1])
    assert nothing.precision.mean == nothing.recall.mean == nothing.f1.mean == 0


def test_without_gold_there_is_nothing_to_score() -> None:
    with pytest.raises(ValueError, match="gold"):
        evidence_score([[(0, 0, 1)]], [[]], ["a"])


def test_prf_works_on_any_number_of_rows() -> None:
    counts = np.array([[[2, 1, 4, 1]], [[0, 0, 3, 0]]])
    assert prf(counts).shape == (2, 1, 3)
    assert prf(counts)[0, 0] == pytest.approx([0.5, 0.25, 1 / 3])
