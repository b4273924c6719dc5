"""The benchmarks run at their smallest size, so that a change of the library does not leave them behind.

The chart of the README is that of their tables.
"""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Of each the options that make it as small as it can be. The others start processes of their own, need another
# environment, or are the figures, which have tests.
SMALLEST = {
    "flow": "",
    "limit": "--depth 3",
    "noise": "",
    "ratings": "--rank 10",
    "scaling": "--part d depth --depth 2 inf",
    "sweep": "--d 5 --scipy LSODA",
}


@pytest.mark.long
@pytest.mark.parametrize("name", SMALLEST)
def test_benchmark_runs(name):
    # A process of its own, since it starts itself again with one thread for each call of LAPACK.
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", *SMALLEST[name].split()]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("|") > 10


def test_chart_is_drawn_from_the_tables_that_are_there(tmp_path):
    chart = runpy.run_path(str(BENCHMARKS / "chart.py"))
    with Image.open(chart["CHART"]) as picture:
        assert picture.info["Description"] == chart["checksum"](), "run python benchmarks/chart.py"
    table = tmp_path / "table.md"
    rows = ["5 | dlnjax.sweep | 1.5", "5 | SciPy RK45 | 30", "5 | SciPy LSODA | 20", "5 | diffrax, X | 40"]
    table.write_text("\n".join(f"| {row} |" for row in ["d | contender | ms per seed", "-|-|-", *rows]))
    by_d = {"dlnjax.sweep": {5: 1.5}, "SciPy": {5: 20.0}, "diffrax, SVD coordinates": {}, "diffrax, X": {5: 40.0}}
    assert chart["milliseconds"](table) == by_d
