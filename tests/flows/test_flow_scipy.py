"""The flow against DOP853 in X, written in NumPy with an operator of its own."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.flows import completion_gradient, ended, flows, scipy_flow
from support.tolerances import assert_close, INTEGRATION

import dlnjax as dln

TS = np.array([0.0, 0.2, 0.7])
DEPTHS = [1.0, 2.0, 3.0, 7.5, 50.0, np.inf]


def draw(key, n, d):
    """`n` starts away from singular matrices, where depth 1 could pass through one of higher order."""
    keys = jax.random.split(key, n)
    return jax.vmap(lambda k: jnp.eye(d) + dln.gaussian(k, d, 0.5 / np.sqrt(d)))(keys)


def quartic(a, b):
    """An energy of nobody's library, with its gradient left to autodiff."""

    def energy(x):
        return jnp.sum((x @ a @ x - b) ** 2) / 4 + jax.nn.logsumexp(3 * x) / 3

    return energy


def quartic_gradient(a, b):
    def gradient(x):
        residual = x @ a @ x - b
        soft = np.exp(3 * x - np.max(3 * x))
        return (residual @ (a @ x).T + (x @ a).T @ residual) / 2 + soft / soft.sum()

    return gradient


def sensing_gradient(measurements, values):
    return lambda x: np.tensordot(np.tensordot(measurements, x, 2) - values, measurements, 1)


@pytest.fixture(scope="module")
def case(module_key):
    return functools.cache(functools.partial(build, module_key))


def build(key, name):
    """(make, params, starts, depths, reference) for one energy."""
    ka, kb, kc = jax.random.split(jax.random.fold_in(key, len(name)), 3)
    d, depths = (8, [np.inf]) if name == "large completion" else (3, DEPTHS)
    n = len(depths)
    if name == "sensing":
        params = (jax.random.normal(ka, (n, 5, d, d)), jax.random.normal(kb, (n, 5)))
        make, gradient = dln.MatrixSensing, sensing_gradient
    elif name == "user":
        params = (jax.random.normal(ka, (n, d, d)), jax.random.normal(kb, (n, d, d)))
        make, gradient = quartic, quartic_gradient
    else:
        params = (jax.random.normal(ka, (n, d, d)), jax.random.bernoulli(kb, 0.6, (n, d, d)))
        make, gradient = dln.MatrixCompletion, completion_gradient
    starts = draw(kc, n, d)
    numpy = [np.asarray(p) for p in params]
    expected = [scipy_flow(gradient(*(p[i] for p in numpy)), starts[i], depths[i], TS) for i in range(n)]
    return make, params, starts, depths, np.stack(expected)


@pytest.mark.parametrize("coordinates", ["svd", "matrix"])
@pytest.mark.parametrize("name", ["completion", "large completion", "sensing", "user"])
def test_flow_agrees_with_scipy_in_x(case, name, coordinates):
    make, params, starts, depths, expected = case(name)
    solution = flows(make, params, starts, depths, TS, coordinates=coordinates)
    assert ended(solution) == ["successful"] * len(depths)
    assert_close(solution.x, expected, 10 * INTEGRATION)
    assert_close(solution.svd.matrix, expected, 10 * INTEGRATION)


@pytest.mark.parametrize("coordinates", ["svd", "matrix"])
def test_error_falls_with_the_tolerance(case, coordinates):
    make, params, starts, depths, expected = case("completion")
    for rtol in (1e-4, 1e-6, 1e-8, 1e-10):
        solution = flows(make, params, starts, depths, TS, rtol=rtol, atol=rtol / 100, coordinates=coordinates)
        assert_close(solution.x, expected, 100 * rtol)


def test_any_solver_of_diffrax_serves(case):
    # Dopri8 does not end on its last stage, and takes the other way through the step.
    make, params, starts, depths, expected = case("completion")
    solution = flows(make, params, starts, depths, TS, solver=diffrax.Dopri8())
    assert_close(solution.x, expected, 10 * INTEGRATION)


def test_coordinates_agree(case):
    make, params, starts, depths, _ = case("completion")
    svd, matrix = (flows(make, params, starts, depths, TS, coordinates=c).x for c in ("svd", "matrix"))
    assert_close(svd, matrix, INTEGRATION)
