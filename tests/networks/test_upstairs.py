"""The submersion from the factors to their product: lifts, projections, and the flows upstairs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import solve_ivp
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln

D, N = 2, 3
ENERGY = dln.MatrixCompletion.diagonal(D)


def push(weights, velocity):
    return jax.jvp(dln.product, (weights,), (velocity,))[1]


@pytest.fixture(scope="module")
def x0(module_key):
    return 0.8 * jnp.eye(D) + dln.gaussian(module_key, D, 0.2)


@pytest.fixture(params=["balanced", "not balanced"])
def weights(request, x0, key):
    balanced = dln.balanced_factors(x0, N)
    return balanced if request.param == "balanced" else balanced + 0.1 * jax.random.normal(key, balanced.shape)


def test_lift_is_horizontal_and_moves_the_product(weights, key):
    z = jax.random.normal(key, (D, D))
    lift = dln.horizontal_lift(weights, z)
    assert_close(push(weights, lift), z, 100 * ALGEBRA)
    t = lambda w: jnp.swapaxes(w, -1, -2)
    assert_close(t(weights[1:]) @ lift[1:], lift[:-1] @ t(weights[:-1]), 100 * ALGEBRA)


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_product_is_a_riemannian_submersion(x0, key, depth):
    # The thesis's g^N, which is ours over N: Theorem 2.2.6.
    z = jax.random.normal(key, (D, D))
    lift = dln.horizontal_lift(dln.balanced_factors(x0, depth), z)
    assert_close(jnp.sum(lift**2), dln.inner(x0, z, z, float(depth)) / depth, 100 * ALGEBRA)


def test_projections_split_a_motion(weights, key):
    v = jax.random.normal(key, weights.shape)
    horizontal, vertical = dln.horizontal_projection(weights, v), dln.vertical_projection(weights, v)
    assert_close(horizontal + vertical, v, ALGEBRA)
    assert_close(push(weights, vertical), np.zeros((D, D)), 100 * ALGEBRA)
    assert_close(jnp.sum(horizontal * vertical), 0.0, 100 * ALGEBRA)
    assert_close(dln.horizontal_projection(weights, horizontal), horizontal, 100 * ALGEBRA)


@pytest.mark.parametrize("powers", [(-266,) * N, (332,) * N, (-400, 300, 20), (-800, -5, 0)])
def test_lift_and_projection_of_factors_of_any_size(powers, weights, key):
    z, v = jax.random.normal(key, (D, D)), jax.random.normal(key, weights.shape)
    factors = 2.0 ** jnp.array(powers)[:, None, None]
    # Each factor's share of d phi: the lift of z is that of the largest where the sizes differ that much.
    lift = dln.horizontal_lift(factors * weights, z)
    others = jnp.array([sum(powers) - k for k in powers])
    moved = [push(weights, jnp.zeros_like(lift).at[i].set(lift[i] * 2.0 ** others[i])) for i in range(N)]
    assert_close(sum(moved), z, 100 * ALGEBRA)
    horizontal = dln.horizontal_projection(factors * weights, v)
    again = dln.horizontal_projection(factors * weights, horizontal)
    assert jnp.max(jnp.abs(horizontal)) > 1e-3
    assert_close(again, horizontal, 100 * ALGEBRA)
    if len(set(powers)) == 1:
        assert_close(horizontal, dln.horizontal_projection(weights, v), 100 * ALGEBRA)


def acceleration(x, p, depth, force):
    """W'' of the horizontal lift of the curve X' = A_X(P), P' = force(X, P), in closed form."""
    weights = dln.balanced_factors(x, depth)

    def velocity(w, p):
        return dln.horizontal_lift(w, dln.metric_operator(dln.product(w), p, float(depth)))

    primals = weights, p
    return weights, jax.jvp(velocity, primals, (velocity(weights, p), force(x, p)))[1]


@pytest.mark.parametrize("depth", [2, 3])
def test_lifts_of_geodesics_are_geodesics_of_the_balanced_manifold(x0, key, depth):
    # Theorem 3.1.2: the acceleration is normal to it, a combination of the gradients of what is constant there.
    p = jax.random.normal(key, (D, D))
    by_x = jax.grad(lambda x, p: dln.hamiltonian(x, p, float(depth)))

    def tangential(force):
        weights, a = acceleration(x0, p, depth, force)
        normals = jax.jacobian(lambda w: dln.balancedness(w).ravel())(weights).reshape(-1, weights.size).T
        inside = normals @ np.linalg.lstsq(normals, a.ravel(), rcond=1e-10)[0]
        return np.linalg.norm(a.ravel() - inside) / np.linalg.norm(a)

    assert tangential(lambda x, p: -by_x(x, p)) < INTEGRATION
    assert tangential(lambda x, p: 0 * p) > 1e-2


@pytest.mark.parametrize("depth", [2, 3, 20])
def test_from_balanced_factors_the_flow_is_that_of_gradient_flow(x0, depth):
    ts, options = jnp.array([0.0, 0.1, 0.5]), {"rtol": 1e-12, "atol": 1e-14}
    upstairs = dln.network_flow(ENERGY, dln.balanced_factors(x0, depth), ts=ts, **options)
    downstairs = dln.gradient_flow(ENERGY, x0, depth=depth, ts=ts, **options)
    assert_close(upstairs.x, downstairs.x, 1e-9)


def test_flow_from_any_start_is_that_of_scipy_and_conserves_balancedness(x0, key):
    weights = dln.balanced_factors(x0, N) + 0.3 * jax.random.normal(key, (N, D, D))
    found = dln.network_flow(ENERGY, weights, ts=[0.0, N * 0.7], rtol=1e-11, atol=1e-13)

    # (1.5), in the thesis's time, which is ours over N.
    def velocity(t, y):
        w = y.reshape(N, D, D)
        g = 2 * np.diag(np.diag(w[2] @ w[1] @ w[0]) - 1)
        return -np.ravel([(w[2] @ w[1]).T @ g, w[2].T @ g @ w[0].T, g @ (w[1] @ w[0]).T])

    out = solve_ivp(velocity, (0, 0.7), np.ravel(weights), method="DOP853", rtol=1e-12, atol=1e-14)
    assert_close(found.weights[-1], out.y[:, -1].reshape(N, D, D), INTEGRATION)
    assert_close(dln.balancedness(found.weights[-1]), dln.balancedness(weights), INTEGRATION)
    assert np.linalg.norm(dln.balancedness(weights)) > 0.1


def test_flows_of_many_networks_are_one_call(x0):
    weights = jnp.stack([dln.balanced_factors(x0, 3), dln.balanced_factors(2 * x0, 3)])
    flow = lambda weights: dln.network_flow(ENERGY, weights, ts=[0.0, 0.1], throw=False)
    many = jax.vmap(flow)(weights)
    assert_close(many.x[1], flow(weights[1]).x, INTEGRATION)
    assert "2 times from 0 to 0.1, successful 2" in repr(many) and many.plot() is not None


def test_flow_that_blows_up_ends_at_its_time_with_a_code():
    # w = (1 - 4t/3)^(-1/4): Theorem 2.1.1 "for all t" fails.
    out = dln.network_flow(lambda x: -(x[0, 0] ** 2) / 2, jnp.ones((3, 1, 1)), ts=[0.0, 0.3, 1.0], throw=False)
    assert out.result.names == "diverged"
    assert_close(out.t_end, 0.75, 1e-7)
    assert_close(out.weights[1], np.full((3, 1, 1), 0.6**-0.25), 1e-7)
    assert jnp.all(jnp.isfinite(out.weights))
    few = dln.network_flow(ENERGY, 5.0 * jnp.ones((3, D, D)), ts=[0.0, 1.0], max_steps=5, throw=False)
    assert few.result.names == "max_steps_reached" and jnp.all(jnp.isfinite(few.weights))


def test_balancing_keeps_the_product_and_ends_at_least_norm(x0, key):
    weights = 3.0 * (dln.balanced_factors(x0, N) + 0.3 * jax.random.normal(key, (N, D, D)))
    balanced, x = dln.balance(weights), dln.product(weights)
    assert_close(dln.product(balanced), x, 1e-9)
    assert_close(dln.balancedness(balanced), np.zeros((N - 1, D, D)), 1e-9)
    sigma = np.linalg.svd(x, compute_uv=False)
    assert_close(jnp.sum(balanced**2), N * np.sum(sigma ** (2 / N)), 1e-9)
    assert_close(dln.balance(balanced), balanced, 1e-9)


@pytest.mark.parametrize("far", [1e4, 1e100])
def test_balancing_arrives_from_layers_far_apart_in_norm(far, x0, key):
    weights = dln.balanced_factors(x0, N) + 0.3 * jax.random.normal(key, (N, D, D))
    expected = dln.product(weights)
    balanced = dln.balance(weights * jnp.array([far, 1.0, 1 / far])[:, None, None])
    assert_close(dln.product(balanced), expected, 1e-9)
    assert_close(dln.balancedness(balanced), np.zeros((N - 1, D, D)), 1e-9)
    # A common factor beyond the range of its own cube is put back evenly.
    assert_close(dln.balance(1e150 * weights) / 1e150, dln.balance(weights), 1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_layers_that_are_not_finite_end_with_the_sentence(bad, x0):
    weights = dln.balanced_factors(x0, N).at[1, 0, 1].set(bad)
    flow = lambda w: dln.network_flow(ENERGY, w, ts=[0.0, 0.1]).weights
    for f in (dln.balance, flow):
        with pytest.raises(ValueError, match="weights must be finite"):
            f(weights)
        with pytest.raises(RuntimeError, match="weights must be finite"):
            jax.block_until_ready(eqx.filter_jit(f)(weights))


@pytest.mark.parametrize("x", [1e-4, 1e-12, 1e-20])
def test_escape_from_a_small_start_is_exact(x):
    # X' = X (1 - X) at depth 2, from (x): X = 1/2 at t = log(1/x - 1).
    weights, t = jnp.sqrt(jnp.full((2, 1, 1), x)), np.log(1 / x - 1)
    out = dln.network_flow(lambda x: (x[0, 0] - 1) ** 2 / 2, weights, ts=[0.0, t])
    assert_close(out.x[-1], [[0.5]], 1e-6)


def test_neither_a_late_start_nor_a_long_span_costs_digits():
    energy, one = lambda x: -(x[0, 0] ** 2) / 2, jnp.ones((3, 1, 1))
    flow = lambda ts: dln.network_flow(energy, one, ts=ts, throw=False)
    late, early = flow([1e12, 1e12 + 0.5]), flow([0.0, 0.5])
    assert_close(late.weights, early.weights, ALGEBRA)
    assert late.t_end == 1e12 + 0.5
    long = flow([0.0, 1e30])
    assert long.result == dln.RESULTS.diverged
    assert_close(long.t_end, 0.75, 1e-7)
    # At a singular gradient the factors hardly move, however short the step: that is no blow-up.
    wall = dln.network_flow(lambda x: x[0, 0] ** 1.5 - x[0, 0], -one, ts=[0.0, 1.0], throw=False)
    assert wall.result == dln.RESULTS.non_finite


def test_a_number_that_the_energy_closes_over_is_read_at_each_call(x0):
    target = np.eye(D)
    energy = lambda x: jnp.sum((x - target) ** 2)
    weights, optimizer = dln.balanced_factors(x0, 2), optax.sgd(0.05)
    ends = {
        "flow": lambda: dln.network_flow(energy, weights, ts=[0.0, 30.0]).x[-1],
        "training": lambda: dln.train(energy, weights, optimizer, 300).x,
    }
    for end in ends.values():
        target[:] = np.eye(D)
        assert_close(end(), np.eye(D), 1e-5)
        target[:] = 2 * np.eye(D)
        assert_close(end(), 2 * np.eye(D), 1e-5)
