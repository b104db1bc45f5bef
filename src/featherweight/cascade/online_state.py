"""What a learner knows, as one JSON file: a stopped run goes on as if it had not stopped.

Plain numbers, and the labels; of questions only hashed words. Numbers keep their bits. A state of
other models, of another rule or with other settings is refused: what it learned is about those.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from featherweight.cascade.course import Course
from featherweight.cascade.events import Event, Seen
from featherweight.cascade.hashing import BITS
from featherweight.cascade.journal import journal_of, read_journal
from featherweight.cascade.logistic import FIRST, Logistic
from featherweight.cascade.online import BATCH, Learner, Settings
from featherweight.cascade.online_read import add, fill
from featherweight.cascade.reader import Reader
from featherweight.errors import CascadeError
from featherweight.files import write_atomic

FORMAT, VERSION = "featherweight-online-cascade", 1
NEW = "name another file to begin anew"


def resume(
    path: Path,
    stages: int,
    settings: Settings,
    centres: Sequence[float | None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Learner:
    """The learner in the file at `path` and its journal, a new one where there is no such file.

    Raises `CascadeError` for a file that is no state, or one of other stages, settings or `about`.
    """
    learner = Learner(stages, settings, centres, about)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return learner
    except OSError as error:
        raise CascadeError(f"cannot read {path}: {error.strerror or error}; {NEW}.") from None
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise CascadeError(f"{path} is not JSON ({error}); {NEW}.") from None
    _check_for(data, learner, path)
    fill(learner, Reader(data, str(path), f"put a whole copy back, or {NEW}"))
    again = "remove the file, and with it what was learned since the state was written"
    for number, line in enumerate(read_journal(path, _sha256(raw)), 2):
        where = f"{journal_of(path)} line {number}"
        try:
            data = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise CascadeError(f"{where} is not JSON ({error}); {again}.") from None
        add(learner, Reader(data, where, again))
    return learner


def save(learner: Learner, path: Path) -> str:
    """Write the state; the old one stays until the new one is whole. Returns its sha256.

    Raises `OutputError`.
    """
    raw = orjson.dumps(to_json(learner), option=orjson.OPT_SERIALIZE_NUMPY)
    write_atomic(path, raw)
    return _sha256(raw)


def line_of(course: Course) -> bytes:
    """A line of a journal: what a learner observes of `course`."""
    data = {**_observed(course.seen, course.event), "checked": course.checked}
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def to_json(learner: Learner) -> dict[str, Any]:
    """The state as plain JSON data, but for numpy arrays."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "promise": None,
        "about": learner.about,
        "settings": _settings(learner),
        "requests": learner.requests,
        "labels": learner.labels,
        "student": _model(learner.student),
        "judges": [_model(judge) for judge in learner.judges],
        "gates": [_model(gate) for gate in learner.gates],
        "scores": [asdict(one) for one in learner.scores],
        "costs": [asdict(one) for one in learner.costs],
        "audit": asdict(learner.audit),
        "memory": [_event(event) for event in learner.memory],
        "pending": [_observed(seen, event) for seen, event in learner.pending],
    }


def _settings(learner: Learner) -> dict[str, Any]:
    more = {"stages": learner.stages, "centres": list(learner.centres), "bits": BITS}
    return {**asdict(learner.settings), **more, "batch": BATCH}


def _model(model: Logistic) -> dict[str, Any]:
    """Only places that were touched."""
    places = np.flatnonzero(((model.weights != 0) | (model.squares != FIRST)).any(axis=1))
    return {
        "outputs": model.outputs,
        "places": places,
        "weights": model.weights[places],
        "squares": model.squares[places],
    }


def _observed(seen: Seen, event: Event | None) -> dict[str, Any]:
    return {"seen": asdict(seen), "event": event and _event(event)}


def _event(event: Event) -> dict[str, Any]:
    return {
        "places": event.words.indices,
        "counts": event.words.counts,
        "label": event.label,
        "guess": event.guess,
        "sure": event.sure,
        "weight": event.weight,
        "tries": [one and asdict(one) for one in event.tries],
    }


def _check_for(data: object, learner: Learner, path: Path) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CascadeError(f"{path} is no state of online learning; {NEW}.")
    if data.get("version") != VERSION or data["version"] is True:
        raise CascadeError(
            f"{path}: its version is {data.get('version')!r}, but this program reads version "
            f"{VERSION}; install the featherweight that wrote it, or {NEW}."
        )
    about = data.get("about")
    if about != orjson.loads(orjson.dumps(learner.about)):
        raise CascadeError(
            f"{path} was learned with other models or another rule"
            f"{_where(about, learner.about)}; open the cascade that it belongs to, or {NEW}."
        )
    settings = data.get("settings")
    for name, value in _settings(learner).items():
        known = settings.get(name) if isinstance(settings, dict) else None
        if known != value:
            raise CascadeError(
                f"{path} was learned with {name} {known}, not {value}; go on with the same "
                f"settings, or {NEW}."
            )


def _where(one: object, other: object) -> str:
    """The first place where two pieces of JSON data differ, for people."""
    if isinstance(one, dict) and isinstance(other, Mapping):
        for key in {**one, **other}:
            if one.get(key) != other.get(key):
                return f", {key}{_where(one.get(key), other.get(key)).lstrip(',')}"
    if isinstance(one, list) and isinstance(other, list | tuple):
        for number, (a, b) in enumerate(zip(one, other, strict=False)):
            if a != b:
                return f", {number}{_where(a, b).lstrip(',')}"
    return ""
