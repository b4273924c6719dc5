"""What the Runge-Kutta methods of the flows and of the geodesics share: the tableau, and the length of a step."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from dlnjax._types import Scalar

# A step that would leave less than this fraction of the time still to go is lengthened to the end of that time.
_SLIVER = 1e-12


def square_tableau(tableau: Any) -> np.ndarray:
    """The coefficients of the stages in a tableau of diffrax, as a square matrix that is zero above the diagonal."""
    rows = np.zeros((tableau.num_stages, tableau.num_stages))
    for row, weights in zip(rows[1:], tableau.a_lower, strict=True):
        row[: len(weights)] = weights
    return rows


def clip(h: Scalar, left: Scalar) -> tuple[Scalar, Bool[Array, ""]]:
    """(the length of the next step, whether it ends the time `left` that is still to go).

    A step of more than half of `left` that does not end it becomes half of `left`, so that no very short step remains.
    """
    last = h >= left * (1 - _SLIVER)
    return jnp.where(last, left, jnp.where(2 * h > left, left / 2, h)), last
