"""One call trains a student by any method, resumes what was stopped, and leaves a model directory.

OUTPUT holds `manifest.json` (what the run is), `log.jsonl` (loss and metrics), `checkpoints/` while
it runs, and at the end the model, or the adapter, and its tokenizer, as `load_engine` opens them.
"""

import contextlib
import functools
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import torch
from transformers import TrainerCallback, TrainingArguments, set_seed

from featherweight.distill import checkpoints
from featherweight.distill.data import Reader, Sample, collate, samples
from featherweight.distill.learner import Learner, check_head
from featherweight.distill.settings import Plan, Settings, derive, described
from featherweight.distill.student import (
    adapt,
    counted,
    load_trainable,
    open_base,
    save_student,
)
from featherweight.distill.teacher import open_teacher, shared_vocabulary
from featherweight.distill.texts import Texts
from featherweight.distill.trainer import TRAINABLE, ObjectiveTrainer
from featherweight.engines.hf_open import choose_dtype
from featherweight.engines.identity import identity
from featherweight.errors import OutputError, TrainingError
from featherweight.evaluate.cost import peak_rss, peak_vram
from featherweight.files import write_atomic
from featherweight.tasks import Task
from featherweight.tasks.run import prompts_sha256, versions
from featherweight.tasks.store import locked

MANIFEST, LOG = "manifest.json", "log.jsonl"
Tell = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Trained:
    """Where the model lies, and how its training went: the manifest's `result`."""

    folder: Path
    result: Mapping[str, Any]


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
    `tell(kind, facts)` hears what happens: plan, step, log, eval, text, resumed. The same call goes
    on where it was stopped. Raises `TrainingError`, `EngineError`, `DataError`, `OutputError`.
    """
    settings = settings or Settings()
    with _alone(output):
        return _Run(student, data, output, val, teacher, settings, tell).run()


def _main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _alone(output: Path) -> Any:
    """The folder's lock; under torchrun the first process holds it for all."""
    return locked(output) if _main_process() else contextlib.nullcontext()


class _Run:
    def __init__(
        self,
        student: str,
        data: Task,
        output: Path,
        val: Task | None,
        teacher: str | None,
        settings: Settings,
        tell: Tell,
    ) -> None:
        self.student, self.data, self.output, self.val = student, data, output, val
        self.teacher, self.settings = teacher, settings
        self.tell: Tell = tell if _main_process() else lambda kind, facts: None

    def run(self) -> Trained:
        settings = self.settings
        done = self._begin()
        if done is not None:
            return Trained(self.output, done)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        compute, why = choose_dtype(settings.dtype, device)
        full = self._tune() == "full"
        # what is trained is float32: steps smaller than bfloat16's 8 bits would be lost
        model, tokenizer, base = open_base(self.student, torch.float32 if full else compute, device)
        plan = derive(settings, counted(model)[1], self.teacher is not None)
        reader = Reader(model, tokenizer, self.student)
        length = settings.max_length or reader.context
        if length > reader.context:
            raise TrainingError(
                f"--max-length {length} is more than {self.student} holds ({reader.context}); "
                "lower it."
            )
        train_samples = samples(self.data, reader, length)
        val_samples = samples(self.val, reader, length) if self.val else []
        check_head(model, self.student)
        learner = self._learner(model, tokenizer, base, plan, compute, device)
        steps = self._steps(len(train_samples))
        self._tell_plan(plan, learner, train_samples, val_samples, steps, str(compute), why)
        trainer = self._trainer(
            learner, reader, train_samples, val_samples, steps, plan, compute, device
        )
        result = self._fit(trainer, learner, tokenizer, compute)
        return Trained(self.output, result)

    def _tune(self) -> str:
        return derive(self.settings, 1, self.teacher is not None).tune

    # -- the folder

    def _begin(self) -> Mapping[str, Any] | None:
        """Check the folder and write what this run is; the result where it is finished."""
        run = orjson.loads(orjson.dumps(self._described()))
        path = self.output / MANIFEST
        if path.exists():
            try:
                found = orjson.loads(path.read_bytes())
                before = found["run"]
            except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
                raise OutputError(
                    f"{path} belongs to something else; choose another output folder."
                ) from None
            if differs := sorted(k for k in before.keys() | run if before.get(k) != run.get(k)):
                raise OutputError(
                    f"{self.output} holds another run ({', '.join(differs)} differ); choose "
                    "another output folder, or remove it."
                )
            result: Mapping[str, Any] | None = found.get("result")
            return result
        if _main_process():
            others = [p.name for p in self.output.iterdir() if p.name != ".lock"]
            if others:
                raise OutputError(
                    f"{self.output} holds other work ({others[0]}); choose another output folder."
                )
            self._write_manifest({"run": run})
        return None

    def _described(self) -> dict[str, Any]:
        def task(of: Task) -> dict[str, Any]:
            return {
                "name": of.name,
                "settings": dict(of.settings),
                "examples": len(of.examples),
                "prompts_sha256": prompts_sha256(of),
            }

        return {
            "command": "train",
            "student": identity(self.student),
            "teacher": None if self.teacher is None else identity(self.teacher),
            "data": task(self.data),
            "val": None if self.val is None else task(self.val),
            "settings": asdict(self.settings),
        }

    def _write_manifest(self, data: Mapping[str, Any]) -> None:
        write_atomic(self.output / MANIFEST, orjson.dumps(data, option=orjson.OPT_INDENT_2) + b"\n")

    # -- the parts

    def _learner(
        self,
        model: Any,
        tokenizer: Any,
        base: str,
        plan: Plan,
        compute: torch.dtype,
        device: str,
    ) -> Learner:
        settings = self.settings
        teacher = vocabulary = None
        if self.teacher is not None and (
            plan.objective.needs_teacher or plan.objective.needs_correctness
        ):
            teacher = open_teacher(self.teacher, model, tokenizer, compute, device)
            rows = teacher.get_output_embeddings().weight.shape[0]
            vocabulary = shared_vocabulary(model, rows, tokenizer)
        set_seed(settings.seed)
        if plan.rank is not None and plan.alpha is not None:
            model = adapt(
                model,
                base,
                settings.lora,
                plan.rank,
                plan.alpha,
                settings.dropout,
                settings.targets,
            )
        learner = Learner(
            model, plan.objective, name=self.student, teacher=teacher, vocabulary=vocabulary
        )
        if settings.gradient_checkpointing:
            learner.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        return learner

    def _steps(self, count: int) -> int:
        in_epoch = math.ceil(count / self.settings.batch)
        return self.settings.steps or math.ceil(in_epoch * self.settings.epochs)

    def _trainer(
        self,
        learner: Learner,
        reader: Reader,
        train_samples: list[Sample],
        val_samples: list[Sample],
        steps: int,
        plan: Plan,
        compute: torch.dtype,
        device: str,
    ) -> ObjectiveTrainer:
        settings = self.settings
        world = int(os.environ.get("WORLD_SIZE", "1"))
        each, rest = divmod(settings.batch, settings.micro_batch * world)
        if rest:
            raise TrainingError(
                f"batch {settings.batch} is no multiple of micro_batch {settings.micro_batch} x "
                f"{world} processes; change one."
            )
        every = settings.eval_every or max(1, steps // 10)
        args = TrainingArguments(
            output_dir=str(self.output / "checkpoints"),
            per_device_train_batch_size=settings.micro_batch,
            per_device_eval_batch_size=settings.micro_batch,
            gradient_accumulation_steps=each,
            max_steps=steps,
            learning_rate=plan.lr,
            lr_scheduler_type=settings.schedule,
            warmup_steps=math.ceil(settings.warmup * steps),
            optim=settings.optimiser,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip,
            bf16=compute == torch.bfloat16,
            use_cpu=device == "cpu",
            logging_steps=max(1, min(10, steps // 20)),
            logging_first_step=True,
            logging_nan_inf_filter=False,  # our own check stops instead
            eval_strategy="steps" if val_samples else "no",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every if val_samples else settings.save_every or every,
            metric_for_best_model=plan.stop_on if val_samples else None,
            greater_is_better=plan.stop_on not in ("loss", "ce"),
            prediction_loss_only=True,
            remove_unused_columns=False,
            label_names=["labels"],
            disable_tqdm=True,
            report_to=settings.report_to.split(","),
            seed=settings.seed,
            data_seed=settings.seed,
            ddp_backend="gloo" if device == "cpu" and world > 1 else None,
            ddp_find_unused_parameters=False,
            dataloader_pin_memory=device != "cpu",
        )
        pad = reader.tokenizer.pad_token_id
        texts = None
        if settings.eval_texts and self.val is not None:
            texts = Texts(
                learner.student, reader, self.val, settings.eval_texts, compute, self.tell
            )
        trainer = ObjectiveTrainer(
            learner,
            args,
            train_samples,
            val_samples,
            functools.partial(
                collate,
                seq2seq=reader.seq2seq,
                start=reader.start,
                pad=0 if pad is None else pad,
            ),
            settings.batch,
            texts,
            [_Watch(self.tell, self.output / LOG, settings.patience, every)],
        )
        for name in ("PrinterCallback", "ProgressCallback"):
            for callback in list(trainer.callback_handler.callbacks):
                if type(callback).__name__ == name:
                    trainer.remove_callback(callback)
        return trainer

    def _tell_plan(
        self,
        plan: Plan,
        learner: Learner,
        train_samples: list[Sample],
        val_samples: list[Sample],
        steps: int,
        compute: str,
        why: str,
    ) -> None:
        learnt, all_ = counted(learner.student)
        settings = self.settings
        rows = [
            *described(plan),
            ("trained", f"{learnt:,} of {all_:,} parameters", ""),
            ("precision", compute.removeprefix("torch."), why),
            (
                "data",
                f"{len(train_samples):,} examples, {sum(map(len, train_samples)):,} tokens, "
                f"{sum(len(s.target) for s in train_samples):,} supervised",
                f"longest {max(map(len, train_samples)):,}",
            ),
        ]
        if val_samples:
            rows.append(("val", f"{len(val_samples):,} examples", f"best by {plan.stop_on}"))
        rows.append(
            ("steps", f"{steps:,} of {settings.batch} examples", f"{settings.micro_batch} at once")
        )
        self.tell("plan", {"rows": rows, "steps": steps})

    # -- the work

    def _fit(
        self, trainer: ObjectiveTrainer, learner: Learner, tokenizer: Any, compute: torch.dtype
    ) -> dict[str, Any]:
        folder = self.output / "checkpoints"
        last = checkpoints.newest(folder)
        if last is not None:
            self.tell("resumed", {"step": checkpoints.step_of(last)})
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's, about transformers 6
            outcome = trainer.train(resume_from_checkpoint=str(last) if last else None)
        seconds = time.perf_counter() - start
        state = trainer.state
        best = state.best_model_checkpoint
        if best is not None and Path(best).name != f"checkpoint-{state.global_step}":
            load_trainable(learner.student, Path(best) / TRAINABLE)
        result = {
            "steps": state.global_step,
            "best_step": checkpoints.step_of(Path(best)) if best else state.global_step,
            "best_metric": state.best_metric,
            "loss": outcome.training_loss,
            "seconds": seconds,
            "peak_rss": peak_rss(),
            "peak_vram": peak_vram(),
            "parameters": counted(learner.student)[1],
            "trained_parameters": counted(learner.student)[0],
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
        }
        if _main_process():
            self._publish(learner, tokenizer, compute)
            found = orjson.loads((self.output / MANIFEST).read_bytes())
            self._write_manifest({**found, "result": result})
            shutil.rmtree(folder, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        return result

    def _publish(self, learner: Learner, tokenizer: Any, compute: torch.dtype) -> None:
        """Model files appear in OUTPUT whole, the config (which makes it a model) last."""
        temporary = Path(tempfile.mkdtemp(prefix=".model.", dir=self.output))
        try:
            save_student(learner.student, tokenizer, temporary, compute)
            files = sorted(temporary.iterdir(), key=lambda p: p.name.endswith("config.json"))
            for file in files:
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
                file.replace(self.output / file.name)
        except OSError as error:
            raise OutputError(
                f"cannot write the model to {self.output}: {error.strerror or error}; make room "
                "and give the same command again."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Tells what happens, keeps the log, and stops when the metric gets no better."""

    def __init__(self, tell: Tell, log: Path, patience: int | None, every: int) -> None:
        self._tell, self._log, self._patience, self._every = tell, log, patience, every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._tell("step", {"step": state.global_step, "steps": state.max_steps})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        facts = {"step": state.global_step, **(logs or {})}
        with self._log.open("ab") as file:
            file.write(orjson.dumps(facts) + b"\n")
        self._tell("eval" if any(k.startswith("eval_") for k in facts) else "log", facts)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        waited = state.global_step - (state.best_global_step or state.global_step)
        if self._patience is not None and waited >= self._patience * self._every:
            control.should_training_stop = True
