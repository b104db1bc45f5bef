"""A small T5 that has learned 32 real questions by heart: what is done to it can be seen."""

from pathlib import Path
from typing import NamedTuple

from tiny_t5 import save_tiny_t5

from featherweight.distill import Settings, train
from featherweight.tasks import Task, load_task

SETTINGS = Settings(
    method="sft", dtype="fp32", batch=32, micro_batch=32, steps=250, lr=0.012, save_every=250
)


class TrainedT5(NamedTuple):
    """A directory for `hf:`, what it learned, and the loss at the end."""

    folder: Path
    task: Task
    loss: float


def train_t5(pairs: Path, folder: Path) -> TrainedT5:
    """32 questions of QMSum (MIT; AMI and ICSI transcripts, CC BY 4.0), each with the beginning of
    its gold span and its whole answer. Half a minute."""
    examples = load_task(str(pairs)).examples
    texts = [str(e.prompt) for e in examples] + [e.target or "" for e in examples]
    source = save_tiny_t5(folder / "random", texts, vocabulary=1500, width=64)
    task = Task("own", "summary", examples, max_tokens=96)
    found = train(f"hf:{source}", task, folder / "trained", settings=SETTINGS)
    return TrainedT5(folder / "trained", task, found.result["loss"])
