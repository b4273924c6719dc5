"""Networks of any widths, as sequences of matrices: rectangular, with bottlenecks, wide, balanced or not."""

import itertools
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln

# n_0, ..., n_N: from n_0 inputs to n_N outputs.
WIDTHS = [(3, 2), (2, 4, 3), (3, 1, 2), (2, 3, 3, 2), (4, 3, 2, 5)]
WIDE = (2, 4, 3)


def drawn(key, widths, scale=1.0):
    keys = jax.random.split(key, len(widths) - 1)
    shapes = [(m, n) for n, m in itertools.pairwise(widths)]
    return tuple(scale * jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True))


def target_of(widths):
    """A matrix of full rank that no width is hidden in."""
    return jnp.cos(jnp.arange(widths[0] * widths[-1], dtype=float)).reshape(widths[-1], widths[0])


def energy_of(widths):
    target = target_of(widths)
    return lambda x: jnp.sum((x - target) ** 2) / 2


def defects(weights):
    return [w @ w.T - v.T @ v for w, v in itertools.pairwise(map(np.asarray, weights))]


def least_squares(weights):
    """Half the sum of squares of all factors."""
    return sum(float(jnp.sum(w**2)) for w in weights)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_product_and_balancedness_are_those_of_numpy(widths, key):
    weights = drawn(key, widths)
    assert_close(dln.product(weights), reduce(lambda x, w: w @ x, map(np.asarray, weights)), ALGEBRA)
    found = dln.balancedness(list(weights))
    assert isinstance(found, tuple) and len(found) == len(weights) - 1
    for g, expected in zip(found, defects(weights), strict=True):
        assert_close(g, expected, ALGEBRA)


BALANCED = [((2, 3), 2, None), ((2, 3), 3, (2, 5)), ((3, 2), 1, None), ((4, 2), 4, (7, 2, 3)), ((3, 3), 3, (3, 4))]


@pytest.mark.parametrize(("shape", "depth", "widths"), BALANCED, ids=str)
def test_balanced_factors_have_the_widths_the_product_and_the_least_norm(shape, depth, widths, key):
    x = jax.random.normal(key, shape)
    weights = dln.balanced_factors(x, depth, widths)
    hidden = (min(shape),) * (depth - 1) if widths is None else widths
    assert [w.shape for w in weights] == [(m, n) for n, m in itertools.pairwise((shape[1], *hidden, shape[0]))]
    assert_close(dln.product(weights), x, ALGEBRA)
    for g in dln.balancedness(weights):
        assert_close(g, np.zeros(g.shape), ALGEBRA)
    sigma = np.linalg.svd(x, compute_uv=False)
    assert_close(least_squares(weights), depth * np.sum(sigma ** (2 / depth)), ALGEBRA)


def test_factors_of_a_point_of_low_rank_go_through_a_layer_of_that_width(key):
    full = dln.svd(jax.random.normal(key, (4, 3)))
    point = dln.SVD(full.u[:, :2], full.sigma[:2], full.v[:, :2])
    for weights in (
        dln.balanced_factors(point, 3),
        dln.balanced_factors(point.matrix, 3, widths=(2, 2)),
        # In any order, and with signs.
        dln.balanced_factors(dln.SVD(-point.u[:, ::-1], -point.sigma[::-1], point.v[:, ::-1]), 3),
        dln.imbalanced_factors(point, (0.0, 0.0)),
    ):
        assert [w.shape for w in weights] == [(2, 3), (2, 2), (4, 2)]
        assert_close(dln.product(weights), point.matrix, ALGEBRA)
        assert_close(dln.balancedness(weights)[0], np.zeros((2, 2)), ALGEBRA)
    square = dln.balanced_factors(dln.svd(full.matrix[:3]), 2)
    assert isinstance(square, jax.Array) and square.shape == (2, 3, 3)
    with pytest.raises(RuntimeError, match="widths must be at least the rank of x"):
        jax.block_until_ready(jax.jit(lambda x: dln.balanced_factors(x, 2, widths=(1,)))(full.matrix))


IMBALANCED = [
    ((3, 3), 0.7),
    ((2, 4), -3.0),
    ((4, 2), 1e4),
    ((2, 3), (0.5, -0.2)),
    ((3, 2), (1e-9, 2.0, -2.0)),
    ((2, 2), ()),
]


@pytest.mark.parametrize(("shape", "g"), IMBALANCED, ids=str)
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e100])
def test_imbalanced_factors_have_the_imbalance_and_the_product(shape, g, scale, key):
    x = scale * jax.random.normal(key, shape)
    weights = dln.imbalanced_factors(x, g)
    assert isinstance(weights, jax.Array) == (shape[0] == shape[1])
    assert_close(dln.product(weights) / scale, x / scale, ALGEBRA)
    for p, (defect, w) in enumerate(zip(defects(weights), weights[:-1], strict=True)):
        expected = np.atleast_1d(g)[p] * np.eye(min(shape))
        unit = np.linalg.norm(w) ** 2 + np.linalg.norm(expected)
        assert_close(defect / unit, expected / unit, ALGEBRA)


FLOWS = [((2, 3), (0.8,)), ((4, 2), (-1.5,)), ((3, 3), (0.3, -0.6)), ((2, 2), (1.0, 1.0, -4.0)), ((1, 4), (20.0,))]


@pytest.mark.parametrize(("shape", "g"), FLOWS, ids=str)
def test_the_flow_keeps_the_imbalance_all_the_way(shape, g, key):
    weights = dln.imbalanced_factors(0.5 * jax.random.normal(key, shape), g)
    energy = energy_of(shape[::-1])
    sol = dln.network_flow(energy, weights, ts=[0.0, 0.3, 1.0, 4.0, 30.0], rtol=1e-12)
    along = jnp.swapaxes(sol.weights, 0, 1) if isinstance(sol.weights, jax.Array) else sol.weights
    for k in range(len(sol.ts)):
        for p, found in enumerate(defects([w[k] for w in along])):
            assert_close(found, g[p] * np.eye(min(shape)), 1e-9)
    assert energy(sol.x[-1]) < 0.1 * energy(sol.x[0])


@pytest.mark.parametrize("widths", WIDTHS[1:], ids=str)
def test_the_flow_from_any_start_is_that_of_scipy(widths, key):
    weights, energy = drawn(key, widths, 0.7), energy_of(widths)
    found = dln.network_flow(energy, weights, ts=[0.0, 0.9], rtol=1e-11, atol=1e-13)
    flat, unravel = ravel_pytree(weights)
    layers = lambda y: [np.asarray(w) for w in unravel(jnp.asarray(y))]
    target, n = np.asarray(target_of(widths)), len(weights)

    # (1.5)-(1.6) over N, written out.
    def velocity(t, y):
        w = layers(y)
        slope = reduce(lambda x, v: v @ x, w) - target
        above = lambda p: reduce(lambda x, v: v @ x, w[p + 1 :], np.eye(widths[p + 1]))
        below = lambda p: reduce(lambda x, v: v @ x, w[:p], np.eye(widths[0]))
        return -np.concatenate([(above(p).T @ slope @ below(p).T).ravel() for p in range(n)]) / n

    out = solve_ivp(velocity, (0, 0.9), np.asarray(flat), method="DOP853", rtol=1e-12, atol=1e-14)
    for w, expected in zip(found.weights, layers(out.y[:, -1]), strict=True):
        assert w.shape == (2, *expected.shape)
        assert_close(w[-1], expected, INTEGRATION)
    assert f"widths {', '.join(map(str, widths))}, 2 times" in repr(found) and found.x.shape == (
        2,
        widths[-1],
        widths[0],
    )


def test_a_sequence_of_square_factors_is_the_stack(key):
    stack, energy = 0.6 * jax.random.normal(key, (3, 2, 2)), energy_of((2, 2))
    chain, options = tuple(stack), {"ts": [0.0, 0.5], "rtol": 1e-11}
    assert_close(dln.network_flow(energy, chain, **options).x, dln.network_flow(energy, stack, **options).x, 1e-9)
    for f in (dln.balance, lambda w: dln.horizontal_lift(w, jnp.ones((2, 2))), dln.balancedness):
        found = f(chain)
        assert isinstance(found, tuple)
        assert_close(jnp.stack(found), f(stack), 100 * ALGEBRA)
    one, other = (dln.train(energy, w, optax.adam(0.01), 5).weights for w in (chain, stack))
    assert_close(jnp.stack(one), other, ALGEBRA)
    assert_close(dln.tangent_kernel(chain), dln.tangent_kernel(stack), ALGEBRA)


@pytest.mark.parametrize("shape", [(2, 4), (4, 2)], ids=str)
def test_from_balanced_factors_the_flow_is_that_of_gradient_flow(shape, key):
    x0, energy, ts = 0.5 * jax.random.normal(key, shape), energy_of(shape[::-1]), [0.0, 0.4, 2.0]
    down = dln.gradient_flow(energy, x0, depth=3, ts=ts, rtol=1e-11, atol=1e-13)
    for widths in ((2, 2), (3, 5)):
        up = dln.network_flow(energy, dln.balanced_factors(x0, 3, widths), ts=ts, rtol=1e-11, atol=1e-13)
        assert_close(up.x, down.x, 1e-8)


@pytest.mark.parametrize("g", [(0.7,), (-0.4, 1.1)], ids=str)
def test_from_imbalanced_factors_the_flow_is_that_of_gradient_flow(g, key):
    x0, energy, ts = 0.5 * jax.random.normal(key, (2, 3)), energy_of((3, 2)), [0.0, 0.5, 2.0]
    up = dln.network_flow(energy, dln.imbalanced_factors(x0, g), ts=ts, rtol=1e-11)
    down = dln.gradient_flow(energy, x0, depth=dln.Imbalanced(g), ts=ts, rtol=1e-10, atol=1e-12)
    assert_close(down.x, up.x, INTEGRATION)


def test_zeros_around_a_network_change_nothing(key):
    weights, energy = drawn(key, (2, 2, 3)), energy_of((2, 3))
    x = dln.network_flow(energy, weights, ts=[0.0, 1.0], rtol=1e-11).x[-1]
    padded = jnp.stack([jnp.pad(w, ((0, 3 - w.shape[0]), (0, 3 - w.shape[1]))) for w in weights])
    larger = dln.network_flow(lambda x: energy(x[:3, :2]), padded, ts=[0.0, 1.0], rtol=1e-11).x[-1]
    assert_close(larger, np.pad(x, ((0, 0), (0, 1))), 1e-9)


def test_flows_of_many_networks_are_one_call(key):
    energy = energy_of(WIDE)
    flow = lambda w: dln.network_flow(energy, w, ts=[0.0, 0.4], throw=False)
    many = [drawn(k, WIDE) for k in jax.random.split(key, 2)]
    both = jax.vmap(flow)(jax.tree.map(lambda *w: jnp.stack(w), *many))
    assert both.weights[0].shape == (2, 2, 4, 2) and "successful 2" in repr(both) and both.plot() is not None
    for one, start in zip(both, many, strict=True):
        assert_close(one.x, flow(start).x, INTEGRATION)


@pytest.mark.long
def test_the_derivative_in_the_imbalance_is_that_of_differences(key):
    x0, energy, h = 0.5 * jax.random.normal(key, (3, 2)), energy_of((2, 3)), 1e-4

    @jax.jit
    def end(g):
        weights = dln.imbalanced_factors(x0, g)
        return dln.network_flow(energy, weights, ts=[0.0, 0.7], rtol=1e-10, max_steps=200).x[-1, 0, 0]

    for g in (0.0, 0.9):
        assert_close(jax.grad(end)(g), (end(g + h) - end(g - h)) / (2 * h), FINITE_DIFFERENCE)


@pytest.mark.parametrize("widths", [(2, 4, 3), (3, 1, 2), (4, 3, 2, 5), (3, 2)], ids=str)
def test_balancing_keeps_the_product_and_ends_at_least_norm(widths, key):
    weights = drawn(key, widths)
    balanced, x = dln.balance(weights), dln.product(weights)
    assert [w.shape for w in balanced] == [w.shape for w in weights]
    assert_close(dln.product(balanced), x, 1e-9)
    for g in dln.balancedness(balanced):
        assert_close(g, np.zeros(g.shape), 1e-9)
    sigma = np.linalg.svd(x, compute_uv=False)
    n = len(weights)
    assert_close(least_squares(balanced), n * np.sum(sigma[: min(widths)] ** (2 / n)), 1e-9)
    if n == 1:
        return
    with pytest.raises(RuntimeError, match="product of full rank, which is"):
        jax.block_until_ready(jax.jit(lambda w: dln.balance(w))(jax.tree.map(jnp.zeros_like, weights)))


def test_what_is_single_stays_single(key):
    short = lambda tree: jax.tree.map(lambda w: w.astype(jnp.float32), tree)
    weights = drawn(key, (2, 4, 3))
    for f in (dln.balance, dln.tangent_kernel, lambda w: dln.imbalanced_factors(dln.product(w), 0.5)):
        for found, expected in zip(jax.tree.leaves(f(short(weights))), jax.tree.leaves(f(weights)), strict=True):
            assert found.dtype == jnp.float32 and np.allclose(found, expected, atol=1e-4)


def test_balancing_a_sequence_ends_where_the_flow_on_the_fibre_does(key):
    # The hidden widths are the rank, so that nothing is left out before. The norms are equal, as `balance` makes them.
    weights = [w / jnp.linalg.norm(w) for w in drawn(key, (3, 2, 2, 4))]
    _, unravel = ravel_pytree(weights)

    def velocity(t, y):
        w = [np.asarray(w) for w in unravel(jnp.asarray(y))]
        g = [np.zeros((3, 3)), *defects(w), np.zeros((4, 4))]
        return np.concatenate([(w[p] @ g[p] - g[p + 1] @ w[p]).ravel() for p in range(3)])

    start = np.concatenate([np.ravel(w) for w in weights])
    out = solve_ivp(velocity, (0, 200.0), start, method="DOP853", rtol=1e-10, atol=1e-12)
    for a, b in zip(unravel(jnp.asarray(out.y[:, -1])), dln.balance(weights), strict=True):
        assert_close(a, b, INTEGRATION)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_lifts_are_those_of_the_pseudoinverse(widths, key):
    weights = drawn(key, widths)
    flat, unravel = ravel_pytree(weights)
    jacobian = np.asarray(jax.jacobian(lambda y: dln.product(unravel(y)).ravel())(flat))
    motion = drawn(jax.random.fold_in(key, 1), widths)
    z = jacobian @ np.asarray(ravel_pytree(motion)[0])
    rank = min(widths) * (widths[0] + widths[-1] - min(widths))
    inverse = np.linalg.pinv(jacobian, rcond=1e-10)
    assert np.linalg.matrix_rank(jacobian) == rank
    expected = unravel(jnp.asarray(inverse @ z))
    lift = dln.horizontal_lift(weights, jnp.asarray(z).reshape(widths[-1], widths[0]))
    horizontal, vertical = dln.horizontal_projection(weights, motion), dln.vertical_projection(weights, motion)
    for p, w in enumerate(expected):
        assert_close(lift[p], w, 1e3 * ALGEBRA)
        assert_close(horizontal[p], w, 1e3 * ALGEBRA)
        assert_close(vertical[p], motion[p] - w, 1e3 * ALGEBRA)


def test_lifts_of_deep_networks_keep_the_digits_that_the_map_leaves():
    """The condition number of d phi is 1e7 here, and that of d phi d phi^T its square."""
    rng = np.random.default_rng(0)
    weights, motion = jnp.asarray(rng.normal(size=(2, 20, 3, 3)) / 3**0.5)
    z = jnp.asarray(rng.normal(size=(3, 3)))
    lift = dln.horizontal_lift(weights, z)
    assert_close(jax.jvp(dln.product, (weights,), (lift,))[1], z, 1e-7)
    jacobian = np.asarray(jax.jacobian(dln.product)(weights)).reshape(9, -1)
    right = np.linalg.svd(jacobian, full_matrices=False)[2]
    assert np.linalg.cond(jacobian) > 1e6
    assert_close(lift.ravel(), np.linalg.lstsq(jacobian, z.ravel(), rcond=None)[0], 1e-7)
    assert_close(dln.horizontal_projection(weights, motion).ravel(), right.T @ (right @ motion.ravel()), 1e-7)


@pytest.mark.long
def test_lifts_through_a_bottleneck_have_derivatives(key):
    weights, motion = drawn(key, (3, 1, 2)), drawn(jax.random.fold_in(key, 1), (3, 1, 2))
    f = lambda w: sum(jnp.sum(jnp.sin(v)) for v in dln.horizontal_projection(w, motion))
    slope, h = jax.grad(f)(weights), 1e-5
    ahead, behind = (f(tuple(w + s * v for w, v in zip(weights, motion, strict=True))) for s in (h, -h))
    found = sum(jnp.sum(s * v) for s, v in zip(slope, motion, strict=True))
    assert_close(found, (ahead - behind) / (2 * h), FINITE_DIFFERENCE)


def test_lifts_where_the_kernel_of_the_map_has_entries_of_exactly_zero():
    # Through a layer of width 1, d phi d phi^T has a row of zeros here, and no inverse.
    weights = dln.balanced_factors(dln.SVD(jnp.eye(2)[:, :1], jnp.array([4.0]), jnp.eye(2)[:, :1]), 2)
    for p, lift in enumerate(dln.horizontal_lift(weights, jnp.array([[1.0, 2.0], [3.0, 0.0]]))):
        assert_close(lift, [[[0.25, 1.0]], [[0.25], [1.5]]][p], ALGEBRA)


def test_lifts_of_factors_of_any_size(key):
    weights, motion = drawn(key, (2, 4, 2, 3)), drawn(jax.random.fold_in(key, 1), (2, 4, 2, 3))
    scaled = lambda powers: tuple(w * 2.0**k for w, k in zip(weights, powers, strict=True))
    expected = dln.horizontal_projection(weights, motion)
    for w, same in zip(expected, dln.horizontal_projection(scaled((-300,) * 3), motion), strict=True):
        assert_close(same, w, 1e3 * ALGEBRA)
    far = scaled((-100, 50, 0))
    once = dln.horizontal_projection(far, motion)
    for w, again in zip(once, dln.horizontal_projection(far, once), strict=True):
        assert_close(again, w, 1e3 * ALGEBRA)
    with pytest.raises(ValueError, match="weights must not differ by more than 7e"):
        dln.horizontal_projection(scaled((-800, 0, 0)), motion)


def test_training_is_the_loop_of_optax(key):
    weights, energy, optimizer = drawn(key, WIDE, 0.5), energy_of(WIDE), optax.adam(0.01)
    out = dln.train(energy, list(weights), optimizer, [0, 4])
    layers, state = weights, optimizer.init(weights)
    for _ in range(4):
        slope = jax.grad(lambda w: energy(dln.product(w)))(layers)
        updates, state = optimizer.update(slope, state, layers)
        layers = optax.apply_updates(layers, updates)
    for w, start, end in zip(out.weights, weights, layers, strict=True):
        assert_close(w, jnp.stack([start, end]), ALGEBRA)
    assert out.x.shape == (2, 3, 2) and "N = 2, widths 2, 4, 3" in repr(out)


@pytest.mark.parametrize("count", [17, 26, 40, 51, 52])
def test_product_of_a_long_sequence_is_not_its_transpose(count):
    layers = [
        np.random.default_rng(k).standard_normal((3 if k < count - 1 else 4, 3 if k else 2)) for k in range(count)
    ]
    expected = reduce(lambda x, w: w @ x, layers)
    np.testing.assert_allclose(dln.product(layers), expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("factors", [lambda x: dln.balanced_factors(x, 2), lambda x: dln.imbalanced_factors(x, 2.0)])
def test_factors_have_no_derivative_where_singular_values_repeat(factors):
    move = jnp.array([[0.3, 0.5], [-0.2, 0.7]])
    for start, known in ((2 * jnp.eye(2), False), (jnp.array([[1.0, 2.0], [0.0, 3.0]]), True)):
        for slope in (jax.jacfwd, jax.jacrev):
            change = slope(lambda s, start=start: dln.balancedness(factors(start + s * move)))(0.0)
            # Along a derivative the factors stay as far from balanced as they are.
            assert jnp.abs(change).max() < 1e-12 if known else jnp.all(jnp.isnan(change))
