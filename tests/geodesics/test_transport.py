"""Parallel transport along geodesics, and the distance to the matrices of lower rank."""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from support.kernels import AsBalanced
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln

DEPTHS = [1.0, 2.0, 3.0, np.inf]
A, B = jnp.array([[2.0, 0.3], [-0.2, 0.7]]), jnp.array([[1.5, -0.4], [0.6, 1.2]])
Z, W = jnp.array([[0.3, -1.1], [0.8, 0.5]]), jnp.array([[-0.7, 0.2], [0.4, 1.3]])

TURN = jnp.array([[0.8, -0.6], [0.6, 0.8]])


@pytest.fixture(scope="module", params=DEPTHS)
def line(request):
    return dln.geodesic(A, B, request.param)


@pytest.mark.long
@pytest.mark.parametrize("depth", DEPTHS)
def test_along_diagonal_geodesics_entries_scale_by_the_root_of_lambda(depth):
    start, end = jnp.array([2.0, 0.7]), jnp.array([1.0, 3.0])
    moved = dln.transport(dln.geodesic(jnp.diag(start), jnp.diag(end), depth), Z)
    eigenvalues = lambda s: np.asarray(dln.Balanced(depth).eigenvalues(s))
    assert_close(moved, Z * np.sqrt(eigenvalues(end) / eigenvalues(start)), INTEGRATION)


@pytest.mark.parametrize("depth", [3.0, np.inf])
def test_near_singular_matrices_keeps_its_digits(depth):
    start, end = np.array([2.0, 1e-4]), np.array([1.0, 2e-3] if depth == 3 else [1.0, 3e-9])
    line = dln.geodesic(jnp.diag(jnp.asarray(start)), jnp.diag(jnp.asarray(end)), depth)
    eigenvalues = lambda s: np.asarray(dln.Balanced(depth).eigenvalues(jnp.asarray(s)))
    # Relative to each entry, of which the least is a small part of the largest.
    assert_close(
        dln.transport(line, Z) / (Z * np.sqrt(eigenvalues(end) / eigenvalues(start))), np.ones((2, 2)), ALGEBRA
    )
    a, b = TURN @ np.diag(start) @ TURN, TURN.T @ np.diag(1.5 * start) @ TURN
    line = dln.geodesic(a, b, depth)
    assert_close(dln.norm(b, dln.transport(line, Z), depth) / dln.norm(a, Z, depth), 1.0, INTEGRATION)
    moved, expected = dln.transport(line, dln.metric_operator(a, line.momentum, depth)), line.end_momentum
    off = moved - dln.metric_operator(b, expected, depth)
    assert dln.norm(b, off, depth) < 1e-10 * line.length


def test_times_that_are_not_reached_are_nan():
    lost = eqx.tree_at(lambda line: line.momentum, dln.geodesic(A, B, 3.0), jnp.array([[-30.0, 1.0], [0.0, 0.5]]))
    end = dln.exponential(A, lost.momentum, 3.0, throw=False).t_end
    assert 0.01 < end < 0.5
    z = dln.transport(lost, Z, [1.0, 0.01, 0.5])
    assert jnp.all(jnp.isnan(z[0])) and jnp.all(jnp.isfinite(z[1])) and jnp.all(jnp.isnan(z[2]))


@pytest.mark.long
def test_keeps_lengths_and_angles_and_carries_the_velocity(line):
    times = np.array([1.0, 0.3, 0.0, 0.7])
    x, z, w = line.evaluate(times), dln.transport(line, Z, times), dln.transport(line, W, times)
    inner = lambda x, z, w: dln.inner(x, z, w, line.depth)
    assert_close(jax.vmap(inner)(x, z, w), np.full(4, inner(A, Z, W)), INTEGRATION)
    assert_close(jax.vmap(inner)(x, z, z), np.full(4, inner(A, Z, Z)), INTEGRATION)
    assert_close(z[2], Z, ALGEBRA)
    assert_close(z[0], dln.transport(line, Z), INTEGRATION)
    velocity = lambda x, p: dln.metric_operator(x, p, line.depth)
    assert_close(dln.transport(line, velocity(A, line.momentum)), velocity(B, line.end_momentum), INTEGRATION)


@pytest.mark.long
@pytest.mark.parametrize("depth", [2.0, np.inf])
def test_holonomy_of_a_small_triangle_is_the_curvature(depth):
    a, b, size = Z, W, 0.02

    def around(size):
        corners = [A, *(dln.exponential(A, size * p, depth).x[-1] for p in momenta), A]
        z = X
        for start, end in pairwise(corners):
            z = dln.transport(dln.geodesic(start, end, depth), z)
        return z

    X = jnp.array([[0.4, 0.9], [-0.6, 1.0]])
    momenta = [dln.metric_operator_inverse(A, v, depth) for v in (a, b)]
    # From A along a, across, and back along b. Terms of the third order have opposite signs in the two triangles.
    found = (around(size) + around(-size) - 2 * X) / (2 * size**2)
    expected = -dln.curvature(A, a, b, X, depth) / 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3 * float(jnp.abs(expected).max()))


@pytest.mark.long
@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_any_scale(scale):
    lines = [dln.geodesic(s * A, s * B, 3.0) for s in (1.0, scale)]
    one, scaled = (dln.transport(line, Z) for line in lines)
    assert_close(scaled, one, INTEGRATION)
    assert_close(dln.transport(lines[0], scale * Z) / scale, one, INTEGRATION)


@pytest.mark.long
def test_many_lines_at_once_are_the_loop():
    ends = jnp.stack([B, B.T])
    lines = jax.vmap(lambda b: dln.geodesic(A, b, 3.0))(ends)
    many = dln.transport(lines, jnp.stack([Z, W]), [0.5, 1.0])
    each = [dln.transport(dln.geodesic(A, b, 3.0), z, [0.5, 1.0]) for b, z in zip(ends, (Z, W), strict=True)]
    assert_close(many, jnp.stack(each), INTEGRATION)


def test_boundary_is_as_far_as_the_least_singular_value():
    x = jnp.diag(jnp.array([2.0, 0.25, 3.0]))
    for depth, expected in ((1.0, 0.25), (2.0, 1.0), (4.0, 4 * 0.25**0.25), (1e6, 1e6 * 0.25**1e-6), (np.inf, np.inf)):
        assert_close(dln.boundary_distance(x, depth), expected, ALGEBRA)
    assert_close(dln.boundary_distance(x[:, 1:], 2.0), 1.0, ALGEBRA)
    for scale in (1e-150, 1e150):
        assert_close(dln.boundary_distance(scale * x, 3.0), 3 * (0.25 * scale) ** (1 / 3), ALGEBRA)
    assert_close(jax.grad(dln.boundary_distance)(x, 2.0)[1, 1], 2.0, ALGEBRA)
    assert bool(jnp.all(jnp.isfinite(jax.grad(dln.boundary_distance)(x, jnp.inf))))


@pytest.mark.long
def test_boundary_of_an_imbalanced_network_by_quadrature():
    kernel = dln.Imbalanced(0.7)
    speed = lambda s: float(dln.metric_eigenvalues(jnp.array([s]), kernel)[0, 0])
    expected = quad(lambda s: 1 / np.sqrt(speed(s)), 0, 0.4, epsabs=1e-12, epsrel=1e-12)[0]
    assert_close(dln.boundary_distance(jnp.diag(jnp.array([2.0, 0.4])), kernel), expected, INTEGRATION)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_boundary_of_a_deep_network_is_as_far_in_every_class_of_kernel(dtype):
    # In 200 layers the part of the integral below the smallest number is a thirtieth of it, or a half in float32.
    x, n = jnp.eye(2, dtype=dtype), jnp.asarray(200.0, dtype)
    tolerance = 1e-4 if dtype == jnp.float32 else 1e-8
    assert_close(dln.boundary_distance(x, AsBalanced(dln.Balanced(n))), 200.0, tolerance)
    # One layer is apart by 1: the integral of sqrt(N sum_p b^2/(b^2 + c_p)) over b from 0 to prod_p (b^2 + c_p) = 1.
    lazy = dln.Imbalanced((1.0,) + (0.0,) * 200)
    b = brentq(lambda b: 402 * np.log(b) + np.log(b * b + 1), 0.5, 1.0, xtol=1e-15)
    expected = quad(lambda b: np.sqrt(202 * (201 + b * b / (b * b + 1))), 0, b)[0]
    assert_close(dln.boundary_distance(x, lazy), expected, tolerance)


def test_boundary_of_a_singular_matrix_is_refused():
    with pytest.raises(ValueError, match="x must have full rank"):
        dln.boundary_distance(jnp.diag(jnp.array([1.0, 0.0])), 2.0)


@pytest.mark.long
def test_vectors_and_times_that_do_not_fit_are_refused(line):
    for z, t, words in (
        (jnp.eye(3), 1.0, r"z must be a tangent vector at line\.a, of the shape \(2, 2\), got \(3, 3\)"),
        (Z.at[0, 0].set(jnp.nan), 1.0, "z must be finite"),
        (Z, [0.5, 1.5], r"t must lie in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=words):
            dln.transport(line, z, t)
    lost = eqx.tree_at(lambda line: line.result, line, dln.RESULTS.rank_lost)
    with pytest.raises(ValueError, match="line did not arrive"):
        dln.transport(lost, Z)


@pytest.mark.parametrize("start", [1.3 * jnp.eye(2), A], ids=["repeated", "apart"])
def test_has_its_derivative_in_the_ends_the_depth_and_the_times(start):
    def at(s):
        line = dln.geodesic(start + s * Z, B + s * W, 3.0 + s)
        return dln.transport(line, W + s * Z, jnp.array([0.4 + 0.1 * s, 1.0]))

    slope, h = jax.jit(lambda s: jax.jvp(at, (s,), (jnp.ones_like(s),))[1])(0.0), 1e-4
    assert_close(slope, (at(h) - at(-h)) / (2 * h), 1e-6)
