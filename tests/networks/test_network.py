"""The network upstairs: factors, balancedness, training."""

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.flows import scipy_flow
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln

D = 3
ENERGY = dln.MatrixCompletion.diagonal(D)


@pytest.fixture(scope="module")
def x0(module_key):
    return 0.5 * jnp.eye(D) + dln.gaussian(module_key, D, 0.3)


@jax.jit
def descend(weights, rate, steps):
    return dln.train(ENERGY, weights, optax.sgd(rate), steps)


@pytest.mark.parametrize("depth", [1, 2, 3, 8])
def test_factors_multiply_to_the_matrix_and_are_balanced(depth, x0):
    for x in (x0, -2.0 * jnp.eye(D), jnp.diag(jnp.array([3.0, 1.0, 0.0]))):
        weights = dln.balanced_factors(x, depth)
        assert weights.shape == (depth, D, D)
        assert_close(dln.product(weights), x, ALGEBRA)
        assert_close(dln.balancedness(weights), np.zeros((depth - 1, D, D)), ALGEBRA)
        # Remark 2.1.4: no factors of X are smaller.
        sigma = np.linalg.svd(x, compute_uv=False)
        assert_close(jnp.sum(weights**2), depth * np.sum(sigma ** (2 / depth)), ALGEBRA)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_product_and_balancedness_have_the_first_factor_at_the_right(depth, key):
    weights = jax.random.normal(key, (depth, D, D))
    assert_close(dln.product(weights), reduce(lambda x, w: w @ x, weights), ALGEBRA)
    found, weights = dln.balancedness(weights), np.asarray(weights)
    expected = [weights[p] @ weights[p].T - weights[p + 1].T @ weights[p + 1] for p in range(depth - 1)]
    assert_close(found, np.reshape(expected, (depth - 1, D, D)), ALGEBRA)


def test_step_of_descent_is_the_gradient_of_the_thesis(key):
    weights = jax.random.normal(key, (3, D, D))
    w1, w2, w3 = np.asarray(weights)
    slope = np.diag(2 * (np.diag(w3 @ w2 @ w1) - 1))
    # (1.6), written out.
    expected = np.stack([(w3 @ w2).T @ slope, w3.T @ slope @ w1.T, slope @ (w2 @ w1).T])
    assert_close(descend(weights, 0.1, 1).weights, weights - 0.1 * expected, ALGEBRA)


def test_descent_follows_the_flow_at_n_times_its_time_to_first_order(x0):
    depth, time = 3, 0.6
    exact = scipy_flow(lambda x: 2 * np.diag(np.diag(x) - 1), x0, depth, [0.0, time])[-1]
    weights = dln.balanced_factors(x0, depth)
    errors = []
    for steps in (200, 400):
        trained = descend(weights, time / (depth * steps), steps)
        errors.append(np.linalg.norm(trained.x - exact))
    assert errors[0] < 3e-3
    assert abs(errors[0] / errors[1] - 2) < 0.05
    # (2.1) is conserved to the order of the step.
    assert jnp.max(jnp.abs(dln.balancedness(trained.weights))) < 3e-3


def test_saved_states_are_those_of_shorter_trainings(x0):
    weights = dln.balanced_factors(x0, 3)
    saved = dln.train(ENERGY, weights, optax.sgd(0.05), np.array([0, 2, 7]))
    assert saved.weights.shape == (3, 3, D, D) and saved.x.shape == (3, D, D)
    assert list(saved.steps) == [0, 2, 7]
    for k, steps in enumerate((0, 2, 7)):
        assert_close(saved.weights[k], descend(weights, 0.05, steps).weights, ALGEBRA)
        assert_close(saved.x[k], dln.product(saved.weights[k]), ALGEBRA)


def test_optimiser_keeps_its_state(x0):
    weights = dln.balanced_factors(x0, 2)
    optimizer = optax.adam(0.01)
    state, expected = optimizer.init(weights), weights
    for _ in range(4):
        slope = jax.grad(lambda w: ENERGY(dln.product(w)))(expected)
        updates, state = optimizer.update(slope, state, expected)
        expected = optax.apply_updates(expected, updates)
    assert_close(dln.train(ENERGY, weights, optimizer, 4).weights, expected, ALGEBRA)


def test_training_that_leaves_the_numbers_ends_with_a_code_and_its_last_good_state(x0):
    weights = dln.balanced_factors(10 * x0, 3)
    out = dln.train(ENERGY, weights, optax.sgd(1.0), np.array([1, 100]), throw=False)
    assert out.result == dln.RESULTS.non_finite
    assert out.steps[0] == 1 and out.steps[1] < 100
    assert jnp.all(jnp.isfinite(out.weights))
    with pytest.raises(RuntimeError, match="lower the learning rate"):
        jax.block_until_ready(dln.train(ENERGY, weights, optax.sgd(1.0), 100).weights)
