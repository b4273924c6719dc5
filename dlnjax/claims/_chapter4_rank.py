"""Section 4.2: the attraction to low rank."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.stats import entropy as shannon_entropy

from dlnjax import effective_rank
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._flows import Energy, flow
from dlnjax.claims._spectra import (
    derivative,
    generator,
    off,
)


class Matrix(NamedTuple):
    x: np.ndarray


def any_matrix(key, depth) -> Matrix:
    return Matrix(generator(key).standard_normal((3, 3)))


def completion(x, labels, seen):
    """The energy (4.24) of matrix completion."""
    return np.sum(seen * (x - labels) ** 2) / 2


def diagonal_completion(x):
    """The energy (4.21), in any dimension."""
    return np.sum((np.diag(x) - 1) ** 2)


def special_case(at: Matrix, factor) -> float:
    return off(diagonal_completion(at.x), factor * completion(at.x, np.eye(3), np.eye(3)))


SPECIAL = Claim(
    name="(4.21) within (4.24)",
    statement="(4.21) is a case of (4.24): the diagonal for a mask, and ones for labels",
    where="Section 4.2",
    expected="corrected",
    note="(4.21) is twice that case, for (4.24) has the 1/2: its time runs twice as fast.",
    draw=any_matrix,
    printed=lambda at: special_case(at, 1.0),
    corrected=lambda at: special_case(at, 2.0),
    tampered=(("half of it", lambda at: special_case(at, 0.5)),),
    examples=(Matrix(np.diag([2.0, 1.0, 1.0])),),
    depths=NO_DEPTH,
)


class Entries(NamedTuple):
    x: np.ndarray
    labels: np.ndarray
    seen: np.ndarray


def entries(key, depth) -> Entries:
    """A matrix, labels and a mask, by which at least one entry is seen."""
    rng = generator(key)
    seen = rng.random((4, 4)) < 0.5
    seen[0, 0] = True
    return Entries(rng.standard_normal((4, 4)), rng.uniform(-2, 2, (4, 4)), seen)


def completion_gradient(at: Entries, gradient) -> float:
    expected = derivative(lambda x: completion(x, at.labels, at.seen), at.x)
    return float(np.max(np.abs(gradient(at) - expected)))


GRADIENT = Claim(
    name="(4.25)",
    statement="the gradient of (4.24) is X_ij - l_ij on the mask, and 0 off it",
    where="Section 4.2",
    expected="holds",
    draw=entries,
    printed=lambda at: completion_gradient(at, lambda at: at.seen * (at.x - at.labels)),
    tampered=(
        ("twice that", lambda at: completion_gradient(at, lambda at: 2 * at.seen * (at.x - at.labels))),
        ("off the mask as well", lambda at: completion_gradient(at, lambda at: at.x - at.labels)),
    ),
    depths=NO_DEPTH,
)


class Outer(NamedTuple):
    """The vectors a and b of the matrix a b^T of rank one."""

    a: np.ndarray
    b: np.ndarray


def of_rank_one(key, depth) -> Outer:
    """A minimiser of (4.21) of rank one. These are the a b^T with a_i b_i = 1."""
    a = generator(key).standard_normal(2)
    return Outer(a, 1 / a)


def hyperbola(at: Outer, other) -> float:
    """The error of two statements: the minimiser is [[1, alpha], [other(alpha), 1]], which has E = 0 and rank one."""
    x = np.outer(at.a, at.b)
    curve = np.array([[1.0, x[0, 1]], [other(x[0, 1]), 1.0]])
    flat = np.linalg.det(curve) / np.sum(curve**2)
    return max(off(x, curve), diagonal_completion(curve), abs(flat))


HYPERBOLA = Claim(
    name="(4.22)",
    statement="the minimisers of (4.21) of rank one are [[1, alpha], [1/alpha, 1]], alpha != 0",
    where="Section 4.2",
    expected="holds",
    note="All other minimisers have X_12 X_21 != 1, and rank two.",
    draw=of_rank_one,
    printed=lambda at: hyperbola(at, lambda alpha: 1 / alpha),
    tampered=(
        ("-1/alpha", lambda at: hyperbola(at, lambda alpha: -1 / alpha)),
        ("alpha", lambda at: hyperbola(at, lambda alpha: alpha)),
    ),
    examples=(Outer(np.array([2.0, 1.0]), np.array([0.5, 1.0])),),
    depths=NO_DEPTH,
)


class Spectrum(NamedTuple):
    sigma: np.ndarray


def any_spectrum(key, depth) -> Spectrum:
    rng = generator(key)
    return Spectrum(np.exp(rng.uniform(-5, 5, int(rng.integers(2, 9)))))


def rank_error(at: Spectrum, rank) -> float:
    """The error of `rank` as the effective rank (4.23), against Shannon's entropy by SciPy.

    It must also be 1 at rank one, d at isotropic matrices, and between 1 and d, and not depend on the scale.
    """
    d = len(at.sigma)
    one = np.append(at.sigma[0], np.full(d - 1, np.finfo(float).tiny))
    given = rank(at.sigma)
    return max(
        off(given, np.exp(shannon_entropy(at.sigma))),
        off(rank(one), 1.0),
        off(rank(np.full(d, at.sigma[0])), d),
        off(rank(3 * at.sigma), given),
        max(1 - given, given - d, 0.0),
    )


def shares(sigma):
    return sigma / np.sum(sigma)


RANK = Claim(
    name="Definition 4.2.1, (4.23)",
    statement="exp(-sum s_i log s_i), s = sigma/sum(sigma), is 1 at rank one, d at isotropy, and blind to scale",
    where="Section 4.2",
    expected="holds",
    draw=any_spectrum,
    printed=lambda at: rank_error(at, lambda sigma: np.asarray(effective_rank(jnp.asarray(sigma)))),
    tampered=(
        (
            "with the plus sign",
            lambda at: rank_error(at, lambda sigma: np.exp(np.sum(shares(sigma) * np.log(shares(sigma))))),
        ),
        ("of sigma, not normalised", lambda at: rank_error(at, lambda sigma: np.exp(-np.sum(sigma * np.log(sigma))))),
        ("of sigma^2", lambda at: rank_error(at, lambda sigma: np.exp(shannon_entropy(sigma**2)))),
    ),
    depths=NO_DEPTH,
)


class Drawn(NamedTuple):
    sigma: np.ndarray


def principled(key, depth) -> Drawn:
    d = 100
    return Drawn(np.linalg.svd(generator(key).normal(0, d**-0.5, (d, d)), compute_uv=False))


UNIT = Claim(
    name="Section 4.2, unit eigenvalues",
    statement="drawn from N(0, 1/d), all singular values of X_0 are about 1",
    where="Section 4.2",
    expected="fails",
    note="Only their mean square is: they fill [0, 2] by the quarter-circle law. Drawn at d = 100.",
    draw=principled,
    printed=lambda at: float(np.max(np.abs(at.sigma - 1))),
    instead=lambda at: abs(np.mean(at.sigma**2) - 1),
    tampered=(
        ("their mean is 1", lambda at: abs(np.mean(at.sigma) - 1)),
        ("their mean square is 2", lambda at: abs(np.mean(at.sigma**2) - 2)),
    ),
    examples=(Drawn(np.array([1.6, 1.1, 0.5, 0.16])),),
    depths=NO_DEPTH,
    tolerance=0.1,
    floor=0.12,
)


class Start(NamedTuple):
    x: np.ndarray
    depth: float


def any_start(key, depth) -> Start:
    return Start(generator(key).standard_normal((3, 3)), max(2.0, float(depth)))


def loses_rank(at: Start) -> float:
    """1 if det X(t) is 0 or changes its sign along the library's flow of (4.21), else 0."""
    determinants = np.linalg.det(np.asarray(flow(Energy(completion=1.0), at.x, 2.0, depth=at.depth).x))
    return float(np.any(determinants * determinants[0] <= 0))


FULL_RANK = Claim(
    name="Section 4.2, full rank",
    statement="the matrix keeps its full rank, however low its effective rank becomes",
    where="Section 4.2",
    expected="holds",
    note="For N >= 2: log |det X| moves at a finite speed. At N = 1 it can cross 0.",
    draw=any_start,
    printed=loses_rank,
    tampered=(("at depth 1 as well", lambda at: loses_rank(Start(-np.abs(np.linalg.det(at.x)) * np.eye(3), 1.0))),),
    draws=1,
)


class Small(NamedTuple):
    x: np.ndarray


def small(key, depth) -> Small:
    return Small(1e-3 * generator(key).standard_normal((3, 3)))


def from_small(at: Small):
    """The flow of (4.21) at infinite depth, to a time long after it has converged."""
    return flow(Energy(completion=1.0), at.x, 3e4)


def moves(at: Small):
    sigma = np.asarray(from_small(at).sigma)
    return np.abs(sigma[-1] - sigma[0])


LAZY = Claim(
    name="Section 4.2, lazy singular values",
    statement="from a small start the low singular values largely do not move; the top one is moved the most",
    where="Section 4.2",
    expected="holds",
    note="Measured, not proved: the largest move of a low one as a share of that of the top one, d = 3, std 0.001.",
    draw=small,
    printed=lambda at: np.max(moves(at)[1:]) / moves(at)[0],
    tampered=(("all move alike", lambda at: 1 - np.min(moves(at)) / np.max(moves(at))),),
    depths=NO_DEPTH,
    draws=2,
    tolerance=0.01,
    floor=0.1,
)


def excess_rank(at: Small, rank=1.0) -> float:
    return abs(float(np.asarray(from_small(at).effective_rank)[-1]) - rank)


RANK_ONE = Claim(
    name="Section 4.2, rank one needs a small start",
    statement="as the variance of the start goes to 0, the flow of (4.21) ends at effective rank 1",
    where="Section 4.2",
    expected="holds",
    note="Measured, not proved: effective rank less 1, d = 3, std 0.001.",
    draw=small,
    printed=excess_rank,
    tampered=(("at rank two", lambda at: excess_rank(at, 2.0)),),
    depths=NO_DEPTH,
    draws=2,
    tolerance=0.05,
    floor=0.2,
)

CLAIMS: tuple[Claim, ...] = (
    SPECIAL,
    GRADIENT,
    HYPERBOLA,
    RANK,
    UNIT,
    FULL_RANK,
    LAZY,
    RANK_ONE,
)
