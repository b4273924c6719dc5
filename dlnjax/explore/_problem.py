"""The problem that a state describes: starts, times, the energy with its mask, and whether noise has an equilibrium."""

import math
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import structural_rank

import dlnjax as dln
from dlnjax.explore._state import SEEDS, State, TIMES

# The first of the times after 0, as a part of the last one.
FIRST = 1e-4
# Labels of the random energies have few digits, so that a line of text holds them exactly. They are not large, as the
# flow is stiffer by the square of the singular values.
_LABELS = np.array([-1.0, -0.5, 0.5, 1.0])


class Target(NamedTuple):
    """The energy weight * sum over the mask of (X - labels)^2."""

    labels: np.ndarray
    mask: np.ndarray
    weight: float


def times(state: State) -> np.ndarray:
    """The saved times: 0, then even in their logarithms, or with noise evenly spread."""
    if state.noisy:
        return np.linspace(0.0, state.t, TIMES)
    return np.array([0.0, *np.geomspace(FIRST * state.t, state.t, TIMES - 1)])


def starts(state: State) -> np.ndarray:
    """The starts, X_ij ~ N(0, std^2), those of `dlnjax sweep --seed KEY`: `seeds d d`."""
    return state.std * unit_starts(state.d, state.key)


@cache
def unit_starts(d: int, key: int) -> np.ndarray:
    start_key, _ = jax.random.split(jax.random.key(key))
    return np.asarray(dln.Ensemble(lambda key: dln.gaussian(key, d, 1.0), start_key, SEEDS).take(jnp.arange(SEEDS)))


def noise_key(state: State):
    return jax.random.split(jax.random.key(state.key))[1]


def target(state: State) -> Target:
    """The labels, the mask with its switched entries, and the weight."""
    d, random = state.d, np.random.default_rng(state.key)
    weight, mask = 0.5, np.zeros((d, d), bool)
    if state.energy == "diagonal":
        weight, labels, mask = 1.0, np.eye(d), np.eye(d, dtype=bool)
    elif state.energy == "decay":
        labels, mask = np.zeros((d, d)), np.ones((d, d), bool)
    else:
        u, v = random.choice(_LABELS, d), random.choice(_LABELS, d)
        labels = np.outer(u, v) if state.energy == "rank-one" else random.choice(_LABELS, (d, d))
        # A matrix of rank one has 2 d - 1 parameters.
        mask.flat[random.choice(d * d, min(2 * d, d * d - 1), replace=False)] = True
    mask.flat[list(state.flips)] ^= True
    return Target(labels, mask, weight)


def no_equilibrium(state: State) -> str:
    """Why exp(-beta E) in the volume of the metric has an infinite integral; empty where no reason is known.

    Large matrices: where X grows as R along unseen entries of rank r, every lambda_kl with k <= r or l <= r grows as
    R^(2 - 2/N), so that the density is R^(-(1 - 1/N)(d^2 - (d - r)^2)), against R^u for u unseen entries. The unseen
    entries as a whole and those of each row and column are tried. At infinite depth the nearly singular matrices have
    infinite volume, whatever the energy.
    """
    if math.isinf(state.depth):
        return "At infinite depth the nearly singular matrices have infinite volume: paths drift to them for ever."
    unseen = ~target(state).mask
    parts = [unseen, *(unseen[k : k + 1] for k in range(state.d)), *(unseen[:, k : k + 1] for k in range(state.d))]
    for part in parts:
        rank = structural_rank(csr_array(part)) if part.any() else 0
        decay = (1 - 1 / state.depth) * (state.d**2 - (state.d - rank) ** 2)
        if part.any() and part.sum() >= decay:
            return (
                "The energy is flat in the unseen entries, along which matrices have infinite volume at this depth. "
                "Paths run away there."
            )
    return ""
