"""Beyond the thesis: G_p = W_p W_p^T - W_{p+1}^T W_{p+1} in steps of gradient descent, by weight decay and by momentum.

The flow (1.5) keeps all G_p. The energy here is neither quadratic nor convex, and the factors are not balanced.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from dlnjax.claims._claim import Claim
from dlnjax.claims._factors import any_network, balanced_network, defect, Network, postfactor, prefactor, product
from dlnjax.claims._spectra import generator, off

WHERE = "Beyond the thesis, B4: G_p under training"
WHOLE = (2.0, 3.0, 6.0)
# The length of a step, a time, and the tolerances of SciPy and of the comparison.
STEP, TIME, RTOL, INTEGRATION = 0.1, 1.0, 1e-12, 1e-8


def forces(w: np.ndarray, y: np.ndarray) -> np.ndarray:
    """-dL/dW_p = -A_{p+1}^T dE(X) B_{p-1}^T for E = |X - Y|^2/2 + sum cos X_ij."""
    x = product(w)
    de = x - y - np.sin(x)
    return np.array([-prefactor(w, p + 1).T @ de @ postfactor(w, p - 1).T for p in range(1, len(w) + 1)])


def integrated(state: np.ndarray, velocity: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The state at TIME, by DOP853."""
    flat = lambda t, z: velocity(z.reshape(state.shape)).ravel()
    end = solve_ivp(flat, (0, TIME), state.ravel(), method="DOP853", rtol=RTOL, atol=RTOL).y[:, -1]
    return end.reshape(state.shape)


def of_a_step(at: Network, *, power=2, sign=-1.0) -> float:
    """The error of the change of G_p in one step, relative to its largest entry."""
    g = forces(at.w, at.y)
    change = defect(at.w + STEP * g) - defect(at.w)
    turned = np.swapaxes(g, -1, -2)
    return off(change, STEP**power * (g[:-1] @ turned[:-1] + sign * turned[1:] @ g[1:]))


STEPS = Claim(
    name="B4.1, G_p in a step",
    statement="a step W_p - eta g_p along any stochastic gradient changes G_p by eta^2 (g_p g_p^T - g_{p+1}^T g_{p+1})",
    where=WHERE,
    expected="holds",
    note="No term is of order eta.",
    draw=any_network,
    printed=of_a_step,
    tampered=(
        ("of order eta", lambda at: of_a_step(at, power=1)),
        ("the sum for the difference", lambda at: of_a_step(at, sign=1.0)),
    ),
    depths=WHOLE,
    whole=True,
)


class Decaying(NamedTuple):
    """Factors, the labels, and the rate a of weight decay or c of friction; `v` are the velocities of the factors."""

    w: np.ndarray
    y: np.ndarray
    rate: float
    v: np.ndarray


def moving(key, depth) -> Decaying:
    """Factors near the identity: those of deep networks with large products would make the equations stiff."""
    rng = generator(key)
    w, v = 0.3 * rng.standard_normal((2, int(depth), 2, 2))
    return Decaying(np.eye(2) + w, rng.standard_normal((2, 2)), float(rng.uniform(0.3, 1.0)), v)


def decayed(at: Decaying, speed=2.0) -> float:
    """The error of G_p under weight decay, relative to G_p at the start."""
    end = integrated(at.w, lambda w: forces(w, at.y) - at.rate * w)
    return off(defect(end), np.exp(-speed * at.rate * TIME) * defect(at.w))


DECAY = Claim(
    name="B4.2, G_p under weight decay",
    statement="W_p' = -dL/dW_p - a W_p has G_p(t) = e^(-2at) G_p(0)",
    where=WHERE,
    expected="holds",
    draw=moving,
    printed=decayed,
    tampered=(
        ("e^(-at)", lambda at: decayed(at, 1.0)),
        ("G_p is kept", lambda at: decayed(at, 0.0)),
    ),
    depths=WHOLE,
    whole=True,
    draws=1,
    tolerance=INTEGRATION,
)


def momenta(w: np.ndarray, v: np.ndarray) -> np.ndarray:
    """W_p W_p'^T - W_{p+1}'^T W_{p+1}."""
    turned = np.swapaxes(v, -1, -2)
    return w[:-1] @ turned[:-1] - turned[1:] @ w[1:]


def with_momentum(at: Decaying, *, speed=1.0, sign=-1.0) -> float:
    """The error of what is conserved, its symmetric part in place of the antisymmetric one for `sign` = 1."""
    w, v = integrated(np.stack([at.w, at.v]), lambda z: np.stack([z[1], forces(z[0], at.y) - at.rate * z[1]]))
    part = lambda m: m + sign * np.swapaxes(m, -1, -2)
    return off(np.exp(speed * at.rate * TIME) * part(momenta(w, v)), part(momenta(at.w, at.v)))


def kept_by_momentum(at: Decaying) -> float:
    w, _ = integrated(np.stack([at.w, at.v]), lambda z: np.stack([z[1], forces(z[0], at.y) - at.rate * z[1]]))
    return off(defect(w), defect(at.w))


MOMENTUM = Claim(
    name="B4.3, momentum",
    statement="the heavy ball W_p'' + c W_p' = -dL/dW_p keeps e^(ct) skew(W_p W_p'^T - W_{p+1}'^T W_{p+1})",
    where=WHERE,
    expected="holds",
    note="It does not keep G_p.",
    draw=moving,
    printed=with_momentum,
    tampered=(
        ("without e^(ct)", lambda at: with_momentum(at, speed=0.0)),
        ("the symmetric part", lambda at: with_momentum(at, sign=1.0)),
        ("G_p is kept", kept_by_momentum),
    ),
    depths=WHOLE,
    whole=True,
    draws=1,
    tolerance=INTEGRATION,
)


class Networks(NamedTuple):
    """Factors that are balanced, and others with the same product."""

    w: np.ndarray
    other: np.ndarray


def same_product(key, depth) -> Networks:
    w, rng = balanced_network(key, depth).w, generator(key)
    d, other = w.shape[-1], w.copy()
    for p in range(len(w) - 1):
        turn = np.eye(d) + 0.4 * rng.standard_normal((d, d))
        other[p], other[p + 1] = turn @ other[p], other[p + 1] @ np.linalg.inv(turn)
    return Networks(w, other)


def least_norm(at: Networks, *, power=2.0, layers=None) -> float:
    """The error of the equality for balanced factors, and of the inequality for others, where it is false."""
    n = len(at.w)
    bound = (layers or n) * np.sum(np.linalg.svd(product(at.w), compute_uv=False) ** (power / n))
    return max(abs(np.sum(at.w**2) / bound - 1), 1 - np.sum(at.other**2) / bound)


NORM = Claim(
    name="B4.4, weight decay in X",
    statement="of all factors of X the balanced ones have the least sum |W_p|^2, and it is N sum sigma^(2/N)",
    where=WHERE,
    expected="holds",
    note="So the decay (a/2) sum |W_p|^2 is the energy (aN/2) sum sigma^(2/N) of X.",
    draw=same_product,
    printed=least_norm,
    tampered=(
        ("N sum sigma^(1/N)", lambda at: least_norm(at, power=1.0)),
        ("sum sigma^(2/N)", lambda at: least_norm(at, layers=1)),
        ("of any factors", lambda at: least_norm(at._replace(w=at.other))),
    ),
    depths=WHOLE,
    whole=True,
)

CLAIMS: tuple[Claim, ...] = (STEPS, DECAY, MOMENTUM, NORM)
