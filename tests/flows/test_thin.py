"""Flows of matrices of any shape and rank, in thin frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import upstairs
from support.flows import ended
from support.tolerances import assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln

TS = [0.0, 0.5, 2.0, 8.0]
LABELS, WEIGHTS = np.random.default_rng(1).normal(size=(2, 24, 24))


def fit(m, n):
    """1/2 sum w (X - a)^2 and its gradient in NumPy."""
    a, w = LABELS[:m, :n], 0.5 + WEIGHTS[:m, :n] ** 2
    return (lambda x: jnp.sum(w * (x - a) ** 2) / 2), (lambda x: w * (x - a))


def point(m, n, r, seed=0):
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(k, r)))[0] for k in (m, n))
    return u, np.sort(rng.uniform(0.1, 1, r))[::-1].copy(), v


def as_svd(u, sigma, v):
    return dln.SVD(*map(jnp.asarray, (u, sigma, v)))


SHAPES = [(3, 5, 3), (5, 3, 3), (4, 4, 2), (6, 4, 2), (4, 6, 1), (7, 5, 5), (2, 9, 2), (9, 8, 3), (1, 4, 1), (5, 5, 5)]
SHORT = [(3, 5, 3), (6, 4, 2)]


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize(
    ("m", "n", "r"), [s if s in SHORT else pytest.param(*s, marks=pytest.mark.long) for s in SHAPES]
)
def test_flow_is_that_of_the_factors(m, n, r, depth):
    energy, gradient = fit(m, n)
    start = point(m, n, r)
    reference = upstairs.flow(gradient, upstairs.balanced(*start, depth), TS)
    sol = dln.gradient_flow(energy, as_svd(*start), depth=depth, ts=TS, rtol=1e-10)
    assert sol.x.shape == (4, m, n)
    assert_close(sol.x, reference, INTEGRATION)


IMBALANCED = [
    ((3, 5, 3), 0.7),
    ((6, 4, 2), -0.2),
    ((5, 3, 3), 0.7),
    ((4, 4, 4), 1.3),
    ((4, 5, 2), 30.0),
    ((7, 3, 3), 0.0),
    ((6, 4, 2), (0.5, 0.3)),
    ((4, 6, 2), (-0.5, 0.3)),
    ((5, 5, 5), (0.4, -0.3, 0.2)),
    ((4, 3, 2), (-1.0, -2.0, 0.5)),
]


@pytest.mark.parametrize(
    ("shape", "imbalance"),
    [pytest.param(*case, marks=() if k < 2 else pytest.mark.long) for k, case in enumerate(IMBALANCED)],
)
def test_flow_of_an_imbalanced_network_is_that_of_its_factors(shape, imbalance):
    energy, gradient = fit(*shape[:2])
    start = as_svd(*point(*shape))
    weights = [np.asarray(w) for w in dln.imbalanced_factors(start, imbalance)]
    for lower, upper, g in zip(weights[:-1], weights[1:], np.atleast_1d(imbalance), strict=True):
        assert_close(lower @ lower.T - upper.T @ upper, g * np.eye(len(lower)), INTEGRATION)
    reference = upstairs.flow(gradient, weights, TS)
    sol = dln.gradient_flow(energy, start, depth=dln.Imbalanced(imbalance), ts=TS, rtol=1e-10)
    assert_close(sol.x, reference, INTEGRATION)


@pytest.mark.long
@pytest.mark.parametrize("depth", [3, np.inf])
def test_values_that_nearly_meet_cross_in_thin_frames_too(depth):
    # With 16 values or more, two that are near are partners in a chart.
    m, n, r = 20, 24, 18
    energy, gradient = fit(m, n)
    u, _, v = point(m, n, r)
    start = u, np.linspace(1.0, 0.9, r), v
    sol = dln.gradient_flow(energy, as_svd(*start), depth=depth, ts=[0.0, 0.3, 1.0], rtol=1e-9)
    if depth == np.inf:
        inside = dln.gradient_flow(lambda s: energy(u @ s @ v.T), jnp.diag(start[1]), ts=[0.0, 0.3, 1.0], rtol=1e-9)
        reference = u @ np.asarray(inside.x) @ v.T
    else:
        reference = upstairs.flow(gradient, upstairs.balanced(*start, depth), [0.0, 0.3, 1.0])
    assert_close(sol.x, reference, INTEGRATION)


# In a deep network the smallest float would not stand for 0: its power 2/N is .24 at N = 1000.
@pytest.mark.parametrize("depth", [3, 1000])
def test_zeros_around_a_matrix_change_nothing(depth):
    m, n, r = 3, 5, 3
    energy, _ = fit(m, n)
    u, sigma, v = point(m, n, r)
    x0 = np.zeros((5, 5))
    x0[:m, :n] = (u * sigma) @ v.T
    thin = dln.gradient_flow(energy, jnp.asarray(x0[:m, :n]), depth=depth, ts=TS, rtol=1e-10)
    padded = dln.gradient_flow(lambda x: energy(x[:m, :n]), jnp.asarray(x0), depth=depth, ts=TS, rtol=1e-10)
    assert_close(padded.x[:, :m, :n], thin.x, INTEGRATION)


def test_transpose_flows_as_the_matrix_does():
    energy, _ = fit(3, 5)
    start = as_svd(*point(3, 5, 3))
    there = dln.gradient_flow(energy, start, depth=3, ts=TS, rtol=1e-10)
    back = dln.SVD(start.v, start.sigma, start.u)
    other = dln.gradient_flow(lambda x: energy(x.T), back, depth=3, ts=TS, rtol=1e-10)
    assert_close(jnp.swapaxes(other.x, 1, 2), there.x, INTEGRATION)


def test_spaces_never_turn_at_infinite_depth():
    energy, _ = fit(6, 4)
    u, sigma, v = point(6, 4, 2)
    sol = dln.gradient_flow(energy, as_svd(u, sigma, v), ts=TS, rtol=1e-10)
    inside = dln.gradient_flow(lambda s: energy(u @ s @ v.T), jnp.diag(sigma), ts=TS, rtol=1e-10)
    assert_close(sol.x, u @ np.asarray(inside.x) @ v.T, INTEGRATION)


def test_one_layer_of_full_rank_is_the_euclidean_flow():
    energy, _ = fit(3, 5)
    a, w = LABELS[:3, :5], 0.5 + WEIGHTS[:3, :5] ** 2
    u, sigma, v = point(3, 5, 3)
    x0 = (u * sigma) @ v.T
    exact = a + np.exp(-w * np.array(TS)[:, None, None]) * (x0 - a)
    for coordinates in ("svd", "matrix"):
        sol = dln.gradient_flow(energy, jnp.asarray(x0), depth=1, ts=TS, rtol=1e-10, coordinates=coordinates)
        assert_close(sol.x, exact, INTEGRATION)


@pytest.mark.long
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("shape", [(4, 6), (5, 5)])
def test_values_that_vanish_in_one_layer_do_not_end_the_steps(shape, equal):
    u, _, v = point(*shape, min(shape))
    # Where all values are equal at the start, two of them stay equal to rounding.
    x0, end = (
        jnp.asarray(u @ v.T / 100 if equal else LABELS[: shape[0], : shape[1]]),
        u * (np.arange(len(v.T)) > 1) @ v.T,
    )
    sol = dln.gradient_flow(
        lambda x: jnp.sum((x - end) ** 2) / 2, x0, depth=1, ts=[0.0, 3.0, 30.0], rtol=1e-10, max_steps=20_000
    )
    # Two singular values become exp(-30), which is below the tolerance.
    assert sol.stats["evaluations"] < 20_000
    assert_close(sol.x, end + np.exp(-np.array([0.0, 3.0, 30.0]))[:, None, None] * (x0 - end), INTEGRATION)


def test_start_of_rank_r_is_the_limit_of_full_rank():
    energy, _ = fit(6, 4)
    u, sigma, v = point(6, 4, 4)
    sigma = np.array([0.9, 0.4, 0.0, 0.0])
    thin = dln.gradient_flow(energy, as_svd(u[:, :2], sigma[:2], v[:, :2]), depth=3, ts=[0.0, 2.0], rtol=1e-10)
    near = dln.gradient_flow(energy, as_svd(u, np.maximum(sigma, 1e-12), v), depth=3, ts=[0.0, 2.0], rtol=1e-10)
    exact = dln.gradient_flow(energy, as_svd(u, sigma, v), depth=3, ts=[0.0, 2.0], rtol=1e-10)
    assert_close(exact.x, thin.x, INTEGRATION)
    # At three layers lambda(s, t) is of the order s^(2/3) in the smaller value.
    assert float(jnp.max(jnp.abs(near.x - thin.x))) < 10 * 1e-12 ** (2 / 3)


@pytest.mark.long
def test_rest_is_where_no_direction_of_that_rank_goes_down():
    energy, gradient = fit(6, 4)
    sol = dln.gradient_flow(energy, as_svd(*point(6, 4, 2)), depth=3, ts=[0.0, 1e4], stop=dln.Steady(1e-8))
    assert sol.result == "steady"
    u, v = np.asarray(sol.final.u), np.asarray(sol.final.v)
    slope = gradient(np.asarray(sol.final.matrix))
    assert np.linalg.norm(slope) > 0.1  # of full rank it would go on
    tangent = slope - (np.eye(6) - u @ u.T) @ slope @ (np.eye(4) - v @ v.T)
    assert np.linalg.norm(tangent) < 1e-8


@pytest.mark.parametrize("power", [-500, 500])
def test_unit_of_a_thin_matrix_does_not_matter(power):
    start, labels = as_svd(*point(6, 4, 2)), jnp.asarray(LABELS[:6, :4])

    def flow(unit):
        x0 = dln.SVD(start.u, unit * start.sigma, start.v)
        return dln.gradient_flow(lambda x: jnp.sum((x / unit - labels) ** 2) / 2, x0, ts=TS, rtol=1e-10)

    unit = 2.0**power
    assert_close(flow(unit).x / unit, flow(1.0).x, INTEGRATION)


@pytest.mark.long
def test_batch_of_thin_starts_is_the_loop():
    energy, _ = fit(6, 4)
    starts = [as_svd(*point(6, 4, 2, seed)) for seed in range(2)]
    flow = lambda start: dln.gradient_flow(
        energy, start, depth=3, ts=TS, observe=lambda p: p.u[0] @ p.v[0], throw=False
    )
    many = jax.vmap(flow)(jax.tree.map(lambda *x: jnp.stack(x), *starts))
    for k, start in enumerate(starts):
        one = flow(start)
        assert_close(many.observed[k], one.observed, INTEGRATION)
        assert_close(many.final.matrix[k], one.final.matrix, INTEGRATION)


def motions(u, sigma, v, seed=3):
    """A curve of points of that rank through the given one."""
    rng = np.random.default_rng(seed)
    du, ds, dv = (rng.normal(size=x.shape) for x in (u, sigma, v))

    def at(e):
        qu, ru = jnp.linalg.qr(u + e * du)
        qv, rv = jnp.linalg.qr(v + e * dv)
        inner = dln.svd(ru @ jnp.diag(sigma + e * ds) @ rv.T)
        return dln.SVD(qu @ inner.u, inner.sigma, qv @ inner.v)

    return at


@pytest.mark.long
@pytest.mark.parametrize(("m", "n", "r", "equal"), [(5, 3, 3, True), (6, 4, 2, False)])
def test_derivatives_are_those_of_the_flow_on_the_matrices_of_that_rank(m, n, r, equal):
    energy, _ = fit(m, n)
    u, sigma, v = point(m, n, r)
    sigma[0] = sigma[1] if equal else sigma[0]
    at = motions(u, sigma, v)
    pick = np.random.default_rng(4).normal(size=(3, m, n))

    def f(e, depth, shift, late):
        start = at(e)
        ts = jnp.array([0.0, 0.7 + late, 2.0 + 2 * late])
        # Of full rank the matrix itself is a start.
        start = start.matrix if r == min(m, n) else start
        sol = dln.gradient_flow(lambda x: energy(x - shift), start, depth=depth, ts=ts, rtol=1e-11)
        return jnp.sum(pick * sol.x) + jnp.sum(sol.energy) + jnp.sum(sol.sigma**2)

    here, along, h = np.array([0.0, 2.5, 0.0, 0.0]), np.array([1.0, 0.7, -0.4, 0.3]), 1e-5
    forward = jax.jvp(f, tuple(here), tuple(along))[1]
    assert_close(np.array(jax.grad(f, (0, 1, 2, 3))(*here)) @ along, forward, INTEGRATION)
    assert_close(forward, (f(*(here + h * along)) - f(*(here - h * along))) / (2 * h), FINITE_DIFFERENCE)


def test_what_is_saved_says_its_shape(tmp_path):
    energy, _ = fit(6, 4)
    sol = dln.gradient_flow(energy, as_svd(*point(6, 4, 2)), depth=3, ts=TS)
    assert "6 x 4, rank 2" in repr(sol)
    assert dict(sol.to_xarray().sizes) == {"time": 4, "mode": 2, "row": 6, "column": 4}
    sol.save(tmp_path / "thin.nc")
    assert_close(dln.load(tmp_path / "thin.nc").x, sol.x, 0.0)
    assert ended(sol)
