"""SFT, LoRA, KD and NEO heal a depth-pruned SmolLM2: quality, time, memory; a stopped run goes on.

usage: run.py --data DIR --work FOLDER [--only ARM ...] [--seeds 0 1 2] [--steps 200]

1. The teacher (SmolLM2-135M-Instruct, dequantised) loses 10 of its 30 layers: FOLDER/student.
2. It reads the data once: FOLDER/cache (hidden states: every divergence exactly).
3. Each arm and seed is trained in a process of its own, so that peak memory is its own.
4. Every trained student is scored on what none has seen: results/ARM-SEED.json.

Learnt from, half and half: running text in pieces of 230 words (meetings of QMSum's train split,
and the first two thirds of WikiText-2's validation articles) and answers to QMSum's train questions
over located spans. Scored on WikiText-2's other validation articles and QMSum's val questions:
cross-entropy of every token of the text, and of every answer token.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from featherweight.compress import prune
from featherweight.distill import Settings, teach, train
from featherweight.distill.data import Reader, collate, samples
from featherweight.distill.learner import Learner
from featherweight.distill.objective import Objective
from featherweight.distill.student import open_base
from featherweight.engines.hf_open import open_model
from featherweight.tasks import Example, Task, load_task

HERE = Path(__file__).parent
TEACHER = "smollm2-135m"
KEEP = 20
LENGTH = 640
WORDS = 250  # of a meeting, beside the question: fits LENGTH for nearly all
ARMS = {
    "sft": {"method": "sft"},
    "lora": {"method": "lora"},
    "kd": {"method": "kd"},
    "neo": {"method": "neo"},
    # is it the tenfold rate? LoRA and NEO at the rate of full tuning, and the other way round
    "neo, lr of kd": {"method": "neo", "lr": 3e-5},
    "kd, lr of neo": {"method": "kd", "lr": 3e-4},
    # sweeps, one seed
    "neo, rank 4": {"method": "neo", "rank": 4},
    "neo, rank 8": {"method": "neo", "rank": 8},
    "neo, kd_weight 0.25": {"method": "neo", "kd_weight": 0.25},
    "neo, kd_weight 1": {"method": "neo", "kd_weight": 1.0},
}
SEEDED = ("sft", "lora", "kd", "neo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.one:
        run_one(args.data, args.work, args.one[0], int(args.one[1]), args.steps)
        return
    prepare(args.data, args.work)
    first = args.seeds[0]
    wanted = [(arm, seed) for seed in args.seeds for arm in SEEDED]
    wanted += [(arm, first) for arm in ARMS if arm not in SEEDED]
    for arm, seed in wanted:
        if args.only and arm not in args.only:
            continue
        if not result_file(arm, seed).exists():
            again = [sys.executable, __file__, "--data", args.data, "--work", args.work]
            again += ["--steps", str(args.steps), "--one", arm, str(seed)]
            subprocess.run(again, check=True)


def prepare(data: Path, work: Path) -> None:
    """The student and the cache, once."""
    if not (work / "student").exists():
        texts = load_task("qmsum", data, split="train", words=300, limit=40)
        teacher = open_base(TEACHER, torch.bfloat16, "cpu")[2]
        prune(f"hf:{teacher}", work / "student", texts, depth=KEEP)
    teach(TEACHER, learnt(data), work / "cache", keep="hidden", max_length=LENGTH)


def learnt(data: Path) -> Task:
    """Texts and answers, as many of each."""
    answers = fitting(load_task("qmsum", data, split="train", words=WORDS))
    meetings = load_task("qmsum", data, split="train", words=WORDS).sources.values()
    articles = [e.target or "" for e in load_task("wikitext2", data, split="val").examples]
    texts = [*pieces(articles[: 2 * len(articles) // 3]), *pieces(meetings)]
    return Task("healing", "summary", (*answers, *texts[: len(answers)]))


def scored(data: Path) -> dict[str, tuple[Example, ...]]:
    """What is scored on: other articles, other meetings' questions."""
    articles = [e.target or "" for e in load_task("wikitext2", data, split="val").examples]
    questions = fitting(load_task("qmsum", data, split="val", words=WORDS))
    return {
        "text": tuple(pieces(articles[2 * len(articles) // 3 :])),
        "answers": questions,
    }


def fitting(task: Task) -> tuple[Example, ...]:
    """Without the few whose answer is so long that it would not fit."""
    return tuple(e for e in task.examples if len((e.target or "").split()) <= 100)


def pieces(texts, words: int = 230) -> list[Example]:
    """Running text without a question, in pieces that fit LENGTH tokens."""
    found = []
    for text in texts:
        parts = text.split()
        for start in range(0, len(parts) - words + 1, words):
            piece = " ".join(parts[start : start + words])
            found.append(Example(f"text/{len(found)}", "", piece))
    return found


def run_one(data: Path, work: Path, arm: str, seed: int, steps: int) -> None:
    out = work / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
    settings = {"steps": steps, "batch": 8, "micro_batch": 1, "seed": seed, "max_length": LENGTH}
    distils = ARMS[arm]["method"] in ("kd", "neo")
    task = learnt(data)
    before = time.process_time()
    whole = not out.exists()  # what was stopped, or only has to be scored, was not all done here
    trained = train(
        f"hf:{work / 'student'}",
        task,
        out,
        teacher=str(work / "cache") if distils else None,
        settings=Settings(save_every=10, **{**settings, **ARMS[arm]}),
    )
    spent = time.process_time() - before if whole else None
    scores = score(f"hf:{out}" if (out / "config.json").exists() else out, data)
    result = {"arm": arm, "seed": seed, "steps": steps, **scores, **dict(trained.result)}
    result["cpu_seconds"] = spent  # the machine is shared: seconds say little
    result_file(arm, seed).parent.mkdir(exist_ok=True)
    result_file(arm, seed).write_text(json.dumps(result, indent=1) + "\n")
    print(f"{arm} {seed}: {scores}", flush=True)


def result_file(arm: str, seed: int) -> Path:
    return HERE / "results" / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}.json"


def score(model, data: Path) -> dict[str, float]:
    """Mean cross-entropy in nats a token, and the share of tokens predicted."""
    opened, tokenizer = open_model(str(model).removeprefix("hf:"), torch.bfloat16, "cpu")
    learner = Learner(opened, Objective(), name="student").eval()
    reader = Reader(opened, tokenizer, "student")
    found = {}
    for name, examples in scored(data).items():
        learner.tally.clear()
        read = sorted(samples(Task(name, "summary", examples), reader, 2048), key=len)
        for start in range(0, len(read), 4):
            with torch.no_grad():
                learner(**collate(read[start : start + 4], seq2seq=False, start=[], pad=0))
        tokens = float(learner.tally["tokens"])
        found[f"{name}_ce"] = float(learner.tally["ce"]) / tokens
        found[f"{name}_right"] = float(learner.tally["right"]) / tokens
        found[f"{name}_tokens"] = tokens
    return found


if __name__ == "__main__":
    main()
