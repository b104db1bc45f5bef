"""Calibrate and curve on 10,000 rows with 10,000 bootstrap resamples.

usage: OMP_NUM_THREADS=1 cascade_stats.py [--rounds 3] [--rows 10000] [--table FILE]

A made-up cascade of two stages, 0/1 quality; as many fit rows again by a fifth. Cases: every row a
group of its own (the dearest: nothing can be summed beforehand), and 1,000 groups of ten. Steps:
`calibrate` is `for_quality` (100 thresholds tested in order, realised figures with intervals),
`curve` the deferral curve with its band, both lines, AUDC and s_d, `curve, ties` the same with 50
distinct scores; `auroc`, `ece`, `cost at quality` are further figures with intervals. Medians of
rounds; CPU seconds, since machines are shared, and wall seconds. Writes results/cascade_stats.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import measure
import numpy as np

from featherweight.cascade.calibrate import for_quality
from featherweight.cascade.curve import curve
from featherweight.cascade.curve_cost import cost_at_quality
from featherweight.cascade.reliability import auroc, binned, ece
from featherweight.cascade.sample import Sample, sample
from featherweight.cascade.types import Answer, Log, Metric, Row, Split

RESULT = Path(__file__).parent / "results" / "cascade_stats.json"
AIM = 5.0  # seconds for calibrate and curve together
RESAMPLES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return
    rows: list[dict] = [measure.machine(rows=args.rows, resamples=RESAMPLES, rounds=args.rounds)]
    for size in (1, 10):
        rows += case(args.rows, size, args.rounds)
    measure.write(rows, RESULT)
    print(table(rows))


def case(rows: int, size: int, rounds: int) -> list[dict]:
    """Seconds of every step, the median of rounds."""
    fit, one = made(1, max(size, rows // 5), size, "fit"), made(2, rows, size, "calibrate")
    tied = sample(one.log, np.round(one.scores * 50))
    confidence = binned(fit, one)
    target = float(one.quality.mean())
    steps: dict[str, Callable[[], object]] = {
        "calibrate": lambda: for_quality(fit, one, 5.0, 0.05),
        "curve": lambda: curve(one, ["seconds"], RESAMPLES),
        "curve, ties": lambda: curve(tied, ["seconds"], RESAMPLES),
        "auroc": lambda: auroc(one, RESAMPLES),
        "ece": lambda: ece(one, confidence, resamples=RESAMPLES),
        "cost at quality": lambda: cost_at_quality(one, "seconds", target, RESAMPLES),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    both = [
        tuple(a + b for a, b in zip(*pair, strict=True))
        for pair in zip(taken["calibrate"], taken["curve"], strict=True)
    ]
    return [
        {
            "groups": len(one.sizes),
            "step": name,
            "cpu_seconds": round(statistics.median(cpu for cpu, _ in times), 3),
            "wall_seconds": round(statistics.median(wall for _, wall in times), 3),
        }
        for name, times in [("calibrate + curve", both), *taken.items()]
    ]


def made(seed: int, rows: int, size: int, split: Split) -> Sample:
    rng = np.random.default_rng(seed)
    hard = rng.random(rows)
    right = 100.0 * (rng.random((rows, 2)) < 1 - hard[:, None] * [0.6, 0.35])
    log = [
        Row(
            f"{split}-{number}",
            f"{split}-{number // size}",
            split,
            (
                Answer("small", "x", float(small), seconds=1.0),
                Answer("large", "x", float(large), seconds=9.0),
            ),
        )
        for number, (small, large) in enumerate(right)
    ]
    scores = -hard + 0.2 * rng.normal(size=rows)
    return sample(Log(Metric("accuracy", 0, 100), ("small", "large"), tuple(log)), scores)


def table(rows: list[dict]) -> str:
    lines = ["| groups | step | CPU s | wall s |", "| --- | --- | --- | --- |"]
    for row in rows[1:]:
        note = ""
        if row["step"] == "calibrate + curve":
            note = f" (aim: under {AIM:g})"
        lines.append(
            f"| {row['groups']:,} | {row['step']}{note} | {row['cpu_seconds']} "
            f"| {row['wall_seconds']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
