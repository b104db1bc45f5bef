"""Files of rows: JSON lines, CSV and Parquet, gzip or not, each row with the place it stands at.

What is wrong with a row is said with its line, so every reader above (tasks, predictions,
references) checks its columns through `Row.text` and `Row.key`.
"""

import codecs
import csv
import gzip
import io
import zlib
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
            raise DataError(f"{self.where}: {name!r} is {what(value)}, not text; correct the row.")
        if not empty and not value.strip():
            raise DataError(f"{self.where}: {name!r} is empty; fill it in or take the row out.")
        return value

    def key(self, *names: str) -> str:
        """An identifier in the first of the columns that is there: text or a whole number, as text.

        Raises `DataError` as `text` does.
        """
        name = next((name for name in names if name in self.data), None)
        value = self.data[name] if name is not None else None
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text(*names)

    def flag(self, name: str) -> bool:
        """True or false; false where the column is missing or blank. In CSV it comes as text."""
        value = self.data.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        # "true" that counts as false would cut answers by the wrong limit, unseen
        text = value.strip().lower() if isinstance(value, str) else None
        if text not in ("", "true", "false"):
            raise DataError(f"{self.where}: {name!r} is {value!r}; write true or false.")
        return text == "true"

    def choices(self, name: str) -> tuple[str, ...]:
        """A list of at least two texts; where a format has no lists (CSV), written as JSON.

        Two may be equal: published sets have such questions. Raises `DataError` otherwise.
        """
        if self.data.get(name) is None:
            self.text(name)  # says what is missing
        written = self.data[name]
        value = written
        if isinstance(written, str):
            try:
                value = orjson.loads(written)
            except orjson.JSONDecodeError:
                value = None
        if not isinstance(value, list):
            raise DataError(
                f'{self.where}: {name!r} is {what(written)}, no list; write ["one", "two"].'
            )
        if len(value) < 2:
            raise DataError(f"{self.where}: {len(value)} in {name!r}; write at least two.")
        for number, choice in enumerate(value):
            if not isinstance(choice, str) or not choice.strip():
                kind = "empty" if isinstance(choice, str) else what(choice)
                raise DataError(f"{self.where}: choice {number} is {kind}; write its text.")
        return tuple(value)

    def index(self, name: str, size: int) -> int:
        """A whole number from 0 to `size` - 1; in CSV it comes as text."""
        value = self.data.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            self.text(name)  # says what is missing
        text = value.strip() if isinstance(value, str) else str(value)
        if isinstance(value, bool) or text not in map(str, range(size)):
            raise DataError(
                f"{self.where}: {name!r} is {value!r}; write the right choice's index, a whole "
                f"number from 0 to {size - 1}."
            )
        return int(text)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, told apart by content (gzip, Parquet) and name (`.csv`).

    Raises `DataError` for a file that cannot be read and for a line that is no row. Blank lines
    of JSON lines are passed over.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        raw = b"" if start == PARQUET else path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot read {path}: {reason}; check the path.") from None
    if start.startswith(GZIP):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"cannot unpack {path}: {error}; pack it again.") from None
    if start == PARQUET or raw.startswith(PARQUET):
        yield from _parquet(path if start == PARQUET else io.BytesIO(raw), path)
        return
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode()
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
                f"{where}: not JSON ({error.msg} at column {error.colno}); rows are {FORMS}, and "
                "NaN is no JSON value."
            ) from None
        if not isinstance(data, dict):
            raise DataError(f"{where}: {what(data)}, not an object; write one object a line.")
        yield Row(data, where)


def _csv(text: str, path: Path) -> Iterator[Row]:
    # a cell may hold a whole meeting; the module's own limit is 128 Ki characters
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
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
        # where the row begins: an open quote runs to the end of the file
        raise DataError(f"{path} line {start}: not CSV ({error}); check its quotes.") from None


def _parquet(source: Path | io.BytesIO, path: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError:
        raise DataError(
            f"{path} is Parquet and needs pyarrow; run `pip install 'featherweight[eval]'`."
        ) from None
    try:
        number = 0
        with parquet.ParquetFile(source) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise DataError(f"{path}: a column's name stands twice; rename one.")
            for batch in file.iter_batches():
                for data in batch.to_pylist():
                    number += 1
                    yield Row(data, f"{path} row {number}")
    except (ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise DataError(f"cannot read {path}: {reason}; write it again.") from None


_KINDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a decimal number",
    list: "a list",
    dict: "an object",
}


def what(value: Any) -> str:
    """A value's kind in words, for messages."""
    if value is None:
        return "missing (null)"
    if isinstance(value, float) and value != value:
        return "NaN"
    return _KINDS.get(type(value), f"of type {type(value).__name__}")


def _listed(data: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, data)) or "none"
