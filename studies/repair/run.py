"""Does a prompt chosen for each input repair a compressed model? Trains all that is compared.

usage: run.py --data DIR --work FOLDER [--recipes R ...] [--seeds 0 1 2] [--only STEP ...]

1. cache: what the uncompressed model makes of the last part (hidden states), for neo.
2. compress: two recipes with real damage, from the embedded model.
3. idp: four prompts of 20 each learn their part (mix.py), the bank chooses as is best on val.
4. lora, neo: the last part alone; rank of {1, 8, 32} by val at seed 0, rank 1 kept beside it.
5. score: every single prompt, trained and untrained, every adapter, the compressed and the
   uncompressed model on the nine tasks' test splits, by `analyse.py` joined to what IDP, a random
   choice, the mean of log-probabilities and the oracle would have picked.

A stopped run goes on; each training and each scoring is a process of its own.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mix
import torch

from featherweight.compress import compress, parse_recipe
from featherweight.distill import Settings, teach
from featherweight.distill.data import Reader, samples
from featherweight.distill.soft import save_bank
from featherweight.engines import load_engine
from featherweight.engines.dequantised import dequantised
from featherweight.engines.hf_bank import Selection, Stored
from featherweight.engines.hf_open import WEIGHTS, choose_dtype, open_model
from featherweight.files import digest, write_atomic, write_folder
from featherweight.repair import combine, read_prompts, repair
from featherweight.repair.choose import contexts, losses, scores
from featherweight.tasks import evaluate, load_task
from featherweight.tasks.choice import SETS

sys.path.append(str(Path(__file__).parent.parent / "compress"))
from texts import calibration

BASE = "smollm2-135m"
RECIPES = ("gptq:bits=3", "sparsegpt:sparsity=0.6")
M, N = 4, 20
RANKS = (1, 8, 32)
LONGEST = 768
# no piece is cut: 100 steps of 8 are 200,000 tokens of each part
HOW = Settings(batch=8, micro_batch=8, max_length=LONGEST, steps=100, prompt_tokens=N,
               save_every=25)  # fmt: skip
STEPS = ("cache", "compress", "idp", "lora", "neo", "score")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        step, recipe, name = args.one
        {"idp": idp, "adapter": adapter, "score": score}[step](args.data, args.work, recipe, name)
        return
    if "cache" in args.only:
        teach(BASE, mix.mixed(args.data), args.work / "cache", keep="hidden", max_length=LONGEST)
    for recipe in args.recipes:
        if "compress" in args.only:
            compress(BASE, [parse_recipe(recipe)], model(args.work, recipe),
                     calibration(args.data))  # fmt: skip
    for seed in args.seeds:
        for recipe in args.recipes:
            jobs = [("idp", str(seed))] if "idp" in args.only else []
            for method in ("lora", "neo"):
                if method in args.only:
                    few = RANKS if seed == 0 else (1, best_rank(args.work, recipe, method))
                    jobs += [("adapter", f"{method}-{rank}-{seed}") for rank in sorted({*few})]
            for step, name in jobs:
                apart(args, step, recipe, name)
    if "score" in args.only:
        for recipe in args.recipes:
            untrained(args.data, args.work, recipe)
            for name in scored_names(args.work, recipe, args.seeds):
                apart(args, "score", recipe, name)
        apart(args, "score", RECIPES[0], "uncompressed")


def apart(args: argparse.Namespace, step: str, recipe: str, name: str) -> None:
    again = [sys.executable, __file__, "--data", args.data, "--work", args.work]
    subprocess.run([*again, "--one", step, recipe, name], check=True)


def model(work: Path, recipe: str) -> Path:
    return work / recipe / "model"


def idp(data: Path, work: Path, recipe: str, name: str) -> None:
    settings = replace(HOW, seed=10 * int(name))
    output = work / recipe / f"idp-{name}"
    found = repair(f"hf:{model(work, recipe)}", "idp", mix.learnt(data), output,
                   val=mix.val(data), count=M, settings=settings)  # fmt: skip
    print(recipe, name, found.manifest["val"]["each"], found.manifest["val"]["ways"][0], flush=True)


def adapter(data: Path, work: Path, recipe: str, name: str) -> None:
    method, rank, seed = name.split("-")
    output = work / recipe / name
    settings = replace(HOW, rank=int(rank), seed=10 * int(seed))
    teacher = str(work / "cache") if method == "neo" else None
    repair(f"hf:{model(work, recipe)}", method, mix.mixed(data), output,
           teacher=teacher, settings=settings)  # fmt: skip
    target = work / recipe / f"{name}.val.json"
    if not target.exists():
        loss = val_loss(data, output)
        write_atomic(target, json.dumps({"val": loss}))
        print(recipe, name, loss, flush=True)


def val_loss(data: Path, folder: Path) -> float:
    """Nats a token, on what the prompts are chosen on."""
    opened, tokenizer = open_model(str(folder), choose_dtype("auto", "cpu")[0], "cpu")
    asked = samples(mix.val(data), Reader(opened, tokenizer, str(folder)), LONGEST)
    measured = losses(opened, [], contexts(asked, running=True))
    return float(measured.bare.sum() / measured.tokens.sum())


def best_rank(work: Path, recipe: str, method: str) -> int:
    """By loss on val, seed 0."""

    def loss(rank: int) -> float:
        file = work / recipe / f"{method}-{rank}-0.val.json"
        return float(json.loads(file.read_text())["val"])

    return min(RANKS, key=loss)


def untrained(data: Path, work: Path, recipe: str) -> None:
    """A bank of prompts where seed 0's started: embeddings of tokens of what was learnt."""
    output = work / recipe / "untrained"
    if output.exists():
        return
    folder = model(work, recipe)
    opened, tokenizer = open_model(str(folder), torch.float32, "cpu")
    task = mix.learnt(data)
    reader = Reader(opened, tokenizer, recipe)
    size = len(task.examples) // M
    drawn = []
    for k in range(M):
        part = replace(task, examples=task.examples[k * size : (k + 1) * size])
        ids = sorted({i for s in samples(part, reader, LONGEST) for i in s.prompt + s.target})
        generator = torch.Generator().manual_seed(k)
        chosen = torch.tensor(ids)[torch.randint(len(ids), (N,), generator=generator)]
        drawn.append(opened.get_input_embeddings()(chosen).detach())
    tensors = {"prompts": torch.stack(drawn).float().contiguous()}
    stored = Stored(str(folder.resolve()), digest(folder.glob(WEIGHTS)), Selection(), tensors)
    with write_folder(output) as temporary:
        save_bank(stored, temporary)


def scored_names(work: Path, recipe: str, seeds: list[int]) -> list[str]:
    names = ["none", *(f"untrained:{k}" for k in range(M))]
    for seed in seeds:
        names += [f"idp-{seed}:{k}" for k in range(M)]
        for method in ("lora", "neo"):
            names += [f"{method}-{r}-{seed}" for r in sorted({1, best_rank(work, recipe, method)})]
    return names


def score(data: Path, work: Path, recipe: str, name: str) -> None:
    """The nine tasks' test splits behind one single prompt, with one adapter, or with nothing."""
    results = work / recipe / "scored" / name
    if (results / "done").exists():
        return
    bank, _, k = name.partition(":")
    if name == "uncompressed":
        spec = f"hf:{dequantised(BASE)}"
    elif name == "none":
        spec = f"hf:{model(work, recipe)}"
    elif not k:
        spec = f"hf:{work / recipe / name}"
    else:
        spec = f"hf:{single(work, recipe, bank, int(k))}"
    engine = load_engine(spec)
    for task_name in SETS:
        task = load_task(task_name, data, split="test")
        report = evaluate(task, engine, spec, results / task_name)
        accuracy = next(iter(report.results.metrics.values()))
        print(recipe, name, task_name, round(accuracy.mean, 2), flush=True)
    engine.close()
    (results / "done").touch()


def single(work: Path, recipe: str, bank: str, k: int) -> Path:
    """Prompt k of a bank as a bank of one."""
    folder = work / recipe / f"{bank}-alone" / str(k)
    if not folder.exists():
        [stored] = read_prompts([work / recipe / bank])
        one = {name: tensor[k : k + 1].contiguous() for name, tensor in stored.tensors.items()}
        with write_folder(folder) as temporary:
            save_bank(replace(stored, tensors=one, selection=Selection()), temporary)
    return folder


def winners(data: Path, work: Path, recipe: str, bank: str) -> dict[str, list[int]]:
    """Which prompt the bank chooses for each test question, from its prompt alone."""
    dtype, _ = choose_dtype("auto", "cpu")
    opened, tokenizer = open_model(str(model(work, recipe)), dtype, "cpu")
    [stored] = read_prompts([work / recipe / bank])
    reader = Reader(opened, tokenizer, recipe)
    found = {}
    for name in SETS:
        examples = load_task(name, data, split="test").examples
        asked = [(reader.prompts.encode(one.prompt).ids, [0]) for one in examples]
        found[name] = scores(opened, combine([stored], stored.selection), asked).argmax(1).tolist()
    return found


if __name__ == "__main__":
    main()
