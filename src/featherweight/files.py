"""Files and folders that are either whole or not there.

`write_atomic` writes beside the target under a temporary name, syncs, and renames: a reader never
sees half a file, and a crash leaves the old one. `write_folder` does so with a new folder.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from featherweight.errors import OutputError


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
def write_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to fill, beside `folder`, which it becomes when the block ends well.

    It is removed when the block raises. Raises `OutputError` where `check_new_folder` does and
    where the files cannot be written.
    """
    check_new_folder(folder)
    parent = folder.absolute().parent
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name[:80]}.", dir=parent))
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)  # mkdtemp makes 0700; the user's umask decides
        temporary.replace(folder)  # over an empty folder too, never over one that was filled since
        temporary = None
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {folder}: {reason}; choose a folder that you may write to."
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


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


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in 4 MB blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
