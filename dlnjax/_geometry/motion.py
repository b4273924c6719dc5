"""How A_X^power and the form Tr(P^T A_X^power(Q)) move with a square X: the theorem of Daleckii and Krein.

A_X^power is a function of X X^T and of X^T X. Here `first`, `three` and `mixed` are its divided differences, from
`differences.py`. All matrices are given by their entries in the frame of X.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._types import Matrix


def moved(m: Matrix, sigma: Float[Array, " d"]) -> tuple[Matrix, Matrix]:
    """The motions of X X^T and of X^T X when X moves by M: M Sigma + Sigma M^T, and M^T Sigma + Sigma M."""
    left, right = m * sigma[None, :], m.T * sigma[None, :]
    return left + left.T, right + right.T


def turned(first: Float[Array, "d d d"], g: Matrix, left: Matrix, right: Matrix) -> Matrix:
    """The motion of A_X^power(G) at fixed G, when X X^T moves by `left` and X^T X by `right`."""

    # `einsum` makes products of many matrices with one vector each, which take XLA long to compile.
    def by_left(g: Matrix, left: Matrix) -> Matrix:
        return jnp.sum(first * left[:, :, None] * g[None, :, :], axis=1)

    return by_left(g, left) + by_left(g.T, right.T).T


def densities(first: Float[Array, "d d d"], p: Matrix, q: Matrix) -> tuple[Matrix, Matrix]:
    """The gradients of the form in X X^T and in X^T X."""

    def in_left(p: Matrix, q: Matrix) -> Matrix:
        left = jnp.sum(first * p[:, None, :] * q[None, :, :], axis=2)
        return (left + left.T) / 2

    return in_left(p, q), in_left(p.T, q.T)


def in_x(sigma: Float[Array, " d"], left: Matrix, right: Matrix) -> Matrix:
    """The gradient in X of a function with the gradients `left` in X X^T and `right` in X^T X."""
    return 2 * (left * sigma[None, :] + sigma[:, None] * right)


def bent(
    three: Float[Array, "d d d d"], mixed: Float[Array, "d d d d"], p: Matrix, q: Matrix, left: Matrix, right: Matrix
) -> Matrix:
    """How the first of the two `densities` moves at fixed p and q, when X X^T moves by `left` and X^T X by `right`.

    The first density is the gradient with respect to X X^T. For the second, that with respect to X^T X, transpose p
    and q and exchange `left` and `right`.
    """
    along = jnp.einsum("ikmj,ij,mj->ikm", three, p, q)
    across = jnp.einsum("ikjm,ij,km->ikjm", mixed, p, q)
    out = jnp.einsum("ikm,km->ik", along, left) + jnp.einsum("ikm,ik->km", along, left)
    out += jnp.einsum("ikjm,mj->ik", across, right)
    return (out + out.T) / 2
