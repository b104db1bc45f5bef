"""A point beside what is cited for it, as numbers for the support model.

Every column compares the two; none looks at the point alone, so that a point is never judged by
the mere presence of a number, a name or a "not".
"""

import re
from collections.abc import Sequence

import numpy as np

from featherweight.retrieve.terms import stem, words

from .features import Array, Columns, SentenceIndex, smooth
from .ranker import rank
from .support import missing_names, missing_numbers, negation_features, polarity

# First-stage columns of the likeliest cited sentence that say how well its surroundings match.
OF_BEST = ("turn", "around 3", "around 10", "covered within 3", "letters", "pairs", "feedback")


def compare(
    index: SentenceIndex,
    point: str,
    cited: Sequence[int],
    turns: Sequence[int],
    columns: Columns,
    chance: Array,
) -> dict[str, float]:
    """`cited` are sentences and `turns` turns; `columns` and `chance` are the ranker's, [n]."""
    best = max(cited, key=lambda at: (chance[at], -at))
    found = {f"{name} of best": float(columns[name][best]) for name in OF_BEST}
    found |= _wording(index, point, cited, columns, chance)
    found |= _strict(index, point, turns)
    quotes = [polarity(index.texts[at]) for at in cited]
    idf = {term: index.idf(term) for quote in quotes for term in quote.denied | quote.affirmed}
    found |= negation_features(polarity(point), quotes, chance[list(cited)].tolist(), idf)
    return found | _who(index, point, turns)


def _logit(chance: Array) -> Array:
    return np.log((chance + 1e-6) / (1 - chance + 1e-6))


def _wording(
    index: SentenceIndex, point: str, cited: Sequence[int], columns: Columns, chance: Array
) -> dict[str, float]:
    """How much of the point's words the cited sentences cover, and how far they stand out."""
    query = index.query(point)
    weight = {term: value * index.idf(term) for term, value in query.items()}
    total = sum(weight.values()) or 1.0
    said = {term for at in cited for term in index.terms[at]}
    around = {at + step for at in cited for step in (-1, 0, 1)} & set(range(index.size))
    nearby = {term for at in around for term in index.terms[at]}
    missed = [value for term, value in weight.items() if term not in said]
    score = index.by_sentence.weighted(query)
    order = np.sort(score)[::-1]
    wide = smooth(score, 3)
    pieces = set(index.letters(point))
    rare = {piece: index.by_letters.idf.get(piece, index.unseen) for piece in pieces}
    heard = {piece for at in cited for piece in index.letters(index.texts[at])}
    likely = np.sort(chance)[::-1]
    return {
        "best": float(_logit(chance[list(cited)].max())),
        "expected": float(np.log(chance[list(cited)].sum() + 1e-3)),
        "likely ten": float(np.log(likely[:10].sum() + 1e-3)),
        "covered": 1 - sum(missed) / total,
        "covered around": sum(v for term, v in weight.items() if term in nearby) / total,
        "best covered": float(columns["covered"][list(cited)].max()),
        "could be covered": float(columns["covered"].max()),
        "weight covered": total - sum(missed),
        "weight missed": sum(missed),
        "rarest missed": max(missed, default=0.0),
        "letters": sum(rare[piece] for piece in pieces & heard) / (sum(rare.values()) or 1.0),
        "never said": float(columns["never said"][0]),
        "best score": float(score[list(cited)].max()),
        "peak": float(order[0] / (order[:20].mean() + 1e-9)),
        "spread": float((order[0] - score.mean()) / (score.std() + 1e-9)),
        "spread around": float((wide.max() - wide.mean()) / (wide.std() + 1e-9)),
    }


def _strict(index: SentenceIndex, point: str, turns: Sequence[int]) -> dict[str, float]:
    """Numbers and names of the point that are not in the cited turns, or not near, or nowhere."""
    every = range(len(index.turns))
    near = sorted({turn + step for turn in turns for step in (-1, 0, 1)} & set(every))

    def missing(where: Sequence[int]) -> int:
        texts = [index.turns[turn].text for turn in where]
        return len(missing_names(point, texts, [index.turns[t].speaker or "" for t in where]))

    names = missing(turns)
    return {
        "numbers": float(len(missing_numbers(point, [index.turns[t].text for t in turns]))),
        "names": float(names),
        "names near": float(missing(near)) if names else 0.0,
        "names anywhere": float(missing(every)) if names else 0.0,
    }


def _who(index: SentenceIndex, point: str, turns: Sequence[int]) -> dict[str, float]:
    """Do the speakers whom the point names say it, when their names are not looked at?"""
    named = index.named(point)
    chosen = np.flatnonzero(named > 0.5)
    if not len(chosen):
        return {"unheard": 0.0, "others": 0.0, "others by far": 0.0}
    names = {word for at in chosen for word in index.name_words(int(at))}
    bare = re.sub(
        r"[^\W_]+", lambda found: "" if stem(found[0].casefold()) in names else found[0], point
    )
    _, chance = rank(index, bare)
    mine = np.isin(index.speaker, chosen)
    top = np.argsort(-chance, kind="stable")[:10]
    logit = _logit(chance)
    speakers = {index.speakers.index(index.turns[turn].speaker or "") for turn in turns}
    said = {stem(word) for turn in turns for word in words(index.turns[turn].text)}
    unheard = [
        at for at in chosen if at not in speakers and said.isdisjoint(index.name_words(int(at)))
    ]
    return {
        "unheard": len(unheard) / len(chosen),
        "others": 1 - float(chance[top][mine[top]].sum() / chance[top].sum()),
        "others by far": float(logit.max() - logit[mine].max(initial=-14.0)),
    }
