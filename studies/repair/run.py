"""Does a prompt chosen for each input repair a compressed model? Trains and scores all of it.

usage: run.py --data DIR --work FOLDER [--recipes R ...] [--seeds 0 1 2] [--only STEP ...]

1. cache: what the uncompressed model makes of the last part (hidden states), for neo.
2. compress: two recipes with real damage, from the embedded model.
3. plain: the uncompressed and the compressed model, and untrained prompts.
4. idp: four prompts of 20 each learn their part (mix.py), the bank chooses as is best on val.
5. lora, neo: the last part alone; rank of {1, 8, 32} by val at seed 0, rank 1 kept beside it.

What is trained is scored at once: log-probabilities of every choice of the nine tasks' test
splits, by every single prompt and every adapter. They go to results/RECIPE/NAME.json, from which
`analyse.py` joins what IDP, a random choice, the mean of log-probabilities and the oracle pick.

What is in results/ is not made again; a stopped run goes on, and each job is a process of its own.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mix
import orjson
import torch
from safetensors.torch import load_file

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
LR = {"prompts": 1e-1, "lora": 3e-4}  # of rates.py, on val
LONGEST = 768
# no piece is cut: 100 steps of 8 are 200,000 tokens of each part
HOW = Settings(batch=8, micro_batch=8, max_length=LONGEST, steps=100, prompt_tokens=N,
               save_every=25)  # fmt: skip
STEPS = ("cache", "compress", "plain", "idp", "lora", "neo")
RESULTS = Path(__file__).parent / "results"
UNCOMPRESSED = "uncompressed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    jobs = {"plain": plain, "idp": idp, "lora": adapters, "neo": adapters}
    if args.one:
        step, recipe, seed = args.one
        jobs[step](args.data, args.work, recipe, step, int(seed))
        return
    if "cache" in args.only:
        teach(BASE, mix.mixed(args.data), args.work / "cache", keep="hidden", max_length=LONGEST)
    for recipe in args.recipes:
        if "compress" in args.only:
            compress(BASE, [parse_recipe(recipe)], model(args.work, recipe),
                     calibration(args.data))  # fmt: skip
    for seed in args.seeds:
        for recipe in args.recipes:
            for step in jobs:
                if step in args.only and not (step == "plain" and seed != args.seeds[0]):
                    again = [sys.executable, __file__, "--data", args.data, "--work", args.work]
                    subprocess.run([*again, "--one", step, recipe, str(seed)], check=True)


def model(work: Path, recipe: str) -> Path:
    return work / recipe / "model"


def kept(recipe: str, name: str) -> Path:
    return RESULTS / recipe / f"{name}.json"


def read(recipe: str, name: str) -> dict[str, Any]:
    """What is known of it by now; {} of what has not begun."""
    path = kept(recipe, name)
    return dict(orjson.loads(path.read_bytes())) if path.exists() else {}


def keep(recipe: str, name: str, facts: dict[str, Any]) -> None:
    """A line for every fact."""
    path = kept(recipe, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'"{key}": {orjson.dumps(value).decode()}' for key, value in facts.items()]
    write_atomic(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def plain(data: Path, work: Path, recipe: str, step: str, seed: int) -> None:
    """The uncompressed and the compressed model, and prompts that nobody trained."""
    if recipe == RECIPES[0] and not read("", UNCOMPRESSED):
        spec = f"hf:{dequantised(BASE)}"
        keep("", UNCOMPRESSED, {"logprobs": logprobs(data, spec, work / UNCOMPRESSED)})
    if not read(recipe, "none"):
        keep(recipe, "none", compressed(work, recipe)
             | {"logprobs": logprobs(data, f"hf:{model(work, recipe)}",
                                     work / recipe / "scored" / "none")})  # fmt: skip
    if not read(recipe, "untrained"):
        untrained(data, work, recipe)
        keep(recipe, "untrained", compressed(work, recipe)
             | {"logprobs": each(data, work, recipe, "untrained")})  # fmt: skip


def idp(data: Path, work: Path, recipe: str, step: str, seed: int) -> None:
    name = f"idp-{seed}"
    if read(recipe, name):
        return
    settings = replace(HOW, lr=LR["prompts"], seed=10 * seed)
    found = repair(f"hf:{model(work, recipe)}", "idp", mix.learnt(data), work / recipe / name,
                   val=mix.val(data), count=M, settings=settings).manifest  # fmt: skip
    print(recipe, name, found["val"]["each"], found["val"]["ways"][0], flush=True)
    facts = {key: found[key] for key in ("parameters", "val", "chosen")}
    won = winners(data, work, recipe, name)
    keep(recipe, name, compressed(work, recipe) | facts
         | {"won": won, "logprobs": each(data, work, recipe, name)})  # fmt: skip


def adapters(data: Path, work: Path, recipe: str, method: str, seed: int) -> None:
    """All ranks at seed 0, of which val chooses; rank 1 and that one are scored."""
    for rank in RANKS if seed == 0 else ranks(recipe, method):
        name = f"{method}-{rank}-{seed}"
        if not read(recipe, name):
            keep(recipe, name, compressed(work, recipe) | adapter(data, work, recipe, name))
    for rank in ranks(recipe, method):
        name = f"{method}-{rank}-{seed}"
        facts = read(recipe, name)
        if "logprobs" not in facts:
            adapter(data, work, recipe, name)  # there already, or lost with its folder
            scored = work / recipe / "scored" / name
            facts["logprobs"] = logprobs(data, f"hf:{work / recipe / name}", scored)
            keep(recipe, name, facts)


def adapter(data: Path, work: Path, recipe: str, name: str) -> dict[str, Any]:
    """Trained; its loss on val and how many numbers it adds."""
    method, rank, seed = name.split("-")
    output = work / recipe / name
    settings = replace(HOW, lr=LR["lora"], rank=int(rank), seed=10 * int(seed))
    teacher = str(work / "cache") if method == "neo" else None
    repair(f"hf:{model(work, recipe)}", method, mix.mixed(data), output,
           teacher=teacher, settings=settings)  # fmt: skip
    tensors = load_file(output / "adapter_model.safetensors").values()
    loss = val_loss(data, output)
    print(recipe, name, loss, flush=True)
    return {"val": loss, "parameters": sum(tensor.numel() for tensor in tensors)}


def compressed(work: Path, recipe: str) -> dict[str, Any]:
    """Which weights were repaired: another machine's may differ in their last bits."""
    return {"weights": digest(model(work, recipe).glob(WEIGHTS))}


def val_loss(data: Path, folder: Path) -> float:
    """Nats a token, on what the prompts are chosen on."""
    opened, tokenizer = open_model(str(folder), choose_dtype("auto", "cpu")[0], "cpu")
    asked = samples(mix.val(data), Reader(opened, tokenizer, str(folder)), LONGEST)
    measured = losses(opened, [], contexts(asked, running=True))
    return float(measured.bare.sum() / measured.tokens.sum())


def ranks(recipe: str, method: str) -> list[int]:
    """1 and the best by loss on val, seed 0."""
    best = min(RANKS, key=lambda rank: float(read(recipe, f"{method}-{rank}-0")["val"]))
    return sorted({1, best})


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


def each(data: Path, work: Path, recipe: str, bank: str) -> list[dict[str, Any]]:
    """Log-probabilities behind each prompt of a bank alone."""
    return [
        logprobs(
            data, f"hf:{single(work, recipe, bank, k)}", work / recipe / "scored" / f"{bank}-{k}"
        )
        for k in range(M)
    ]


def logprobs(data: Path, spec: str, folder: Path) -> dict[str, list[list[float]]]:
    """Of every choice of the nine tasks' test questions, in the tasks' order."""
    engine = load_engine(spec)
    found = {}
    for name in SETS:
        task = load_task(name, data, split="test")
        report = evaluate(task, engine, spec, folder / name)
        accuracy = next(iter(report.results.metrics.values()))
        print(folder.parent.parent.name, folder.name, name, round(accuracy.mean, 2), flush=True)
        lines = (folder / name / "predictions.jsonl").read_bytes().splitlines()
        rows = {row["id"]: row["logprobs"] for row in map(orjson.loads, lines)}
        found[name] = [[round(value, 4) for value in rows[one.id]] for one in task.examples]
    engine.close()
    return found


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
