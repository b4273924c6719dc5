"""What is checked of the ends of a geodesic."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from dlnjax._checks import as_square, is_concrete, require_finite
from dlnjax._types import Square


def as_ends(a: Any, b: Any) -> tuple[Square, Square]:
    """Two ends that a path can join."""
    a, b = as_square("a", a), as_square("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {a.shape} and {b.shape}.")
    require_double(a, b)
    signs = [sign_at_the_door(name, z) for name, z in (("a", a), ("b", b)) if is_concrete(z)]
    if sorted(signs) == [-1, 1]:
        sign = {1: "positive", -1: "negative"}
        raise ValueError(
            f"a has a {sign[signs[0]]} determinant and b a {sign[signs[1]]} one: they lie on different components, "
            "which no path of full rank joins. Change the sign of one row of b, or choose ends on one component."
        )
    return a, b


def require_double(a: Any, b: Any) -> None:
    """An error if the ends are not of float64."""
    if a.dtype != jnp.float64 or b.dtype != jnp.float64:
        raise TypeError(
            f"a and b must be float64 to be joined to 1e-8, got {a.dtype} and {b.dtype}. Enable it before "
            'the first array is made: jax.config.update("jax_enable_x64", True).'
        )


def sign_at_the_door(name: str, z: Array) -> int:
    """The sign of the determinant of a concrete end. NumPy checks the end, so that nothing is compiled for it."""
    require_finite(name, z)
    x = np.asarray(z)
    sigma = np.linalg.svd(x, compute_uv=False)
    if not sigma[-1] > len(x) * np.finfo(x.dtype).eps * sigma[0]:
        raise ValueError(
            f"{name} is singular: its smallest singular value is {sigma[-1]:.1e}, its largest {sigma[0]:.1e}. "
            "Geodesics join matrices of full rank: add a multiple of the identity, or leave out what has no rank."
        )
    return int(np.linalg.slogdet(x)[0])
