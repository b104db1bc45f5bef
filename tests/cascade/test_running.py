"""A running score has the log's bits, and its bound is the highest that is still possible."""

import math

import numpy as np
import pytest
from deferral_rules import TOKENS, Token, answer, same_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.cascade.running import Running
from featherweight.cascade.scores import Score, score_answers
from featherweight.errors import CascadeError

TEXTS = "sum mean min quantile:0.1 quantile:0.37 quantile:0.9 quantile:1 margin entropy length"
SCORES = [Score.parse(text + end) for text in TEXTS.split() for end in ("", ",no-end")]


def scored(score: Score, tokens: list[Token], ended: bool) -> float:
    return float(score_answers(score, [answer(tokens, ended)])[0])


@pytest.mark.parametrize("score", SCORES, ids=str)
@given(st.lists(TOKENS, min_size=1, max_size=25), st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_final_scores_have_the_logs_bits(score: Score, tokens: list[Token], room: int) -> None:
    running = Running(score, len(tokens) + room)
    for n, token in enumerate(tokens, 1):
        running.push(*token)
        for ended in (True, False):
            assert same_bits(running.final(ended), scored(score, tokens[:n], ended))


@pytest.mark.parametrize("score", SCORES, ids=str)
@given(
    st.lists(TOKENS, min_size=1, max_size=25),
    st.booleans(),
    st.integers(0, 5),
    st.floats(0, 1),
)
@settings(deadline=None, max_examples=50)
def test_a_prefix_decides_as_the_whole_answer_does(
    score: Score, tokens: list[Token], ended: bool, room: int, where: float
) -> None:
    running = Running(score, len(tokens) + room)
    bounds = [running.bound()]
    for token in tokens:
        running.push(*token)
        bounds.append(running.bound())
    final = running.final(ended)
    assert all(bound >= final for bound in bounds)
    # thresholds that are hard to decide: the score itself, its neighbours, all bounds
    for threshold in {final, math.nextafter(final, 1), math.nextafter(final, -99), *bounds}:
        stopped = any(bound < threshold for bound in bounds)
        assert not stopped or final < threshold


@pytest.mark.parametrize("score", SCORES, ids=str)
@given(st.lists(TOKENS, min_size=1, max_size=12), st.integers(0, 6))
@settings(deadline=None, max_examples=30)
def test_some_continuation_reaches_the_bound(score: Score, tokens: list[Token], room: int) -> None:
    n_max = len(tokens) + room
    running = Running(score, n_max)
    for token in tokens:
        running.push(*token)
    best = (0.0, 1.0, 0.0)
    continued = [scored(score, tokens + [best] * more, False) for more in range(room + 1)]
    finals = [scored(score, tokens, True), *continued]
    assert running.bound() == pytest.approx(max(finals), rel=1e-13, abs=1e-300)
    assert running.bound() >= max(finals)


def test_bounds_by_hand() -> None:
    def bound(text: str, logprobs: list[float], n_max: int) -> float:
        running = Running(Score.parse(text), n_max)
        for logprob in logprobs:
            running.push(logprob, 1 + logprob / 4, -logprob)
        return running.bound()

    seen = [-1.0, -3.0]
    assert bound("sum", seen, 8) == -4
    assert bound("min", seen, 8) == -3
    assert bound("mean", seen, 8) == -0.5
    assert bound("margin", seen, 8) == 1 - (0.25 + 0.75) / 8
    assert bound("entropy", seen, 8) == -0.5
    assert bound("length", seen, 8) == -2
    assert bound("quantile:0.25", seen, 5) == pytest.approx(-1, rel=1e-15)  # of -3, -1, 0, 0, 0
    assert bound("quantile:0.5", seen, 5) == 0
    # the -3 may be the end token, and then only the -1 counts
    assert bound("sum,no-end", seen, 8) == -1
    assert bound("min,no-end", seen, 8) == -1
    assert bound("mean,no-end", seen, 8) == -0.5
    assert bound("mean,no-end", [-0.5, -100.0], 8) == -0.5
    assert bound("length,no-end", seen, 8) == -1
    assert bound("length,no-end", seen[:1], 8) == -1


def test_what_is_wrong_is_said_with_the_model_and_the_token() -> None:
    with pytest.raises(CascadeError, match="tiny: an answer of at most 0 tokens"):
        Running(Score("mean"), 0, "tiny")
    running = Running(Score("margin"), 2, "tiny")
    with pytest.raises(CascadeError, match=r"tiny, token 1: it has no margins.*top log-prob"):
        running.push(-1.0)
    running.push(None, 0.5)
    with pytest.raises(CascadeError, match="tiny, token 2: nan among its margins"):
        running.push(None, math.nan)
    running.push(None, 0.5)
    assert running.final(True) == 0.5
    with pytest.raises(CascadeError, match="tiny: it wrote more than the 2 tokens"):
        running.push(None, 0.5)
    for score in (Score("length"), Score("mean")):
        with pytest.raises(CascadeError, match="tiny, token 1: it has no log-probabilities"):
            Running(score, 2, "tiny").push(None)
        for number in (0.1, math.nan, -math.inf):
            with pytest.raises(CascadeError, match=r"tiny, token 1: .* among its log-prob"):
                Running(score, 2, "tiny").push(number)


def test_narrow_floats_do_not_narrow_the_sum() -> None:
    numbers = np.random.default_rng(0).normal(size=50).astype(np.float32)
    running = Running(Score("sum"), 50)
    for number in -abs(numbers):
        running.push(number)
    assert same_bits(
        running.final(False), scored(Score("sum"), [(-abs(x), 0, 0) for x in numbers], False)
    )


def test_a_quantiles_slack_is_needed_and_is_enough() -> None:
    """Two close values, the others 0: rounding can put a shorter answer's quantile above that of
    the longest."""
    rng = np.random.default_rng(0)
    needed = 0
    for _ in range(3000):
        alpha, n_max = float(rng.uniform(0, 0.02)), int(rng.integers(4, 50))
        low = -float(rng.exponential())
        running = Running(Score("quantile", alpha), n_max)
        finals = []
        for logprob in [low, low * (1 - 4e-16), *[0.0] * (n_max - 2)]:
            running.push(logprob)
            if len(finals) == 1:
                bound = running.bound()
            finals.append(running.final(False))
        assert bound >= max(finals[1:])
        needed += max(finals[1:]) > finals[-1]
    assert needed > 100
