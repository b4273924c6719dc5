"""The random instances and the formulas that many claims share, in NumPy alone. None of them calls the library."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

D = 4


def generator(key) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def spectrum(rng, d, near=0.1, far=1.2) -> np.ndarray:
    """Random singular values around 1, in descending order. Neighbours have log-ratios between `near` and `far`."""
    log = np.cumsum(rng.uniform(near, far, d))[::-1]
    return np.exp(log - log.mean() + rng.normal(0, 0.3))


class Spectrum(NamedTuple):
    sigma: np.ndarray
    depth: float


def any_spectrum(key, depth) -> Spectrum:
    return Spectrum(spectrum(generator(key), D), np.inf if depth is None else float(depth))


def orthogonal(rng, d) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diag(r))


def off(measured, expected) -> float:
    """The largest difference between `measured` and `expected`, relative to the largest entry of `expected`."""
    measured, expected = np.asarray(measured), np.asarray(expected)
    return float(np.max(np.abs(measured - expected)) / max(np.max(np.abs(expected)), np.finfo(float).tiny))


def derivative(f, x, step=1e-30) -> np.ndarray:
    """The gradient of an analytic f by the complex step.

    It is exact to rounding and uses no formula for a derivative.
    """
    flat = np.asarray(x, float).ravel()
    moved = lambda k: (flat + 1j * step * (np.arange(flat.size) == k)).reshape(np.shape(x))
    return np.array([np.imag(f(moved(k))) / step for k in range(flat.size)]).reshape(*np.shape(x))


def richardson(row: Sequence[np.ndarray]) -> np.ndarray:
    """The limit of values at N, 2N, 4N, ..., by extrapolation in 1/N."""
    order = 1
    while len(row) > 1:
        row = [(2**order * fine - coarse) / (2**order - 1) for coarse, fine in itertools.pairwise(row)]
        order += 1
    return row[0]


def singular_values(x) -> np.ndarray:
    """The singular values of a real matrix, or of one with a complex step, since they are analytic functions of it."""
    return np.sqrt(np.linalg.eigvals(x.T @ x))


def pairs(sigma):
    """(sigma_j, sigma_k) for all pairs j < k, as two arrays."""
    j, k = np.triu_indices(len(sigma), 1)
    return sigma[j], sigma[k]


def log_volume(sigma, depth):
    """The sums of (4.27) and (4.28), as printed."""
    j, k = pairs(sigma)
    below = np.log(j**2) - np.log(k**2) if np.isinf(depth) else j ** (2 / depth) - k ** (2 / depth)
    return np.sum(np.log((j**2 - k**2) / below)) / 2


def entropy_slopes(sigma, depth):
    """The matrix of the terms of (4.36) or (4.37), with g(sigma_i, sigma_j) of (4.56) at [i, j] and 0 at i = j."""
    i, j, same = sigma[:, None], sigma[None, :], np.eye(len(sigma), dtype=bool)
    gap = lambda f: np.where(same, 1.0, f(i) - f(j))
    if np.isinf(depth):
        second = i**-1 / gap(lambda s: np.log(s**2))
    else:
        second = i ** ((2 - depth) / depth) / (depth * gap(lambda s: s ** (2 / depth)))
    return np.where(same, 0.0, i / gap(lambda s: s**2) - second)


def eigenvalues(sigma, depth):
    """The lambda_kl of (2.20), with lambda_kk = N sigma_k^(2-2/N). At infinite depth they are those of (2.30).

    The singular values are distinct, in one array or in a stack of them.
    """
    k, l, same = sigma[..., :, None], sigma[..., None, :], np.eye(sigma.shape[-1], dtype=bool)
    power = (lambda s: np.log(s**2)) if np.isinf(depth) else lambda s: s ** (2 / depth)
    diagonal = k**2 if np.isinf(depth) else depth * k ** (2 - 2 / depth)
    return np.where(same, diagonal, (k**2 - l**2) / np.where(same, 1.0, power(k) - power(l)))


def symmetric_power(a, exponent):
    values, vectors = np.linalg.eigh(a)
    return (vectors * values**exponent) @ vectors.T


def operator(x, z, depth) -> np.ndarray:
    """A_{N,X}(Z), by the sum in (4.1) for whole N, the integral (2.30) at infinite depth, and (2.20) for other N."""
    left, right = x @ x.T, x.T @ x
    if np.isinf(depth):
        nodes, weights = np.polynomial.legendre.leggauss(24)
        ts = (1 + nodes) / 2
        terms = [
            w / 2 * symmetric_power(left, 1 - t) @ z @ symmetric_power(right, t)
            for t, w in zip(ts, weights, strict=True)
        ]
        return np.sum(terms, axis=0)
    if depth == int(depth):
        exponents = [((depth - p) / depth, (p - 1) / depth) for p in range(1, int(depth) + 1)]
        return np.sum([symmetric_power(left, a) @ z @ symmetric_power(right, b) for a, b in exponents], axis=0)
    u, sigma, vt = np.linalg.svd(x)
    return u @ (eigenvalues(sigma, depth) * (u.T @ z @ vt.T)) @ vt


def as_matrix(x, depth) -> np.ndarray:
    """The operator A_{N,X} of (2.19) as a matrix, d^2 by d^2."""
    units = np.eye(x.size).reshape(-1, *x.shape)
    return np.array([operator(x, unit, depth).ravel() for unit in units]).T
