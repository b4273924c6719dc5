"""The free energy of completion in NumPy, and its equilibria by roots in one variable (figure 6.4)."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import brentq, root

# log(a/b) of an equilibrium is looked for up to here.
WIDEST = 60.0
# Between these entries the last one with a maximum of the entropy is looked for.
BETWEEN = (0.1, 1.0)


def _log_sinh_ratio(u):
    """log(sinh(u)/u)."""
    u = np.abs(u)
    large = np.maximum(u, 1e-4)
    return np.where(u < 1e-4, u**2 / 6, large + np.log1p(-np.exp(-2 * large)) - np.log(2 * large))


def entropy_of_pair(s, t, depth: float):
    """(1/2) log lambda(s, t), the part of a pair of singular values in the entropy (4.27)."""
    u = np.log(s / t)
    return ((1 - 1 / depth) * np.log(s * t) + _log_sinh_ratio(u) - _log_sinh_ratio(u / depth)) / 2


def _pull(u, depth: float):
    """s times the derivative of `entropy_of_pair` in s, for u = log(s/t)."""
    share = 1 / depth
    safe = np.where(np.abs(u) < 1e-3, 1.0, u)
    # 1/(1 - exp(-2u)) - (1/N)/(1 - exp(-2u/N)), and its series: far below t it is small, and no difference.
    second = share / np.expm1(-2 * share * safe) if share else -1 / (2 * safe)
    return np.where(np.abs(u) < 1e-3, (1 - share) / 2 + u * (1 - share**2) / 6, second - 1 / np.expm1(-2 * safe))


def free_energy(
    x: Float[np.ndarray, "d d"], labels: Float[np.ndarray, "d d"], seen: Bool[np.ndarray, "d d"], depth: float, beta
) -> tuple[float, Float[np.ndarray, " d*d"]]:
    """(F = sum (X - labels)^2 over what is seen - S_N/beta, its gradient as a vector)."""
    u, sigma, vt = np.linalg.svd(x)
    k, l = np.triu_indices(len(sigma), 1)
    entropy = np.sum(entropy_of_pair(sigma[k], sigma[l], depth))
    log = np.log(sigma[:, None] / sigma[None, :])
    pulls = _pull(log, depth)
    np.fill_diagonal(pulls, 0.0)
    off = np.where(seen, x - labels, 0.0)
    return np.sum(off**2) - entropy / beta, (2 * off - (u * (pulls.sum(1) / sigma)) @ vt / beta).ravel()


def equilibrium(d: int, negative: int, depth: float, beta: float) -> tuple[float, float]:
    """(a, b): the entries a > 0 and -b < 0 of the diagonal equilibrium with so many negative entries.

    The entries of one sign are equal. With u = log(a/b) the equations 2 beta (a - 1) = dS/da and 2 beta (b + 1) = dS/db
    are quadratic, and u solves an equation of its own.

    **Returns:** NaN for the sign that no entry has, and for both where there is no such equilibrium.
    """
    k, equal = negative, (1 - 1 / depth) / 2

    def entries(u):
        # a dS/da and b dS/db.
        up, down = (d - k - 1) * equal + k * _pull(u, depth), (k - 1) * equal + (d - k) * _pull(-u, depth)
        a = (1 + np.sqrt(1 + 2 * max(up, 0.0) / beta)) / 2
        b = down / beta / (1 + np.sqrt(1 + 2 * max(down, 0.0) / beta))
        return float(a), float(b)

    if k in (0, d):
        a, b = entries(0.0)
        return (a, np.nan) if k == 0 else (np.nan, b)

    def off(u):
        a, b = entries(u)
        return np.log(a / b) - u if b > 0 else -1.0

    if off(WIDEST) > 0:
        return np.nan, np.nan
    u: Any = brentq(off, 0.0, WIDEST, xtol=1e-13)
    return entries(u)


def last_beta_of_one_negative(d: int) -> float:
    """The beta at which the equilibrium of N = 2 with one negative entry meets the singular matrices, and ends."""
    return (d - 1) ** 2 / (2 * (3 * d - 2))


def three_entries(a: float) -> tuple[np.ndarray, np.ndarray]:
    """(the labels, what is seen) of X_11 = a, X_12 = X_21 = 1."""
    return np.array([[a, 1.0], [1.0, 0.0]]), np.array([[True, True], [True, False]])


def entropy_on_solutions(w, a: float, depth: float):
    """The entropy of [[a, 1], [1, q]] with the determinant -w = a q - 1, w != 0."""
    square, det = a**2 + ((1 - w) / a) ** 2 + 2, np.abs(w)
    first = (np.sqrt(square + 2 * det) + np.sqrt(np.maximum(square - 2 * det, 0.0))) / 2
    return entropy_of_pair(first, det / first, depth)


def summit(a: float, depth: float) -> float:
    """The w > 0 of the local maximum of the entropy on the solutions, NaN where it has none."""
    w = np.geomspace(1e-12, 2.0, 20_000)
    values = entropy_on_solutions(w, a, depth)
    top = np.flatnonzero((values[1:-1] > values[2:]) & (values[1:-1] > values[:-2]))
    return float(w[1 + top[0]]) if depth > 2 and len(top) else np.nan


def deep_summit(a: float) -> float:
    """w at that maximum at infinite depth, to leading order in a."""
    w: Any = brentq(lambda w: w * (2 * np.log((1 - w) ** 2 / (a**2 * w)) - 1) - 1, 1e-6, 0.5)
    return float(w)


def shallow_summit(a: float, depth: float) -> float:
    """The same at a finite depth above 2."""
    return a ** (4 / (depth - 2)) * (depth - 1) ** (-depth / (depth - 2))


def last_entry(depth: float) -> float:
    """The largest a below 1 for which the entropy has a local maximum on the solutions, 0 if there is none."""
    low, high = BETWEEN
    if np.isnan(summit(low, depth)):
        return 0.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if np.isnan(summit(middle, depth)) else (middle, high)
    return low


def best_solution(a: float, depth: float) -> np.ndarray:
    """The solution at that maximum."""
    return np.array([[a, 1.0], [1.0, (1 - summit(a, depth)) / a]])


def minimiser(a: float, depth: float, beta: float, guess: np.ndarray) -> np.ndarray:
    """The symmetric equilibrium of the three entries near a guess, NaN where the search finds none."""
    labels, seen = three_entries(a)

    def matrix(v):
        # -det X is exp(v[2]), however small.
        p, x = v[:2]
        return np.array([[p, x], [x, (x**2 - np.exp(v[2])) / p]])

    def slope(v):
        x = matrix(v)
        p, x12, _, q = beta * free_energy(x, labels, seen, depth, beta)[1]
        return np.array([p, x12, x[1, 1] * q])

    with np.errstate(all="ignore"):
        end = root(slope, [guess[0, 0], guess[0, 1], np.log(-np.linalg.det(guess))], tol=1e-12)
        x = matrix(end.x)
        there = np.all(np.isfinite(x)) and np.abs(slope(end.x)).max() < 1e-6 and x[0, 0] > 0 and np.abs(x).max() < 2 / a
    return x if there else np.full((2, 2), np.nan)


def last_beta(a: float, depth: float, beta: float, x: np.ndarray) -> float:
    """The least beta with a minimiser, followed from x at a larger beta by bisection in log beta."""
    low = beta / 2
    while beta / low > 1 + 1e-4:
        middle = np.sqrt(low * beta)
        near = minimiser(a, depth, middle, x)
        low, beta, x = (middle, beta, x) if np.isnan(near).any() else (low, middle, near)
    return beta
