"""What the room shares: answers of stages in a log, and the threshold that decides about them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["fit", "calibrate", "test"]
SPLITS: tuple[Split, ...] = ("fit", "calibrate", "test")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """One stage's answer to one question.

    `token_logprobs` as in `Generation`; `margins` (probability of the likeliest token less that of
    the next) and `entropies` (nats) are per token too, where the engine gave top log-probabilities.
    `ended` says that the last of these is the end token's. `None` is "not known", never 0. An
    answer with an `error` has no text and no quality.
    """

    model: str
    text: str
    quality: float | None = None
    token_logprobs: tuple[float, ...] | None = None
    margins: tuple[float, ...] | None = None
    entropies: tuple[float, ...] | None = None
    ended: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    flops: float | None = None
    usd: float | None = None
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether there is nothing to trust: an error, or no text.

        It is passed on whatever its score would be; only the last stage may say nothing. The text
        decides and not the tokens: of "nothing" some engines give the end token, some give none.
        """
        return self.error is not None or not self.text.strip()


@dataclass(frozen=True, slots=True)
class Row:
    """One question with all stages' answers, cheapest first; `group` is the cluster.

    `prompt_sha256` is what a running cascade knows the question by (`asking.prompt_key`).
    """

    id: str
    group: str
    split: Split
    stages: tuple[Answer, ...]
    prompt_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """What `quality` measures; it lies between `low` and `high`, more is better."""

    name: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Log:
    """Rows of one number of stages, in the file's order; `models` names the stages.

    `extra` is what else the header says: who the stages are, `online` (see docs/cascade-log.md).
    """

    metric: Metric
    models: tuple[str, ...]
    rows: tuple[Row, ...]
    sha256: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def part(self, split: Split) -> "Log":
        """The rows of one split."""
        return replace(self, rows=tuple(row for row in self.rows if row.split == split))

    def quality(self) -> Floats:
        """[rows, stages]; NaN where an answer failed."""
        return np.array(
            [[np.nan if s.quality is None else s.quality for s in row.stages] for row in self.rows],
            dtype=np.float64,
        ).reshape(len(self.rows), len(self.models))

    def groups(self) -> tuple[str, ...]:
        return tuple(row.group for row in self.rows)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Trust an answer whose score is above `value`, pass on one below.

    Of answers that score exactly `value` the share `tie` is passed on: those whose key falls below
    it in a hash with `seed`, so that the same question is always decided alike.
    """

    value: float
    tie: float = 0.0
    seed: int = 0

    def defers(self, score: float, key: str) -> bool:
        """Whether the next stage is asked; `key` is the question's: its prompt's hash."""
        if score == self.value:
            return uniform(key, self.seed) < self.tie
        return score < self.value


def uniform(key: str, seed: int) -> float:
    """A number in [0, 1) that belongs to `key`."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:7]) / 256**7
