"""transformers' Trainer with this house's loss, order of examples, and checkpoints.

What is taken from it: accumulation, clipping, schedules, DDP and FSDP, loggers. What is not: its
loss, its samplers, its way to save. Since transformers 5 it hands `num_items_in_batch` (all labels
of an optimiser step, over micro-batches and processes) to the model, multiplies the loss by the
number of processes (DDP takes the mean of gradients) and divides no more where the model accepts
that count (`Learner.accepts_loss_kwargs`); tests compare 1 x 8, 8 x 1 and 2 processes x 4.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from featherweight.distill import checkpoints
from featherweight.distill.data import BLANK, Sample
from featherweight.distill.learner import Learner
from featherweight.distill.order import Order
from featherweight.distill.student import load_trainable, save_trainable
from featherweight.errors import TrainingError

TRAINABLE = "trainable.safetensors"
Collate = Callable[[Sequence[Sample]], dict[str, Any]]


class Samples(Dataset[Sample]):  # type: ignore[misc]
    """A list of samples; index -1 is a blank."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return BLANK if index < 0 else self._samples[index]


class ObjectiveTrainer(Trainer):  # type: ignore[misc]
    """Trains a `Learner` on samples; `texts(step)` gives more metrics at each evaluation."""

    def __init__(
        self,
        learner: Learner,
        args: Any,
        train: Sequence[Sample],
        val: Sequence[Sample],
        collate: Collate,
        eval_collate: Collate,
        batch: int,
        texts: Callable[[int], dict[str, float]] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.began = time.perf_counter()  # put back by what earlier sessions took
        self._order_batch = batch
        self._eval_collate = functools.partial(_with_names, eval_collate)
        self._texts = texts
        self._seen: list[tuple[list[str], Tensor]] = []  # this step's micro-batches
        super().__init__(
            model=learner,
            args=args,
            train_dataset=Samples(train),
            eval_dataset=Samples(val) if val else None,
            data_collator=functools.partial(_with_names, collate),
            callbacks=list(callbacks),
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        samples = self.train_dataset
        order = Order(
            [len(samples[i]) for i in range(len(samples))],
            self._order_batch,
            self.args.seed,
            self.args.per_device_train_batch_size * self.args.world_size,
        )
        loader = DataLoader(
            samples,
            batch_size=self.args.per_device_train_batch_size,
            sampler=order,
            collate_fn=self.data_collator,
        )
        return self.accelerator.prepare_data_loader(loader)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        samples = self.eval_dataset if eval_dataset is None else eval_dataset
        size = self.args.per_device_eval_batch_size
        order = sorted(range(len(samples)), key=lambda i: -len(samples[i]))
        # blanks, or the last examples would be given to several processes and counted twice
        order += [-1] * (-len(samples) % (size * self.args.world_size))
        loader = DataLoader(samples, batch_size=size, sampler=order, collate_fn=self._eval_collate)
        return self.accelerator.prepare_data_loader(loader)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *rest: Any) -> Tensor:
        names = inputs.pop("names")
        loss: Tensor = super().training_step(model, inputs, *rest)
        self._seen.append((names, loss.detach()))
        return loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *rest: Any, **more: Any
    ) -> Any:
        inputs.pop("names", None)
        return super().prediction_step(model, inputs, *rest, **more)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The last moment before the step: nothing that is no number may reach the weights."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        seen, self._seen = self._seen, []
        fine = torch.isfinite(torch.stack([loss.float() for _, loss in seen]))
        if fine.all() and (norm is None or torch.isfinite(torch.as_tensor(norm))):
            return norm
        batches = [names for names, _ in seen]
        bad = [names for names, ok in zip(batches, fine.tolist(), strict=True) if not ok]
        listed = ", ".join([name for names in bad or batches for name in names][:4])
        last = checkpoints.newest(Path(self.args.output_dir))
        kept = f"{last.name} is kept" if last else "no checkpoint was written yet"
        raise TrainingError(
            f"{'the loss' if bad else 'the gradient'} is not a finite number at step "
            f"{self.state.global_step + 1}, in the batch of {listed}; {kept}. Look at these "
            "examples, or lower --lr in a new --output folder."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._tallied()
        logs |= {"seconds": time.perf_counter() - self.began}
        super().log(logs, start_time)

    def _tallied(self) -> dict[str, float]:
        """Means per supervised token since the last log, over all processes."""
        tally = self.accelerator.unwrap_model(self.model).tally
        sums = {k: float(self.accelerator.reduce(v.clone(), "sum")) for k, v in tally.items()}
        tally.clear()
        tokens = max(sums.pop("tokens", 0.0), 1.0)
        return {key: value / tokens for key, value in sums.items()} | {"tokens": tokens}

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        learner = self.accelerator.unwrap_model(self.model)
        before = dict(learner.tally)
        learner.tally.clear()
        metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        learner.tally.clear()
        learner.tally.update(before)
        return metrics

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Means per token over the whole set, not means of micro-batches' means."""
        learner = self.accelerator.unwrap_model(self.model)
        output = super().evaluation_loop(*args, **kwargs)
        if learner.tally:
            means = self._tallied()
            output.metrics.update({f"eval_{key}": means[key] for key in ("ce", "right")})
            output.metrics["eval_loss"] = means["objective"]
        if self._texts is not None:
            found = self._texts(self.state.global_step)
            output.metrics.update({f"eval_{key}": value for key, value in found.items()})
        return output

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            checkpoints.begin(folder)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                best = self.state.best_model_checkpoint
                checkpoints.finish(folder, {Path(best)} if best else set())
        except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, three ways
            last = checkpoints.newest(Path(self.args.output_dir))
            kept = f"{last.name} is kept" if last else "no earlier one exists"
            raise TrainingError(
                f"cannot write {folder} ({' '.join(str(error).split())[:200]}); {kept}. Make room "
                "and give the same command again."
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if output_dir is not None and self.args.should_save:
            folder = Path(output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            save_trainable(self.accelerator.unwrap_model(self.model).student, folder / TRAINABLE)

    def _load_from_checkpoint(self, checkpoint: str, model: nn.Module | None = None) -> None:
        load_trainable(self.model.student, Path(checkpoint) / TRAINABLE)


def _with_names(collate: Collate, batch: Sequence[Sample]) -> dict[str, Any]:
    return collate(batch) | {"names": [sample.id for sample in batch if sample.id]}
