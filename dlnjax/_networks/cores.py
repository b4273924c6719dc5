"""The part of a network that its product sees: square cores between frames, from the narrowest layer outwards.

With k the narrowest layer, of width r, QR decompositions give for the layers above and below

    W_p Q_{p-1} = Q_p R_p,    p > k,        Q_p^T W_p = R_p Q_{p-1}^T,    p <= k,

with Q_k = I, orthonormal Q_p of r columns, and triangular R_p. So X = Q_N R_N ... R_1 Q_0^T, exactly and without a
decomposition of X itself, which would lose its small singular values.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax._checks import as_array, is_concrete, known, require, require_full_rank
from dlnjax._lapack import qr
from dlnjax._networks.chain import layers_of, widths_of
from dlnjax._types import Layer, Stack, Weights


def cores_of(weights: Weights) -> tuple[tuple[Layer, ...] | None, Stack]:
    """((Q_0, ..., Q_N), the stack of R_1, ..., R_N); of a stack of factors, None and itself.

    **Raises:** an error if a core is singular: then X has a lower rank than the widths allow.
    """
    if isinstance(weights, jax.Array):
        return None, require_full_rank("weights", weights, "the determinant of a factor of the product is 0.")
    widths, layers = widths_of(weights), layers_of(weights)
    narrowest, rank = int(np.argmin(widths)), min(widths)
    xp: Any = np if all(map(is_concrete, layers)) else jnp
    decompose = np.linalg.qr if xp is np else qr
    frames: dict[int, Any] = {narrowest: np.eye(rank, dtype=layers[0].dtype)}
    cores: dict[int, Any] = {}
    for p in range(narrowest, len(layers)):
        frames[p + 1], cores[p] = decompose(known(layers[p]) @ frames[p])
    for p in range(narrowest - 1, -1, -1):
        frames[p], transposed = decompose(known(layers[p]).T @ frames[p + 1])
        cores[p] = transposed.T
    stack = xp.stack([cores[p] for p in range(len(layers))])
    pivots = abs(xp.diagonal(stack, axis1=1, axis2=2))
    # A singular core comes out of a decomposition with a pivot at the level of rounding, and seldom with one of 0.
    singular = pivots.min(-1) <= rank * np.finfo(stack.dtype).eps * pivots.max(-1)
    message = (
        f"weights must have a product of full rank, which is {rank} at the widths {widths}: its rank is lower, "
        "or not told from lower by the precision of its factors."
    )
    stack = require(as_array("weights", stack), singular.any(), message)
    return tuple(as_array("weights", frames[p]) for p in range(len(widths))), stack


def restored(frames: tuple[Layer, ...] | None, cores: Stack) -> Weights:
    """The factors Q_p R_p Q_{p-1}^T; without frames, the cores."""
    if frames is None:
        return cores
    return tuple(q @ r @ p.T for q, r, p in zip(frames[1:], cores, frames[:-1], strict=True))
