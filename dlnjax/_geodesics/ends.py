"""What is checked of the ends of a geodesic."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from dlnjax._checks import as_float, as_square, is_concrete, require
from dlnjax._svd import singular_to_rounding, SVD
from dlnjax._types import Square

_AT_RANK_R = "Between ends of rank r with the same column and row spaces, join the r x r matrices U^T X V."


def as_ends(a: Any, b: Any) -> tuple[Square, Square]:
    """Two ends that a path can join."""
    for name, z in (("a", a), ("b", b)):
        if isinstance(z, SVD):
            raise TypeError(
                f"{name} must be a square matrix, got an SVD. At full rank pass its matrix, {name}.matrix. {_AT_RANK_R}"
            )
    a, b = as_square("a", a), as_square("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {a.shape} and {b.shape}.")
    require_double("a and b", a, b)
    signs = [sign_at_the_door(name, z) for name, z in (("a", a), ("b", b)) if is_concrete(z)]
    if sorted(signs) == [-1, 1]:
        sign = {1: "positive", -1: "negative"}
        raise ValueError(
            f"a has a {sign[signs[0]]} determinant and b a {sign[signs[1]]} one: they lie on different components, "
            "which no path of full rank joins. Change the sign of one row of b, or choose ends on one component."
        )
    return a, b


def require_double(names: str, *ends: Any) -> None:
    """An error if the ends are not of float64."""
    if any(z.dtype != jnp.float64 for z in ends):
        raise TypeError(
            f"{names} must be float64 to be joined to 1e-8, got {' and '.join(str(z.dtype) for z in ends)}. Enable it "
            'before the first array is made: jax.config.update("jax_enable_x64", True).'
        )


def as_stack(name: str, z: Any) -> tuple[np.ndarray, np.ndarray]:
    """(matrices of full rank, the signs of their determinants), from a stack or a list of them."""
    if isinstance(z, (list, tuple)) and len(shapes := {str(np.shape(x)): None for x in z}) > 1:
        raise ValueError(f"{name} must hold matrices of one shape, got {' and '.join(shapes)}.")
    z = as_float(name, z)
    if z.shape[:1] == (0,):
        raise ValueError(f"{name} must hold at least one matrix, got an array of shape {z.shape}.")
    if z.ndim != 3 or z.shape[1] != z.shape[2] or 0 in z.shape:
        raise ValueError(f"{name} must be a stack of square matrices (n, d, d), got shape {z.shape}. {_AT_RANK_R}")
    return np.asarray(z), np.array([sign_at_the_door(f"{name}[{i}]", matrix) for i, matrix in enumerate(np.asarray(z))])


def sign_at_the_door(name: str, z: Any) -> int:
    """The sign of the determinant of a concrete end. NumPy checks the end, so that nothing is compiled for it."""
    x = np.asarray(z)
    require(x, not np.isfinite(x).all(), f"{name} must be finite, got NaN or infinity.")
    sigma = np.linalg.svd(x, compute_uv=False)
    if singular_to_rounding(sigma, len(x)):
        raise ValueError(
            f"{name} is singular: its smallest singular value is {sigma[-1]:.1e}, its largest {sigma[0]:.1e}. "
            "Geodesics join matrices of full rank: add a multiple of the identity, or leave out what has no rank. "
            f"{_AT_RANK_R}"
        )
    return int(np.linalg.slogdet(x)[0])
