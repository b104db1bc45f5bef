"""What the student writes while it learns: a score on some examples, and a text to look at."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from featherweight.distill.data import Reader
from featherweight.engines import Request
from featherweight.engines.transformers import TransformersEngine
from featherweight.evaluate.rouge import ROUGE, rouge
from featherweight.evaluate.text import words
from featherweight.tasks import Task


class Texts:
    """Answers the first `count` examples of `task` that have a target; `texts(step)` -> metrics."""

    def __init__(
        self,
        model: Any,
        reader: Reader,
        task: Task,
        count: int,
        compute: torch.dtype,
        tell: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._model, self._reader, self._compute, self._tell = model, reader, compute, tell
        self._examples = [e for e in task.examples if e.target is not None][:count]
        self._max_tokens = task.max_tokens or 128

    def __call__(self, step: int) -> dict[str, float]:
        device = next(self._model.parameters()).device.type
        engine = TransformersEngine(self._model, self._reader.tokenizer, name=self._reader.name)
        requests = [Request(e.prompt, max_tokens=self._max_tokens) for e in self._examples]
        with torch.autocast(device, self._compute, enabled=self._compute != torch.float32):
            answers = [answer.text for answer in engine.generate(requests)]
        scores = rouge(answers, [e.target or "" for e in self._examples])
        means = dict(zip(ROUGE, scores.mean(0).tolist(), strict=True))
        first = self._examples[0]
        self._tell(
            "text",
            {"step": step, "id": first.id, "answer": answers[0], "reference": first.target},
        )
        return means | {"words": sum(len(words(a)) for a in answers) / len(answers)}
