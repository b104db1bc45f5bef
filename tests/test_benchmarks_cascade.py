"""benchmarks/cascade_scores.py: rows of the agreed form, both ways with equal bits. No timing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "cascade_scores.py"
FORM = {"way": str, "score": str, "microseconds_per_token": float, "rounds": list, "aim": float}


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="the machine's row is read from /proc")
def test_quick_gives_a_row_for_each_way_and_score() -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    header, *rows = json.loads(done.stdout)
    assert header["answers"] == 100 and "shared" in header["note"]
    names: dict[str, set[str]] = {"offline": set(), "incremental": set()}
    for row in rows:
        assert {key: type(value) for key, value in row.items()} == FORM
        names[row["way"]].add(row["score"])
    assert names["offline"] - names["incremental"] == {"features"} and len(names["offline"]) == 11
