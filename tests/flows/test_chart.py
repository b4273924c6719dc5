"""The chart in which neighbours may cross: the same flow of X, and fewer steps."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln
from dlnjax._flows.frame import Chart, Coupled, FrameCoordinates, partners

D = 6
SIGMA = jnp.array([0.3, 2.0, 2.0, 0.29, 1.0, 1e-3])
REST = 1e-3
PARTNER = [3, 2, 1, 0, 4, 5]


def core(z, partner):
    """K, written out."""
    i = np.arange(D)
    off = np.zeros((D, D))
    off[i, partner] = np.where(np.asarray(partner) == i, 0.0, z.coupling)
    return np.diag(z.sigma) + off


def matrix(z, partner):
    return z.u @ core(z, partner) @ z.v.T


@pytest.fixture
def point(key):
    keys = jax.random.split(key, 4)
    u, v = (jnp.linalg.qr(jax.random.normal(k, (D, D)))[0] for k in keys[:2])
    coupling = jnp.where(jnp.asarray(PARTNER) == jnp.arange(D), 0.0, 0.05 * jax.random.normal(keys[2], (D,)))
    coupling = coupling + coupling[jnp.asarray(PARTNER)]
    energy = dln.MatrixCompletion(jax.random.normal(keys[3], (D, D)), jnp.ones((D, D), bool))
    return energy, Coupled(u, SIGMA, v, coupling)


def chart_of(energy, depth):
    numbers = (jnp.array(x) for x in (1e-6, 1e-8, REST, 1e-7, 1e-8))
    return Chart(FrameCoordinates(energy, dln.Balanced(depth), *numbers), jnp.asarray(PARTNER))


def test_partners_are_mutual_nearest_neighbours_of_one_scale():
    assert partners(SIGMA).tolist() == PARTNER
    assert partners(jnp.array([1.0, 1.0, 1.0])).tolist() in ([1, 0, 2], [0, 2, 1], [2, 1, 0])
    assert partners(jnp.array([0.0, 0.0, -1.0, -1.0])).tolist() == [0, 1, 2, 3]
    assert partners(jnp.full(3, jnp.nan)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("depth", [1.0, 2.0, 3.5, np.inf])
@pytest.mark.parametrize("coupled", [True, False])
def test_velocity_moves_x_by_the_metric_operator(point, depth, coupled):
    energy, z = point
    if not coupled:
        z = Coupled(z.u, z.sigma, z.v, 0 * z.coupling)
    dz, unrest = chart_of(energy, depth).velocity(z)
    k, x = core(z, PARTNER), matrix(z, PARTNER)
    dx = dz.u @ k @ z.v.T + z.u @ core(dz, PARTNER) @ z.v.T + z.u @ k @ dz.v.T
    assert_close(dx, -dln.metric_operator(x, energy.gradient(x), depth), ALGEBRA)
    assert_close(unrest * REST, np.linalg.norm(energy.gradient(x)), ALGEBRA)
    for q, dq in ((z.u, dz.u), (z.v, dz.v)):
        assert_close(q.T @ dq + dq.T @ q, np.zeros((D, D)), ALGEBRA)


def test_leaving_changes_neither_x_nor_its_motion(point):
    energy, z = point
    chart = chart_of(energy, np.inf)
    dz, _ = chart.velocity(z)
    y, dy = chart.leave(z, dz)
    assert_close(y.matrix, matrix(z, PARTNER), ALGEBRA)
    again, _ = chart.velocity(chart.enter(y))
    for a, b in zip(jax.tree.leaves(dy), jax.tree.leaves(again), strict=True):
        assert_close(a, b, ALGEBRA)


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
