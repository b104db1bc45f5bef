"""A run's folder: what was answered so far, and a lock, so that a stopped run goes on.

`predictions.jsonl` has a row for each finished example, written as soon as it is there;
`manifest.json` says what the run is. A folder is continued only by the same run: same task data,
same model weights, same settings.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from featherweight import files
from featherweight.errors import OutputError
from featherweight.files import check_writable, write_atomic

MANIFEST, PREDICTIONS = "manifest.json", "predictions.jsonl"
REFERENCES, SOURCES = "references.jsonl", "sources.jsonl"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this run; raises `OutputError` where another one has it."""
    check_writable(folder)
    busy = f"{folder}: another run is writing there; wait for it or choose another folder."
    with files.locked(folder / ".lock", busy):
        yield


def check_owner(folder: Path, command: str) -> None:
    """Raise `OutputError` where the manifest in `folder`, if there is one, is another command's."""
    path = folder / MANIFEST
    if not path.exists():
        return
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise OutputError(f"cannot read {path} ({error}); choose another folder.") from None
    run = found.get("run") if isinstance(found, dict) else None
    if not isinstance(run, dict):
        raise OutputError(f"{path} belongs to something else; choose another output folder.")
    if run.get("command") != command:
        raise OutputError(
            f"{folder} holds the work of `featherweight {run.get('command')}`; choose another "
            "output folder."
        )


def write_manifest(folder: Path, data: Mapping[str, Any]) -> None:
    """Replace the manifest in `folder`."""
    write_atomic(folder / MANIFEST, orjson.dumps(data, option=orjson.OPT_INDENT_2) + b"\n")


class Store:
    """The rows of one run, by example id. Use inside `locked`."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """Open or begin the run that `run` describes (plain JSON data).

        Raises `OutputError` where the folder holds another run, or something else.
        """
        self.folder = folder
        self.path = folder / PREDICTIONS
        self.manifest: dict[str, Any] = {}  # as an earlier part of the run left it
        self._check(run)
        self.rows = self._recover()
        self._file = self.path.open("ab")

    def _check(self, run: Mapping[str, Any]) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            if self.path.exists():
                raise OutputError(
                    f"{self.path} is there without a manifest; choose another output folder."
                )
            self.write_manifest({"run": run})
            return
        now = orjson.loads(orjson.dumps(run))
        check_owner(self.folder, now.get("command"))
        self.manifest = orjson.loads(path.read_bytes())
        before = self.manifest["run"]
        if now != before and not (self.path.exists() and self.path.stat().st_size):
            self.write_manifest({"run": run})  # nothing was answered, so nothing is lost
        elif differs := sorted(k for k in before.keys() | now if before.get(k) != now.get(k)):
            raise OutputError(
                f"{self.folder} holds another run ({', '.join(differs)} differ); choose another "
                "output folder, or remove it."
            )

    def _recover(self) -> dict[str, dict[str, Any]]:
        """Finished rows; a last line that was cut off when the run was killed is removed."""
        if not self.path.exists():
            return {}
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            os.truncate(self.path, len(whole))
        rows = {}
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = orjson.loads(line)
                rows[row["id"]] = row
            except (orjson.JSONDecodeError, KeyError, TypeError):
                raise OutputError(
                    f"{self.path} line {number}: not a row of a run; choose another output folder."
                ) from None
        return rows

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one finished example."""
        self._file.write(orjson.dumps(row) + b"\n")
        self._file.flush()
        self.rows[row["id"]] = dict(row)

    def write_manifest(self, data: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        write_manifest(self.folder, data)

    def close(self) -> None:
        """Let the rows reach the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
