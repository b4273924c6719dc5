"""The phenomenon that each figure shows, on few starts, and the drawings."""

import itertools

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from dlnjax import plot
from dlnjax.figures import _limits, FIGURES

pytestmark = pytest.mark.slow
KEY = jax.random.key(5)


def numbers(name, data):
    return {row.quantity: row for row in FIGURES[name].numbers(data)}


def assert_draws(name, data):
    with plot.style():
        drawing = FIGURES[name].draw(data)
    assert isinstance(drawing, Drawing)
    for ax in drawing.axes:
        # An inset repeats the axes that it enlarges, and a side panel shares the vertical axis of its neighbour.
        assert ax.get_xlabel() or ax.get_ylabel() or ax.child_axes == []


def test_limits_of_small_starts_lie_on_the_side_of_the_hyperbola_that_their_determinant_allows():
    data = FIGURES["4.1a"].compute(KEY, 60)
    rows = numbers("4.1a", data)
    assert rows["share of starts with |X12 X21 - 1| < 0.1, std 0.01"].here > 0.85
    assert rows["the same share, std 0.1"].here < 0.85
    assert rows["share at rest by the horizon, std 0.01"].here == 1
    assert rows["det X0 < 0: share of limits with X12 X21 > 1"].here == 1
    assert rows["det X0 > 0: share of limits with X12 X21 < 1"].here == 1
    assert_draws("4.1a", data)


def test_largest_singular_value_alone_escapes():
    data = FIGURES["4.1b"].compute(KEY, 15)
    growth = [row.here for name, row in numbers("4.1b", data).items() if "growth" in name]
    assert growth[0] > 100
    assert max(growth[2:]) < 2 and min(growth[1:]) > 0.5
    assert abs(data["sigma"].values[-1, 0] - 5) < 0.2
    assert_draws("4.1b", data)


def test_effective_rank_falls_by_what_an_independent_integration_found():
    data = FIGURES["4.2a"].compute(KEY, 80)
    start, end, fall = FIGURES["4.2a"].numbers(data)
    # 200 other draws, integrated in X by another code, gave 3.90 and 3.03.
    assert abs(start.here - 3.90) < 3.5 * start.standard_error
    assert abs(end.here - 3.03) < 3.5 * end.standard_error
    assert fall.verdict == "agrees"
    assert set(data["result"].values) == {"steady"}
    assert_draws("4.2a", data)


def test_limiting_rank_grows_with_the_dimension_and_slower_than_that_of_the_start_or_of_less_depth(monkeypatch):
    monkeypatch.setattr(_limits, "LARGEST", 5)
    monkeypatch.setattr(_limits, "FURTHER", {25: ((3, 8), 0.5), 100: ((100,), 0.02)})
    data = FIGURES["4.2d"].compute(KEY, 40)
    slope, _, start, _, *further = FIGURES["4.2d"].numbers(data)
    assert 0.3 < slope.here < start.here
    # Too few seeds for a shape of its own: it is left out. Deeper is lower, and the deepest as before.
    assert set(data["further_d"].values) == {3, 8}
    assert all(a.here > b.here for a, b in itertools.pairwise(further))
    assert abs(further[-1].here - slope.here) < 0.15
    assert list(data["d"].values) == [2, 3, 4, 5]
    assert np.all(data["start"].values <= data["d"].values[:, None])
    assert_draws("4.2d", data)
