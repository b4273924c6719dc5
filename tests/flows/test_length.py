"""The length of the path of a flow: against SciPy, against the speed of the flow, geodesics, and exact lengths."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import cumulative_simpson, solve_ivp
from support.flows import scipy_operator
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln
from dlnjax._flows.length import COARSE, path_lengths
from dlnjax._geometry.depth import as_kernel
from dlnjax._geometry.operator import operator_at
from dlnjax._svd import SVD, svd

ENERGY = dln.MatrixCompletion.diagonal(3)
X0 = jnp.array([[0.11, 0.05, -0.02], [-0.03, 0.08, 0.06], [0.04, -0.07, 0.02]])
TIMES = np.append(0.0, np.geomspace(1e-3, 100.0, 2000))
DEPTHS = [1.0, 2.0, 3.0, 10.0, np.inf]


def length(point, depth):
    """The lengths of one path, whose states are given."""
    return path_lengths(point, as_kernel(depth, point.sigma.dtype))


def by_speed(sol, energy):
    """The length from the saved states by -dE/dt = <dE, A(dE)>, the squared speed, and Simpson's rule."""

    @jax.jit
    @jax.vmap
    def speed(point):
        slope = jax.grad(energy)(point.matrix)
        return jnp.sqrt(jnp.sum(slope * operator_at(point, slope, sol.depth)))

    return cumulative_simpson(np.asarray(speed(sol.svd)), x=np.asarray(sol.ts), initial=0)


@pytest.fixture(scope="module")
def flows():
    """The flow at each depth."""
    flow = lambda depth: dln.gradient_flow(ENERGY, X0, depth=depth, ts=TIMES, rtol=1e-10)
    return jax.vmap(flow)(jnp.asarray(DEPTHS))


def test_flows_against_scipy(flows):
    gradient = jax.jit(jax.grad(ENERGY))
    lengths = flows.path_length
    assert lengths.shape == (len(DEPTHS), len(TIMES))
    for k, depth in enumerate(DEPTHS):

        def velocity(t, y, depth=depth):
            x = y[:-1].reshape(3, 3)
            slope = np.asarray(gradient(x))
            move = scipy_operator(x, slope, depth)
            return np.append(-move.ravel(), np.sqrt(np.sum(slope * move)))

        at = [0.3, 3.0, 100.0]
        out = solve_ivp(velocity, (0, 100), np.append(X0, 0.0), "DOP853", at, rtol=1e-10, atol=1e-12)
        assert_close(np.interp(at, TIMES, lengths[k]), out.y[-1], FINITE_DIFFERENCE)


def test_vmap_equals_the_loop(flows):
    each = [flow.path_length for flow in flows]
    assert_close(flows.path_length, each, ALGEBRA)
    assert_close(jax.vmap(lambda flow: flow.path_length)(flows), each, ALGEBRA)


@pytest.mark.long
def test_fewer_times_are_extrapolated_or_refused(flows):
    exact = flows.path_length[:, -1]
    refused = 0
    for every in (5, 20, 80, 400):
        some = jax.tree.map(lambda x, every=every: x[:, ::every], flows.svd)
        for k, depth in enumerate(DEPTHS):
            here = length(jax.tree.map(lambda x, k=k: x[k], some), depth)[-1]
            refused += bool(jnp.isnan(here))
            if every == 5:
                assert abs(here / exact[k] - 1) < 2e-4
            if not jnp.isnan(here):
                assert abs(here / exact[k] - 1) < COARSE
    assert 2 < refused < 12


def test_what_came_before_a_coarse_part_is_kept():
    turn = lambda angle: jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    fine = jax.vmap(turn)(jnp.append(jnp.linspace(0.0, 1.5, 31), jnp.array([1.6, 2.6, 2.7])))
    lengths = length(svd(fine), 2.0)
    assert_close(lengths[:31], np.sqrt(2) * np.linspace(0, 1.5, 31), FINITE_DIFFERENCE)
    assert jnp.all(jnp.isnan(lengths[32:]))


@pytest.mark.parametrize("depth", [*DEPTHS, 1e6])
def test_one_mode_moves_as_its_coordinate(depth):
    # On the diagonal one value moves, and passes the other two.
    kernel = dln.Balanced(depth)
    low, high = kernel.straighten(jnp.array([0.2, 3.0]))
    y = jnp.linspace(low, high, 9)
    sigma = jnp.stack([kernel.unstraighten(y), jnp.full(9, 1.0), jnp.full(9, 2.0)], axis=1)
    points = svd(jax.vmap(jnp.diag)(sigma))
    for scale in (1e-150, 1.0, 1e150):
        scaled = SVD(points.u, scale * points.sigma, points.v)
        size = scale ** (1 / depth)
        assert_close(length(scaled, depth) / size, y - y[0], 1e-9 if depth == 1e6 else ALGEBRA)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_turn_of_isotropic_matrices(depth):
    # They are a cone, of which a turn is an arc: docs/ideas/geodesics.md.
    angle = np.linspace(0, 3.0, 101)
    turn = jnp.moveaxis(jnp.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]), -1, 0)
    for r in (1e-100, 0.3, 1e100):
        size = r ** (1 / depth)
        assert_close(length(svd(r * turn), depth) / size, np.sqrt(2) * angle, FINITE_DIFFERENCE)


@pytest.mark.parametrize("kernel", [1.0, dln.Imbalanced(0.7), dln.Imbalanced((0.5, -0.3))])
def test_paths_cross_singular_matrices(kernel):
    # From 0.4 to -0.6 a value passes 0, where the frame jumps.
    x = jax.vmap(jnp.diag)(jnp.stack([jnp.linspace(0.4, -0.6, 12), jnp.ones(12)], axis=1))
    left, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((2, 2)))
    ends = jnp.array([0.4, 0.6])
    expected = jnp.sum(ends if kernel == 1.0 else kernel.straighten(ends))
    assert_close(length(svd(jnp.asarray(left) @ x), kernel)[-1], expected, INTEGRATION)


@pytest.mark.long
@pytest.mark.parametrize("depth", [2.0, np.inf])
def test_a_geodesic_is_as_long_as_the_distance(depth):
    a, b = jnp.eye(3) + 0.3 * X0, jnp.diag(jnp.array([3.0, 1.0, 0.2])) + 2 * X0
    line = dln.geodesic(a, b, depth)
    states = jax.vmap(line.evaluate)(jnp.linspace(0.0, 1.0, 200))
    assert_close(length(svd(states), depth)[-1], line.length, FINITE_DIFFERENCE)


def test_neither_signs_nor_the_order_of_the_frame_matter(flows):
    rng = np.random.default_rng(1)
    point = jax.tree.map(lambda x: np.array(x[2]), flows.svd)
    order = np.argsort(rng.random(point.sigma.shape), axis=1)
    sign = rng.choice([-1.0, 1.0], point.sigma.shape)[:, None, :]
    pick = lambda x: jnp.asarray(np.take_along_axis(x, order[:, None, :], 2) * sign)
    other = SVD(pick(point.u), jnp.asarray(np.take_along_axis(point.sigma, order, 1)), pick(point.v))
    assert_close(length(other, 3.0), length(point, 3.0), INTEGRATION)


SHAPES = {
    "tall": ((5, 3), 3, 3.0),
    "wide": ((3, 5), 3, 2.0),
    "thin": ((6, 7), 2, 3.0),
    "thin of large depth": ((6, 7), 2, 1e6),
    "thin at infinite depth": ((6, 7), 2, jnp.inf),
    "two layers": ((4, 4), 4, dln.Imbalanced(0.5)),
    "two layers, thin": ((6, 7), 2, dln.Imbalanced(-0.5)),
    "three layers": ((3, 3), 3, dln.Imbalanced((0.3, 0.2))),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) for name in SHAPES])
def test_any_shape_and_kernel_against_the_speed(name, key):
    shape, r, kernel = SHAPES[name]
    target, start = (jax.random.normal(k, shape) for k in jax.random.split(key))
    energy = lambda x: jnp.sum((x - target) ** 2) / 2
    point = svd(0.3 * start)
    point = SVD(point.u[:, :r], point.sigma[:r], point.v[:, :r])
    sol = dln.gradient_flow(energy, point, depth=kernel, ts=jnp.linspace(0.0, 3.0, 601), rtol=1e-10)
    expected = by_speed(sol, energy)
    assert expected[-1] > 0.5
    assert_close(sol.path_length, expected, FINITE_DIFFERENCE)


def test_a_value_that_is_zero_stays(key):
    target = jax.random.normal(key, (3, 3))
    energy = lambda x: jnp.sum((x - target) ** 2) / 2
    x0 = jnp.array([[1.0, 0.2, 0.0], [0.1, 0.7, 0.0], [0.0, 0.0, 0.0]])
    for depth in (2.0, jnp.inf):
        sol = dln.gradient_flow(energy, x0, depth=depth, ts=jnp.linspace(0.0, 2.0, 401), rtol=1e-10)
        assert_close(sol.path_length, by_speed(sol, energy), FINITE_DIFFERENCE)


@pytest.mark.long
def test_a_sweep_has_one_length_for_each_seed():
    starts = jnp.stack([X0, jnp.full((3, 3), jnp.nan), X0.T, 2 * X0])
    depth = jnp.array([2.0, 2.0, 3.0, jnp.inf])
    ts = jnp.append(0.0, jnp.geomspace(0.01, 50.0, 250))
    sol = dln.sweep(ENERGY, starts, depth=depth, ts=ts, stop=dln.Steady(1e-3), progress=False)
    lengths = sol.path_length
    assert lengths.shape == (4, 251)
    one = dln.sweep(ENERGY, starts[:1], depth=2, ts=ts, stop=dln.Steady(1e-3), progress=False)
    assert_close(one.path_length[0], lengths[0], INTEGRATION)
    assert jnp.all(jnp.isnan(lengths[1, 1:])) and jnp.all(jnp.isfinite(lengths[jnp.array([0, 2, 3])]))
    for k in (0, 2, 3):
        assert_close(sol[k].path_length, lengths[k], ALGEBRA)
        # After the stop the path does not grow.
        after = ts > sol.t_end[k]
        assert jnp.any(after) and jnp.unique(lengths[k][after]).size == 1


@pytest.mark.long
def test_derivative_against_central_differences():
    ts = jnp.linspace(0.0, 2.0, 41)
    point = lambda s: dln.gradient_flow(ENERGY, s * (X0 + jnp.eye(3)), depth=s + 1, ts=ts, rtol=1e-10).path_length[-1]
    h = 1e-4
    expected = (point(1.0 + h) - point(1.0 - h)) / (2 * h)
    assert_close(jax.grad(point)(1.0), expected, FINITE_DIFFERENCE)


def test_a_flow_at_rest_has_the_length_0():
    sol = dln.gradient_flow(lambda x: 0.0 * jnp.sum(x), X0, depth=2, ts=jnp.linspace(0.0, 1.0, 6))
    assert_close(sol.path_length, jnp.zeros(6), ALGEBRA)


@pytest.mark.long
def test_what_has_no_length_says_why():
    ts = jnp.linspace(0.0, 0.1, 6)
    noisy = dln.gradient_flow(None, X0, depth=1, ts=ts, noise=dln.Noise(jax.random.key(0), 1.0, 0.01))
    with pytest.raises(ValueError, match="Brownian motion is infinite"):
        _ = noisy.path_length
    observed = dln.gradient_flow(ENERGY, X0, depth=2, ts=ts, observe=lambda point: point.sigma[0])
    with pytest.raises(AttributeError, match="because observe was given"):
        _ = observed.path_length
    with pytest.raises(ValueError, match="at least 5 saved times, got 2"):
        _ = dln.gradient_flow(ENERGY, X0, depth=2, ts=[0.0, 1.0]).path_length


MANY = """
import jax, jax.numpy as jnp, dlnjax as dln
jax.config.update("jax_enable_x64", True)
of_key = lambda key: dln.svd(jax.random.normal(key, (3, 3)))
points = jax.vmap(jax.vmap(of_key))(jax.random.split(jax.random.key(0), (36, 801)))
from dlnjax._flows.length import path_lengths
for _ in range(10):
    jax.block_until_ready(path_lengths(points, dln.Balanced(2)))
"""


@pytest.mark.long
def test_many_long_paths_are_measured_to_the_end():
    # With two batches of decompositions in one program, this one hung on two cores.
    subprocess.run([sys.executable, "-c", MANY], check=True, timeout=200)
