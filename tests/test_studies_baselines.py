"""studies/cascade/baselines.py: what is deferred first, by text lengths and by ucci-router."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from featherweight.cascade.scores import Score, score_answers
from featherweight.cascade.types import Answer, Log, Metric, Row

SCRIPT = Path(__file__).parent.parent / "studies" / "cascade" / "baselines.py"


@pytest.fixture(scope="module")
def baselines() -> ModuleType:
    spec = importlib.util.spec_from_file_location("baselines", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(number: int = 200) -> Log:
    """The smaller the margins, the likelier the small model is wrong."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(number):
        margins = (*rng.uniform(size=2 + n % 5).tolist(), 0.5)
        right = rng.uniform() < np.mean(margins[:-1])
        logprobs = (-0.5,) * len(margins)
        small = Answer("small", "x", 100.0 * right, logprobs, margins, ended=True, prompt_tokens=n)
        large = replace(small, model="large", quality=95.0)
        rows.append(Row(f"q{n}", f"q{n}", "fit" if n % 2 else "test", (small, large)))
    return Log(Metric("quality", 0, 100), ("small", "large"), tuple(rows))


def test_the_longest_go_on_first(baselines: ModuleType) -> None:
    log = made()
    prompts = baselines.by_baseline("longest prompts", log).scores[:, 0]
    assert prompts.tolist() == [-float(n) for n in range(0, 200, 2)]
    lengths = baselines.by_baseline("longest answers", log).scores[:, 0]
    assert lengths.tolist() == [-float(3 + n % 5) for n in range(0, 200, 2)]


def test_the_other_router_ranks_by_margins(baselines: ModuleType) -> None:
    pytest.importorskip("ucci", reason="a guest of the study: pip install ucci-router")
    log = made()
    assert baselines.usable([log]) == (tuple(baselines.BASELINES), "")
    found = baselines.by_baseline("ucci", log).scores[:, 0]
    assert ((found >= -1) & (found <= 0)).all() and len(np.unique(found)) > 5
    test = [row.stages[0] for row in log.part("test").rows]
    order = np.argsort(score_answers(Score("margin", end=False), test))
    assert (np.diff(found[order]) >= 0).all()
    silent = replace(log.rows[0].stages[0], margins=None)
    bare = replace(log, rows=(replace(log.rows[0], stages=(silent, silent)),))
    names, why = baselines.usable([bare])
    assert "ucci" not in names and "reads margins" in why


def test_without_the_other_router_its_column_is_left_out(
    baselines: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ucci", None)
    names, why = baselines.usable([made()])
    assert names == ("longest prompts", "longest answers")
    assert why == "ucci is left out: `pip install ucci-router` for its column."
