"""Section 4.3, Lemma 4.3.4: matrices dominated by their diagonal."""

from typing import NamedTuple

import mpmath
import numpy as np

from dlnjax.claims._attack import (
    largest_eigenvalue,
    STRICT,
    VIOLATED,
    worst,
)
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._spectra import (
    generator,
)


class Symmetric(NamedTuple):
    a: np.ndarray


def dominant(key, depth) -> Symmetric:
    """A symmetric matrix whose diagonal is positive and just above the sums of the |A_ij| in its rows."""
    rng = generator(key)
    d = int(rng.integers(2, 6))
    a = rng.standard_normal((d, d))
    a = a + a.T - np.diag(2 * np.diag(a))
    return Symmetric(a + np.diag(np.sum(np.abs(a), axis=1) * (1 + 10 ** rng.uniform(-3, 0, d))))


def indefinite(at: Symmetric, sign=1.0) -> float:
    return -np.linalg.eigvalsh(sign * at.a)[0] / np.max(np.abs(at.a))


def dominance_attack(key, depth):
    """An attack over the off-diagonal entries of a 3 x 3 matrix whose diagonal is barely above the sums of the rows."""

    def room(x, m):
        a, b, c = x
        edge = 1 + m.mpf("1e-3") if m is mpmath else 1.001
        diagonal = [edge * (abs(p) + abs(q)) for p, q in ((a, b), (a, c), (b, c))]
        h = [[diagonal[0], a, b], [a, diagonal[1], c], [b, c, diagonal[2]]]
        return -largest_eigenvalue([[-e for e in row] for row in h], m)

    found = worst(room, [(-1.0, -0.1), (0.1, 1.0), (-1.0, 1.0)], generator(key))
    return -found.room, {"off the diagonal": list(found.at)}


DOMINANT = Claim(
    name="Lemma 4.3.4",
    statement="symmetric A with A_ii > 0 and A_ii > sum_{j != i} |A_ij| for all i is positive definite",
    where="Section 4.3",
    expected="holds",
    draw=dominant,
    printed=indefinite,
    tampered=(("negative definite", lambda at: indefinite(at, -1.0)),),
    attack=dominance_attack,
    depths=NO_DEPTH,
    draws=20,
    tolerance=STRICT,
    floor=VIOLATED,
)

NEGATIVE = Claim(
    name="Corollary 4.3.4.1",
    statement="symmetric A with A_ii < 0 and |A_ii| > sum_{j != i} |A_ij| for all i is negative definite",
    where="Section 4.3",
    expected="holds",
    draw=lambda key, depth: Symmetric(-dominant(key, depth).a),
    printed=lambda at: indefinite(at, -1.0),
    tampered=(("positive definite", indefinite),),
    attack=dominance_attack,
    depths=NO_DEPTH,
    draws=20,
    tolerance=STRICT,
    floor=VIOLATED,
)


def symmetric(key, depth) -> Symmetric:
    a = generator(key).standard_normal((4, 4))
    return Symmetric(a + a.T)


def outside_discs(at: Symmetric, radius) -> float:
    """The largest distance of an eigenvalue from its nearest disc, over the largest entry of A."""
    centres = np.diag(at.a)
    values = np.linalg.eigvalsh(at.a)[:, None]
    out = np.abs(values - centres) - radius(at.a - np.diag(centres))
    return float(np.max(np.min(out, axis=1)) / np.max(np.abs(at.a)))


GERSHGORIN = Claim(
    name="Proof of Corollary 4.3.4.1, Gershgorin",
    statement="every eigenvalue of A lies in a disc about A_ii of radius sum_{j != i} A_ij",
    where="Section 4.3",
    expected="corrected",
    note="The radius is the sum of the absolute values.",
    draw=symmetric,
    printed=lambda at: outside_discs(at, lambda a: np.sum(a, axis=1)),
    corrected=lambda at: outside_discs(at, lambda a: np.sum(np.abs(a), axis=1)),
    tampered=(("the largest of them", lambda at: outside_discs(at, lambda a: np.max(np.abs(a), axis=1))),),
    examples=(Symmetric(np.array([[0.0, -1.0], [-1.0, 0.0]])), Symmetric(1.0 - np.eye(3))),
    depths=NO_DEPTH,
)

CLAIMS: tuple[Claim, ...] = (
    DOMINANT,
    NEGATIVE,
    GERSHGORIN,
)
