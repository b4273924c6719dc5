"""Section 1.1 and Theorem 2.1.1: the flow of the factors, and what the flow conserves."""

from typing import Any, NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from dlnjax.claims import _chapter2_balanced, _chapter2_metric, _chapter2_submersion
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._factors import (
    any_network,
    defect,
    Network,
    postfactor,
    prefactor,
    push,
    slope,
    velocity,
)
from dlnjax.claims._spectra import generator, off

WHOLE = (2.0, 3.0, 5.0)


def backpropagated(at: Network, *, turn_left=True, turn_right=True, skip=0) -> np.ndarray:
    """The velocity of all factors by (1.6)."""
    left = lambda a: a.T if turn_left else a
    right = lambda b: b.T if turn_right else b
    de = slope(at)
    factors = range(1, at.depth + 1)
    return -np.array([left(prefactor(at.w, p + 1 - skip)) @ de @ right(postfactor(at.w, p - 1)) for p in factors])


GRADIENT = Claim(
    name="(1.6)",
    statement="W_p' = -(W_N ... W_{p+1})^T dE(X) (W_{p-1} ... W_1)^T is the flow (1.5)",
    where="Section 1.1.1, (1.5)-(1.6)",
    expected="holds",
    draw=any_network,
    printed=lambda at: off(backpropagated(at), velocity(at)),
    tampered=(
        ("the prefactor not transposed", lambda at: off(backpropagated(at, turn_left=False), velocity(at))),
        ("the postfactor not transposed", lambda at: off(backpropagated(at, turn_right=False), velocity(at))),
        ("W_N ... W_p", lambda at: off(backpropagated(at, skip=1), velocity(at))),
    ),
    depths=(2.0, 3.0, 4.0, 6.0),
    whole=True,
)


def drift(at: Network, of=defect, t=1.0) -> float:
    """The change of `of`(W) along the flow up to time t, relative to the size of the factors."""
    flow = lambda _, w: backpropagated(Network(w.reshape(at.w.shape), at.y)).ravel()
    end = solve_ivp(flow, (0, t), at.w.ravel(), method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1]
    return float(np.max(np.abs(of(end.reshape(at.w.shape)) - of(at.w))) / np.max(at.w**2))


def crossed(w):
    turned = np.swapaxes(w, -1, -2)
    return turned[:-1] @ w[:-1] - w[1:] @ turned[1:]


INVARIANT = Claim(
    name="Theorem 2.1.1 (1)",
    statement="G_p = W_p W_p^T - W_{p+1}^T W_{p+1} does not change along the flow (1.5)",
    where="Section 2.1, (2.1)",
    expected="holds",
    note="As long as the solution exists.",
    draw=any_network,
    printed=drift,
    tampered=(
        ("W_p^T W_p - W_{p+1} W_{p+1}^T", lambda at: drift(at, crossed)),
        ("W_p W_p^T alone", lambda at: drift(at, lambda w: w[:-1] @ np.swapaxes(w[:-1], -1, -2))),
    ),
    depths=WHOLE,
    whole=True,
    draws=1,
)


class Scalar(NamedTuple):
    """Three layers with the same single weight w, and E(X) = -X^2/2."""

    w: float


def blow_up(at: Scalar) -> float:
    """The time to which the flow w' = w^5 can be followed."""
    far: Any = lambda _, w: w[0] - 1e6
    far.terminal = True
    return solve_ivp(lambda _, w: np.minimum(w, 1e9) ** 5, (0, 1), [at.w], events=far, rtol=1e-10, method="DOP853").t[
        -1
    ]


def grown(at: Scalar, power: float) -> float:
    """The error of the solution (w^-power - power t)^(-1/power), at half of the time 1/(4 w^4) at which it ends."""
    t = at.w**-4 / 8
    end = solve_ivp(lambda _, w: w**5, (0, t), [at.w], rtol=1e-12, atol=1e-13, method="DOP853").y[0, -1]
    return off(end, (at.w**-power - power * t) ** (-1 / power))


FOR_ALL_TIMES = Claim(
    name="Theorem 2.1.1 (1), for all t",
    statement="the solution stays in M_G for all real t",
    where="Section 2.1",
    expected="fails",
    note="Only on the interval of existence: d = 1, N = 3, E = -X^2/2 and w(0) = 1 give w = (1 - 4t)^(-1/4).",
    draw=lambda key, _: Scalar(generator(key).uniform(0.8, 2.0)),
    printed=lambda at: 1 - blow_up(at),
    instead=lambda at: grown(at, 4),
    tampered=(("exponent 3", lambda at: grown(at, 3)), ("exponent 2", lambda at: grown(at, 2))),
    examples=(Scalar(1.0),),
    depths=NO_DEPTH,
)


def product_rule(at: Network, *, left=lambda a: a @ a.T, right=lambda b: b.T @ b) -> float:
    """The error of (2.2), against d phi of the velocity of the factors."""
    terms = (left(prefactor(at.w, p + 1)) @ slope(at) @ right(postfactor(at.w, p - 1)) for p in range(1, at.depth + 1))
    return off(-sum(terms), push(at.w, velocity(at)))


DOWNSTAIRS = Claim(
    name="Theorem 2.1.1 (2)",
    statement="X' = -sum_p (A_{p+1} A_{p+1}^T) dE(X) (B_{p-1}^T B_{p-1})",
    where="Section 2.1, (2.2)",
    expected="holds",
    draw=any_network,
    printed=product_rule,
    tampered=(
        ("A^T A", lambda at: product_rule(at, left=lambda a: a.T @ a)),
        ("B B^T", lambda at: product_rule(at, right=lambda b: b @ b.T)),
    ),
    depths=WHOLE,
    whole=True,
)


def chain(at: Network, *, shift=0) -> float:
    """The largest error of the equations (2.4) and (2.5)."""
    v, de, errors = velocity(at), slope(at), []
    for p in range(1, at.depth):
        below, above = postfactor(at.w, p - shift), prefactor(at.w, p + 1)
        w, up, dw, dup = at.w[p - 1], at.w[p], v[p - 1], v[p]
        errors += [off(dup.T @ up, -below @ de.T @ above), off(dup.T @ up, w @ dw.T)]
        errors += [off(up.T @ dup, -above.T @ de @ below.T), off(up.T @ dup, dw @ w.T)]
    return max(errors)


CHAIN = Claim(
    name="(2.4)-(2.5)",
    statement="W_{p+1}'^T W_{p+1} = -(W_p ... W_1) dE^T (W_N ... W_{p+1}) = W_p W_p'^T, and its transpose",
    where="Section 2.1, (2.3)-(2.5)",
    expected="holds",
    draw=any_network,
    printed=chain,
    tampered=(("W_{p-1} ... W_1", lambda at: chain(at, shift=1)),),
    depths=WHOLE,
    whole=True,
)

CLAIMS: tuple[Claim, ...] = (
    GRADIENT,
    INVARIANT,
    FOR_ALL_TIMES,
    DOWNSTAIRS,
    CHAIN,
    *_chapter2_balanced.CLAIMS,
    *_chapter2_metric.CLAIMS,
    *_chapter2_submersion.CLAIMS,
)
