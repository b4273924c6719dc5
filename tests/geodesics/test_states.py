"""Derivatives of the states between the ends of a geodesic, and of geodesics in kernels without numbers."""

import jax
import jax.numpy as jnp
import pytest

import dlnjax as dln
from tests.support.kernels import Bare
from tests.support.tolerances import assert_close, INTEGRATION

B = jnp.array([[2.0, 0.5], [-0.3, 1.0]])
REPEATED, APART = 1.3 * jnp.eye(2), jnp.array([[1.3, 0.1], [0.2, 0.7]])
MOVE = jnp.array([[0.2, 0.7], [0.7, -0.4]])


@pytest.fixture(scope="module", params=["repeated", "apart"])
def line(request):
    return dln.geodesic(REPEATED if request.param == "repeated" else APART, B, 3.0)


@pytest.mark.parametrize("first", [jax.jacfwd, jax.jacrev])
def test_velocity_and_acceleration_are_those_of_hamiltons_equations(line, first):
    flow = dln.exponential(line.a, line.momentum, 3.0, ts=[0.0, 0.3])
    x, p = flow.x[-1], flow.momentum[-1]
    velocity = dln.metric_operator(x, p, 3.0)
    assert_close(first(line.evaluate)(0.3), velocity, INTEGRATION)
    force = -jax.grad(lambda x: dln.hamiltonian(x, p, 3.0))(x)
    acceleration = jax.jvp(lambda x, p: dln.metric_operator(x, p, 3.0), (x, p), (velocity, force))[1]
    for second in (jax.jacfwd, jax.jacrev):
        assert_close(second(first(line.evaluate))(0.3), acceleration, INTEGRATION)


@pytest.mark.parametrize("depth", [1.0, 3.0])
def test_states_have_the_derivative_in_an_end_whose_singular_values_repeat(depth):
    middle = lambda a: dln.geodesic(a, B, depth).evaluate(0.5)
    forward = jax.jvp(middle, (REPEATED,), (MOVE,))[1]
    reverse = jax.vjp(middle, REPEATED)[1](jnp.ones((2, 2)))[0]
    h = 1e-3
    numbers = (middle(REPEATED + h * MOVE) - middle(REPEATED - h * MOVE)) / (2 * h)
    assert_close(forward, MOVE / 2 if depth == 1 else numbers, INTEGRATION if depth == 1 else 1e-6)
    assert_close(jnp.sum(reverse * MOVE), jnp.sum(forward), INTEGRATION)


def test_geodesics_in_a_kernel_without_numbers_have_derivatives():
    kernel, a, b = Bare(), APART, B
    end = jax.jvp(lambda x, p: dln.exponential(x, p, kernel).x[-1], (a, b), (MOVE, b))[1]
    assert_close(end, MOVE + b, INTEGRATION)
    covector = jax.jacrev(lambda b: dln.logarithm(a, b, kernel))(b)
    assert_close(covector.reshape(4, 4), jnp.eye(4), INTEGRATION)
    half_square = lambda b: dln.distance(a, b, kernel) ** 2 / 2
    assert_close(jax.hessian(half_square)(b).reshape(4, 4), jnp.eye(4), INTEGRATION)
    mean = dln.frechet_mean(jnp.stack([a, b]), kernel)
    assert_close(mean.x, (a + b) / 2, INTEGRATION)
