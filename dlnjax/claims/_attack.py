"""A global search for the worst instance of an inequality, in corners that random draws seldom reach.

The room of an inequality is its larger side minus its smaller side. Where the room is negative, the inequality is
false. The error of a claim that is an inequality is minus its room.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import mpmath
import numpy as np
from scipy.optimize import differential_evolution, minimize
from scipy.stats.qmc import Sobol

from dlnjax.claims._spectra import generator

# The range of log-ratios of neighbouring singular values that is searched. Below NEAR, cancellation in doubles hides
# the sign of an inequality. Beyond FAR, all terms but the largest are below rounding.
NEAR, FAR = 1e-3, 40.0
# A strict inequality holds as a claim if its error is at most STRICT, which leaves it some room. It is violated if its
# error is above VIOLATED.
STRICT, VIOLATED = -1e-6, -1e-9
_DIGITS = 60
# The search begins with 2^_SPREAD points of a Sobol sequence. L-BFGS starts from the _STARTS best of these points that
# differ from each other by at least the fraction _APART of the box in some coordinate.
_SPREAD, _STARTS, _APART = 12, 6, 0.1
_POPULATION, _GENERATIONS, _CORNERS = 40, 60, 6


class Worst(NamedTuple):
    """The least room of an inequality that was found, and the point where it was found."""

    room: float
    at: tuple[float, ...]


def worst(
    room: Callable[[Sequence[Any], Any], Any],
    bounds: Sequence[tuple[float, float]],
    rng: np.random.Generator,
) -> Worst:
    """The least value of `room` on a box.

    The candidates are the best of a few thousand points that are spread evenly, the point where differential evolution
    ends, the points that L-BFGS reaches from these, and the corners of the box. The search uses doubles. The worst of
    the candidates is then found with 60 digits.

    **Arguments:** `room(x, m)`, with coordinates `x` (arrays of many points, or numbers) and a module `m` that has
    `exp`, `log` and so on, which is NumPy or mpmath; `bounds`, (low, high) of each coordinate.

    **Returns:** a `Worst`. **Raises:** `ValueError` for a box that is empty or infinite.
    """
    low, high = np.transpose(bounds)
    if not (np.all(np.isfinite([low, high])) and np.all(low <= high)):
        raise ValueError(f"bounds must be finite with low <= high in each coordinate, got {list(bounds)}.")

    def search(x):
        with np.errstate(all="ignore"):
            value = np.asarray(room(list(np.asarray(x)), np), float)
        return np.where(np.isfinite(value), value, np.finfo(float).max)

    points = low + (high - low) * Sobol(len(bounds), rng=rng).random_base2(_SPREAD)
    points = points[np.argsort(search(points.T))]
    options = {"vectorized": True, "updating": "deferred", "maxiter": _GENERATIONS, "polish": False}
    evolved = differential_evolution(search, bounds, rng=rng, init=points[:_POPULATION], **options).x
    starts = [evolved, *_apart(points, _STARTS, _APART * (high - low))]
    polish = lambda x: minimize(lambda x: float(search(x[:, None])[0]), x, bounds=bounds, method="L-BFGS-B").x
    corners = itertools.product(*bounds) if len(bounds) <= _CORNERS else ()
    return min((confirm(room, x) for x in (*starts, *map(polish, starts), *corners)), key=lambda found: found.room)


def _apart(points, count, distance) -> list[np.ndarray]:
    """The first `count` points that differ from all points chosen before by more than `distance` in some coordinate."""
    chosen = []
    for x in points:
        if all(np.any(np.abs(x - other) > distance) for other in chosen):
            chosen.append(x)
        if len(chosen) == count:
            break
    return chosen


def confirm(room: Callable[[Sequence[Any], Any], Any], x: Sequence[float]) -> Worst:
    """The room at one point, computed with 60 digits."""
    with mpmath.workdps(_DIGITS):
        value = room([mpmath.mpf(float(t)) for t in x], mpmath)
    return Worst(float(value), tuple(float(t) for t in x))


def least(values: Sequence[Any], m) -> Any:
    return min(values) if m is mpmath else np.min(np.broadcast_arrays(*values), axis=0)


def largest_eigenvalue(h: Sequence[Sequence[Any]], m) -> Any:
    """The largest eigenvalue of a symmetric matrix, given by its entries.

    The entries are numbers for mpmath, and arrays for NumPy, which hold many matrices at once.
    """
    if m is mpmath:
        return max(mpmath.eigsy(mpmath.matrix(h), eigvals_only=True))
    entries = np.stack(np.broadcast_arrays(*(entry for row in h for entry in row)), axis=-1)
    return np.linalg.eigvalsh(entries.reshape(*entries.shape[:-1], len(h), len(h)))[..., -1]


def of_gaps(u: Sequence[Any], m) -> list[Any]:
    """Singular values, in descending order down to 1, whose neighbours have the log-ratios `u`."""
    out, total = [m.exp(0 * u[0])], 0
    for gap in reversed(u):
        total = total + gap
        out.insert(0, m.exp(total))
    return out


def log_gaps(sigma: np.ndarray) -> list[Any]:
    return list(-np.diff(np.log(sigma)))


def over_gaps(room: Callable[[Sequence[Any], Any], Any], d: int) -> Callable:
    """An attack on a claim: the least `room(u, m)` over spectra of d values whose neighbours have log-ratios `u`."""

    def attack(key, depth) -> tuple[float, Mapping[str, list[float]]]:
        found = worst(room, [(NEAR, FAR)] * (d - 1), generator(key))
        return -found.room, {"log ratios": list(found.at)}

    return attack


def on_box(room: Callable[[Sequence[Any], Any], Any], *bounds: tuple[float, float]) -> Callable:
    """An attack on a claim: the least `room(x, m)` on a box."""

    def attack(key, depth) -> tuple[float, Mapping[str, list[float]]]:
        found = worst(room, bounds, generator(key))
        return -found.room, {"at": list(found.at)}

    return attack
