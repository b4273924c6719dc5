"""What holds along every flow, over random draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.flows import completion_gradient, ended, flows, scipy_flow
from support.programs import FLOW_PROGRAMS, lowered
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

import dlnjax as dln

D, TS = 3, np.array([0.0, 0.1, 0.5, 2.0])
DEPTHS = np.array([1.0, 1.5, 2.0, 3.0, 7.5, np.inf] * 2)
N = len(DEPTHS)


def completion(labels, mask, starts, depth=DEPTHS, ts=TS, **options):
    return flows(dln.MatrixCompletion, (labels, mask), starts, depth, ts, **options)


@pytest.fixture(scope="module")
def draws(module_key):
    """Labels and masks, and starts of either sign of the determinant."""
    ka, kb, kc = jax.random.split(module_key, 3)
    starts = jax.random.normal(kc, (N, D, D))
    return jax.random.normal(ka, (N, D, D)), jax.random.bernoulli(kb, 0.6, (N, D, D)), starts


@pytest.fixture(scope="module")
def solution(draws):
    out = completion(*draws)
    # At depth 1.5 a mode may reach zero in finite time; until then it is a flow like any other.
    assert set(ended(out)) <= {"successful", "rank_lost"} and ended(out).count("successful") >= N - 2
    return out


def test_first_state_is_the_start(solution, draws):
    assert_close(solution.x[:, 0], draws[2], ALGEBRA)
    np.testing.assert_array_equal(solution.ts[0], TS)


def test_energy_never_increases(solution):
    assert np.all(np.diff(solution.energy, axis=1) <= INTEGRATION)
    assert np.all(solution.energy[:, -1] < solution.energy[:, 0])


def test_frames_are_orthogonal_and_singular_values_descend(draws, solution):
    # At a loose tolerance a frame that is not brought back at every step drifts by as much.
    for out in (solution, completion(*draws, rtol=1e-3, atol=1e-5)):
        for q in (out.svd.u, out.svd.v, out.final.u, out.final.v):
            assert_close(jnp.swapaxes(q, -1, -2) @ q, np.broadcast_to(np.eye(D), q.shape), ALGEBRA)
    assert np.all(solution.sigma >= 0) and np.all(np.diff(solution.sigma, axis=-1) <= 0)
    np.testing.assert_array_equal(solution.svd.sigma, solution.sigma)


def test_determinant_keeps_its_sign_at_depth_above_one(solution, draws):
    signs = np.sign(np.linalg.det(np.asarray(solution.x)))[DEPTHS > 1]
    assert {-1.0, 1.0} == set(signs[:, 0])
    np.testing.assert_array_equal(signs, np.tile(signs[:, :1], len(TS)))


def test_flow_is_equivariant_under_turns_from_left_and_right(module_key):
    ka, kb, kc, kd, ke = jax.random.split(module_key, 5)
    q1, q2 = (jnp.linalg.qr(jax.random.normal(k, (D, D)))[0] for k in (ka, kb))
    measurements = jax.random.normal(kc, (N, 4, D, D))
    values, starts = jax.random.normal(kd, (N, 4)), jnp.eye(D) + 0.4 * jax.random.normal(ke, (N, D, D))
    turned = q1 @ measurements @ q2.T
    plain, other = (
        flows(dln.MatrixSensing, (a, values), x, DEPTHS, TS[:3]).x
        for a, x in ((measurements, starts), (turned, q1 @ starts @ q2.T))
    )
    assert_close(other, q1 @ plain @ q2.T, INTEGRATION / 10)


def test_vmap_is_the_loop(draws, solution):
    for i in (1, 4, 11):
        energy = dln.MatrixCompletion(draws[0][i], draws[1][i])
        alone = dln.gradient_flow(energy, draws[2][i], depth=DEPTHS[i], ts=TS, rtol=1e-10, atol=1e-12, throw=False)
        assert_close(alone.x, solution.x[i], INTEGRATION / 100)


def test_no_number_is_a_reason_to_compile_again():
    def energy(x):
        return jnp.sum((x - 2 * jnp.eye(2)) ** 2)

    counts = []
    for depth, rtol, ts, start in (
        (2, 1e-6, [0, 1], 1.0),
        (jnp.inf, 1e-5, [0.0, 3.0], 0.5),
        (3.5, 0.1, [2.0, 9.0], 2.0),
    ):
        with lowered() as programs:
            dln.gradient_flow(energy, start * jnp.eye(2), depth=depth, ts=ts, rtol=rtol, max_steps=int(1e5 * start))
        counts.append(sum(name in FLOW_PROGRAMS for name in programs))
    assert counts == [3, 0, 0]


def test_depths_compile_once_in_one_vmap():
    traces = []

    def one(depth):
        traces.append(depth)
        energy = dln.MatrixCompletion.diagonal(2)
        return dln.gradient_flow(energy, 0.5 * jnp.eye(2), depth=depth, ts=[0.0, 0.5], throw=False).sigma[-1, 0]

    flow = jax.jit(jax.vmap(one))
    ends = np.concatenate([flow(jnp.array([1.0, 2.0, 3.0])), flow(jnp.array([3.5, 1e6, jnp.inf]))])
    assert len(traces) == 1
    assert np.all(np.diff(ends) < 0)
    assert abs(ends[-1] - ends[-2]) < 1e-5


def test_steady_stops_at_rest_and_repeats_the_last_state(draws):
    labels = jnp.broadcast_to(jnp.eye(D), (N, D, D)) + 0.1 * draws[0]
    starts = labels + 0.3 * draws[0][::-1] / jnp.linalg.norm(draws[0][::-1], axis=(1, 2), keepdims=True)
    full, ts = jnp.ones((N, D, D), bool), np.array([0.0, 1.0, 500.0, 1000.0])
    rest = completion(labels, full, starts, ts=ts, stop=dln.Steady(1e-7))
    assert ended(rest) == ["steady"] * N
    assert np.all((rest.t_end > 1) & (rest.t_end < 500))
    np.testing.assert_array_equal(rest.x[:, 2], rest.x[:, 3])
    assert_close(rest.x[:, 3], rest.final.matrix, ALGEBRA)
    assert np.all(jnp.linalg.norm(rest.final.matrix - labels, axis=(1, 2)) <= 1e-7 + ALGEBRA)
    at_once = completion(labels, full, labels, ts=ts, stop=dln.Steady(1e-7))
    assert ended(at_once) == ["steady"] * N and np.all(at_once.t_end == 0)


def test_start_may_be_an_svd_in_any_order_and_sign(draws, solution):
    i, point = 2, dln.svd(draws[2][2])
    shuffled = dln.SVD(point.u[:, ::-1], -point.sigma[::-1], -point.v[:, ::-1])
    energy = dln.MatrixCompletion(draws[0][i], draws[1][i])
    again = dln.gradient_flow(energy, shuffled, depth=DEPTHS[i], ts=TS, rtol=1e-10, atol=1e-12)
    assert_close(again.x, solution.x[i], INTEGRATION)


@pytest.mark.parametrize("rank", [1, 2])
def test_flow_stays_on_the_matrices_of_the_rank_of_its_start(draws, rank):
    labels, mask, starts = (np.asarray(a) for a in draws)
    u, s, vt = np.linalg.svd(starts)
    u, s, vt = u[..., :rank], s[:, :rank], vt[:, :rank]
    low, depth, ts = (u * s[:, None]) @ vt, np.resize([2.0, 3.0, np.inf], N), TS / 4
    solution = completion(labels, mask, low, depth, ts)
    assert ended(solution) == ["successful"] * N
    assert np.all(solution.sigma[..., rank:] == 0) and np.all(np.isfinite(solution.x))
    for i in range(N):
        gradient = completion_gradient(labels[i], mask[i])
        if depth[i] < np.inf:
            expected = scipy_flow(gradient, low[i], depth[i], ts)
        else:  # the row and column spaces freeze, and what is left is the flow of the block between them
            block = lambda y, g=gradient, i=i: u[i].T @ g(u[i] @ y @ vt[i]) @ vt[i].T
            expected = u[i] @ scipy_flow(block, np.diag(s[i]), np.inf, ts) @ vt[i]
        assert_close(solution.x[i], expected, INTEGRATION)
    # At depth N the neighbours are at the distance to the power 2/N; at infinite depth at that of its logarithm.
    nearby = completion(labels, mask, low + 1e-13 * starts, depth, ts)
    assert_close(nearby.x[depth < np.inf], solution.x[depth < np.inf], 10 * INTEGRATION)
