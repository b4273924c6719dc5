"""Beyond the thesis: the curvature of the metric.

At X = diag(s_1, s_2) in y = N s^(1/N), or log s at infinite depth, the metric is dy_1^2 + dy_2^2 + f_-^2 de_-^2 +
f_+^2 de_+^2, where e_- is the symmetric and e_+ the antisymmetric matrix off the diagonal. The closed forms are
computed in mpmath, where numerical derivatives have digits to spare.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

import dlnjax
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._spectra import generator, off, orthogonal, spectrum

WHERE = "Beyond the thesis, B3: curvature and transport"
DIGITS = 40
UNITS = (np.diag([1.0, 0.0]), np.diag([0.0, 1.0]))
MINUS, PLUS = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [-1.0, 0.0]])


class Diagonal(NamedTuple):
    """X = diag(sigma)."""

    sigma: np.ndarray
    depth: float


def diagonal(key, depth) -> Diagonal:
    return Diagonal(spectrum(generator(key), 2), 1.0 if depth is None else depth)


def diagonal3(key, depth) -> Diagonal:
    return Diagonal(spectrum(generator(key), 3), depth)


def rotation(y, depth: float, sign: int):
    """f_- or f_+ at y, in mpmath."""
    if math.isinf(depth):
        u = y[0] - y[1]
        return mpmath.sqrt(u * mpmath.tanh(u / 2) ** -sign)
    s = [(t / depth) ** depth for t in y]
    gap = (s[0] ** (mpmath.mpf(2) / depth) - s[1] ** (mpmath.mpf(2) / depth)) * depth / 2
    return mpmath.sqrt(gap * ((s[0] + s[1]) / (s[0] - s[1])) ** sign)


def coordinates(sigma, depth: float) -> list:
    if math.isinf(depth):
        return [mpmath.log(s) for s in sigma]
    return [depth * mpmath.mpf(float(s)) ** (mpmath.mpf(1) / depth) for s in sigma]


def closed(sigma, depth: float, *, sign=1, factor=1.0) -> dict[str, float]:
    """The curvatures of the planes of a pair: -f''/f, and -<grad log f_-, grad log f_+> of (e_-, e_+)."""
    with mpmath.workdps(DIGITS):
        y, found = coordinates(sigma, depth), {}
        slopes = []
        for name, which in (("-", -sign), ("+", sign)):
            f = lambda a, b, which=which: rotation((a, b), depth, which)
            value = f(*y)
            for i, order in enumerate(((2, 0), (0, 2))):
                found[f"{i + 1}{name}"] = float(-factor * mpmath.diff(f, y, order) / value)
            slopes.append([mpmath.diff(f, y, order) / value for order in ((1, 0), (0, 1))])
        found["-+"] = float(-factor * sum(a * b for a, b in zip(*slopes, strict=True)))
        return found | {"12": 0.0}


def measured(at: Diagonal, i=0, j=1) -> dict[str, float]:
    """The same by the library, in the plane of the pair i, j of diag(sigma)."""
    place = np.ix_((i, j), (i, j))
    vectors = {}
    for name, unit in (("1", UNITS[0]), ("2", UNITS[1]), ("-", MINUS), ("+", PLUS)):
        vectors[name] = np.zeros((len(at.sigma),) * 2)
        vectors[name][place] = unit
    x, of = jnp.diag(jnp.asarray(at.sigma)), jnp.asarray
    planes = ("1-", "2-", "1+", "2+", "-+", "12")
    return {p: float(_sectional(x, of(vectors[p[0]]), of(vectors[p[1]]), at.depth)) for p in planes}


_sectional = jax.jit(dlnjax.sectional_curvature)


def differ(measured: dict[str, float], expected: dict[str, float]) -> float:
    """The largest difference, relative to the largest of the curvatures."""
    return off([measured[plane] for plane in expected], list(expected.values()))


def of_pair(at: Diagonal, **changed) -> float:
    return differ(measured(at), closed(at.sigma, at.depth, **changed))


PAIR = Claim(
    name="B3.1, the curvature at d = 2",
    statement="at diag(s_1, s_2), K(dy_i, e_-+) = -f_-+''/f_-+, K(e_-, e_+) = -<grad log f_-, grad log f_+>, "
    "K(dy_1, dy_2) = 0, f_-+^2 = (N/2)(s_1^(2/N) - s_2^(2/N))(s_1 -+ s_2)/(s_1 +- s_2)",
    where=WHERE,
    expected="holds",
    note="At infinite depth f_-^2 = u tanh(u/2) and f_+^2 = u coth(u/2), u = log(s_1/s_2).",
    draw=diagonal,
    printed=of_pair,
    tampered=(
        ("f_- and f_+ exchanged", lambda at: of_pair(at, sign=-1)),
        ("half of it", lambda at: of_pair(at, factor=0.5)),
    ),
)


def takatsu(at: Diagonal, weight=0.75, power=2) -> float:
    """K(dy_1, e_-) at depth 2."""
    (a, b), k = at.sigma, measured(at)["1-"]
    return off(k, weight * b / (a + b) ** power)


TAKATSU = Claim(
    name="B3.2, the curvature of depth 2",
    statement="at N = 2 and diag(s_1, s_2), K(dy_1, e_-) = (3/4) s_2/(s_1 + s_2)^2",
    where=WHERE,
    expected="holds",
    note="As Takatsu's on positive definite matrices, in the units of g^N/N.",
    draw=lambda key, depth: diagonal(key, 2.0),
    printed=takatsu,
    tampered=(
        ("3/8, in the units of Takatsu", lambda at: takatsu(at, 0.375)),
        ("s_2/(s_1 + s_2)", lambda at: takatsu(at, power=1)),
    ),
    depths=NO_DEPTH,
)


class Plane(NamedTuple):
    """A matrix X and two tangent vectors at it."""

    x: np.ndarray
    z: np.ndarray
    w: np.ndarray


def plane(key, depth) -> Plane:
    rng = generator(key)
    x = (orthogonal(rng, 2) * spectrum(rng, 2)) @ orthogonal(rng, 2).T
    z, w = rng.standard_normal((2, 2, 2))
    return Plane(x, z, w)


def flat(at: Plane, depth=1.0) -> float:
    """The size of a sectional curvature, times the square of the norm of X, which has its unit at N = 1."""
    return abs(float(_sectional(*map(jnp.asarray, at), depth))) * float(np.sum(at.x**2))


FLAT = Claim(
    name="B3.3, flat at depth 1",
    statement="at N = 1 all sectional curvatures are 0",
    where=WHERE,
    expected="holds",
    draw=plane,
    printed=flat,
    tampered=(("N = 2", lambda at: flat(at, 2.0)), ("N = 1.1", lambda at: flat(at, 1.1))),
    depths=NO_DEPTH,
)


def of_each_pair(at: Diagonal, turn=0, **changed) -> float:
    """The error of the curvatures of the planes of each pair at d = 3, against the closed forms of d = 2."""
    pairs = ((0, 1), (0, 2), (1, 2))
    theirs = [pairs[(k + turn) % 3] for k in range(3)]
    return max(
        differ(measured(at, *pair), closed(at.sigma[list(other)], at.depth, **changed))
        for pair, other in zip(pairs, theirs, strict=True)
    )


PLANES = Claim(
    name="B3.4, the planes of one pair",
    statement="at diagonal X of any size the planes of one pair of singular values have the curvatures of d = 2",
    where=WHERE,
    expected="holds",
    draw=diagonal3,
    printed=of_each_pair,
    tampered=(
        ("of another pair", lambda at: of_each_pair(at, turn=1)),
        ("f_- and f_+ exchanged", lambda at: of_each_pair(at, sign=-1)),
    ),
    draws=1,
)

CLAIMS: tuple[Claim, ...] = (PAIR, TAKATSU, FLAT, PLANES)
