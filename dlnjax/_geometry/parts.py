"""The parts of a tangent vector or a covector at a matrix of rank r: inside of its two spaces, and out of either."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.leaving import weight_power
from dlnjax._svd import SVD
from dlnjax._types import Matrix, Scalar


class Parts(eqx.Module):
    """A tangent vector or a covector Z at a thin point.

    **Attributes:** `inside`, U^T Z V; `left`, (I - U U^T) Z V, which leaves the column space; `right`,
    (I - V V^T) Z^T U, which leaves the row space.
    """

    inside: Float[Array, "r r"]
    left: Float[Array, "m r"]
    right: Float[Array, "n r"]

    @classmethod
    def of(cls, point: SVD, z: Matrix) -> "Parts":
        return cls.of_sides(point.u, point.v, z @ point.v, z.T @ point.u)

    @classmethod
    def of_sides(cls, u: Float[Array, "m r"], v: Float[Array, "n r"], by_v: Array, by_u: Array) -> "Parts":
        """The parts of Z, given Z V and Z^T U."""
        inside = u.T @ by_v
        return cls(inside, out_of_span(u, by_v, inside), out_of_span(v, by_u, inside.T))

    def out_of(self, u: Float[Array, "m r"], v: Float[Array, "n r"]) -> Matrix:
        """Z itself, without what leaves the matrices of rank r."""
        return (u @ self.inside + self.left) @ v.T + u @ self.right.T

    def apply(self, point: SVD, kernel: Kernel, power: int | float = 1) -> "Parts":
        """The parts of A_X^power(Z). A part of weight 0 becomes 0."""
        nu, mu = kernel.leaving(point.sigma)
        inside = kernel.eigenvalues(point.sigma) ** power * self.inside
        nu, mu = weight_power(nu, power), weight_power(mu, power)
        return Parts(inside, nu[None, :] * self.left, mu[None, :] * self.right)

    def inner(self, other: "Parts") -> Scalar:
        pairs = (self.inside, other.inside), (self.left, other.left), (self.right, other.right)
        return sum((jnp.sum(a * b) for a, b in pairs), jnp.zeros((), self.inside.dtype))


def out_of_span(q: Float[Array, "m r"], z: Float[Array, "m r"], inside: Float[Array, "r r"]) -> Float[Array, "m r"]:
    """(I - Q Q^T) Z, which is exactly 0 where the columns of Q span all."""
    return z - q @ inside if q.shape[0] > q.shape[1] else jnp.zeros_like(z)
