"""The metric at a thin point, against square matrices that tend to it and against sums of its own definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE
from test_rectangular import factors_of, through_factors

import dlnjax as dln

M, N, R = 5, 4, 2
KERNELS = [1.0, 3.0, dln.Imbalanced(-0.7), dln.Imbalanced((0.5, -0.2))]


def draw(seed=0):
    rng = np.random.default_rng(seed)
    point = dln.svd(jnp.asarray(rng.normal(size=(M, N))), rank=R)
    return rng, point, *(jnp.asarray(rng.normal(size=(M, N))) for _ in range(2))


def tangent(point, z):
    u, v = point.u @ point.u.T, point.v @ point.v.T
    return z - (jnp.eye(M) - u) @ z @ (jnp.eye(N) - v)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_metric_is_that_of_the_factors(kernel):
    rng, point, p, q = draw()
    if kernel == 1.0:
        through = lambda p: tangent(point, p)
    else:
        weights = factors_of(np.asarray(point.matrix), int(kernel) if kernel == 3.0 else kernel, rng, rank=R)
        through = lambda p: jnp.asarray(through_factors(weights, np.asarray(p)))
    z = through(p)
    assert_close(dln.metric_operator(point, p, kernel), z, ALGEBRA)
    assert_close(dln.metric_operator_inverse(point, z, kernel), tangent(point, p), ALGEBRA)
    assert_close(dln.inner(point, z, through(q), kernel), jnp.sum(q * z), ALGEBRA)
    assert_close(dln.norm(point, z, kernel) ** 2, jnp.sum(p * z), ALGEBRA)
    assert_close(dln.hamiltonian(point, p, kernel), jnp.sum(p * z) / 2, ALGEBRA)
    energy = lambda x: jnp.sum((x - q) ** 2) / 2
    assert_close(dln.riemannian_gradient(energy, point, kernel), through(point.matrix - q), ALGEBRA)


def test_full_rank_is_the_metric_of_matrices():
    _, _, p, q = draw()
    x = jnp.asarray(q)
    assert_close(dln.inner(dln.svd(x), p, q, 3.0), dln.inner(x, p, q, 3.0), ALGEBRA)
    square = x[:N]
    assert_close(dln.norm(dln.svd(square), p[:N], jnp.inf), dln.norm(square, p[:N], jnp.inf), ALGEBRA)


@pytest.mark.parametrize("power", [-550, 500])
def test_length_of_a_vector_whose_square_leaves_the_range_of_the_floats(power):
    _, point, p, _ = draw()
    z = dln.metric_operator(point, p, 3.0)
    assert_close(dln.norm(point, z * 2.0**power, 3.0) / 2.0**power, dln.norm(point, z, 3.0), ALGEBRA)


def test_infinite_depth_is_the_metric_of_the_core_within_fixed_spaces():
    _, point, p, q = draw()
    z1, z2 = (point.u @ point.u.T @ z @ point.v @ point.v.T for z in (p, q))
    core, into = jnp.diag(point.sigma), lambda z: point.u.T @ z @ point.v
    assert_close(dln.inner(point, z1, z2, jnp.inf), dln.inner(core, into(z1), into(z2), jnp.inf), ALGEBRA)
    # The operator takes any covector to such a vector.
    assert_close(dln.metric_operator_inverse(point, dln.metric_operator(point, p, jnp.inf), jnp.inf), z1, ALGEBRA)
    with pytest.raises(ValueError, match=r"z turns the column space of x.*infinite depth"):
        dln.norm(point, tangent(point, p), jnp.inf)
    with pytest.raises(ValueError, match=r"z2 turns the row space"):
        dln.inner(point, z1, point.u @ point.u.T @ p, jnp.inf)


def test_derivatives_are_those_of_central_differences():
    _, point, p, _ = draw()
    at = lambda t: dln.SVD(point.u, jnp.ones(R) + t * jnp.array([0.5, -0.3]), point.v)
    f = lambda t: dln.norm(at(t), tangent(point, p), 3.0 + t) + dln.hamiltonian(at(t), p, 2.0 - t)
    h = 1e-5
    assert_close(jax.grad(f)(0.0), (f(h) - f(-h)) / (2 * h), FINITE_DIFFERENCE)
    assert jax.grad(lambda s: dln.norm(point, s * tangent(point, p), 2.0))(0.0) == 0


def test_what_leaves_the_matrices_of_rank_r_is_refused():
    _, point, p, _ = draw()
    for call in (dln.norm, dln.metric_operator_inverse):
        with pytest.raises(ValueError, match="z leaves the matrices of rank 2"):
            call(point, p, 2.0)
    with pytest.raises(RuntimeError, match="leaves the matrices"):
        jax.block_until_ready(jax.jit(lambda z: dln.norm(point, z, 2.0))(p))
    with pytest.raises(ValueError, match="p must have the shape of x"):
        dln.hamiltonian(point, p.T, 2.0)
    with pytest.raises(ValueError, match="sigma must be positive"):
        dln.boundary_distance(dln.SVD(point.u, jnp.array([1.0, 0.0]), point.v), 2.0)
    with pytest.raises(ValueError, match="rank must be at most 4"):
        dln.svd(p, rank=5)


def test_distance_to_lower_rank_is_that_of_the_least_value():
    _, point, _, _ = draw()
    assert_close(dln.boundary_distance(point, 3.0), 3 * point.sigma[-1] ** (1 / 3), ALGEBRA)
