import math
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from featherweight.retrieve import BM25
from featherweight.retrieve.terms import stem, terms, words

WORDS = st.sampled_from(["remote", "control", "battery", "price", "market", "the", "Zürich", "25"])
TEXTS = st.lists(st.lists(WORDS, max_size=8).map(" ".join), max_size=12)


def oracle(texts: list[str], query: str, k1: float, b: float) -> list[float]:
    docs = [Counter(terms(text)) for text in texts]
    mean = sum(doc.total() for doc in docs) / len(docs) or 1.0
    scores = []
    for doc in docs:
        score = 0.0
        for term in terms(query):
            df = sum(term in other for other in docs)
            idf = math.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
            tf = doc[term]
            score += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * doc.total() / mean)) if tf else 0
        scores.append(score)
    return scores


@given(TEXTS, st.lists(WORDS, max_size=5).map(" ".join), st.floats(0.1, 3), st.floats(0, 1))
def test_equals_the_formula_written_out(texts: list[str], query: str, k1: float, b: float) -> None:
    scores = BM25(texts, k1=k1, b=b).scores(query)
    assert scores.dtype == np.float32 and scores.shape == (len(texts),)
    if texts:
        np.testing.assert_allclose(scores, oracle(texts, query, k1, b), rtol=1e-5, atol=1e-6)


def test_the_text_that_says_it_wins() -> None:
    scores = BM25(["We like red.", "The battery costs two euros.", "Yeah."]).scores("battery cost")
    assert scores.argmax() == 1 and scores[2] == 0


def test_words_of_speech() -> None:
    assert words("We 're {vocalsound} on the l_c_d_ , don't") == [
        "we",
        "re",
        "on",
        "the",
        "lcd",
        "don",
        "t",
    ]
    assert terms("um the {disfmarker} a_m_i_ Corpus") == [stem("ami"), stem("corpus")]
    assert terms("") == []
    assert terms("12.5 Ευρώ") == ["12.5", "ευρώ"]


def test_inflections_share_a_stem() -> None:
    assert len({stem(word) for word in ("design", "designs", "designed", "designing")}) == 1
    assert len({stem(word) for word in ("battery", "batteries")}) == 1
    assert stem("colour") == stem("color") and stem("organise") == stem("organizing")
    assert stem("bus") == "bus"
