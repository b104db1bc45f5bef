"""From a task's name to its examples."""

from pathlib import Path

from featherweight.errors import DataError
from featherweight.tasks.choice import SETS, How, choice
from featherweight.tasks.instruct import qmsum_instruct
from featherweight.tasks.qmsum import WORDS, Input, qmsum
from featherweight.tasks.types import Task
from featherweight.tasks.wikitext import wikitext

TASKS = ("qmsum", "qmsum-instruct", *SETS, "wikitext2", "wikitext2-tokens")


def load_task(
    name: str,
    data: Path,
    *,
    split: str = "val",
    input: Input = "located",
    words: int = WORDS,
    how: How = "loglikelihood",
    references: Path | None = None,
    limit: int | None = None,
) -> Task:
    """One of `TASKS` from the directory `data`.

    `input` and `words` say what a model reads of a QMSum meeting, `how` scores multiple choice,
    `references` are an engine's for QMSum-instruct. Raises `DataError` for an unknown name, missing
    data (with where they come from) and broken rows.
    """
    if name == "qmsum":
        return qmsum(data, split, input, words, limit)
    if name == "qmsum-instruct":
        return qmsum_instruct(data, split, words, references, limit)
    if name in SETS:
        return choice(name, data, split, how, limit)
    if name in ("wikitext2", "wikitext2-tokens"):
        return wikitext(name, data, split, limit)
    raise DataError(f"{name!r} is no task; choose {', '.join(TASKS)}.")
