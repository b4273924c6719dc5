"""Section 2.2: the metric for which the flow of X is a gradient flow."""

import itertools
import math
from typing import NamedTuple

import jax
import mpmath
import numpy as np

import dlnjax
from dlnjax.claims._attack import FAR, NEAR, worst
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._factors import energy
from dlnjax.claims._spectra import (
    as_matrix,
    derivative,
    generator,
    off,
    operator,
    orthogonal,
    richardson,
    spectrum,
    symmetric_power,
)

WHOLE = (2.0, 3.0, 6.0)


class Point(NamedTuple):
    """A matrix X, a covector or velocity Z, and the depth."""

    x: np.ndarray
    z: np.ndarray
    depth: float


def point(key, depth, d=None) -> Point:
    rng = generator(key)
    d = d or int(rng.integers(2, 4))
    x = (orthogonal(rng, d) * spectrum(rng, d)) @ orthogonal(rng, d).T
    return Point(x, rng.standard_normal((d, d)), depth)


def by_powers(sigma, depth, *, numerator=2.0, denominator=2.0, shift=0.0):
    """The lambda_kl of (2.20), with N sigma_k^(2(N-1)/N) at k = l:

    lambda_kl = (sigma_k^2 - sigma_l^2) / (sigma_k^(2/N) - sigma_l^(2/N)).
    """

    k, l, same = sigma[:, None], sigma[None, :], np.eye(len(sigma), dtype=bool)
    below = np.where(same, 1.0, k ** (denominator / depth) - l ** (denominator / depth))
    return np.where(same, depth * k ** (2 * (depth - 1 + shift) / depth), (k**numerator - l**numerator) / below)


def diagonalised(at: Point, *, turned=False, **changed) -> float:
    """The error of two statements: A(u_k v_l^T) = lambda_kl u_k v_l^T, and A is symmetric and positive."""
    u, sigma, vt = np.linalg.svd(at.x)
    if turned:
        u, vt = vt.T, u.T
    a, lam = as_matrix(at.x, at.depth), by_powers(sigma, at.depth, **changed)
    pairs = itertools.product(range(len(sigma)), repeat=2)
    vectors = ((lam[k, l], np.outer(u[:, k], vt[l]).ravel()) for k, l in pairs)
    return max(*(off(a @ vector, value * vector) for value, vector in vectors), off(a, a.T), -least(a))


def least(a) -> float:
    """The least eigenvalue divided by the largest."""
    values = np.linalg.eigvalsh(a)
    return values[0] / values[-1]


def least_eigenvalue(key, depth):
    """An attack on lambda_kl > 0: the least lambda_kl / (sigma_k sigma_l)^(1-1/N) over log-ratios u up to 40.

    This quotient is shc(u)/shc(u/N).
    """
    shc = lambda x, m: (m.exp(x) - m.exp(-x)) / (2 * x)
    found = worst(lambda x, m: shc(x[0], m) / shc(x[0] / depth, m), [(NEAR, FAR)], generator(key))
    return -found.room, {"log ratio": found.at[0], "depth": depth}


DIAGONAL = Claim(
    name="Theorem 2.2.1",
    statement="A_{N,X} is symmetric, positive definite, with eigenvectors u_k v_l^T and eigenvalues lambda_kl",
    where="Section 2.2, (2.18)-(2.20)",
    expected="holds",
    note="At distinct singular values; see below for equal ones.",
    draw=point,
    printed=diagonalised,
    tampered=(
        ("sigma^(1/N) below", lambda at: diagonalised(at, denominator=1.0)),
        ("sigma_k^(2N/N) on the diagonal", lambda at: diagonalised(at, shift=1.0)),
        ("eigenvectors v_k u_l^T", lambda at: diagonalised(at, turned=True)),
    ),
    attack=least_eigenvalue,
    depths=WHOLE,
    whole=True,
)


class Repeated(NamedTuple):
    """X = sigma Q with Q orthogonal, so that all singular values are equal."""

    sigma: float
    q: np.ndarray
    depth: float


def repeated(key, depth) -> Repeated:
    rng = generator(key)
    return Repeated(float(rng.uniform(0.5, 2)), orthogonal(rng, 2), depth)


def off_diagonal(at: Repeated, value) -> float:
    """The error of A(u_1 v_2^T) = `value` u_1 v_2^T. It is 1 if `value` is not a number."""
    u, _, vt = np.linalg.svd(at.sigma * at.q)
    unit = np.outer(u[:, 0], vt[1])
    return off(operator(at.sigma * at.q, unit, at.depth), value * unit) if math.isfinite(value) else 1.0


def quotient(at: Repeated) -> float:
    above, below = at.sigma**2 - at.sigma**2, at.sigma ** (2 / at.depth) - at.sigma ** (2 / at.depth)
    return above / below if below else math.nan


EQUAL = Claim(
    name="Theorem 2.2.1, equal singular values",
    statement="lambda_kl = (sigma_k^2 - sigma_l^2) / (sigma_k^(2/N) - sigma_l^(2/N)) for all k != l",
    where="Section 2.2, (2.20)",
    expected="corrected",
    note="Where sigma_k = sigma_l and k != l it is 0/0: take the limit, the value at k = l.",
    draw=repeated,
    printed=lambda at: off_diagonal(at, quotient(at)),
    corrected=lambda at: off_diagonal(at, at.depth * at.sigma ** (2 * (at.depth - 1) / at.depth)),
    tampered=(
        ("sigma^(2(N-1)/N)", lambda at: off_diagonal(at, at.sigma ** (2 * (at.depth - 1) / at.depth))),
        ("N sigma^2", lambda at: off_diagonal(at, at.depth * at.sigma**2)),
    ),
    examples=(Repeated(2.0, np.eye(2), 2.0),),
    depths=WHOLE,
    whole=True,
)


def fractional(at: Point, scale: float) -> float:
    """The error of (2.21) and (2.22) with U Sigma^(scale (N-p)/N) U^T and V Sigma^(scale (p-1)/N) V^T."""
    u, sigma, vt = np.linalg.svd(at.x)
    n, errors = int(at.depth), []
    for p in range(1, n + 1):
        errors.append(off((u * sigma ** (scale * (n - p) / n)) @ u.T, symmetric_power(at.x @ at.x.T, (n - p) / n)))
        errors.append(off((vt.T * sigma ** (scale * (p - 1) / n)) @ vt, symmetric_power(at.x.T @ at.x, (p - 1) / n)))
    return max(errors)


EXPONENTS = Claim(
    name="(2.21)-(2.22)",
    statement="(X X^T)^((N-p)/N) = U Sigma^((N-p)/N) U^T, (X^T X)^((p-1)/N) = V Sigma^((p-1)/N) V^T",
    where="Section 2.2, (2.21)-(2.22)",
    expected="corrected",
    note="The exponents of Sigma are 2(N-p)/N and 2(p-1)/N.",
    draw=point,
    printed=lambda at: fractional(at, 1.0),
    corrected=lambda at: fractional(at, 2.0),
    tampered=(("4(N-p)/N", lambda at: fractional(at, 4.0)),),
    examples=(Point(np.diag([4.0, 1.0]), np.eye(2), 2.0),),
    depths=WHOLE,
    whole=True,
)


class Pair(NamedTuple):
    """Two singular values."""

    k: float
    l: float
    depth: float


def pair(key, depth) -> Pair:
    k, l = generator(key).uniform(0.2, 3.0, 2)
    return Pair(float(k), float(l), depth)


def series(at: Pair, power=2.0, last=0) -> float:
    """The error of (2.23), against the sum in its proof, with 40 digits."""
    with mpmath.workdps(40):
        k, l, n = mpmath.mpf(at.k), mpmath.mpf(at.l), int(at.depth)
        total = sum(
            k ** (mpmath.mpf(2) * (n - p) / n) * l ** (mpmath.mpf(2) * (p - 1) / n) for p in range(1, n + 1 - last)
        )
        closed = (k**power - l**power) / (k ** (mpmath.mpf(power) / n) - l ** (mpmath.mpf(power) / n))
        return float(abs(total / closed - 1))


SERIES = Claim(
    name="(2.23)",
    statement="sum_p sigma_k^(2(N-p)/N) sigma_l^(2(p-1)/N) = (sigma_k^2 - sigma_l^2)/(sigma_k^(2/N) - sigma_l^(2/N))",
    where="Section 2.2, (2.23)",
    expected="holds",
    draw=pair,
    printed=series,
    tampered=(("sigma for sigma^2", lambda at: series(at, 1.0)), ("the sum to N-1", lambda at: series(at, last=1))),
    depths=WHOLE,
    whole=True,
)


def riesz(at: Point, gradient) -> float:
    """The error of dE(X)(Z) = g^N(grad, Z), (2.25), for three random Z. A complex step gives the left side."""
    rng = np.random.default_rng(1)
    y = at.z
    metric = np.linalg.inv(as_matrix(at.x, at.depth))
    errors = []
    for z in rng.standard_normal((3, *at.x.shape)):
        along = np.imag(energy(at.x + 1e-30j * z, y)) / 1e-30
        errors.append(abs(along - gradient.ravel() @ metric @ z.ravel()) / np.linalg.norm(z))
    return float(max(errors) / np.linalg.norm(derivative(lambda x: energy(x, y), at.x)))


_operator = jax.jit(dlnjax.metric_operator)


def point3(key, depth) -> Point:
    """A point of size 3. The library compiles once for each size, so that all points have this one."""
    return point(key, depth, 3)


def library_gradient(at: Point) -> np.ndarray:
    """A_X(dE) by the library, in the scale of the thesis, which has no 1/N at finite depth."""
    de = derivative(lambda x: energy(x, at.z), at.x)
    return np.asarray(_operator(at.x, de, at.depth)) * (at.depth if math.isfinite(at.depth) else 1.0)


RIEMANNIAN = Claim(
    name="Theorem 2.2.2",
    statement="(2.9) is X' = -grad E for the metric g^N: dE(X)(Z) = g^N(grad E, Z), grad E = A_{N,X}(dE(X))",
    where="Section 2.2, (2.24)-(2.29)",
    expected="holds",
    note="The gradient is that of dlnjax, at infinite depth with the 1/N of Remark 2.2.3.",
    draw=point3,
    printed=lambda at: riesz(at, library_gradient(at)),
    tampered=(
        ("grad E = dE(X)", lambda at: riesz(at, derivative(lambda x: energy(x, at.z), at.x))),
        ("A of X^T", lambda at: riesz(at, library_gradient(at._replace(x=at.x.T)))),
    ),
)


def extrapolated(at: Point) -> np.ndarray:
    """The limit of A_{N,X}(Z)/N, from N = 4, 8, ..., 256, by Richardson's extrapolation in 1/N."""
    return richardson([operator(at.x, at.z, float(n)) / n for n in 2 ** np.arange(2, 9)])


def integral(at: Point, power=1.0) -> np.ndarray:
    """The integral in (2.30), by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    left, right = at.x @ at.x.T, at.x.T @ at.x
    terms = (symmetric_power(left, power * (1 - t)) @ at.z @ symmetric_power(right, power * t) for t in (1 + nodes) / 2)
    return np.sum([w / 2 * term for w, term in zip(weights, terms, strict=True)], axis=0)


def library(at: Point) -> np.ndarray:
    return np.asarray(_operator(at.x, at.z, math.inf))


INFINITE = Claim(
    name="Remark 2.2.3, (2.30)",
    statement="(1/N) A_{N,X}(Z) tends to the integral of (X X^T)^(1-t) Z (X^T X)^t over t in [0, 1]",
    where="Section 2.2, (2.30)",
    expected="holds",
    note="(2.30) itself needs the 1/N that the text adds; the difference is of order 1/N.",
    draw=point3,
    printed=lambda at: max(off(extrapolated(at), integral(at)), off(library(at), integral(at))),
    tampered=(
        ("(X X^T)^((1-t)/2)", lambda at: off(extrapolated(at), integral(at, 0.5))),
        ("twice", lambda at: off(extrapolated(at), 2 * integral(at))),
    ),
    depths=NO_DEPTH,
)


def eigenvalue_limit(at: Pair, power=2) -> float:
    """The error of (2.31) for k != l and for k = l, against lambda_kl / N at N = 10^20, with 60 digits."""
    with mpmath.workdps(60):
        n, k, l = mpmath.mpf(10) ** 20, mpmath.mpf(at.k), mpmath.mpf(at.l)
        distinct = (k**2 - l**2) / (k ** (2 / n) - l ** (2 / n)) / n
        printed = (k**2 - l**2) / (mpmath.log(k**power) - mpmath.log(l**power))
        same = abs(k ** (2 * (n - 1) / n) / k**power - 1)
        return float(max(abs(distinct / printed - 1), same))


EIGENVALUE_LIMIT = Claim(
    name="Remark 2.2.3, (2.31)",
    statement="lambda_kl/N tends to (sigma_k^2 - sigma_l^2)/(log sigma_k^2 - log sigma_l^2), to sigma_k^2 at k = l",
    where="Section 2.2, (2.31)",
    expected="holds",
    note="At equal singular values it is the limit, sigma_k^2.",
    draw=pair,
    printed=eigenvalue_limit,
    tampered=(("log sigma for log sigma^2", lambda at: eigenvalue_limit(at, 1)),),
    depths=NO_DEPTH,
)

CLAIMS: tuple[Claim, ...] = (
    DIAGONAL,
    EQUAL,
    EXPONENTS,
    SERIES,
    RIEMANNIAN,
    INFINITE,
    EIGENVALUE_LIMIT,
)
