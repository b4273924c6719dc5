"""The operator of the metric and its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln
from dlnjax._geometry.differences import _MANY, first_difference

D = 3
SPECTRA = {
    "distinct": [2.0, 1.1, 0.3],
    "pair": [1.5, 1.5, 0.4],
    "isotropic": [0.8, 0.8, 0.8],
    "close": [1.0, 1.0 - 1e-7, 0.4],
}
DEPTHS = jnp.array([1.0, 2.0, 3.5, 50.0, jnp.inf])

operator = jax.jit(jax.vmap(dln.metric_operator))
pushforward = jax.jit(jax.vmap(lambda *a: jax.jvp(dln.metric_operator, a[:3], a[3:])[1]))


@pytest.fixture(scope="module")
def points(module_key):
    """One matrix for each spectrum and depth, with a covector and a direction for each."""
    ka, kb, kc, kd, ke = jax.random.split(module_key, 5)
    u, v = (jnp.linalg.qr(jax.random.normal(k, (D, D)))[0] for k in (ka, kb))
    x = jnp.stack([(u * jnp.array(s)) @ v.T for s in SPECTRA.values()])
    x, depth = jnp.repeat(x, len(DEPTHS), 0), jnp.tile(DEPTHS, len(SPECTRA))
    p, dx, dp = (jax.random.normal(k, x.shape) for k in (kc, kd, ke))
    return x, p, depth, dx, dp


def fractional_power(a, power):
    values, vectors = np.linalg.eigh(np.asarray(a))
    return (vectors * values**power) @ vectors.T


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_operator_is_the_sum_over_the_layers(points, depth):
    x, p, *_ = points
    found = operator(x, p, jnp.full(len(x), float(depth)))
    for i in range(0, len(x), len(DEPTHS)):
        left, right = x[i] @ x[i].T, x[i].T @ x[i]
        terms = [
            fractional_power(left, (depth - q) / depth) @ p[i] @ fractional_power(right, (q - 1) / depth)
            for q in range(1, depth + 1)
        ]
        assert_close(found[i], sum(terms) / depth, ALGEBRA)


@pytest.mark.parametrize("moved", ["x", "p", "depth", "all"])
def test_derivative_is_that_of_central_differences(points, moved):
    x, p, depth, dx, dp = points
    dx, dp = (a * (moved in (name, "all")) for a, name in ((dx, "x"), (dp, "p")))
    inside = (depth > 1) & jnp.isfinite(depth)
    ddepth = jnp.where(inside, 0.6, 0.0) * (moved in ("depth", "all"))
    h = 1e-5
    ahead, behind = (operator(x + s * h * dx, p + s * h * dp, depth + s * h * ddepth) for s in (1, -1))
    found = pushforward(x, p, depth, dx, dp, ddepth)
    assert_close(found, (ahead - behind) / (2 * h), FINITE_DIFFERENCE)


@pytest.mark.parametrize("depth", [2.0, jnp.inf])
def test_derivative_in_the_covector_is_the_operator_at_singular_matrices_too(depth):
    x, p = jnp.diag(jnp.array([1.0, 0.5, 0.0])), jnp.arange(9.0).reshape(D, D)
    value, tangent = jax.jvp(lambda p: dln.metric_operator(x, p, depth), (p,), (p,))
    assert_close(tangent, value, ALGEBRA)
    assert_close(jax.grad(dln.hamiltonian, 1)(x, p, depth), value, ALGEBRA)


def test_operator_is_symmetric_and_positive(points):
    x, p, depth, q, _ = points
    pair = lambda a, b: np.sum(a * b, axis=(1, 2))
    assert_close(pair(q, operator(x, p, depth)), pair(p, operator(x, q, depth)), ALGEBRA)
    assert np.all(pair(p, operator(x, p, depth)) > 0)


def test_operator_turns_with_the_matrix(points, key):
    x, p, depth, *_ = points
    q1, q2 = (jnp.linalg.qr(jax.random.normal(k, (D, D)))[0] for k in jax.random.split(key))
    turned = operator(q1 @ x @ q2.T, q1 @ p @ q2.T, depth)
    assert_close(turned, q1 @ operator(x, p, depth) @ q2.T, ALGEBRA)


def test_divided_differences_do_not_depend_on_whether_others_are_close():
    s = 2.0 ** -jnp.arange(_MANY + 1.0)
    difference = jax.jit(lambda s: first_difference(s, dln.Balanced(3), 0.5))
    apart, few = difference(s), difference(s[: _MANY - 1])
    close = difference(s.at[-1].set(0.999 * s[-2]))
    for other in (few, close):
        n = min(len(other), len(s) - 1)
        assert_close(other[:n, :n, :n], apart[:n, :n, :n], ALGEBRA)
    # The divided difference of two close values is the slope between them, and those of the diagonal are its limits.
    between = (close[-1, -1] + close[-2, -2]) / 2
    np.testing.assert_allclose(close[-1, -2], between, rtol=1e-5)
