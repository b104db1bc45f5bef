"""Files of rows: JSON lines, CSV and Parquet, gzip or not, each row with the place it stands at.

What is wrong with a row is said with its line, so every reader above (tasks, predictions,
references) checks its columns through `text_of` and friends.
"""

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from featherweight.errors import DataError

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
FORMS = "JSON lines, CSV or Parquet, .gz too"


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands, as people count: `FILE line 3`."""

    data: Mapping[str, Any]
    where: str

    def text(self, *names: str, empty: bool = False) -> str:
        """The text in the first of the columns `names` that is there.

        Raises `DataError` where none is, or it holds no text; white space alone is no text unless
        `empty` is true.
        """
        name = next((name for name in names if name in self.data), None)
        if name is None:
            raise DataError(
                f"{self.where}: it has no column {' or '.join(map(repr, names))}, only "
                f"{_listed(self.data)}; rename the column or name the right file."
            )
        value = self.data[name]
        if not isinstance(value, str):
            raise DataError(f"{self.where}: {name!r} is {_what(value)}, not text; correct the row.")
        if not empty and not value.strip():
            raise DataError(f"{self.where}: {name!r} is empty; fill it in or take the row out.")
        return value

    def key(self, *names: str) -> str:
        """An identifier: text or a whole number, as text."""
        for name in names:
            value = self.data.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)
        return self.text(*names)

    def choices(self, name: str) -> tuple[str, ...]:
        """A list of at least two texts; in CSV written as a JSON list.

        Two may be equal: published sets have such questions.
        """
        value = self.data.get(name)
        if isinstance(value, str):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                value = None
        if value is None:
            self.text(name)  # says that the column is missing, if it is
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise DataError(f"{self.where}: {name!r} is no list of texts; correct the row.")
        if len(value) < 2:
            raise DataError(f"{self.where}: {name!r} needs at least two choices; correct the row.")
        return tuple(value)

    def index(self, name: str, size: int) -> int:
        """A whole number from 0 to `size` - 1."""
        value = self.data.get(name)
        if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
            value = int(value)  # CSV knows text only
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < size:
            raise DataError(
                f"{self.where}: {name!r} must be a whole number from 0 to {size - 1}, not "
                f"{value!r}; correct the row."
            )
        return value


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, told apart by content (gzip, Parquet) and name (`.csv`).

    Raises `DataError` for a file that cannot be read and for a line that is no row. Blank lines
    of JSON lines are passed over.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start[:2] == GZIP:
            with gzip.open(path, "rb") as packed:
                raw = packed.read()
        elif start == PARQUET:
            yield from _parquet(path)
            return
        else:
            raw = path.read_bytes()
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot read {path}: {reason}; check the path.") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line}: not UTF-8; save the file as UTF-8.") from None
    name = path.name.lower().removesuffix(".gz")
    yield from (_csv if name.endswith(".csv") else _json_lines)(text, path)


def _json_lines(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            data = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{where}: not JSON ({error}); rows are {FORMS}, and NaN is no JSON value."
            ) from None
        if not isinstance(data, dict):
            raise DataError(f"{where}: {_what(data)}, not an object; write one object a line.")
        yield Row(data, where)


def _csv(text: str, path: Path) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            where, start = f"{path} line {start}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = cells
                if len(set(header)) < len(header):
                    raise DataError(f"{where}: a column's name stands twice; rename one.")
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{where}: {len(cells)} cells under {len(header)} columns; quote commas."
                )
            yield Row(dict(zip(header, cells, strict=True)), where)
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: not CSV ({error}); quote it.") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise DataError(
            f"{path} is Parquet and needs pyarrow; run `pip install 'featherweight[eval]'`."
        ) from None
    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for data in batch.to_pylist():
                    number += 1
                    yield Row(data, f"{path} row {number}")
    except (ArrowException, OSError) as error:
        raise DataError(f"cannot read {path}: {error}; write it again.") from None


def _what(value: Any) -> str:
    if value is None:
        return "missing (null)"
    if isinstance(value, float) and value != value:
        return "NaN"
    return f"a {type(value).__name__}"


def _listed(data: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, data)) or "none"
