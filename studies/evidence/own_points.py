"""How many of the embedded model's own sentences does the check let through?

    PYTHONPATH=src python studies/evidence/own_points.py --data DIR [--meetings 12] [--work DIR]

Reads meetings of QMSum val (a seeded sample), has the embedded model write its sentences about
every chapter (what `featherweight summarize` does), and checks them three times: against their own
meeting as written, as shown (a sentence may end earlier where the check says so), and against
another meeting, where every pass is a false support. What was written is kept in --work, so that a
stopped run resumes.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
from data import rows
from measure import interval, resamples

from featherweight.engines import load_engine
from featherweight.engines.embedded import EMBEDDED_SHA256
from featherweight.retrieve import BM25Locator
from featherweight.summarize.evidence import EvidenceFinder
from featherweight.summarize.selection import select
from featherweight.summarize.strategies import STRATEGIES, Job, Read
from featherweight.transcript import Transcript, clean, parse_transcript


def meetings(data: Path, count: int) -> list[tuple[str, Transcript]]:
    every = list(rows(data / "qmsum" / "val.jsonl.gz"))
    chosen = random.Random(0).sample(every, count)
    return [
        (row["meeting_id"], clean(parse_transcript(json.dumps(row).encode(), source="qmsum")))
        for row in chosen
    ]


def job_for(transcript: Transcript, engine: object) -> Job:
    return Job(
        transcript=transcript,
        engine=engine,  # type: ignore[arg-type]
        query=None,
        length="medium",
        focus=None,
        progress=lambda stage, done, total: None,
        locator=BM25Locator(),
    )


def passed(points: list[str], transcript: Transcript) -> int:
    finder = EvidenceFinder(transcript)
    return sum(finder.check(point, finder.find(point)).supported for point in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--meetings", type=int, default=12)
    parser.add_argument("--work", type=Path, default=Path(__file__).with_name(".own_points"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("own_points.json"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    engine = load_engine()
    found = meetings(args.data, args.meetings)
    counts = []  # written, supported, supported elsewhere, shown, shown supported
    for number, (name, transcript) in enumerate(found):
        job = job_for(transcript, engine)
        kept = args.work / f"{name}.json"
        if kept.exists():
            reads = [Read(**read) for read in json.loads(kept.read_text())]
        else:
            reads = STRATEGIES["chapters"](job)
            kept.write_text(json.dumps([{"name": r.name, "points": r.points} for r in reads]))
        points = [point for read in reads for point in read.points]
        elsewhere = found[(number + 1) % len(found)][1]
        shown, _ = select(job, reads)
        counts.append(
            (
                len(points),
                passed(points, transcript),
                passed(points, elsewhere),
                len(shown),
                sum(point.supported for point in shown),
            )
        )
        print(name, *counts[-1], flush=True)
    engine.close()
    table = np.array(counts, float)
    weights = resamples(len(table))

    def rate(top: int, bottom: int) -> dict[str, object]:
        sums = weights @ table
        return {
            "rate": float(table[:, top].sum() / table[:, bottom].sum()),
            "ci95": interval(sums[:, top] / sums[:, bottom]),
            "n": int(table[:, bottom].sum()),
        }

    report = {
        "model": {"name": "smollm2-135m", "sha256": EMBEDDED_SHA256},
        "meetings": [name for name, _ in found],
        "written, supported": rate(1, 0),
        "written, supported by another meeting": rate(2, 0),
        "shown, supported": rate(4, 3),
    }
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
