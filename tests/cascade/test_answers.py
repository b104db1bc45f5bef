"""What a score reads of a generation, against distributions that are known whole."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featherweight.cascade.answers import answer_of, features
from featherweight.engines.types import Generation, Request, TopLogprob, failed


def tops(chances: list[float]) -> tuple[TopLogprob, ...]:
    return tuple(TopLogprob(None, b"", math.log(p) if p else -math.inf) for p in chances)


GENERATION = Generation(
    text="ab",
    token_ids=None,
    token_logprobs=(math.log(0.5), math.log(0.7)),
    top_logprobs=(tops([0.5, 0.25, 0.125]), tops([0.7, 0.2, 0.05])),
    finish_reason="stop",
    prompt_tokens=3,
    completion_tokens=2,
    seconds=0.5,
    model="small",
)


def test_an_answer() -> None:
    answer = answer_of(GENERATION, Request("x", top_logprobs=2))
    assert answer.model == "small" and answer.text == "ab" and answer.quality is None
    assert answer.token_logprobs == GENERATION.token_logprobs and answer.ended
    assert answer.margins == pytest.approx((0.25, 0.5))
    # a half, a quarter, and a quarter that is not told apart: 1.5 bits
    assert answer.entropies is not None and answer.entropies[0] == pytest.approx(1.5 * math.log(2))
    assert (answer.prompt_tokens, answer.completion_tokens, answer.seconds) == (3, 2, 0.5)
    more = answer_of(GENERATION, Request("x", top_logprobs=3))
    assert more.margins == answer.margins and more.entropies is not None
    assert more.entropies[0] == pytest.approx(1.75 * math.log(2))


def test_what_is_not_known_is_none() -> None:
    for k in (0, 1, 4):  # not asked for, too few for a margin, fewer given than asked for
        answer = answer_of(GENERATION, Request("x", top_logprobs=k))
        assert answer.margins is None and answer.entropies is None
    hole = replace(GENERATION, top_logprobs=(tops([0.5, 0.25]), tops([0.7])))
    assert answer_of(hole, Request("x", top_logprobs=2)).margins is None
    short = replace(GENERATION, top_logprobs=(tops([0.5, 0.25]),))
    assert answer_of(short, Request("x", top_logprobs=2)).margins is None
    silent = replace(GENERATION, token_logprobs=None)
    answer = answer_of(silent, Request("x", top_logprobs=2))
    assert answer.token_logprobs is None and answer.margins is None and not answer.ended


def test_the_end_token_is_there_or_not() -> None:
    assert not answer_of(replace(GENERATION, finish_reason="length"), Request("x")).ended
    cut = replace(GENERATION, completion_tokens=4)  # two tokens went with the stop string
    assert not answer_of(cut, Request("x")).ended
    empty = replace(GENERATION, text="", token_logprobs=(), top_logprobs=(), completion_tokens=0)
    assert not answer_of(empty, Request("x")).ended


def test_a_failure_is_a_failure() -> None:
    answer = answer_of(failed("small", "small: out of memory."), Request("x", top_logprobs=2))
    assert answer.error == "small: out of memory." and answer.token_logprobs is None


@given(arrays(np.float64, st.integers(2, 12), elements=st.floats(0, 1)), st.integers(2, 12))
def test_entropy_and_margin_of_a_whole_distribution(weights: np.ndarray, k: int) -> None:
    """With every symbol told, the true entropy; with fewer, never more than it."""
    if weights.sum() < 1e-3:
        return
    chances = weights / weights.sum()
    true = float(-(chances[chances > 0] * np.log(chances[chances > 0])).sum())
    ordered = sorted(chances.tolist(), reverse=True)
    whole = features([tops(chances.tolist())], len(chances))
    assert whole is not None
    assert whole[0] == pytest.approx((ordered[0] - ordered[1], true), abs=1e-6)
    part = features([tops(chances.tolist())], k)
    assert (part is None) == (k > len(chances))
    if part is not None:
        assert 0 <= part[0][1] <= true + 1e-6 and part[0][0] == whole[0][0]
