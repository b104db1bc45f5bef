"""Which weight Gatekeeper gives to right tokens, and where it starts: s_d on val, seed 0.

usage: gate.py --data DIR --work FOLDER [--gates 0.5 0.9] [--fresh 0.5] [--json FILE]

After `run.py` has trained and answered with xent-0. Gatekeeper (arXiv 2502.19335) is the second
stage of a training: every weight starts from xent-0. `--fresh`: weights that start where xent
itself started, without the first stage. The weight with the best s_d, by the mean, among those
that start from xent-0 becomes `GATE` of run.py. What was stopped goes on.
"""

import argparse
import json
from pathlib import Path

import mix
import numpy as np
import run
from analyse import METRIC, answers, counted, grouped, log_of

from featherweight.cascade.curve import curve
from featherweight.cascade.make import chosen, scored
from featherweight.cascade.types import Log, Row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gates", nargs="+", type=float, default=[0.5, 0.9])
    parser.add_argument("--fresh", nargs="*", type=float, default=[0.5])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tried = [(f"gatekeeper-fresh-{gate:g}", args.work / "small", gate) for gate in args.fresh]
    xent = args.work / "arms" / "xent-0"
    tried += [(f"gatekeeper-{gate:g}", xent, gate) for gate in args.gates]
    read = mix.part(args.data, "arms", mix.STUDIED)
    for name, start, gate in tried:
        folder = args.work / "pilot" / name
        if not run.done(folder):
            run.learn(read, args.work, "gatekeeper", start, folder, seed=0, gate=gate)
        run.answered(args.data, args.work, name, folder, "val", mix.STUDIED)
    groups = grouped(args.data)
    kept = counted(log_of(args.work, "xent-0", groups))
    rows = [
        told(args.work, name, kept, groups) for name in ("xent-0", *(name for name, *_ in tried))
    ]
    for row in rows:
        print(row)
    if args.json:
        args.json.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def told(work: Path, name: str, kept: tuple[str, ...], groups: dict[str, str]) -> dict[str, object]:
    """On the val questions of the tasks that count."""
    rows = []
    for task in kept:
        small, large = (answers(work, one, task, "val") for one in (name, "large"))
        rows += [Row(id, groups[id], "test", (small[id], large[id])) for id in small]
    log = Log(METRIC, (name, "large"), tuple(rows))
    found = curve(scored(log, chosen(log, ["mean"])), [])
    empty = np.mean([not (row.stages[0].text or "").strip() for row in rows])
    return {
        "run": name,
        "n": len(rows),
        "small": [found.small.value, *found.small.ci95],
        "s_d": [found.s_d.value, *found.s_d.ci95],
        "empty": float(empty),
    }


if __name__ == "__main__":
    main()
