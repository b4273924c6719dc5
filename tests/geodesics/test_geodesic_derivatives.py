"""Derivatives of what is known of a geodesic: its states, its length in the depth, its conjugate time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.kernels import Bare
from support.tolerances import assert_close, INTEGRATION

import dlnjax as dln
from dlnjax._geodesics.geodesic import _conjugate_time

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


@pytest.mark.long
@pytest.mark.parametrize("a", [APART, jnp.array([[1.3, 0.1], [0.2, 0.7], [-0.4, 0.6]])], ids=["square", "tall"])
def test_exponential_has_second_derivatives_in_reverse_mode_alone(a):
    def along(s):
        end = dln.exponential(a + s * jnp.cos(a), jnp.sin(a) / 2 + s * a, 2.5 + s, ts=[0.0, 1.0], rtol=1e-11).x[-1]
        return jnp.sum(end**2)

    slope, h = jax.jit(jax.grad(along)), 1e-4
    assert_close(jax.grad(jax.grad(along))(0.0), (slope(h) - slope(-h)) / (2 * h), 1e-6)


@pytest.mark.long
def test_conjugate_time_has_the_derivative_of_a_zero():
    time = lambda a, p, depth: _conjugate_time(a, a, p, dln.Balanced(depth))
    a, p = jnp.diag(jnp.array([60.0, 1.0])), jnp.log(60.0) * jnp.diag(jnp.array([-1 / 60, 1.0]))
    z, w = jnp.array([[2.0, 0.3], [-0.2, 0.7]]), jnp.array([[1.5, -0.4], [0.6, 1.2]])
    at, moves = (a + 0.01 * z, p + 1e-4 * w, jnp.asarray(1000.0)), (z @ w, 0.1 * w, jnp.asarray(30.0))
    moved = lambda s: time(*(z + s * dz for z, dz in zip(at, moves, strict=True)))
    assert 0.5 < moved(0.0) < 1
    grads = jax.grad(time, (0, 1, 2))(*at)
    for k, dz in enumerate(moves):
        one = lambda s, k=k, dz=dz: time(*(z + s * dz if i == k else z for i, z in enumerate(at)))
        ahead, behind = (float(one(s)) for s in (1e-3, -1e-3))
        slope = jnp.sum(grads[k] * dz)
        assert abs(slope) > 1e-5
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-3, rtol=1e-4)
    along = jax.jvp(time, at, moves)[1]
    assert_close(along, sum(jnp.sum(g * dz) for g, dz in zip(grads, moves, strict=True)), INTEGRATION)
    # Without a conjugate point the time is inf, whatever moves a little.
    assert all(jnp.all(g == 0) for g in jax.grad(time, (0, 1, 2))(a, 0.5 * p, jnp.asarray(1000.0)))


@pytest.mark.parametrize("least", [1e-4, 1e-6])
def test_derivative_in_the_depth_keeps_its_digits_near_singular_matrices(least):
    sigma = np.array([1.0, least])
    length = lambda depth: depth * (1 - jnp.asarray(least) ** (1 / depth))
    found = jax.grad(dln.distance, 2)(jnp.eye(2), jnp.diag(jnp.asarray(sigma)), jnp.asarray(1.3))
    assert_close(found, jax.grad(length)(jnp.asarray(1.3)), INTEGRATION)


@pytest.mark.long
def test_mixed_second_derivative_is_exact_where_singular_values_repeat():
    a, move, depth = jnp.eye(2), jnp.array([[0.2, 0.5], [-0.3, 0.9]]), jnp.asarray(2.0)
    b = jnp.array([[1.5, -0.4], [0.6, 1.2]])
    by_depth, by_end = (lambda a, depth, k=k: jax.grad(dln.distance, k)(a, b, depth) for k in (2, 0))
    ahead, behind = by_end(a, depth + 1e-3), by_end(a, depth - 1e-3)
    expected = jnp.sum((ahead - behind) * move) / 2e-3
    assert abs(expected) > 1e-3
    found = [
        jax.jvp(lambda a: by_depth(a, depth), (a,), (move,))[1],
        jnp.sum(jax.jvp(lambda depth: by_end(a, depth), (depth,), (1.0,))[1] * move),
        jnp.sum(jax.grad(by_depth)(a, depth) * move),
    ]
    np.testing.assert_allclose(found, 3 * [expected], rtol=1e-6)
    assert_close(found, 3 * [found[1]], INTEGRATION)
