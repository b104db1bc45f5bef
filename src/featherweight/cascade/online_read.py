"""A learner's state from plain JSON data of unknown origin, checked piece by piece."""

import numpy as np
from numpy.typing import NDArray

from featherweight.cascade.events import Audit, Event, Moments, Seen, Try
from featherweight.cascade.hashing import SIZE, Words
from featherweight.cascade.logistic import FIRST, Logistic
from featherweight.cascade.online import BATCH, MEMORY, MOST, Learner
from featherweight.cascade.reader import Reader
from featherweight.cascade.types import Floats

CHECKED = "format version promise about settings".split()  # by who opened the file


def fill(learner: Learner, top: Reader) -> None:
    """Give a new learner the state in `top`; raises `CascadeError`, with the place, for none."""
    known = "requests labels student judges gates scores costs audit memory pending"
    top.keys(*CHECKED, *known.split())
    learner.requests = top.count("requests")
    for number, item in enumerate(top.items("labels", most=MOST)):
        learner.labels.append(_pair(top, f"labels[{number}]", item))
        learner.student.add_output()
    if len(dict(learner.labels)) < len(learner.labels):
        raise top.wrong("labels", "has a label twice", "take one out")
    _read_model(learner.student, top.part("student"))
    for name, models in (("judges", learner.judges), ("gates", learner.gates)):
        for model, part in zip(models, top.parts(name, len(models)), strict=True):
            _read_model(model, part)
    learner.scores = [_moments(part) for part in top.parts("scores", len(learner.scores))]
    learner.costs = [_moments(part) for part in top.parts("costs", learner.stages)]
    audit = top.part("audit")
    audit.keys("n", "weight", "agreed")
    learner.audit = Audit(audit.count("n"), audit.number("weight"), audit.number("agreed"))
    top.items("memory", most=MEMORY)
    learner.memory.extend(_read_event(learner, part) for part in top.parts("memory"))
    for part in top.parts("pending", learner.requests % BATCH):
        part.keys("seen", "event")
        learner.pending.append(_observed(learner, part))


def add(learner: Learner, line: Reader) -> None:
    """Have `learner` observe what a journal's line says; raises `CascadeError` as `fill`."""
    line.keys("seen", "event", "checked")
    checked = None
    if line.data["checked"] is not None:
        checked = (line.numbers("checked", 2)[0], line.numbers("checked", 2)[1])
    learner.add(*_observed(learner, line), checked)


def _observed(learner: Learner, part: Reader) -> tuple[Seen, Event | None]:
    event = None if part.data["event"] is None else _read_event(learner, part.part("event"))
    return _seen(learner, part.part("seen")), event


def _read_model(model: Logistic, part: Reader) -> None:
    part.keys("outputs", "places", "weights", "squares")
    if part.count("outputs") != model.outputs:
        raise part.wrong("outputs", f"is {part.data['outputs']}", f"write {model.outputs}")
    places = _places(part, len(model.weights))
    model.weights[places] = _table(part, "weights", (len(places), model.outputs))
    squares = _table(part, "squares", (len(places), model.outputs))
    if (squares < FIRST).any():
        raise part.wrong("squares", f"holds a number below {FIRST}", f"write {FIRST} or more")
    model.squares[places] = squares


def _read_event(learner: Learner, part: Reader) -> Event:
    part.keys("places", "counts", "label", "guess", "sure", "weight", "tries")
    places = _places(part, SIZE)
    counts = _table(part, "counts", (len(places),))
    if (counts != np.round(counts)).any() or (counts == 0).any():
        raise part.wrong("counts", "holds something else than whole numbers", "write those")
    tries: list[Try | None] = []
    for number, item in enumerate(part.items("tries", learner.stages - 1)):
        one = Reader(item or {}, f"{part.where}.tries[{number}]", part.again)
        tries.append(None if item is None else _read_try(one))
    label, guess = (None if part.data[k] is None else part.text(k) for k in ("label", "guess"))
    words = Words(places, counts.astype(np.int64))
    return Event(words, label, guess, part.number("sure"), part.within("weight", 1), tuple(tries))


def _read_try(part: Reader) -> Try:
    part.keys("score", "backing", "agreement", "weight")
    score, backing = part.number("score"), part.number("backing")
    return Try(score, backing, part.within("agreement", 0, 1), part.within("weight", 1))


def _seen(learner: Learner, part: Reader) -> Seen:
    part.keys("scores", "costs", "said")
    said = part.data["said"]
    return Seen(
        _known(part, "scores", learner.stages - 1),
        _known(part, "costs", learner.stages),
        None if said is None else _pair(part, "said", said),
    )


def _known(part: Reader, name: str, size: int) -> tuple[float | None, ...]:
    """Numbers, `None` where one is not known."""
    items = enumerate(part.items(name, size))
    return tuple(None if item is None else part.finite(f"{name}[{i}]", item) for i, item in items)


def _pair(part: Reader, name: str, value: object) -> tuple[str, str]:
    if not (isinstance(value, list) and len(value) == 2 and all(map(_is_text, value))):
        raise part.wrong(name, "is no pair of texts", "write two")
    return value[0], value[1]


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _moments(part: Reader) -> Moments:
    part.keys("n", "mean", "squares")
    return Moments(part.count("n"), part.number("mean"), part.within("squares", 0))


def _places(part: Reader, size: int) -> NDArray[np.intp]:
    found = part.integers("places", None, 0, size - 1)
    part.rising("places", found, strictly=True)
    return np.array(found, dtype=np.intp)


def _table(part: Reader, name: str, shape: tuple[int, ...]) -> Floats:
    try:
        found = np.array(part.data[name], dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        size = " x ".join(map(str, shape))
        raise part.wrong(name, f"is no table of {size} numbers", "write one") from None
    if not np.isfinite(found).all():
        raise part.wrong(name, "is not finite everywhere", "write finite numbers")
    return found
