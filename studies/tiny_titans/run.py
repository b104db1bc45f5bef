"""A compact model tuned for meetings, against its base and the large zero-shot models.

usage: run.py --data DIR --work FOLDER [--only ARM ...] [--locator NAME] [--test]

Every arm is SmolLM2-135M-Instruct with LoRA (rank 16, answer tokens only), trained on QMSum's train
split and scored on val; choices are made there. `shipped` is the chosen one as it comes with the
package (GGUF, llama.cpp), `untuned` its base in that engine. `--test` scores these two, once, on
the 281 test questions and on the 244 specific ones with gold spans: final.py makes their tables.
What was stopped goes on.
"""

import argparse
import gzip
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
BASE = "smollm2-135m"
NO_REPEAT = 3  # greedy answers of small models run in circles: a third of val did
ARMS: dict[str, dict[str, object]] = {
    # words of the meeting that are read, in training and in use; passes over the 1,257 pairs
    "600x1": {"words": 600, "epochs": 1},
    "600x3": {"words": 600, "epochs": 3},
}

PACKAGED = {"shipped": "smollm2-135m-meetings", "untuned": "smollm2-135m"}
NAMES = ("base", *PACKAGED, *ARMS)
USD_PER_HOUR = "0.10"  # about what two AMD cores cost on demand; the question's dollars follow it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=["base", *ARMS])
    parser.add_argument("--locator", help="what finds the words: fitted, bm25, or a trained one")
    parser.add_argument("--test", action="store_true")
    args = parser.parse_args()
    where = ["--data", str(args.data)]
    found = ["--locator", args.locator] if args.locator else []
    if args.test:
        words = ["--words", str(ARMS["600x3"]["words"])]
        for arm, model in PACKAGED.items():
            for name, read in (("located", [*words, *found]), ("gold", words)):
                where = [*where[:2], "--split", "test", "--input", name, *read]
                keep(f"test-{arm}-{name}", evaluate(model, where, args.work / "test" / arm / name))
        return
    for arm in args.only:
        settings = ARMS.get(arm, ARMS["600x3"])
        if arm in ARMS:
            train(where, settings, args.work / arm)
        words = ["--words", str(settings["words"])]
        name = arm + ("" if not args.locator else f"-{Path(args.locator).name}")
        manifest = evaluate(folder(args.work, arm), [*where, "--split", "val", *words, *found],
                            args.work / "val" / name)  # fmt: skip
        keep(f"val-{name}", manifest)


def folder(work: Path, arm: str) -> str:
    """Base and tuned are read by one engine, so that nothing but the tuning differs."""
    if arm in PACKAGED:
        return PACKAGED[arm]
    import torch

    from featherweight.distill.student import open_base

    return f"hf:{open_base(BASE, torch.bfloat16, 'cpu')[2] if arm == 'base' else work / arm}"


def train(where: list[str], settings: dict[str, object], output: Path) -> None:
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    data = ["--data", "qmsum", "--data-dir", where[1]]
    call("train", "--student", BASE, *data, *words, "--save-every", "10", "--output", str(output))


def evaluate(model: str, words: list[str], output: Path) -> Path:
    call("eval", "--task", "qmsum", "--model", model, "--no-repeat", str(NO_REPEAT), *words,
         "--usd-per-hour", USD_PER_HOUR, "--output", str(output))  # fmt: skip
    return output / "manifest.json"


def keep(name: str, manifest: Path) -> None:
    told = json.loads(manifest.read_text())
    wanted = ("n", "groups", "cut_off", "metrics", "cost_per_item")
    split, _, arm = name.partition("-")
    result = {"arm": arm, **{key: told[key] for key in wanted}}
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    # what `featherweight compare` reads
    pack(manifest.with_name("predictions.jsonl"), results / f"{name}.jsonl.gz",
         ("id", "group", "prediction"))  # fmt: skip
    if split == "val":  # the test split's are in the data
        pack(manifest.with_name("references.jsonl"), results / "val-references.jsonl.gz")


def pack(rows: Path, target: Path, wanted: Sequence[str] = ()) -> None:
    found = [json.loads(line) for line in rows.open()]
    kept = [{key: row[key] for key in wanted or row} for row in found]
    text = "".join(f"{json.dumps(row)}\n" for row in sorted(kept, key=lambda row: row["id"]))
    target.write_bytes(gzip.compress(text.encode(), mtime=0))


def call(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "featherweight", *words], check=True)


if __name__ == "__main__":
    main()
