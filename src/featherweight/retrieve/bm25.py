"""Okapi BM25 over a list of texts.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with the
idf of Lucene, ln(1 + (N - df + 0.5) / (df + 0.5)), which is never negative:

    score(q, d) = sum over t in q of  qtf * idf(t) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * |d| / mean|d|))
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .terms import terms


class BM25:
    """An inverted index. `scores` touches only the postings of the query's terms."""

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        self._index(
            [Counter(terms(text)) for text in texts], k1, b
        )

    def _index(self, counts: Sequence[Counter[str]], k1: float, b: float) -> None:
        self.size = len(counts)
        lengths = np.array([count.total() for count in counts], dtype=np.float64)
        mean = lengths.mean() if lengths.any() else 1.0
        norm = k1 * (1 - b + b * lengths / mean)
        postings: dict[str, tuple[list[int], list[int]]] = {}
        for row, count in enumerate(counts):
            for term, tf in count.items():
                rows, tfs = postings.setdefault(term, ([], []))
                rows.append(row)
                tfs.append(tf)
        self.idf: dict[str, float] = {}
        self._postings: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        for term, (rows, tfs) in postings.items():
            self.idf[term] = float(np.log1p((self.size - len(rows) + 0.5) / (len(rows) + 0.5)))
            at, tf = np.array(rows), np.array(tfs, dtype=np.float64)
            self._postings[term] = at, self.idf[term] * tf * (k1 + 1) / (tf + norm[at])

    def scores(self, query: str) -> NDArray[np.float32]:
        """[n_texts] float32, one score a text; 0 where no term is shared."""
        return self.weighted(Counter(terms(query)))

    def weighted(self, query: "Counter[str] | dict[str, float]") -> NDArray[np.float32]:
        """Scores for index terms with weights, e.g. a query expanded by feedback. [n_texts]."""
        total = np.zeros(self.size)
        for term, weight in query.items():
            if term in self._postings:
                at, score = self._postings[term]
                total[at] += weight * score
        return total.astype(np.float32)
