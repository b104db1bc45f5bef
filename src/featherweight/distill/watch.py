"""What happens during a training, told and written down; and when it has learnt enough."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
from transformers import TrainerCallback

from featherweight.files import output_errors

Tell = Callable[[str, Mapping[str, Any]], None]


class Watch(TrainerCallback):  # type: ignore[misc]
    """Tells every step, log and evaluation, appends them to `log`, and stops without progress.

    `patience` counts evaluations, which are `every` steps apart, since the best one.
    """

    def __init__(self, tell: Tell, log: Path, patience: int | None, every: int) -> None:
        self._tell, self._log, self._patience, self._every = tell, log, patience, every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log |= control.should_save  # a checkpoint knows how long it took
        if state.is_world_process_zero:
            self._tell("step", {"step": state.global_step, "steps": state.max_steps})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        facts = {"step": state.global_step, **(logs or {})}
        with output_errors(self._log), self._log.open("ab") as file:
            file.write(orjson.dumps(facts) + b"\n")
        self._tell("eval" if any(k.startswith("eval_") for k in facts) else "log", facts)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        if self._patience is None or state.best_metric is None:
            return
        # the trainer compares after this
        now = (metrics or {}).get(f"eval_{args.metric_for_best_model}", state.best_metric)
        better = now > state.best_metric if args.greater_is_better else now < state.best_metric
        waited = state.global_step - (state.best_global_step or 0)
        if not better and waited >= self._patience * self._every:
            control.should_training_stop = True
