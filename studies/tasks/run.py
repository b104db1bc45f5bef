"""One model over the nine choice tasks and WikiText-2, test splits; a stopped run goes on.

usage: run.py --data DIR --model SPEC --output FOLDER [--how loglikelihood|generation] [--limit N]
              [--only TASK ...]

Each task gets a folder of its own under FOLDER, as `featherweight eval` writes it.
"""

import argparse
from pathlib import Path

from featherweight.engines import load_engine
from featherweight.tasks import evaluate, load_task
from featherweight.tasks.choice import SETS

TEXTS = ("wikitext2", "wikitext2-tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--how", choices=("loglikelihood", "generation"), default="loglikelihood")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--only", nargs="+", choices=(*SETS, *TEXTS))
    args = parser.parse_args()
    names = args.only or ((*SETS, *TEXTS) if args.how == "loglikelihood" else tuple(SETS))
    engine = load_engine(args.model)
    for name in names:
        # a limit of questions; of texts (long ones) a tenth of it
        limit = args.limit if args.limit is None or name in SETS else max(1, args.limit // 10)
        how = args.how if name in SETS else None
        task = load_task(name, args.data, split="test", how=how, limit=limit)
        report = evaluate(task, engine, args.model, args.output / name)
        figures = ", ".join(f"{k} {v.mean:.2f}" for k, v in report.results.metrics.items())
        print(
            f"{name}: {figures} (n {report.results.n}, {report.cost.seconds_total:.0f} s)",
            flush=True,
        )
    engine.close()


if __name__ == "__main__":
    main()
