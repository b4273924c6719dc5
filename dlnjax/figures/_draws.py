"""Random draws, by a few programs whatever the shape: JAX would compile one for each.

The generator of JAX counts, so that the first of many numbers that a key draws are those that it draws if asked for
few. The draws are therefore those of `jax.random` for the shape itself.
"""

import math
from functools import partial

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from dlnjax._compile import power_of_two_from

# A program draws at least so many numbers for one key, and so many for each of `_KEYS` keys. It splits a key into so
# many keys at least, if these are few or if each of them draws.
_NUMBERS, _EACH, _KEYS, _FEW, _SPLIT = 16384, 1024, 64, 8, 4096


def split(key: PRNGKeyArray, n: int = 2) -> tuple[PRNGKeyArray, ...]:
    """The keys of `jax.random.split(key, n)`."""
    return _split(key, power_of_two_from(max(n, _FEW)))[:n]


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """`jax.random.normal(key, shape)`."""
    n = math.prod(shape)
    return np.asarray(_normal(key, power_of_two_from(max(n, _NUMBERS))))[:n].reshape(shape)


def uniform(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """`jax.random.uniform(key, shape)`."""
    n = math.prod(shape)
    return np.asarray(_uniform(key, power_of_two_from(max(n, _NUMBERS))))[:n].reshape(shape)


def normal_of_each(key: PRNGKeyArray, n: int, shape: tuple[int, ...]) -> Float[np.ndarray, "n ..."]:
    """`jax.random.normal(one, shape)` for each `one` of `jax.random.split(key, n)`.

    Draw k is the same whatever n is.
    """
    size = math.prod(shape)
    many, length = power_of_two_from(max(n, _SPLIT)), power_of_two_from(max(size, _EACH))
    parts = [np.asarray(_of_each(key, first, many, length))[:, :size] for first in range(0, n, _KEYS)]
    return np.concatenate(parts)[:n].reshape(n, *shape)


@partial(jax.jit, static_argnums=1)
def _split(key, n: int):
    return tuple(jax.random.split(key, n))


@partial(jax.jit, static_argnums=1)
def _normal(key, size: int):
    return jax.random.normal(key, (size,))


@partial(jax.jit, static_argnums=1)
def _uniform(key, size: int):
    return jax.random.uniform(key, (size,))


@partial(jax.jit, static_argnums=(2, 3))
def _of_each(key, first, many: int, length: int):
    keys = jax.lax.dynamic_slice_in_dim(jax.random.split(key, many), first, _KEYS)
    return jax.vmap(lambda one: jax.random.normal(one, (length,)))(keys)
