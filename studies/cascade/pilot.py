"""Before the study: which rate the arms learn at, and which tasks the large model is better at.

usage: pilot.py --data DIR --work FOLDER [--rates 3e-5 1e-4 3e-4] [--json FILE]

After `run.py --only large small`: xent with seed 0 at each rate, answers on val. The rate with the
best mean over the tasks becomes `LR` of run.py, for every arm; the tasks in which the large model
is at least 5 points better than that one become `STUDIED` of mix.py. What was stopped goes on.
"""

import argparse
import json
from pathlib import Path

import mix
import numpy as np
import orjson
import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rates", nargs="+", type=float, default=[3e-5, 1e-4, 3e-4])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = {"large": args.work / "large"}
    read = mix.part(args.data, "arms", mix.TASKS)
    for rate in args.rates:
        folder = args.work / "pilot" / f"xent-{rate:g}"
        names[f"xent-{rate:g}"] = folder
        if not run.done(folder):
            run.learn(read, args.work, "xent", args.work / "small", folder, seed=0, lr=rate)
    for name, folder in names.items():
        run.answered(args.data, args.work, name, folder, "val", mix.TASKS)
    found = {task: {name: quality(args.work, name, task) for name in names} for task in mix.TASKS}
    for task, by_name in found.items():
        told = "  ".join(f"{name} {value:.1f}" for name, value in by_name.items())
        print(f"{task:8} {told}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def quality(work: Path, name: str, task: str) -> float:
    """The mean over val questions; a failed answer counts as 0."""
    lines = (work / "answers" / f"{name}.{task}.val.jsonl").read_bytes().splitlines()
    return float(np.mean([orjson.loads(line)[1]["quality"] or 0.0 for line in lines]))


if __name__ == "__main__":
    main()
