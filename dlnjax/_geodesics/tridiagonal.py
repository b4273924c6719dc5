"""Symmetric block tridiagonal matrices, which are the Hessians of a discrete action.

`solve` and `respond` eliminate block by block along the path. Their time is proportional to the number of nodes.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._lapack import cholesky, cholesky_solve, eigenvalues, solve_linear


class Blocks(eqx.Module):
    """A symmetric block tridiagonal matrix in the `m` inner nodes of a path.

    `diagonal[k]` is the block of node k + 1, and `upper[k]` is the block that couples the nodes k and k + 1. The first
    and the last block of `upper` couple to the ends of the path.
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
        z = cholesky_solve(c, upper)
        carry = cholesky(block - upper.T @ z), b - z.T @ y
        return carry, carry

    def backward(x: Float[Array, " n"], row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        c, y, upper = row
        x = cholesky_solve(c, y - upper @ x)
        return x, x

    # The ends of the path do not move, so the first row has no neighbour before it, and the last row has none after it.
    eye, zero = jnp.eye(rhs.shape[-1], dtype=rhs.dtype), jnp.zeros_like(rhs[0])
    before = blocks.upper[:-1].at[0].set(0.0)
    _, (cs, ys) = jax.lax.scan(forward, (eye, zero), (blocks.diagonal, before, rhs))
    _, out = jax.lax.scan(backward, zero, (cs, ys, blocks.upper[1:]), reverse=True)
    return out, jnp.all(jnp.isfinite(cs))


def respond(blocks: Blocks) -> tuple[Float[Array, "n n"], Int[Array, " m"]]:
    """(the derivative of X_1 in X_K along critical paths, how many eigenvalues of each pivot are negative).

    The elimination works for any symmetric matrix, while the factorisation of Cholesky in `solve` needs a definite one.
    By Sylvester's law of inertia, all pivots together have as many negative eigenvalues as the matrix.
    """
    n = blocks.upper.shape[-1]

    def forward(carry: tuple[Array, Array], row: tuple[Array, Array]) -> tuple[Any, Array]:
        pivot, response = carry
        block, upper = row
        rate = solve_linear(pivot, upper)
        pivot = block - upper.T @ rate
        # dX_1/dX_k is the product of the factors -rate of the nodes between, which are eliminated.
        return (pivot, response @ -rate), eigenvalues((pivot + pivot.T) / 2)

    first = blocks.diagonal[0]
    rows = (blocks.diagonal[1:], blocks.upper[1:-1])
    (pivot, response), values = jax.lax.scan(forward, (first, jnp.eye(n, dtype=first.dtype)), rows)
    values = jnp.concatenate([eigenvalues(first)[None], values])
    return response @ -solve_linear(pivot, blocks.upper[-1]), jnp.sum(values < 0, axis=1)
