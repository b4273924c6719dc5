"""The factors of the network: their product, the balanced ones of a matrix, and how far others are from balanced."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_count, as_finite, as_float, as_square
from dlnjax._svd import svd
from dlnjax._types import Matrix, Weights


def product(weights: Weights) -> Matrix:
    """The end-to-end matrix of the network, (1.4):

        phi(W_N, ..., W_1) = W_N W_{N-1} ... W_1.

    **Arguments:** `weights`, `N d d`, W_1 first.

    **Returns:** X, `d d`.

    **Raises:** `ValueError` or `TypeError` if `weights` is not a stack of real square matrices.

    **Example:**

        >>> dln.product(jnp.stack([jnp.eye(2), 2 * jnp.eye(2), 3 * jnp.eye(2)])).tolist()
        [[6.0, 0.0], [0.0, 6.0]]
    """
    return chain_product(as_weights(weights))


def products(weights: Float[Array, "*n N d d"]) -> Float[Array, "*n d d"]:
    """The end-to-end matrices of many networks."""
    flat = weights.reshape(-1, *weights.shape[-3:])
    return jax.vmap(chain_product)(flat).reshape(*weights.shape[:-3], *weights.shape[-2:])


def chain_product(layers: Weights | Sequence[Matrix]) -> Matrix:
    """W_N ... W_1 of a stack or a sequence of factors, unchecked."""
    weights = layers if isinstance(layers, jax.Array) else jnp.stack(list(layers))
    # Neighbours are multiplied, then their products. A loop over the factors would compile N products, this log N.
    while len(weights) > 1:
        pairs = len(weights) // 2 * 2
        weights = jnp.concatenate([weights[1:pairs:2] @ weights[:pairs:2], weights[pairs:]])
    return weights[0]


def balanced_factors(x: Matrix, depth: int) -> Weights:
    """Balanced factors of X = U diag(sigma) V^T, a choice in (2.6)-(2.7):

        W_p = Q_p Sigma^(1/N) Q_{p-1}^T,    Q_N = U,  Q_0 = V,  and Q_p = I in between.

    **Arguments:** `x`, `d d`; `depth`, the number N of factors.

    **Returns:** the factors, `N d d`, W_1 first: `product` of them is `x`, and `balancedness` zero.

    **Raises:** `ValueError` or `TypeError` if `x` is not a real square matrix, or `depth` no whole number above 0.

    **Example:**

        >>> weights = dln.balanced_factors(jnp.array([[0.0, 8.0], [1.0, 0.0]]), 3)
        >>> weights.shape, (dln.product(weights).round(6) + 0.0).tolist()
        ((3, 2, 2), [[0.0, 8.0], [1.0, 0.0]])
    """
    depth, point = as_count("depth", depth), svd(as_finite("x", as_square("x", x)))
    # All factors are Sigma^(1/N), and the first and the last carry the frames: W_1 = Sigma^(1/N) V^T, and
    # W_N = U Sigma^(1/N). With a single factor both act on it.
    root = jnp.diag(point.sigma ** (1 / depth))
    weights = jnp.broadcast_to(root, (depth, *root.shape))
    weights = weights.at[0].set(weights[0] @ point.v.T)
    return weights.at[-1].set(point.u @ weights[-1])


def balancedness(weights: Weights) -> Float[Array, "N-1 d d"]:
    """What the gradient flow of the factors conserves, (2.1), and what is zero where they are balanced:

        G_p = W_p W_p^T - W_{p+1}^T W_{p+1},    p = 1, ..., N-1.

    **Arguments:** `weights`, `N d d`, W_1 first.

    **Returns:** G_1, ..., G_{N-1}, symmetric, `N-1 d d`.

    **Raises:** `ValueError` or `TypeError` if `weights` is not a stack of real square matrices.

    **Example:**

        >>> weights = jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
        >>> dln.balancedness(weights).tolist()
        [[[-3.0, 0.0], [0.0, -3.0]]]
    """
    weights = as_weights(weights)
    lower, upper = weights[:-1], weights[1:]
    return lower @ jnp.swapaxes(lower, -1, -2) - jnp.swapaxes(upper, -1, -2) @ upper


def as_weights(weights: Any) -> Weights:
    """A stack of at least one factor, all square and of one size."""
    weights = as_float("weights", weights)
    if weights.ndim != 3 or len(weights) == 0 or weights.shape[-1] != weights.shape[-2] or weights.shape[-1] == 0:
        raise ValueError(
            f"weights must be N square matrices of shape (N, d, d), W_1 first, got shape {weights.shape}. "
            "For many networks use jax.vmap."
        )
    return weights
