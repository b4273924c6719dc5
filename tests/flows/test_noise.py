"""The Riemannian Langevin equation: exact laws, stationary laws, means, limits, derivatives and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln
from dlnjax._flows import langevin

X0 = jnp.array([[1.0, 0.3], [-0.2, 0.5]])
ENERGY = dln.MatrixCompletion.diagonal(2)
TS = [0.0, 0.5, 1.0]
DEPTHS = [1.0, 2.0, 3.0, 8.0, 24.0, jnp.inf]
STARTS = {
    "generic": np.array([[1.0, 0.3, -0.4], [-0.2, 0.5, 0.1], [0.3, 0.8, -0.9]]),
    "repeated": np.eye(3),
    "ill-conditioned": np.diag([2.0, 1.0, 1e-6]),
}
# A test of Kolmogorov and Smirnov with a smaller p-value has failed. All draws are fixed by their keys.
LEAST = 0.01
PATHS = 20_000


def noise(key, beta=5.0, dt=0.1, **options):
    return dln.Noise(key, beta, dt, **options)


def many(energy, x0, depth, ts, n, given):
    """The solutions of `n` keys, by `jax.vmap`."""
    one = lambda key: dln.gradient_flow(
        energy, x0, depth=depth, ts=ts, noise=dln.Noise(key, given.beta, given.dt, given.gauge), throw=False
    )
    return jax.jit(jax.vmap(one))(jax.random.split(given.key, n))


def straight(sigma, depth):
    """N sigma^(1/N), and log sigma at infinite depth."""
    return np.log(sigma) if np.isinf(depth) else depth * np.asarray(sigma) ** (1 / depth)


def gaussian_spectrum(rng, y0, scale, depth, n):
    """The exact law: singular values of diag(y0) + scale G, or at infinite depth eigenvalues of its symmetric part."""
    g = np.diag(y0) + scale * rng.standard_normal((n, len(y0), len(y0)))
    if np.isinf(depth):
        return np.linalg.eigvalsh((g + np.swapaxes(g, 1, 2)) / 2)[:, ::-1]
    return np.linalg.svd(g, compute_uv=False)


def p_values(a, b):
    return [float(stats.ks_2samp(x, y).pvalue) for x, y in zip(a.T, b.T, strict=True)]


def test_a_path_does_not_depend_on_which_times_are_saved_nor_on_the_batch(key):
    all_times = dln.gradient_flow(ENERGY, X0, depth=2, ts=TS, noise=noise(key))
    ends = dln.gradient_flow(ENERGY, X0, depth=2, ts=[0.0, 1.0], noise=noise(key))
    np.testing.assert_array_equal(all_times.x[-1], ends.x[-1])
    assert int(ends.stats["steps"]) == 10 and ends.dt == 0.1 and ends.beta == 5.0


def test_seeds_of_a_sweep_are_those_of_a_smaller_sweep_and_of_single_paths(key):
    starts = jnp.stack([X0] * 10)
    ten = dln.sweep(ENERGY, starts, depth=2, ts=TS, noise=noise(key), progress=False)
    three = dln.sweep(ENERGY, starts[:3], depth=2, ts=TS, noise=noise(key), progress=False)
    chunks = dln.sweep(ENERGY, starts, depth=2, ts=TS, noise=noise(key), progress=False, chunk=4)
    alone = dln.gradient_flow(ENERGY, X0, depth=2, ts=TS, noise=noise(jax.random.fold_in(key, 7)))
    assert_close(three.x, ten.x[:3], ALGEBRA)
    assert_close(chunks.x, ten.x, ALGEBRA)
    assert_close(alone.x, ten.x[7], ALGEBRA)
    assert len({float(x) for x in ten.x[:, -1, 0, 0]}) == 10


def test_at_depth_one_without_energy_the_noise_is_added(key):
    sol = dln.gradient_flow(None, X0, depth=1, ts=[0.0, 0.2], noise=noise(key))
    draws = [jax.random.normal(jax.random.fold_in(key, j), (5, 2, 2))[0] for j in range(2)]
    assert_close(sol.x[-1], X0 + np.sqrt(2 * 0.1 / 5) * (draws[0] + draws[1]), ALGEBRA)
    assert sol.energy_name == "none" and np.all(sol.energy == 0)


def test_rates_and_force_are_those_of_the_kernel(key):
    sigma = jnp.array([3.0, 1.1, 1.1, 1e-3])
    g = jax.random.normal(key, (4, 4))
    energy = lambda x: jnp.sum(g * x)
    eye = jnp.eye(4)
    for depth in (2.0, 3.5, 11.0, 1e9):
        kernel, deep = dln.Balanced(depth), depth > 10
        equation = langevin.Langevin(energy, kernel, jnp.asarray(2.0), False, deep)
        state = equation.enter(dln.SVD(eye, sigma, eye))
        assert_close(equation.point(state).sigma, sigma, 1e-11)
        lam, y = dln.metric_eigenvalues(sigma, kernel), straight(sigma, depth)
        plus, minus = sigma[:, None] + sigma, sigma[:, None] - sigma
        common, relative = equation.rates(state.y)
        off = np.abs(minus) > 0
        gap = y[:, None] - y
        expected = lam / jnp.where(off, minus, 1) ** 2 - 1 / np.where(off, gap, 1) ** 2
        np.testing.assert_allclose(common[off], expected[off], rtol=1e-5)
        np.testing.assert_allclose(relative, lam / plus**2 - 1 / (y[:, None] + y) ** 2, rtol=1e-7)
        force, turns = equation.force(state)
        sym, anti = (g + g.T) / 2, (g - g.T) / 2
        np.testing.assert_allclose(force[off] + force.T[off], -2 * (lam / minus * gap * sym)[off], rtol=1e-5)
        moved = turns if deep else (force - force.T) / 2 / (y[:, None] + y)
        np.testing.assert_allclose(moved, -lam / plus * anti, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(jnp.diagonal(force), -jnp.sqrt(jnp.diagonal(lam)) * jnp.diagonal(g), rtol=1e-9)
