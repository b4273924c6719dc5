"""Beyond the thesis: the 2 x 2 completion of Razin and Cohen (2020), in which every norm diverges.

The entries X_12 = X_21 = 1 and X_22 = 0 are seen, E = sum of the squared residuals over 2, and det X > 0 is kept by the
flow. With a, b and c the residuals of the three entries, X_11 c > (1 + a)(1 + b).
"""

import math
from typing import NamedTuple

import numpy as np

from dlnjax.claims._attack import worst
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._spectra import generator

WHERE = "Beyond the thesis, B5: the completion of Razin and Cohen"
# X_11 is larger than what makes det X = 0 by this share of it at least, so that the inequalities are strict.
ABOVE = 1e-3
# Beyond this error e the least X_11 is another: residuals with a = -p, b = -q and p + q = 1 make it (1 - e^2)^(1/2).
LARGEST = 0.75**0.5


class Seen(NamedTuple):
    """X = [[X_11, 1 + a], [1 + b, c]] with det X > 0 and the error e = sqrt(2E)."""

    x: np.ndarray

    @property
    def residuals(self) -> np.ndarray:
        return np.array([self.x[0, 1] - 1, self.x[1, 0] - 1, self.x[1, 1]])

    @property
    def e(self) -> float:
        return float(np.linalg.norm(self.residuals))


def matrix(residuals, share: float) -> Seen:
    """The matrix with these residuals and X_11 c = (1 + share) (1 + a)(1 + b)."""
    a, b, c = residuals
    return Seen(np.array([[(1 + share) * (1 + a) * (1 + b) / c, 1 + a], [1 + b, c]]))


def seen(key, depth) -> Seen:
    rng = generator(key)
    direction = rng.standard_normal(3)
    residuals = rng.uniform(0.02, LARGEST) * direction / np.linalg.norm(direction)
    return matrix(residuals, rng.choice([ABOVE, rng.uniform(ABOVE, 2.0)]))


def tightest(e: float) -> Seen:
    """The residuals for which X_11 is least at a given e: a = b = -x with x + x^2 = e^2."""
    x = (math.sqrt(1 + 4 * e**2) - 1) / 2
    return matrix((-x, -x, math.sqrt(x * (1 - x))), ABOVE)


def bound(e, m=math):
    """(1 - x)^(3/2)/x^(1/2), the least of (1 + a)(1 + b)/|c| over residuals of norm e."""
    x = (m.sqrt(1 + 4 * e**2) - 1) / 2
    return m.sqrt((1 - x) ** 3 / x)


def large(at: Seen, least=bound) -> float:
    """How far |X_11| is below its bound, relative to it."""
    return 1 - abs(at.x[0, 0]) / least(at.e)


def least_room(key, depth):
    """An attack: the least room of |X_11| over the bound, minus 1, at det X = 0, over all residuals of norm e."""

    def room(at, m):
        e, polar, turn = at
        a, b, c = (-e * part for part in (m.sin(polar) * m.cos(turn), m.sin(polar) * m.sin(turn), m.cos(polar)))
        return (1 + a) * (1 + b) / abs(c) / bound(e, m) - 1

    found = worst(room, [(0.01, LARGEST), (0.0, 1.57), (0.0, 1.57)], generator(key))
    e, polar, turn = found.at
    residuals = -e * np.array([np.sin(polar) * np.cos(turn), np.sin(polar) * np.sin(turn), np.cos(polar)])
    return -found.room, matrix(residuals, ABOVE)


EXAMPLES = tuple(tightest(e) for e in (0.1, 0.5, 0.8))

LARGE = Claim(
    name="B5.1, the entry that is not seen",
    statement="det X > 0 and e = (2E)^(1/2) < 3^(1/2)/2 have |X_11| > (1 - x)^(3/2)/x^(1/2), x + x^2 = e^2, which is "
    "at least (1 - e)^2/e: every norm diverges as E tends to 0",
    where=WHERE,
    expected="holds",
    note="The least possible: it is approached as det X tends to 0, at residuals (-x, -x, (x - x^2)^(1/2)).",
    draw=seen,
    printed=lambda at: max(large(at), (1 - at.e) ** 2 / at.e / bound(at.e) - 1),
    tampered=(
        ("1/e", lambda at: large(at, lambda e: 1 / e)),
        ("1.01 times the bound", lambda at: large(at, lambda e: 1.01 * bound(e))),
    ),
    examples=EXAMPLES,
    attack=least_room,
    depths=NO_DEPTH,
    draws=20,
)


def small(at: Seen, power=1.0, factor=1.0) -> float:
    """How far sigma_2 is above its bound, relative to it."""
    return float(np.linalg.svd(at.x, compute_uv=False)[1] / (factor * at.e**power) - 1)


SMALL = Claim(
    name="B5.2, the rank tends to 1",
    statement="det X > 0 and e = (2E)^(1/2) have sigma_2 <= e",
    where=WHERE,
    expected="holds",
    note="The matrix with the entries that are asked for has det < 0, so that a singular matrix is within e of X.",
    draw=seen,
    printed=small,
    tampered=(
        ("e^2", lambda at: small(at, 2.0)),
        ("e/2", lambda at: small(at, factor=0.5)),
    ),
    # det X tends to infinity with X_11, and sigma_2 then to c = e.
    examples=(matrix((0.0, 0.0, 0.5), 1e3), matrix((0.0, 0.0, 0.1), 1e3)),
    depths=NO_DEPTH,
    draws=20,
)

CLAIMS: tuple[Claim, ...] = (LARGE, SMALL)
