"""One call trains a student by any method, resumes what was stopped, and leaves a model directory.

OUTPUT holds `manifest.json` (what the run is), `log.jsonl` (loss and metrics), `checkpoints/` while
it runs, and at the end the model, or the adapter, and its tokenizer, as `load_engine` opens them.
"""

import functools
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch
from torch import Tensor
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME

from featherweight.distill import checkpoints, folder
from featherweight.distill.cache import TeacherCache, cache_path, is_cache
from featherweight.distill.data import Reader, Sample, collate, samples
from featherweight.distill.head import Head
from featherweight.distill.learner import Learner, check_head
from featherweight.distill.settings import LOSSES, Plan, Settings, derive, described
from featherweight.distill.soft import SOFT_KINDS, Soft
from featherweight.distill.spp import multiply
from featherweight.distill.student import adapt, counted, load_trainable, open_base, save_student
from featherweight.distill.teacher import open_teacher, shared_vocabulary
from featherweight.distill.texts import Texts
from featherweight.distill.trainer import TRAINABLE, ObjectiveTrainer
from featherweight.distill.watch import Tell, Watch
from featherweight.engines.hf_open import choose_dtype
from featherweight.errors import TrainingError
from featherweight.evaluate.cost import peak_rss, peak_vram
from featherweight.tasks import Task
from featherweight.tasks.run import versions


@dataclass(frozen=True)
class Trained:
    """Where the model lies, and how its training went: the manifest's `result`."""

    folder: Path
    result: Mapping[str, Any]


class Machine(NamedTuple):
    """Where and in which precision it is computed, and why so."""

    device: str
    dtype: torch.dtype
    reason: str


class Source(NamedTuple):
    """What is learnt from: a model in memory, or a cache with its head; the tokens compared."""

    model: Any = None
    cache: TeacherCache | None = None
    head: Head | None = None
    vocabulary: int | None = None


def train(
    student: str,
    data: Task,
    output: Path,
    *,
    val: Task | None = None,
    teacher: str | None = None,
    settings: Settings | None = None,
    tell: Tell = lambda kind, facts: None,
) -> Trained:
    """Train `student` (a local spec) on `data` and write it to `output`.

    With `val` it is evaluated on the way, and the best checkpoint by `settings.stop_on` is kept.
    `teacher` is a local spec or a cache's folder. `tell(kind, facts)` hears what happens: plan,
    step, log, eval, text, resumed. The same call goes on where it was stopped. Raises
    `TrainingError`, `EngineError`, `DataError`, `OutputError`.
    """
    settings = settings or Settings()
    output = output.absolute()  # checkpoints name each other
    tell = tell if folder.main_process() else lambda kind, facts: None
    with folder.alone(output), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's, about transformers 6
        run = folder.described(student, teacher, data, val, settings)
        done = folder.begin(output, run)
        if done is not None:
            return Trained(output, done)
        return Trained(output, _train(student, data, output, val, teacher, settings, tell))


def _train(
    student: str,
    data: Task,
    output: Path,
    val: Task | None,
    teacher: str | None,
    settings: Settings,
    tell: Tell,
) -> Mapping[str, Any]:
    device = _device()
    machine = Machine(device, *choose_dtype(settings.dtype, device))
    if settings.dtype == "auto":  # is measured, and may be measured otherwise the next time
        measured = str(machine.dtype).removeprefix("torch.")
        if (begun := folder.begun_in(output, measured)) != measured:
            machine = Machine(device, getattr(torch, begun), "as the run began")
    # what is trained is float32: steps smaller than bfloat16's 8 bits would be lost
    full = derive(settings, 1, teacher is not None).tune == "full"
    model, tokenizer, base = open_base(student, torch.float32 if full else machine.dtype, device)
    plan = derive(settings, counted(model)[1], teacher is not None)
    reader = Reader(model, tokenizer, student)
    length = settings.max_length or reader.context
    if length > reader.context:
        raise TrainingError(
            f"--max-length {length} is more than {student} holds ({reader.context}); lower it."
        )
    if plan.tune in SOFT_KINDS:
        if reader.context - plan.places < 2:
            raise TrainingError(
                f"--prompt-tokens {plan.places} leaves no room in {student}, which holds "
                f"{reader.context}; lower it."
            )
        length = min(length, reader.context - plan.places)
    learnt = samples(data, reader, length)
    tests = samples(val, reader, length) if val else []
    check_head(model, student)
    source = _source(teacher, model, tokenizer, learnt, tests, plan, machine)
    set_seed(settings.seed)
    if plan.rank is not None and plan.alpha is not None:
        of = (settings.lora, plan.rank, plan.alpha, settings.dropout, settings.targets)
        model = adapt(model, base, *of)
    elif plan.tune == "spp" and plan.rank is not None:
        model = multiply(model, base, plan.rank)
    elif plan.tune in SOFT_KINDS:
        start = _tokens_of(learnt, plan.places, settings.seed).to(device)
        model = Soft(model, base, plan.tune, start)  # type: ignore[arg-type]
    learner = Learner(
        model,
        plan.objective,
        name=student,
        teacher=source.model,
        teacher_head=source.head,
        vocabulary=source.vocabulary,
    )
    if settings.gradient_checkpointing:
        if plan.tune in SOFT_KINDS:
            raise TrainingError(
                f"--tune {plan.tune} cannot save memory by computing twice; leave "
                "--gradient-checkpointing out."
            )
        learner.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    steps = settings.steps
    if steps is None:
        steps = math.ceil(math.ceil(len(learnt) / settings.batch) * settings.epochs)
    # all of val or none of it: a mixture of losses would depend on how it is cut into batches
    told = source.cache if source.cache is not None and source.cache.covers(tests) else None
    rows = [*described(plan), *_facts(learner, learnt, length, steps, settings, machine)]
    if teacher is not None:
        rows.append(("teacher", teacher, _taught(source)))
    if tests:
        alone = source.cache is not None and told is None and plan.objective.needs_teacher
        remark = f"best by {plan.stop_on}"
        remark += ", cross-entropy alone: the cache has nothing for it" if alone else ""
        often = f"every {_every(settings, steps)} steps"
        rows.append(("val", f"{len(tests):,} examples, {often}", remark))
    tell("plan", {"rows": rows, "steps": steps})
    texts = None
    if settings.eval_texts and val is not None:
        texts = Texts(model, reader, val, settings.eval_texts, machine.dtype, tell)
    try:
        args = _arguments(settings, plan, machine, output, steps, bool(tests))
        trainer = ObjectiveTrainer(
            learner,
            args,
            learnt,
            tests,
            functools.partial(_collated, reader, source.cache),
            functools.partial(_collated, reader, told),
            settings.batch,
            texts,
            [Watch(tell, output / folder.LOG, settings.patience, int(args.eval_steps or 1))],
        )
        trainer.create_optimizer_and_scheduler(steps)  # what it refuses only when it begins
        trainer.optimizer = trainer.lr_scheduler = None
    except (ValueError, ImportError, RuntimeError) as error:  # a schedule, optimiser or logger
        why = " ".join(str(error).split())[:300]
        raise TrainingError(f"transformers refuses these settings ({why}); change them.") from None
    for callback in (PrinterCallback, ProgressCallback):  # the view shows it
        trainer.remove_callback(callback)
    return _fit(trainer, learner, tokenizer, output, machine.dtype, tell)


def _tokens_of(learnt: Sequence[Sample], count: int, seed: int) -> Tensor:
    """So many token ids [count], drawn from what is learnt: where a soft prompt starts."""
    ids = sorted({token for sample in learnt for token in sample.prompt + sample.target})
    drawn = torch.randint(len(ids), (count,), generator=torch.Generator().manual_seed(seed))
    return torch.tensor(ids)[drawn]


def _device() -> str:
    """This process's own GPU, or the CPU; raises `TrainingError` for several GPUs at once."""
    if not torch.cuda.is_available():
        return "cpu"
    if "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    elif torch.cuda.device_count() > 1:
        raise TrainingError(
            f"{torch.cuda.device_count()} GPUs are here and one process; start one for each "
            "(`torchrun --nproc-per-node N -m featherweight train ...`), or set "
            "CUDA_VISIBLE_DEVICES=0."
        )
    return f"cuda:{torch.cuda.current_device()}"


def _source(
    teacher: str | None,
    model: Any,
    tokenizer: Any,
    learnt: Sequence[Sample],
    tests: Sequence[Sample],
    plan: Plan,
    machine: Machine,
) -> Source:
    """Open what is learnt from; raises `TrainingError` where it is not fit for this student.

    A model reads `tests` too; a cache need not have them.
    """
    if teacher is None or not (plan.objective.needs_teacher or plan.objective.needs_correctness):
        return Source()
    if not is_cache(teacher):
        opened = open_teacher(teacher, model, tokenizer, machine.dtype, machine.device)
        holds = Reader(opened, tokenizer, teacher).context
        longest = max((*learnt, *tests), key=len)
        if len(longest) > holds:
            raise TrainingError(
                f"{teacher} holds {holds} tokens and {longest.id} has {len(longest)}; shorten what "
                "is read (--words for QMSum) or choose another teacher."
            )
        rows = len(opened.get_output_embeddings().weight)
        return Source(opened, vocabulary=shared_vocabulary(model, rows, tokenizer))
    cache = TeacherCache(cache_path(teacher))
    _check_kept(cache, plan)
    cache.check(learnt, tokenizer)
    vocabulary = None
    if cache.keep != "bits":
        rows = cache.header.vocabulary
        vocabulary = shared_vocabulary(model, rows, tokenizer)
        if vocabulary is not None and vocabulary != rows:
            raise TrainingError(
                f"{teacher} is about {rows} tokens and the student has {vocabulary}; make it "
                "again with `featherweight teach --student` naming this one."
            )
    return Source(None, cache, cache.head(machine.dtype, machine.device), vocabulary)


def _taught(source: Source) -> str:
    """How a teacher is read, for printing."""
    if source.cache is None:
        told = "not needed" if source.model is None else "in memory"
    else:
        header = source.cache.header
        told = f"cached, {header.keep}" + (f" {header.k}" if header.k else "")
    cut = "" if source.vocabulary is None else f"; the first {source.vocabulary:,} tokens of both"
    return told + cut


def _check_kept(cache: TeacherCache, plan: Plan) -> None:
    """Raise `TrainingError` where `plan` wants what the cache does not hold."""
    o = plan.objective
    if not o.needs_teacher:
        return
    if cache.keep == "bits":
        raise TrainingError(
            f"{cache.folder} holds only where the teacher is right, which is for cat-xent; for "
            f"{plan.method} make one with --keep topk or hidden."
        )
    if cache.keep == "topk" and (o.divergence != "forward_kl" or o.temperature != 1):
        raise TrainingError(
            f"{cache.folder} holds the likeliest tokens only, which gives forward_kl at "
            "temperature 1; for another make one with --keep hidden."
        )


def _collated(
    reader: Reader, cache: TeacherCache | None, batch: Sequence[Sample]
) -> dict[str, Any]:
    # a tokenizer's own may have no embedding; what is padded is never looked at
    found: dict[str, Any] = collate(batch, seq2seq=reader.seq2seq, start=reader.start, pad=0)
    if cache is not None:
        found |= cache.batch(batch)
    return found


def _facts(
    learner: Learner,
    learnt: Sequence[Sample],
    length: int,
    steps: int,
    settings: Settings,
    machine: Machine,
) -> list[tuple[str, str, str]]:
    """What will be done, for printing: name, value, remark."""
    trained, all_ = counted(learner.student)
    targets = sum(len(sample.target) for sample in learnt)
    rows = [
        ("trained", f"{trained:,} of {all_:,} parameters", ""),
        ("precision", str(machine.dtype).removeprefix("torch."), machine.reason),
        (
            "data",
            f"{len(learnt):,} examples, {sum(map(len, learnt)):,} tokens, {targets:,} supervised",
            f"longest {max(map(len, learnt)):,} of {length:,} tokens",
        ),
    ]
    once = f"{settings.micro_batch} at once"
    once += ", activations computed twice" if settings.gradient_checkpointing else ""
    rows.append(("steps", f"{steps:,} of {settings.batch} examples", once))
    saved = f"saved every {settings.save_every or _every(settings, steps)} steps"
    rows.append(("schedule", f"{settings.schedule}, {settings.warmup:.0%} warm-up", saved))
    used = f"{settings.optimiser}, clip {settings.clip:g}, weight decay {settings.weight_decay:g}"
    rows.append(("optimiser", used, f"seed {settings.seed}"))
    return rows


def _every(settings: Settings, steps: int) -> int:
    """Steps from one evaluation, or checkpoint, to the next."""
    return settings.eval_every or max(1, steps // 10)


def _arguments(
    settings: Settings, plan: Plan, machine: Machine, output: Path, steps: int, tested: bool
) -> TrainingArguments:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    accumulated, rest = divmod(settings.batch, settings.micro_batch * world)
    if rest:
        raise TrainingError(
            f"batch {settings.batch} is no multiple of micro_batch {settings.micro_batch} x "
            f"{world} processes; change one."
        )
    every = _every(settings, steps)
    if tested and settings.save_every not in (None, every):
        raise TrainingError(
            f"with --val a checkpoint is written at each evaluation, every {every} steps; leave "
            "--save-every out."
        )
    on_cpu = machine.device == "cpu"
    return TrainingArguments(
        output_dir=str(output / folder.CHECKPOINTS),
        per_device_train_batch_size=settings.micro_batch,
        per_device_eval_batch_size=settings.micro_batch,
        gradient_accumulation_steps=accumulated,
        max_steps=steps,
        learning_rate=plan.lr,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(settings.warmup * steps),
        optim=settings.optimiser,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        bf16=machine.dtype == torch.bfloat16,
        use_cpu=on_cpu,
        logging_steps=max(1, min(10, steps // 20)),
        logging_first_step=True,
        logging_nan_inf_filter=False,  # our own check stops instead
        eval_strategy="steps" if tested else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=settings.save_every or every,
        metric_for_best_model=plan.stop_on if tested else None,
        greater_is_better=plan.stop_on not in LOSSES,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to=settings.report_to.split(","),
        seed=settings.seed,
        data_seed=settings.seed,
        ddp_backend="gloo" if on_cpu and world > 1 else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not on_cpu,
    )


def _fit(
    trainer: ObjectiveTrainer,
    learner: Learner,
    tokenizer: Any,
    output: Path,
    dtype: torch.dtype,
    tell: Tell,
) -> Mapping[str, Any]:
    last = checkpoints.newest(output / folder.CHECKPOINTS)
    if last is not None:
        tell("resumed", {"step": checkpoints.step_of(last)})
    trainer.began = time.perf_counter() - _spent(last)
    if last is not None and _is_over(last, trainer):
        trainer.state = TrainerState.load_from_json(str(last / TRAINER_STATE_NAME))
        load_trainable(learner.student, last / TRAINABLE)
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    seconds = time.perf_counter() - trainer.began
    state, best = trainer.state, trainer.state.best_model_checkpoint
    if best is not None and Path(best).name != f"checkpoint-{state.global_step}":
        load_trainable(learner.student, Path(best) / TRAINABLE)
    trained, all_ = counted(learner.student)
    result = {
        "steps": state.global_step,
        "resumed_after": checkpoints.step_of(last) if last else None,
        "best_step": checkpoints.step_of(Path(best)) if best else state.global_step,
        "best_metric": state.best_metric,
        "loss": next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None),
        "seconds": seconds,
        "peak_rss": peak_rss(),
        "peak_vram": peak_vram(),
        "parameters": all_,
        "trained_parameters": trained,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    if folder.main_process():
        save = functools.partial(save_student, learner.student, tokenizer, dtype=dtype)
        folder.publish(output, save, result)
    trainer.accelerator.wait_for_everyone()
    return result


def _spent(checkpoint: Path | None) -> float:
    """Seconds that earlier sessions took, up to the last log before they wrote `checkpoint`."""
    if checkpoint is None:
        return 0.0
    history = orjson.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())["log_history"]
    return max((row["seconds"] for row in history if "seconds" in row), default=0.0)


def _is_over(checkpoint: Path, trainer: ObjectiveTrainer) -> bool:
    """Whether nothing was left to learn when `checkpoint` was written."""
    state = orjson.loads((checkpoint / TRAINER_STATE_NAME).read_bytes())
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {})
    stopped = control.get("args", {}).get("should_training_stop", False)
    return bool(stopped or state["global_step"] >= trainer.args.max_steps)
