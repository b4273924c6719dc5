"""The figures of the open questions: exact oracles, symmetries, and the laws that their pages derive."""

import jax
import numpy as np
import pytest
from support.flows import scipy_flow
from support.tolerances import assert_close, INTEGRATION
from test_figures import assert_draws

from dlnjax import closed_form
from dlnjax.figures import _saddles, _two_by_two, FIGURES

pytestmark = pytest.mark.slow
KEY = jax.random.key(7)


def wrong(name, data):
    return {row.quantity for row in FIGURES[name].numbers(data) if row.verdict == "disagrees"}


@pytest.mark.parametrize("size", [0.1, 1e-3, 1e-30])
def test_time_of_an_aligned_start_is_that_of_the_closed_form(size):
    s = 2.0
    exact = np.log(s / size - 1) / s
    assert_close(_saddles.aligned_time(size, 2.0, s), exact, INTEGRATION)
    deep = np.log((s - size) / size) / s**2 + 1 / (s * size) - 2 / s**2
    assert_close(_saddles.aligned_time(size, np.inf, s) / deep, 1.0, INTEGRATION)
    # The mode passes half of its target at this time. From 1e-30 it does so too fast for one float of time.
    if size > 1e-20:
        assert_close(closed_form.mode(size, s, 3.5, _saddles.aligned_time(size, 3.5, s)), s / 2, 1e-4)


@pytest.mark.long
def test_escape_time_and_alignment_follow_the_laws_and_a_transposed_start_mirrors_them(monkeypatch):
    monkeypatch.setattr(_saddles, "SIZES", 10.0 ** -np.array([2.0, 26.0, 30.0]))
    monkeypatch.setattr(_saddles, "PATH_SIZES", {2.0: [1e-2, 1e-4], 3.0: [1e-2, 1e-4], np.inf: [1e-1, 1e-2]})
    monkeypatch.setattr(_saddles, "PATH_SIZES", {n: np.array(s) for n, s in _saddles.PATH_SIZES.items()})
    data = FIGURES["6.7"].compute(KEY, 4)
    assert not wrong("6.7", data)
    assert "largest relative error of the escape time of an aligned start, N = 3" in wrong(
        "6.7", data.assign(time=1.01 * data["time"])
    )
    assert len(wrong("6.7", data.assign(left=data["left"] * data["size"] ** 0.02))) == 6
    # No start leaves sooner than the aligned one of its largest singular value.
    largest = np.linalg.svd(np.asarray(jax.random.normal(jax.random.split(KEY)[0], (4, 2, 2))))[1][:, 0]
    least = [[[_saddles.aligned_time(s * x, n) for x in largest] for s in _saddles.SIZES] for n in _saddles.DEPTHS]
    assert np.all(data["time"].values[..., :-1] >= np.array(least) * (1 - 1e-3))
    # The nearer the start is to 0, the nearer the flow passes the first saddle.
    assert np.all(data["nearest"].isel(stop=0, k=1).median("seed") < data["nearest"].isel(stop=0, k=0).median("seed"))
    assert_draws("6.7", data)
    # In the same shapes: transposed starts escape at the same times, with the two frames exchanged.
    depth = np.full(5, 3.0)
    starts = 1e-10 * np.asarray(jax.random.normal(KEY, (5, 2, 2)))
    here, there = _saddles.escapes(starts, depth), _saddles.escapes(starts.mT, depth)
    for k, other in enumerate((0, 2, 1, 3)):
        np.testing.assert_allclose(here[k], there[other], rtol=1e-4)


def test_limit_at_depth_two_is_exact_for_larger_matrices_too():
    """Any size and any start: against the flow in X, by SciPy."""
    x0 = np.asarray(jax.random.normal(KEY, (3, 3)))
    energy = lambda x: 2 * np.diag(np.diag(x) - 1)
    assert_close(scipy_flow(energy, x0, 2.0, [0.0, 40.0])[-1], _two_by_two.limit_at_depth_two(x0), 1e-7)


def test_law_of_the_correlations_is_a_distribution_and_that_of_independent_draws():
    assert_close(_two_by_two.cosine_law(np.array([-1.0, 0.0, 1.0])), [0.0, 0.5, 1.0], 1e-12)
    draws = np.random.default_rng(0).normal(size=(20_000, 2, 2))
    u, s, _ = np.linalg.svd(draws[np.linalg.det(draws) > 0])
    # A uniform rotation of the mean of the two frames is that of u.
    a = (u * s[:, None, :]) @ u.mT
    rho = a[:, 0, 1] / np.sqrt(a[:, 0, 0] * a[:, 1, 1])
    for level in (-0.8, -0.2, 0.1, 0.5):
        assert abs((rho <= level).mean() - _two_by_two.cosine_law(level)) < 0.02


def test_depth_two_is_the_threshold_of_rank_one_and_the_limit_has_the_symmetries_of_the_diagonal(monkeypatch):
    monkeypatch.setattr(_two_by_two, "BETWEEN", (2.5, 10.0))
    data = FIGURES["6.1"].compute(KEY, 30)
    assert not wrong("6.1", data)
    assert len(wrong("6.1", data.assign(x=data["x"] * (1 + 1e-4)))) == 2
    product = (data["between"][..., 0, 1] * data["between"][..., 1, 0]).median("few").sel(size=1e-4)
    assert np.all(product > 0.3)
    assert_draws("6.1", data)
    # Transposing, exchanging both coordinates, and the sign of one: the limit of each start goes along.
    n = len(_two_by_two.DEPTHS) * len(_two_by_two.SIZES) * 30 + 2 * 3 * 30
    starts = np.resize(0.1 * data["draw"].values, (n, 2, 2))
    depth = np.resize([2.0, 3.0, np.inf, 3.0, 5.0, 1.0, 2.0], n)
    x, rest = _two_by_two._limits(starts, depth)
    assert rest.all()
    swap, sign = np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([1.0, -1.0])
    for move in (lambda x: x.mT, lambda x: swap @ x @ swap, lambda x: sign @ x @ sign):
        np.testing.assert_allclose(_two_by_two._limits(move(starts), depth)[0], move(x), atol=1e-4, rtol=1e-4)
