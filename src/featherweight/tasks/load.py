"""From a task's name to its examples."""

from collections.abc import Mapping
from pathlib import Path

from featherweight.errors import DataError
from featherweight.retrieve import open_locator
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
    split: str | None = None,
    input: Input | None = None,
    words: int | None = None,
    locator: str | None = None,
    how: How | None = None,
    references: Path | None = None,
    prefix: int | None = None,
    limit: int | None = None,
) -> Task:
    """One of `TASKS` from the directory `data`, or the rows of a file of the user's own.

    `split` is val unless given. `input` and `words` say what a model reads of a QMSum meeting
    (located, 900), `locator` who finds it (fitted, bm25 or the directory of a trained one), `how`
    scores multiple choice (loglikelihood), `references` are an engine's for QMSum-instruct.
    `prefix` tokens of each chunk of wikitext2-tokens are read and not scored. Raises
    `DataError` for an unknown name, missing data (with where they come from), broken rows, and for
    an option that the task does not read.
    """
    options = {
        "data": data,
        "split": split,
        "input": input,
        "words": words,
        "locator": locator,
        "how": how,
        "references": references,
        "prefix": prefix,
    }
    given = {option: value for option, value in options.items() if value is not None}
    if name not in TASKS:
        if not Path(name).suffix and not Path(name).exists():
            raise DataError(
                f"{name!r} is neither a task nor a file; name a file of rows, or choose "
                f"{', '.join(TASKS)}."
            )
        _check(name, given, {"how"})
        return own_task(Path(name), limit, how or "loglikelihood")
    _check(name, given, {"data", "split", *READ.get(name, ("how",))})
    if data is None:
        raise DataError(
            f"{name} reads its data from a directory; add --data DIR (--data-dir DIR where --data "
            "names the task)."
        )
    split = split or "val"
    if name == "qmsum":
        opened = None if locator is None else open_locator(locator)
        return qmsum(data, split, input or "located", words or WORDS, limit, opened)
    if name == "qmsum-instruct":
        return qmsum_instruct(data, split, words or WORDS, references, limit)
    if name in SETS:
        return choice(name, data, split, how or "loglikelihood", limit)
    return wikitext(name, data, split, limit, prefix)


READ: dict[str, tuple[str, ...]] = {
    "qmsum": ("input", "words", "locator"),
    "qmsum-instruct": ("words", "references"),
    "wikitext2": (),
    "wikitext2-tokens": ("prefix",),
}
"""Options that a task reads; multiple choice reads `how`."""


def _check(name: str, given: Mapping[str, object], read: set[str]) -> None:
    """An option that does nothing is a mistake that would not be seen in the figures."""
    if unread := sorted(set(given) - read):
        raise DataError(f"{name} does not read --{unread[0]}; leave it out.")
