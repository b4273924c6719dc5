"""Repeated and nearly repeated singular values, where the frame is singular and the flow of X is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.flows import completion_gradient, ended, flows, scipy_flow
from support.tolerances import assert_close, FINITE_DIFFERENCE

import dlnjax as dln

TS = np.array([0.0, 0.4, 1.0])
OFF = ~np.eye(3, dtype=bool)
# The cross product with (1, 1, 1): at the identity the pullback is antisymmetric and tells no mode from another, so
# that the degeneracy is broken at second order only.
CROSS = np.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])


def labels_of(name, key):
    noise = np.asarray(jax.random.normal(key, (3, 3)))
    return {"random": noise, "symmetric": noise + noise.T, "antisymmetric": CROSS}[name]


def starts_of(key):
    turn, other = (np.linalg.qr(np.asarray(jax.random.normal(k, (3, 3))))[0] for k in jax.random.split(key))
    exact = [np.eye(3), 2 * np.eye(3), turn, np.diag([1.0, 1.0, 0.5]), turn @ np.diag([1.0, 1.0, 0.5]) @ other]
    near = [np.diag([1 + gap, 1.0, 1 - gap / 2]) for gap in 10.0 ** -np.arange(2.0, 15.5)]
    return np.stack(exact + near + [turn @ np.diag([1 + 1e-4, 1.0, 0.5]) @ other])


@pytest.fixture(scope="module")
def starts(module_key):
    return starts_of(module_key)


@pytest.fixture(scope="module", params=["random", "symmetric", "antisymmetric"])
def labels(request, module_key):
    return labels_of(request.param, module_key)


@pytest.fixture(scope="module")
def depths(starts):
    return np.resize([np.inf, 3.0, 2.0, np.inf], len(starts))


@pytest.fixture(scope="module")
def reference(labels, starts, depths):
    gradient = completion_gradient(labels, OFF)
    return np.stack([scipy_flow(gradient, x, n, TS) for x, n in zip(starts, depths, strict=True)])


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 1e-8])
def test_error_stays_within_the_tolerance(labels, starts, depths, reference, rtol):
    n = len(starts)
    arrays = tuple(np.broadcast_to(a, (n, 3, 3)) for a in (labels, OFF))
    solution = flows(dln.MatrixCompletion, arrays, starts, depths, TS, rtol=rtol, atol=rtol / 100, max_steps=20_000)
    assert ended(solution) == ["successful"] * n
    assert_close(solution.x, reference, 20 * rtol)


def test_repeated_start_does_not_stay_where_it_is(reference, starts):
    # What the tests above rest on: the reference itself moves by far more than any of their tolerances.
    assert np.min(np.abs(reference[:, -1] - starts).max(axis=(1, 2))) > 0.1


@pytest.mark.long
def test_gradient_at_the_identity_is_that_of_finite_differences(module_key):
    kind = [labels_of(name, module_key) for name in ("random", "symmetric", "antisymmetric")]
    depth, weight = jnp.array([jnp.inf, 2.0, 3.5]), jnp.sin(1.0 + jnp.arange(9.0)).reshape(3, 3)

    def value(x0, labels, depth):
        solution = dln.gradient_flow(
            dln.MatrixCompletion(labels, OFF), x0, depth=depth, ts=jnp.asarray(TS), rtol=1e-10, atol=1e-12, throw=False
        )
        return jnp.sum(weight * solution.x[-1])

    labels, x0 = jnp.asarray(np.stack(kind)), jnp.broadcast_to(jnp.eye(3), (3, 3, 3))
    gradient = jax.jit(jax.vmap(jax.grad(value)))(x0, labels, depth)

    h = 1e-4
    bumps = h * jnp.eye(9).reshape(9, 3, 3)
    moved = jnp.eye(3) + jnp.concatenate([bumps, -bumps])
    arrays = (jnp.repeat(labels, 18, 0), jnp.broadcast_to(OFF, (54, 3, 3)))
    ends = flows(dln.MatrixCompletion, arrays, jnp.tile(moved, (3, 1, 1)), jnp.repeat(depth, 18), TS).x[:, -1]
    values = jnp.sum(weight * ends, axis=(1, 2)).reshape(3, 2, 9)
    expected = (values[:, 0] - values[:, 1]).reshape(3, 3, 3) / (2 * h)
    assert_close(gradient, expected, FINITE_DIFFERENCE)


@pytest.mark.slow
@pytest.mark.parametrize("rtol", [1e-6, 1e-9, 1e-12])
def test_steps_to_equal_values_do_not_follow_rounding(module_key, rtol):
    """The frame of nearly equal values turns by rounding. Steps that followed it would be 100,000 and more."""
    n = 12
    depths = np.resize([np.inf, 3.0, 2.0, 1.0], n)
    turn_key, start_key = jax.random.split(module_key)
    target = 1.1 * np.linalg.qr(np.asarray(jax.random.normal(turn_key, (n, 3, 3))))[0]
    drawn = np.asarray(jax.random.normal(start_key, (n, 3, 3)))
    # Beyond one layer, no flow changes the sign of the determinant.
    other = (np.linalg.det(drawn) * np.linalg.det(target) < 0) & (depths > 1)
    start = np.where(other[:, None, None], -drawn, drawn)
    arrays = (target, np.ones((n, 3, 3), bool))
    stop = dln.Steady(1e-11)
    solution = flows(
        dln.MatrixCompletion, arrays, start, depths, [0.0, 1.0, 200.0], rtol=rtol, atol=rtol / 100, stop=stop
    )
    assert ended(solution) == ["steady"] * n
    assert_close(solution.x[:, -1], target, 1e-10)
    assert np.max(solution.stats["steps"]) < 3000
