"""Made-up cascades whose truth is known, for the tests of the cascade room."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherweight.cascade.sample import Sample, sample
from featherweight.cascade.types import SPLITS, Answer, Log, Metric, Row, Split

METRIC = Metric("accuracy", 0, 100)
SECONDS = (1.0, 9.0, 30.0)


def log(
    quality: ArrayLike,
    groups: Sequence[object] | None = None,
    split: Split = "calibrate",
    metric: Metric = METRIC,
) -> Log:
    """A log of `quality` [n, stages], NaN where an answer failed; each row is its own group."""
    table = np.asarray(quality, dtype=np.float64)
    models = tuple(f"m{stage}" for stage in range(table.shape[1]))
    rows = []
    for number, values in enumerate(table):
        group = number if groups is None else groups[number]
        answers = tuple(
            Answer(model, "", error="timed out", seconds=cost, flops=1e9 * cost)
            if math.isnan(value)
            else Answer(model, "x", float(value), seconds=cost, flops=1e9 * cost)
            for model, value, cost in zip(models, values, SECONDS, strict=False)
        )
        rows.append(Row(f"{split}-{number}", f"{split}-{group}", split, answers))
    return Log(metric, models, tuple(rows), "ab" * 32)


def made(
    quality: ArrayLike,
    scores: ArrayLike,
    groups: Sequence[object] | None = None,
    split: Split = "calibrate",
) -> Sample:
    return sample(log(quality, groups, split), scores)


def simulated(
    seed: int,
    groups: int,
    size: int = 1,
    split: Split = "calibrate",
    stages: int = 2,
    graded: bool = False,
    noise: float = 1.0,
) -> Sample:
    """Questions of differing difficulty, alike within a group; every stage is better than the last.

    Scores see a stage's own chance of being right through `noise`.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=(groups, 1)) + rng.normal(size=(groups, size))
    ability = 0.8 + 1.2 * np.arange(stages)
    chance = 1 / (1 + np.exp(difficulty.reshape(-1, 1) - ability))
    rough = 100 * (rng.random(chance.shape) < chance)
    quality: NDArray[np.float64] = rng.beta(8 * chance, 8 * (1 - chance)) * 100 if graded else rough
    scores = chance[:, :-1] + noise * 0.3 * rng.normal(size=chance[:, :-1].shape)
    return made(quality, scores, np.repeat(np.arange(groups), size).tolist(), split)


def told(
    rows: int, seed: int = 0, stages: int = 2, about: bool = True, splits: Sequence[Split] = SPLITS
) -> Log:
    """A log with log-probabilities that foretell who is right, and stages that a rule can name."""
    rng = np.random.default_rng(seed)
    names = tuple(f"gguf:m{stage}" for stage in range(stages))
    found = []
    for number in range(rows):
        difficulty = rng.normal()
        answers = []
        for stage, name in enumerate(names):
            chance = 1 / (1 + math.exp(difficulty - 0.5 - stage))
            size = int(rng.integers(2, 12))
            logprobs = np.minimum(0, np.log(chance) * rng.uniform(0.5, 1.5, size))
            right = 100.0 * (rng.random() < chance)
            tokens = tuple(float(value) for value in logprobs)
            cost = SECONDS[stage]
            answers.append(Answer(name, "x", right, tokens, seconds=cost, flops=1e9 * cost))
        split = splits[number % len(splits)]
        found.append(Row(f"q{number}", f"{split}-{number // 6}", split, tuple(answers)))
    stage_facts = [
        {
            "model": name,
            "engine": "gguf",
            "identity": {"spec": name, "weights": f"{stage}" * 64},
            "template_sha256": None,
            "decoding": {"temperature": 0.0, "stop": []},
            "max_tokens": 12,
            "top_logprobs": 0,
            "usd_basis": None,
        }
        for stage, name in enumerate(names)
    ]
    extra = {"stages": stage_facts} if about else {}
    return Log(METRIC, names, tuple(found), "cd" * 32, extra)
