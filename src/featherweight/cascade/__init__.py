"""When to trust the small model: confidence, thresholds that keep a promise, the cascade itself.

A log holds what every stage answered; scores, rules, calibration and curves work on a log alone.
A rule and its engines make a `Cascade`, which is an `Engine`.
"""

from featherweight.cascade.types import Answer, Log, Metric, Row, Threshold

__all__ = ["Answer", "Log", "Metric", "Row", "Threshold"]
