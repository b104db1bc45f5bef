"""Perplexity of running text, by the two conventions that are in use; never one beside the other.

Both are ratios of sums, so the interval draws whole articles (or chunks) and takes the ratio of
what was drawn.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from featherweight.engines.types import Engine
from featherweight.evaluate.statistics import Estimate, bootstrap_means, interval

CHUNK = 2048


@dataclass(frozen=True, slots=True)
class TextScore:
    """Sum of natural-log probabilities of one text and how many tokens were scored."""

    logprob: float
    tokens: int


def rolling(engine: Engine, texts: Sequence[str]) -> Iterator[TextScore]:
    """Every token of every text once, texts longer than the context in windows.

    Windows as lm-evaluation-harness has them with a context of one token: the first begins after
    the start token, each later one after the last token of the one before; the last one reaches
    back as far as the context goes, and only its new tokens count. The last token of a window
    takes a place in the context here, so windows are one token shorter than the harness's.
    """
    window = engine.context_length - 1
    for text in texts:
        ids = engine.encode(text)
        scored = list(engine.score_tokens([ids[:window]], start=True))
        spans = [(i, min(i + window, len(ids))) for i in range(window, len(ids), window)]
        rows = engine.score_tokens(ids[end - window - 1 : end] for _, end in spans)
        scored += [row[start - end :] for (start, end), row in zip(spans, rows, strict=True)]
        yield TextScore(math.fsum(map(math.fsum, scored)), sum(map(len, scored)))


def chunks(engine: Engine, text: str, size: int = CHUNK) -> list[tuple[int, ...]]:
    """The text's tokens in chunks of `size`; what is left over at the end is dropped.

    A text shorter than one chunk is one chunk.
    """
    size = min(size, engine.context_length)
    ids = engine.encode(text)
    if len(ids) < size:
        return [ids]
    return [ids[i : i + size] for i in range(0, len(ids) - size + 1, size)]


def perplexity(
    logprobs: Sequence[float], counts: Sequence[float], groups: Sequence[str], seed: int = 0
) -> Estimate:
    """exp(-sum of logprobs / sum of counts) with its interval.

    `counts` are what the sum is divided by for each text: its tokens, words or bytes.
    """
    pairs = np.column_stack([logprobs, counts])
    draws = bootstrap_means(pairs, groups, seed=seed)
    low, high = interval(np.exp(-draws[:, 0] / draws[:, 1]))
    mean = math.exp(-math.fsum(logprobs) / math.fsum(counts))
    return Estimate(mean, (float(low), float(high)))
