"""The geometry under JAX's strict promotion of dtypes and ranks: that is decided when a function is traced."""

import jax
import jax.numpy as jnp
import pytest

import dlnjax as dln

A, B = jnp.array([[2.0, 0.3], [0.1, 1.0]]), jnp.array([[1.0, -0.5], [0.4, 1.5]])
SIGMA, STACK, N = jnp.array([2.0, 1.0]), jnp.array([[2.0, 1.0], [1.0, 0.0]]), jnp.asarray(3.0)
THREE, WIDE = dln.Imbalanced([0.8, -0.3]), jnp.array([[2.0, 0.3, 0.1], [0.1, 1.0, 0.4]])


def slope(f, *x):
    return lambda: jax.grad(lambda *x: jnp.sum(f(*x)), tuple(range(len(x))))(*x)


CASES = {
    "svd": lambda: dln.svd(A).matrix,
    "derivative of svd": slope(lambda x: dln.svd(x).sigma, A),
    "operator": lambda: dln.metric_operator(A, B, 2),
    "derivative of the operator": slope(dln.metric_operator, A, B, N),
    "derivative of the inverse": slope(dln.metric_operator_inverse, A, B, N),
    "second derivative of inner": lambda: jax.hessian(dln.inner, (0, 1, 3))(A, B, B, N),
    "second derivative of hamiltonian": lambda: jax.hessian(dln.hamiltonian, (0, 1, 2))(A, B, N),
    "second derivative of inner of a wide matrix": lambda: jax.hessian(dln.inner, (0, 1))(WIDE, WIDE, WIDE, N),
    "norm": slope(dln.norm, A, B, N),
    "riemannian_gradient": lambda: dln.riemannian_gradient(lambda x: jnp.sum(x**4), A, 2),
    "metric_eigenvalues": slope(dln.metric_eigenvalues, SIGMA, N),
    "effective_rank": slope(dln.effective_rank, STACK),
    "stable_rank": slope(dln.stable_rank, STACK),
    "nuclear_norm": lambda: dln.nuclear_norm(STACK),
    "schatten_norm": slope(lambda s: dln.schatten_norm(s, 3), STACK),
    "entropy": lambda: jax.hessian(dln.entropy)(SIGMA, N),
    "entropy of three layers": lambda: dln.entropy(SIGMA, THREE),
    "metric_eigenvalues of three layers": lambda: dln.metric_eigenvalues(SIGMA, THREE),
    "norm at three layers": slope(lambda x, z: dln.norm(x, z, THREE), A, B),
    "entropy of many": lambda: dln.entropy(STACK[:1], jnp.array([2.0])),
    "entropy_gradient": slope(dln.entropy_gradient, SIGMA, N),
    "exponential": slope(lambda x, p, n: dln.exponential(x, p, n).x, A, B, N),
    "exponential of a wide matrix": slope(lambda x, p, n: dln.exponential(x, p, n).x, WIDE, WIDE, N),
    "geodesic": lambda: dln.geodesic(A, B, 2).evaluate([0.0, 0.5]),
    "conjugate_time": lambda: dln.geodesic(A, B, 2.0).conjugate_time,
    "index": lambda: dln.geodesic(A, B, 2.0).index,
    "distance": slope(dln.distance, A, B, N),
    "logarithm": lambda: jax.jvp(lambda a, b: dln.logarithm(a, b, N), (A, B), (A, B)),
    "distance_bounds": lambda: dln.distance_bounds(A, B, 2),
    "distance at three layers": slope(lambda a: dln.distance(a, B, THREE), A),
    "distance_bounds at three layers": slope(lambda a, b: dln.distance_bounds(a, b, THREE)[1], A, B),
    "states": slope(lambda a, t: dln.geodesic(a, B, 2.0).evaluate(t), A, jnp.array([0.3, 0.6])),
    "diagonal": lambda: dln.closed_form.diagonal(jnp.diag(SIGMA), jnp.diag(SIGMA[::-1]), 2)(0.5),
    "bures_wasserstein": lambda: dln.closed_form.bures_wasserstein(jnp.eye(2), jnp.diag(SIGMA))([0.0, 0.5]),
    "commuting": lambda: dln.closed_form.commuting(jnp.eye(2), jnp.diag(SIGMA), 2)(0.5),
    "printed_line": lambda: dln.closed_form.printed_line(jnp.eye(2), jnp.diag(SIGMA), 2)(0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_promoted_silently(name):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(CASES[name])
