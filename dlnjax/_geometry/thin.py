"""The metric at a thin point: a matrix of rank r, given as an `SVD` of r values.

The tangent vectors at X = U diag(sigma) V^T are the matrices Z whose part (I - U U^T) Z (I - V V^T) is zero. The other
three parts of Z are orthogonal to each other in the metric. The operator multiplies them by lambda, nu and mu. The
frame is given, so that neither a decomposition nor a rule for its derivative is needed.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_finite, as_matrix, check_energy, known, require
from dlnjax._compile import compiled
from dlnjax._geometry.kernel import as_kernel, Depth, Kernel
from dlnjax._protocol import sides
from dlnjax._scale import exponent, scaled
from dlnjax._svd import as_point, SVD
from dlnjax._tree import positive, ravel, root
from dlnjax._types import Energy, Matrix, Scalar

# A part of a tangent vector counts as zero up to this multiple of eps^(3/4) of the vector, as the columns of a point
# count as orthonormal.
_ROUNDINGS = 1e3


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
        return cls(inside, _out_of_span(u, by_v, inside), _out_of_span(v, by_u, inside.T))

    def out_of(self, u: Float[Array, "m r"], v: Float[Array, "n r"]) -> Matrix:
        """Z itself, without what leaves the matrices of rank r."""
        return (u @ self.inside + self.left) @ v.T + u @ self.right.T

    def apply(self, point: SVD, kernel: Kernel, power: int | float = 1) -> "Parts":
        """The parts of A_X^power(Z). A part of weight 0 becomes 0."""
        nu, mu = kernel.leaving(point.sigma)
        inside = kernel.eigenvalues(point.sigma) ** power * self.inside
        return Parts(inside, _powers(nu, power) * self.left, _powers(mu, power) * self.right)

    def inner(self, other: "Parts") -> Scalar:
        pairs = (self.inside, other.inside), (self.left, other.left), (self.right, other.right)
        return sum((jnp.sum(a * b) for a, b in pairs), jnp.zeros((), self.inside.dtype))


def _out_of_span(q: Float[Array, "m r"], z: Float[Array, "m r"], inside: Float[Array, "r r"]) -> Float[Array, "m r"]:
    """(I - Q Q^T) Z, which is exactly 0 where the columns of Q span all."""
    return z - q @ inside if q.shape[0] > q.shape[1] else jnp.zeros_like(z)


def _powers(weight: Float[Array, " r"], power: int | float) -> Float[Array, " r"]:
    return jnp.where(weight > 0, positive(weight) ** power, 0.0)


def as_thin(point: SVD, name: str, z: Any) -> tuple[SVD, Matrix]:
    """A point of the matrices of rank r, and a matrix of its shape."""
    point, z = as_ranked(point), as_finite(name, as_matrix(name, z))
    m, n = point.u.shape[0], point.v.shape[0]
    if z.shape != (m, n):
        raise ValueError(f"{name} must have the shape of x, {(m, n)}, got {z.shape}. It is a matrix, also at an SVD.")
    return point, z


def as_ranked(point: SVD) -> SVD:
    """A point whose r singular values are positive, or NaN. They count as they are given, however small."""
    point = as_point("x", point)
    low = (known(point.sigma) <= 0).any()
    message = "x.sigma must be positive: an SVD of r values is a matrix of rank r. Leave out the values that are 0."
    return SVD(point.u, require(point.sigma, low, message), point.v)


@compiled
def _apply(point: SVD, p: Matrix, kernel: Kernel) -> Matrix:
    return Parts.of(point, p).apply(point, kernel).out_of(point.u, point.v)


def operator(point: SVD, p: Any, depth: Depth) -> Matrix:
    """A_X(P)."""
    point, p = as_thin(point, "p", p)
    return _apply(point, p, as_kernel(depth, p.dtype))


def inverse(point: SVD, z: Any, depth: Depth) -> Matrix:
    """A_X^{-1}(Z) of a tangent vector of finite length."""
    return _out_of(point, _of_finite_length(point, "z", z, depth, -1))


@compiled
def _out_of(point: SVD, parts: Parts) -> Matrix:
    return parts.out_of(point.u, point.v)


def inner(point: SVD, vectors: dict[str, Any], depth: Depth) -> Scalar:
    """Tr(Z1^T A_X^{-1}(Z2)) of two tangent vectors of finite length, given by their names; of one, with itself."""
    found = [_of_finite_length(point, name, z, depth, -0.5) for name, z in vectors.items()]
    return _inner(found[0], found[-1])


@compiled
def _inner(one: Parts, other: Parts) -> Scalar:
    return one.inner(other)


def length(point: SVD, z: Any, depth: Depth) -> Scalar:
    """The root of Tr(Z^T A_X^{-1}(Z)), whose square may leave the range of the floats."""
    return _length(_of_finite_length(point, "z", z, depth, -0.5))


@compiled
def _length(parts: Parts) -> Scalar:
    k = exponent(ravel(parts)[0])
    unit = jax.tree.map(lambda part: scaled(part, -k), parts)
    return scaled(root(unit.inner(unit)), k)


def hamiltonian(point: SVD, p: Any, depth: Depth) -> Scalar:
    """1/2 Tr(P^T A_X(P))."""
    point, p = as_thin(point, "p", p)
    return _hamiltonian(point, p, as_kernel(depth, p.dtype))


@compiled
def _hamiltonian(point: SVD, p: Matrix, kernel: Kernel) -> Scalar:
    parts = Parts.of(point, p)
    return parts.inner(parts.apply(point, kernel)) / 2


def gradient(energy: Energy, point: SVD, depth: Depth) -> Matrix:
    """A_X(dE(X)), from dE(X) V and dE(X)^T U alone."""
    point = as_ranked(point)
    (m, _), n, dtype = point.u.shape, point.v.shape[0], point.sigma.dtype
    check_energy(energy, (m, n), dtype)
    slope = as_finite("the gradient of energy at x", jnp.concatenate(sides(energy, point)))
    return _of_slope(point, slope, as_kernel(depth, dtype))


@compiled
def _of_slope(point: SVD, slope: Float[Array, "_ r"], kernel: Kernel) -> Matrix:
    by_v, by_u = jnp.split(slope, [point.u.shape[0]])
    parts = Parts.of_sides(point.u, point.v, by_v, by_u)
    return parts.apply(point, kernel).out_of(point.u, point.v)


def _of_finite_length(point: SVD, name: str, z: Any, depth: Depth, power: int | float) -> Parts:
    """The parts of A_X^power(Z) for a negative power, or an error where the length of Z is infinite."""
    point, z = as_thin(point, name, z)
    parts, leaves, turns = _measured(point, z, as_kernel(depth, z.dtype), power)
    bound = _ROUNDINGS * np.finfo(z.dtype).eps ** 0.75
    message = (
        f"{name} leaves the matrices of rank {len(point.sigma)}: (I - U U^T) Z (I - V V^T) is not 0, and the length of "
        "such a motion is infinite. Subtract this part."
    )
    parts = require(parts, known(leaves) > bound, message)
    for space, share in zip(("column", "row"), turns, strict=True):
        message = (
            f"{name} turns the {space} space of x, which never turns at infinite depth: the length of such a motion is "
            "infinite. Use a finite depth, or the part inside of both spaces, U U^T Z V V^T."
        )
        parts = require(parts, known(share) > bound, message)
    return parts


@compiled
def _measured(point: SVD, z: Matrix, kernel: Kernel, power: int | float) -> tuple[Parts, Scalar, tuple[Scalar, Scalar]]:
    """(the parts of A_X^power(Z), how much of Z leaves the matrices of rank r, how much turns what never turns)."""
    parts, weights = Parts.of(point, z), kernel.leaving(point.sigma)
    size = positive(jnp.max(jnp.abs(z)))

    def share(part: Float[Array, "_ _"]) -> Scalar:
        return jax.lax.stop_gradient(jnp.max(jnp.abs(part)) / size)

    left, right = (
        share(jnp.where(weight > 0, 0.0, part)) for weight, part in zip(weights, (parts.left, parts.right), strict=True)
    )
    return parts.apply(point, kernel, power), share(z - parts.out_of(point.u, point.v)), (left, right)
