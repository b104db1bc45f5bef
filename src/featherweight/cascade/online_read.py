"""A learner's state from plain JSON data of unknown origin, checked piece by piece."""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.events import Audit, Event, Moments, Seen, Try
from featherweight.cascade.hashing import SIZE, Words
from featherweight.cascade.logistic import FIRST, Logistic
from featherweight.cascade.online import BATCH, MEMORY, MOST, Learner
from featherweight.cascade.types import Floats


class WrongError(Exception):
    """What is wrong with a state, and where."""


def fill(learner: Learner, data: Mapping[str, Any]) -> None:
    """Give a new learner the state in `data`; raises `WrongError` for what is none."""
    learner.requests = _count(data, "requests")
    for item in _list(data, "labels", MOST):
        if not (isinstance(item, list) and len(item) == 2 and all(map(_is_text, item))):
            raise WrongError("'labels' holds something else than pairs of texts")
        learner.labels.append((item[0], item[1]))
        learner.student.add_output()
    if len(dict(learner.labels)) < len(learner.labels):
        raise WrongError("a label stands twice in 'labels'")
    _read_model(learner.student, _object(data, "student"), "student")
    for name, models in (("judges", learner.judges), ("gates", learner.gates)):
        for model, part in zip(models, _objects(data, name, len(models)), strict=True):
            _read_model(model, part, name)
    learner.scores = [_moments(d, "scores") for d in _objects(data, "scores", len(learner.scores))]
    learner.costs = [_moments(d, "costs") for d in _objects(data, "costs", learner.stages)]
    audit = _object(data, "audit")
    weight, agreed = (_number(audit, name, "audit") for name in ("weight", "agreed"))
    learner.audit = Audit(_count(audit, "n"), weight, agreed)
    for item in _list(data, "memory", MEMORY):
        learner.memory.append(_read_event(learner, item, "memory"))
    for item in _list(data, "pending", BATCH - 1):
        learner.pending.append(_observed(learner, item, "pending"))
    if len(learner.pending) != learner.requests % BATCH:
        raise WrongError(f"{len(learner.pending)} in 'pending' after {learner.requests} requests")


def add(learner: Learner, data: object) -> None:
    """Have `learner` observe what a journal's line says; raises `WrongError` for what is none."""
    item = _as_object(data, "journal")
    checked = item.get("checked")
    if checked is not None:
        if not (isinstance(checked, list) and len(checked) == 2 and all(map(_is_number, checked))):
            raise WrongError("'checked' is no pair of numbers")
        checked = (float(checked[0]), float(checked[1]))
    learner.add(*_observed(learner, item, "journal"), checked)


def _observed(learner: Learner, item: object, where: str) -> tuple[Seen, Event | None]:
    data = _as_object(item, where)
    event = data.get("event")
    seen = _seen(learner, _object(data, "seen"), where)
    return seen, None if event is None else _read_event(learner, event, where)


def _read_model(model: Logistic, data: Mapping[str, Any], where: str) -> None:
    if data.get("outputs") != model.outputs:
        raise WrongError(f"'{where}' has {data.get('outputs')} outputs, not {model.outputs}")
    places = _places(data, len(model.weights), where)
    wanted = (len(places), model.outputs)
    model.weights[places] = _numbers(data, "weights", wanted, where)
    squares = _numbers(data, "squares", wanted, where)
    if (squares < FIRST).any():
        raise WrongError(f"'squares' of '{where}' holds a number below {FIRST}")
    model.squares[places] = squares


def _read_event(learner: Learner, data: object, where: str) -> Event:
    event = _as_object(data, where)
    places = _places(event, SIZE, where)
    counts = _numbers(event, "counts", (len(places),), where)
    if (counts != np.round(counts)).any() or (counts == 0).any():
        raise WrongError(f"'counts' of '{where}' holds something else than whole numbers")
    tries: list[Try | None] = []
    for item in _list(event, "tries", learner.stages - 1, learner.stages - 1):
        if item is None:
            tries.append(None)
            continue
        part = _as_object(item, where)
        names = ("score", "backing", "agreement", "weight")
        one = Try(*(_number(part, name, where) for name in names))
        if not (0 <= one.agreement <= 1 and one.weight >= 1):
            raise WrongError(f"'{where}' has an agreement outside 0 to 1 or a weight below 1")
        tries.append(one)
    weight = _number(event, "weight", where)
    if weight < 1:
        raise WrongError(f"'{where}' has a weight below 1")
    return Event(
        Words(places, counts.astype(np.int64)),
        _text(event, "label", where),
        _text(event, "guess", where),
        _number(event, "sure", where),
        weight,
        tuple(tries),
    )


def _seen(learner: Learner, data: Mapping[str, Any], where: str) -> Seen:
    found = []
    for name, size in (("scores", learner.stages - 1), ("costs", learner.stages)):
        items = _list(data, name, size, size)
        for item in items:
            if item is not None and not _is_number(item):
                raise WrongError(f"'{name}' of '{where}' holds something else than numbers")
        found.append(tuple(None if item is None else float(item) for item in items))
    said = data.get("said")
    if said is not None and not (
        isinstance(said, list) and len(said) == 2 and all(map(_is_text, said))
    ):
        raise WrongError(f"'said' of '{where}' is no pair of texts")
    return Seen(found[0], found[1], None if said is None else (said[0], said[1]))


def _moments(data: Mapping[str, Any], where: str) -> Moments:
    squares = _number(data, "squares", where)
    if squares < 0:
        raise WrongError(f"'squares' of '{where}' is below 0")
    return Moments(_count(data, "n"), _number(data, "mean", where), squares)


def _places(data: Mapping[str, Any], size: int, where: str) -> NDArray[np.intp]:
    items = _list(data, "places", size)
    if not all(type(item) is int and 0 <= item < size for item in items):
        raise WrongError(f"'places' of '{where}' holds something else than 0 to {size - 1}")
    found = np.array(items, dtype=np.intp)
    if (np.diff(found) <= 0).any():
        raise WrongError(f"'places' of '{where}' do not rise")
    return found


def _numbers(data: Mapping[str, Any], name: str, shape: tuple[int, ...], where: str) -> Floats:
    try:
        found = np.array(data.get(name), dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        _wrong(name, where, f"no table of {' x '.join(map(str, shape))} numbers")
    if not np.isfinite(found).all():
        _wrong(name, where, "not finite everywhere")
    return found


def _number(data: Mapping[str, Any], name: str, where: str) -> float:
    value = data.get(name)
    if not _is_number(value):
        _wrong(name, where, "no finite number")
    return float(value)  # type: ignore[arg-type]


def _count(data: Mapping[str, Any], name: str) -> int:
    value = data.get(name)
    if type(value) is not int or value < 0:
        raise WrongError(f"'{name}' is no whole number from 0")
    return value


def _text(data: Mapping[str, Any], name: str, where: str) -> str | None:
    value = data.get(name)
    if value is not None and not _is_text(value):
        _wrong(name, where, "no text")
    return value


def _object(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return _as_object(data.get(name), name)


def _as_object(data: object, where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise WrongError(f"'{where}' holds something that is no object")
    return data


def _objects(data: Mapping[str, Any], name: str, size: int) -> list[Mapping[str, Any]]:
    return [_as_object(item, name) for item in _list(data, name, size, size)]


def _list(data: Mapping[str, Any], name: str, most: int, least: int = 0) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list) or not least <= len(value) <= most:
        number = f"{least} to {most}" if least < most else str(most)
        raise WrongError(f"'{name}' is no list of {number}")
    return value


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _wrong(name: str, where: str, what: str) -> NoReturn:
    raise WrongError(f"'{name}' of '{where}' is {what}")
