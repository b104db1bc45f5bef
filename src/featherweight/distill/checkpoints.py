"""Checkpoints that are whole or do not count.

A checkpoint is a folder; it counts only with a mark in it, which is written last, after everything
else has reached the disk. Older ones go only after that. So whatever is killed, and whenever, the
newest marked one is good.
"""

import os
import re
import shutil
from pathlib import Path

from featherweight.files import write_atomic

MARK = "complete"
_NAME = re.compile(r"checkpoint-(\d+)")


def newest(folder: Path) -> Path | None:
    """The complete checkpoint of the latest step."""
    return max(complete(folder), key=step_of, default=None)


def complete(folder: Path) -> list[Path]:
    """All complete ones."""
    return [path for path in _all(folder) if (path / MARK).is_file()]


def step_of(checkpoint: Path) -> int:
    """The optimiser step after which it was written."""
    return int(checkpoint.name.rpartition("-")[2])


def begin(checkpoint: Path) -> None:
    """Make room: what a killed write left under this name is no part of the new one."""
    if checkpoint.exists():
        _remove(checkpoint)


def finish(checkpoint: Path, keep: set[Path]) -> None:
    """Sync everything, set the mark, then remove all others but those in `keep`."""
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file():
            _sync(path)
    _sync(checkpoint)
    write_atomic(checkpoint / MARK, f"{step_of(checkpoint)}\n")
    _sync(checkpoint)
    _sync(checkpoint.parent)
    for path in _all(checkpoint.parent):
        if path != checkpoint and path not in keep:
            _remove(path)


def _all(folder: Path) -> list[Path]:
    return [p for p in folder.glob("checkpoint-*") if p.is_dir() and _NAME.fullmatch(p.name)]


def _remove(checkpoint: Path) -> None:
    (checkpoint / MARK).unlink(missing_ok=True)  # half a folder must not count
    shutil.rmtree(checkpoint)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
