"""Chapter 5: sensing, symmetry, and networks with an activation."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from dlnjax.claims._chapter4_rank import completion, Entries, entries
from dlnjax.claims._claim import Claim, NO_DEPTH
from dlnjax.claims._flows import Energy, flow
from dlnjax.claims._spectra import derivative, generator, log_volume, off, orthogonal, singular_values, spectrum


class Sensing(NamedTuple):
    """Measurements A_i, their values y_i, and a matrix."""

    a: np.ndarray
    y: np.ndarray
    x: np.ndarray


def sensing(key, depth) -> Sensing:
    rng = generator(key)
    return Sensing(rng.standard_normal((2, 3, 3)), rng.standard_normal(2), rng.standard_normal((3, 3)))


def energy(x, at: Sensing):
    """The energy (5.4) of matrix sensing."""
    return np.sum((np.einsum("mij,ij->m", at.a, x) - at.y) ** 2)


def gradient_error(at: Sensing, factor) -> float:
    """The error of `factor` times (5.5), against the complex step through (5.4)."""
    printed = np.einsum("m,mij->ij", np.einsum("mij,ij->m", at.a, at.x) - at.y, at.a)
    return off(factor * printed, derivative(lambda x: energy(x, at), at.x))


GRADIENT = Claim(
    name="(5.4)-(5.5)",
    statement="the gradient of sum (<A_i, X> - y_i)^2 is sum (<A_i, X> - y_i) A_i",
    where="Section 5.1",
    expected="corrected",
    note="Twice that; or with a 1/2 in (5.4), as the library has it.",
    draw=sensing,
    printed=lambda at: gradient_error(at, 1.0),
    corrected=lambda at: gradient_error(at, 2.0),
    tampered=(("half of it", lambda at: gradient_error(at, 0.5)), ("minus twice", lambda at: gradient_error(at, -2.0))),
    examples=(Sensing(np.array([[[1.0]]]), np.array([0.0]), np.array([[1.0]])),),
    depths=NO_DEPTH,
)


def generalises(at: Entries, factor) -> float:
    """The error of (5.4) = `factor` times (4.24), for the unit matrices E_ij of the mask and their labels."""
    unit = np.eye(len(at.x))
    units = np.array([np.outer(unit[i], unit[j]) for i, j in np.argwhere(at.seen)])
    sensed = energy(at.x, Sensing(units, at.labels[at.seen], at.x))
    return off(sensed, factor * completion(at.x, at.labels, at.seen))


GENERALISES = Claim(
    name="(4.24) within (5.4)",
    statement="(5.4) generalises matrix completion: A_i a unit matrix for each entry of the mask, y_i its label",
    where="Section 5.1",
    expected="corrected",
    note="Twice (4.24), which has a 1/2.",
    draw=entries,
    printed=lambda at: generalises(at, 1.0),
    corrected=lambda at: generalises(at, 2.0),
    tampered=(("four times", lambda at: generalises(at, 4.0)),),
    examples=(Entries(np.diag([2.0, 0, 0]), np.zeros((3, 3)), np.diag([1, 0, 0]) == 1),),
    depths=NO_DEPTH,
)


class Rotated(NamedTuple):
    x: np.ndarray
    left: np.ndarray
    right: np.ndarray
    depth: float


def rotated(key, depth) -> Rotated:
    rng = generator(key)
    x = (orthogonal(rng, 3) * spectrum(rng, 3)) @ orthogonal(rng, 3)
    return Rotated(x, orthogonal(rng, 3), orthogonal(rng, 3), float(depth))


def moves_entropy(at: Rotated, size=1.0) -> float:
    entropy = lambda x: log_volume(np.sort(singular_values(x))[::-1], at.depth)
    return abs(entropy(size * at.left @ at.x @ at.right) - entropy(at.x))


INVARIANCE = Claim(
    name="Chapter 5, S(Q_1 X Q_2) = S(X)",
    statement="S is invariant under X -> Q_1 X Q_2, Q_1 and Q_2 orthogonal",
    where="Chapter 5, and the end of section 4.3",
    expected="holds",
    draw=rotated,
    printed=moves_entropy,
    tampered=(("under 2 Q_1 X Q_2 as well", lambda at: moves_entropy(at, 2.0)),),
)


class Network(NamedTuple):
    """Positive weights, a positive input `x`, for which all units are active, and an input `mixed` with both signs."""

    weights: np.ndarray
    x: np.ndarray
    mixed: np.ndarray


def network(key, depth) -> Network:
    rng = generator(key)
    n = int(min(max(float(depth), 2.0), 16.0))
    return Network(rng.uniform(0.1, 1, (n, 3, 3)), rng.uniform(0.1, 1, 3), np.array([1.0, -3.0, 0.2]))


def linear_error(at: Network, x, slope=1.0) -> float:
    """The error of `slope` times the product of the weights, against the network with the activation (5.3)."""
    out, product = x, np.eye(3)
    for w in at.weights:
        out, product = np.maximum(w @ out, 0), w @ product
    return off(out, slope * product @ x)


RELU = Claim(
    name="Section 5.1, (5.3)",
    statement="for inputs at which every ReLU is active, the network is a deep linear network",
    where="Section 5.1",
    expected="holds",
    draw=network,
    printed=lambda at: linear_error(at, at.x),
    tampered=(
        ("at all inputs", lambda at: max(linear_error(at, at.mixed), linear_error(at, -at.x))),
        ("twice one", lambda at: linear_error(at, at.x, 2.0)),
    ),
)


class Small(NamedTuple):
    """A small start of the flow, and the depth."""

    x: np.ndarray
    depth: float


SMALL = 1e-6
# The measurements X_12 + X_22 = 4 and X_21 = X_22. One solution is X_12 = 4 with zeros elsewhere, of nuclear norm 4.
SENSED = ((np.array([[0, 1.0, 0], [0, 1, 0], [0, 0, 0]]), 4.0), (np.array([[0, 0, 0], [-1.0, 1, 0], [0, 0, 0]]), 0.0))


def small(key, depth) -> Small:
    """A small start, random in the block that is measured, at depth 2 or 3. Deeper flows come to rest too slowly."""
    rng = generator(key)
    x = np.diag([0.0, 0.0, SMALL])
    x[:2, :2] = SMALL * rng.standard_normal((2, 2))
    return Small(x, float(rng.integers(2, 4)))


def nuclear_norm_of_limit(x, sensed, depth) -> float:
    energy = Energy(sensed=(*sensed, *[(np.zeros((3, 3)), 0.0)] * (3 - len(sensed))))
    return float(np.sum(np.asarray(flow(energy, x, 1e9, depth=depth, rest=1e-6).sigma[-1])))


def excess_of_commuting(at: Small, factor=1.0) -> float:
    """The relative excess of the nuclear norm of the limit over the least one, for two commuting measurements.

    These are diagonal measurements of a positive diagonal matrix, for which a linear programme gives the least norm.
    """
    rng = np.random.default_rng(np.abs(at.x[:2, :2] / SMALL * 2**20).astype(int).ravel())
    a, target = rng.standard_normal((2, 3)), rng.uniform(0.2, 1, 3)
    y = a @ target
    least = linprog(np.ones(3), A_eq=a, b_eq=y, bounds=(0, None)).fun
    start = SMALL * np.diag(1 + 1e-6 * np.arange(3))
    found = nuclear_norm_of_limit(start, [(np.diag(m), v) for m, v in zip(a, y, strict=True)], at.depth)
    return abs(found / (factor * least) - 1)


LEAST_NORM = Claim(
    name="Section 5.1, the least nuclear norm",
    statement="from a small start the flow of (5.4) ends at the solution of least nuclear norm, also for X = phi(W)",
    where="Section 5.1",
    expected="fails",
    note="Measured at N = 2, 3: if the A_i commute, to a few %; for X_12 + X_22 = 4, X_21 = X_22 it ends above norm 4.",
    draw=small,
    printed=lambda at: nuclear_norm_of_limit(at.x, SENSED, at.depth) / 4 - 1,
    instead=excess_of_commuting,
    tampered=(("half of the least", lambda at: excess_of_commuting(at, 0.5)),),
    examples=(Small(SMALL * np.diag([2.0, 1.0, 1.0]), 2.0),),
    depths=NO_DEPTH,
    draws=3,
    tolerance=0.1,
    floor=0.2,
)

CLAIMS: tuple[Claim, ...] = (INVARIANCE, RELU, GRADIENT, GENERALISES, LEAST_NORM)
