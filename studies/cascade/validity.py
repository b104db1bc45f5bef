"""Is the promise kept on real answers? The study's log is the population, calibrated on again.

usage: validity.py --data DIR --work FOLDER [--run xent-0] [--json FILE]

After `run.py`: the path through the thresholds is fixed on the val answers; the test answers of the
tasks of the mix are taken as the whole population, whose risk is known for every threshold. Groups
(a meeting of QMSum, a question elsewhere) are drawn from it with replacement, as many as there are,
200 times; a draw fails where the threshold that was proven loses more than epsilon in the
population. A failure of the promise is p < 0.001, one-sided binomial, at delta = 0.05.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analyse import SCORES, counted, grouped, log_of, of_task

from featherweight.cascade.make import chosen, scored
from featherweight.cascade.validity import validity
from featherweight.errors import CascadeError

DELTA = 0.05
EPSILONS = (1.0, 2.0, 3.0, 5.0, 8.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--run", default="xent-0")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    log = log_of(args.work, args.run, grouped(args.data))
    log = of_task(log, counted(log))
    rows: list[dict[str, Any]] = []
    print("\n| score | epsilon | groups | proven of 200 | failed | p | largest loss |")
    print("| --- " * 7 + "|")
    for score in SCORES:
        how = chosen(log, [score])
        fit, population = (scored(log.part(part), how) for part in ("fit", "test"))
        for epsilon in EPSILONS:
            try:
                found = validity(fit, population, epsilon, DELTA, cost="flops")
            except CascadeError as error:
                print(f"| {score} | {epsilon:g} | {error} |" + " |" * 4)
                continue
            risks = [None if risk != risk else risk for risk in found.risks.tolist()]
            worst = max((risk for risk in risks if risk is not None), default=float("nan"))
            print(
                f"| {score} | {epsilon:g} | {found.groups} | {found.proven} | {found.failures} | "
                f"{found.p:.3f} | {worst:.2f} |"
            )
            rows.append({"score": score, **asdict(found), "risks": risks})
    if args.json:
        args.json.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main()
