"""Derivatives of the flow in its start, its energy, the depth and the times, in both modes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln

pytestmark = pytest.mark.slow
NAMES = ["depth 1", "depth 2", "depth 3.5", "infinite depth", "identity", "repeated pair", "stationary"]
DISTINCT = jnp.arange(len(NAMES)) < 4


def outputs(mask, x0, labels, depth, ts, **options):
    energy = dln.MatrixCompletion(labels, mask)
    solution = dln.gradient_flow(energy, x0, depth=depth, ts=ts, rtol=1e-10, atol=1e-12, throw=False, **options)
    if options:
        return solution.observed
    # The rank and the energy are smooth in X at repeated singular values, where each of those alone is not.
    return {
        "x": solution.x,
        "sigma": solution.sigma,
        "rank": solution.effective_rank,
        "energy": solution.energy,
        "final": solution.final.matrix,
        "t_end": solution.t_end,
    }


def observe(point):
    return point.matrix[0], dln.effective_rank(point.sigma)


@pytest.fixture(scope="module")
def cases(module_key):
    """(masks, points, directions), with a case for each of NAMES."""
    ka, kb, kc, kd = jax.random.split(module_key, 4)
    n, eye, off = len(NAMES), jnp.eye(3), ~jnp.eye(3, dtype=bool)
    x0 = jnp.eye(3) + 0.5 * jax.random.normal(ka, (n, 3, 3))
    x0 = x0.at[4:].set(jnp.stack([eye, jnp.diag(jnp.array([1.0, 1.0, 0.5])), eye]))
    labels = jax.random.normal(kb, (n, 3, 3)).at[6].set(eye)
    mask = jax.random.bernoulli(kc, 0.6, (n, 3, 3)).at[4:].set(jnp.stack([off, off, ~off]))
    depth = jnp.array([1.0, 2.0, 3.5, jnp.inf, jnp.inf, 2.5, jnp.inf])
    ts = jnp.tile(jnp.array([0.0, 0.3, 1.0]), (n, 1))
    keys = jax.random.split(kd, 3)
    along = [jax.random.normal(k, a.shape) for k, a in zip(keys, (x0, labels, ts), strict=True)]
    # There is no depth below 1, and no difference quotient at infinity.
    ddepth = jnp.where((depth > 1) & jnp.isfinite(depth), 0.7, 0.0)
    return mask, (x0, labels, depth, ts), (along[0], along[1], ddepth, along[2])


@pytest.fixture(scope="module")
def forward(cases):
    mask, points, directions = cases
    push = lambda mask, points, directions: jax.jvp(lambda *a: outputs(mask, *a), points, directions)[1]
    return jax.jit(jax.vmap(push))(mask, points, directions)


def test_tangents_are_those_of_central_differences(cases, forward):
    mask, points, directions = cases
    h = 1e-4
    move = lambda s: jax.tree.map(lambda a, da: a + s * h * da, points, directions)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), move(1), move(-1))
    values = jax.jit(jax.vmap(outputs))(jnp.concatenate([mask, mask]), *both)
    expected = jax.tree.map(lambda v: (v[: len(NAMES)] - v[len(NAMES) :]) / (2 * h), values)
    for name, tangent in forward.items():
        smooth = DISTINCT if name == "sigma" else slice(None)
        assert_close(tangent[smooth], expected[name][smooth], FINITE_DIFFERENCE)


def test_stationary_state_still_has_a_derivative(cases, forward):
    # At the identity lambda_kl = 1, so the linearised flow takes the diagonal to that of the labels at the rate 1.
    _, (_, _, _, ts), (dx0, dlabels, _, _) = cases
    expected = np.diagonal(dlabels[-1] + np.exp(ts[-1, 0] - ts[-1, -1]) * (dx0[-1] - dlabels[-1]))
    assert_close(np.diagonal(forward["x"][-1, -1]), expected, INTEGRATION)
    assert_close(np.diagonal(forward["final"][-1]), expected, INTEGRATION)


@pytest.mark.long
def test_reverse_mode_through_observe_is_the_transpose_of_forward_mode(cases, forward):
    mask, points, directions = cases
    weight = jnp.cos(jnp.arange(12.0)).reshape(3, 4)
    paired = lambda row, rank: jnp.sum(weight[:, :3] * row) + jnp.sum(weight[:, 3] * rank)
    value = lambda points, mask: paired(*outputs(mask, *points, observe=observe))
    gradient = jax.jit(jax.vmap(jax.grad(value)))(points, mask)
    contract = jax.vmap(lambda g, d: sum(jnp.sum(a * b) for a, b in zip(g, d, strict=True)))
    expected = jax.vmap(paired)(forward["x"][:, :, 0], forward["rank"])
    assert_close(contract(gradient, directions), expected, INTEGRATION)


def test_limit_of_a_complete_matrix_follows_its_labels_and_forgets_its_start(key):
    ka, kb = jax.random.split(key)
    x0, labels = (jnp.eye(3) + dln.gaussian(k, 3, 0.2) for k in (ka, kb))
    weight = jnp.cos(jnp.arange(9.0)).reshape(3, 3)

    def value(x0, labels, start):
        energy = dln.MatrixCompletion(labels, jnp.ones((3, 3), bool))
        ts = start + jnp.array([0.0, 1000.0])
        solution = dln.gradient_flow(energy, x0, depth=3, ts=ts, rtol=1e-10, atol=1e-12, stop=dln.Steady(1e-9))
        return jnp.sum(weight * solution.x[-1]) + solution.t_end

    dx0, dlabels, dstart = jax.grad(value, (0, 1, 2))(x0, labels, 2.0)
    assert_close(dx0, np.zeros((3, 3)), 10 * INTEGRATION)
    assert_close(dlabels, weight, 10 * INTEGRATION)
    # The time to rest does not depend on when the flow starts.
    assert_close(dstart, 1.0, 10 * INTEGRATION)


@pytest.mark.long
def test_start_of_lower_rank_has_a_flow_and_no_derivative():
    x0, energy = jnp.diag(jnp.array([1.0, 0.5, 0.0])), dln.MatrixCompletion.diagonal(3)
    end = lambda scale: jnp.sum(dln.gradient_flow(energy, scale * x0, ts=[0.0, 1.0], throw=False).x[-1])
    assert jnp.isfinite(end(1.0))
    with pytest.raises(ValueError, match="rank r < d has no derivative"):
        jax.block_until_ready(jax.grad(end)(1.0))


@pytest.mark.long
def test_second_derivative_in_the_times():
    # At rest on the diagonal, dx/dt = -(x - 1) x^2 at d = 1 and infinite depth, of which d2x/dt2 follows.
    energy = lambda x: jnp.sum((x - 1) ** 2) / 2
    end = lambda t: dln.gradient_flow(
        energy, jnp.array([[0.5]]), ts=jnp.array([0.0, 1.0]) * t, rtol=1e-10, atol=1e-12
    ).x[-1, 0, 0]
    x, t = end(2.0), 2.0
    velocity = lambda x: -(x - 1) * x**2
    assert_close(jax.jacfwd(end)(t), velocity(x), INTEGRATION)
    assert_close(jax.jacfwd(jax.jacfwd(end))(t), jax.grad(velocity)(x) * velocity(x), INTEGRATION)


@pytest.mark.long
@pytest.mark.parametrize("as_start", [lambda point: point.matrix, lambda point: point], ids=["matrix", "frame"])
def test_second_derivative_of_a_matrix_that_is_not_square(as_start):
    # With one layer the flow of |X - L|^2/2 is X(t) = L + exp(-t) (X(0) - L).
    labels, ts = jnp.arange(6.0).reshape(2, 3) / 6, jnp.array([0.0, 0.5])

    def start(a):
        turn = jnp.array([[jnp.cos(a), -jnp.sin(a)], [jnp.sin(a), jnp.cos(a)]])
        plane = jnp.array([[jnp.cos(a), 0.0], [0.0, 1.0], [jnp.sin(a), 0.0]])
        return dln.SVD(turn @ turn, jnp.array([1.0, 0.6]) * (1 + a), plane @ turn)

    def flow(a):
        return dln.gradient_flow(
            lambda x: jnp.sum((x - labels) ** 2) / 2, as_start(start(a)), depth=1, ts=ts, rtol=1e-10, atol=1e-12
        ).x

    exact = lambda a: labels + jnp.exp(-ts)[:, None, None] * (start(a).matrix - labels)
    twice = lambda f: jax.jacfwd(jax.jacfwd(f))(0.3)
    assert_close(twice(flow), twice(exact), INTEGRATION)


@pytest.mark.parametrize("start", ["generic", "repeated"])
def test_second_derivatives_are_those_of_two_forward_modes(start):
    # `jax.hessian` raised RecursionError, and `jax.grad` of `jax.grad` "Linearization failed".
    x0 = {"generic": jnp.array([[0.5, 0.1, 0.0], [0.1, 0.5, 0.2], [0.0, 0.3, 0.9]]), "repeated": jnp.eye(3) / 2}[start]
    energy = dln.MatrixCompletion.diagonal(3)
    # Neither the frame nor the singular values of the repeated start have a derivative along this line.
    along = jnp.array([[0.3, 0.1, -0.4], [0.2, -0.2, 0.5], [0.1, 0.4, 0.2]])
    start_at = lambda s: x0 + (s - 1) * along
    f = lambda s: dln.gradient_flow(energy, start_at(s), ts=[0.0, 1.0, 2.0]).energy[-1]
    expected = float(jax.jacfwd(jax.jacfwd(f))(1.0))
    assert float(jax.hessian(f)(1.0)) == pytest.approx(expected, rel=1e-10)
    assert float(jax.grad(jax.grad(f))(1.0)) == pytest.approx(expected, rel=1e-10)
    g, h = jax.grad(f), 1e-3
    assert float(g(1.0 + h) - g(1.0 - h)) / (2 * h) == pytest.approx(expected, rel=1e-4)


def test_too_many_steps_for_a_derivative_are_said():
    weight, x0 = jnp.array([[1.0, 1e4], [1e4, 1e4]]), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
    energy = lambda x: jnp.sum(weight * (x - jnp.eye(2)) ** 2) / 2
    with pytest.raises(ValueError, match="needs more than 4096 steps"):
        jax.grad(lambda x: dln.gradient_flow(energy, x, depth=1.5, ts=[0.0, 3.0]).x[-1, 0, 0])(x0)


@pytest.mark.long
def test_a_flow_that_fails_leaves_the_derivatives_of_its_neighbours():
    def final(c):
        energy = lambda x: c * jnp.sum((x - jnp.eye(2)) ** 2) / 2
        x0 = jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        return dln.gradient_flow(energy, x0, depth=3.0, ts=[0.0, 1.0], throw=False).energy[-1]

    alone, both = jax.grad(final)(1.0), jax.vmap(jax.grad(final))(jnp.array([1.0, jnp.nan]))
    assert_close(both[0], alone, INTEGRATION)
    assert jnp.isnan(both[1])


@pytest.mark.long
@pytest.mark.parametrize("columns", [2, 1])
def test_a_sum_over_the_seeds_that_have_not_failed_has_its_derivative(columns):
    """The flow of the larger start blows up, after the first of the times."""
    starts = jnp.array([[0.6, 0.1], [-0.1, 0.5]])[:, :columns] * jnp.array([1.0, 6.0])[:, None, None]

    def total(c):
        energy = lambda x: c * jnp.sum(x**2) / 2 - jnp.sum(x**4) / 4
        flow = lambda x0: dln.gradient_flow(energy, x0, depth=3.0, ts=[0.0, 0.001, 0.5], throw=False)
        sol = jax.vmap(flow)(starts)
        ended = sol.result == "successful"
        return jnp.sum(jnp.where(ended, sol.sigma[:, -1, 0], 0.0)) + jnp.sum(sol.sigma[:, 1, 0]), ended

    (_, ended), slope = jax.value_and_grad(total, has_aux=True)(1.0)
    np.testing.assert_array_equal(ended, [True, False])
    h = 1e-4
    assert_close(slope, (total(1 + h)[0] - total(1 - h)[0]) / (2 * h), FINITE_DIFFERENCE)
