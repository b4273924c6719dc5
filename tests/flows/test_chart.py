"""The charts in which near values may cross: the same flow of X, and fewer steps."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln
from dlnjax._flows import step, trajectory
from dlnjax._flows.charts import BlockedFrame, Blocks, blocks, PairedFrame, Pairs, partners
from dlnjax._flows.frame import any_linked, Coupled, FrameCoordinates
from dlnjax._sweeps import downstairs

D = 6
SIGMA = jnp.array([0.3, 2.0, 2.0, 0.29, 1.0, 1e-3])
REST = 1e-3
PARTNER = [3, 2, 1, 0, 4, 5]
# In this chart three values share a block, and two of them are equal.
NUMBERS = jnp.array([2.04, 0.3, 2.0, 2.0, 1e-3, 0.29])
BLOCK = [0, 1, 0, 0, 2, 1]


def core(z):
    """K, written out."""
    if z.coupling.ndim == 2:
        return np.diag(z.sigma) + z.coupling
    i, off = np.arange(D), np.zeros((D, D))
    off[i, PARTNER] = np.where(np.asarray(PARTNER) == i, 0.0, z.coupling)
    return np.diag(z.sigma) + off


def matrix(z):
    return z.u @ core(z) @ z.v.T


def frame_of(energy, depth, kind=FrameCoordinates):
    return kind(energy, dln.Balanced(depth), *(jnp.array(x) for x in (1e-6, 1e-8, REST, 1e-7, 1e-8)))


def chart_of(kind, energy, depth):
    flow = frame_of(energy, depth)
    return Pairs(flow, jnp.asarray(PARTNER)) if kind == "pairs" else Blocks(flow, jnp.asarray(BLOCK))


@pytest.fixture(params=["pairs", "blocks"])
def point(key, request):
    """(the kind of a chart, an energy, a state in the chart)"""
    keys = jax.random.split(key, 4)
    u, v = (jnp.linalg.qr(jax.random.normal(k, (D, D)))[0] for k in keys[:2])
    energy = dln.MatrixCompletion(jax.random.normal(keys[3], (D, D)), jnp.ones((D, D), bool))
    if request.param == "pairs":
        coupling = jnp.where(jnp.asarray(PARTNER) == jnp.arange(D), 0.0, 0.05 * jax.random.normal(keys[2], (D,)))
        return "pairs", energy, Coupled(u, SIGMA, v, coupling + coupling[jnp.asarray(PARTNER)])
    block, off = jnp.asarray(BLOCK), 0.02 * jax.random.normal(keys[2], (D, D))
    coupling = jnp.where((block[:, None] == block) & ~jnp.eye(D, dtype=bool), off + off.T, 0.0)
    return "blocks", energy, Coupled(u, NUMBERS, v, coupling)


def test_partners_are_mutual_nearest_neighbours_of_one_scale():
    assert partners(SIGMA).tolist() == PARTNER
    assert partners(jnp.array([1.0, 1.0, 1.0])).tolist() in ([1, 0, 2], [0, 2, 1], [2, 1, 0])
    assert partners(jnp.array([0.0, 0.0, -1.0, -1.0])).tolist() == [0, 1, 2, 3]
    assert partners(jnp.full(3, jnp.nan)).tolist() == [0, 1, 2]


def test_values_share_a_block_where_values_between_them_link_them():
    assert blocks(NUMBERS).tolist() == BLOCK
    assert blocks(jnp.array([1.0, 0.92, 0.96])).tolist() == [0, 0, 0]
    assert blocks(jnp.array([1.0, 0.92, 0.8])).tolist() == [0, 1, 2]
    assert blocks(jnp.array([0.0, 0.0, -1.0, -1.0])).tolist() == [0, 1, 2, 3]
    assert sorted(blocks(jnp.full(3, jnp.nan)).tolist()) == [0, 1, 2]
    for scale in (1e-150, 1e150):
        assert blocks(scale * NUMBERS).tolist() == BLOCK and any_linked(scale * NUMBERS)
    assert any_linked(jnp.array([1.0, 0.92, 0.96])) and not any_linked(jnp.array([1.0, 0.92, 0.8]))
    assert not any_linked(jnp.array([0.0, 0.0, -1.0, -1.0])) and not any_linked(jnp.full(3, jnp.nan))


@pytest.mark.parametrize("depth", [1.0, 2.0, 3.5, np.inf])
@pytest.mark.parametrize("coupled", [True, False])
def test_velocity_moves_x_by_the_metric_operator(point, depth, coupled):
    kind, energy, z = point
    if not coupled:
        z = Coupled(z.u, z.sigma, z.v, 0 * z.coupling)
    dz, unrest = chart_of(kind, energy, depth).velocity(z)
    k, x = core(z), matrix(z)
    dx = dz.u @ k @ z.v.T + z.u @ core(dz) @ z.v.T + z.u @ k @ dz.v.T
    assert_close(dx, -dln.metric_operator(x, energy.gradient(x), depth), ALGEBRA)
    assert_close(unrest * REST, np.linalg.norm(energy.gradient(x)), ALGEBRA)
    for q, dq in ((z.u, dz.u), (z.v, dz.v)):
        assert_close(q.T @ dq + dq.T @ q, np.zeros((D, D)), ALGEBRA)


def test_leaving_changes_neither_x_nor_its_motion(point):
    kind, energy, z = point
    chart = chart_of(kind, energy, np.inf)
    dz, _ = chart.velocity(z)
    y, dy = chart.leave(z, dz)
    assert_close(y.matrix, matrix(z), ALGEBRA)
    again, _ = chart.velocity(chart.enter(y))
    for a, b in zip(jax.tree.leaves(dy), jax.tree.leaves(again), strict=True):
        assert_close(a, b, ALGEBRA)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_blocks_keep_the_digits_of_small_values(scale, key):
    # Two blocks of equal values at sizes so far apart that LAPACK would find the smaller to a few digits only.
    energy = dln.MatrixCompletion.diagonal(D)
    sigma = scale * jnp.array([1.0, 1e-12, 1.0, 1.0, 1e-12, 1e-6])
    chart = Blocks(frame_of(energy, 2.0), blocks(sigma))
    off = jnp.zeros((D, D)).at[1, 4].set(3e-15 * scale).at[0, 2].set(1e-3 * scale)
    u, v = (jnp.linalg.qr(jax.random.normal(k, (D, D)))[0] for k in jax.random.split(key))
    y, _ = chart.leave(*2 * (Coupled(u, sigma, v, off + off.T),))
    wanted = scale * np.array([1 + 1e-3, 1.0, 1 - 1e-3, 1e-6, 1e-12 + 3e-15, 1e-12 - 3e-15])
    np.testing.assert_allclose(-np.sort(-y.sigma), wanted, rtol=1e-14)


def test_a_misfit_is_a_frame_that_turns_without_moving_x(point):
    _, energy, z = point
    y, flow = dln.SVD(z.u, NUMBERS, z.v), frame_of(energy, 2.0)
    turn = jnp.zeros((D, D)).at[2, 3].set(1.0).at[3, 2].set(-1.0)
    common = dln.SVD(y.u @ turn, 0 * y.sigma, y.v @ turn)
    relative = dln.SVD(y.u @ turn, 0 * y.sigma, -y.v @ turn)
    assert flow.misfit(flow, y, y, common) and not flow.misfit(flow, y, y, relative)
    # Without values that share a block no other coordinates would serve better.
    apart = dln.SVD(y.u, jnp.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), y.v)
    still = dln.SVD(0 * y.u, 0 * y.sigma, 0 * y.v)
    assert not flow.misfit(flow, apart, apart, still)
    # Partners share a block of the other chart already.
    paired = frame_of(energy, 2.0, PairedFrame)
    chart = paired.chart(jnp.array([0, 1, 3, 2, 4, 5]))
    assert not paired.misfit(chart, y, chart.enter(y), chart.velocity(chart.enter(y))[0])
    blocked = frame_of(energy, 2.0, BlockedFrame)
    for point, given_up in ((y, False), (apart, True)):
        chart = blocked.chart(blocked.gauge(point))
        assert blocked.misfit(chart, point, chart.enter(point), chart.enter(point)) == given_up


def equal(key, d, rank):
    """(a start, a target of this rank whose singular values are equal, or nearly)."""
    keys = jax.random.split(key, 4)
    u, v = (jnp.linalg.qr(jax.random.normal(k, (d, d)))[0] for k in keys[:2])
    values = jnp.where(jnp.arange(d) < rank, 1 + 1e-4 * jax.random.normal(keys[2], (d,)), 0.0)
    return 0.1 * d**-0.5 * jax.random.normal(keys[3], (d, d)), (u * values) @ v


@pytest.fixture
def turns(monkeypatch):
    """The numbers of the methods that flows turn to."""
    found, next_turn = [], trajectory.next_turn

    def noted(flows):
        number = next_turn(flows)
        found.append(number)
        return number

    monkeypatch.setattr(trajectory, "next_turn", noted)
    monkeypatch.setattr(downstairs, "next_turn", noted)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("depth", [2.0, 3.0, np.inf])
def test_flows_to_equal_values_take_few_steps(depth, key, turns):
    x0, target = equal(key, 10, 10 if np.isinf(depth) else 4)
    flow = lambda **how: dln.gradient_flow(
        lambda x: jnp.sum((x - target) ** 2) / 2, x0, depth=depth, ts=[0.0, 40.0], max_steps=10**6, **how
    )
    found, exact = flow(rtol=1e-9), flow(rtol=1e-11, coordinates="matrix")
    assert trajectory.BLOCKS in turns
    # Without blocks it would be ten to a hundred times as many.
    assert found.stats["evaluations"] < 3 * exact.stats["evaluations"]
    np.testing.assert_allclose(found.x, exact.x, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_blocks_are_given_up_where_values_part(key, turns, monkeypatch):
    # No other test has a flow of this function, which would be compiled with another number already.
    monkeypatch.setattr(step, "MISFITS", 1)
    x0, target = equal(key, 6, 6)
    target = target @ jnp.diag(jnp.array([2.0, 1.5, 1.0, 0.7, 0.5, 0.3]))
    start = 0.05 * jnp.linalg.qr(x0)[0] @ (jnp.eye(6) + 1e-6 * x0)
    flow = lambda **how: dln.gradient_flow(
        lambda x: jnp.sum((x - target) ** 2) / 2, start, depth=2.0, ts=[0.0, 30.0], **how
    )
    found, exact = flow(rtol=1e-9), flow(rtol=1e-11, coordinates="matrix")
    assert turns[: turns.index(None)][:3] == [trajectory.EXPLICIT, trajectory.BLOCKS, trajectory.EXPLICIT]
    np.testing.assert_allclose(found.x, exact.x, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_a_sweep_in_blocks_is_each_of_its_flows(key, turns):
    x0, target = equal(key, 10, 4)
    energy = dln.MatrixCompletion(target, jnp.ones((10, 10), bool))
    how = {"depth": 2.0, "ts": [0.0, 10.0, 40.0], "stop": dln.Steady(1e-7), "rtol": 1e-8}
    swept = dln.sweep(energy, jnp.stack([x0, 2 * x0, 0.5 * x0]), progress=False, **how)
    assert trajectory.BLOCKS in turns
    for i, scale in enumerate((1.0, 2.0, 0.5)):
        alone = dln.gradient_flow(energy, scale * x0, **how)
        assert swept[i].result == alone.result
        np.testing.assert_allclose(swept.x[i], alone.x, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_near_crossings_cost_no_steps(key):
    # In X, where nothing crosses, the same solver takes as many; without the chart it is 3 to 5 times that.
    d, n = 24, 6
    draw = dln.Ensemble(lambda k: dln.gaussian(k, d, d**-0.5), key, n)
    options = {"ts": [0.0, 1.0], "solver": diffrax.Dopri5(), "observe": lambda point: point.sigma, "progress": False}
    energy = dln.MatrixCompletion.diagonal(d)
    frame = dln.sweep(energy, draw, **options)
    exact = dln.sweep(energy, draw, coordinates="matrix", **options)
    assert np.all(frame.stats["steps"] < 2.5 * exact.stats["steps"])
    assert_close(frame.effective_rank, exact.effective_rank, 1e-5)
