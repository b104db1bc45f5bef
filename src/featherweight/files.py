"""Files and folders that are either whole or not there.

`write_atomic` writes beside the target under a temporary name, syncs, and renames: a reader never
sees half a file, and a crash leaves the old one. `whole` does so for what others write: a large
file, a folder; `write_folder` for a new folder.
"""

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from featherweight.errors import FeatherweightError, OutputError


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write `data` (text as UTF-8) to `path` through a temporary file in the same folder.

    Raises `OutputError` where the folder cannot be made or written.
    """
    raw = data.encode() if isinstance(data, str) else data
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:80]}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)  # mkstemp makes 0600; the user's umask decides
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; choose a folder that you may write to."
        ) from None
    finally:
        if temporary is not None:  # also when the user stopped it
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def check_new_folder(folder: Path) -> None:
    """Raise `OutputError` unless `folder` is not there, or empty, and can be made."""
    try:
        used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise OutputError(f"cannot read {folder}: {error.strerror}; choose another.") from None
    if used:
        raise OutputError(f"{folder} is there and not empty; choose another folder or remove it.")
    check_writable(folder.absolute().parent)


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """An `OSError` becomes an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that you may write "
            "to and that has room."
        ) from None


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` for a file or a directory; it becomes `target` at the end.

    Synced before it is renamed. Where the block raises, what was written is removed and `target` is
    as it was. Raises `OSError` where the folder cannot be written, as the block may.
    """
    temporary = target.with_name(f".{target.name[:80]}.{secrets.token_hex(4)}")
    try:
        yield temporary
        inside = sorted(temporary.rglob("*")) if temporary.is_dir() else []
        for path in (*inside, temporary):
            _sync(path)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, beside `folder`, which it becomes when the block ends well.

    It is removed when the block raises. Raises `OutputError` where `check_new_folder` does and
    where the files cannot be written.
    """
    check_new_folder(folder)
    with output_errors(folder), whole(folder) as temporary:
        temporary.mkdir()
        yield temporary


def sweep_up(target: Path) -> None:
    """Remove what a killed process left of `whole(target)`; only for who holds its lock."""
    for path in target.parent.glob(f".{glob.escape(target.name[:80])}.{'[0-9a-f]' * 8}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(folder: Path) -> None:
    """Make `folder` and try to write there; raises `OutputError` where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write to {folder}: {reason}; choose a folder that you may write to."
        ) from None


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the file `path`, made for this, until the block ends or the process dies.

    Raises `OutputError` with the message `busy` where another holds it.
    """
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise FeatherweightError(
            "runs need filelock, which is not installed; run `pip install 'featherweight[eval]'`."
        ) from None
    lock = FileLock(path, thread_local=False)  # a generator may be closed by another thread
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(busy) from None
    try:
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in 4 MB blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def digest(files: Iterable[Path]) -> str:
    """One sha256 of several files: of the lines "DIGEST  NAME" in order of their names."""
    lines = "".join(
        f"{sha256(path)}  {path.name}\n" for path in sorted(files, key=lambda path: path.name)
    )
    return hashlib.sha256(lines.encode()).hexdigest()
