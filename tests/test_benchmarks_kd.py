"""benchmarks/kd_loss.py: rows of the agreed form, whose implementations agree. No timing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "kd_loss.py"
FORM = {
    "case": str,
    "impl": str,
    "cpu_seconds": float,
    "wall_seconds": float,
    "peak_bytes": int,
    "loss": float,
    "grad_norm": float,
}


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_quick_gives_rows_with_equal_losses() -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    header, *rows = json.loads(done.stdout)
    assert header["rounds"] == 1 and header["torch"]
    for row in rows:
        assert {key: type(value) for key, value in row.items()} == FORM
        assert row["case"] == "v49152 forward_kl half"
    by_impl = {row["impl"]: row for row in rows}
    assert {"naive", "featherweight", "featherweight-cached64"} <= by_impl.keys()
    exact = [row for impl, row in by_impl.items() if impl != "featherweight-cached64"]
    for row in exact:
        assert row["loss"] == pytest.approx(exact[0]["loss"], rel=1e-4)
        assert row["grad_norm"] == pytest.approx(exact[0]["grad_norm"], rel=1e-4)
    assert 0 < by_impl["featherweight-cached64"]["loss"] < exact[0]["loss"]
