"""Curves of matrices over [0, 1], and their length, action and first variation in the metric, in NumPy alone."""

from collections.abc import Callable

import numpy as np

from dlnjax.claims._spectra import eigenvalues

Curve = Callable[[float], np.ndarray]


def chebyshev(n: int):
    """The n + 1 Chebyshev nodes on [0, 1], the matrix of the derivative at them, and the weights of the integral."""
    j = np.arange(n + 1)
    x = np.cos(np.pi * j / n)
    c = np.where((j == 0) | (j == n), 2.0, 1.0) * (-1.0) ** j
    gap = x[:, None] - x[None, :] + np.eye(n + 1)
    d = (c[:, None] / c[None, :]) / gap
    d -= np.diag(d.sum(axis=1))
    moments = np.where(j % 2 == 0, 2 / (1 - (j * (j % 2 == 0)) ** 2.0), 0.0)
    # The weights are those that integrate the first n + 1 Chebyshev polynomials exactly.
    w = np.linalg.solve(np.cos(np.outer(j, np.pi * j / n)), moments)
    return (1 - x) / 2, -2 * d, w / 2


# With an odd n no node is at 1/2. A curve that exchanges two singular values has them equal there.
NODES, DERIVATIVE, WEIGHTS = chebyshev(27)


def sample(curve: Curve) -> np.ndarray:
    return np.array([curve(t) for t in NODES])


def along(values) -> np.ndarray:
    """The derivative in time, at the nodes, of a curve that is given by its values at the nodes."""
    return np.einsum("ij,j...->i...", DERIVATIVE, values)


def squared_speed(x, z, depth):
    """g^N(Z, Z) = Tr(Z^T A_X^{-1}(Z)), (2.18), at each node. At infinite depth the 1/N is included."""
    u, sigma, vt = np.linalg.svd(x)
    lam = eigenvalues(sigma, depth)
    return np.sum((np.swapaxes(u, -1, -2) @ z @ np.swapaxes(vt, -1, -2)) ** 2 / lam, axis=(-2, -1))


def action(x, depth):
    """Half the integral of the squared speed, (3.1)."""
    return WEIGHTS @ squared_speed(x, along(x), depth) / 2


def length(x, depth) -> float:
    return float(WEIGHTS @ np.sqrt(squared_speed(x, along(x), depth)))


def first_variation(x, depth) -> float:
    """The largest relative derivative of the action when the curve moves with fixed ends. It is 0 for a geodesic."""
    bumps = [NODES * (1 - NODES) * f for f in (1.0, 2 * NODES - 1, (2 * NODES - 1) ** 2)]
    size = np.linalg.norm(x[0]) + np.linalg.norm(x[-1])
    slopes = []
    for unit in np.eye(x[0].size).reshape(-1, *x[0].shape):
        for bump in bumps:
            moved = lambda h, unit=unit, bump=bump: action(x + h * bump[:, None, None] * unit, depth)
            slopes.append(abs(slope(moved, 2e-3 * float(size))))
    return float(size * max(slopes) / action(x, depth))


def slope(f, h=1e-2):
    """The derivative of f at 0, by central differences of the eighth order."""
    weights = (4 / 5, -1 / 5, 4 / 105, -1 / 280)
    return sum(c * (f(k * h) - f(-k * h)) for k, c in enumerate(weights, 1)) / h


def function(s, f) -> np.ndarray:
    """The function f of a symmetric matrix, (3.38)."""
    values, vectors = np.linalg.eigh(s)
    return (vectors * f(values)) @ vectors.T


def flat(depth):
    """(x -> N x^(1/N), or log x at infinite depth, and its inverse). Diagonal geodesics are straight lines under it."""
    if np.isinf(depth):
        return np.log, np.exp
    return (lambda x: depth * x ** (1 / depth)), (lambda y: (y / depth) ** depth)
