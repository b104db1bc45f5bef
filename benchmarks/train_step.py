"""Whole training steps: tokens a second and peak memory, beside LLM-Neo's formula and TRL's loss.

usage: train_step.py --teacher DIR [--rounds 3] [--data DIR --words 500] [--table FILE]

Teacher: SmolLM2-135M (a transformers directory). Student: 20 of its 30 layers (block
influence). Data: QMSum questions (examples/data unless --data), 500 words of the meeting each. One
example is one optimiser step (AdamW, clipping); three steps after one to warm up. Computed in
bfloat16 where the hardware multiplies it; what learns is float32, a LoRA's base bfloat16 too.

| case | tuned | teacher |
| --- | --- | --- |
| sft, lora | all weights, LoRA | none |
| kd online, neo online | all weights, LoRA | runs in every step |
| neo topk, neo hidden | LoRA | a cache by `featherweight teach`, read from disk |

| impl | what it is |
| --- | --- |
| featherweight | `Learner` |
| llm-neo | both models' logits of all positions, transformers' CE, fp32 kl_div batchmean |
| trl | TRL's loss, and its way to run both backbones (answer's columns only) |

LLM-Neo's mask is one off; corrected here, at no cost. TRL's loss has no cross entropy, and its
DistillationTrainer writes the answers itself before each step, which is left out.

Memory is all that the process holds above its imports: weights, optimiser, activations. `loss` and
`grad_norm` are of the warm-up step, where all weights are equal: featherweight and llm-neo must
agree within 5 %, bfloat16 being what it is, or the script stops.
"""

import argparse
import functools
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch
import torch.nn.functional as F
from torch import Tensor

from featherweight.compress import prune
from featherweight.distill.cache import TeacherCache
from featherweight.distill.data import Reader, Sample, collate, samples
from featherweight.distill.learner import Learner
from featherweight.distill.objective import Objective
from featherweight.distill.student import adapt, open_base
from featherweight.distill.teach import teach
from featherweight.distill.teacher import open_teacher
from featherweight.engines.hf_open import choose_dtype
from featherweight.tasks import Task, load_task

SELF = Path(__file__)
RESULTS = SELF.parent / "results"
DATA = SELF.parent.parent / "examples" / "data"
JOBS = (
    ("sft", "featherweight"),
    ("lora", "featherweight"),
    ("kd online", "featherweight"),
    ("kd online", "llm-neo"),
    ("neo online", "featherweight"),
    ("neo topk", "featherweight"),
    ("neo hidden", "featherweight"),
    ("neo online", "llm-neo"),
    ("neo online", "trl"),
)
STEPS = 3
RANK, LAYERS, KD_WEIGHT = 16, 20, 0.5
Loss = Callable[[Sample], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--student", type=Path, help="made from the teacher unless given")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of QMSum")
    parser.add_argument("--words", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the rows")
    parser.add_argument("--table", type=Path, help="print the table of a result and stop")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return
    if args.teacher is None:
        parser.error("name the teacher's directory: --teacher DIR")
    with tempfile.TemporaryDirectory() as temporary:
        rows = benchmark(args, Path(temporary))
    name = "train_step.json" if measure.device() == "cpu" else "train_step_cuda.json"
    measure.write(rows, RESULTS / name)
    print(json.dumps(rows, indent=1) if args.json else table(rows))


def benchmark(args: argparse.Namespace, folder: Path) -> list[dict]:
    """The machine's row, then one of each job."""
    teacher = f"hf:{args.teacher}"
    task = load_task("qmsum", args.data, words=args.words, limit=1 + STEPS)
    student = args.student
    if student is None:
        student = prune(teacher, folder / "student", task, depth=LAYERS).folder
    for keep in ("topk", "hidden"):
        teach(teacher, task, folder / keep, keep=keep)
    jobs = [job for job in JOBS if job[1] != "trl" or measure.installed("trl")]
    one = functools.partial(run, teacher, f"hf:{student}", task, folder)
    preload = ["featherweight.distill.teach", "transformers.models.llama.modeling_llama", "peft"]
    if measure.installed("trl"):
        preload.append("trl.trainer.distillation_trainer")
    rows = measure.rounds_of(jobs, args.rounds, one, preload)
    check(rows)
    compute, why = choose_dtype("auto", measure.device())
    header = measure.machine(
        rounds=args.rounds,
        steps=STEPS,
        student_layers=LAYERS,
        rank=RANK,
        dtype=f"{str(compute).removeprefix('torch.')}: {why}",
        tokens=rows[0].pop("tokens"),
        supervised=rows[0].pop("supervised"),
    )
    for row in rows[1:]:
        del row["tokens"], row["supervised"]
    return [header, *rows]


def check(rows: list[dict]) -> None:
    """Stop unless the same method has the same loss and gradient, whoever computes it."""
    first: dict[str, dict] = {}
    for row in rows:
        method, _, where = row["case"].partition(" ")
        if row["impl"] == "trl" or where == "topk" or not where:
            continue  # no cross entropy; a coarser loss; no twin
        wanted = first.setdefault(method, row)
        for key in ("loss", "grad_norm"):
            if not math.isclose(row[key], wanted[key], rel_tol=0.05):
                raise SystemExit(
                    f"{row['case']}, {row['impl']}: {key} is {row[key]}, elsewhere {wanted[key]}: "
                    "they do not compute the same"
                )


# -- one process


def run(teacher: str, student: str, task: Task, folder: Path, case: str, impl: str) -> dict:
    """Train a few steps one way, in this process."""
    torch.manual_seed(0)
    device = measure.device()
    compute, _ = choose_dtype("auto", device)
    method, _, where = case.partition(" ")
    meter = measure.Meter()
    full = method in ("sft", "kd")
    model, tokenizer, base = open_base(student, torch.float32 if full else compute, device)
    chosen = samples(task, Reader(model, tokenizer, student), 8192)
    large = None
    if where == "online":
        large = open_teacher(teacher, model, tokenizer, compute, device)
    if not full:
        model = adapt(model, base, "lora", RANK, 2.0 * RANK, 0.0, "all-linear")
    model.train()
    if impl == "featherweight":
        cache = TeacherCache(folder / where) if where in ("topk", "hidden") else None
        head = cache.head(compute, device) if cache else None
        weight = KD_WEIGHT if where else 0.0
        loss = ours(
            Learner(
                model, Objective(kd_weight=weight), name=student, teacher=large, teacher_head=head
            ).train(),
            cache,
        )
    else:
        loss = (llm_neo if impl == "llm-neo" else trl)(model, large)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=3e-5 if full else 3e-4)

    def step(sample: Sample) -> tuple[float, float]:
        with torch.autocast(device, compute, enabled=compute != torch.float32):
            value = loss(sample)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return value.item(), norm.item()

    meter.reset()
    value, norm = step(chosen[0])
    with meter:
        for sample in chosen[1 : 1 + STEPS]:
            step(sample)
    tokens = sum(len(sample) for sample in chosen[1 : 1 + STEPS])
    return {
        "cpu_seconds": meter.cpu,
        "wall_seconds": meter.wall,
        "peak_bytes": meter.peak,
        "tokens_per_second": tokens / meter.wall,
        "loss": value,
        "grad_norm": norm,
        "tokens": tokens,
        "supervised": sum(len(sample.target) for sample in chosen[1 : 1 + STEPS]),
    }


def ours(learner: Learner, cache: TeacherCache | None) -> Loss:
    def loss(sample: Sample) -> Tensor:
        batch: dict[str, Any] = collate([sample], seq2seq=False, start=(), pad=0)
        if cache is not None:
            batch |= cache.batch([sample])
        batch = {key: value.to(measure.device()) for key, value in batch.items()}
        return learner(**batch, num_items_in_batch=len(sample.target))["loss"]

    return loss


def whole(sample: Sample) -> tuple[Tensor, Tensor]:
    """Ids and labels [1, T] as transformers takes them: not shifted."""
    ids = torch.tensor([[*sample.prompt, *sample.target]], device=measure.device())
    labels = ids.clone()
    labels[:, : len(sample.prompt)] = -100
    return ids, labels


def llm_neo(student: Any, teacher: Any) -> Loss:
    """(1-w) CE + w KL(teacher || student), after the release's `SFTTrainer.compute_loss`."""

    def loss(sample: Sample) -> Tensor:
        ids, labels = whole(sample)
        found = student(input_ids=ids, labels=labels, use_cache=False)
        with torch.no_grad():
            theirs = teacher(input_ids=ids, use_cache=False).logits
        mask = labels[:, 1:] != -100
        kl = F.kl_div(
            F.log_softmax(found.logits[:, :-1][mask].float(), -1),
            F.softmax(theirs[:, :-1][mask].float(), -1),
            reduction="batchmean",
        )
        return (1 - KD_WEIGHT) * found.loss + KD_WEIGHT * kl

    return loss


def trl(student: Any, teacher: Any) -> Loss:
    """As `DistillationTrainer._compute_loss` does it, forward KL."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    def states(model: Any, ids: Tensor, keep: int) -> Tensor:
        found = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return found[:, :-1][:, -keep:]

    def loss(sample: Sample) -> Tensor:
        ids, _ = whole(sample)
        keep = len(sample.target)
        ours = states(student.base_model.model, ids, keep)  # PEFT's wrapper taken off
        with torch.no_grad():
            theirs = states(teacher, ids, keep)
        heads = [m.get_output_embeddings().weight for m in (student, teacher)]
        mask = torch.ones(1, keep, dtype=torch.int64, device=ids.device)
        return _chunked_divergence_loss(ours, theirs, *heads, mask, 0.0, num_items_in_batch=keep)[0]

    return loss


# -- the table


def table(rows: list[dict]) -> str:
    """Tokens a CPU second (a second on CUDA), MiB, and both against LLM-Neo's NEO."""
    header, rows = rows[0], rows[1:]
    clock = "wall_seconds" if header["cuda"] else "cpu_seconds"
    found = {(row["case"], row["impl"]): row for row in rows}
    neo, kd = found["neo online", "llm-neo"], found["kd online", "featherweight"]
    their_kd = found["kd online", "llm-neo"]
    lines = [
        "| case | impl | tokens a CPU second | MiB | times llm-neo's NEO | memory / our kd |"
        " memory / llm-neo's kd |",
        "| --- " * 7 + "|",
    ]
    for row in rows:
        cells = [
            row["case"],
            row["impl"],
            f"{header['tokens'] / row[clock]:.0f}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            f"{neo[clock] / row[clock]:.2f}",
            f"{row['peak_bytes'] / kd['peak_bytes']:.2f}",
            f"{row['peak_bytes'] / their_kd['peak_bytes']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
