"""The factors of the network: their product, those of a given matrix, and how far factors are from balanced."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dlnjax._checks import as_count, as_finite, as_matrix, as_real, is_concrete, known, require
from dlnjax._compile import compiled
from dlnjax._layers import layer_values
from dlnjax._networks.chain import as_weights, chain_product, layers_of
from dlnjax._svd import as_point, canonical, plain_point, SVD, truncated
from dlnjax._types import Layer, Matrix, Numbers, Stack, Weights


def product(weights: Weights | Sequence[ArrayLike]) -> Matrix:
    """The end-to-end matrix of the network, (1.4):

        phi(W_N, ..., W_1) = W_N W_{N-1} ... W_1.

    **Arguments:** `weights`, W_1 first: a stack `N d d`, or a sequence of matrices that chain.

    **Returns:** X, `m n`: m is the number of rows of W_N, and n that of the columns of W_1.

    **Raises:** `ValueError` or `TypeError` for what is no stack of real square matrices and no sequence of real ones
    that chain.

    **Example:**

        >>> dln.product(jnp.stack([jnp.eye(2), 2 * jnp.eye(2), 3 * jnp.eye(2)])).tolist()
        [[6.0, 0.0], [0.0, 6.0]]
        >>> dln.product([jnp.ones((3, 2)), jnp.ones((1, 3))]).tolist()
        [[3.0, 3.0]]
    """
    return chain_product(as_weights(weights))


def balanced_factors(x: Matrix | SVD, depth: int, widths: Sequence[int] | None = None) -> Weights:
    """Balanced factors of X = U diag(sigma) V^T, a choice in (2.6)-(2.7):

        W_p = Q_p Sigma^(1/N) Q_{p-1}^T,    Q_N = U,  Q_0 = V,  and Q_p = I in between.

    Where a hidden layer is wider than the number r of singular values, Q_p has rows of zeros below the identity.

    **Arguments:** `x`, `m n`, or an `SVD` of any number r of singular values; `depth`, the number N of factors;
    `widths`, the widths n_1, ..., n_{N-1} of the hidden layers, each at least the rank of `x`, by default r.

    **Returns:** the factors, W_1 first, whose `product` is `x`, and whose `balancedness` is zero. If all are square
    and of one size they are a stack `N d d`, otherwise a tuple. Their derivative is NaN where singular values of a
    matrix `x` repeat.

    **Raises:** `ValueError` or `TypeError` if `x` is no real matrix and no `SVD` of one, `depth` no whole number
    above 0, or `widths` are too narrow or not N - 1.

    **Example:**

        >>> weights = dln.balanced_factors(jnp.array([[0.0, 8.0], [1.0, 0.0]]), 3)
        >>> weights.shape, (dln.product(weights).round(6) + 0.0).tolist()
        ((3, 2, 2), [[0.0, 8.0], [1.0, 0.0]])
        >>> [w.shape for w in dln.balanced_factors(jnp.ones((2, 3)), 3, widths=(1, 4))]  # of rank 1
        [(1, 3), (4, 1), (2, 4)]
    """
    depth, point = as_count("depth", depth), _as_point(x)
    if widths is None:
        widths = (point.sigma.shape[-1],) * (depth - 1)
    else:
        widths, point = _as_widths(widths, depth, point)
    return _balanced(point, depth=depth, widths=tuple(widths))


def imbalanced_factors(x: Matrix | SVD, imbalance: Numbers) -> Weights:
    """Factors of X = U diag(sigma) V^T that are as far from balanced as given numbers say,

        W_p W_p^T - W_{p+1}^T W_{p+1} = g_p I,    p = 1, ..., N-1.

    They are W_p = Q_p diag(s_p) Q_{p-1}^T with Q_N = U, Q_0 = V, Q_p = I in between, and

        s_p^2 = a + c_p,    c_p - c_{p+1} = g_p,    prod_p (a + c_p) = sigma^2    for each singular value.

    The gradient flow of the factors keeps this, as it keeps `balancedness`. At g = 0 they are `balanced_factors`; as
    |g| grows, most layers hardly move, which is called the lazy regime.

    **Arguments:** `x`, `m n`, or an `SVD` of any number r of singular values; `imbalance`, g at two layers, or
    g_1, ..., g_{N-1}, of any sign.

    **Returns:** the factors, W_1 first, whose hidden layers have the width r. With a wider layer the identity has no
    solution: g_p > 0 needs a width of at most n, and g_p < 0 one of at most m. If all factors are square and of one
    size they are a stack `N d d`, otherwise a tuple. Derivatives are as those of `balanced_factors`.

    **Raises:** `ValueError` or `TypeError` if `x` is no real matrix and no `SVD` of one with r <= m and r <= n, or
    `imbalance` is not finite.

    **Example:**

        >>> weights = dln.imbalanced_factors(jnp.array([[0.0, 2.0], [1.0, 0.0]]), 3.0)
        >>> dln.product(weights).round(6).tolist(), dln.balancedness(weights).round(6).tolist()
        ([[0.0, 2.0], [1.0, 0.0]], [[[3.0, 0.0], [0.0, 3.0]]])
    """
    point = _as_point(x)
    imbalance = jnp.atleast_1d(as_real("imbalance", imbalance, "It is g, or (g_1, ..., g_{N-1})."))
    if imbalance.ndim > 1:
        raise ValueError(f"imbalance must be g, or (g_1, ..., g_(N-1)), got shape {imbalance.shape}.")
    shown = f", got {imbalance}" if is_concrete(imbalance) else ""
    imbalance = require(imbalance, ~(abs(known(imbalance)) < np.inf).all(), f"imbalance must be finite{shown}.")
    return _imbalanced(point, imbalance.astype(point.sigma.dtype))


def balancedness(weights: Weights | Sequence[ArrayLike]) -> Float[Array, "N-1 d d"] | tuple[Layer, ...]:
    """What the gradient flow of the factors conserves, (2.1), and what is zero where they are balanced:

        G_p = W_p W_p^T - W_{p+1}^T W_{p+1},    p = 1, ..., N-1.

    **Arguments:** `weights`, W_1 first: a stack `N d d`, or a sequence of matrices that chain.

    **Returns:** G_1, ..., G_{N-1}, symmetric: `N-1 d d` of a stack, and of a sequence a tuple, in which G_p has as many
    rows as W_p.

    **Raises:** as `product`.

    **Example:**

        >>> weights = jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
        >>> dln.balancedness(weights).tolist()
        [[[-3.0, 0.0], [0.0, -3.0]]]
        >>> [g.tolist() for g in dln.balancedness([jnp.ones((1, 2)), jnp.ones((3, 1))])]
        [[[-1.0]]]
    """
    weights = as_weights(weights)
    if isinstance(weights, jax.Array):
        return balancedness_of_stack(weights)
    return tuple(lower @ lower.T - upper.T @ upper for lower, upper in itertools.pairwise(weights))


def balancedness_of_stack(weights: Stack) -> Float[Array, "N-1 d d"]:
    """`balancedness` of a stack, unchecked."""
    lower, upper = weights[:-1], weights[1:]
    return lower @ jnp.swapaxes(lower, -1, -2) - jnp.swapaxes(upper, -1, -2) @ upper


def _as_point(x: Any) -> SVD:
    if isinstance(x, SVD):
        return as_point("x", x)
    # Where singular values repeat, the derivative of `svd` is right for X alone: factors would not stay balanced.
    return plain_point(as_finite("x", as_matrix("x", x)))


def _as_widths(widths: Any, depth: int, point: SVD) -> tuple[tuple[int, ...], SVD]:
    """The widths, and the point without the singular values that they do not let through, which must be 0."""
    if not isinstance(widths, (list, tuple)):
        raise TypeError(f"widths must be a sequence of whole numbers, n_1, ..., n_(N-1), got {type(widths).__name__}.")
    widths = tuple(as_count("each of widths", w) for w in widths)
    if len(widths) != depth - 1:
        raise ValueError(f"widths must be those of the {depth - 1} hidden layers, got {len(widths)}: {widths}.")
    rank = point.sigma.shape[-1]
    narrowest = min(widths, default=rank)
    if narrowest >= rank:
        return widths, point
    point = canonical(point)
    sigma = known(point.sigma)
    # What stands in an `SVD` is taken as exact up to the rounding of a decomposition of X.
    zero = max(point.u.shape[-2], point.v.shape[-2]) * np.finfo(sigma.dtype).eps * sigma[0]
    through = f"{int((sigma > zero).sum())}, " if is_concrete(point.sigma) else ""
    message = (
        f"widths must be at least the rank of x, {through}got {widths}: a layer of width {narrowest} lets no matrix "
        "of higher rank through. Pass dlnjax.SVD with fewer singular values, or wider layers."
    )
    sigma = require(point.sigma, (sigma[narrowest:] > zero).any(), message)
    return widths, truncated(SVD(point.u, sigma, point.v), narrowest)


@compiled
def _balanced(point: SVD, *, depth: int, widths: tuple[int, ...]) -> Weights:
    point = canonical(point)
    values = jnp.broadcast_to(point.sigma ** (1 / depth), (depth, point.sigma.shape[-1]))
    return _framed(point, values, widths)


@compiled
def _imbalanced(point: SVD, imbalance: Float[Array, " g"]) -> Weights:
    point = canonical(point)
    return _framed(point, layer_values(point.sigma, imbalance), (point.sigma.shape[-1],) * imbalance.size)


def _framed(point: SVD, values: Float[Array, "N r"], widths: tuple[int, ...]) -> Weights:
    """Factors with these singular values, of which the first and the last carry the frames of X."""
    m, n, rank = point.u.shape[-2], point.v.shape[-2], point.sigma.shape[-1]
    layers = jax.vmap(jnp.diag)(values)
    # With a single factor both frames act on it.
    if {m, n, *widths} == {rank}:
        layers = layers.at[0].set(layers[0] @ point.v.T)
        return layers.at[-1].set(point.u @ layers[-1])
    layers = list(layers_of(layers))
    layers[0] = layers[0] @ point.v.T
    layers[-1] = point.u @ layers[-1]
    sizes = (n, *widths, m)
    more = lambda p, axis: (0, sizes[p + 1 - axis] - layers[p].shape[axis])
    return tuple(jnp.pad(layer, (more(p, 0), more(p, 1))) for p, layer in enumerate(layers))
