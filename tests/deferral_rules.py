"""For tests of the cascade: answers from tokens, and learned rules made at random, as monotone as
they say."""

import numpy as np
from hypothesis import strategies as st

from featherweight.cascade import Answer
from featherweight.cascade.fit import SIGNS
from featherweight.cascade.learned import Boosting, Learned, Linear, Tree
from featherweight.cascade.tokens import FEATURES, LENGTH

SIZE = len(FEATURES)

Token = tuple[float, float, float]  # log-probability, margin, entropy
# many ties and zeros beside numbers of every size
LOGPROBS = st.sampled_from([0.0, -0.0, -1.0, -2.0]) | st.floats(-60, 0) | st.floats(-1e-300, 1e-3)
TOKENS = st.tuples(LOGPROBS, st.floats(-1e-3, 1.001), st.floats(-1e-3, 12))


def answer(tokens: list[Token], ended: bool) -> Answer:
    logprobs, margins, entropies = zip(*tokens, strict=True)
    return Answer(
        "m", "x", token_logprobs=logprobs, margins=margins, entropies=entropies, ended=ended
    )


def same_bits(a: float, b: float) -> bool:
    return np.float64(a).tobytes() == np.float64(b).tobytes()


def linear(rng: np.random.Generator) -> Linear:
    signed = SIGNS * rng.exponential(size=SIZE) * (rng.uniform(size=SIZE) < 0.6)
    mean, scale = rng.normal(size=SIZE), rng.uniform(0.1, 3, size=SIZE)
    return Linear(float(rng.normal()), *(tuple((x + 0.0).tolist()) for x in (signed, mean, scale)))


def tree(rng: np.random.Generator, splits: int) -> Tree:
    """Values of a left child are below a middle value and of a right one above, or the reverse."""
    nodes: list[list[float]] = []

    def grow(splits: int, low: float, high: float) -> int:
        here = len(nodes)
        nodes.append([-1, 0.0, -1, -1, float(rng.uniform(low, high))])
        if splits:
            feature = int(rng.choice([0, 1, 3, 5, 10, 11, 12, LENGTH, LENGTH]))
            at = float(-rng.exponential() if feature != LENGTH else rng.uniform(0, 14))
            if feature == 12:
                at *= 5
            middle = float(rng.uniform(low, high))
            parts = [(low, middle), (middle, high)][:: SIGNS[feature]]
            given = int(rng.integers(splits))
            left = grow(given, *parts[0])
            right = grow(splits - 1 - given, *parts[1])
            nodes[here] = [feature, at, left, right, 0.0]
        return here

    grow(splits, -1.0, 1.0)
    feature, threshold, left, right, value = zip(*nodes, strict=True)
    whole = (tuple(map(int, column)) for column in (feature, left, right))
    features, lefts, rights = whole
    return Tree(features, tuple(threshold), lefts, rights, tuple(value))


def boosting(rng: np.random.Generator, trees: int = 5, splits: int = 4) -> Boosting:
    return Boosting(float(rng.normal()), tuple(tree(rng, splits) for _ in range(trees)))


def knots(rng: np.random.Generator) -> tuple[tuple[float, ...], tuple[float, ...]]:
    number = int(rng.integers(1, 6))
    x, y = np.unique(rng.normal(size=number)), np.sort(rng.normal(size=number))
    return tuple(x.tolist()), tuple(y.tolist())


def learned(seed: int, end: bool = True) -> Learned:
    rng = np.random.default_rng(seed)
    model = linear(rng) if seed % 2 else boosting(rng)
    return Learned("gain", model, SIGNS, knots(rng) if seed % 3 == 0 else None, end)
