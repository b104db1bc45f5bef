"""Faithfulness: matrices by hand, and entailment by plain containment."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherweight.errors import DataError
from featherweight.evaluate import entailment
from featherweight.evaluate.entailment import (
    aggregate,
    align_chunks,
    chunks,
    faithfulness,
    summac_zs,
    supports,
)
from featherweight.evaluate.text import sentences

SOURCE = "Ann likes red. Bob likes blue. They chose red! Who writes it up?"
SENTENCES = st.lists(
    st.text(alphabet="abc ", min_size=1, max_size=8)
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
    .map(lambda text: text + "."),
    min_size=1,
    max_size=8,
)


class Contained:
    """P = 1 where the premise contains the hypothesis, else 0.25; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, premises: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        pairs = list(zip(premises, hypotheses, strict=True))
        self.asked += pairs
        return [1.0 if hypothesis in premise else 0.25 for premise, hypothesis in pairs]


@pytest.mark.parametrize(
    ("matrix", "best", "score"),
    [
        ([[0.5]], [0.5], 0.5),
        ([[0.1, 0.9], [0.7, 0.2]], [0.7, 0.9], 0.8),  # max down, then mean: not mean, then max
        ([[0.0, 1.0, 0.3]], [0.0, 1.0, 0.3], 1.3 / 3),
        ([[0.2], [0.8], [0.4]], [0.8], 0.8),
        ([[0.0, 0.0]], [0.0, 0.0], 0.0),
        ([[], []], [], None),  # no claims: not measured, which is not 0
    ],
)
def test_aggregation_by_hand(
    matrix: list[list[float]], best: list[float], score: float | None
) -> None:
    assert supports(matrix).tolist() == pytest.approx(best)
    assert aggregate(matrix) == (None if score is None else pytest.approx(score))


@pytest.mark.parametrize("matrix", [np.empty((0, 3)), np.empty((0, 0)), [0.5], [], 0.5])
def test_without_a_premise_there_is_no_answer(matrix: object) -> None:
    with pytest.raises(ValueError, match="at least one premise"):
        aggregate(matrix)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no probability"):
        aggregate([[0.5, value]])


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=6))
def test_more_source_never_lowers_a_score(rows: list[list[float]]) -> None:
    score, fewer = aggregate(rows), aggregate(rows[:1])
    assert score is not None and fewer is not None
    assert fewer - 1e-9 <= score <= max(map(max, rows)) + 1e-9
    assert aggregate(rows[::-1]) == pytest.approx(score)
    assert aggregate([row[::-1] for row in rows]) == pytest.approx(score)


def test_sentence_by_sentence() -> None:
    found = summac_zs(SOURCE, "They chose\nred! Carl likes pink.", Contained())
    assert found.claims == ("They chose red!", "Carl likes pink.")
    assert found.supports == (1.0, 0.25)
    assert found.score == 0.625


def test_every_premise_meets_every_claim_once() -> None:
    entail = Contained()
    summac_zs(SOURCE + " Yes. Yes. Yes.", "Yes. No. Yes.", entail)
    assert len(entail.asked) == 5 * 2
    assert set(entail.asked) == {
        (p, c) for p in [*sentences(SOURCE), "Yes."] for c in ("Yes.", "No.")
    }


@given(SENTENCES, SENTENCES, st.data())
def test_copied_sentences_are_supported(
    source: list[str], foreign: list[str], data: st.DataObject
) -> None:
    copied = data.draw(st.lists(st.sampled_from(source), min_size=1, max_size=4))
    text = "\n".join(source)
    assert summac_zs(text, " ".join(copied), Contained()).score == 1
    assert align_chunks(text, " ".join(copied), Contained()).score == 1
    marked = [f"x{one}" for one in foreign]  # x is no letter of the source
    assert summac_zs(text, " ".join(marked), Contained()).score == 0.25
    mixed = summac_zs(text, " ".join(copied + marked), Contained()).score
    assert mixed == pytest.approx((len(copied) + 0.25 * len(marked)) / len(copied + marked))


def test_what_stands_in_two_sentences_needs_a_chunk() -> None:
    def entail(premises: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        return [float("Ann" in premise and "Bob" in premise) for premise in premises]

    assert summac_zs(SOURCE, "Anything.", entail).score == 0
    assert align_chunks(SOURCE, "Anything.", entail).score == 1


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (10, 350, [10]),  # 20 words: one chunk
        (10, 10, [3, 3, 3, 1]),  # 20 // 10 + 1 = 3 chunks' worth: 3 sentences each
        (10, 4, [1] * 10),  # 6 chunks' worth: 10 // 6 = 1
        (3, 1, [1] * 3),  # never less than a sentence
        (0, 350, []),
    ],
)
def test_chunks_are_cut_as_alignscore_cuts(count: int, size: int, expected: list[int]) -> None:
    text = " ".join(f"Number {i}." for i in range(count))
    found = chunks(text, size)
    assert [len(sentences(chunk)) for chunk in found] == expected
    assert " ".join(found) == text


@given(st.integers(1, 400), st.integers(1, 30))
def test_chunks_are_about_as_long_as_asked(count: int, length: int) -> None:
    text = " ".join(" ".join(["word"] * length) + "." for _ in range(count))
    found = chunks(text)
    assert " ".join(found) == text
    assert all(len(chunk.split()) <= 350 for chunk in found)
    assert len(found) <= 2 * (count * length // 350 + 1)


def test_an_empty_summary_is_not_measured() -> None:
    entail = Contained()
    assert summac_zs(SOURCE, " \n", entail) == entailment.Support(None, (), ())
    assert faithfulness([SOURCE, SOURCE], ["", "They chose red!"], entail) == [None, 1.0]
    assert faithfulness([SOURCE], [""], entail) == [None]


@pytest.mark.parametrize("style", ["summac-zs", "align"])
def test_an_empty_source_is_an_error_before_any_work(style: str) -> None:
    entail = Contained()
    with pytest.raises(DataError, match="source of summary 2 is empty"):
        faithfulness([SOURCE, "\n "], ["Yes.", ""], entail, style)
    assert not entail.asked


def test_without_a_model_nothing_is_measured() -> None:
    assert faithfulness([SOURCE, SOURCE], ["Yes.", ""], None) == [None, None]


@pytest.mark.parametrize("style", ["summac-zs", "align"])
def test_together_as_one_by_one(style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared sources are cut once, shared claims asked once, and no score changes."""
    other = "Dora objects. Ann likes blue."
    sources = [SOURCE, other, SOURCE, other, SOURCE]
    summaries = [
        "They chose red!",
        "Dora objects. No!",
        "They chose red! No!",
        "",
        "Ann likes red.",
    ]
    one_by_one = [
        faithfulness([source], [summary], Contained(), style)[0]
        for source, summary in zip(sources, summaries, strict=True)
    ]
    cut: list[str] = []
    original = entailment.STYLES[style]

    def counted(text: str) -> list[str]:
        cut.append(text)
        return original(text)

    monkeypatch.setattr(entailment, "STYLES", {style: counted})
    monkeypatch.setattr(entailment, "SLICE", 3)
    entail = Contained()
    seen: list[tuple[int, int]] = []
    together = faithfulness(
        sources, summaries, entail, style, progress=lambda *done: seen.append(done)
    )
    assert together == one_by_one
    assert set(together) == {1.0, 0.625, None}
    assert cut == [SOURCE, other]
    pairs = (4 * 3 + 2 * 2) if style == "summac-zs" else 3 + 2
    assert len(set(entail.asked)) == len(entail.asked) == pairs
    assert seen[-1] == (pairs, pairs)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="summac-zs, align"):
        faithfulness([SOURCE], ["Yes."], Contained(), "conv")
    with pytest.raises(ValueError, match="1 sources and 2 summaries"):
        faithfulness([SOURCE], ["Yes.", "No."], Contained())
    with pytest.raises(ValueError, match="for 4 pairs"):
        summac_zs(SOURCE, "Yes.", lambda premises, hypotheses: [0.5])
