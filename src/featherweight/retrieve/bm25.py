"""Okapi BM25 over a list of texts.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with the
idf of Lucene, ln(1 + (N - df + 0.5) / (df + 0.5)), which is never negative:

    score(q, d) = sum over t in q of
        weight(t) * idf(t) * tf * (k1 + 1) / (tf + k1 * (1 - b + b * |d| / mean |d|))
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .terms import terms


class BM25:
    """An inverted index. A query touches only the postings of its own terms."""

    def __init__(
        self,
        texts: Sequence[str],
        k1: float = 1.2,
        b: float = 0.75,
        analyze: Callable[[str], list[str]] = terms,
    ) -> None:
        self.analyze = analyze
        self.size = len(texts)
        counts = [Counter(analyze(text)) for text in texts]
        lengths = np.array([count.total() for count in counts], dtype=np.float64)
        norm = k1 * (1 - b + b * lengths / (lengths.mean() if lengths.any() else 1.0))
        postings: dict[str, tuple[list[int], list[int]]] = {}
        for row, count in enumerate(counts):
            for term, tf in count.items():
                rows, tfs = postings.setdefault(term, ([], []))
                rows.append(row)
                tfs.append(tf)
        self.idf: dict[str, float] = {}
        self.rows: dict[str, NDArray[np.int64]] = {}  # term -> texts that hold it, ascending
        self._parts: dict[str, NDArray[np.float64]] = {}  # beside `rows`: the term's score there
        for term, (rows, tfs) in postings.items():
            idf = float(np.log1p((self.size - len(rows) + 0.5) / (len(rows) + 0.5)))
            at, often = np.array(rows, dtype=np.int64), np.array(tfs, dtype=np.float64)
            self.idf[term], self.rows[term] = idf, at
            self._parts[term] = idf * often * (k1 + 1) / (often + norm[at])

    def scores(self, query: str) -> NDArray[np.float32]:
        """[n_texts] float32, one score a text; 0 where no term is shared."""
        return self.weighted(Counter(self.analyze(query))).astype(np.float32)

    def weighted(self, query: Mapping[str, float]) -> NDArray[np.float64]:
        """The scores of terms with weights, e.g. a query expanded by feedback. [n_texts]."""
        total = np.zeros(self.size)
        for term, weight in query.items():
            if term in self.rows:
                total[self.rows[term]] += weight * self._parts[term]
        return total
