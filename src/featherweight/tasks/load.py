"""From a task's name to its examples."""

from pathlib import Path

from featherweight.errors import DataError
from featherweight.tasks.choice import SETS, How, choice
from featherweight.tasks.instruct import qmsum_instruct
from featherweight.tasks.own import own_task
from featherweight.tasks.qmsum import WORDS, Input, qmsum
from featherweight.tasks.types import Task
from featherweight.tasks.wikitext import wikitext

TASKS = ("qmsum", "qmsum-instruct", *SETS, "wikitext2", "wikitext2-tokens")


def load_task(
    name: str,
    data: Path | None = None,
    *,
    split: str = "val",
    input: Input = "located",
    words: int = WORDS,
    how: How = "loglikelihood",
    references: Path | None = None,
    limit: int | None = None,
) -> Task:
    """One of `TASKS` from the directory `data`, or the rows of a file of the user's own.

    `input` and `words` say what a model reads of a QMSum meeting, `how` scores multiple choice,
    `references` are an engine's for QMSum-instruct. Raises `DataError` for an unknown name, missing
    data (with where they come from) and broken rows.
    """
    if name not in TASKS:
        if Path(name).suffix or Path(name).exists():
            return own_task(Path(name), limit)
        raise DataError(
            f"{name!r} is neither a task nor a file; name a file of rows, or choose "
            f"{', '.join(TASKS)}."
        )
    if data is None:
        raise DataError(f"{name} reads its data from a directory; add --data DIR.")
    if name == "qmsum":
        return qmsum(data, split, input, words, limit)
    if name == "qmsum-instruct":
        return qmsum_instruct(data, split, words, references, limit)
    if name in SETS:
        return choice(name, data, split, how, limit)
    return wikitext(name, data, split, limit)
