"""The functional calculus of section 3.3, (3.38)-(3.40)."""

import math
from typing import NamedTuple

import numpy as np
from scipy.linalg import expm_frechet

from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._curves import function, slope
from dlnjax.claims._spectra import generator, off, orthogonal, spectrum

D = 3


class Symmetric(NamedTuple):
    """A symmetric S = Q diag(values) Q^T and a direction Z."""

    q: np.ndarray
    values: np.ndarray
    z: np.ndarray

    @property
    def s(self):
        return (self.q * self.values) @ self.q.T


def symmetric(key, _) -> Symmetric:
    rng = generator(key)
    z = rng.standard_normal((D, D))
    return Symmetric(orthogonal(rng, D), spectrum(rng, D), z + z.T)


def step(values, z) -> float:
    """The step of a difference along Z.

    It is small enough that the least eigenvalue or singular value keeps its sign.
    """
    return 1e-2 * float(np.min(values) / np.linalg.norm(z, 2))


def divided(values, f, df):
    """The matrix f^[1] of (3.40). Its second line, f', is used on the diagonal only."""
    same = np.eye(len(values), dtype=bool)
    gap = np.where(same, 1.0, values[:, None] - values[None, :])
    return np.where(same, df(values), (f(values)[:, None] - f(values)[None, :]) / gap)


FUNCTIONS = (
    (np.exp, np.exp),
    (np.log, lambda x: 1 / x),
    (lambda x: x**0.3, lambda x: 0.3 * x**-0.7),
)


def calculus(at: Symmetric, *, scale=1.0, on_diagonal=1.0) -> float:
    """The error of (3.39), against differences."""
    errors = []
    for f, df in FUNCTIONS:
        measured = slope(lambda h, f=f: function(at.s + h * at.z, f), step(at.values, at.z))
        kernel = divided(at.values, f, lambda x, df=df: on_diagonal * df(x))
        errors.append(off(scale * at.q @ (kernel * (at.q.T @ at.z @ at.q)) @ at.q.T, measured))
    return max(errors)


CALCULUS = Claim(
    name="(3.38)-(3.40)",
    statement="Df[S](Z) = Q (f^[1](Lambda) o [Q^T Z Q]) Q^T",
    where="Section 3.3, (3.38)-(3.40)",
    expected="holds",
    note="At distinct eigenvalues; see below for equal ones.",
    draw=symmetric,
    printed=calculus,
    tampered=(
        ("2 f' on the diagonal", lambda at: calculus(at, on_diagonal=2.0)),
        ("half of it", lambda at: calculus(at, scale=0.5)),
    ),
    depths=NO_DEPTH,
)


def doubled(key, _) -> Symmetric:
    at = symmetric(key, None)
    return at._replace(values=np.array([at.values[0], at.values[0], at.values[2]]))


def at_equal(at: Symmetric, value) -> float:
    """The error of (3.39) for exp, with `value` in (3.40) at equal eigenvalues and i != j.

    It is 1 if `value` is not a number.
    """
    equal = (at.values[:, None] == at.values[None, :]) & ~np.eye(len(at.values), dtype=bool)
    if not np.all(np.isfinite(value)):
        return 1.0
    gap = np.where(equal | np.eye(len(at.values), dtype=bool), 1.0, at.values[:, None] - at.values[None, :])
    kernel = np.where(equal, value, (np.exp(at.values)[:, None] - np.exp(at.values)[None, :]) / gap)
    kernel += np.diag(np.exp(at.values))
    measured = expm_frechet(at.s, at.z, compute_expm=False)
    return off(at.q @ (kernel * (at.q.T @ at.z @ at.q)) @ at.q.T, measured)


EQUAL = Claim(
    name="(3.40), equal eigenvalues",
    statement="f^[1]_ij = (f(l_i) - f(l_j)) / (l_i - l_j) for all i != j",
    where="Section 3.3, (3.40)",
    expected="corrected",
    note="Where l_i = l_j and i != j it is 0/0: take the limit, f'(l_i), as for i = j. So in (3.43).",
    draw=doubled,
    printed=lambda at: at_equal(at, math.nan),
    corrected=lambda at: at_equal(at, np.exp(at.values[0])),
    tampered=(
        ("0 there", lambda at: at_equal(at, 0.0)),
        ("f'/2", lambda at: at_equal(at, np.exp(at.values[0]) / 2)),
    ),
    examples=(Symmetric(np.eye(2), np.array([1.0, 1.0]), np.array([[0.0, 1.0], [1.0, 0.0]])),),
    depths=NO_DEPTH,
)

CLAIMS: tuple[Claim, ...] = (CALCULUS, EQUAL)
