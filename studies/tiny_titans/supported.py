"""How many sentences of each run's answers does the check of `featherweight summarize` support?

usage: supported.py --data DIR --runs val-NAME.jsonl.gz ...

Share of sentences, mean over answers, 95 % bootstrap over meetings; an answer without a sentence
counts as 0.
"""

import argparse
from itertools import groupby
from pathlib import Path

from featherweight.evaluate.statistics import estimates
from featherweight.rows import read_rows
from featherweight.summarize import EvidenceFinder
from featherweight.summarize.points import listed_points
from featherweight.tasks.qmsum import meeting_transcript, meetings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    transcripts = {
        row.key("meeting_id"): meeting_transcript(row) for row in meetings(args.data, args.split)[0]
    }
    for path in args.runs:
        rows = sorted((row.data for row in read_rows(path)), key=lambda row: row["group"])
        shares, groups, sentences = [], [], 0
        for meeting, answers in groupby(rows, key=lambda row: row["group"]):
            finder = EvidenceFinder(transcripts[meeting])
            for answer in answers:
                points = listed_points(answer["prediction"], cut_off=False)
                good = [finder.check(point, finder.find(point)).supported for point in points]
                shares.append(100 * sum(good) / max(1, len(good)))
                groups.append(meeting)
                sentences += len(points)
        [found] = estimates([[share] for share in shares], groups)
        low, high = found.ci95
        print(
            f"{path.name}: {found.mean:.1f} % [{low:.1f}, {high:.1f}] of {sentences} sentences in "
            f"{len(shares)} answers about {len(set(groups))} meetings"
        )


if __name__ == "__main__":
    main()
