"""Does cascade-aware training pay? Trains all that the study needs; a stopped run goes on.

usage: run.py --data DIR --work FOLDER [--only STEP ...] [--seeds 0 1 2] [--other hf:QWEN]

1. large: SmolLM2-135M-Instruct, LoRA on its part of the mix, merged (FOLDER/large).
2. small: 15 of its 30 layers by block influence, healed on QMSum's train transcripts; every arm
   but gatekeeper starts from it (FOLDER/small).
3. cache: the large model reads what the arms learn from (hidden states: every loss exactly).
4. arms: each arm and seed learns from the same examples, in an order that the seed decides.
5. logs: every model answers the logged questions (FOLDER/answers), joined by `analyse.py`.
6. online: the xent arm and the large model answer the questions that `online.py` streams.
7. other, with `--other`: a larger model with another tokenizer (Qwen2.5-Coder-0.5B) learns what
   `large` learnt, by LoRA, and answers; `large` is the small model in front of it.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mix
import orjson
import torch

from featherweight.cascade.record import answers_of_run
from featherweight.compress import prune
from featherweight.distill import Settings, export_safetensors, teach, train
from featherweight.distill.student import open_base
from featherweight.engines import load_engine
from featherweight.files import write_atomic
from featherweight.tasks import Task, evaluate

BASE = "smollm2-135m"
LAYERS = 15
LENGTH = 1024
GATE = 0.5  # Gatekeeper's weight of right tokens, see gate.json
ARMS: dict[str, dict[str, Any]] = {
    "xent": {"method": "sft"},
    "distillation": {"method": "kd"},
    "cat-xent": {"method": "cat-xent", "tune": "full"},
    "cat-dist": {"method": "cat-dist", "tune": "full"},
    # its paper's second stage: it starts from the xent arm of the seed (see gate.json)
    "gatekeeper": {"method": "gatekeeper", "tune": "full", "gate": GATE},
    # what of CAT's mask is it? as many tokens, but any; each model's own alone
    "random": {"method": "cat-xent", "tune": "full", "mask": "random"},
    "small-only": {"method": "cat-xent", "tune": "full", "mask": "student"},
    "large-only": {"method": "cat-xent", "tune": "full", "mask": "teacher"},
}
LARGE = Settings(method="lora", batch=16, micro_batch=8, max_length=LENGTH, save_every=25)
STEPS = ("large", "small", "cache", "arms", "logs", "online", "other")
WHOLE = ("large", "other")  # not arms
TOPS = 2  # alternatives a token: another router's rule reads margins
LR = 3e-4  # see pilot.json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--other", help="the larger model of the other tokenizer, hf:DIR")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.one:
        {"arm": arm, "answer": answer}[args.one[0]](args.data, args.work, args.one[1])
        return
    if "large" in args.only:
        large(args.data, args.work)
    if "small" in args.only:
        small(args.data, args.work)
    if "cache" in args.only:
        read = mix.part(args.data, "arms", mix.STUDIED)
        teach(f"hf:{args.work / 'large'}", read, args.work / "cache",
              keep="hidden", max_length=LENGTH)  # fmt: skip
    names = [f"{name}-{seed}" for seed in args.seeds for name in args.arms]
    if "arms" in args.only:
        apart(args, "arm", [n for n in names if not done(args.work / "arms" / n)])
    if "logs" in args.only:
        apart(args, "answer", ["large", *names])
    if "online" in args.only:
        online(args.data, args.work)
    if "other" in args.only and args.other:
        other(args.data, args.work, args.other)
        apart(args, "answer", ["other"])


def apart(args: argparse.Namespace, what: str, names: list[str]) -> None:
    """Each in a process of its own: memory is given back, and one that fails stops no other."""
    for name in names:
        again = [sys.executable, __file__, "--data", args.data, "--work", args.work]
        subprocess.run([*again, "--one", what, name], check=True)


def done(folder: Path) -> bool:
    return (folder / "config.json").exists()


def large(data: Path, work: Path) -> None:
    if done(work / "large"):
        return
    if not (work / "large-lora" / "adapter_config.json").exists():
        train(BASE, mix.part(data, "large"), work / "large-lora", settings=LARGE)
    export_safetensors(str(work / "large-lora"), work / "large")  # a teacher is no adapter


def other(data: Path, work: Path, spec: str) -> None:
    if not (work / "other" / "adapter_config.json").exists():
        # 8 meetings at once take 17 GB
        settings = replace(LARGE, micro_batch=4)
        train(spec, mix.part(data, "large"), work / "other", settings=settings)


def online(data: Path, work: Path) -> None:
    """Rows of their own and the logs of a cascade on them, by the command."""
    folder = work / "online"
    folder.mkdir(exist_ok=True)
    for name in mix.ONLINE:
        lines = [orjson.dumps(row) for row in mix.stream(data, name)]
        write_atomic(folder / f"{name}.jsonl", b"\n".join(lines))
        command = [sys.executable, "-m", "featherweight", "cascade", "log"]
        command += ["--task", folder / f"{name}.jsonl", "--metric", "rouge1", "--part", "test"]
        for stage in (work / "arms" / "xent-0", work / "large"):
            command += ["--stage", f"hf:{stage}"]
        command += ["--max-tokens", "24", "--output", folder / name]
        subprocess.run(command, check=True)


def small(data: Path, work: Path) -> None:
    texts = mix.transcripts(data)
    if not (work / "half").exists():
        base = open_base(BASE, torch.bfloat16, "cpu")[2]
        prune(f"hf:{base}", work / "half", Task("t", "summary", texts.examples[:40]), depth=LAYERS)
    if not done(work / "small"):
        settings = Settings(method="sft", lr=3e-4, batch=8, micro_batch=4, max_length=LENGTH,
                            save_every=20)  # fmt: skip
        train(f"hf:{work / 'half'}", texts, work / "small", settings=settings)


def arm(data: Path, work: Path, name: str) -> None:
    kind, _, seed = name.rpartition("-")
    read = mix.part(data, "arms", mix.STUDIED)
    start = work / "arms" / f"xent-{seed}" if kind == "gatekeeper" else work / "small"
    learn(read, work, kind, start, work / "arms" / name, seed=int(seed))


def learn(read: Task, work: Path, kind: str, start: Path, output: Path, **chosen: Any) -> None:
    # a micro-batch is the whole step, so that the random mask is shuffled over all of it
    settings = Settings(**{"lr": LR, **ARMS[kind], **chosen}, batch=8, micro_batch=8,
                        max_length=LENGTH, save_every=50)  # fmt: skip
    teacher = None if kind in ("xent", "gatekeeper") else str(work / "cache")
    train(f"hf:{start}", read, output, teacher=teacher, settings=settings)


def answer(data: Path, work: Path, name: str) -> None:
    folder = work / name if name in WHOLE else work / "arms" / name
    for split in mix.LOGGED:
        answered(data, work, name, folder, split, mix.STUDIED)


def answered(
    data: Path, work: Path, name: str, folder: Path, split: str, tasks: Sequence[str]
) -> None:
    """Every logged question of a split, each task a run of its own."""
    engine = load_engine(f"hf:{folder}")
    try:
        for task, examples in mix.logged(data, split, tasks).items():
            kind = "summary" if task == "qmsum" else "choice"
            limit = mix.MAX_TOKENS["qmsum" if task == "qmsum" else "choice"]
            asked = Task(task, kind, tuple(examples), limit, {"split": split, "study": 1})
            output = work / "answers" / name / f"{task}-{split}"
            report = evaluate(asked, engine, f"hf:{folder}", output, top_logprobs=TOPS)
            metric = "rouge1" if task == "qmsum" else "accuracy"
            answers = answers_of_run(asked, f"hf:{folder}", output, report, metric, TOPS)
            lines = [orjson.dumps([id, asdict(one)]) for id, one in answers.items()]
            write_atomic(work / "answers" / f"{name}.{task}.{split}.jsonl", b"\n".join(lines))
            print(name, task, split, report.results.metrics[metric], flush=True)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
