"""Section 4.3, Lemma 4.3.6: the terms of the gradient of the entropy as functions of two singular values."""

from collections.abc import Callable
from typing import NamedTuple

import mpmath
import numpy as np

from dlnjax.claims._attack import FAR, NEAR, on_box, STRICT, VIOLATED
from dlnjax.claims._chapter4_concavity import cross, second, TURN, Two, wide
from dlnjax.claims._chapter4_entropy import slope
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._spectra import (
    any_spectrum,
    derivative,
    entropy_slopes,
    generator,
    off,
    Spectrum,
)

DIGITS = 60


def falling(x, m, sign=1):
    """The relative fall of g(., s_j) from s_j e^u to s_j e^(u + v), divided by tanh v."""
    u, v = x
    before, after = (slope(m.exp(w), m.exp(0 * w), m) for w in (u, u + v))
    return sign * (1 - after / before) / m.tanh(v)


class Steps(NamedTuple):
    u: float
    v: float


def steps(key, depth) -> Steps:
    rng = generator(key)
    return Steps(float(rng.uniform(-5, 5)), float(rng.uniform(0.1, 2)))


DECREASING = Claim(
    name="Lemma 4.3.6 (1)",
    statement="g(s_i, s_j) decreases in its first argument",
    where="Section 4.3",
    expected="holds",
    note="Minus the relative fall over a step; steps u, v are logarithms of s_i/s_j before it and of its size.",
    draw=steps,
    printed=lambda at: -falling(at, np),
    tampered=(("increases", lambda at: -falling(at, np, -1)),),
    attack=on_box(falling, (-FAR, FAR), (NEAR, FAR - 1)),
    depths=NO_DEPTH,
    draws=20,
    tolerance=STRICT,
    floor=VIOLATED,
)


def reversed_order(u, m, sign=1, factor=1):
    """The relative difference g(s_j, s_i) - g(s_i, s_j) for s_i = s_j e^u > s_j, divided by tanh u."""
    i, j = m.exp(u[0]), m.exp(0 * u[0])
    return sign * (1 - factor * slope(i, j, m) / slope(j, i, m)) / m.tanh(u[0])


def exchange(at: Two, sign=1, factor=1) -> float:
    return -float(reversed_order([np.log(at.ratio)], np, sign, factor))


EXCHANGE = Claim(
    name="Lemma 4.3.6 (2)",
    statement="if s_i > s_j, g(s_i, s_j) > g(s_j, s_i)",
    where="Section 4.3",
    expected="fails",
    note="Reversed: g(2, 1) = .3060 < g(1, 2) = .3880. The proof of Theorem 4.3.7 needs and uses the reversed one.",
    draw=wide,
    printed=lambda at: exchange(at, -1),
    instead=exchange,
    tampered=(("2 g(s_i, s_j) < g(s_j, s_i)", lambda at: exchange(at, factor=2)),),
    attack=on_box(reversed_order, (NEAR, FAR)),
    examples=(Two(2.0),),
    depths=NO_DEPTH,
    draws=20,
    tolerance=STRICT,
    floor=VIOLATED,
)


def difference_slope(ratio) -> float:
    """r times the derivative of g(r, 1) - g(1, r) in r, by the complex step."""
    f = lambda r: slope(r[0], 1.0, np) - slope(1.0, r[0], np)
    return float(derivative(f, np.array([ratio]))[0] * ratio)


def turns(turn) -> Callable[[Two], float]:
    """The error of the statement that g(r, 1) - g(1, r) decreases up to the ratio `turn` and increases beyond it."""
    return lambda at: difference_slope(at.ratio) * float(np.sign(turn - at.ratio))


def turning(u, m):
    ratio = m.exp(u[0])
    return -(second(ratio, m.exp(0 * u[0]), m) - cross(ratio, m.exp(0 * u[0]), m)) * ratio * m.sign(TURN - ratio)


MONOTONE = Claim(
    name="Proof of Lemma 4.3.6 (2)",
    statement="g(r, 1) - g(1, r) is 0 at r = 1, and decreases for r > 1",
    where="Section 4.3",
    expected="fails",
    note="It decreases up to r = 9.106688 alone, and then rises to 0: the ratio at which (4.46) fails. It is negative.",
    draw=wide,
    printed=lambda at: difference_slope(at.ratio),
    instead=turns(TURN),
    tampered=(("up to 8", turns(8.0)), ("up to 10", turns(10.0))),
    attack=on_box(turning, (NEAR, FAR)),
    examples=(Two(20.0), Two(8.5), Two(9.5)),
    depths=NO_DEPTH,
    draws=20,
    tolerance=1e-6,
)


class Value(NamedTuple):
    sigma: float
    depth: float


def value(key, depth) -> Value:
    return Value(float(np.exp(generator(key).normal())), np.inf if depth is None else float(depth))


def slope_at_depth(i, j, depth):
    """The term of (4.36), or at infinite depth the g of (4.56), for numbers of mpmath."""
    if np.isinf(depth):
        return slope(i, j, mpmath)
    a = mpmath.mpf(2) / depth
    return i / (i**2 - j**2) - i ** (a - 1) / (depth * (i**a - j**a))


def limit_error(at: Value, factor) -> float:
    """The error of the limit factor/(2 s_j), against a relative gap of 10^-15 with 60 digits."""
    with mpmath.workdps(DIGITS):
        j = mpmath.mpf(at.sigma)
        return abs(float(slope_at_depth(j * (1 + mpmath.mpf(10) ** -15), j, at.depth) * 2 * j / factor - 1))


LIMIT = Claim(
    name="Lemma 4.3.6 (3), (4.57)",
    statement="g(s_i, s_j) tends to 1/(2 s_j) as s_i tends to s_j",
    where="Section 4.3",
    expected="holds",
    draw=value,
    printed=lambda at: limit_error(at, 1.0),
    tampered=(("1/s_j", lambda at: limit_error(at, 2.0)),),
    depths=NO_DEPTH,
)

LIMIT_AT_DEPTH = Claim(
    name="Lemma 4.3.6 (3) for S_N",
    statement="as s_i tends to s_j, the terms of (4.36) tend to 1/(2 s_j) too",
    where="Section 4.3",
    expected="corrected",
    note="To (1 - 1/N)/(2 s_j).",
    draw=lambda key, depth: value(key, min(float(depth), 64.0)),
    printed=lambda at: limit_error(at, 1.0),
    corrected=lambda at: limit_error(at, 1 - 1 / at.depth),
    tampered=(("1 + 1/N", lambda at: limit_error(at, 1 + 1 / at.depth)),),
    examples=(Value(1.0, 2.0),),
)


def summed_slopes(at: Spectrum, scale=1.0) -> float:
    """The error of (4.58), against the diagonal of the Hessian by the complex step through (4.37)."""
    sums = lambda i: lambda sigma: np.sum(entropy_slopes(sigma, np.inf), axis=1)[i]
    sigma, index = at.sigma, range(len(at.sigma))
    expected = np.array([derivative(sums(i), sigma)[i] for i in index])
    one = lambda i, j: derivative(lambda x: slope(x[0], sigma[j], np), sigma[i : i + 1])[0]
    return off(np.array([scale * sum(one(i, j) for j in index if j != i) for i in index]), expected)


SUM_OF_SLOPES = Claim(
    name="(4.58)",
    statement="the sum over j != i of dg(s_i, s_j)/ds_i is d^2 S_inf/ds_i^2",
    where="Section 4.3",
    expected="holds",
    draw=any_spectrum,
    printed=summed_slopes,
    tampered=(("half of it", lambda at: summed_slopes(at, 0.5)),),
    depths=NO_DEPTH,
)


class Remainders(NamedTuple):
    """The remainders of the expansions (4.60), (4.61), (4.66) and (4.68) at s_j = 1, for h and for h/2."""

    h: tuple[float, ...]
    half: tuple[float, ...]


def remainders(h) -> tuple[float, ...]:
    with mpmath.workdps(DIGITS):
        h = mpmath.mpf(h)
        i = 1 + h
        exact = 1 / (1 + h / 2), 2 * h * i / (i**2 - 1), h / (i * mpmath.log(i)), slope(i, 1, mpmath)
        given = 1 - h / 2, 1 + h / 2, 1 - h / 2, mpmath.mpf(1) / 2
        return tuple(float(abs(e - g)) for e, g in zip(exact, given, strict=True))


def shrinking(at: Remainders, *orders) -> float:
    """The largest relative growth of a remainder over h^order when h is halved.

    A remainder O(h^order) does not grow. A remainder o(h^order) becomes smaller.
    """
    return max(b / a * 2**order - 1 for a, b, order in zip(at.h, at.half, orders, strict=True))


def any_remainders(key, depth) -> Remainders:
    h = float(10 ** generator(key).uniform(-6, -4))
    return Remainders(remainders(h), remainders(h / 2))


REMAINDERS = Claim(
    name="Proof of Lemma 4.3.6 (3), (4.60)-(4.68)",
    statement="the expansions to h end in o(h^2), and that of g in o(h)",
    where="Section 4.3",
    expected="corrected",
    note="In O(h^2) and O(h): the next terms, h^2/(4 s_j^2) in (4.60), do not vanish. The limit does not need more.",
    draw=any_remainders,
    printed=lambda at: 0.5 + shrinking(at, 2, 2, 2, 1),
    corrected=lambda at: shrinking(at, 2, 2, 2, 1),
    tampered=(("O(h^3) and O(h^2)", lambda at: shrinking(at, 3, 3, 3, 2)),),
    depths=NO_DEPTH,
    tolerance=0.01,
    floor=0.1,
)

CLAIMS: tuple[Claim, ...] = (
    DECREASING,
    EXCHANGE,
    MONOTONE,
    LIMIT,
    LIMIT_AT_DEPTH,
    SUM_OF_SLOPES,
    REMAINDERS,
)
