"""ROUGE is Google's to the last bit, and line breaks are worth nothing."""

import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import FeatherweightError
from featherweight.evaluate.rouge import ROUGE, rouge
from featherweight.evaluate.text import sentences

pytest.importorskip("rouge_score_rs")
google = pytest.importorskip("rouge_score.rouge_scorer")

SCORER = google.RougeScorer(list(ROUGE), use_stemmer=True)

SUMMARIES = [
    "The team agreed to ship the remote control in March. Marketing wanted a rubber case, but the "
    "industrial designer argued that titanium was cheaper. They postponed the decision on voice "
    "recognition until the next meeting.",
    "The industrial designer's argument: titanium cases are cheaper than rubber ones. Voice "
    "recognition was postponed. Will it ship in March? The marketing team agreed!",
    "The committee discussed funding for schools (about $3.5 million, i.e. 12% more than in 2019). "
    "Dr. Smith said the Welsh Government's position hadn't changed; Siân Gwenllian AM disagreed.",
    "Siân Gwenllian AM did not agree with the Government.\nFunding rose by 12% to 3.5 million.\n\n"
    "- schools\n- teachers' pay\n",
    "Agreed agreeing agreements agreeable. Agreed. The the the. Cases, cased, casing.",
    "Они договорились. 我们同意了。 Ils ont décidé d’arrêter…",
    "?!. ... --- \u2028 \n\n . !",
    "",
]


def theirs(prediction: str, reference: str) -> list[float]:
    lines = ["\n".join(sentences(text)) for text in (reference, prediction)]
    scored = SCORER.score(*lines)
    return [100 * scored[name].fmeasure for name in ROUGE]


def same(predictions: Sequence[str], references: Sequence[str]) -> None:
    found = rouge(predictions, references)
    assert found.shape == (len(predictions), 4) and found.dtype == np.float64
    expected = [theirs(*pair) for pair in zip(predictions, references, strict=True)]
    assert found.tolist() == expected  # no tolerance


def test_summaries_of_every_kind() -> None:
    pairs = [(one, other) for one in SUMMARIES for other in SUMMARIES]
    same([one for one, _ in pairs], [other for _, other in pairs])


WORDS = st.sampled_from(
    "the The meeting meetings agreed agree's agreeing, was relational generously flies dying "
    "U.S. 3.5 don't e-mail naïve Größe İstanbul \u212aelvin ſo ﬁnal CAFÉ ①② 会议 🎉 "
    ". ! ? ?! ... - _".split()
)
GAPS = st.sampled_from([" ", "\n", " \n\n\t", "\u2028", "\r\n"])
ENDS = st.sampled_from([" ", "\n", ". ", ".\n", "!\u2028", ""])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.lists(
    st.tuples(WORDS, ENDS).map("".join), max_size=40
).map("".join)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=6))
@settings(deadline=None, max_examples=150)
def test_any_texts(pairs: list[tuple[str, str]]) -> None:
    same([one for one, _ in pairs], [other for _, other in pairs])


@given(st.lists(st.tuples(WORDS, GAPS), max_size=30))
@settings(deadline=None, max_examples=60)
def test_layout_is_worth_nothing(parts: list[tuple[str, str]]) -> None:
    laid_out = "".join(word + gap for word, gap in parts)
    plain = " ".join(word for word, _ in parts)
    for reference in SUMMARIES[:2]:
        one, other = rouge([laid_out, plain], [reference] * 2)
        assert one.tolist() == other.tolist()
        one, other = rouge([reference] * 2, [laid_out, plain])
        assert one.tolist() == other.tolist()


def test_without_the_cut_line_breaks_would_pay() -> None:
    """What is avoided: on raw texts rougeLsum is rougeL, or a prize for a text's line breaks."""
    prediction, reference = SUMMARIES[1], SUMMARIES[0]
    raw = SCORER.score(reference, prediction)
    assert raw["rougeLsum"] == raw["rougeL"]
    broken = SCORER.score(reference.replace(". ", ".\n"), prediction.replace(". ", ".\n"))
    assert broken["rougeLsum"].fmeasure > raw["rougeLsum"].fmeasure
    (found,) = rouge([prediction], [reference])
    assert found[3] > found[2]
    # one sentence on both sides: nothing to take a union of
    (found,) = rouge(["we agreed to ship it"], ["they agreed it would ship"])
    assert found[3] == found[2] > 0


def test_by_hand() -> None:
    # stemmed: "ship in march agre" and "they agre on ship in march"
    (found,) = rouge(["Ships in March: agreed!"], ["They agree on shipping in march"])
    assert found[0] == pytest.approx(100 * 2 * 4 / (4 + 6))
    assert found[1] == pytest.approx(100 * 2 * 2 / (3 + 5))
    assert found[2] == found[3] == pytest.approx(100 * 2 * 3 / (4 + 6))


def test_order_of_texts_and_sides() -> None:
    a, b = "One two three. Four five six.", "Four two. Six one. Three five."
    there, back = rouge([a, b], [b, a])
    assert there[:3] == pytest.approx(back[:3])
    assert there.tolist() == theirs(a, b) and back.tolist() == theirs(b, a)
    assert rouge([a], [a]).tolist() == [[100.0] * 4]


def test_nothing_in_common_and_nothing_at_all() -> None:
    assert rouge(["", " \n", "?!", "yes"], ["yes", "yes", "yes", "no"]).tolist() == [[0.0] * 4] * 4
    assert rouge([], []).shape == (0, 4)
    with pytest.raises(ValueError, match="differ in length"):
        rouge(["one"], ["one", "two"])


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score_rs", None)
    monkeypatch.setitem(sys.modules, "rouge_score_rs.rouge_scorer", None)
    with pytest.raises(FeatherweightError, match=r"pip install 'featherweight\[eval\]'"):
        rouge(["one"], ["one"])
