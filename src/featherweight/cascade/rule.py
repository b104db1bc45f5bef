"""The rule of a cascade as plain data: its stages, what each is trusted for, what was promised.

Its file is `rule_file`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from featherweight.cascade.learned import Learned
from featherweight.cascade.scores import Score
from featherweight.cascade.types import Metric, Threshold
from featherweight.engines.load import Kind


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the answers were made that a threshold was set on; another decoding is another model."""

    temperature: float = 0.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StageRule:
    """One stage: which model it is and, unless it is the last, when its answer is trusted.

    `model` is the spec that opens it, `identity` what that stands for (`engines.identity`: hashes
    of weights and tokenizer; of a server only URL and name can be known), `template_sha256` the
    hash of its chat template, `None` where an engine cannot tell. `dtype`, float32 or bfloat16, is
    what its weights were computed in, `None` where its file says so or nobody knows. `max_tokens`
    is what its logged answers were allowed. Its score reads `top_logprobs` alternatives for each
    token.
    """

    model: str
    engine: Kind
    identity: Mapping[str, Any]
    template_sha256: str | None
    max_tokens: int
    dtype: str | None = None
    decoding: Decoding = Decoding()
    top_logprobs: int = 0
    score: Score | Learned | None = None
    threshold: Threshold | None = None


@dataclass(frozen=True, slots=True)
class DeferralRule:
    """Stages, cheapest first, and where their thresholds come from.

    `promise` has a `kind` (budget, quality, cost) and its numbers: epsilon, delta and the like.
    `n` rows in `groups` were calibrated on, of the log with `data_sha256`; `curve` holds measured
    points, plain numbers by name.
    """

    stages: tuple[StageRule, ...]
    metric: Metric
    promise: Mapping[str, Any]
    n: int
    groups: int
    data_sha256: str
    curve: tuple[Mapping[str, Any], ...] = ()


def alternatives(score: Score | Learned) -> int:
    """How many top log-probabilities a token `score` reads at the least.

    An entropy grows with their number: a rule asks for as many as its log did.
    """
    if isinstance(score, Learned) or score.stream == "token_logprobs":
        return 0
    return 2
