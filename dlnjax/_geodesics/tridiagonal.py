"""Symmetric block tridiagonal matrices: the Hessians of a discrete action.

Both eliminations run along the path, block by block, in time proportional to the number of its nodes.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Blocks(eqx.Module):
    """A symmetric block tridiagonal matrix in the `m` inner nodes of a path.

    `diagonal[k]` is the block of node k + 1, `upper[k]` that of the nodes k and k + 1, so that the first and the last
    of `upper` couple to the ends of the path.
    """

    diagonal: Float[Array, "m n n"]
    upper: Float[Array, "k n n"]


def solve(blocks: Blocks, rhs: Float[Array, "m n"]) -> tuple[Float[Array, "m n"], Bool[Array, ""]]:
    """(the solution, whether the matrix is positive definite), by Cholesky's factorisation of the blocks.

    Where the matrix is not definite the factors are NaN, and the solution is of no use.
    """

    def forward(carry: tuple[Array, Array], row: tuple[Array, Array, Array]) -> tuple[Any, Any]:
        c, y = carry
        block, upper, b = row
        z = jax.scipy.linalg.cho_solve((c, True), upper)
        carry = jnp.linalg.cholesky(block - upper.T @ z), b - z.T @ y
        return carry, carry

    def backward(x: Float[Array, " n"], row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        c, y, upper = row
        x = jax.scipy.linalg.cho_solve((c, True), y - upper @ x)
        return x, x

    # The ends of the path do not move: the first row has no neighbour before it, and the last none after it.
    eye, zero = jnp.eye(rhs.shape[-1], dtype=rhs.dtype), jnp.zeros_like(rhs[0])
    before = blocks.upper[:-1].at[0].set(0.0)
    _, (cs, ys) = jax.lax.scan(forward, (eye, zero), (blocks.diagonal, before, rhs))
    _, out = jax.lax.scan(backward, zero, (cs, ys, blocks.upper[1:]), reverse=True)
    return out, jnp.all(jnp.isfinite(cs))


def respond(blocks: Blocks) -> tuple[Float[Array, "n n"], Int[Array, " m"]]:
    """(the derivative of X_1 in X_K along critical paths, how many eigenvalues of each pivot are negative).

    The elimination takes any symmetric matrix, also an indefinite one, as Cholesky's does not. By Sylvester's law of
    inertia the negative eigenvalues of all pivots are as many as those of the matrix.
    """
    n = blocks.upper.shape[-1]

    def forward(carry: tuple[Array, Array], row: tuple[Array, Array]) -> tuple[Any, Array]:
        pivot, response = carry
        block, upper = row
        inverse = jnp.linalg.inv(pivot)
        pivot = block - upper.T @ inverse @ upper
        # With the nodes in between eliminated, dX_1/dX_k is the product of their -inverse @ upper.
        return (pivot, response @ -(inverse @ upper)), jnp.linalg.eigvalsh((pivot + pivot.T) / 2)

    first = blocks.diagonal[0]
    rows = (blocks.diagonal[1:], blocks.upper[1:-1])
    (pivot, response), values = jax.lax.scan(forward, (first, jnp.eye(n, dtype=first.dtype)), rows)
    values = jnp.concatenate([jnp.linalg.eigvalsh(first)[None], values])
    return response @ -jnp.linalg.solve(pivot, blocks.upper[-1]), jnp.sum(values < 0, axis=1)
