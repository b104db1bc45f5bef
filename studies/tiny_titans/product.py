"""What `featherweight summarize` prints, tuned model against base, on QMSum's val meetings.

usage: product.py --data DIR --output FOLDER [--models MODEL ...] [--meetings 12] [--questions 2]

For each meeting a summary without a question and answers to its first questions, as the command
gives them. FOLDER/MODEL.jsonl and FOLDER/references.jsonl are for
`featherweight compare`; what was stopped goes on.
"""

import argparse
import json
from pathlib import Path

from featherweight import load_engine
from featherweight.summarize import summarize_transcript
from featherweight.tasks.qmsum import meeting_transcript, meetings, queries

MODELS = ("smollm2-135m", "smollm2-135m-meetings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--meetings", type=int, default=12)
    parser.add_argument("--questions", type=int, default=2)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rows, _ = meetings(args.data, "val")
    every = max(1, len(rows) // args.meetings)
    asked = [
        (row, f"{row.key('meeting_id')}/{tag}{number}", None if tag == "g" else query["query"],
         query["answer"])
        for row in rows[::every][: args.meetings]
        for tag, kind, most in (("g", "general_query_list", 1),
                                ("s", "specific_query_list", args.questions))
        for number, query in enumerate(queries(row, kind)[:most])
    ]  # fmt: skip
    references = [
        {"id": id, "group": row.key("meeting_id"), "reference": answer, "general": query is None}
        for row, id, query, answer in asked
    ]
    (args.output / "references.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in references))
    for model in args.models:
        path = args.output / f"{model}.jsonl"
        done = {json.loads(line)["id"] for line in path.open()} if path.exists() else set()
        engine = load_engine(model)
        for row, id, query, _ in asked:
            if id in done:
                continue
            summary = summarize_transcript(meeting_transcript(row), engine, query=query)
            told = {
                "id": id,
                "group": row.key("meeting_id"),
                "prediction": summary.text,
                "points": len(summary.points),
                "supported": sum(point.supported for point in summary.points),
                "seconds": summary.seconds,
                "notes": summary.notes,
            }
            with path.open("a") as file:
                file.write(f"{json.dumps(told)}\n")
            print(f"{model}  {id}  {summary.seconds:.0f} s", flush=True)
        engine.close()


if __name__ == "__main__":
    main()
