"""Calibrate and curve on 10,000 rows with 10,000 bootstrap resamples.

usage: OMP_NUM_THREADS=1 cascade_stats.py [--rounds 3] [--rows 10000] [--table FILE]

A made-up cascade of two stages, 0/1 quality, with 10,000 calibrate rows, as many test rows and
2,000 fit rows. Cases: every row a group of its own (the dearest: nothing can be summed beforehand),
and groups of ten. Steps are what the commands run after the log is read: `calibrate` scores the
rows, tests 100 thresholds in order and gives realised figures with intervals and the rule's curve;
`curve` gives the deferral curve with its band, both lines, AUDC, s_d, AUROC and ECE; `curve, ties`
is the same of rounded scores; `read` is the log of both, from a file. Medians of rounds; CPU
seconds, since machines are shared, and wall seconds. Writes results/cascade_stats.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import measure
import numpy as np

from featherweight.cascade.judge import judged
from featherweight.cascade.log import read_log, write_log
from featherweight.cascade.make import calibrate
from featherweight.cascade.types import Answer, Log, Metric, Row, Split

RESULT = Path(__file__).parent / "results" / "cascade_stats.json"
AIM = 5.0  # seconds for calibrate and curve together
RESAMPLES = 10_000
NAMES = ("gguf:small", "gguf:large")


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
    whole = made(rows, size)
    tied = replace(whole, rows=tuple(map(rounded, whole.rows)))
    folder = tempfile.TemporaryDirectory()  # removed with the last reference
    path = Path(folder.name) / "log.jsonl"
    write_log(whole, path)
    steps: dict[str, Callable[[], object]] = {
        "calibrate": lambda: calibrate(whole, ["mean"], quality=5.0),
        "curve": lambda: judged(whole, ["mean"]),
        "curve, ties": lambda: judged(tied, ["mean"]),
        "read": lambda: read_log(path),
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
            "groups": rows // size,
            "step": name,
            "cpu_seconds": round(statistics.median(cpu for cpu, _ in times), 3),
            "wall_seconds": round(statistics.median(wall for _, wall in times), 3),
        }
        for name, times in [("calibrate + curve", both), *taken.items()]
    ]


def made(rows: int, size: int) -> Log:
    rng = np.random.default_rng(1)
    found = []
    parts: dict[Split, int] = {"fit": rows // 5, "calibrate": rows, "test": rows}
    for split, count in parts.items():
        for number in range(count):
            hard = rng.random()
            score = min(-1e-6, -hard + 0.2 * rng.normal())
            right = 100.0 * (rng.random(2) < 1 - hard * np.array([0.6, 0.35]))
            answers = (
                Answer(NAMES[0], "x", float(right[0]), (score, score), seconds=1.0),
                Answer(NAMES[1], "x", float(right[1]), seconds=9.0),
            )
            found.append(Row(f"{split}-{number}", f"{split}-{number // size}", split, answers))
    stages = [
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
        for stage, name in enumerate(NAMES)
    ]
    return Log(Metric("accuracy", 0, 100), NAMES, tuple(found), "0" * 64, {"stages": stages})


def rounded(row: Row) -> Row:
    """With one of some sixty scores."""
    small, large = row.stages
    score = -round(-20 * (small.token_logprobs or (0.0,))[0] + 1) / 20
    return replace(row, stages=(replace(small, token_logprobs=(score,)), large))


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
