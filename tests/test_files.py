"""Files are whole or not there."""

import os
from pathlib import Path

import pytest

from featherweight.errors import OutputError
from featherweight.files import (
    check_writable,
    output_errors,
    sha256,
    whole,
    write_atomic,
    write_folder,
)


def test_writing(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomic(path, "é")
    assert path.read_bytes() == "é".encode()
    write_atomic(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert [item.name for item in path.parent.iterdir()] == ["c.txt"]


def test_the_umask_decides(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a"]


def test_what_others_write_appears_whole(tmp_path: Path) -> None:
    with whole(tmp_path / "file") as path:
        path.write_text("new")
        assert not (tmp_path / "file").exists() and path.parent == tmp_path
    with whole(tmp_path / "folder") as path:
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "a").write_text("new")
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "folder" / "deep" / "a").read_text() == "new"
    assert {item.name for item in tmp_path.iterdir()} == {"file", "folder"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ValueError])
def test_what_others_left_half_written(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        with pytest.raises(error), whole(tmp_path / name) as path:
            if name == "folder":
                (path / "deep").mkdir(parents=True)
            else:
                path.write_text("new")
            raise error
    with pytest.raises(FileNotFoundError), whole(tmp_path / "never"):
        pass  # nothing was written
    assert {item.name for item in tmp_path.iterdir()} == {"file", "folder"}
    assert (tmp_path / "file").read_text() == "old"
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_sync_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OutputError, match=r"cannot write .*a: No space left"),
        output_errors(tmp_path / "a"),
        whole(tmp_path / "a") as path,
    ):
        path.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a", tmp_path / ("x" * 300), tmp_path):
        with pytest.raises(OutputError, match="cannot write"):
            write_atomic(path, "")
    for folder in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(OutputError, match="cannot write to"):
            check_writable(folder)
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 3_000_000)
    import hashlib

    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 3_000_000).hexdigest()


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with write_folder(tmp_path / "a" / "b") as folder:
            (folder / "file").write_text("x")
            assert folder.parent == tmp_path / "a" and not (tmp_path / "a" / "b").exists()
    finally:
        os.umask(before)
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o750
    with pytest.raises(KeyboardInterrupt), write_folder(tmp_path / "a" / "c") as folder:
        (folder / "file").write_text("x")
        raise KeyboardInterrupt
    assert [item.name for item in (tmp_path / "a").iterdir()] == ["b"]


def test_a_folder_with_other_work_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    with write_folder(tmp_path / "used"):  # it is empty
        pass
    with pytest.raises(OutputError, match="cannot write"), write_folder(tmp_path / "used"):
        (tmp_path / "used" / "mine").write_text("x")  # filled while we worked
    (tmp_path / "file").write_text("x")
    for name in ("used", "file"):
        with pytest.raises(OutputError, match="not empty"), write_folder(tmp_path / name):
            pass
    with pytest.raises(OutputError, match="cannot write"), write_folder(tmp_path / "file" / "a"):
        pass
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "used"]
    assert [item.name for item in (tmp_path / "used").iterdir()] == ["mine"]
