"""The figures of the open questions: exact oracles, symmetries, and the laws that their pages derive."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, check_grad, minimize
from support.flows import scipy_flow
from support.tolerances import assert_close, INTEGRATION
from test_figures import assert_draws

from dlnjax import closed_form, FreeEnergy, Imbalanced, MatrixCompletion, metric_eigenvalues
from dlnjax.figures import (
    _blocks,
    _divergence,
    _equilibrium,
    _free_energy,
    _free_energy_laws,
    _norm_gap,
    _saddles,
    _slope,
    _slope_laws,
    _two_by_two,
    FIGURES,
)
from dlnjax.figures._temperature import Grid, rank_of

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


@pytest.mark.long
@pytest.mark.optimised
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
    x, rest = _two_by_two.limits(starts, depth)
    assert rest.all()
    swap, sign = np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([1.0, -1.0])
    for move in (lambda x: x.mT, lambda x: swap @ x @ swap, lambda x: sign @ x @ sign):
        np.testing.assert_allclose(_two_by_two.limits(move(starts), depth)[0], move(x), atol=1e-4, rtol=1e-4)


@pytest.mark.long
def test_norms_diverge_by_the_laws_of_balanced_layers_and_not_with_imbalance(monkeypatch):
    monkeypatch.setattr(_divergence, "HORIZONS", {2.0: 1e4, 3.0: 3e3, np.inf: 300.0})
    monkeypatch.setattr(
        _divergence, "IMBALANCES", {2: 10.0 ** -np.array([1.0, 13.0, 15.0]), 3: np.array([0.1, 1e-3, 3e-4])}
    )
    data = FIGURES["6.2"].compute(KEY, 6)
    off = wrong("6.2", data)
    # At this shorter time the laws of infinite depth are not reached yet.
    assert [name for name in off if "N = inf" not in name] == []
    assert "least ratio of X_11 to its bound (1-e)^2/e, all depths, balanced" in wrong(
        "6.2", data.assign(x=0.9 * data["x"])
    )
    assert "ratio of E at t = 3000 to its law, balanced, N = 3" in wrong(
        "6.2", data.assign(energy=1.1 * data["energy"])
    )
    # Balanced layers keep the sign of the determinant, which falls below rounding at N = 2. Imbalance changes it.
    assert np.all(np.linalg.det(data["x"].values) > -1e-10) and np.all(np.linalg.det(data["end"].values) < -0.5)
    assert_close(data["end"].values[..., 1, 1], np.zeros((2, 3, 6)), 1e-5)
    assert_draws("6.2", data)


def test_constant_of_three_layers_is_the_integral_of_their_kernel():
    g = 1e-2
    # dx/lambda(x, x) over x from 0 on, in log x. Beyond 1e6 what is left is below 1e-3 of it.
    log = jnp.linspace(-16.0, 14.0, 601)
    rates = np.diag(np.asarray(metric_eigenvalues(jnp.exp(log), Imbalanced((g, g)))))
    integral = np.trapezoid(np.exp(log) / rates, np.asarray(log))
    assert abs(2 * integral * g**0.5 / (3 * _divergence.LEMNISCATE) - 1) < 5e-3


@pytest.mark.long
def test_blocks_couple_beyond_depth_two(monkeypatch):
    monkeypatch.setattr(
        _blocks, "SIZES", {2.0: (1e-2, 1e-3), 2.5: (1e-3, 1e-4), 3.0: (1e-2, 1e-3), np.inf: (1e-1, 1e-2)}
    )
    data = FIGURES["6.3"].compute(KEY, 6)
    assert not wrong("6.3", data)
    fallen = data["x"].copy()
    fallen.loc[{"depth": 3.0}] = fallen.sel(depth=2.0)
    assert any("N = 3" in name for name in wrong("6.3", data.assign(x=fallen)))
    # What is seen is learnt, at every depth.
    mask = _blocks.seen()
    for case, values in _blocks.CASES.items():
        ends = data["x"].sel(case=case).values[data["at_rest"].sel(case=case).values == 1][:, mask]
        assert_close(ends, np.broadcast_to(_blocks.blocks(values)[mask], ends.shape), 1e-5)
    assert_draws("6.3", data)


def factors_at(layers, mask, labels, time):
    """The factors of a network of 4 x 4 matrices after a time, by SciPy."""
    chain = lambda factors: np.linalg.multi_dot([np.eye(4), *factors[::-1], np.eye(4)])

    def velocity(t, y):
        w = y.reshape(-1, 4, 4)
        gradient = np.where(mask, chain(w) - labels, 0.0)
        return -np.stack([chain(w[p + 1 :]).T @ gradient @ chain(w[:p]).T for p in range(len(w))]).ravel()

    return solve_ivp(velocity, (0.0, time), layers.ravel(), rtol=1e-10, atol=1e-12).y[:, -1].reshape(-1, 4, 4)


def test_a_block_does_not_meet_the_other_at_two_layers_and_does_at_three():
    """The columns of the first layer and the rows of the last are changed where the second block has them."""
    mask, labels = _blocks.seen(), _blocks.blocks(_blocks.CASES["ranks 2, 1"])
    draws, others = 0.5 * np.random.default_rng(1).normal(size=(2, 3, 4, 4))
    for layers, apart in ((2, True), (3, False)):
        changed = draws[:layers].copy()
        changed[0][:, 2:], changed[-1][2:] = others[0][:, 2:], others[1][2:]
        ends = [factors_at(start, mask, labels, 3.0) for start in (draws[:layers], changed)]
        first, second = (np.linalg.multi_dot([np.eye(4), *end[::-1], np.eye(4)])[:2, :2] for end in ends)
        off = np.abs(first - second).max()
        assert off < 1e-8 if apart else off > 1e-3


def test_cold_equilibrium_is_the_volume_of_the_metric_on_the_solutions():
    """By importance sampling, with the eigenvalues of the metric. det X = +-v^3 takes away what is singular at 0."""
    rng, tail, n = np.random.default_rng(0), 0.8, 100_000
    v, h = rng.random(n) ** (-1 / tail) - 1, rng.laplace(size=n)
    product = 1 - v**3 * rng.choice([-1, 1], n)
    root = np.sqrt(np.abs(product))
    entries = np.stack([root * np.exp(h), np.sign(product) * root * np.exp(-h)], axis=1)
    x = np.ones((n, 2, 2))
    x[:, 0, 1], x[:, 1, 0] = entries.T
    sigma = np.linalg.svd(x, compute_uv=False)
    eigenvalues = np.asarray(jax.vmap(lambda one: metric_eigenvalues(one, 3.0))(sigma))
    weight = eigenvalues.reshape(n, 4).prod(1) ** -0.5 * v**2 * (1 + v) ** (1 + tail) * np.exp(np.abs(h))
    average = lambda values: np.sum(weight * values) / np.sum(weight)
    cold = _equilibrium.cold(3.0)
    assert abs(average(rank_of(*sigma.T)) - cold.mean_rank()) < 0.01
    assert abs(average(np.linalg.det(x) < 0) - cold.weight[cold.second < 0].sum()) < 0.01
    tilt = np.abs(np.diff(np.abs(entries))[:, 0]) / np.abs(entries).sum(1)
    assert abs(average(tilt < 0.5) - cold.share_of_tilt_below(0.5)) < 0.01


def test_cold_equilibrium_is_the_limit_of_low_temperatures_and_tends_to_an_even_tilt_with_depth():
    held = 0.1
    for depth in (2.0, 5.0):
        low = Grid.at(depth, 100.0, False, held / 100).mean_rank()
        assert abs(low - _equilibrium.cold(depth, held).mean_rank()) < 3e-3
    deep = _equilibrium.cold(1000.0)
    assert abs(deep.mean_rank() - 1) < 2e-5
    assert abs(deep.share_of_tilt_below(0.3) - 0.3) < 0.01
    assert abs(np.sum(deep.weight * deep.first) / np.pi - 1) < 0.01


@pytest.mark.long
@pytest.mark.optimised
def test_noise_forgets_the_start_and_ends_between_small_and_large_ones(monkeypatch):
    monkeypatch.setattr(_equilibrium, "SIZES", (1e-3, 1e-1, 1.0))
    data = FIGURES["6.8"].compute(KEY, 50)
    assert not wrong("6.8", data)
    rows = FIGURES["6.8"].numbers(data)
    assert [row.quantity[-3:] for row in rows if row.expected == 0.5] == ["100"]
    assert not any(row.expected_error for row in rows if "of paths" in row.quantity)
    raised = {name for name in wrong("6.8", data.assign(rank=data["rank"] + 0.2)) if "of paths" in name}
    assert len(raised) == 2
    assert "effective rank of limits of the flow, size 0.001, N = 3" in wrong("6.8", data.isel(size=[2, 1, 2]))
    # Both ends of the flow are solutions.
    for name in ("x", "quenched"):
        assert_close(np.diagonal(data[name].values, axis1=-2, axis2=-1), 1.0, 1e-6)
    assert_draws("6.8", data)


def test_least_nuclear_norm_is_that_of_a_search_over_all_solutions():
    rng = np.random.default_rng(3)
    for m in (1, 2, 3):
        a, y = _norm_gap.orthonormal(rng.standard_normal((3, m, 2, 2))), rng.standard_normal((3, m))
        for measurements, values, least in zip(a, y, _norm_gap.least(a, y), strict=True):
            free = np.linalg.svd(measurements.reshape(m, 4))[2][m:]
            start = values @ measurements.reshape(m, 4)
            norm = lambda t, start=start, free=free: np.linalg.svd((start + t @ free).reshape(2, 2))[1].sum()
            options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000}
            best = min(
                minimize(norm, t, method="Nelder-Mead", options=options).fun for t in rng.normal(size=(4, 4 - m))
            )
            assert abs(least / best - 1) < 1e-5


def test_greedy_limit_of_three_entries_has_rank_one_and_not_the_least_norm():
    entries = np.array([0.1, 0.3, 0.5, 0.9])
    measurements = np.tile(np.eye(4)[:3].reshape(3, 2, 2), (4, 1, 1, 1))
    values = np.ones((4, 3))
    values[:, 0] = entries
    x, solved = _norm_gap.greedy_limit(measurements, values)
    least, ends = _norm_gap.least_of_family(entries)
    assert solved.all()
    np.testing.assert_allclose(_norm_gap.least(measurements, values), least, rtol=1e-6)
    np.testing.assert_allclose(_norm_gap.nuclear_norm(x), ends, rtol=1e-3)


@pytest.mark.long
def test_gap_in_nuclear_norm_grows_with_the_measurements(monkeypatch):
    for name, value in (("SEARCHES", 1), ("GENERATIONS", 3), ("FAMILY_STARTS", 7), ("POPULATION", 40)):
        monkeypatch.setattr(_norm_gap, name, value)
    data = FIGURES["6.6"].compute(KEY, 65)
    assert not wrong("6.6", data)
    assert {"m = 1: least ratio", "m = 2: least ratio"} <= wrong("6.6", data.assign(ratio=0.99 * data["ratio"]))
    assert len(wrong("6.6", data.assign(x=1.1 * data["x"]))) == 1
    assert (data["ratio"] > 1.1).sum("draw").diff("m").values.min() >= 0
    assert_draws("6.6", data)


def test_slopes_that_are_derived_are_those_of_closed_forms_and_of_large_matrices():
    assert_close(_slope_laws.slope_of(*_slope_laws.quarter_circle()), 0.8050, 5e-5)
    exact = (4 - 2 * 2**0.5) * np.exp(0.5**0.5 - 1)
    assert_close(_slope_laws.derived("orthogonal", 2.0), exact, 1e-8)
    assert_close(_slope_laws.slope_at_depth_two(np.array([1.0]), 1.0), exact, 1e-7)
    # At infinite depth an eigenvalue is y cot(t - y s) + i y.
    sigma, y = _slope_laws.orthogonal_law(np.inf), np.sin(_slope_laws.ANGLES)
    time: Any = brentq(lambda s: np.mean(y / np.tan(_slope_laws.ANGLES - s * y)) - 1, 0.01, 0.99)
    assert_close(sigma, y / np.sin(_slope_laws.ANGLES - time * y), 1e-7)
    # Large matrices in closed form: the rank over d has an error of the order 1/d.
    x0 = np.random.default_rng(0).standard_normal((3, 400, 400)) / 20
    for size, law in ((1.0, "Gaussian"), (1e-8, "small Gaussian")):
        rank = _slope.rank_of(_slope.singular_values(_two_by_two.limit_at_depth_two(size * x0)))
        assert abs(rank.mean() / 400 - _slope_laws.derived(law, 2.0)) < 4e-3


@pytest.mark.long
def test_slope_of_the_limit_is_the_derived_one_and_the_diagonal_may_be_averaged(monkeypatch):
    monkeypatch.setattr(_slope, "SIZES", (10, 20))
    monkeypatch.setattr(_slope, "LINEAR", 10)
    data = FIGURES["6.5"].compute(KEY, 24)
    assert not wrong("6.5", data)
    assert not any(row.expected_error for row in FIGURES["6.5"].numbers(data) if np.isfinite(row.expected))
    assert len(wrong("6.5", data.assign(end=1.2 * data["end"]))) >= 5
    # At N = 2 the flow ends at the closed form that stands for it.
    x0 = _slope.starts("Student", np.random.default_rng(0), 5, 10)
    sigma, rest = _slope.limits(MatrixCompletion.diagonal(10), x0, np.full(5, 2.0))
    assert rest.all()
    assert_close(sigma, _slope.singular_values(_two_by_two.limit_at_depth_two(x0)), 1e-3)
    # All laws have the same variance.
    for law in _slope.LAWS:
        assert abs(10 * _slope.starts(law, np.random.default_rng(1), 4000, 10).var() - 1) < 0.2
    assert_draws("6.5", data)


@pytest.mark.parametrize("depth", [2.0, 3.5, np.inf])
def test_free_energy_in_numpy_is_that_of_the_library(depth):
    rng = np.random.default_rng(0)
    labels, seen = rng.standard_normal((3, 3)), rng.random((3, 3)) < 0.5
    energy = FreeEnergy(MatrixCompletion(labels, seen, weight=1.0), 0.7, depth)
    f = lambda v: _free_energy_laws.free_energy(v.reshape(3, 3), labels, seen, depth, 0.7)
    x = rng.standard_normal((3, 3))
    value, slope = f(x.ravel())
    assert_close(value, energy(jnp.asarray(x)), 1e-11)
    assert_close(slope, energy.gradient(jnp.asarray(x)).ravel(), 1e-10)
    assert check_grad(lambda v: f(v)[0], lambda v: f(v)[1], x.ravel()) < 1e-5


@pytest.mark.parametrize("depth", [2.0, 3.0, np.inf])
@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
def test_equilibria_of_the_diagonal_are_saddles_of_the_derived_index(depth, beta):
    d, eye = 4, np.eye(4)
    f = lambda v: _free_energy_laws.free_energy(v.reshape(d, d), eye, eye == 1, depth, beta)
    for k in range(d + 1):
        a, b = _free_energy_laws.equilibrium(d, k, depth, beta)
        none = depth == 2 and k == 1 and beta > _free_energy_laws.last_beta_of_one_negative(d)
        assert none == bool(np.isnan([a, b]).all())
        if none:
            continue
        x = np.diag(np.repeat([a, -b], [d - k, k])).ravel()
        assert np.abs(f(x)[1]).max() < 1e-8
        # Differences of the gradient, with a step below the smallest singular value.
        step = 1e-3 * np.abs(x[x != 0]).min()
        hessian = np.array([(f(x + step * e)[1] - f(x - step * e)[1]) / (2 * step) for e in np.eye(d * d)])
        assert np.sum(np.linalg.eigvalsh((hessian + hessian.T) / 2) < 0) == d * (d - 1) // 2
    exact = (1 + np.sqrt(1 + (d - 1) * (1 - 1 / depth) / beta)) / 2
    assert_close(_free_energy_laws.equilibrium(d, 0, depth, beta)[0], exact, 1e-12)


def test_minimiser_of_three_entries_is_where_descent_returns_to():
    a, beta = 0.3, 100.0
    labels, seen = _free_energy_laws.three_entries(a)
    for depth in (10.0, np.inf):
        x = _free_energy_laws.minimiser(a, depth, beta, _free_energy_laws.best_solution(a, depth))
        f = lambda v, depth=depth: _free_energy_laws.free_energy(v.reshape(2, 2), labels, seen, depth, beta)
        for off in np.random.default_rng(0).uniform(-0.02, 0.02, (3, 4)):
            end = minimize(f, x.ravel() + off, jac=True, method="BFGS", options={"gtol": 1e-8})
            assert_close(end.x, x.ravel(), 1e-3)
    # Two layers have no such maximum, and no depth has one where X_11 is as large as the other two.
    assert np.isnan(_free_energy_laws.summit(a, 2.0)) and np.isnan(_free_energy_laws.summit(1.0, np.inf))


@pytest.mark.long
@pytest.mark.optimised
def test_free_energy_of_a_diagonal_has_saddles_alone_and_that_of_three_entries_a_minimiser(monkeypatch):
    monkeypatch.setattr(_free_energy, "SEARCHED", {2: (np.inf,), 3: (2.0, 3.0)})
    monkeypatch.setattr(_free_energy, "ENTRIES", np.array([0.05, 0.2]))
    data = FIGURES["6.4"].compute(KEY, 30)
    assert not wrong("6.4", data)
    assert len(wrong("6.4", data.assign(off=data["off"] + 1e-3))) == 3
    assert len(wrong("6.4", data.assign(index=data["index"] - 1))) == 3
    assert len(wrong("6.4", data.assign(rate=1.01 * data["rate"], scipy=1e-4 * data["scipy"]))) > 1
    # Each number of negative entries is found.
    assert np.unique(data["k"].values[data["found"].values == 1]).tolist() == [0, 1, 2, 3]
    assert_draws("6.4", data)
