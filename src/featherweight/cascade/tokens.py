"""Numbers of tokens as arrays, checked, and the arithmetic that both ways of scoring share.

A threshold often equals some answer's score, so an answer scored token by token must get the same
bits as in a log scored at once. Sums are therefore sequential everywhere, and a quantile is one
formula. Every stream is turned into values that are at most 0, where 0 is the best a token can do:
a log-probability, a margin less 1, minus an entropy. So a token more never raises a sum, and
rounding, which is monotone, cannot break that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.types import Answer, Floats
from featherweight.errors import CascadeError

Stream = Literal["token_logprobs", "margins", "entropies"]

ROUNDING = 1e-3  # engines round: a log-probability so little above 0 counts as 0
LIMITS: dict[Stream, tuple[float, float]] = {
    "token_logprobs": (-np.inf, ROUNDING),
    "margins": (-ROUNDING, 1 + ROUNDING),
    "entropies": (-ROUNDING, np.inf),
}
ALTERNATIVES = (
    "ask the engine for top log-probabilities (`cascade log --margins` does), or use another score"
)
PLAIN: dict[Stream, tuple[str, str]] = {  # what it is called, and how to get it
    "token_logprobs": (
        "log-probabilities",
        "use an engine that gives them, or leave the stage out",
    ),
    "margins": ("margins", ALTERNATIVES),
    "entropies": ("entropies", ALTERNATIVES),
}

ALPHAS = tuple(i / 10 for i in range(11))
FEATURES = (*(f"quantile:{alpha}" for alpha in ALPHAS), "mean", "sum", "length")
"""Columns of `features`: quantiles of the log-probabilities (the first is the minimum, the last
the maximum), their mean and their sum in nats, and how many they are."""
LENGTH = FEATURES.index("length")

CELLS = 1 << 20  # numbers of a padded block: what is held at once


@dataclass(frozen=True, slots=True)
class Block:
    """Answers of similar length. `rows` [m] says which; `values` [m, longest] are padded with 0,
    the end token left out where it does not count; `lengths` [m] are what counts."""

    rows: NDArray[np.intp]
    values: Floats
    lengths: NDArray[np.int64]

    def totals(self) -> Floats:
        """Sums from the first token to the last: [m]. `cumsum` is sequential, `sum` is not."""
        return np.asarray(np.cumsum(self.values, axis=1)[:, -1])

    def ordered(self) -> Floats:
        """Each row's values from the lowest: padding stays behind them, since none is above 0."""
        return np.sort(self.values, axis=1)


def value(stream: Stream, number: float | None, where: str) -> float:
    """One token's number as a value that is at most 0.

    Raises `CascadeError`, which begins with `where`, if it is missing or cannot be what it says.
    """
    low, high = LIMITS[stream]
    if number is None:
        raise missing(stream, where)
    if not (low <= number <= high and abs(number) != np.inf):
        raise _impossible(stream, number, where)
    number = float(number)  # numpy's float32 would stay one and infect the sum
    if stream == "token_logprobs":
        return min(number, 0.0) + 0.0  # no negative zero: it sorts and adds otherwise
    return min(max(number, 0.0), 1.0) - 1.0 if stream == "margins" else 0.0 - max(number, 0.0)


def _values(stream: Stream, numbers: Floats) -> Floats:
    """`value` of every number, already checked."""
    if stream == "token_logprobs":
        return np.minimum(numbers, 0.0) + 0.0
    return np.clip(numbers, 0.0, 1.0) - 1.0 if stream == "margins" else 0.0 - np.maximum(numbers, 0)


def blocks(
    stream: Stream, answers: Sequence[Answer], end: bool, ids: Sequence[str] | None = None
) -> Iterator[Block]:
    """All answers that did not fail, block by block, short ones first.

    Without `end` a last token that is the end token is left out, unless it is the only one. `ids`
    name the answers in errors; else they are numbered from 1. Raises `CascadeError` for missing or
    impossible numbers.
    """
    lists: list[tuple[float, ...]] = []
    kept: list[int] = []
    for number, answer in enumerate(answers):
        if not answer.failed:
            tokens = getattr(answer, stream)
            if not tokens:
                raise missing(stream, _where(answers, number, ids))
            lists.append(tokens)
            kept.append(number)
    if not kept:
        return
    sizes = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    order = np.argsort(sizes, kind="stable")
    rows, sizes = np.array(kept, dtype=np.intp)[order], sizes[order]
    numbers = _numbers(stream, [lists[i] for i in order], sizes, answers, rows, ids)
    ends = np.cumsum(sizes)
    drop = np.zeros(len(rows), dtype=np.bool_)
    if not end:
        drop = np.array([answers[row].ended for row in rows]) & (sizes > 1)
    start = 0
    while start < len(rows):
        # rows are sorted, so the last one is the longest
        stop = start + 1
        while stop < len(rows) and (stop + 1 - start) * sizes[stop] <= CELLS:
            stop += 1
        part = slice(start, stop)
        padded = np.zeros((stop - start, sizes[stop - 1]))
        first = ends[start] - sizes[start]
        inside = np.arange(padded.shape[1]) < sizes[part, None]
        padded[inside] = numbers[first : ends[stop - 1]]
        cut = np.flatnonzero(drop[part])
        padded[cut, sizes[part][cut] - 1] = 0.0
        yield Block(rows[part], padded, sizes[part] - drop[part])
        start = stop


def _numbers(
    stream: Stream,
    lists: Sequence[Sequence[float]],
    sizes: NDArray[np.int64],
    answers: Sequence[Answer],
    rows: NDArray[np.intp],
    ids: Sequence[str] | None,
) -> Floats:
    """All values one after another: [tokens]."""
    numbers = np.fromiter(chain.from_iterable(lists), dtype=np.float64, count=int(sizes.sum()))
    low, high = LIMITS[stream]
    wrong = ~((numbers >= low) & (numbers <= high) & np.isfinite(numbers))
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        row = rows[np.searchsorted(np.cumsum(sizes), at, side="right")]
        raise _impossible(stream, float(numbers[at]), _where(answers, row, ids))
    return _values(stream, numbers)


# ---- arithmetic


def positions(
    lengths: NDArray[Any], alphas: Sequence[float]
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Where quantiles lie among `lengths` [m] sorted values: indices below and above, and the
    share of the way between them, [m, alphas] each. The grid is alpha * (n - 1)."""
    last = lengths[:, None] - 1
    at = np.asarray(alphas) * last
    below = np.floor(at)
    low = below.astype(np.intp)
    return low, np.minimum(low + 1, last), at - below


def between(low: Floats, high: Floats, share: Floats) -> Floats:
    """Linear interpolation that is monotone in `low` and in `high` in floating point too.

    Both products are, hence their sum; kept inside [low, high] it also gives equal ends back.
    """
    mixed = np.maximum(low * (1.0 - share) + high * share, low)
    return np.asarray(np.minimum(mixed, high) + 0.0)


def between_one(low: float, high: float, share: float) -> float:
    """`between` of single numbers, same bits."""
    return min(max(low * (1.0 - share) + high * share, low), high) + 0.0


def quantiles(
    ordered: Floats, lengths: NDArray[np.int64], alphas: Sequence[float] = ALPHAS
) -> Floats:
    """Quantiles of the first `lengths` [m] values of each sorted row [m, longest]: [m, alphas]."""
    low, high, share = positions(lengths, alphas)
    row = np.arange(len(ordered))[:, None]
    return between(ordered[row, low], ordered[row, high], share)


def feature_rows(ordered: Floats, totals: Floats, lengths: NDArray[np.int64]) -> Floats:
    """`FEATURES` of sorted rows [m, longest] with their sums [m]: [m, 14]."""
    return np.column_stack([quantiles(ordered, lengths), totals / lengths, totals, lengths])


# ---- errors


def missing(stream: Stream, where: str) -> CascadeError:
    name, advice = PLAIN[stream]
    return CascadeError(f"{where}: it has no {name}, and the score needs them; {advice}.")


def _impossible(stream: Stream, number: object, where: str) -> CascadeError:
    name = PLAIN[stream][0]
    limits = {
        "token_logprobs": "finite and not above 0",
        "margins": "from 0 to 1",
        "entropies": "finite and not below 0",
    }[stream]
    return CascadeError(
        f"{where}: {number!r} among its {name}, which are {limits}; correct the log or the engine."
    )


def _where(answers: Sequence[Answer], number: int, ids: Sequence[str] | None) -> str:
    name = f"row {ids[number]}" if ids is not None else f"answer {number + 1} of {len(answers)}"
    return f"{answers[number].model}, {name}"
