"""Rows come out as they were written, with the line they stand at."""

import csv
import gzip
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import DataError
from featherweight.rows import Row, read_rows

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def read(path: Path, data: bytes) -> list[Row]:
    path.write_bytes(data)
    return list(read_rows(path))


def refused(path: Path, data: bytes | None = None) -> str:
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    message = str(caught.value)
    assert str(path) in message and message.endswith(".") and message.isprintable()
    assert caught.value.__cause__ is None
    return message.replace(str(path), "FILE")


def packed(columns: dict[str, object]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = read(path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n  {"a": "\\u00e9\\n", "b": [null]}\n\n{"a": 2}')
    assert [row.data for row in rows] == [{"a": 1}, {"a": "é\n", "b": [None]}, {"a": 2}]
    assert [row.where for row in rows] == [f"{path} line {number}" for number in (1, 3, 5)]


def test_separators_inside_json_are_no_lines(tmp_path: Path) -> None:
    text = "one\u2028two\x85three\x0b"
    rows = read(tmp_path / "a", json.dumps({"a": text}, ensure_ascii=False).encode() + b"\n{}")
    assert [row.data for row in rows] == [{"a": text}, {}]
    assert rows[1].where.endswith("line 2")


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.CSV"
    data = '\ufeffid,text\r\n1,"says ""hi"", then\r\nleaves\n"\r\n\r\n2,\r\n"3","é"'
    rows = read(path, data.encode())
    assert [row.data for row in rows] == [
        {"id": "1", "text": 'says "hi", then\r\nleaves\n'},
        {"id": "2", "text": ""},
        {"id": "3", "text": "é"},
    ]
    assert [row.where for row in rows] == [f"{path} line {number}" for number in (2, 6, 7)]


def test_a_whole_meeting_in_a_cell(tmp_path: Path) -> None:
    text = "word " * 60_000
    rows = read(tmp_path / "a.csv", f'id,text\n1,"{text}"\n'.encode())
    assert rows[0].data["text"] == text


def test_parquet(tmp_path: Path) -> None:
    columns = {
        "id": [1, 2, 3],
        "text": ["é\n", None, ""],
        "score": [0.5, math.nan, None],
        "choices": [["a", "b"], [], None],
        "prompt": [[{"role": "user", "content": "hi"}]] * 3,
    }
    data = packed(columns)
    rows = read(tmp_path / "named by content", data)
    assert [row.where for row in rows] == [
        f"{tmp_path}/named by content row {n}" for n in (1, 2, 3)
    ]
    for name, values in columns.items():
        assert list(map(repr, (row.data[name] for row in rows))) == list(map(repr, values))
    again = read(tmp_path / "a.parquet.gz", gzip.compress(data))
    assert list(map(repr, (row.data for row in again))) == [repr(row.data) for row in rows]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.csv.gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_gzip_is_told_by_content(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    data = b"a,b\n1,2" if ".csv" in name else b'{"a": "1", "b": "2"}'
    assert [row.data for row in read(tmp_path / name, pack(data))] == [{"a": "1", "b": "2"}]


def test_no_rows(tmp_path: Path) -> None:
    for name, data in {
        "a.jsonl": b"",
        "b.jsonl": b"\n \n",
        "c.csv": b"",
        "d.csv": b"a,b\n",
    }.items():
        assert read(tmp_path / name, data) == []
    assert read(tmp_path / "e.parquet", packed({"a": pa.array([], pa.string())})) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1}\n{"a": NaN}\n', "FILE line 2: not JSON .* at column 7.* NaN is no JSON value"),
        (b'{"a": 1}\n\n{"a": 1} {"a": 2}\n', "FILE line 3: not JSON"),
        (b'{"a": "\\ud800"}', "FILE line 1: not JSON"),
        (b"\n[1, 2]\n", "FILE line 2: a list, not an object"),
        (b"null", "FILE line 1: missing .null., not an object"),
        (b'"a"', "FILE line 1: text, not an object"),
        (b"id,text\n1,a\n", "FILE line 1: not JSON .* rows are JSON lines, CSV or Parquet"),
        (b'{"a": 1}\n{"a": "\xff"}\n', "FILE line 2: not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}\n\xff', "FILE line 2: not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "FILE line 1: not UTF-8"),
    ],
)
def test_broken_json_lines(tmp_path: Path, data: bytes, says: str) -> None:
    assert re.match(says, refused(tmp_path / "a.jsonl", data))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\na,b,a\n1,2,3\n", "FILE line 2: a column's name stands twice"),
        (b'a,b\n"1\n",2\n3\n', "FILE line 4: 1 cells under 2 columns"),
        (b"a,b\n1,2,3\n", "FILE line 2: 3 cells under 2 columns"),
        (b'a,b\n1,"2\n3,4\n5,6\n', "FILE line 2: not CSV .unexpected end of data"),
        (b'a,b\n1,2\n"3"4,5\n', "FILE line 3: not CSV"),
        (b"a,b\n1,\xe9\n", "FILE line 2: not UTF-8"),
    ],
)
def test_broken_csv(tmp_path: Path, data: bytes, says: str) -> None:
    assert re.match(says, refused(tmp_path / "a.csv", data))


def test_broken_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"a": "some text that is long enough to be packed"}\n')
    assert read(tmp_path / "a", whole)
    flipped, no_block = bytearray(whole), bytearray(whole)
    flipped[15] ^= 0xFF
    no_block[10] = 0xFF  # deflate has no such type of block
    checksum = bytearray(whole)
    checksum[-5] ^= 0xFF
    for data in (
        whole[:5],
        whole[:-9],
        whole[:-3],
        bytes(flipped),
        bytes(no_block),
        bytes(checksum),
        whole + b"x",
    ):
        message = refused(tmp_path / "a", data)
        assert message.startswith("cannot unpack FILE: ") and "pack it again" in message


def test_broken_parquet(tmp_path: Path) -> None:
    whole = packed({"a": ["text"]})
    not_utf8 = packed({"a": pa.array([b"\xff"]).view(pa.string())})
    for data in (whole[:4], whole[:-8], whole[:8] + bytes(20) + whole[28:], not_utf8):
        assert refused(tmp_path / "a", data).startswith("cannot read FILE: ")
    twice = io.BytesIO()
    parquet.write_table(pa.table([[1], [2]], names=["a", "a"]), twice)
    assert "a column's name stands twice" in refused(tmp_path / "a", twice.getvalue())


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == (
        "cannot read FILE: No such file or directory; check the path."
    )
    assert refused(tmp_path) == "cannot read FILE: Is a directory; check the path."


def text_refused(data: dict[str, object], *names: str) -> str:
    with pytest.raises(DataError) as caught:
        Row(data, "FILE line 3").text(*names)
    return str(caught.value)


def test_text() -> None:
    row = Row({"b": "x", "c": "", "d": " \n"}, "FILE line 3")
    assert row.text("a", "b") == "x"
    assert row.text("c", empty=True) == "" and row.text("d", empty=True) == " \n"
    assert text_refused({"b": 1, "c": 2}, "a", "d") == (
        "FILE line 3: it has no column 'a' or 'd', only 'b', 'c'; rename the column or name the "
        "right file."
    )
    assert "only none;" in text_refused({}, "a")
    for value, kind in (
        ("\t", "empty"),
        (None, "missing (null)"),
        (math.nan, "NaN, not text"),
        (True, "true or false, not text"),
        (1, "a whole number, not text"),
        (["a"], "a list, not text"),
        (b"a", "of type bytes, not text"),
    ):
        assert text_refused({"a": value, "b": "x"}, "a", "b").startswith(
            f"FILE line 3: 'a' is {kind}"
        )


def test_nan_in_a_text_column_of_parquet(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.parquet", packed({"prompt": [math.nan]}))
    with pytest.raises(DataError, match=r"a\.parquet row 1: 'prompt' is NaN, not text"):
        rows[0].text("prompt")


def test_key() -> None:
    row = Row({"a": 12, "b": "x", "c": 0, "d": True, "e": 1.0, "f": " "}, "FILE line 3")
    assert (row.key("a"), row.key("b"), row.key("c"), row.key("z", "a")) == ("12", "x", "0", "12")
    assert row.key("b", "a") == "x"  # the first that is there, number or text
    for name in "defz":
        with pytest.raises(DataError, match="FILE line 3"):
            row.key(name)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.dictionaries(st.text(), json_values, max_size=3), st.integers(0, 2))),
    st.booleans(),
)
def test_json_lines_round_trip(rows: list[tuple[dict[str, object], int]], pack: bool) -> None:
    data, lines = b"", []
    for row, blank in rows:
        data += b"\n" * blank
        lines.append(data.count(b"\n") + 1)
        data += orjson.dumps(row) + b"\n"
    with TemporaryDirectory() as folder:
        found = read(Path(folder) / "a", gzip.compress(data) if pack else data)
    assert [row.data for row in found] == [row for row, _ in rows]
    assert [int(row.where.split()[-1]) for row in found] == lines


cells = st.text(st.characters(codec="utf-8") | st.sampled_from('",\r\n'), max_size=8)


@settings(max_examples=60)
@given(
    st.lists(cells, min_size=1, max_size=3, unique=True).flatmap(
        lambda header: st.tuples(
            st.just(header),
            st.lists(st.tuples(*[cells] * len(header)), max_size=4),
        )
    ),
    # the csv module of Python 3.11 leaves a lone \r bare when lines end in \n
    st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\n", csv.QUOTE_ALL)]),
)
def test_csv_round_trip(
    table: tuple[list[str], list[tuple[str, ...]]], manner: tuple[str, int]
) -> None:
    header, rows = table
    sink, lines = io.StringIO(newline=""), []
    writer = csv.writer(sink, lineterminator=manner[0], quoting=manner[1])
    writer.writerow(header)
    for row in rows:
        lines.append(len(re.findall("\r\n|\r|\n", sink.getvalue())) + 1)
        writer.writerow(row)
    with TemporaryDirectory() as folder:
        found = read(Path(folder) / "a.csv", sink.getvalue().encode("utf-8-sig"))
    assert [row.data for row in found] == [dict(zip(header, row, strict=True)) for row in rows]
    assert [int(row.where.split()[-1]) for row in found] == lines
