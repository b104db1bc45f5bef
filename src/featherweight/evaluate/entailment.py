"""Is a summary true to its source? Each of its sentences is looked for in the source by entailment.

The source is cut into premises, the summary into claims (its sentences); a claim is as well
supported as its best premise supports it, and a summary scores the mean over its claims.

- `summac_zs`: the premises are sentences (SummaC-ZS, Laban et al. 2022, with entailment alone).
  Its code stops after 100 source sentences and drops those of ten letters and fewer; here all
  count, or most of a meeting would never be read.
- `align_chunks`: the premises are chunks of about 350 words of whole sentences (AlignScore, Zha
  et al. 2023).

Any function from premises and hypotheses to P(entailment) will do; `nli.open_nli` opens one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherweight.errors import DataError
from featherweight.evaluate.text import sentences, words

Floats = NDArray[np.float64]
Entail = Callable[[list[str], list[str]], ArrayLike]

CHUNK_WORDS = 350
SLICE = 4096  # pairs asked at once: few enough to report progress, enough to sort by length


@dataclass(frozen=True, slots=True)
class Support:
    """How well a summary's claims are supported; `score` is None where there is no claim.

    None means not measured: an empty summary says nothing false, and nothing true.
    """

    score: float | None
    claims: tuple[str, ...]
    supports: tuple[float, ...]  # one for each claim


def supports(matrix: ArrayLike) -> Floats:
    """Each claim's best premise: [premises, claims] of P(entailment) -> [claims].

    Raises `ValueError` where there is no premise or a value is no probability.
    """
    table = np.asarray(matrix, dtype=np.float64)
    if table.ndim != 2 or not len(table):
        raise ValueError(
            f"a table of premises by claims with at least one premise, not {table.shape}"
        )
    if not ((table >= 0) & (table <= 1)).all():
        raise ValueError("an entailment score is no probability")
    return np.asarray(table.max(axis=0))


def aggregate(matrix: ArrayLike) -> float | None:
    """Maximum over premises, mean over claims; None where there are no claims."""
    best = supports(matrix)
    return float(best.mean()) if best.size else None


def chunks(text: str, size: int = CHUNK_WORDS) -> list[str]:
    """Whole sentences in chunks of about `size` words.

    AlignScore's rule: every chunk has the same number of sentences, so many that n words would
    make n // size + 1 chunks of equal length; the last one has what is left.
    """
    found = sentences(text)
    each = max(1, len(found) // (len(words(text)) // size + 1))
    return [" ".join(found[start : start + each]) for start in range(0, len(found), each)]


STYLES: Mapping[str, Callable[[str], list[str]]] = MappingProxyType(
    {"summac-zs": sentences, "align": chunks}
)


def summac_zs(source: str, summary: str, entail: Entail) -> Support:
    """Sentences of the source against sentences of the summary; `DataError` for an empty source."""
    return _judge([source], [summary], entail, "summac-zs", None)[0]


def align_chunks(source: str, summary: str, entail: Entail) -> Support:
    """Chunks of the source against sentences of the summary; `DataError` for an empty source."""
    return _judge([source], [summary], entail, "align", None)[0]


def faithfulness(
    sources: Sequence[str],
    summaries: Sequence[str],
    nli: Entail | None,
    style: str = "summac-zs",
    progress: Callable[[int, int], None] | None = None,
) -> list[float | None]:
    """Score each summary against the source at its place; None where it was not measured.

    That is an empty summary, or every one where `nli` is None. A source that several summaries
    share is cut once, and a claim that they share is asked once. `progress` is told pairs of
    premise and claim done, and all of them. Raises `DataError` for an empty source, `ValueError`
    for lists of unequal length and a style that is none of `STYLES`.
    """
    if style not in STYLES:
        raise ValueError(f"style {style!r} is none of {', '.join(STYLES)}")
    if len(sources) != len(summaries):
        raise ValueError(f"{len(sources)} sources and {len(summaries)} summaries")
    if nli is None:
        return [None] * len(summaries)
    return [found.score for found in _judge(sources, summaries, nli, style, progress)]


def _judge(
    sources: Sequence[str],
    summaries: Sequence[str],
    entail: Entail,
    style: str,
    progress: Callable[[int, int], None] | None,
) -> list[Support]:
    """The work: source by source, so that only one source's table is held."""
    claims = [sentences(summary) for summary in summaries]
    groups: dict[str, list[int]] = {}
    for at, source in enumerate(sources):
        groups.setdefault(source, []).append(at)
    premises: dict[str, list[str]] = {}
    wanted: dict[str, list[str]] = {}
    for source, members in groups.items():
        # a meeting says "Yeah." many times
        premises[source] = list(dict.fromkeys(STYLES[style](source)))
        wanted[source] = list(dict.fromkeys(claim for at in members for claim in claims[at]))
        if not premises[source]:
            raise DataError(
                f"the source of summary {members[0] + 1} is empty; give the text it was made from."
            )
    total = sum(len(premises[source]) * len(wanted[source]) for source in groups)
    results: dict[int, Support] = {}
    done = 0
    for source, members in groups.items():
        pairs = [(p, c) for c in wanted[source] for p in premises[source]]
        answers = np.empty(len(pairs))
        for start in range(0, len(pairs), SLICE):
            part = pairs[start : start + SLICE]
            answers[start : start + len(part)] = _ask(entail, part)
            if progress:
                progress(done + start + len(part), total)
        done += len(pairs)
        table = answers.reshape(len(wanted[source]), len(premises[source])).T
        column = {claim: at for at, claim in enumerate(wanted[source])}
        for at in members:
            own = table[:, np.array([column[claim] for claim in claims[at]], dtype=np.intp)]
            results[at] = Support(aggregate(own), tuple(claims[at]), tuple(supports(own).tolist()))
    return [results[at] for at in range(len(summaries))]


def _ask(entail: Entail, pairs: list[tuple[str, str]]) -> Floats:
    answers = np.asarray(entail([p for p, _ in pairs], [c for _, c in pairs]), dtype=np.float64)
    if answers.shape != (len(pairs),):
        raise ValueError(f"entail gave {answers.shape} for {len(pairs)} pairs")
    return answers
