"""Many files to one folder: resumable, one failure does not stop the others.

`manifest.json` in the folder holds, for every finished output, the hash of its input and of the
settings; a file is skipped when both are as they were and the output is still there. A summary
with failed parts counts as unfinished, so the next run tries it again.
"""

import contextlib
import glob
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from featherweight import __version__
from featherweight.errors import FeatherweightError, OutputError
from featherweight.files import check_writable, sha256, write_atomic
from featherweight.transcript.text import printable

SUFFIXES = frozenset(
    {".vtt", ".srt", ".txt", ".md", ".json", ".jsonl", ".tsv", ".docx", ".text", ".markdown"}
)
"""What is taken from a folder; any file may be named by itself."""


def inputs(arguments: Sequence[str]) -> list[Path]:
    """Files named by paths, folders (searched to any depth) and globs, each once, in order.

    What an earlier run wrote into a folder is no transcript and is not taken. Raises
    `FeatherweightError` where a folder or glob gives nothing. A path that does not exist is kept:
    reading it reports the error beside the other files' results.
    """
    found: list[Path] = []
    written = lru_cache(_written)
    for argument in arguments:
        path = Path(argument)
        with contextlib.suppress(RuntimeError):  # ~nobody
            path = path.expanduser()
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.is_file()
                and file not in written(file.parent)
                and (file.suffix.lower() in SUFFIXES or file.name.endswith(".A.words.xml"))
                and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            if not inside:
                raise FeatherweightError(
                    f"{path}: no transcript in this folder; name the files themselves if their "
                    f"names end otherwise than in {', '.join(sorted(SUFFIXES))}."
                )
            found += inside
        elif not path.exists() and any(sign in argument for sign in "*?["):
            matches = sorted(
                file for file in _glob(path) if file.is_file() and file not in written(file.parent)
            )
            if not matches:
                raise FeatherweightError(f"{argument}: no file matches; check the pattern.")
            found += matches
        else:
            found.append(path)
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return list(once.values())


def _written(folder: Path) -> frozenset[Path]:
    """The files of a folder that an earlier run wrote there."""
    try:
        manifest = Manifest(folder, {})
    except OutputError:  # somebody else's manifest
        return frozenset()
    return frozenset(folder / name for name in (MANIFEST, *manifest.names))


def _glob(pattern: Path) -> list[Path]:
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if any(sign in part for sign in "*?["))
    try:
        return list(Path(*parts[:first]).glob(str(Path(*parts[first:]))))
    except ValueError:  # "meet**.vtt": older Pythons want ** alone
        return []


def output_names(files: Sequence[Path], suffix: str) -> list[str]:
    """A name for each input: its stem, or as much more of its path as tells it from the others.

    Names differ in more than case, since not every disk tells cases apart.
    """

    names = [file.stem for file in files]
    for level in range(1, max((len(file.absolute().parts) for file in files), default=1)):
        same = Counter(name.casefold() for name in names)
        names = [
            "-".join(file.absolute().parts[1:][-level:]) if same[name.casefold()] > 1 else name
            for file, name in zip(files, names, strict=True)
        ]
    taken: set[str] = set()
    found = []
    for name in names:
        # A disk takes 255 bytes, the manifest UTF-8 only.
        name = unique = printable(name).encode()[-200:].decode(errors="ignore")
        count = 1
        while unique.casefold() in taken:  # Notes.txt beside notes.txt
            count += 1
            unique = f"{name}-{count}"
        taken.add(unique.casefold())
        found.append(f"{unique}{suffix}")
    return found


MANIFEST = "manifest.json"


class Manifest:
    """What a folder holds and how it was made; written whole after every file."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = settings
        key = orjson.dumps([settings, __version__], option=orjson.OPT_SORT_KEYS)
        self._key = hashlib.sha256(key).hexdigest()
        self._outputs = self._read()

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs that an earlier run wrote."""
        return tuple(self._outputs)

    def _read(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            data = orjson.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, orjson.JSONDecodeError) as error:
            raise OutputError(
                f"cannot read {path} ({error}); choose another output folder, or remove the file."
            ) from None
        if not isinstance(data, dict) or data.get("command") != "summarize":
            raise OutputError(f"{path} belongs to something else; choose another output folder.")
        outputs = data.get("outputs")
        return outputs if isinstance(outputs, dict) else {}

    def finished(self, name: str, input_hash: str) -> bool:
        """Whether `name` is there, made from this input with these settings."""
        entry = self._outputs.get(name)
        return (
            isinstance(entry, dict)
            and entry.get("input_sha256") == input_hash
            and entry.get("settings_sha256") == self._key
            and (self.folder / name).is_file()
        )

    def other_input(self, name: str, source: str) -> str | None:
        """What the file `name` holds, where it is not a summary of `source`."""
        if not (self.folder / name).exists():
            return None
        entry = self._outputs.get(name)
        if not isinstance(entry, dict):
            return "something else"
        other = entry.get("input")
        return None if other == printable(source) else f"the summary of {other}"

    def record(
        self,
        name: str,
        source: str,
        input_hash: str,
        figures: dict[str, Any],
        finished: bool = True,
    ) -> None:
        """Note what `name` holds; what is not finished is made again by the next run."""
        self._outputs[name] = {
            "input": printable(source),
            "input_sha256": input_hash,
            "settings_sha256": self._key if finished else None,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            **figures,
        }
        self._write()

    def _write(self) -> None:
        data = {
            "command": "summarize",
            "version": __version__,
            "settings": self.settings,
            "outputs": dict(sorted(self._outputs.items())),
        }
        write_atomic(self.folder / MANIFEST, orjson.dumps(data, option=orjson.OPT_INDENT_2))


def check_outputs(folder: Path, names: Sequence[str], files: Sequence[Path]) -> None:
    """Raise `OutputError` before the work where its results could not be written afterwards."""
    check_writable(folder)
    outputs = {(folder / name).resolve() for name in names}
    for path in files:
        if path.resolve() in outputs:
            raise OutputError(
                f"{printable(str(path))} would be overwritten by its summary; choose another "
                "output folder or format."
            )


def input_hash(path: Path) -> str:
    """Hash of an input file; empty for what cannot be read (reading reports it) or only once.

    Of an NXT meeting all files count, since all are read.
    """
    meeting = re.fullmatch(r"(.+)\.[A-Z]\.words\.xml", path.name)
    with contextlib.suppress(OSError):
        if not path.is_file():
            return ""
        if meeting is None:
            return sha256(path)
        files = sorted(path.parent.glob(f"{glob.escape(meeting[1])}.*.xml"))
        return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()
    return ""
