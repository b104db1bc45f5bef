"""Does `eval` keep the engine busy? Its throughput beside the engine's own on the same requests.

usage: eval_throughput.py [--model SPEC] [--rounds 5]

The questions of examples/data's two meetings, 300 words each, 64 tokens an answer. "Own": all
requests handed to `engine.generate` at once, in the order in which eval sends them. Rounds
alternate in one process with one engine; tokens are read and written ones. Writes
eval_throughput.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from featherweight.engines import Request, load_engine
from featherweight.tasks import evaluate, load_task
from featherweight.tasks.run import by_size

SELF = Path(__file__)
DATA = SELF.parent.parent / "examples" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    task = replace(load_task("qmsum", DATA, words=300), max_tokens=64)
    engine = load_engine(args.model)
    next(engine.generate([Request("Hello", max_tokens=1)]))  # weights into memory
    rounds = []
    for number in range(args.rounds):
        sides = {"own": own, "eval": through_eval}
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        row = {side: sides[side](task, engine, args.model) for side in order}
        row["ratio"] = row["eval"] / row["own"]
        rounds.append(row)
        print(
            f"round {number + 1}: own {row['own']:.0f} tokens/s, eval {row['eval']:.0f}", flush=True
        )
    engine.close()
    ratios = [row["ratio"] for row in rounds]
    result = {"model": args.model, "requests": len(task.examples), "cores": os.cpu_count()}
    result |= {"load": os.getloadavg(), "median_ratio": statistics.median(ratios), "rounds": rounds}
    SELF.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"median: {result['median_ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def own(task, engine, spec) -> float:
    requests = [Request(e.prompt, max_tokens=task.max_tokens) for e in by_size(task.examples)]
    started = time.perf_counter()
    answers = list(engine.generate(requests))
    seconds = time.perf_counter() - started
    return sum(a.prompt_tokens + a.completion_tokens for a in answers) / seconds


def through_eval(task, engine, spec) -> float:
    """From the call to the finished report, scoring and all files included."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        report = evaluate(task, engine, spec, Path(folder))
        seconds = time.perf_counter() - started
    return (report.cost.prompt_tokens + report.cost.completion_tokens) / seconds


if __name__ == "__main__":
    main()
