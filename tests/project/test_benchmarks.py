"""The benchmarks run at their smallest size, so that a change of the library does not leave them behind.

The chart of the README is that of their tables.
"""

import runpy
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln

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


def test_chart_is_drawn_from_the_tables_that_are_there(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    chart = runpy.run_path(str(BENCHMARKS / "chart.py"))
    with Image.open(chart["CHART"]) as picture:
        assert picture.info["Description"] == chart["checksum"](), "run python benchmarks/chart.py"
    table = tmp_path / "table.md"
    rows = ["5 | dlnjax.sweep | 1.5", "5 | SciPy RK45 | 30", "5 | SciPy LSODA | 20", "5 | diffrax, X | 40"]
    table.write_text("\n".join(f"| {row} |" for row in ["d | contender | ms per seed", "-|-|-", *rows]))
    by_d = {"dlnjax.sweep": {5: 1.5}, "SciPy": {5: 20.0}, "diffrax, SVD coordinates": {}, "diffrax, X": {5: 40.0}}
    assert chart["milliseconds"](table) == by_d


@pytest.mark.long
def test_what_the_neighbours_are_held_against_is_what_dlnjax_finds():
    exact = runpy.run_path(str(BENCHMARKS / "_exact.py"))
    x, z, w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2)))
    for depth in (3.0, np.inf):
        curved = exact["sectional"](exact["deep_frame"](depth), x, z, w, symmetric=False)
        assert_close(curved, dln.sectional_curvature(x, z, w, depth), 100 * ALGEBRA)
        moving = dln.metric_operator_inverse(x, 0.3 * z, depth)
        assert_close(exact["deep_end"](x, 0.3 * z, depth), dln.exponential(x, moving, depth).x[-1], INTEGRATION)
    # Positive definite matrices at depth 2: four times the metric of Bures and Wasserstein.
    a, b, z, w = jnp.asarray(z @ z.T + 0.1 * jnp.eye(2)), x @ x.T, w + w.T, z + z.T
    line = dln.geodesic(a, b, 2.0)
    curved = exact["sectional"](exact["bures_frame"], a, z, w, symmetric=True)
    assert_close(curved, 4 * dln.sectional_curvature(a, z, w, 2.0), 100 * ALGEBRA)
    assert_close(2 * exact["bures_distance"](a, b), line.length, INTEGRATION)
    velocity = exact["bures_logarithm"](a, b)
    assert_close(velocity, dln.metric_operator(a, line.momentum, 2.0), INTEGRATION)
    assert_close(exact["bures_exponential"](a, velocity), b, INTEGRATION)
    assert_close(exact["bures_point"](a, b, 0.25), line.evaluate(0.25), INTEGRATION)
    assert_close(exact["bures_transport"](a, b, z), dln.transport(line, z), INTEGRATION)
    points = jnp.stack([a, b, a + b])
    assert_close(exact["bures_mean"](points), dln.frechet_mean(points, 2.0).x, INTEGRATION)
