"""How much compression costs: perplexity on two kinds of text, nine tasks, meeting questions.

usage: run.py --data DIR --work FOLDER [--only RECIPE ...] [--steps STEP ...] [--shared]
       run.py --data DIR --work FOLDER --model hf:QWEN --name qwen2.5-coder-0.5b --subset

1. compress: each recipe alone and sequentially; all of one kind again in one shared pass.
2. perplexity a token: WikiText-2 test in chunks of 2,048, the beginnings of QMSum's val meetings.
3. tasks: nine, test split. 4. questions: QMSum val's specific queries over gold spans.

Every step of every model writes results/MODEL/NAME.json and is left out where that is there.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import texts

from featherweight.compress import compress, parse_recipe
from featherweight.engines import Engine, load_engine
from featherweight.files import write_atomic
from featherweight.tasks import Task, evaluate, load_task
from featherweight.tasks.choice import SETS

HERE = Path(__file__).parent
RECIPES = (
    "gptq:bits=4",
    "gptq:bits=3",
    "gptq:bits=2",
    "rtn:bits=3",
    "sparsegpt:sparsity=0.5",
    "sparsegpt:sparsity=0.6",
    "wanda:sparsity=0.5",
    "dsnot:sparsity=0.5",
    "magnitude:sparsity=0.5",
    "joint:sparsity=0.5,bits=4",
)
CUTS = {  # by the model's name: a third of the layers goes, a third of what is in them
    "smollm2-135m": ("depth:layers=20", "width:kv=2,ffn=1024"),
    "qwen2.5-coder-0.5b": ("depth:layers=16", "width:ffn=3264"),  # of 2 groups none can go
}
# chunks of 2,048 tokens (65,536), meetings, questions a task, queries
SUBSET = {"perplexity": 32, "meetings": 16, "tasks": 200, "questions": 60}
TOKENS, LENGTH = 65_536, 1024
STEPS = ("perplexity", "tasks", "questions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--name", default="smollm2-135m", choices=CUTS, help="in results/")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--subset", action="store_true", help="only so many of each (SUBSET)")
    parser.add_argument("--shared", action="store_true", help="the shared pass too")
    args = parser.parse_args()
    calibration = texts.calibration(args.data)
    made: dict[str, str] = {"none": args.model}
    for text in (*RECIPES, *CUTS[args.name]):
        if args.only and text not in args.only:
            continue
        folder = args.work / args.name / text
        recipe = parse_recipe(text)
        length = None if recipe.structured else LENGTH
        compress(args.model, [recipe], folder, calibration, tokens=TOKENS, length=length)
        print(text, "made", flush=True)
        kept(args.name, text, folder)
        made[text] = f"hf:{folder}"
    if args.shared:
        around = args.work / args.name / "shared"
        compress(args.model, [parse_recipe(text) for text in RECIPES], around, calibration,
                 tokens=TOKENS, length=LENGTH)  # fmt: skip
        for text in RECIPES:
            kept(args.name, f"{text} shared", around / text)
            made[f"{text} shared"] = f"hf:{around / text}"
    for step in args.steps:
        for name, spec in made.items():
            measure(step, args, name, spec)


def kept(model: str, name: str, folder: Path) -> None:
    """The manifest, without a line for each layer, goes into the results."""
    target = HERE / "results" / model / f"{name}.manifest.json"
    if target.exists():
        return
    manifest = json.loads((folder / "manifest.json").read_text())
    layers = manifest.get("layers")
    if isinstance(layers, list):
        errors = [[one["error_rtn"], one["error"]] for one in layers]
        manifest["layers"] = {"count": len(layers), "error_rtn, error": errors}
    for private in ("spec",):
        manifest.get("job", {}).get("source", {}).pop(private, None)
    write_atomic(target, json.dumps(manifest, indent=1) + "\n")


def measure(step: str, args: argparse.Namespace, name: str, spec: str) -> None:
    target = HERE / "results" / args.name / f"{name}.{step}.json"
    if target.exists():
        return
    if spec == "smollm2-135m":  # the same weights in the same engine as its copies
        from featherweight.engines.dequantised import dequantised

        spec = f"hf:{dequantised(spec)}"
    engine = load_engine(spec)
    run = args.work / "runs" / args.name / name
    tasks = {"perplexity": perplexity, "tasks": nine, "questions": questions}[step]
    found = {
        task.name: scored(task, engine, spec, run / task.name)
        for task in tasks(args.data, SUBSET if args.subset else {})
    }
    engine.close()
    write_atomic(target, json.dumps(found, indent=1) + "\n")
    for task, values in found.items():
        metric, value = next(iter(values["metrics"].items()))
        print(f"{name}: {task} {metric} {value['mean']:.2f}", flush=True)


def scored(task: Task, engine: Engine, spec: str, folder: Path) -> dict[str, Any]:
    report = evaluate(task, engine, spec, folder)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    metrics = {k: {"mean": v.mean, "ci95": v.ci95} for k, v in report.results.metrics.items()}
    return {"n": report.results.n, "seconds": report.cost.seconds_total, "metrics": metrics}


def perplexity(data: Path, few: dict[str, int]) -> list[Task]:
    return [
        load_task("wikitext2-tokens", data, split="test", limit=few.get("perplexity")),
        texts.qmsum_val(data, few.get("meetings")),
    ]


def nine(data: Path, few: dict[str, int]) -> list[Task]:
    return [load_task(name, data, split="test", limit=few.get("tasks")) for name in SETS]


def questions(data: Path, few: dict[str, int]) -> list[Task]:
    limit = few.get("questions")
    return [load_task("qmsum", data, split="val", input="gold", words=500, limit=limit)]


if __name__ == "__main__":
    main()
