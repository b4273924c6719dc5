"""Section 3.4, Lemma 3.4.1: straight lines between balanced factors."""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from dlnjax.claims import _chapter3_diagonal, _chapter3_rotated
from dlnjax.claims._claim import Claim
from dlnjax.claims._factors import imbalance, xi
from dlnjax.claims._spectra import generator, orthogonal, spectrum

WHOLE = (2.0, 3.0, 5.0)


class Line(NamedTuple):
    """The arguments of xi at the two ends of the line (3.66): Lambda and Lambda~, and Q_p and Q~_p for p = 0..N."""

    lam: np.ndarray
    lam_b: np.ndarray
    q: np.ndarray
    q_b: np.ndarray

    @property
    def turns(self):
        """The matrices Q~_p^T Q_p of (3.65). The functions below call these matrices Q_p too, as the lemma does."""
        return np.swapaxes(self.q_b, -1, -2) @ self.q

    def at(self, t):
        return (1 - t) * xi(self.lam, self.q) + t * xi(self.lam_b, self.q_b)


def line(key, depth, turns=None) -> Line:
    """A random line for which Q~_p^T Q_p is `turns`. Unless these are given, they depend on the parity of p only."""
    rng = generator(key)
    d = 2 if turns else int(rng.integers(2, 4))
    q = np.array([orthogonal(rng, d) for _ in range(int(depth) + 1)])
    pair = [orthogonal(rng, d) for _ in range(2)]
    turned = turns(rng, len(q)) if turns else [pair[p % 2] for p in range(len(q))]
    return Line(spectrum(rng, d), spectrum(rng, d), q, np.array([a @ o.T for a, o in zip(q, turned, strict=True)]))


def never_balanced(at: Line) -> float:
    return max(imbalance(at.at(t)) for t in (0.2, 0.5, 0.9))


def opposed(at: Line) -> Line:
    """The line with Q_{p+1} = -Q_{p-1} in place of condition (1)."""
    signs = np.array([(-1.0) ** (p // 2) for p in range(len(at.q))])
    return at._replace(q_b=at.q_b * signs[:, None, None])


def shuffled(at: Line) -> Line:
    """The line with Q_{p+1} = Q_{p-1}^T in place of condition (1)."""
    turns = [o if p % 4 < 2 else o.T for p, o in enumerate(at.turns)]
    return at._replace(q_b=np.array([a @ o.T for a, o in zip(at.q, turns, strict=True)]))


SUFFICIENT = Claim(
    name="Lemma 3.4.1 (1)",
    statement="the line from xi(L, Q) to xi(L~, Q~) is balanced if Q~_{p+1}^T Q_{p+1} = Q~_{p-1}^T Q_{p-1} for all p",
    where="Section 3.4, (3.65)-(3.66), (3.69)-(3.71)",
    expected="holds",
    draw=line,
    printed=never_balanced,
    tampered=(
        ("if one is minus the other", lambda at: never_balanced(opposed(at))),
        ("if one is the transpose of the other", lambda at: never_balanced(shuffled(at))),
    ),
    depths=WHOLE,
    whole=True,
)


def rotation(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def mixed(key, depth) -> Line:
    """A line of one of three kinds: it satisfies (1), or it is any line, or it satisfies (2) but not (1).

    A line of the last kind has Q_0 = R^T, Q_1 = I and Q_2 = R.
    """
    kind = int(generator(key).integers(3))
    if kind == 0:
        return line(key, depth)
    if kind == 1:
        return line(key, depth, lambda rng, n: [orthogonal(rng, 2) for _ in range(n)])
    at = line(key, depth, lambda rng, n: [rotation(0.5) if p % 2 == 0 else np.eye(2) for p in range(n)])
    first = at.q[:1] @ rotation(0.5)
    return at._replace(lam_b=1.7 * at.lam, q_b=np.concatenate([first, at.q_b[1:]]))


def skew(at: Line, *, inverse=True, sign=1.0) -> float:
    """The largest entry of K + K^T for K = (Q_{p+1} - Q_{p-1}) M^T of (3.67)-(3.68). It is 0 for antisymmetric K."""
    o, errors = at.turns, [0.0]
    for p in range(1, len(o) - 1):
        m = (o[p] * at.lam) / (at.lam_b[:, None] if inverse else 1.0)
        k = (o[p + 1] - o[p - 1]) @ m.T
        errors.append(float(np.max(np.abs(k + sign * k.T)) / np.max(np.abs(m))))
    return max(errors)


def equivalent(at: Line, **changed) -> float:
    """0 if the line is balanced and satisfies condition (2), or if neither is true, and else 1."""
    return float((never_balanced(at) < 1e-10) != (skew(at, **changed) < 1e-10))


CHARACTERIZED = Claim(
    name="Lemma 3.4.1 (2)",
    statement="the line is balanced iff (Q_{p+1} - Q_{p-1}) M^T, M = L~^{-1} Q_p L, are skew symmetric",
    where="Section 3.4, (3.67)-(3.74)",
    expected="holds",
    note="Tried on lines of (1), on others that satisfy (2), and on lines that do not.",
    draw=mixed,
    printed=equivalent,
    tampered=(
        ("symmetric", lambda at: equivalent(at, sign=-1.0)),
        ("M = Q_p L", lambda at: equivalent(at, inverse=False)),
    ),
    depths=WHOLE,
    whole=True,
    draws=8,
)


def loses_rank(at: Line) -> float:
    """1 if a factor is singular somewhere on the line, else 0. A search in t finds the least singular value."""
    least = lambda t: float(np.min(np.linalg.svd(at.at(t), compute_uv=False)))
    grid = np.linspace(0, 1, 201)
    t = grid[int(np.argmin([least(t) for t in grid]))]
    bounds = (max(t - 0.01, 0.0), min(t + 0.01, 1.0))
    found = minimize_scalar(least, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    return float(found.fun < 1e-8 * np.max(at.lam))


def through_zero(key, depth) -> Line:
    """A line that satisfies (1), and ends at the factors -Q_p L~ Q_{p-1}^T."""
    at = line(key, depth)
    return at._replace(q_b=at.q * ((-1.0) ** np.arange(len(at.q)))[:, None, None])


def one_turn(at: Line) -> Line:
    """A line with the same start and the same L~, for which Q~_p^T Q_p is the same for all p."""
    return at._replace(q_b=at.q @ at.turns[0].T)


IDENTITIES = np.array([np.eye(2)] * 3)
RANK = Claim(
    name="Lemma 3.4.1, in M",
    statement="such a line lies in the manifold M of balanced factors of full rank",
    where="Section 3.4, proof of Lemma 3.4.1",
    expected="fails",
    note="Full rank can be lost: A = (I, I), B = (-I, -I). It is kept where Q~_p^T Q_p is the same for all p.",
    draw=through_zero,
    printed=loses_rank,
    instead=lambda at: loses_rank(one_turn(at)),
    tampered=(("where Q~_p^T Q_p has the parity of p", loses_rank),),
    examples=(Line(np.ones(2), np.ones(2), IDENTITIES, IDENTITIES * np.array([1, -1, 1])[:, None, None]),),
    depths=WHOLE,
    whole=True,
    draws=1,
)

CLAIMS: tuple[Claim, ...] = (
    SUFFICIENT,
    CHARACTERIZED,
    RANK,
    *_chapter3_rotated.CLAIMS,
    *_chapter3_diagonal.CLAIMS,
)
