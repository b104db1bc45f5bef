"""When to trust the small model: confidence, thresholds that keep a promise, the cascade itself.

A log holds what every stage answered; scores, rules, calibration and curves work on a log alone.
A rule and its engines make a `Cascade`, which is an `Engine`.
"""

from featherweight.cascade.cascade import Cascade
from featherweight.cascade.log import read_log, write_log
from featherweight.cascade.open import open_cascade
from featherweight.cascade.rule import DeferralRule, StageRule
from featherweight.cascade.rule_file import read_rule, write_rule
from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.types import Answer, Log, Metric, Row, Threshold

__all__ = [
    "Answer",
    "Cascade",
    "DeferralRule",
    "Log",
    "Metric",
    "Row",
    "Score",
    "StageRule",
    "Threshold",
    "open_cascade",
    "read_log",
    "read_rule",
    "score_answers",
    "write_log",
    "write_rule",
]
