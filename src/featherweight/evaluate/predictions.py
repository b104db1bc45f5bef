"""Predictions and references: read, checked row by row, and joined.

Both are rows with `query_id` or `id`. A reference has `reference` (or `target`), and may have
`meeting_id` or `group` (the cluster for statistics), `general` and `query`; a prediction has
`prediction`. What does not fit is an error that names the line: a score over half a file looks
like any other score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from featherweight.errors import DataError
from featherweight.rows import Row, read_rows

IDS = ("query_id", "id")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a good answer says. `general` marks a question about the whole meeting."""

    text: str
    group: str
    general: bool
    query: str
    where: str


@dataclass(frozen=True, slots=True)
class Joined:
    """Several systems' answers to the same questions, in the references' order.

    `predictions` is one list for each system. `missing` counts the references that at least one
    system did not answer and that are therefore left out, `empty` the answers without a word that
    are kept (and score 0), one number for each system.
    """

    ids: list[str]
    references: list[Reference]
    predictions: list[list[str]]
    missing: int
    empty: list[int]

    @property
    def groups(self) -> list[str]:
        """The cluster of each item."""
        return [reference.group for reference in self.references]


def read_references(path: Path) -> dict[str, Reference]:
    """References by id. Raises `DataError` with the line of a row that is none."""
    found: dict[str, Reference] = {}
    for row in read_rows(path):
        name = row.key(*IDS)
        if name in found:
            raise repeated(row, name, found[name].where)
        found[name] = Reference(
            text=row.text("reference", "target"),
            group=_group(row, name),
            general=row.flag("general"),
            query=row.text("query", empty=True) if row.data.get("query") is not None else "",
            where=row.where,
        )
    if not found:
        raise DataError(f"{path}: no references in it; name the file that holds them.")
    return found


def _group(row: Row, name: str) -> str:
    for column in ("meeting_id", "group"):
        if row.data.get(column) is not None:
            return row.key(column)
    return name


def join(
    paths: Sequence[Path], references: Mapping[str, Reference], allow_missing: bool = False
) -> Joined:
    """Join each file of `paths` with the references.

    Raises `DataError` for a repeated or unknown id and for a prediction that is no text, always;
    for a missing or empty prediction unless `allow_missing`. Where several systems are joined,
    only what all of them answered is kept.
    """
    tables = [_predictions(path, references, allow_missing) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        absent = [name for name in references if name not in table]
        if absent and not allow_missing:
            raise DataError(
                f"{references[absent[0]].where}: {absent[0]!r} has no prediction in {path} "
                f"({len(absent)} of {len(references)} are missing); finish the run, or add "
                "--allow-missing to score what is there."
            )
    kept = [name for name in references if all(name in table for table in tables)]
    if not kept:
        raise DataError(
            f"{' and '.join(map(str, paths))}: no prediction is left to score; name other files."
        )
    texts = [[table[name] for name in kept] for table in tables]
    return Joined(
        ids=kept,
        references=[references[name] for name in kept],
        predictions=texts,
        missing=len(references) - len(kept),
        empty=[sum(not text.strip() for text in column) for column in texts],
    )


def _predictions(
    path: Path, references: Mapping[str, Reference], allow_empty: bool
) -> dict[str, str]:
    found: dict[str, str] = {}
    places: dict[str, str] = {}
    for row in read_rows(path):
        name = row.key(*IDS)
        if name in found:
            raise repeated(row, name, places[name])
        if name not in references:
            raise DataError(
                f"{row.where}: {name!r} is not among the references; name the references that "
                "belong to these predictions."
            )
        text = row.text("prediction", empty=True)
        if not text.strip() and not allow_empty:
            raise DataError(
                f"{row.where}: 'prediction' is empty; fill it in, or add --allow-missing to "
                "score it as 0."
            )
        found[name] = text
        places[name] = row.where
    if not found:
        raise DataError(f"{path}: no predictions in it; name the file that holds them.")
    return found


def repeated(row: Row, name: str, first: str) -> DataError:
    """The error for an id that stands in two rows of one file."""
    return DataError(f"{row.where}: {name!r} stands at {first} already; keep one of the two.")
