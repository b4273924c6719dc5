"""The flow against solutions in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import expm
from scipy.optimize import brentq
from support.flows import ended, flows
from support.tolerances import assert_close, INTEGRATION

import dlnjax as dln

TS = np.array([0.0, 0.3, 1.1])
EYE, FULL = np.eye(3), np.ones((3, 3), bool)


def completion(labels, mask, x0, depth, ts=TS):
    """One case for each entry of `depth`: every test of this file but one shares this compilation."""
    n = 4
    spread = lambda a, shape: np.broadcast_to(np.asarray(a), (n, *shape))
    depth = np.resize(np.asarray(depth, float), n)
    arrays = (spread(labels, (3, 3)), spread(mask, (3, 3)))
    solution = flows(dln.MatrixCompletion, arrays, spread(x0, (3, 3)), depth, ts)
    assert ended(solution) == ["successful"] * n
    return np.asarray(solution.x)


def saxe(start, target, t):
    # The thesis's time is t / N, here t / 2.
    growth = np.exp(target * t)
    return target * growth / (growth - 1 + target / start)


def infinite_depth(start, target, t):
    def time(sigma):
        log = np.log(sigma * (start - target) / (start * (sigma - target)))
        return log / target**2 + 1 / (target * start) - 1 / (target * sigma)

    if t == 0:
        return start
    inside = np.sign(target - start) * 1e-14 * target
    return brentq(lambda sigma: time(sigma) - t, start, target - inside, xtol=1e-15, rtol=1e-14)


@pytest.mark.parametrize(("depth", "exact"), [(2.0, saxe), (np.inf, infinite_depth)])
def test_modes_of_a_diagonal_start_solve_the_scalar_equation_in_closed_form(depth, exact):
    start, target = np.array([0.2, 1.4, 0.7]), np.array([1.5, 0.6, 1.1])
    x = completion(np.diag(target), EYE, np.diag(start), depth)[0]
    expected = np.stack([np.diag([exact(a, b, t) for a, b in zip(start, target, strict=True)]) for t in TS])
    assert_close(x, expected, INTEGRATION)


def test_modes_at_any_depth_arrive_when_the_quadrature_of_their_speed_says():
    start, target, depths = np.array([0.2, 1.4, 0.7]), np.array([1.5, 0.6, 1.1]), [1.0, 1.7, 3.5, 40.0]
    x = completion(np.diag(target), FULL, np.diag(start), depths)
    for depth, states in zip(depths, x, strict=True):
        for i in range(3):
            slowness = lambda s, goal=target[i], n=depth: 1 / (s ** (2 - 2 / n) * (goal - s))
            times = [quad(slowness, start[i], states[k, i, i], epsabs=1e-13)[0] for k in range(len(TS))]
            assert_close(times, TS, INTEGRATION)


def test_depth_two_solves_the_riccati_equation(key):
    ka, kb = jax.random.split(key)
    y, x0 = (np.asarray(jax.random.normal(k, (3, 3))) for k in (ka, kb))
    u, s, vt = np.linalg.svd(x0)
    root = np.sqrt(s)
    q0 = np.concatenate([(root[:, None] * vt).T, u * root])
    f = np.block([[np.zeros((3, 3)), y.T], [y, np.zeros((3, 3))]])
    inverse = np.linalg.inv(f)

    def exact(t):
        e = expm(f * t / 2)
        inner = np.eye(3) + q0.T @ (e @ inverse @ e - inverse) @ q0 / 2
        return (e @ q0 @ np.linalg.solve(inner, q0.T @ e))[3:, :3]

    x = completion(y, FULL, x0, 2.0)[0]
    assert_close(x, np.stack([exact(t) for t in TS]), INTEGRATION)


@pytest.mark.parametrize("target", [1.7, 0.4])
def test_isotropic_starts_stay_isotropic_in_their_polar_factor(key, target):
    turn = np.linalg.qr(np.asarray(jax.random.normal(key, (3, 3))))[0]
    x = completion(target * turn, FULL, 0.9 * turn, [2.0, np.inf])
    for states, exact in zip(x[:2], (saxe, infinite_depth), strict=True):
        expected = np.stack([exact(0.9, target, t) * turn for t in TS])
        assert_close(states, expected, INTEGRATION)


def test_depth_one_is_the_euclidean_gradient_flow(key):
    ka, kb, kc = jax.random.split(key, 3)
    labels, x0 = (np.asarray(jax.random.normal(k, (3, 3))) for k in (ka, kb))
    mask = np.asarray(jax.random.bernoulli(kc, 0.6, (3, 3)))
    x = completion(labels, mask, x0, 1.0)[0]
    expected = np.where(mask, labels + np.exp(-TS)[:, None, None] * (x0 - labels), x0)
    assert_close(x, expected, INTEGRATION)


def test_depth_one_passes_through_singular_matrices():
    x0, labels = np.diag([1.0, 0.8, 0.5]) + 0.1, np.diag([1.2, -1.0, 0.6]) - 0.2
    x = completion(labels, FULL, x0, 1.0)[0]
    expected = labels + np.exp(-TS)[:, None, None] * (x0 - labels)
    assert np.linalg.det(expected[0]) > 0 > np.linalg.det(expected[-1])
    assert_close(x, expected, INTEGRATION)


def test_schatten_free_energies_come_to_rest_at_the_isotropic_equilibrium(key):
    p, depth = np.meshgrid([1.0, 2.0, 3.5], [2.0, 3.0, np.inf])
    p, depth, beta, d = p.ravel(), depth.ravel(), 0.4 + 0.3 * np.arange(9.0), 3
    starts = jax.vmap(lambda k: jnp.eye(d) + dln.gaussian(k, d, 0.3))(jax.random.split(key, 9))
    energy = dln.FreeEnergy(dln.Schatten(p), beta, depth)
    solution = dln.sweep(
        energy, starts, depth=depth, ts=[0.0, 2000.0], rtol=1e-10, atol=1e-12, stop=dln.Steady(1e-9), progress=False
    )
    assert ended(solution) == ["steady"] * 9
    expected = ((d - 1) * (1 - 1 / depth) / (2 * beta)) ** (1 / p)
    assert_close(solution.final.sigma, np.tile(expected[:, None], d), INTEGRATION)


@pytest.mark.parametrize("energy", [lambda x: 3.0, lambda x: jnp.asarray(3.0)], ids=["number", "array"])
def test_flow_of_a_constant_energy_rests(energy):
    start = jnp.array([[1.0, 0.5], [0.2, 2.0]])
    sol = dln.gradient_flow(energy, start, ts=[0.0, 1.0])
    np.testing.assert_array_equal(sol.energy, [3.0, 3.0])
    assert_close(sol.x, jnp.stack([start, start]), INTEGRATION)
    np.testing.assert_array_equal(dln.sweep(energy, start[None], ts=[0.0, 1.0], progress=False).energy, [[3.0, 3.0]])
