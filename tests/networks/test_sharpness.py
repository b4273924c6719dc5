"""The sharpness and the tangent kernel of the end-to-end map, against dense matrices and the metric."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln

WIDTHS = [(3, 2), (2, 4, 3), (3, 1, 2), (4, 5, 6, 3)]


def drawn(key, widths):
    keys = jax.random.split(key, len(widths) - 1)
    return tuple(jax.random.normal(k, (m, n)) for k, (n, m) in zip(keys, itertools.pairwise(widths), strict=True))


def distance_to(target):
    return lambda x: jnp.sum((x - target) ** 2) / 2


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_sharpness_at_a_balanced_minimum_is_that_of_the_metric(depth, key):
    target = jax.random.normal(key, (3, 4))
    sigma = np.linalg.svd(target, compute_uv=False)
    found = dln.sharpness(dln.balanced_factors(target, depth), distance_to(target))
    assert_close(found, depth * sigma[0] ** (2 - 2 / depth), 100 * ALGEBRA)


# The last has 68 weights, more than the basis has vectors.
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_sharpness_anywhere_is_the_largest_eigenvalue_of_the_hessian(widths, key):
    weights, energy = drawn(key, widths), lambda x: jnp.sum(jnp.sin(x)) + jnp.sum(x**2) ** 2 / 50
    flat, unravel = ravel_pytree(weights)
    hessian = jax.hessian(lambda y: energy(dln.product(unravel(y))))(flat)
    expected = np.linalg.eigvalsh(hessian)
    assert_close(dln.sharpness(weights, energy), expected[-1], 100 * ALGEBRA)
    # The largest, and not the largest in size.
    assert_close(dln.sharpness(weights, lambda x: -energy(x)), -expected[0], 100 * ALGEBRA)


@pytest.mark.long
def test_sharpness_of_every_kind_of_hessian():
    eye = jnp.stack([jnp.eye(2), jnp.eye(2)])
    assert dln.sharpness(eye, lambda x: 0.0 * jnp.sum(x)) == 0
    # A multiple of the identity is an invariant space of each vector.
    assert_close(dln.sharpness(eye[:1], lambda x: -3 * jnp.sum(x**2)), -6.0, ALGEBRA)
    for k in (-500, 500):
        assert_close(dln.sharpness(eye, lambda x, k=k: 2.0**k * jnp.sum(x**2)) / 2.0**k, 6.0, 100 * ALGEBRA)


@pytest.mark.long
def test_many_networks_and_derivatives_of_the_sharpness(key):
    energy = lambda x: jnp.sum((x - 1) ** 2) + jnp.sum(x**4)
    f = jax.jit(lambda w: dln.sharpness(w, energy))
    weights, h = jax.random.normal(key, (2, 2, 2, 2)), 1e-5
    assert_close(jax.vmap(f)(weights), [f(w) for w in weights], 100 * ALGEBRA)
    slope = jax.grad(f)(weights[0])
    ahead, behind = f(weights[0] + h * weights[1]), f(weights[0] - h * weights[1])
    assert_close(jnp.sum(slope * weights[1]), (ahead - behind) / (2 * h), FINITE_DIFFERENCE)


def test_second_derivative_of_the_sharpness_is_none_in_every_mode():
    # The eigenvector moves, which first derivatives alone do not see.
    weights, target = jnp.stack([jnp.eye(2), jnp.diag(jnp.array([2.0, 1.0]))]), jnp.array([[1.0, 0.5], [0.2, 1.0]])
    of_start = lambda s: dln.sharpness(weights + s * target, lambda x: jnp.sum((x - target) ** 2) / 2)
    of_energy = lambda s: dln.sharpness(weights, lambda x: jnp.sum((x - (1 + s) * target) ** 2) / 2)
    for f in (of_start, of_energy):
        for first, second in itertools.product((jax.jacfwd, jax.jacrev), repeat=2):
            assert jnp.isnan(second(first(f))(0.0))


def test_sharpness_that_is_not_told_from_its_neighbours_is_still_right_to_the_gap():
    # Two eigenvalues that differ by 1e-12, among 100 others.
    values = jnp.concatenate([jnp.array([2.0, 2.0 - 1e-12]), jnp.linspace(-1, 1, 100)])
    of = lambda values: dln.sharpness([jnp.ones((values.size, 1))], lambda x: values @ x[:, 0] ** 2 / 2)
    assert_close(of(values), 2.0, 1e-11)
    # A gap of 1e-4 to the next of 400, for which the basis is filled several times.
    assert_close(of(jnp.append(jnp.linspace(-1.0, 1.0, 400), 1.0001)), 1.0001, 100 * ALGEBRA)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_tangent_kernel_is_that_of_the_jacobian(widths, key):
    weights = drawn(key, widths)
    flat, unravel = ravel_pytree(weights)
    jacobian = jax.jacobian(lambda y: dln.product(unravel(y)).ravel())(flat)
    kernel = dln.tangent_kernel(weights)
    assert kernel.shape == (widths[-1], widths[0]) * 2
    assert_close(kernel.reshape(jacobian.shape[0], -1), jacobian @ jacobian.T, ALGEBRA)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_tangent_kernel_of_balanced_factors_is_the_metric(depth, key):
    x, z = jax.random.normal(key, (2, 3, 3))
    kernel = dln.tangent_kernel(dln.balanced_factors(x, depth))
    assert_close(jnp.tensordot(kernel, z), depth * dln.metric_operator(x, z, depth), 100 * ALGEBRA)


def test_lift_and_kernel_are_inverse_where_the_factors_are_rectangular(key):
    weights, z = drawn(key, (2, 4, 3)), jax.random.normal(key, (3, 2))
    # The squared length of the shortest lift is z (d phi d phi^T)^(-1) z.
    kernel = dln.tangent_kernel(weights).reshape(6, 6)
    length = sum(jnp.sum(w**2) for w in dln.horizontal_lift(weights, z))
    assert_close(length, z.ravel() @ jnp.linalg.solve(kernel, z.ravel()), 1e3 * ALGEBRA)
