"""What a flow asks of an energy. Any differentiable callable X -> scalar answers; the rest is optional.

- `energy.gradient(x)`: the Euclidean gradient dE(X), `d d`, in closed form. Without it, autodiff.
- `energy.pullback(point)`: U^T dE(X) V for an `SVD`, where that is cheaper than the two products.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from dlnjax._svd import SVD


def gradient(energy: Callable, x: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The Euclidean gradient dE(X)."""
    return getattr(energy, "gradient", jax.grad(energy))(x).astype(x.dtype)


def pullback(energy: Callable, point: SVD) -> Float[Array, "d d"]:
    """U^T dE(X) V, the gradient seen from the frame of X."""
    in_frame = getattr(energy, "pullback", None)
    if in_frame is not None:
        return in_frame(point).astype(point.sigma.dtype)
    return point.u.T @ gradient(energy, point.matrix) @ point.v
