"""The metric at a thin point: a matrix of rank r, given as an `SVD` of r values.

The tangent vectors at X = U diag(sigma) V^T are the matrices Z whose part (I - U U^T) Z (I - V V^T) is zero. The other
three parts of Z are orthogonal to each other in the metric. The operator multiplies them by lambda, nu and mu. The
frame is given, so that no decomposition is needed.

In derivatives the point is X = Q1 S Q2^T, where S need not stay diagonal: the frame of X has no derivative where
singular values repeat, and the operator has. The rules for functions of S are those of square matrices.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_finite, as_matrix, check_energy, known, require
from dlnjax._compile import compiled
from dlnjax._custom_jvp import custom_jvp
from dlnjax._geometry.depth import as_kernel, Depth
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.leaving import leaving_weight
from dlnjax._geometry.operator import applied_at
from dlnjax._geometry.parts import out_of_span, Parts
from dlnjax._lapack import solve_linear
from dlnjax._protocol import sides
from dlnjax._scale import exponent, scaled
from dlnjax._svd import as_point, SVD
from dlnjax._tree import length_of, positive, ravel
from dlnjax._types import Energy, Matrix, Scalar

# A part of a tangent vector counts as zero up to this multiple of eps^(3/4) of the vector, as the columns of a point
# count as orthonormal.
_ROUNDINGS = 1e3


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
    message = (
        "x.sigma must be positive: an SVD of r values is a matrix of rank r. Leave out the values that are 0. "
        "Where some are negative, dlnjax.svd(x.matrix, rank=r) turns their vectors."
    )
    return SVD(point.u, require(point.sigma, low, message), point.v)


class Core(eqx.Module):
    """The point X = Q1 S Q2^T. Its S is diagonal, with tangents that are not; `point` is the decomposition of S."""

    q1: Float[Array, "m r"]
    s: Float[Array, "r r"]
    q2: Float[Array, "n r"]
    point: SVD

    @classmethod
    def of(cls, x: SVD) -> "Core":
        q1, s = _core(x.u, x.sigma)
        eye = jnp.eye(len(s), dtype=s.dtype)
        return cls(q1, s, x.v, SVD(eye, jax.lax.stop_gradient(x.sigma), eye))

    @property
    def matrices(self) -> tuple[Array, Array, Array]:
        """(Q1, S, Q2)."""
        return self.q1, self.s, self.q2

    def parts(self, z: Matrix) -> Parts:
        """The parts of Z."""
        return Parts.of(SVD(self.q1, self.point.sigma, self.q2), z)

    def apply(self, z: Parts, kernel: Kernel, power: int | float = 1) -> Parts:
        """The parts of A_X^power(Z). A part of weight 0 becomes 0."""
        nu, mu = (leaving_weight(self.s, self.point, kernel, side=side, power=power) for side in (0, 1))
        inside = applied_at(self.s, z.inside, kernel, self.point, power=power)
        return Parts(inside, z.left @ nu, z.right @ mu)

    def out_of(self, z: Parts) -> Matrix:
        """Z itself, without what leaves the matrices of rank r."""
        return z.out_of(self.q1, self.q2)


@custom_jvp
def _core(u: Float[Array, "m r"], sigma: Float[Array, " r"]) -> tuple[Float[Array, "m r"], Float[Array, "r r"]]:
    """(Q1, S) with Q1 S = U diag(sigma), also in derivatives, along which U need not stay orthonormal."""
    return u, jnp.diag(sigma)


@_core.defjvp
def _core_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]):
    (u, sigma), (du, dsigma) = primals, tangents
    q1, s = _core(u, sigma)
    moved = du * sigma + u * dsigma
    inside = q1.T @ moved
    outside = out_of_span(q1, moved, inside)
    return (q1, s), (solve_linear(s.T, outside.T).T, inside)


@compiled
def _apply(point: SVD, p: Matrix, kernel: Kernel) -> Matrix:
    core = Core.of(point)
    return core.out_of(core.apply(core.parts(p), kernel))


def operator(point: SVD, p: Any, depth: Depth) -> Matrix:
    """A_X(P)."""
    point, p = as_thin(point, "p", p)
    return _apply(point, p, as_kernel(depth, p.dtype))


def inverse(point: SVD, z: Any, depth: Depth) -> Matrix:
    """A_X^{-1}(Z) of a tangent vector of finite length."""
    return _out_of(point, _of_finite_length(point, "z", z, depth, -1))


@compiled
def _out_of(point: SVD, parts: Parts) -> Matrix:
    return Core.of(point).out_of(parts)


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
    return scaled(length_of(unit.inner(unit)), k)


def hamiltonian(point: SVD, p: Any, depth: Depth) -> Scalar:
    """1/2 Tr(P^T A_X(P))."""
    point, p = as_thin(point, "p", p)
    return _hamiltonian(point, p, as_kernel(depth, p.dtype))


@compiled
def _hamiltonian(point: SVD, p: Matrix, kernel: Kernel) -> Scalar:
    core = Core.of(point)
    parts = core.parts(p)
    return parts.inner(core.apply(parts, kernel)) / 2


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
    core = Core.of(point)
    # The product with Q1 from that with U. The two agree, but their derivatives need not.
    by_q1 = solve_linear(point.u.T @ core.q1, by_u.T).T
    return core.out_of(core.apply(Parts.of_sides(core.q1, core.q2, by_v, by_q1), kernel))


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
    core, weights = Core.of(point), kernel.leaving(point.sigma)
    parts = core.parts(z)
    size = positive(jnp.max(jnp.abs(z)))

    def share(part: Float[Array, "_ _"]) -> Scalar:
        return jax.lax.stop_gradient(jnp.max(jnp.abs(part)) / size)

    left, right = (
        share(jnp.where(weight > 0, 0.0, part)) for weight, part in zip(weights, (parts.left, parts.right), strict=True)
    )
    return core.apply(parts, kernel, power), share(z - core.out_of(parts)), (left, right)
