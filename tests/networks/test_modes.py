"""Derivatives of what diffrax integrates, in both modes and twice."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from support.tolerances import assert_close, FINITE_DIFFERENCE

import dlnjax as dln

TIMES = jnp.array([0.0, 0.4, 0.7])
H = 1e-4
MODES = (jax.jacfwd, jax.jacrev)


def factors(key):
    first, second = jax.random.split(key)
    return jax.random.normal(first, (4, 3)), jax.random.normal(second, (2, 4))


def flow_of(key):
    """A number that depends on an energy, the factors of a network, and the times."""
    target, (w1, w2) = jax.random.normal(key, (2, 3)), factors(key)

    @jax.jit
    def end(p):
        energy = lambda x: jnp.sum((x - p[0] * target) ** 2) / 2
        ts = TIMES.at[1:].add(p[2])
        sol = dln.network_flow(energy, (w1 + p[1], w2 * jnp.cos(p[1])), ts=ts, rtol=1e-12, max_steps=300)
        return jnp.sum(jnp.sin(sol.x[1:])) + jnp.sum(sol.weights[0][1] ** 2) + sol.t_end

    return end, jnp.array([1.1, 0.2, 0.3])


def balanced_of(key):
    """A number that depends on the balanced factors of the network."""
    w1, w2 = factors(key)

    @jax.jit
    def end(p):
        return jnp.sum(jnp.cos(dln.balance((w1 + p[0], w2 * p[1] + p[2]), max_steps=1000)[0]))

    return end, jnp.array([0.1, 1.2, 0.1])


@pytest.mark.long
@pytest.mark.parametrize(
    ("case", "seconds"),
    [(flow_of, list(itertools.product(MODES, repeat=2))), (balanced_of, [(jax.jacrev, jax.jacfwd)])],
    ids=["flow", "balance"],
)
def test_derivatives_in_both_modes_and_twice_are_those_of_differences(case, seconds, key):
    f, p = case(key)
    steps = H * jnp.eye(len(p))
    expected = jnp.stack([(f(p + h) - f(p - h)) / (2 * H) for h in steps])
    for slope in MODES:
        assert_close(slope(f)(p), expected, FINITE_DIFFERENCE)
    slope = jax.jit(jax.grad(f))
    expected = jnp.stack([(slope(p + h) - slope(p - h)) / (2 * H) for h in steps])
    for first, second in seconds:
        assert_close(second(first(f))(p), expected, FINITE_DIFFERENCE)
