"""The Levi-Civita connection and its curvature at a square X of full rank, in the coordinates of `straight.py`.

The matrices e^(R/2) sigma(W) e^(R/2) are a bundle with the symmetric W as fibre over the symmetric space of relative
rotations. Its canonical connection nabla0 keeps the pairs (A, R) constant. It is flat along W, and for two rotations
it has with K = [R1, R2]/4

    the torsion -[K, W],    the curvature -[K, .].

The Levi-Civita connection is nabla0 + S, where S follows from the derivatives of the metric along W and the torsion by
Koszul's formula (K. Nomizu, Invariant affine connections on homogeneous spaces, 1954). All terms are smooth where
singular values meet.
"""

from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.straight import Straight, straight
from dlnjax._tree import nan_unless
from dlnjax._types import Matrix, Scalar

# The curvature counts as lost where rounding may exceed a share eps^_LOST, in float64 about 1e-6, of the inverse square
# of y of the largest value.
_LOST = 0.4

Pair: TypeAlias = Float[Array, "2 d d"]
"""A tangent vector (A, R)."""


def bracket(a: Matrix, b: Matrix) -> Matrix:
    """The commutator [A, B]."""
    return a @ b - b @ a


class LeviCivita(eqx.Module):
    """The connection at diag(sigma).

    **Attributes:** `sigma`, descending; `at`, the divided differences; `lost`, whether rounding may hide the curvature.
    """

    sigma: Float[Array, " d"]
    at: Straight
    lost: Bool[Array, ""]

    def __init__(self, sigma: Float[Array, " d"], kernel: Kernel):
        self.sigma, self.at = sigma, straight(sigma, kernel)
        self.lost = _is_lost(jax.lax.stop_gradient(sigma), kernel)

    @property
    def weights(self) -> Pair:
        """c and P, the metric."""
        return jnp.moveaxis(self.at.weights.value, -1, 0)

    @property
    def units(self) -> Pair:
        """The entries of Z that belong to a unit of A and of R."""
        return jnp.stack([self.at.stretch, (self.sigma[:, None] + self.sigma[None, :]) / 2])

    def pair(self, z: Matrix) -> Pair:
        """(A, R) of a matrix Z."""
        return jnp.stack([z + z.T, z - z.T]) / (2 * self.units)

    def matrix(self, pair: Pair) -> Matrix:
        """The matrix Z of (A, R)."""
        return jnp.sum(self.units * pair, 0)

    def raised(self, covector: Pair) -> Pair:
        """The vector of a covector, from the part that is symmetric in A and antisymmetric in R."""
        a, r = covector
        return jnp.stack([a + a.T, r - r.T]) / (2 * self.weights)

    @property
    def basis(self) -> Float[Array, "n 2 d d"]:
        """An orthonormal basis of the tangent space, of multiples of the u_k v_l^T."""
        d = len(self.sigma)
        pairs = jax.vmap(self.pair)(jnp.eye(d * d, dtype=self.sigma.dtype).reshape(d * d, d, d))
        return pairs / jnp.sqrt(jax.vmap(self.inner)(pairs, pairs))[:, None, None, None]

    def inner(self, x: Pair, y: Pair) -> Scalar:
        """g(X, Y)."""
        return jnp.sum(self.weights * x * y)

    def _moved(self, x: Pair, y: Pair) -> Pair:
        """The derivative along X of the metric, as an operator on Y."""
        return self._along(self.at.weights.first, x, y)

    def _along(self, f: Float[Array, "d d d 2"], x: Pair, y: Pair) -> Pair:
        """The operator along X with these divided differences, on Y."""
        # The first index is that of the result, as the differences of roots change their sign with the order.
        return jnp.einsum("ijkp,ij,pjk->pik", f, x[0], y) + jnp.einsum("kjip,pij,jk->pik", f, y, x[0])

    def _bent(self, x: Pair, y: Pair, z: Pair) -> Pair:
        """The second derivative along X and Y of the metric, as an operator on Z."""
        three, mixed, a, b = self.at.weights.three, self.at.weights.mixed, x[0], y[0]
        both = a[:, :, None] * b[None, :, :] + b[:, :, None] * a[None, :, :]
        left = jnp.einsum("ijlkp,ijl,plk->pik", three, both, z)
        right = jnp.einsum("jlkip,pij,jlk->pik", three, z, both)
        across = jnp.einsum("ijlkp,ij,pjl,lk->pik", mixed, a, z, b) + jnp.einsum("ijlkp,ij,pjl,lk->pik", mixed, b, z, a)
        return left + right + across

    def _torsion(self, x: Pair, y: Pair) -> Pair:
        """-[K, W] with K = [R1, R2]/4. In the frame of W = diag(y), its entries are K_ij (y_i - y_j)."""
        a = self.at.gap * bracket(x[1], y[1]) / 4
        return jnp.stack([a, jnp.zeros_like(a)])

    def lowered(self, x: Pair, y: Pair) -> Pair:
        """The covector g(S_X Y, .) by Koszul's formula. Its parts that are not symmetric in A, or not antisymmetric in
        R, have no meaning.
        """
        return self._moved(x, y) / 2 + self._odd(x, y)

    def _odd(self, x: Pair, y: Pair) -> Pair:
        """The part of `lowered` that is antisymmetric as a form in Y and the vector that it is applied to."""
        c, gap = self.weights[0], self.at.gap
        along = jax.grad(lambda e: jnp.sum(self._moved(e, x) * y))(jnp.zeros_like(x))
        turned = bracket(gap * c * x[0], y[1]) + bracket(gap * c * y[0], x[1])
        torsion = jnp.stack([-c * self._torsion(x, y)[0], turned / 4])
        return (self._moved(y, x) - along + torsion) / 2

    def _lowered_moved(self, e: Pair, x: Pair, y: Pair) -> Pair:
        """The derivative of `lowered` along E."""
        c, gap, a = self.weights[0], self.at.gap, e[0]
        along = jax.grad(lambda f: jnp.sum(self._bent(e, f, x) * y))(jnp.zeros_like(x))
        by_x, by_y, torsion = self._moved(e, x)[0], self._moved(e, y)[0], self._torsion(x, y)
        turned = bracket(bracket(a, c * x[0]) + gap * by_x, y[1]) + bracket(bracket(a, c * y[0]) + gap * by_y, x[1])
        twisted = c * bracket(bracket(x[1], y[1]), a) / 4 - self._moved(e, torsion)[0]
        return (self._bent(e, x, y) + self._bent(e, y, x) - along + jnp.stack([twisted, turned / 4])) / 2

    def change(self, x: Pair, y: Pair) -> Pair:
        """S_X Y."""
        return self.raised(self.lowered(x, y))

    def christoffel(self, x: Pair, y: Pair) -> Matrix:
        """The derivative along X of the field whose matrix is that of Y everywhere.

        nabla0 of this field follows from the second derivative of e^(R/2) sigma(W) e^(R/2).
        """
        (a, r), (b, s) = x, y
        half = lambda r, z: (r @ z + z @ r) / 2
        along, z = self.at.stretch * a, self.matrix(y)
        bent = jnp.einsum("ijl,ij,jl->il", self.at.bend, a, b) + jnp.einsum("ijl,ij,jl->il", self.at.bend, b, a)
        return self.matrix(self.change(x, y)) - bent - half(r, z) - half(s, along)

    def turned(self, x: Pair, y: Matrix) -> Matrix:
        """The velocity of A_X^{-1/2}(Z), with the value `y`, where X moves along x and Z is parallel.

        It is antisymmetric in `y`, which turns and keeps its norm. In orthonormal coordinates, with M for the weights,
        half of the derivative of M in S cancels the symmetric part of that of M^{1/2}. What is left of the latter has
        divided differences of roots.
        """
        root, f = jnp.sqrt(self.weights), self.at.weights.first
        one, other = (jnp.moveaxis(root, 0, -1)[index] for index in (np.s_[:, None], np.s_[None]))
        left = f * (one - other) / (2 * one * other * (one + other))
        both = jnp.stack([y + y.T, y - y.T]) / 2
        moved = self._along(left, x, both) - self.raised(self._odd(x, both / root)) * root
        return jnp.sum(moved, 0) + (x[1] @ y + y @ x[1]) / 2

    def curvature(self, x: Pair, y: Pair, z: Pair) -> Pair:
        """The covector g(R(X, Y) Z, .), NaN where it is lost: with the torsion T and the curvature R0 of nabla0,

        R(X, Y) = R0(X, Y) + nabla0_X S_Y - nabla0_Y S_X + [S_X, S_Y] + S_T(X, Y).
        """

        def one_way(x: Pair, y: Pair) -> Pair:
            # nabla0_X moves the metric too, and g(S_X., .) + g(., S_X.) is the derivative of g along X.
            s = self.change(y, z)
            return self._lowered_moved(x, y, z) - self._moved(x, s) + self.lowered(x, s)

        both = jax.vmap(one_way)(jnp.stack([x, y]), jnp.stack([y, x]))
        turn = bracket(x[1], y[1]) / 4
        turned = jnp.stack([bracket(turn, z[0]), bracket(turn, z[1])])
        out = both[0] - both[1] + self.lowered(self._torsion(x, y), z) - self.weights * turned
        return nan_unless(~self.lost, out)

    def riemann(self, x: Pair, y: Pair, z: Pair, v: Pair) -> Scalar:
        """g(R(X, Y) Z, V)."""
        return jnp.sum(self.curvature(x, y, z) * v)


def _is_lost(sigma: Float[Array, " d"], kernel: Kernel) -> Bool[Array, ""]:
    """Whether rounding may hide the curvature.

    Terms cancel whose size is (dlog sigma/dy)^2 at the second smallest value. If lambda vanishes at 0, the curvature is
    of this size. If lambda does not vanish, as at depth 1, the curvature stays bounded near the singular matrices.
    """
    log = jnp.log(sigma)
    steep = jnp.exp(kernel.log_eigenvalue(log, log) - 2 * log)
    eps = float(jnp.finfo(sigma.dtype).eps)
    return (jnp.asarray(kernel.order) <= 0) & (eps * steep[max(len(sigma) - 2, 0)] > eps**_LOST * steep[0])
