"""ROUGE as Google's rouge-score 0.1.2 counts it, through rouge-score-rs, which is bit-identical.

Lin 2004. Stemmer on. Both texts are cut into sentences in the same way first, since rougeLsum
takes the union of longest common subsequences over lines: without lines it would silently be
rougeL, and with a text's own lines it would reward layout.
"""

from collections.abc import Sequence

import numpy as np

from featherweight.errors import DataError, FeatherweightError
from featherweight.evaluate.statistics import Floats
from featherweight.evaluate.text import sentences, words

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
MOST = 400_000_000  # words of an answer times words of its reference


def rouge(predictions: Sequence[str], references: Sequence[str]) -> Floats:
    """F1 in percent points, [n, 4] in the order of `ROUGE`; a text without words scores 0.

    Raises `FeatherweightError` where rouge-score-rs is not installed, `DataError` for texts so long
    that the table of their common subsequences would not fit the memory.
    """
    try:
        from rouge_score_rs.rouge_scorer import RougeScorer
    except ImportError:
        raise FeatherweightError(
            "ROUGE needs rouge-score-rs, which is not installed; "
            "run `pip install 'featherweight[eval]'`."
        ) from None
    for answer, good in zip(predictions, references, strict=False):
        if len(words(answer)) * len(words(good)) > MOST:
            raise DataError(
                f"an answer of {len(words(answer)):,} words against a reference of "
                f"{len(words(good)):,} is too long for ROUGE-L; cut it with --cap-words."
            )
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    scored = scorer.score_batch([_lines(t) for t in references], [_lines(t) for t in predictions])
    table = [[100 * row[name].fmeasure for name in ROUGE] for row in scored]
    return np.array(table, dtype=np.float64).reshape(-1, len(ROUGE))


def _lines(text: str) -> str:
    return "\n".join(sentences(text))
