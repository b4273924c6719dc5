"""Section 4.3 up to (4.42): the entropy, its scaling and its gradient, and where it is large."""

from typing import Any, NamedTuple

import mpmath
import numpy as np

from dlnjax.claims import _chapter4_volume
from dlnjax.claims._attack import least, log_gaps, of_gaps, over_gaps, STRICT, VIOLATED
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._flows import Energy, flow
from dlnjax.claims._spectra import (
    any_spectrum,
    D,
    derivative,
    entropy_slopes,
    generator,
    log_volume,
    off,
    orthogonal,
    pairs,
    Spectrum,
    spectrum,
)


class Pair(NamedTuple):
    """Two spectra. A formula with an unknown constant is checked by its difference between them."""

    sigma: np.ndarray
    other: np.ndarray
    depth: float


def two_spectra(key, depth) -> Pair:
    rng = generator(key)
    return Pair(spectrum(rng, 3), spectrum(rng, 3), float(depth))


def orbit_volume(sigma, depth):
    """The logarithm of the volume element of the O_d^(N-1) orbit of W_p = Q_p L Q_{p-1}^T at Q_p = I.

    It is half of the logarithm of a Gram determinant.
    """
    n, d = int(depth), len(sigma)
    factor = np.diag(sigma ** (1 / n))
    moves = []
    for p in range(n - 1):
        for j, k in zip(*np.triu_indices(d, 1), strict=True):
            turn = np.zeros((d, d))
            turn[j, k], turn[k, j] = 1.0, -1.0
            move = np.zeros((n, d, d))
            move[p], move[p + 1] = turn @ factor, -factor @ turn
            moves.append(move.ravel())
    return np.linalg.slogdet(np.array(moves) @ np.array(moves).T)[1] / 2


def volume_error(at: Pair, log_size) -> float:
    """The error of `log_size` as the logarithm of the volume of an orbit, up to a constant."""
    measured = orbit_volume(at.sigma, at.depth) - orbit_volume(at.other, at.depth)
    return abs(measured - (log_size(at.sigma, at.depth) - log_size(at.other, at.depth)))


def without_depth(sigma, depth):
    return log_volume(sigma, np.inf)


VOLUME = Claim(
    name="(4.26)",
    statement="vol(O_X) is proportional to prod_{j<k} sqrt((s_j^2 - s_k^2)/(s_j^(2/N) - s_k^(2/N)))",
    where="Section 4.3",
    expected="holds",
    note="Against the Gram determinant of the vectors tangent to the orbit of O_d^(N-1).",
    draw=two_spectra,
    printed=lambda at: volume_error(at, log_volume),
    tampered=(
        ("without the root", lambda at: volume_error(at, lambda sigma, depth: 2 * log_volume(sigma, depth))),
        ("with (4.28) at finite depth", lambda at: volume_error(at, without_depth)),
    ),
    depths=(2.0, 3.0, 8.0),
    whole=True,
)


def proportion_error(at: Pair) -> float:
    ratio = lambda sigma: orbit_volume(sigma, at.depth) / log_volume(sigma, at.depth)
    return abs(ratio(at.sigma) - ratio(at.other))


LOG_VOLUME = Claim(
    name="(4.27)",
    statement="S_N = log vol(O_X) is proportional to the sum over j < k",
    where="Section 4.3",
    expected="corrected",
    note="It is a constant plus the sum: the volume is proportional to the product, not its logarithm to the sum.",
    draw=two_spectra,
    printed=proportion_error,
    corrected=lambda at: volume_error(at, log_volume),
    tampered=(("a constant plus twice the sum", lambda at: volume_error(at, lambda s, n: 2 * log_volume(s, n))),),
    examples=(Pair(np.array([2.0, 1.0]), np.array([3.0, 1.0]), 2.0),),
    depths=(2.0, 3.0, 8.0),
    whole=True,
)


def limit_error(at: Spectrum, shift) -> float:
    """The error of (4.28), against the sum of (4.27) minus shift C(d,2) log N at depth 10^20, with 60 digits."""
    n = mpmath.mpf(10) ** 20
    with mpmath.workdps(60):
        sigma = [mpmath.mpf(float(s)) for s in at.sigma]
        terms = [(a**2 - b**2) / (a ** (2 / n) - b ** (2 / n)) for i, a in enumerate(sigma) for b in sigma[i + 1 :]]
        deep = sum(mpmath.log(t) for t in terms) / 2 - shift * len(terms) * mpmath.log(n)
        return abs(float(deep) - log_volume(at.sigma, np.inf))


LIMIT = Claim(
    name="(4.28)",
    statement="S_inf is the limit of S_N",
    where="Section 4.3",
    expected="corrected",
    note="The limit of S_N - 1/2 C(d,2) log N, that is of S_N with the 1/N in each eigenvalue.",
    draw=any_spectrum,
    printed=lambda at: limit_error(at, 0.0),
    corrected=lambda at: limit_error(at, 0.5),
    tampered=(
        ("C(d,2) log N", lambda at: limit_error(at, 1.0)),
        ("added", lambda at: limit_error(at, -0.5)),
    ),
    examples=(Spectrum(np.array([2.0, 1.0]), np.inf),),
    depths=NO_DEPTH,
)


def vandermonde(a):
    return np.linalg.det(np.vander(a, increasing=True).T)


def vandermonde_error(at: Spectrum, power=2, root=0.5) -> float:
    ratio = vandermonde(at.sigma**power) / vandermonde(np.log(at.sigma**power))
    return abs(np.log(ratio) * root - log_volume(at.sigma, np.inf))


VANDERMONDE = Claim(
    name="Remark 4.3.1, (4.29)-(4.30)",
    statement="S_inf = log sqrt(van(Sigma^2)/van(log Sigma^2))",
    where="Section 4.3",
    expected="holds",
    draw=any_spectrum,
    printed=vandermonde_error,
    tampered=(
        ("without the root", lambda at: vandermonde_error(at, root=1.0)),
        ("of Sigma", lambda at: vandermonde_error(at, power=1)),
    ),
    depths=NO_DEPTH,
)


def volume(sigma, m):
    """S_inf of (4.28), by the functions of the module `m`, which is NumPy or mpmath."""
    terms = [(a**2 - b**2) / (m.log(a**2) - m.log(b**2)) for i, a in enumerate(sigma) for b in sigma[i + 1 :]]
    return sum(m.log(t) for t in terms) / 2


def apart_at_norm(at: Spectrum) -> float:
    """S_inf at the isotropic matrix of the same norm minus S_inf."""
    d = len(at.sigma)
    isotropic = d * (d - 1) / 2 * np.log(np.linalg.norm(at.sigma) / np.sqrt(d))
    return isotropic - log_volume(at.sigma, np.inf)


def apart_at_determinant(u, m, order=1) -> Any:
    """S_inf minus S_inf at the isotropic matrix of the same determinant, over the log-ratio of the extreme values."""
    d, sigma = len(u) + 1, of_gaps(u, m)
    isotropic = (d - 1) / 2 * sum(m.log(s) for s in sigma)
    return order * (volume(sigma, m) - isotropic) / sum(u)


APART = Claim(
    name="Section 4.3, S of distant singular values",
    statement="S is large when the singular values are far apart, and small when they are the same",
    where="Section 4.3",
    expected="fails",
    note="Only at fixed determinant. At fixed norm it is largest where they agree, and -inf at rank deficiency.",
    draw=any_spectrum,
    printed=apart_at_norm,
    instead=lambda at: -apart_at_determinant(log_gaps(at.sigma), np),
    tampered=(("small when far apart", lambda at: -apart_at_determinant(log_gaps(at.sigma), np, order=-1)),),
    attack=over_gaps(apart_at_determinant, 4),
    examples=(Spectrum(np.array([1.0, 1e-6]), np.inf),),
    depths=NO_DEPTH,
    tolerance=STRICT,
    floor=VIOLATED,
)


def slope(i, j, m):
    """The function g(s_i, s_j) of (4.56)."""
    return i / (i**2 - j**2) - i**-1 / (m.log(i**2) - m.log(j**2))


def slopes(sigma, m):
    """The gradient (4.37) of S_inf."""
    return [sum(slope(a, b, m) for j, b in enumerate(sigma) if j != i) for i, a in enumerate(sigma)]


def parting(u, m):
    """The least rate at which the log-ratio u of neighbours grows along the flow of -S_inf, divided by tanh u.

    Along this flow log sigma_i grows at the rate sigma_i dS/dsigma_i.
    """
    sigma = of_gaps(u, m)
    rates = [s * g for s, g in zip(sigma, slopes(sigma, m), strict=True)]
    return least([(a - b) / m.tanh(gap) for a, b, gap in zip(rates, rates[1:], u, strict=False)], m)


class Start(NamedTuple):
    x: np.ndarray


def any_start(key, depth) -> Start:
    rng = generator(key)
    return Start((orthogonal(rng, 3) * spectrum(rng, 3)) @ orthogonal(rng, 3))


def flow_ratios(at: Start, sign=-1.0) -> float:
    """The largest `sign` times growth of a log-ratio between two saved times of the library's flow of -S_inf."""
    sigma = np.asarray(flow(Energy(), at.x, 2.0, beta=1.0).sigma)
    growth = np.diff(np.log(sigma[:, :-1] / sigma[:, 1:]), axis=0)
    return float(np.max(sign * growth))


SPREAD = Claim(
    name="Section 4.3, spread out",
    statement="maximising S_inf spreads the singular values out: along its flow every ratio s_i/s_j > 1 grows",
    where="Section 4.3",
    expected="holds",
    note="At infinite depth; minus the least rate at which log-ratios grow. See the next for finite depth.",
    draw=any_start,
    printed=flow_ratios,
    tampered=(("every ratio shrinks", lambda at: flow_ratios(at, sign=1.0)),),
    attack=over_gaps(parting, 4),
    depths=NO_DEPTH,
    draws=2,
    tolerance=STRICT,
    floor=VIOLATED,
)


def parting_rates(sigma, depth):
    """d/dt log(sigma_i/sigma_{i+1}) along the flow of -S_N, relative to the fastest of the log sigma_i."""
    rates = sigma ** (1 - 2 / depth) * np.sum(entropy_slopes(sigma, depth), axis=1)
    return -np.diff(rates) / np.max(np.abs(rates))


def crowded(key, depth) -> Spectrum:
    """A spectrum of two large singular values that are close to each other, and more than N/2 small ones."""
    depth = min(max(float(depth), 2.0), 64.0)
    rng = generator(key)
    small = np.geomspace(0.02, 0.01, 2 + int(depth / 2)) * np.exp(rng.normal(0, 0.01))
    return Spectrum(np.append(np.exp([rng.uniform(0.05, 0.2), 0.0]), small), depth)


SPREAD_FINITE = Claim(
    name="Section 4.3, spread out at finite depth",
    statement="maximising S_N spreads the singular values out at any depth",
    where="Section 4.3",
    expected="fails",
    note="Two neighbours above about N/6 small ones come closer; at N = 2, d > 2, all do. For d = 2 none ever does.",
    draw=crowded,
    printed=lambda at: -np.min(parting_rates(at.sigma, at.depth)),
    instead=lambda at: -np.min(parting_rates(at.sigma[:2], at.depth)),
    tampered=(("for d = 2 they come closer", lambda at: 1e-3 + np.min(parting_rates(at.sigma[1:3], at.depth))),),
    examples=(Spectrum(np.array([3.0, 2.0, 1.0]), 2.0), Spectrum(np.array([2.0, 1.0, 0.5]), 3.0)),
)


class Scaled(NamedTuple):
    sigma: np.ndarray
    a: float
    depth: float


def scaled(key, depth) -> Scaled:
    rng = generator(key)
    return Scaled(spectrum(rng, D), float(-np.exp(rng.normal())), float(depth))


def scaling_error(at: Scaled, log_a, factor=None) -> float:
    """The error of (4.31) and (4.32) with the logarithm `log_a`. A complex logarithm is wrong by its imaginary part."""
    d = len(at.sigma)
    factor = 1 - 1 / at.depth if factor is None else factor
    given = d * (d - 1) / 2 * factor * log_a(at.a)
    return abs(log_volume(abs(at.a) * at.sigma, at.depth) - log_volume(at.sigma, at.depth) - given)


def log_of_size(a):
    return np.log(abs(a))


SCALING = Claim(
    name="Lemma 4.3.2, (4.31)-(4.32)",
    statement="for real a: S_N(aX) = C(d,2) (1 - 1/N) log a + S_N(X), at infinite depth without the 1/N",
    where="Section 4.3",
    expected="corrected",
    note="log |a|, a != 0. So S is as large as one likes, for N > 1.",
    draw=scaled,
    printed=lambda at: scaling_error(at, lambda a: np.log(complex(a))),
    corrected=lambda at: scaling_error(at, log_of_size),
    tampered=(
        ("log a^2", lambda at: scaling_error(at, lambda a: np.log(a**2))),
        ("without 1 - 1/N", lambda at: scaling_error(at, log_of_size, 1.0)),
        ("1 - 2/N", lambda at: scaling_error(at, log_of_size, 1 - 2 / at.depth)),
    ),
    examples=(Scaled(np.array([2.0, 1.0]), -1.0, 2.0),),
)


def gradient_error(at: Spectrum, terms) -> float:
    expected = derivative(lambda sigma: log_volume(sigma, at.depth), at.sigma)
    return off(np.sum(terms(at.sigma, at.depth), axis=1), expected)


def bare(sigma):
    """What a sum over j != i needs as a matrix: sigma_i, sigma_j, and two functions for the diagonal.

    The first function sets the diagonal to 0, and the second sets the diagonal of a denominator to 1.
    """
    same = np.eye(len(sigma), dtype=bool)
    return sigma[:, None], sigma[None, :], lambda a: np.where(same, 0.0, a), lambda gap: np.where(same, 1.0, gap)


def first_terms(sigma):
    i, j, drop, safe = bare(sigma)
    return drop(i / safe(i**2 - j**2))


DERIVATIVE = Claim(
    name="Lemma 4.3.3, (4.36)-(4.37)",
    statement="dS_N/ds_i = sum_{j != i} s_i/(s_i^2 - s_j^2) - s_i^(2/N-1)/(N (s_i^(2/N) - s_j^(2/N))), and its limit",
    where="Section 4.3",
    expected="holds",
    note="The subscript i of the second sigma in (4.36) is missing in print. Against the complex step.",
    draw=any_spectrum,
    printed=lambda at: gradient_error(at, entropy_slopes),
    tampered=(
        ("the terms added", lambda at: gradient_error(at, lambda s, n: 2 * first_terms(s) - entropy_slopes(s, n))),
        ("sigma_j in the second", lambda at: gradient_error(at, second_by_j)),
        ("half of it", lambda at: gradient_error(at, lambda s, n: entropy_slopes(s, n) / 2)),
    ),
)


def second_by_j(sigma, depth):
    i, j, *_ = bare(sigma)
    first = first_terms(sigma)
    return first - (first - entropy_slopes(sigma, depth)) * (j / i) ** (2 / depth - 1)


def halves_error(at: Spectrum, factor=1.0) -> float:
    """The error of (4.39)-(4.42), which are the derivatives of the two halves of S_inf.

    The halves are 1/2 sum log(s_j^2 - s_k^2) and 1/2 sum log(log s_j^2 - log s_k^2).
    """
    i, j, drop, safe = bare(at.sigma)
    halves = (lambda s: s**2, i), (lambda s: np.log(s**2), 1 / i)
    errors = []
    for f, numerator in halves:
        log_gaps = lambda sigma, f=f: np.sum(np.log(np.subtract(*map(f, pairs(sigma))))) / 2
        printed = np.sum(drop(factor * numerator / safe(f(i) - f(j))), axis=1)
        errors.append(off(printed, derivative(log_gaps, at.sigma)))
    return max(errors)


HALVES = Claim(
    name="Proof of Lemma 4.3.3, (4.38)-(4.42)",
    statement="the two halves of S_inf have derivatives sum s_i/(s_i^2 - s_j^2) and sum s_i^-1/(log s_i^2 - log s_j^2)",
    where="Section 4.3",
    expected="holds",
    draw=any_spectrum,
    printed=halves_error,
    tampered=(("with the 1/2 kept", lambda at: halves_error(at, 0.5)),),
    depths=NO_DEPTH,
)

CLAIMS: tuple[Claim, ...] = (
    VOLUME,
    LOG_VOLUME,
    LIMIT,
    VANDERMONDE,
    APART,
    SPREAD,
    SPREAD_FINITE,
    *_chapter4_volume.CLAIMS,
    SCALING,
    DERIVATIVE,
    HALVES,
)
