"""How fast prompts and LoRA learn best: loss on val, one recipe, seed 0, the mixed part.

usage: rates.py --data DIR --work FOLDER [--only prompts|lora]

After `run.py --only compress`. The rate with the least loss becomes that of `LR` in run.py, for
all prompts and for LoRA and NEO alike. Writes rates.json beside this file; what it holds is not
made again, what was stopped goes on.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import mix
import run

from featherweight.files import write_atomic
from featherweight.repair import repair

TRIED = {"prompts": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1), "lora": (1e-4, 3e-4, 1e-3)}
RANK = 8
FILE = Path(__file__).with_name("rates.json")
RECIPE = run.RECIPES[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=TRIED, default=TRIED)
    args = parser.parse_args()
    rows = json.loads(FILE.read_text()) if FILE.exists() else []
    for method in args.only:
        for lr in TRIED[method]:
            if any(row["method"] == method and row["lr"] == lr for row in rows):
                continue
            output = args.work / RECIPE / f"rates-{method}-{lr:g}"
            settings = replace(run.HOW, lr=lr, rank=RANK if method == "lora" else None)
            val = mix.val(args.data) if method == "prompts" else None
            found = repair(f"hf:{run.model(args.work, RECIPE)}", method, mix.mixed(args.data),
                           output, val=val, count=1, settings=settings)  # fmt: skip
            loss = found.manifest["val"]["each"][0] if val else run.val_loss(args.data, output)
            rows.append({"recipe": RECIPE, "method": method, "lr": lr, "val": loss})
            print(rows[-1], flush=True)
            lines = ",\n".join(map(json.dumps, rows))
            write_atomic(FILE, f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
