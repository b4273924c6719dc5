"""Coordinates of the matrices around an end of a geodesic, in which a miss is measured."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import into, out_of
from dlnjax._svd import SVD
from dlnjax._types import Square


def chart(x: Square, point: SVD, kernel: Kernel) -> Float[Array, " n"]:
    """Coordinates of X around B: the triangular factors of U^T X V = L D R. They are orthonormal at B to first order.

    When the frame turns by delta, the entry of a small singular value in U^T X V changes by delta^2 times the largest
    singular value. In these coordinates it does not change at all.
    """
    sigma, d = point.sigma, point.sigma.shape[0]
    y, pivots, left, right = into(point, x), [], [], []
    for k in range(d):
        safe = jnp.where(y[k, k] > 0, y[k, k], 1.0)
        pivots.append(y[k, k])
        left.append(y[:, k] / safe)
        right.append(y[k, :] / safe)
        y = y - jnp.outer(left[-1], right[-1]) * safe
    pivot = jnp.stack(pivots)
    good = jnp.all(pivot > 0)
    lower = jnp.tril(jnp.stack(left, 1), -1) * sigma[None, :]
    upper = jnp.triu(jnp.stack(right, 0), 1) * sigma[:, None]
    root = jnp.sqrt(kernel.eigenvalues(sigma))
    diagonal = kernel.straighten(jnp.where(good, pivot, sigma)) - kernel.straighten(sigma)
    # Where X is too far from B to have these factors, the difference of the entries is used instead.
    plain = (into(point, x) - jnp.diag(sigma)) / root
    return jnp.where(good, (lower + upper) / root + jnp.diag(diagonal), plain).ravel()


def point_of(coordinates: Float[Array, " n"], point: SVD, kernel: Kernel) -> Square:
    """The matrix with these coordinates around B in the `chart`."""
    sigma, d = point.sigma, point.sigma.shape[0]
    z = coordinates.reshape(d, d)
    entries, eye = jnp.sqrt(kernel.eigenvalues(sigma)) * z, jnp.eye(d, dtype=sigma.dtype)
    lower, upper = jnp.tril(entries, -1) / sigma[None, :], jnp.triu(entries, 1) / sigma[:, None]
    pivot = kernel.unstraighten(kernel.straighten(sigma) + jnp.diagonal(z))
    return out_of(point, ((eye + lower) * pivot[None, :]) @ (eye + upper))
