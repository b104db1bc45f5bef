"""A training's folder: whose it is, how it goes on, how a finished model appears in it."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from featherweight.distill import checkpoints
from featherweight.distill.cache import TeacherCache, cache_path, is_cache
from featherweight.distill.settings import Settings, identity_of
from featherweight.engines.identity import identity
from featherweight.engines.safetensor import safetensor_errors
from featherweight.errors import OutputError
from featherweight.files import output_errors
from featherweight.tasks import Task, store
from featherweight.tasks.run import prompts_sha256
from featherweight.tasks.store import check_owner, locked

LAST = ("config.json", "bank.json")
MANIFEST, LOG, CHECKPOINTS = "manifest.json", "log.jsonl", "checkpoints"


def main_process() -> bool:
    """Under torchrun the first process alone writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def alone(output: Path) -> contextlib.AbstractContextManager[None]:
    """The folder's lock; the first process holds it for all."""
    return locked(output) if main_process() else contextlib.nullcontext()


def described(
    student: str, teacher: str | None, data: Task, val: Task | None, settings: Settings
) -> dict[str, Any]:
    """What a run is: whoever gives the same command with the same files goes on with it."""

    def task(of: Task) -> dict[str, Any]:
        targets = orjson.dumps([[example.id, example.target] for example in of.examples])
        return {
            "name": of.name,
            "settings": dict(of.settings),
            "examples": len(of.examples),
            "prompts_sha256": prompts_sha256(of),
            "targets_sha256": hashlib.sha256(targets).hexdigest(),
        }

    learnt_from: dict[str, Any] | None = None
    if teacher is not None and is_cache(teacher):
        learnt_from = {"cache": asdict(TeacherCache(cache_path(teacher)).header)}
    elif teacher is not None:
        learnt_from = identity(teacher)
    run = {
        "command": "train",
        "student": identity(student),
        "teacher": learnt_from,
        "data": task(data),
        "val": None if val is None else task(val),
        "settings": identity_of(settings),
    }
    plain: dict[str, Any] = orjson.loads(orjson.dumps(run))
    return plain


def begin(output: Path, run: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Make the folder this run's; its result where it is finished already.

    Raises `OutputError` where it holds another run's work, or something else.
    """
    path = output / MANIFEST
    if not main_process() and not path.exists():
        return None  # the first process, which may come later, looks after the folder
    if not path.exists():
        others = [file.name for file in output.iterdir() if file.name != ".lock"]
        if others:
            raise OutputError(
                f"{output} holds other work ({others[0]}); choose another output folder."
            )
        write_manifest(output, {"run": run})
        return None
    check_owner(output, run["command"])
    found = orjson.loads(path.read_bytes())
    before, result = found["run"], found.get("result")
    differs = sorted(k for k in before.keys() | run.keys() if before.get(k) != run.get(k))
    if not differs:
        if result is not None and main_process():
            _tidy(output)
        return result  # type: ignore[no-any-return]
    if result is None and checkpoints.newest(output / CHECKPOINTS) is None:
        write_manifest(output, {"run": run})  # nothing was learnt yet, so nothing is lost
        if main_process():
            (output / LOG).unlink(missing_ok=True)
        return None
    raise OutputError(
        f"{output} holds another run ({', '.join(differs)} differ); choose another output folder, "
        "or remove it."
    )


def begun_in(output: Path, dtype: str) -> str:
    """The precision in which this run began; `dtype`, which is noted, where it begins now."""
    manifest = orjson.loads((output / MANIFEST).read_bytes())
    known = manifest.get("precision")
    if known not in ("float32", "bfloat16"):
        write_manifest(output, manifest | {"precision": dtype})
        return dtype
    return str(known)


def write_manifest(output: Path, data: Mapping[str, Any]) -> None:
    """Replace the manifest; only the first process does."""
    if main_process():
        store.write_manifest(output, data)


def publish(output: Path, save: Callable[[Path], None], result: Mapping[str, Any]) -> None:
    """Let `save(folder)` write the model; then its files appear in `output`, its config last.

    Then the manifest gets `result`, and the checkpoints go. Raises `OutputError`.
    """
    for stale in output.glob(".model.*"):  # of a call that was killed here
        shutil.rmtree(stale, ignore_errors=True)
    with output_errors(output), safetensor_errors():
        temporary = Path(tempfile.mkdtemp(prefix=".model.", dir=output))
        try:
            save(temporary)
            mode = 0o666 & output.stat().st_mode  # safetensors' own files are the user's alone
            # a directory with a config is a model: everything else must be there before
            for file in sorted(temporary.iterdir(), key=lambda p: p.name.endswith(LAST)):
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
                file.chmod(mode)
                file.replace(output / file.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    run = orjson.loads((output / MANIFEST).read_bytes())["run"]
    write_manifest(output, {"run": run, "result": result})
    _tidy(output)


def _tidy(output: Path) -> None:
    """What a finished run needs no more; a call that was killed at its very end left it."""
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)
