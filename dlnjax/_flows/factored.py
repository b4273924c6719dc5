"""The flow on the matrices of rank r as X = P S Q^T, for the derivative of a flow whose frame is thin.

P, `m r`, and Q, `n r`, have orthonormal columns, and S, `r r`, is any matrix of full rank. The columns of P do not turn
within the space that they span, and neither do those of Q. S takes all motion within these spaces (O. Koch and
C. Lubich, Dynamical low-rank approximation, SIAM J. Matrix Anal. Appl. 29, 2007). P, S and Q move smoothly where
singular values repeat, while the frame of the singular value decomposition has no derivative there.
"""

from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dlnjax._flows.coordinates import Coordinates
from dlnjax._geometry.leaving import leaving_rates
from dlnjax._geometry.operator import apply_metric_operator
from dlnjax._lapack import solve_linear
from dlnjax._protocol import gradient
from dlnjax._svd import SVD, svd
from dlnjax._tree import norm
from dlnjax._types import Matrix, Scalar

Left: TypeAlias = Float[Array, "m r"]
Square: TypeAlias = Float[Array, "r r"]
Right: TypeAlias = Float[Array, "n r"]


class Factored(eqx.Module):
    """The factors of X = P S Q^T."""

    p: Float[Array, "*ts m r"]
    s: Float[Array, "*ts r r"]
    q: Float[Array, "*ts n r"]

    @property
    def matrix(self) -> Float[Array, "*ts m n"]:
        """The matrix X."""
        return self.p @ self.s @ jnp.swapaxes(self.q, -1, -2)


def factored(start: SVD | Matrix) -> Factored:
    """P, S and Q of a start."""
    point = start if isinstance(start, SVD) else svd(start)
    return Factored(point.u, jnp.diag(point.sigma), point.v)


def lifted(y: Factored, start: SVD | Matrix, dstart: SVD | Matrix) -> Factored:
    """The tangent of P, S and Q at the start X = P S Q^T for which P^T dP and Q^T dQ are zero, from that of X.

    S is diagonal, but its derivative is not. S is therefore inverted as a whole, so that this tangent has the right
    derivative in its turn.
    """

    def products(x: SVD | Matrix) -> tuple[Left, Right]:
        """(X Q, X^T P), where P and Q are held."""
        if isinstance(x, SVD):
            return (x.u * x.sigma) @ (x.v.T @ y.q), (x.v * x.sigma) @ (x.u.T @ y.p)
        return x @ y.q, x.T @ y.p

    _, (by_q, by_p) = jax.jvp(products, (start,), (dstart,))
    ds = y.p.T @ by_q
    dp = solve_linear(y.s.T, (by_q - y.p @ ds).T).T
    dq = solve_linear(y.s, (by_p - y.q @ ds.T).T).T
    return Factored(dp, ds, dq)


class FactoredCoordinates(Coordinates):
    """The flow in P, S and Q:

        S' = -A_S(P^T dE Q),    P' = -(I - P P^T) dE Q H^T,    Q' = -(I - Q Q^T) dE^T P K,

    where S = U diag(sigma) V^T, H = U diag(nu/sigma) V^T and K = U diag(mu/sigma) V^T, with nu and mu of
    `Kernel.leaving`.
    """

    def velocity(self, y: Factored) -> tuple[Factored, None]:
        slope = gradient(self.energy, y.matrix)
        by_q, by_p = slope @ y.q, slope.T @ y.p
        g = y.p.T @ by_q
        out_of_columns, out_of_rows = leaving_rates(y.s, self.kernel)
        dp = -(by_q - y.p @ g) @ out_of_columns.T
        dq = -(by_p - y.q @ g.T) @ out_of_rows
        return Factored(dp, -apply_metric_operator(y.s, g, self.kernel), dq), None

    def error(self, y0: Factored, y1: Factored, error: Factored) -> Scalar:
        values = norm(error.s) / (self.atol + self.rtol * jnp.maximum(norm(y0.s), norm(y1.s)))
        return jnp.maximum(values, jnp.maximum(norm(error.p), norm(error.q)) / self.rtol)

    def size(self, y: Factored) -> Scalar:
        return norm(y.s)

    def loses_rank(self, y0: Factored, y1: Factored) -> Bool[Array, ""]:
        return jnp.asarray(False)
