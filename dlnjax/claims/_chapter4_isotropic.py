"""Section 4.3, (4.54) and Theorem 4.3.7: energies minus the entropy, whose equilibria are isotropic matrices."""

from collections.abc import Callable
from typing import NamedTuple

import mpmath
import numpy as np

from dlnjax.claims import _chapter4_slopes
from dlnjax.claims._attack import FAR, least, NEAR, of_gaps, on_box, STRICT, VIOLATED
from dlnjax.claims._chapter4_entropy import slope, slopes, volume
from dlnjax.claims._chapter4_slopes import steps
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._flows import Energy, flow
from dlnjax.claims._spectra import derivative, entropy_slopes, generator, log_volume, off, orthogonal, spectrum

DIGITS = 60


class Powers(NamedTuple):
    """A spectrum, and the numbers p, beta and N of the energy E_p - S_N/beta."""

    sigma: np.ndarray
    p: float
    beta: float
    depth: float


def powers(key, depth) -> Powers:
    rng = generator(key)
    depth = np.inf if depth is None else float(depth)
    return Powers(spectrum(rng, 3), rng.uniform(1, 3), float(np.exp(rng.uniform(-1, 1))), depth)


def balance_error(at: Powers, over_beta=1.0) -> float:
    """The error of (4.55), whose left side minus right side must be the gradient of (4.54) - S_inf/beta."""
    free = lambda sigma: np.sum(sigma**2) / 2 - log_volume(sigma, np.inf) / at.beta
    printed = at.sigma - over_beta / at.beta * np.sum(entropy_slopes(at.sigma, np.inf), axis=1)
    return off(printed, derivative(free, at.sigma))


BALANCE = Claim(
    name="(4.54)-(4.55)",
    statement="at an equilibrium of 1/2 Tr X^T X - S_inf/beta, sigma_i = (1/beta) sum of the terms of (4.37)",
    where="Section 4.3",
    expected="holds",
    note="The 1/beta stands before both terms of the sum.",
    draw=powers,
    printed=balance_error,
    tampered=(
        ("-1/beta", lambda at: balance_error(at, -1.0)),
        ("1/(2 beta)", lambda at: balance_error(at, 0.5)),
    ),
    depths=NO_DEPTH,
)


class Start(NamedTuple):
    x: np.ndarray
    p: float
    beta: float
    depth: float


def any_start(key, depth) -> Start:
    rng = generator(key)
    x = (orthogonal(rng, 3) * spectrum(rng, 3)) @ orthogonal(rng, 3)
    return Start(x, float(rng.uniform(1.2, 3)), float(np.exp(rng.uniform(-0.5, 0.5))), max(2.0, float(depth)))


def isotropic_limit(at: Start, s_to_p) -> float:
    """The error of the statement that the library's flow of E_p - S_N/beta ends at sigma_i = s for all i.

    `s_to_p` gives s^p from (d-1)/beta and N.
    """
    energy = Energy(schatten=1.0, p=at.p)
    sigma = np.asarray(flow(energy, at.x, 60.0, beta=at.beta, depth=at.depth).sigma[-1])
    return off(sigma, np.full(3, s_to_p(2 / at.beta, at.depth) ** (1 / at.p)))


ISOTROPIC = Claim(
    name="Theorem 4.3.7, (4.70)",
    statement="the equilibria of E_p - S/beta are the X with all sigma_i = ((d-1)/beta)^(1/p)",
    where="Section 4.3",
    expected="corrected",
    note="((d-1)/(2 beta))^(1/p), as in (4.75) and Figure 4.5a; for S_N, ((d-1)(1-1/N)/(2 beta))^(1/p). By the flow.",
    draw=any_start,
    printed=lambda at: isotropic_limit(at, lambda q, n: q),
    corrected=lambda at: isotropic_limit(at, lambda q, n: q * (1 - 1 / n) / 2),
    tampered=(
        (
            "(d-1)(1 + 1/N)/(3 beta)",
            lambda at: isotropic_limit(at, lambda q, n: q * (1 + 1 / n) / 3),
        ),
        ("beta inverted", lambda at: isotropic_limit(at, lambda q, n: 2 / q * (1 - 1 / n))),
    ),
    examples=(Start(np.diag([3.0, 2.0, 1.0]), 2.0, 1.0, np.inf),),
    draws=2,
    tolerance=1e-6,
)


def imbalance(sigma, p, m, beta=1):
    """The distance of a spectrum from an equilibrium, where sigma_i^p = sigma_i dS/dsigma_i/beta for all i.

    It is the root of the sum of squares of the relative differences, divided by tanh of the log-ratio of the extreme
    values.
    """
    parts = [(s**p, s * g / beta) for s, g in zip(sigma, slopes(sigma, m), strict=True)]
    total = sum(((a - b) / (a + b)) ** 2 for a, b in parts)
    return m.sqrt(total) / m.tanh(m.log(sigma[0] / sigma[-1]))


class Candidate(NamedTuple):
    """A spectrum, and the p of the energy E_p - S_inf. Another beta only scales the spectrum."""

    sigma: np.ndarray
    p: float


def candidate(low) -> Callable:
    def draw(key, depth) -> Candidate:
        rng = generator(key)
        return Candidate(spectrum(rng, int(rng.integers(2, 5))), float(rng.uniform(low, 4)))

    return draw


def candidates(d, low, high) -> Callable:
    """An attack on the statement that no spectrum of d different values is an equilibrium. p is in [low, high]."""

    def room(x, m):
        *u, scale, p = x
        return imbalance([s * m.exp(scale) for s in of_gaps(u, m)], p, m)

    return on_box(room, *[(NEAR, FAR / (d - 1))] * (d - 1), (-FAR, FAR), (low, high))


def in_balance(at: Candidate) -> float:
    """Minus the imbalance, plus a margin for rounding."""
    return 1e-5 - float(imbalance(list(at.sigma), at.p, np))


ONLY_ISOTROPIC = Claim(
    name="Theorem 4.3.7, only isotropic matrices",
    statement="for p > 1, no X with different singular values is an equilibrium of E_p - S_inf/beta",
    where="Section 4.3",
    expected="holds",
    note="For p = 1 as well. Minus the least relative imbalance that is found, over ratios up to e^40 and p in [1, 4].",
    draw=candidate(1.0),
    printed=in_balance,
    tampered=(("each is in balance", lambda at: -in_balance(at)),),
    attack=candidates(3, 1.0, 4.0),
    depths=NO_DEPTH,
    draws=20,
    tolerance=STRICT,
    floor=VIOLATED,
)


# An equilibrium that is not isotropic. The search of `candidates` found it at p = 1/2, and it was refined afterwards.
SECOND = Candidate(np.array([0.752544895796168, 0.017557984264939]), 0.5)

BELOW_ONE = Claim(
    name="Theorem 4.3.7, range of p",
    statement="p > 1 cannot be any p > 0: at p = 1/2 there is a second equilibrium",
    where="Section 4.3, beyond it",
    expected="holds",
    note="d = 2, beta = 1: (.75254, .01756), besides the isotropic one. p >= 1 suffices.",
    draw=lambda key, depth: SECOND,
    printed=lambda at: float(imbalance(list(at.sigma), at.p, np)),
    tampered=(("p = 0.6", lambda at: float(imbalance(list(at.sigma), 0.6, np))),),
    depths=NO_DEPTH,
    draws=1,
    tolerance=1e-6,
)


def is_minimum(p, d) -> bool:
    """Whether F grows from the isotropic equilibrium when two of its d values are multiplied by e^x and e^-x."""
    with mpmath.workdps(DIGITS):
        p, x, near = mpmath.mpf(p), mpmath.mpf(10) ** -8, mpmath.mpf(10) ** -24
        s = (mpmath.mpf(d - 1) / 2) ** (1 / p)
        # The other values differ by far less than x. They must differ, since (4.28) is 0/0 at equal values.
        at = lambda x: [s * mpmath.exp(y) for y in (x, -x, *(near * k for k in range(2, d)))]
        f = lambda sigma: sum(s**p for s in sigma) / p - volume(sigma, mpmath)
        return f(at(x)) > f(at(near))


class Order(NamedTuple):
    p: float
    d: int


def order(key, depth) -> Order:
    rng = generator(key)
    return Order(float(rng.uniform(0.05, 3)), int(rng.integers(2, 6)))


def minimum_from(threshold) -> Callable[[Order], float]:
    return lambda at: float(is_minimum(at.p, at.d) != (at.p > threshold(at.d)))


LOCAL_MINIMUM = Claim(
    name="Theorem 4.3.7, a local minimum",
    statement="at infinite depth the isotropic equilibrium is a local minimum for p > d/(3(d-1)), and none for p below",
    where="Section 4.3, beyond it",
    expected="holds",
    note="The Hessian of S_inf in log sigma is d/6 across the isotropic direction; at equality it decides nothing.",
    draw=order,
    printed=minimum_from(lambda d: d / (3 * (d - 1))),
    tampered=(
        ("p > d/(2(d-1))", minimum_from(lambda d: d / (2 * (d - 1)))),
        ("p > 1/3", minimum_from(lambda d: 1 / 3)),
    ),
    examples=(Order(0.65, 2), Order(0.68, 2), Order(0.49, 3), Order(0.51, 3), Order(0.8, 2)),
    depths=NO_DEPTH,
    draws=6,
)


def g(i, j):
    return slope(i, j, np)


def differences(at: Powers, *, sign=-1.0, scale=None) -> float:
    """The error of (4.71), whose left side minus right side must be the difference of two entries of the gradient."""
    free = lambda sigma: np.sum(sigma**at.p) / at.p - log_volume(sigma, np.inf) / at.beta
    gradient, s = derivative(free, at.sigma), at.sigma
    term = lambda i, k: s[i] / (s[i] ** 2 - s[k] ** 2) + sign * s[i] ** -1 / (np.log(s[i] ** 2) - np.log(s[k] ** 2))
    total = lambda i: sum(term(i, k) for k in range(len(s)) if k != i)
    printed = s[0] ** (at.p - 1) - s[1] ** (at.p - 1) - (total(0) - total(1)) / at.beta
    return off(printed, gradient[0] - gradient[1])


DIFFERENCE = Claim(
    name="(4.71)",
    statement="s_i^(p-1) - s_j^(p-1) = (1/beta) sum [s_i/(s_i^2 - s_k^2) + s_i^-1/(log s_i^2 - log s_k^2)] - that of j",
    where="Section 4.3",
    expected="corrected",
    note="With a minus between the two terms of each sum.",
    draw=powers,
    printed=lambda at: differences(at, sign=1.0),
    corrected=differences,
    tampered=(("the first term alone", lambda at: differences(at, sign=0.0)),),
    examples=(Powers(np.array([2.0, 1.0]), 2.0, 1.0, np.inf),),
    depths=NO_DEPTH,
)


def regrouped(at: Powers, over_beta, sign=1.0) -> float:
    """The error of the right side of (4.72), against the right side of the corrected (4.71)."""
    s, *rest = at.sigma, *range(2, len(at.sigma))
    printed = g(s[0], s[1]) - g(s[1], s[0]) + sign * sum(g(s[0], s[k]) - g(s[1], s[k]) for k in rest)
    sums = np.sum(entropy_slopes(s, np.inf), axis=1)
    return off(over_beta * printed, (sums[0] - sums[1]) / at.beta)


REGROUPED = Claim(
    name="(4.72)",
    statement="... = g(s_i, s_j) - g(s_j, s_i) + sum_{k != i, j} g(s_i, s_k) - g(s_j, s_k)",
    where="Section 4.3",
    expected="corrected",
    note="All of it times 1/beta.",
    draw=powers,
    printed=lambda at: regrouped(at, 1.0),
    corrected=lambda at: regrouped(at, 1 / at.beta),
    tampered=(
        ("times beta", lambda at: regrouped(at, at.beta)),
        ("the sum subtracted", lambda at: regrouped(at, 1 / at.beta, -1.0)),
    ),
    examples=(Powers(np.array([3.0, 2.0, 1.0]), 2.0, 2.0, np.inf),),
    depths=NO_DEPTH,
)


def negative(x, m, sign=1):
    """The room of "every difference in (4.72) is negative", for s_i = s_j e^u and any s_k.

    The differences are relative to g(s_j, .) and divided by tanh u.
    """
    u, w = x
    i, j, k = m.exp(u), m.exp(0 * u), m.exp(w)
    own = 1 - slope(i, j, m) / slope(j, i, m)
    others = 1 - slope(i, k, m) / slope(j, k, m)
    return sign * least([own, others], m) / m.tanh(u)


NEGATIVE = Claim(
    name="Proof of Theorem 4.3.7, the signs in (4.72)",
    statement="for s_i > s_j every difference on the right side of (4.72) is negative",
    where="Section 4.3",
    expected="holds",
    note="By Lemma 4.3.6 (1), and by (2) reversed: as printed, (2) would make the first positive.",
    draw=steps,
    printed=lambda at: -float(negative((at.v, at.u), np)),
    tampered=(("positive", lambda at: -float(negative((at.v, at.u), np, -1))),),
    attack=on_box(negative, (NEAR, FAR), (-FAR, FAR - 1)),
    depths=NO_DEPTH,
    draws=20,
    tolerance=STRICT,
    floor=VIOLATED,
)


def common_value(at: Powers, factor) -> float:
    """The error of (4.75) in (4.73) for d = 3. The limit of g is taken at a relative gap of 10^-15."""
    with mpmath.workdps(DIGITS):
        p, beta = mpmath.mpf(at.p), mpmath.mpf(at.beta)
        s = (factor / beta) ** (1 / p)
        limit = slope(s * (1 + mpmath.mpf(10) ** -15), s, mpmath)
        return abs(float(2 * limit / beta / s ** (p - 1) - 1))


COMMON_VALUE = Claim(
    name="(4.73)-(4.75)",
    statement="where all sigma_i = s: s^(p-1) = (1/beta) sum_{j != i} 1/(2s), so s = ((d-1)/(2 beta))^(1/p)",
    where="Section 4.3",
    expected="holds",
    note="Which is not (4.70).",
    draw=powers,
    printed=lambda at: common_value(at, 1.0),
    tampered=(("(4.70)", lambda at: common_value(at, 2.0)), ("d/(2 beta)", lambda at: common_value(at, 1.5))),
    depths=NO_DEPTH,
)

CLAIMS: tuple[Claim, ...] = (
    BALANCE,
    *_chapter4_slopes.CLAIMS,
    ISOTROPIC,
    ONLY_ISOTROPIC,
    BELOW_ONE,
    LOCAL_MINIMUM,
    DIFFERENCE,
    REGROUPED,
    NEGATIVE,
    COMMON_VALUE,
)
