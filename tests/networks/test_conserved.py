"""What training does to W_p W_p^T - W_{p+1}^T W_{p+1}: exact identities of one step, with decay and with momentum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln

RATE, DECAY, MOMENTUM = 0.03, 0.2, 0.9
WIDTHS = (3, 2, 4, 2)


@pytest.fixture
def weights(key):
    keys = jax.random.split(key, 3)
    pairs = itertools.pairwise(WIDTHS)
    return tuple(0.5 * jax.random.normal(k, (m, n)) for k, (n, m) in zip(keys, pairs, strict=True))


def energy(x, step):
    """Another energy at each step, so that nothing follows from its minimum."""
    return jnp.sum((x - jnp.sin(step + jnp.arange(6.0)).reshape(2, 3)) ** 2) + jnp.sum(jnp.cos(x))


def train(weights, optimizer, steps):
    return dln.train(energy, weights, optimizer, steps, batches=lambda step: step)


def slopes(weights, step):
    return jax.grad(lambda w: energy(dln.product(w), step))(weights)


def lower_minus_upper(a, b):
    """a_p b_p^T - b_{p+1}^T a_{p+1}."""
    below, above = zip(a, b, strict=True), zip(a[1:], b[1:], strict=True)
    return [p @ q.T - v.T @ u for (p, q), (u, v) in zip(below, above, strict=False)]


def test_a_step_of_descent_moves_the_defect_at_second_order_alone(weights):
    after, slope = train(weights, optax.sgd(RATE), 1).weights, slopes(weights, 0)
    # G_p+ - G_p = eta^2 (g_p g_p^T - g_{p+1}^T g_{p+1}), whatever the gradient.
    moved = zip(dln.balancedness(after), dln.balancedness(weights), lower_minus_upper(slope, slope), strict=True)
    for new, old, second in moved:
        assert_close(new - old, RATE**2 * second, ALGEBRA)
        assert jnp.max(jnp.abs(second)) > 0.1


@pytest.mark.parametrize("kind", ["add_decayed_weights", "adamw"])
def test_weight_decay_shrinks_the_defect(weights, kind):
    if kind == "adamw":
        # Without the gradient: W+ = (1 - eta a) W, decoupled from Adam's step.
        out = dln.train(lambda x: 0.0 * jnp.sum(x), weights, optax.adamw(RATE, weight_decay=DECAY), 5)
        for new, old in zip(dln.balancedness(out.weights), dln.balancedness(weights), strict=True):
            assert_close(new, (1 - RATE * DECAY) ** 10 * old, ALGEBRA)
        return
    optimizer, expected = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE)), dln.balancedness(weights)
    out = train(weights, optimizer, [0, 1, 2, 3])
    for step in range(3):
        now = tuple(w[step] for w in out.weights)
        slope = slopes(now, step)
        seconds = lower_minus_upper(slope, slope)
        expected = [(1 - RATE * DECAY) ** 2 * g + RATE**2 * s for g, s in zip(expected, seconds, strict=True)]
    # G+ = (1 - eta a)^2 G + eta^2 (...): a small step follows e^(-2at) G.
    for found, g in zip(dln.balancedness(tuple(w[3] for w in out.weights)), expected, strict=True):
        assert_close(found, g, ALGEBRA)


def test_heavy_ball_conserves_an_antisymmetric_matrix_and_not_the_defect(weights, key):
    velocity = tuple(jax.random.normal(jax.random.fold_in(key, 9 + p), w.shape) for p, w in enumerate(weights))
    inner = optax.trace(MOMENTUM)
    # From rest all is zero. So the momentum starts from a velocity: v+ = mu v + g, W+ = W - eta v+.
    moving = optax.GradientTransformation(lambda w: optax.TraceState(velocity), inner.update)
    out = train(weights, optax.chain(moving, optax.scale(-RATE)), [0, *range(1, 9)])
    skew = lambda a: (a - a.T) / 2
    layers = [tuple(w[k] for w in out.weights) for k in range(9)]
    start = [skew(a) for a in lower_minus_upper(weights, velocity)]
    for k in (1, 4, 8):
        v = tuple((before - after) / RATE for before, after in zip(layers[k - 1], layers[k], strict=True))
        for found, a in zip(lower_minus_upper(layers[k], v), start, strict=True):
            # Exactly mu^k, which is e^(-ct) of the equation W'' + c W' = -dL.
            assert_close(skew(found), MOMENTUM**k * a, 1e3 * ALGEBRA)
    gone = [jnp.max(jnp.abs(a - b)) for a, b in zip(*map(dln.balancedness, (layers[0], layers[-1])), strict=True)]
    assert min(gone) > 1e-2 and np.max(np.abs(start[0])) > 0.1


def test_adam_conserves_neither(weights):
    after = train(weights, optax.adam(RATE), 1).weights
    first = [a - b for a, b in zip(dln.balancedness(after), dln.balancedness(weights), strict=True)]
    assert max(jnp.max(jnp.abs(a)) for a in first) > RATE / 10
