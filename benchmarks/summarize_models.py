"""What does the tuning cost in time? `featherweight summarize` with and without the tuned adapter.

    python benchmarks/summarize_models.py [--repeats 3] [--output FILE.json]

The whole command on the one-hour meeting and on a question about it, from exec to exit, models in
turn. Compare the two of one round: shared machines drift.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measure import machine

ROOT = Path(__file__).resolve().parent.parent
MEETING = ROOT / "examples/meetings/education-committee.txt"
MODELS = ("smollm2-135m", "smollm2-135m-meetings")
CASES = {"whole": [], "question": ["--query", "What did Kirsty Williams say about exams?"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = [machine()]
    for number in range(args.repeats):
        for case, words in CASES.items():
            for model in MODELS:
                rows.append({"round": number, "case": case, "model": model, **timed(model, words)})
                print(rows[-1], flush=True)
    for case in CASES:
        for model in MODELS:
            found = [row["seconds"] for row in rows if row.get("case") == case
                     and row["model"] == model]  # fmt: skip
            print(f"{case:8} {model:22} median {statistics.median(found):.1f} s")
    if args.output:
        args.output.write_text(json.dumps(rows, indent=1) + "\n")


def timed(model: str, words: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "featherweight", "summarize", str(MEETING), *words]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--model", model, "--format", "json"], capture_output=True, check=True
    )
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), **json.loads(done.stdout)["usage"]}


if __name__ == "__main__":
    main()
