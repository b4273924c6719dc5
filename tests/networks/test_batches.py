"""Training on data in batches: a callable of the step, an iterator, noise, and a stop."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln

RNG = np.random.default_rng(0)
INPUTS, OUTPUTS = RNG.normal(size=(6, 5, 3)), RNG.normal(size=(6, 5, 2))  # batch, sample, axis
RATE = 0.05


def loss(x, batch):
    inputs, outputs = batch
    return jnp.mean((inputs @ x.T - outputs) ** 2)


@pytest.fixture
def weights(key):
    return dln.balanced_factors(0.5 * jax.random.normal(key, (2, 3)), 2)


def by_hand(weights, optimizer, batches):
    """The loop of optax's own documentation."""
    slope = jax.jit(jax.grad(lambda w, batch: loss(dln.product(w), batch)))
    state = optimizer.init(weights)
    for batch in batches:
        updates, state = optimizer.update(slope(weights, batch), state, weights)
        weights = optax.apply_updates(weights, updates)
    return weights


def stream(n):
    return ((INPUTS[k % 6], OUTPUTS[k % 6]) for k in range(n))


def at(step):
    return jnp.asarray(INPUTS)[step % 6], jnp.asarray(OUTPUTS)[step % 6]


@pytest.mark.parametrize("batches", ["callable", "iterator"])
def test_each_step_has_its_batch(batches, weights):
    optimizer = optax.adam(RATE)
    given = at if batches == "callable" else stream(9)
    out = dln.train(loss, weights, optimizer, [0, 1, 9], batches=given)
    assert list(out.steps) == [0, 1, 9] and out.result == "successful"
    for k, steps in enumerate((0, 1, 9)):
        for w, expected in zip(out.weights, by_hand(weights, optimizer, stream(steps)), strict=True):
            assert_close(w[k], expected, ALGEBRA)


def test_no_batch_after_the_last_step_is_asked_for(weights):
    """`jnp.take` gives NaN beyond the last batch, and no step was to be taken there."""
    data = jnp.linspace(0.5, 1.5, 5)
    loss = lambda x, size: jnp.sum((x - size) ** 2)
    found = [
        dln.train(loss, weights, optax.sgd(0.01), 5, batches=batches)
        for batches in (lambda step: jnp.take(data, step), iter(data))
    ]
    assert int(found[0].steps) == 5
    assert_close(found[0].x, found[1].x, ALGEBRA)


def test_the_optimiser_sees_the_loss_of_its_own_batch(weights):
    # The step of Polyak is the value over the squared slope, so that it tells which batch was evaluated.
    optimizer = optax.polyak_sgd(max_learning_rate=10.0)
    out = dln.train(loss, weights, optimizer, 3, batches=at)
    x, layers = None, weights
    for batch in stream(3):
        value, slope = jax.value_and_grad(lambda w, batch=batch: loss(dln.product(w), batch))(layers)
        rate = value / sum(jnp.sum(s**2) for s in slope)
        layers = tuple(w - rate * s for w, s in zip(layers, slope, strict=True))
        x = dln.product(layers)
    assert_close(out.x, x, ALGEBRA)


@pytest.mark.long
def test_a_line_search_evaluates_the_batch_of_its_step(weights):
    optimizer = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10))
    out = dln.train(loss, weights, optimizer, 3, batches=at)
    layers, state = weights, optimizer.init(weights)
    for batch in stream(3):
        energy = lambda w, batch=batch, **_: loss(dln.product(w), batch)
        value, slope = jax.value_and_grad(energy)(layers)
        updates, state = optimizer.update(slope, state, layers, value=value, grad=slope, value_fn=energy)
        layers = optax.apply_updates(layers, updates)
    # A comparison near a tie may be turned by rounding.
    assert_close(out.x, dln.product(layers), 1e4 * ALGEBRA)


def test_the_step_itself_and_a_key_for_noise_are_batches(weights, key):
    noisy = lambda x, k: jnp.sum((x + jax.random.normal(k, x.shape)) ** 2)
    out = dln.train(noisy, weights, optax.sgd(RATE), 2, batches=lambda step: jax.random.fold_in(key, step))
    layers = weights
    for step in range(2):
        slope = jax.grad(lambda w, s=step: noisy(dln.product(w), jax.random.fold_in(key, s)))(layers)
        layers = tuple(w - RATE * s for w, s in zip(layers, slope, strict=True))
    assert_close(out.x, dln.product(layers), ALGEBRA)
    falling = dln.train(lambda x, step: jnp.sum(x**2) / (1.0 + step), weights, optax.sgd(RATE), 1, batches=lambda s: s)
    assert_close(falling.x, dln.train(lambda x: jnp.sum(x**2), weights, optax.sgd(RATE), 1).x, ALGEBRA)


def test_gradient_noise_is_that_of_optax(weights):
    noise = optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.sgd(RATE))
    out = dln.train(loss, weights, noise, 4, batches=at)
    for w, expected in zip(out.weights, by_hand(weights, noise, stream(4)), strict=True):
        assert_close(w, expected, ALGEBRA)


def test_data_that_changes_is_read_at_each_call(weights):
    data, energy = np.ones(3), lambda x, row: jnp.sum((x @ row) ** 2)
    once = lambda: dln.train(energy, weights, optax.sgd(RATE), 1, batches=lambda step: jnp.asarray(data)).x
    first = once()
    data[:] = 2.0
    assert jnp.max(jnp.abs(once() - first)) > 1e-3


@pytest.mark.parametrize("batches", ["none", "callable", "iterator"])
def test_training_stops_at_a_loss(batches, weights):
    energy = (lambda x: jnp.sum(x**2)) if batches == "none" else (lambda x, _: jnp.sum(x**2))
    given = {"none": None, "callable": lambda step: step, "iterator": iter(range(1000))}[batches]
    train = lambda steps, **more: dln.train(energy, weights, optax.sgd(RATE), steps, **more)
    out = train([2, 900], batches=given, stop=0.01)
    assert out.result == "stopped" and out.steps[0] == 2 and 2 < out.steps[1] < 900
    values = [float(jnp.sum(x**2)) for x in out.x]
    assert values[0] > 0.01 >= values[1]
    if batches == "none":
        # The step before was above, and a later stop is not reached.
        assert jnp.sum(train(int(out.steps[1]) - 1).x ** 2) > 0.01
        assert train(3, stop=0.0).result == "successful" and train(3, stop=1e9).steps == 0
        assert "stopped" in repr(out) and dln.RESULTS["stopped"].startswith("The energy fell to")
        many = jax.vmap(lambda s: dln.train(energy, weights, optax.sgd(RATE), 900, stop=s).steps)(
            jnp.array([0.1, 0.01])
        )
        assert many[0] < many[1] == out.steps[1]


def trained(energy=loss, steps=4, **more):
    weights = (jnp.ones((2, 3)), jnp.ones((2, 2)))
    return lambda: dln.train(energy, weights, optax.sgd(RATE), steps, **more)


SMALLER = [(INPUTS[0], OUTPUTS[0]), (INPUTS[0, :2], OUTPUTS[0, :2])]
WRONG = [
    (lambda: trained(batches=stream(3))(), ValueError, "batches must be as many as steps, 4, got 3"),
    (lambda: trained(batches=iter([]))(), ValueError, "batches must have at least one batch"),
    (lambda: trained(batches=iter(SMALLER))(), ValueError, r"float64\[5, 3\].*got float64\[2, 3\].*after 1 of them"),
    (trained(batches=SMALLER[:1]), TypeError, r"batches must be a callable.*iter\(loader\).*list"),
    (trained(batches=INPUTS), TypeError, "batches must be a callable.*ndarray"),
    (trained(lambda x: 0.0, batches=at), TypeError, r"energy must take \(X, batch\)"),
    (trained(lambda x, b: x, batches=at), ValueError, "energy must return one real scalar"),
    (trained(3, batches=at), TypeError, "energy must be a callable"),
    (trained(batches=lambda step: float(step)), TypeError, "batches must be written with jax.numpy"),
    (trained(batches=at, stop="low"), TypeError, "stop must be"),
    (trained(batches=at, stop=np.nan), ValueError, "stop must not be NaN"),
    (trained(batches=at, stop=np.ones(2)), ValueError, "stop must be one number"),
    (lambda: jax.jit(trained(batches=stream(1)))(), TypeError, "an iterator of batches cannot be traced"),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG, ids=range(len(WRONG)))
def test_batches_that_do_not_fit_are_refused(call, kind, message):
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(kind, match=message):
            call()
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_a_loss_that_is_no_number_ends_the_training(weights):
    nan_at_two = lambda x, step: jnp.sum(x**2) + jnp.where(step == 2, jnp.nan, 0.0)
    for batches in (lambda step: step, iter(range(9))):
        out = dln.train(nan_at_two, weights, optax.sgd(RATE), 5, batches=batches, throw=False)
        assert out.result == "non_finite" and out.steps == 1 and all(jnp.isfinite(w).all() for w in out.weights)
