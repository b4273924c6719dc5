"""Section 4.3, Remark 4.3.8 and the end: the equilibria of other energies minus the entropy."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import root_scalar

from dlnjax.claims._chapter4_concavity import entropy
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._flows import Energy, flow
from dlnjax.claims._spectra import entropy_slopes, generator, off


class Convex(NamedTuple):
    """A convex function f(x) = a x^2/2 + b e^(c x), and an isotropic matrix s I."""

    a: float
    b: float
    c: float
    s: float
    beta: float
    d: int

    def slope(self, x):
        return self.a * x + self.b * self.c * np.exp(self.c * x)


def convex(key, depth) -> Convex:
    rng = generator(key)
    a, b, c, s, beta = map(float, np.exp(rng.uniform(-1, 1, 5)))
    return Convex(a * float(rng.random() < 0.7), b, c * float(rng.choice([-1, 1])), s, beta, int(rng.integers(2, 6)))


def out_of_balance(at: Convex, s, factor=0.5) -> float:
    """The relative error of the equilibrium condition s f'(s) = factor (d-1)/beta at s I."""
    return abs(s * at.slope(s) * at.beta / (factor * (at.d - 1)) - 1)


def at_root(at: Convex, factor=0.5) -> float:
    """The error of the statement that s f'(s) = factor (d-1)/beta has exactly one root s, and that s I is an
    equilibrium.

    If f increases nowhere, the statement is that there is no root. A wrong number of roots is an error of 1.
    """
    excess = lambda x: np.exp(x) * at.slope(np.exp(min(x, 5.0))) - factor * (at.d - 1) / at.beta
    grid = np.linspace(-20, 5, 2001)
    signs = np.sign([excess(x) for x in grid])
    nowhere = at.a == 0 and at.c < 0
    if nowhere or np.count_nonzero(np.diff(signs)) != 1:
        return float(not nowhere or bool(np.any(np.diff(signs))))
    k = int(np.flatnonzero(np.diff(signs))[0])
    s = np.exp(root_scalar(excess, bracket=(grid[k], grid[k + 1]), xtol=1e-14).root)
    # (4.37) is 0/0 at an isotropic matrix. The gradient of S_inf is therefore taken at a spectrum very close to it.
    close = s * np.exp(1e-4 * (np.arange(at.d) - (at.d - 1) / 2))
    middle = np.mean(close * np.sum(entropy_slopes(close, np.inf), axis=1))
    return abs(s * at.slope(s) * at.beta / middle - 1)


ALL_ISOTROPIC = Claim(
    name="Remark 4.3.8, (4.78)",
    statement="for a convex f the equilibria of sum f(sigma_i) - S_inf/beta are exactly the isotropic matrices",
    where="Section 4.3",
    expected="fails",
    note="Only those with s f'(s) = (d-1)/(2 beta): one s if f is also increasing somewhere, none if nowhere.",
    draw=convex,
    printed=lambda at: out_of_balance(at, at.s),
    instead=at_root,
    tampered=(("s f'(s) = (d-1)/beta", lambda at: at_root(at, 1.0)),),
    examples=(Convex(1.0, 0.0, 1.0, 1.0, 1.0, 2),),
    depths=NO_DEPTH,
    draws=10,
    tolerance=1e-6,
)


class Ends(NamedTuple):
    i: float
    j: float


def mean_value(at: Ends, power=1.0) -> float:
    """The error of (4.77) for f = exp. It is 0 if xi is between s_j and s_i, and both sides are positive."""
    ratio = (np.exp(at.i) - np.exp(at.j)) / (at.i - at.j) ** power
    return max(at.j - np.log(ratio), np.log(ratio) - at.i, -ratio, 0.0)


def ends(key, depth) -> Ends:
    j, step = generator(key).uniform(0.1, 3, 2)
    return Ends(float(j + step), float(j))


MEAN_VALUE = Claim(
    name="Remark 4.3.8, (4.77)",
    statement="f'(s_i) - f'(s_j) = (s_i - s_j) f''(xi) for a xi between them",
    where="Section 4.3",
    expected="holds",
    note="Checked for f = exp, where xi is known.",
    draw=ends,
    printed=mean_value,
    tampered=(("(s_i - s_j)^2", lambda at: mean_value(at, 2.0)),),
    depths=NO_DEPTH,
    draws=10,
)


class Along(NamedTuple):
    """The number a of the matrix [[1, a], [-a, 1]], and a start of the flow."""

    a: float
    x: np.ndarray


def along(key, depth) -> Along:
    rng = generator(key)
    return Along(float(np.exp(rng.uniform(0, 10))), rng.standard_normal((3, 3)))


def drifts(at: Along) -> float:
    """d log |X|/dt at the end of the library's flow of (4.21) - S_inf. It is 0 if the flow comes to rest."""
    sol = flow(Energy(completion=1.0), at.x, 4.0, beta=1.0)
    size = np.linalg.norm(np.asarray(sol.sigma), axis=-1)
    return float(np.log(size[-1] / size[-2]) / (sol.ts[-1] - sol.ts[-2]))


def unbounded(at: Along, half=0.5) -> float:
    """The error of E = 0 and S = 1/2 log(1 + a^2) at [[1, a], [-a, 1]]."""
    x = np.array([[1.0, at.a], [-at.a, 1.0]])
    energy = np.sum((np.diag(x) - 1) ** 2)
    return max(energy, off(entropy(np.linalg.svd(x, compute_uv=False)), half * np.log1p(at.a**2)))


COMPLETION = Claim(
    name="Section 4.3, completion with entropy",
    statement="the flow of a completion energy less S/beta comes to rest, so that there is a final effective rank",
    where="Section 4.3",
    expected="fails",
    note="Unbounded below: on [[1, a], [-a, 1]] (4.21) is 0 and S_inf = 1/2 log(1 + a^2). Its equilibria are saddles.",
    draw=along,
    printed=drifts,
    instead=unbounded,
    tampered=(("S_inf = log(1 + a^2)", lambda at: unbounded(at, 1.0)),),
    examples=(Along(1.0, np.array([[1.0, 0.5, 0], [-0.5, 1, 0], [0, 0, 1]])),),
    depths=NO_DEPTH,
    draws=2,
)


class Saddle(NamedTuple):
    """The equilibrium s I of (4.21) - S_inf/beta, d = 2: 2(s - 1) = 1/(2 beta s)."""

    beta: float

    @property
    def s(self):
        return (1 + np.sqrt(1 + 1 / self.beta)) / 2


def saddle(at: Saddle, sign=1.0) -> float:
    """The error of two statements: dF = 0 at s I, and F changes by -log(1 + a^2/s^2)/(2 beta) from s I to s I + a J."""
    free = lambda x: np.sum((np.diag(x) - 1) ** 2) - entropy(np.linalg.svd(x, compute_uv=False)) / at.beta
    x, a, h = at.s * np.eye(2), 0.1, 1e-5
    units = np.eye(4).reshape(4, 2, 2)
    stationary = max(abs(free(x + h * e) - free(x - h * e)) / (2 * h) for e in units)
    fall = free(x + a * np.array([[0.0, 1.0], [-1.0, 0.0]])) - free(x)
    return max(stationary, abs(fall + sign * np.log1p((a / at.s) ** 2) / (2 * at.beta)))


SADDLE = Claim(
    name="Section 4.3, the equilibria of completion with entropy",
    statement="(4.21) - S_inf/beta has equilibria, such as s I with 2(s - 1) = 1/(2 beta s), but they are saddles",
    where="Section 4.3, beyond it",
    expected="holds",
    note="F falls from s I along s I + a J, J the quarter turn, on which E does not change; d = 2.",
    draw=lambda key, depth: Saddle(float(np.exp(generator(key).uniform(-2, 3)))),
    printed=saddle,
    tampered=(("F rises", lambda at: saddle(at, -1.0)),),
    depths=NO_DEPTH,
    floor=1e-6,
)

CLAIMS: tuple[Claim, ...] = (
    ALL_ISOTROPIC,
    MEAN_VALUE,
    COMPLETION,
    SADDLE,
)
