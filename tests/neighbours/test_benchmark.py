"""The benchmark against geomstats, pymanopt and POT at its smallest size: all of them answer, and dlnjax rightly."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("geomstats")
pytest.importorskip("pymanopt")
pytest.importorskip("ot")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "neighbours.py"


def test_benchmark_runs_and_dlnjax_has_no_error_above_its_bound():
    run = subprocess.run([sys.executable, str(BENCHMARK), "--quick"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    table = [line for line in run.stdout.splitlines() if line.startswith("|")]
    columns, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table if "--" not in line)
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    assert {row["task"] for row in found} >= {"sectional curvature", "logarithm", "transport", "mean of six"}
    ours = [row for row in found if row["contender"].startswith("dlnjax.")]
    assert len(ours) == 11
    for row in ours:
        # The distance of near matrices keeps as many digits as their difference has.
        assert row["to 1e-3" if "near" in row["task"] else "to 1e-8"] == "100%", row
