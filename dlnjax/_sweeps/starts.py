"""Random starts: one Gaussian matrix, and an `Ensemble` of starts that are drawn when they are needed."""

from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PRNGKeyArray

from dlnjax._checks import as_array, as_count, as_key, as_positive, known, require
from dlnjax._compile import compiled
from dlnjax._noise import standard_normal
from dlnjax._svd import SVD
from dlnjax._traced import Traced
from dlnjax._types import Number, Scalar, Weights

Drawn: TypeAlias = Float[Array, "k m n"] | SVD | Float[Array, "k N d d"] | tuple[Float[Array, "k _ _"], ...]
"""Starts with the seeds in front."""


def gaussian(key: PRNGKeyArray, shape: int | tuple[int, int], scale: Number) -> Float[Array, "m n"]:
    """A matrix with independent entries X_ij ~ N(0, scale^2).

    **Arguments:** `key`; `shape`, (m, n), or one number d for a square matrix; `scale`, the standard deviation
    (1/sqrt(d) for the thesis's N(0, 1/d)).

    **Returns:** the matrix, `m n`.

    **Raises:** `ValueError` for sizes below 1 or scale <= 0; `TypeError` for what is no key or no whole number.

    **Example:**

        >>> dln.gaussian(jax.random.key(0), 2, 0.1).shape, dln.gaussian(jax.random.key(0), (8, 15), 0.1).shape
        ((2, 2), (8, 15))
    """
    return _gaussian(as_key(key), as_positive("scale", scale), _as_shape(shape))


@compiled
def _gaussian(key: PRNGKeyArray, scale: Scalar, shape: tuple[int, int]) -> Float[Array, "m n"]:
    return scale * standard_normal(key, shape)


def _as_shape(shape: Any) -> tuple[int, int]:
    """(m, n), of which one number stands for both."""
    if not isinstance(shape, (tuple, list)):
        d = as_count("shape", shape)
        return d, d
    if len(shape) != 2:
        raise ValueError(f"shape must be one whole number or two of them, (m, n), got {shape!r}.")
    return as_count("shape[0]", shape[0]), as_count("shape[1]", shape[1])


# The largest number of seeds. `fold_in` takes an integer of 32 bits, so that seed 2^32 would have the key of seed 0.
_MOST = 2**32


class Ensemble(eqx.Module):
    """`n` random starts, each drawn when it is needed. The start of seed i is init(fold_in(key, i)) in any chunk.

    **Arguments:** `init`, a callable from a key to a matrix, `m n`, or an `SVD` of one, or to the factors of a network,
    a stack `N d d` or a tuple, W_1 first. In a sweep with `grid` it may take axes of the grid by their names; `key`;
    `n`, how many.

    **Raises:** `ValueError` if n < 1 or n > 2^32; `TypeError` if `init` is not callable, or `key` no key.

    **Example:**

        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 1_000_000)
        >>> len(starts), starts.take(jnp.array([7, 999_999])).shape
        (1000000, (2, 2, 2))
    """

    init: Callable[Concatenate[PRNGKeyArray, ...], Float[Array, "m n"] | SVD | Weights]
    key: PRNGKeyArray
    n: int = eqx.field(static=True, converter=partial(as_count, "n"))

    def __check_init__(self) -> None:
        if not callable(self.init):
            raise TypeError(f"init must be a callable key -> matrix, got {type(self.init).__name__}.")
        as_key(self.key)
        if self.n > _MOST:
            raise ValueError(f"n must be at most 2^32, as many seeds as a key has of its own, got {self.n}.")

    def __len__(self) -> int:
        return self.n

    def take(self, index: Integer[Array | np.ndarray, " k"], **axes: Any) -> Drawn:
        """The starts of the seeds in `index`, `k m n` for matrices; `ValueError` for what is no seed of this ensemble.

        `axes` has what `init` takes besides the key, one number for each entry of `index`.
        """
        given, index = index, as_array("index", index, "It is a list of seeds such as [0, 1].")
        if index.ndim != 1 or not jnp.issubdtype(index.dtype, jnp.integer):
            raise ValueError(f"index must be whole numbers of shape (k,), got {index.dtype}{list(index.shape)}.")
        # The comparison needs a type that holds `n`. The type of `index` may be too narrow, and JAX cuts int64 to int32
        # where float64 is switched off, so that NumPy keeps its int64.
        whole = jnp.result_type(int)
        wide = np.asarray(given, np.int64) if isinstance(given, np.ndarray) else known(index).astype(whole)
        outside = (wide < 0) | (wide >= self.n)
        index = require(index, outside, f"index must be seeds of this ensemble, from 0 to {self.n - 1}.")
        axes = {name: jnp.asarray(values) for name, values in axes.items()}
        one = {name: values[0] for name, values in axes.items()}
        return _draw(self._traced(one), self.key, index, axes)

    def _traced(self, one: dict[str, Any]) -> Traced:
        """`init`, as a function of the key and of one number for each axis that it takes."""
        return Traced.of(lambda key, one: self.init(key, **one), self.key, one)


@compiled
def _draw(init: Traced, key: PRNGKeyArray, index: Integer[Array, " k"], axes: dict[str, Array]) -> Drawn:
    drawn = jax.vmap(lambda i, one: init(jax.random.fold_in(key, i), one))(index, axes)
    return tuple(drawn) if isinstance(drawn, list) else drawn
