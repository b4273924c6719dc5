"""What an energy may offer to a flow. Any differentiable callable X -> scalar is an energy; the rest is optional.

- `energy.gradient(x)`: the Euclidean gradient dE(X), `m n`, in closed form. Without it, JAX differentiates the energy.
- `energy.pullback(point)`: U^T dE(X) V, `r r`, for an `SVD` of rank r, where that is cheaper than the two products.
- `energy.sides(point)`: (dE(X) V, dE(X)^T U), `m r` and `n r`, where that is cheaper than to make dE(X), `m n`. It is
  used where X has fewer singular values than rows or columns.
- `energy.at(point)`: E(X) for an `SVD`, where that is cheaper than to make X, `m n`, or where E depends on the number
  of singular values that the point has, as the entropy in `FreeEnergy` does.
- `energy.at_start()`: the energy with which a flow runs. It may hold what is computed once from the arrays of the
  energy, before these are traced.
- `energy.array_axes`: the number of axes that each array of the energy has for one matrix, by the name of its field. In
  a sweep, an array with one axis more has the seeds in front. A field without an entry that can be called is an energy
  or a function inside of this energy, and is asked for its own `array_axes`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._svd import SVD


def value(energy: Callable, point: SVD) -> Float[Array, ""]:
    """E(X) at a point."""
    offered = getattr(energy, "at", None)
    if offered is not None:
        return _returned("at", offered(point), (), point.sigma.dtype)
    return jnp.asarray(energy(point.matrix), point.sigma.dtype)


def gradient(energy: Callable, x: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """The Euclidean gradient dE(X)."""
    offered = getattr(energy, "gradient", None)
    return jax.grad(energy)(x) if offered is None else _returned("gradient", offered(x), x.shape, x.dtype)


def pullback(energy: Callable, point: SVD) -> Float[Array, "r r"]:
    """U^T dE(X) V, the gradient seen from the frame of X."""
    in_frame = getattr(energy, "pullback", None)
    if in_frame is not None:
        r = len(point.sigma)
        return _returned("pullback", in_frame(point), (r, r), point.sigma.dtype)
    return point.u.T @ sides(energy, point)[0]


def sides(energy: Callable, point: SVD) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
    """(dE(X) V, dE(X)^T U), the part of the gradient on which a flow on the matrices of rank r depends."""
    offered = getattr(energy, "sides", None)
    if offered is not None:
        dtype, (left, right) = point.sigma.dtype, offered(point)
        return _returned("sides", left, point.u.shape, dtype), _returned("sides", right, point.v.shape, dtype)
    slope = gradient(energy, point.matrix)
    return slope @ point.v, slope.T @ point.u


def _returned(name: str, found: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """What a method of the energy has returned, if it is real and of this shape."""
    if not isinstance(found, jax.Array | np.ndarray | np.generic | float | int):
        raise TypeError(f"energy.{name} must return an array of shape {shape}, got {type(found).__name__}.")
    array = jnp.asarray(found)
    if array.shape != shape or jnp.iscomplexobj(array):
        raise ValueError(f"energy.{name} must return real numbers of shape {shape}, got {array.dtype}{array.shape}.")
    return array.astype(dtype)


def at_start(energy: Any) -> Any:
    """The energy with which a flow runs: each part of it that has `at_start` is replaced by the result."""
    offers = lambda part: hasattr(part, "at_start")
    return jax.tree.map(lambda part: part.at_start() if offers(part) else part, energy, is_leaf=offers)


def axes_of(energy: Any) -> dict[str, int] | None:
    """The `array_axes` of an energy, or None if it has none."""
    return getattr(energy, "array_axes", None)


def name_of(energy: Callable) -> str:
    """The name of the energy in a saved solution: that of a function, or of the class of an object.

    For an energy that wraps another energy, the name of the inner energy follows in brackets.
    """
    said = getattr(energy, "energy_name", None)
    if isinstance(said, str):
        return said
    inner = getattr(energy, "energy", None)
    name = getattr(energy, "__name__", type(energy).__name__)
    return f"{name}({name_of(inner)})" if callable(inner) else name
