"""What the loops of Runge-Kutta steps of the flows and of the geodesics have in common."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from dlnjax._types import Scalar

# A step that comes within this share of what is left to go ends there.
_SLIVER = 1e-12


def square_tableau(tableau: Any) -> np.ndarray:
    """The lower triangle of a tableau of diffrax as a square matrix."""
    rows = np.zeros((tableau.num_stages, tableau.num_stages))
    for row, weights in zip(rows[1:], tableau.a_lower, strict=True):
        row[: len(weights)] = weights
    return rows


def clip(h: Scalar, left: Scalar) -> tuple[Scalar, Bool[Array, ""]]:
    """(step, whether it ends there) for `left` to go; a step that would leave a sliver goes half of the way instead."""
    last = h >= left * (1 - _SLIVER)
    return jnp.where(last, left, jnp.where(2 * h > left, left / 2, h)), last
