"""A learner's state on disk: it goes on bit by bit, and what is no state of its is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from question_streams import streamed

from featherweight.cascade.online import Learner, Settings
from featherweight.cascade.online_state import FORMAT, resume, save, to_json
from featherweight.cascade.replay import replay
from featherweight.errors import CascadeError, OutputError

SETTINGS = Settings(0.2)
ABOUT = {"stages": [{"model": "a", "score": "mean"}, {"model": "b", "score": None}]}


def opened(path: Path, **changes: Any) -> Learner:
    given = {"stages": 2, "settings": SETTINGS, "centres": (-0.5,), "about": ABOUT}
    return resume(path, **{**given, **changes})


@pytest.mark.parametrize("free", [False, True])
def test_stopped_anywhere_it_goes_on_as_if_it_had_not(tmp_path: Path, free: bool) -> None:
    found = streamed(420, free=free)
    order = np.random.default_rng(0).permutation(420)
    whole = replay(found, opened(tmp_path / "none"), order)
    path = tmp_path / "state.json"
    parts = []
    for part in np.split(order, [1, 16, 70, 71, 255, 333]):  # within batches and between
        learner = opened(path)
        parts.append(replay(found, learner, part))
        save(learner, path)
    for name in ("level", "asked", "explored", "propensity", "quality", "cost"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert (joined == getattr(whole, name)).all()
    # not only the decisions
    last = Learner(2, SETTINGS, (-0.5,), ABOUT)
    replay(found, last, order)
    again = opened(path)
    assert json.dumps(to_json(again), default=np.ndarray.tolist) == json.dumps(
        to_json(last), default=np.ndarray.tolist
    )
    assert again.requests == 420 and again.memory and again.pending


def test_a_state_holds_no_question(tmp_path: Path) -> None:
    found = streamed(64)
    learner = opened(tmp_path / "none")
    replay(found, learner)
    save(learner, tmp_path / "s.json")
    text = (tmp_path / "s.json").read_text()
    data = json.loads(text)
    assert data["format"] == FORMAT and data["promise"] is None
    assert sorted(data["labels"]) == [["no", "no"], ["yes", "yes"]]
    for example in found.examples:
        assert str(example.prompt).split()[0] not in text


def test_it_is_small_and_only_has_what_was_touched(tmp_path: Path) -> None:
    learner = opened(tmp_path / "none")
    save(learner, tmp_path / "s.json")
    data = json.loads((tmp_path / "s.json").read_text())
    assert data["student"]["places"] == []
    assert [len(judge["places"]) for judge in data["judges"]] == [1, 1]  # trust in confidence


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("state") / "s.json"
    learner = opened(path)
    replay(streamed(100), learner)
    save(learner, path)
    return path


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"settings": Settings(0.3)}, "learned with price 0.2, not 0.3; go on with the same"),
        ({"settings": Settings(0.2, seed=1)}, "seed 0, not 1"),
        ({"settings": Settings(0.2, explore=0.1)}, "explore 0.02, not 0.1"),
        ({"centres": (None,)}, r"centres \[-0.5\], not \[None\]"),
        ({"stages": 3, "centres": (-0.5, None)}, "learned with stages 2, not 3"),
        ({"about": {}}, "other models or another rule, stages; open"),
        (
            {"about": {"stages": [{"model": "a", "score": "mean"}, {"model": "c", "score": None}]}},
            "another rule, stages 1 model; open the cascade that it belongs to, or name another",
        ),
    ],
)
def test_another_cascades_state_is_refused(
    state: Path, changes: dict[str, Any], wanted: str
) -> None:
    assert opened(state).requests == 100
    with pytest.raises(CascadeError, match=wanted):
        opened(state, **changes)


def put(*keys: Any) -> Callable[[dict[str, Any]], None]:
    """Put the last of `keys` to where the others lead."""

    def change(data: dict[str, Any]) -> None:
        *way, last, value = keys
        place: Any = data
        for key in way:
            place = place[key]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (put("version", 2), "its version is 2, but this program reads version 1"),
        (put("version", True), "its version is True"),
        (put("format", "x"), "is no state of online learning; name another"),
        (put("requests", -1), r"\.requests is -1; write a whole number from 0, or put a whole"),
        (put("requests", 101), r"\.pending has 4 items; write 5"),
        (put("labels", [["a"]]), r"\.labels\[0\] is no pair of texts"),
        (put("labels", [["a", "b"], ["a", "c"]]), r"\.labels has a label twice"),
        (put("labels", [["a", "b"]]), r"\.student\.outputs is 3; write 2"),
        (put("student", None), r"\.student is null, no object"),
        (put("student", "places", [1.5]), r"\.student\.places\[0\] is 1\.5; write a whole"),
        (put("student", "places", [1 << 14]), r"\.student\.places\[0\] is 16384"),
        (put("student", "places", 0, 16383), r"\.student\.places\[1\] is .* after 16383; sort"),
        (put("student", "weights", 0, [1]), r"\.student\.weights is no table of"),
        (put("student", "weights", 0, 0, None), r"\.student\.weights is not finite"),
        (put("student", "weights", 0, 0, "x"), r"\.student\.weights is no table"),
        (put("student", "squares", 0, 0, 0.01), r"\.student\.squares holds a number below 0\.1"),
        (put("judges", []), r"\.judges has 0 items; write 2"),
        (put("gates", [1]), r"\.gates\[0\] is 1, no object"),
        (put("scores", 0, "squares", -1), r"\.scores\[0\]\.squares is -1"),
        (put("costs", 0, "mean", "x"), r"\.costs\[0\]\.mean is 'x'; write a finite number"),
        (put("audit", "n", 0.5), r"\.audit\.n is 0\.5"),
        (put("memory", 0, "weight", 0.5), r"\.memory\[0\]\.weight is 0\.5"),
        (put("memory", 0, "counts", 0, 0), r"\.memory\[0\]\.counts holds something else"),
        (put("memory", 0, "label", 5), r"\.memory\[0\]\.label is no text"),
        (put("memory", 0, "tries", []), r"\.memory\[0\]\.tries has 0 items; write 1"),
        (put("memory", 0, "tries", 0, "agreement", 2), r"\.tries\[0\]\.agreement is 2"),
        (put("memory", 5), r"\.memory is 5; write a list"),
        (put("pending", 0, "seen", "scores", []), r"\.pending\[0\]\.seen\.scores has 0 items"),
        (put("pending", 0, "seen", "said", "x"), r"\.pending\[0\]\.seen\.said is no pair"),
        (put("pending", 0, None), r"\.pending\[0\] is null, no object"),
    ],
)
def test_a_spoilt_state_is_refused(
    state: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], wanted: str
) -> None:
    data = json.loads(state.read_text())
    change(data)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(data))
    with pytest.raises(CascadeError, match=wanted) as error:
        opened(path)
    assert str(path) in str(error.value)


def test_files_that_cannot_be_read_or_written(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(state.read_text()[:-100])
    with pytest.raises(CascadeError, match=r"is not JSON .*name another file to begin anew"):
        opened(path)
    path.write_text("[]")
    with pytest.raises(CascadeError, match="no state of online learning"):
        opened(path)
    with pytest.raises(CascadeError, match=r"cannot read .*directory"):
        opened(tmp_path)
    with pytest.raises(OutputError, match="cannot write"):
        save(opened(tmp_path / "none"), Path("/proc/none/s.json"))
