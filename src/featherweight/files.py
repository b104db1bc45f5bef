"""Files that are either whole or not there.

`write_atomic` writes beside the target under a temporary name, syncs, and renames: a reader never
sees half a file, and a crash leaves the old one.
"""

import contextlib
import hashlib
import os
import tempfile
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
