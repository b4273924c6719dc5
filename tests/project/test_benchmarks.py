"""The benchmarks run at their smallest size, so that a change of the library does not leave them behind."""

import subprocess
import sys
from pathlib import Path

import pytest

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
