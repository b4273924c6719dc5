"""What benchmarks/neighbours.py holds every answer against: closed forms in mpmath, and SciPy where there are none.

Written from the formulas alone, without dlnjax, geomstats or POT. Matrices come and go as NumPy arrays of float64, and
are exact in between: `DIGITS` digits.
"""

from collections.abc import Callable

import numpy as np
from mpmath import mp
from scipy.integrate import solve_ivp

DIGITS = 60
mp.dps = DIGITS
# A step of differences at 60 digits, which is small even beside a singular value of 1e-6.
STEP = mp.mpf(10) ** -18


def exact(x):
    return mp.matrix(x.tolist())


def rounded(x) -> np.ndarray:
    return np.array(x.tolist(), dtype=float).reshape(x.rows, x.cols)


def power(x, exponent: float):
    """A power of a positive definite matrix."""
    values, u = mp.eigsy(x)
    return u * mp.diag([value**exponent for value in values]) * u.T


# The Bures-Wasserstein geometry of positive definite matrices. Its metric is a quarter of that of dlnjax at depth 2.


def bures_map(a, b):
    """T with T A T = B."""
    root, inverse = power(a, 0.5), power(a, -0.5)
    return inverse * power(root * b * root, 0.5) * inverse


def bures_logarithm(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = exact(a), exact(b)
    half = (bures_map(a, b) - mp.eye(a.rows)) * a
    return rounded(half + half.T)


def bures_point(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The point at time t of the geodesic from A to B."""
    a, b = exact(a), exact(b)
    move = mp.eye(a.rows) * (1 - t) + t * bures_map(a, b)
    return rounded(move * a * move)


def bures_exponential(a: np.ndarray, v: np.ndarray) -> np.ndarray:
    values, u = mp.eigsy(exact(a))
    v = u.T * exact(v) * u
    n = v.rows
    move = mp.matrix(n, n)
    for i in range(n):
        for j in range(n):
            move[i, j] = v[i, j] / (values[i] + values[j]) + (i == j)
    return rounded(u * move * mp.diag(values) * move * u.T)


def bures_distance(a: np.ndarray, b: np.ndarray) -> float:
    a, b = exact(a), exact(b)
    move = (bures_map(a, b) - mp.eye(a.rows)) * power(a, 0.5)
    return float(mp.norm(move, 2))


def bures_mean(points: np.ndarray) -> np.ndarray:
    """The fixed point of S <- S^{-1/2} (sum_i (S^{1/2} C_i S^{1/2})^{1/2} / n)^2 S^{-1/2}."""
    cs = [exact(c) for c in points]
    s, change = sum(cs[1:], cs[0]) / len(cs), 1.0
    while change > 1e-14:
        root, inverse = power(s, 0.5), power(s, -0.5)
        turns = [power(root * c * root, 0.5) for c in cs]
        mean = sum(turns[1:], turns[0]) / len(cs)
        new = inverse * mean * mean * inverse
        change, s = mp.norm(inverse * (new - s) * inverse), (new + new.T) / 2
    return rounded(s)


def bures_transport(a: np.ndarray, b: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Upstairs, X = Y Y^T, the geodesic is a line Y(t), and a transported vector W Y^T + Y W^T has W' = Y S, S skew.

    W stays horizontal, that is Y^T W symmetric: S solves Y^T Y S + S Y^T Y = W^T Y' - Y'^T W.
    """
    values, u = np.linalg.eigh(a)
    w = u @ (u.T @ z @ u / (values[:, None] + values) * np.sqrt(values)) @ u.T
    root = power(exact(a), 0.5)
    start, end = rounded(root), rounded(bures_map(exact(a), exact(b)) * root)
    speed, shape = end - start, a.shape

    def turn(t, w):
        y, w = start + t * speed, w.reshape(shape)
        _, s, vt = np.linalg.svd(y)
        skew = vt @ (w.T @ speed - speed.T @ w) @ vt.T / (s[:, None] ** 2 + s**2)
        return (y @ (vt.T @ skew @ vt)).ravel()

    found = solve_ivp(turn, (0, 1), w.ravel(), method="DOP853", rtol=1e-13, atol=1e-16)
    half = found.y[:, -1].reshape(shape) @ end.T
    return half + half.T


# The geometry of any depth N, with the 1/N of dlnjax.


def eigenvalue(s, t, depth: float):
    """lambda(s, t), the sum of s^(2(N-p)/N) t^(2(p-1)/N) over p = 1, ..., N, over N, and its limit."""
    if depth == np.inf:
        return (s * s - t * t) / (2 * mp.log(s / t)) if s != t else s * s
    return sum(s ** (2 * (depth - p) / depth) * t ** (2 * (p - 1) / depth) for p in range(1, int(depth) + 1)) / depth


def eigenvalues(sigma: np.ndarray, depth: float) -> np.ndarray:
    values = [mp.mpf(float(s)) for s in sigma]
    return np.array([[float(eigenvalue(s, t, depth)) for t in values] for s in values])


def deep_frame(depth: float) -> Callable:
    """X -> (U, V, lambda) with |Z|^2 = sum of (U^T Z V)_kl^2 / lambda_kl."""

    def frame(x):
        u, s, vt = mp.svd_r(x)
        n = x.rows
        return u, vt.T, mp.matrix([[eigenvalue(s[k], s[l], depth) for l in range(n)] for k in range(n)])

    return frame


def bures_frame(x):
    """The same for the metric of Bures and Wasserstein."""
    values, u = mp.eigsy(x)
    n = x.rows
    return u, u, mp.matrix([[2 * (values[k] + values[l]) for l in range(n)] for k in range(n)])


def sectional(frame: Callable, x: np.ndarray, a: np.ndarray, b: np.ndarray, symmetric: bool) -> float:
    """The curvature of the plane of A and B from the metric g alone, by the formula of Koszul for constant fields:

        R(A, B, B, A) = D_A D_B g(A, B) - (D_A D_A g(B, B) + D_B D_B g(A, A)) / 2 + |G(A, B)|^2 - <G(A, A), G(B, B)>,
        <G(Y, Z), C> = (D_Y g(Z, C) + D_Z g(Y, C) - D_C g(Y, Z)) / 2,

    with central differences. The C are an orthonormal basis at X, of symmetric matrices where X is one.
    """
    x, a, b = exact(x), exact(a), exact(b)
    n, h = x.rows, STEP
    u, v, weight = frame(x)
    basis = []
    for k in range(n):
        for l in range(k if symmetric else 0, n):
            c = mp.sqrt(weight[k, l]) * u[:, k] * v[:, l].T
            basis.append((c + c.T) / (2 if k == l else mp.sqrt(2)) if symmetric else c)

    def metric(move):
        p, q, weight = frame(x + h * move)
        turned = {id(z): list(p.T * z * q) for z in (a, b, *basis)}
        return lambda y, z: sum(i * j / k for i, j, k in zip(turned[id(y)], turned[id(z)], weight, strict=True))

    here, around = metric(0 * x), {id(z): (metric(z), metric(-z)) for z in (a, b, *basis)}
    first = lambda y, z, along: (around[id(along)][0](y, z) - around[id(along)][1](y, z)) / (2 * h)
    second = lambda y, z: (around[id(z)][0](y, y) + around[id(z)][1](y, y) - 2 * here(y, y)) / h**2
    corners = [metric(i * a + j * b)(a, b) * i * j for i in (1, -1) for j in (1, -1)]
    lower = lambda y, z: [(first(z, c, y) + first(y, c, z) - first(y, z, c)) / 2 for c in basis]
    ab, aa, bb = lower(a, b), lower(a, a), lower(b, b)
    r = sum(corners) / (4 * h**2) - (second(b, a) + second(a, b)) / 2
    r += sum(p * p for p in ab) - sum(p * q for p, q in zip(aa, bb, strict=True))
    return float(r / (here(a, a) * here(b, b) - here(a, b) ** 2))


def deep_end(x: np.ndarray, v: np.ndarray, depth: float) -> np.ndarray:
    """Where the geodesic from X with the velocity V ends: Hamilton's equations with differences of sixth order.

    The differences leave an error near 1e-11. NaN where it takes too long, as for one that runs into singular matrices.
    """
    d = len(x)
    units = np.eye(d * d).reshape(-1, d, d)

    def half_squares(xs, p):
        u, s, vt = np.linalg.svd(xs)
        inside = np.swapaxes(u, 1, 2) @ p @ np.swapaxes(vt, 1, 2)
        return np.sum(inside**2 * weights(s, depth), axis=(1, 2)) / 2

    evaluations = iter(range(5000))

    def flow(_, y):
        if next(evaluations, None) is None or not np.all(np.isfinite(y)):
            raise ArithmeticError
        x, p = y.reshape(2, d, d)
        # Of sixth order, with a step that grows with the least singular value.
        h = 1e-2 * np.linalg.svd(x, compute_uv=False)[-1]
        moved = [half_squares(x + k * h * units, p) - half_squares(x - k * h * units, p) for k in (1, 2, 3)]
        slope = (45 * moved[0] - 9 * moved[1] + moved[2]) / (60 * h)
        u, s, vt = np.linalg.svd(x)
        return np.concatenate([(u @ (weights(s[None], depth)[0] * (u.T @ p @ vt.T)) @ vt).ravel(), -slope])

    u, s, vt = np.linalg.svd(x)
    p = u @ (u.T @ v @ vt.T / weights(s[None], depth)[0]) @ vt
    try:
        found = solve_ivp(flow, (0, 1), np.ravel([x, p]), method="DOP853", rtol=1e-11, atol=1e-13)
    except (ArithmeticError, np.linalg.LinAlgError):
        return np.full((d, d), np.nan)
    return found.y[: d * d, -1].reshape(d, d) if found.success else np.full((d, d), np.nan)


def weights(s: np.ndarray, depth: float) -> np.ndarray:
    """lambda in float64, of many sets of singular values."""
    s, t = s[:, :, None], s[:, None, :]
    if depth < np.inf:
        return (
            sum(s ** (2 * (depth - p) / depth) * t ** (2 * (p - 1) / depth) for p in range(1, int(depth) + 1)) / depth
        )
    u = np.log(s / t)
    return s * t * np.where(np.abs(u) < 1e-4, 1 + u * u / 6, np.sinh(u) / np.where(u == 0, 1.0, u))
