"""Scores of whole answers against numpy and plain loops; what is wrong is said with its place."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.cascade import Answer, tokens
from featherweight.cascade.scores import Score, features, score_answers
from featherweight.cascade.tokens import ALPHAS, FEATURES
from featherweight.errors import CascadeError

TEXTS = (
    "sum mean min quantile:0.1 quantile:0.25 quantile:1.0 margin entropy length "
    "mean,no-end min,no-end quantile:0.5,no-end length,no-end"
).split()


def answers(number: int = 40, longest: int = 30, seed: int = 0) -> list[Answer]:
    """Answers of 1 to `longest` tokens, half of them ended."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(number):
        n = int(rng.integers(1, longest + 1))
        made.append(
            Answer(
                "small",
                "text",
                token_logprobs=tuple((-rng.exponential(size=n)).tolist()),
                margins=tuple(rng.uniform(size=n).tolist()),
                entropies=tuple(rng.exponential(size=n).tolist()),
                ended=i % 2 == 0,
            )
        )
    return made


def plain(score: Score, answer: Answer) -> float:
    """The score as it is defined, with numpy's own functions."""
    numbers = np.array(getattr(answer, score.stream))
    if not score.end and answer.ended and len(numbers) > 1:
        numbers = numbers[:-1]
    if score.alpha is not None:
        return float(np.quantile(numbers, score.alpha))
    return {
        "sum": numbers.sum(),
        "mean": numbers.mean(),
        "margin": numbers.mean(),
        "entropy": -numbers.mean(),
        "length": -len(numbers),
    }[score.name]


@pytest.mark.parametrize("text", TEXTS)
def test_scores_are_what_they_are_called(text: str) -> None:
    score, given_answers = Score.parse(text), answers()
    found = score_answers(score, given_answers)
    assert found.dtype == np.float64 and found.shape == (40,)
    wanted = [plain(score, answer) for answer in given_answers]
    assert found == pytest.approx(wanted, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_back(text: str) -> None:
    assert str(Score.parse(text)) == text
    assert Score.parse(str(Score.parse(text))) == Score.parse(text)


def test_names_of_one_score() -> None:
    assert Score.parse("min") == Score.parse("quantile:0") == Score("quantile", 0.0)
    assert str(Score("quantile", -0.0)) == "min" and Score("quantile", 1) == Score("quantile", 1.0)


WRONG = (
    "max mean:0.1 quantile quantile: quantile:x quantile:1.1 quantile:nan quantile:-0.1 "
    "min:0 mean,end no-end Mean quantile:inf"
)


@pytest.mark.parametrize("text", ["", *WRONG.split()])
def test_what_is_no_score_is_told_the_choices(text: str) -> None:
    with pytest.raises(CascadeError, match=r"choose|only a quantile has an alpha"):
        Score.parse(text)


@pytest.mark.parametrize("text", TEXTS)
def test_rows_do_not_depend_on_their_neighbours(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    score, rows = Score.parse(text), answers(60, 40)
    whole = score_answers(score, rows)
    alone = np.array([score_answers(score, [row])[0] for row in rows])
    monkeypatch.setattr(tokens, "CELLS", 100)
    assert whole.tobytes() == alone.tobytes() == score_answers(score, rows).tobytes()
    assert features(rows).tobytes() == np.vstack([features([row]) for row in rows]).tobytes()


def test_features_are_what_they_are_called() -> None:
    rows = answers()
    found = features(rows)
    assert found.shape == (40, 14) and len(FEATURES) == 14
    for column, name in enumerate(FEATURES):
        score = Score.parse(name)
        wanted = score_answers(score, rows)
        assert found[:, column].tolist() == (-wanted if name == "length" else wanted).tolist()
    assert features(rows, end=False)[:, 13].tolist() == [
        max(1, len(row.token_logprobs or ()) - row.ended) for row in rows
    ]
    assert [f"quantile:{alpha}" for alpha in ALPHAS] == list(FEATURES[:11])


def test_the_only_token_counts_even_if_it_is_the_end() -> None:
    short = Answer("small", "x", token_logprobs=(-0.5,), ended=True)
    assert score_answers(Score("mean", end=False), [short]).tolist() == [-0.5]


@pytest.mark.parametrize("text, tokens", [("", (-0.1,)), (" \n", (-0.1,)), ("", None), ("", ())])
def test_an_answer_that_says_nothing_is_trusted_least(text: str, tokens: Any) -> None:
    answer = Answer("small", text, 50.0, tokens, margins=tokens, ended=True)
    assert answer.failed
    for score in (Score("mean"), Score("mean", end=False), Score("margin"), Score("length")):
        assert score_answers(score, [answer]).tolist() == [-math.inf]


def test_what_failed_is_trusted_least_and_needs_no_tokens() -> None:
    failed = Answer("small", "", error="connection refused")
    rows = [failed, *answers(3), failed]
    found = score_answers(Score("mean"), rows)
    assert found[[0, 4]].tolist() == [-math.inf] * 2 and np.isfinite(found[1:4]).all()
    assert np.isnan(features(rows)[[0, 4]]).all() and np.isfinite(features(rows)[1:4]).all()
    assert score_answers(Score("mean"), [failed]).tolist() == [-math.inf]
    assert score_answers(Score("mean"), []).shape == (0,) and features([]).shape == (0, 14)


def test_a_little_rounding_of_engines_is_forgiven() -> None:
    row = Answer("small", "x", token_logprobs=(5e-4, -1.0), margins=(1.0005,), entropies=(-1e-4,))
    assert score_answers(Score("sum"), [row]) == -1.0
    assert score_answers(Score("quantile", 1.0), [row]) == 0.0
    assert score_answers(Score("margin"), [row]) == 1.0
    assert score_answers(Score("entropy"), [row]) == 0.0


@pytest.mark.parametrize(
    ("text", "change", "message"),
    [
        ("sum", {"token_logprobs": None}, "tiny, row q2: it has no log-probabilities, .*engine"),
        ("length", {"token_logprobs": None}, "tiny, row q2: it has no log-probabilities"),
        ("margin", {"margins": None}, "tiny, row q2: it has no margins, .* top log-prob"),
        ("entropy", {"entropies": None}, "tiny, row q2: it has no entropies, .* top log-prob"),
        ("mean", {"token_logprobs": ()}, "tiny, row q2: it has no log-probabilities"),
        ("margin", {"margins": ()}, "tiny, row q2: it has no margins"),
        ("sum", {"token_logprobs": (-1.0, math.nan)}, "tiny, row q2: nan among its log-prob"),
        ("sum", {"token_logprobs": (-math.inf,)}, "tiny, row q2: -inf among its log-prob"),
        ("min", {"token_logprobs": (-1.0, 0.0011)}, "0.0011 .* finite and not above 0; correct"),
        ("min", {"token_logprobs": (-1.0, None)}, "tiny, row q2: nan among its log-prob"),
        ("margin", {"margins": (1.1,)}, "tiny, row q2: 1.1 among its margins, .* from 0 to 1"),
        ("entropy", {"entropies": (-0.1,)}, "tiny, row q2: -0.1 among its entropies"),
        ("entropy", {"entropies": (math.inf,)}, "tiny, row q2: inf among its entropies"),
    ],
)
def test_bad_numbers_are_said_with_model_and_row(
    text: str, change: dict[str, object], message: str
) -> None:
    rows = answers(5)
    rows[2] = replace(rows[2], model="tiny", **change)
    with pytest.raises(CascadeError, match=message):
        score_answers(Score.parse(text), rows, [f"q{i}" for i in range(5)])
    with pytest.raises(CascadeError, match="tiny, answer 3 of 5: "):
        score_answers(Score.parse(text), rows)
    if text in ("sum", "min"):
        with pytest.raises(CascadeError, match="tiny, answer 3 of 5: "):
            features(rows)


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=30), st.floats(0, 1))
@settings(deadline=None, max_examples=300)
def test_quantiles_are_numpys_and_stay_between_their_neighbours(
    numbers: list[float], alpha: float
) -> None:
    (found,) = score_answers(
        Score("quantile", alpha), [Answer("m", "x", token_logprobs=tuple(numbers))]
    )
    assert found == pytest.approx(np.quantile(numbers, alpha), rel=1e-12, abs=1e-13)
    at, ordered = alpha * (len(numbers) - 1), sorted(numbers)
    assert ordered[math.floor(at)] <= found <= ordered[min(math.floor(at) + 1, len(numbers) - 1)]


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=12), st.floats(0, 1), st.data())
@settings(deadline=None, max_examples=300)
def test_a_surer_token_never_lowers_a_score(
    numbers: list[float], alpha: float, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(numbers) - 1))
    more = numbers.copy()
    more[at] = data.draw(st.floats(numbers[at], 0))
    pair = [Answer("m", "x", token_logprobs=tuple(row)) for row in (numbers, more)]
    for score in (Score("quantile", alpha), Score("sum"), Score("mean")):
        low, high = score_answers(score, pair)
        assert low <= high
