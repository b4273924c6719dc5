"""Coordinates of the matrices around an end of a geodesic, in which a miss is measured."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import into, out_of
from dlnjax._svd import SVD
from dlnjax._tree import norm, plain_norm, positive
from dlnjax._types import Scalar, Square

# Ends are near if |B - A| is at most this number times their least singular value. The metric hardly changes between
# them, and the entries of X - B are coordinates as good as those of `chart`.
_NEAR = 0.1
# A relative error of the length counts as much as one of X that is smaller by this factor.
SHARE = 100.0
# Rounding moves an entry of X by at most this many eps times |X|.
_ROUNDINGS = 10


class Pair(eqx.Module):
    """Two ends A and B, and the miss of a shot from A at B.

    A position is the matrix X - A where the ends are near. It starts at 0 and is to end at B - A, and both have all
    their digits. Rounding of X would be a large part of B - A. Between other ends a position is X itself, since X - A
    loses the digits of an X that is much smaller than A.

    **Attributes:** `first`, A; `last`, B; `between`, B - A; `near`, whether the ends are near; `origin`, the matrix
    that is taken off X, which is A where the ends are near and 0 elsewhere; `start` and `goal`, the positions of A and
    of B; `size`, |B|.
    """

    first: SVD
    last: SVD
    between: Square
    near: Bool[Array, ""]
    origin: Square
    start: Square
    goal: Square
    size: Scalar

    @classmethod
    def of(cls, first: SVD, last: SVD, between: Square) -> "Pair":
        """The pair of A and B, of which B - A is given too."""
        near = norm(between) <= _NEAR * jnp.minimum(first.sigma[-1], last.sigma[-1])
        a, b = first.matrix, last.matrix
        origin, start = jnp.where(near, a, 0.0), jnp.where(near, 0.0, a)
        return cls(first, last, between, near, origin, start, jnp.where(near, between, b), norm(last.sigma))

    def straight(self, path: Float[Array, "nodes d d"], ts: Float[Array, " nodes"]) -> Float[Array, "nodes d d"]:
        """The positions of a path from A to B, or of the straight line where the ends are near."""
        inner = jnp.where(self.near, jnp.multiply.outer(ts, self.between), path)
        return inner.at[0].set(self.start).at[-1].set(self.goal)

    def miss(self, y: Square, kernel: Kernel) -> Float[Array, " n"]:
        """The coordinates of a position around B: those of `chart`, or the entries of X - B where the ends are near.

        Both are orthonormal at B to first order. The entries also replace a chart that does not reach as far as X.
        """
        coordinates, good = chart(self.origin + y, self.last, kernel)
        entries = into(self.last, y - self.goal) / jnp.sqrt(kernel.eigenvalues(self.last.sigma))
        return jnp.where(good & ~self.near, coordinates, entries.ravel())

    def error(self, y: Square, miss: Float[Array, " n"], w: Array, kernel: Kernel) -> Scalar:
        """The error of a geodesic of momentum W whose end has this position: the larger of two.

        One is |X - B| / |B|. It says nothing of singular values that are small beside |B|. The other is the distance of
        X from B over the length, in units of `SHARE`, without what rounding of X makes of it.
        """
        eigenvalues = kernel.eigenvalues(self.last.sigma)
        rounding = _ROUNDINGS * jnp.finfo(self.size.dtype).eps * self.size / jnp.sqrt(jnp.min(eigenvalues))
        off = jnp.maximum(plain_norm(miss) - rounding, 0.0) / positive(plain_norm(w))
        return jnp.maximum(norm(y - self.goal) / self.size, off / SHARE)

    def beside(self, coordinates: Float[Array, " n"], kernel: Kernel) -> Square:
        """The position with these coordinates around B, which is the inverse of `miss`."""
        entries = jnp.sqrt(kernel.eigenvalues(self.last.sigma)) * coordinates.reshape(self.between.shape)
        return jnp.where(self.near, self.between + out_of(self.last, entries), point_of(coordinates, self.last, kernel))


def chart(x: Square, point: SVD, kernel: Kernel) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """(coordinates of X around B, whether X has any): the triangular factors of U^T X V = L D R.

    They are orthonormal at B to first order. When the frame turns by delta, the entry of a small singular value in
    U^T X V changes by delta^2 times the largest singular value. In these coordinates it does not change at all. An X
    too far from B does not have these factors.
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
    diagonal = kernel.straighten(jnp.where(good, pivot, sigma)) - kernel.straighten(sigma)
    root = jnp.sqrt(kernel.eigenvalues(sigma))
    return ((lower + upper) / root + jnp.diag(diagonal)).ravel(), good


def point_of(coordinates: Float[Array, " n"], point: SVD, kernel: Kernel) -> Square:
    """The matrix with these coordinates around B in the `chart`."""
    sigma, d = point.sigma, point.sigma.shape[0]
    z = coordinates.reshape(d, d)
    entries, eye = jnp.sqrt(kernel.eigenvalues(sigma)) * z, jnp.eye(d, dtype=sigma.dtype)
    lower, upper = jnp.tril(entries, -1) / sigma[None, :], jnp.triu(entries, 1) / sigma[:, None]
    pivot = kernel.unstraighten(kernel.straighten(sigma) + jnp.diagonal(z))
    return out_of(point, ((eye + lower) * pivot[None, :]) @ (eye + upper))
