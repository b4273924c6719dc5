"""The factors of a network in their two forms, a stack of square matrices and a tuple of matrices that chain.

A stack is compiled as one array, whatever its length. In a tuple each factor has its own shape and its own operations.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_float, as_matrix, is_concrete, known, require
from dlnjax._compile import compiled
from dlnjax._tree import norm, positive
from dlnjax._types import Layer, Matrix, Scalar, Weights

# At most so many factors of a sequence are multiplied at a time.
_AT_ONCE = 16

Sizes: TypeAlias = Float[Array, " N"] | tuple[Scalar, ...]
"""A number for each factor, in the form of the factors."""


def as_weights(weights: Any) -> Weights:
    """The factors, checked. A list or tuple of matrices that chain becomes a tuple; a stack must be square, `N d d`."""
    if isinstance(weights, (list, tuple)):
        return _as_chain(weights)
    weights = as_float("weights", weights)
    if weights.ndim != 3 or len(weights) == 0 or weights.shape[-1] != weights.shape[-2] or weights.shape[-1] == 0:
        raise ValueError(
            f"weights must be N square matrices of shape (N, d, d), W_1 first, got shape {weights.shape}. "
            "Factors of other shapes are a sequence of matrices, (W_1, ..., W_N). For many networks use jax.vmap."
        )
    return weights


def _as_chain(weights: Sequence[Any]) -> tuple[Layer, ...]:
    if not weights:
        raise ValueError("weights must be a stack or a sequence of at least one matrix, W_1 first, got none.")
    layers = [as_matrix(f"weights[{p}]", w) for p, w in enumerate(weights)]
    for p, (lower, upper) in enumerate(itertools.pairwise(layers)):
        if upper.shape[1] != lower.shape[0]:
            raise ValueError(
                f"weights must chain, as W_N ... W_1 does, got {', '.join(str(w.shape) for w in layers)}, W_1 first: "
                f"W_{p + 2} must have as many columns as W_{p + 1} has rows, {lower.shape[0]}."
            )
    dtype = np.result_type(*(w.dtype for w in layers))
    return tuple(w.astype(dtype) for w in layers)


def require_finite_weights(weights: Weights) -> Weights:
    """`weights`, if every entry is finite."""
    finite = [(abs(known(w)) < np.inf).all() for w in jax.tree.leaves(weights)]
    # Under `jit` a check is a callback: one for the whole tuple costs less than one for each factor.
    bad = ~finite[0] if len(finite) == 1 else ~_all(finite)
    return require(weights, bad, "weights must be finite, got NaN or infinity.")


def _all(conditions: list[Any]) -> Any:
    return np.all(conditions) if all(map(is_concrete, conditions)) else jnp.all(jnp.stack(conditions))


def as_finite_weights(weights: Weights) -> Weights:
    """`weights`, if they are finite or traced: of what is traced, NaN comes out as NaN."""
    return require_finite_weights(weights) if all(map(is_concrete, jax.tree.leaves(weights))) else weights


def layers_of(weights: Weights) -> tuple[Layer, ...]:
    """The factors one by one."""
    return tuple(weights)


def like(weights: Weights, layers: Sequence[Layer]) -> Weights:
    """`layers` in the form of `weights`."""
    return jnp.stack(list(layers)) if isinstance(weights, jax.Array) else tuple(layers)


def each(f: Callable[..., Any], weights: Weights, *others: Any) -> Any:
    """f(W_p, ...) for every p: an array with the axis of layers in front, or a tuple."""
    return jax.vmap(f)(weights, *others) if isinstance(weights, jax.Array) else tuple(map(f, weights, *others))


def times(factors: Sizes, weights: Weights) -> Weights:
    """Each factor W_p, times the p-th of these numbers."""
    return each(jnp.multiply, weights, factors)


@compiled
def sizes_of(weights: Weights) -> Sizes:
    """The Frobenius norms of the factors; in place of 0, the largest of them, or 1 where all are 0."""
    sizes = each(norm, weights)
    most = jnp.max(jnp.stack(list(sizes)))
    instead = positive(most)
    return jax.tree.map(lambda size: jnp.where(size > 0, size, instead), sizes)


def widths_of(weights: Any) -> tuple[int, ...]:
    """n_0, ..., n_N: of W_p, n_p is the number of rows, and n_{p-1} that of columns."""
    if isinstance(weights, tuple):
        return weights[0].shape[-1], *(w.shape[-2] for w in weights)
    # The shape says it. To index a concrete stack would compile and run a program.
    return (weights.shape[-1],) * (weights.shape[-3] + 1)


def matrix_shape(weights: Weights) -> tuple[int, int]:
    """The shape of the product, `m n`."""
    n, *_, m = widths_of(weights)
    return m, n


def dtype_of(weights: Weights) -> Any:
    """The precision of the factors, which all have the same."""
    return jax.tree.leaves(weights)[0].dtype


def described(weights: Any) -> str:
    """How a solution names its network; axes in front do not matter."""
    if isinstance(weights, tuple):
        return f"N = {len(weights)}, widths {', '.join(map(str, widths_of(weights)))}"
    return f"N = {weights.shape[-3]}, d = {weights.shape[-1]}"


def chain_product(layers: Weights | Sequence[Matrix]) -> Matrix:
    """W_N ... W_1 of a stack or a sequence of factors, unchecked."""
    if isinstance(layers, jax.Array):
        return _product_of_stack(layers)
    # `multi_dot` finds the cheapest order of multiplication from the shapes. It has few factors at a time, since of 26
    # to 51 it returns the transpose of their product (jax 0.10.2).
    left = list(layers)
    while len(left) > 1:
        parts = [left[k : k + _AT_ONCE] for k in range(0, len(left), _AT_ONCE)]
        left = [part[0] if len(part) == 1 else jnp.linalg.multi_dot(part[::-1]) for part in parts]
    return left[0]


def _product_of_stack(weights: Array) -> Matrix:
    # Neighbours are multiplied, and then their products are. So log N products are compiled, where a loop over the
    # factors would compile N.
    while len(weights) > 1:
        pairs = len(weights) // 2 * 2
        weights = jnp.concatenate([weights[1:pairs:2] @ weights[:pairs:2], weights[pairs:]])
    return weights[0]


def products(weights: Any) -> Array:
    """The end-to-end matrices of many networks, whose axes are in front."""
    leaf = jax.tree.leaves(weights)[0]
    core = 3 if isinstance(weights, jax.Array) else 2
    lead = leaf.shape[: leaf.ndim - core]
    flat = jax.tree.map(lambda w: w.reshape(-1, *w.shape[len(lead) :]), weights)
    x = jax.vmap(chain_product)(flat)
    return x.reshape(*lead, *x.shape[-2:])
