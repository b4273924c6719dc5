"""Paths of many keys, and the exact laws of their singular values."""

import jax
import numpy as np
from scipy import stats

import dlnjax as dln


def many(energy, x0, depth, ts, n, given):
    """The solutions of `n` keys, by `jax.vmap`."""
    one = lambda key: dln.gradient_flow(
        energy, x0, depth=depth, ts=ts, noise=dln.Noise(key, given.beta, given.dt, given.gauge), throw=False
    )
    return jax.jit(jax.vmap(one))(jax.random.split(given.key, n))


def straight(sigma, depth):
    """N sigma^(1/N), and log sigma at infinite depth."""
    return np.log(sigma) if np.isinf(depth) else depth * np.asarray(sigma) ** (1 / depth)


def gaussian_spectrum(rng, y0, scale, depth, n, beyond=0):
    """The exact law: singular values of (diag(y0), 0) + scale G, with `beyond` more columns than rows.

    At infinite depth they are the eigenvalues of the symmetric part of the square matrix.
    """
    r = len(y0)
    g = scale * rng.standard_normal((n, r, r if np.isinf(depth) else r + beyond))
    g[:, range(r), range(r)] += y0
    if np.isinf(depth):
        return np.linalg.eigvalsh((g + np.swapaxes(g, 1, 2)) / 2)[:, ::-1]
    return np.linalg.svd(g, compute_uv=False)


def p_values(a, b):
    """Those of the test of Kolmogorov and Smirnov, column by column."""
    return [float(stats.ks_2samp(x, y).pvalue) for x, y in zip(a.T, b.T, strict=True)]
