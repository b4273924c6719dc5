"""The precision of the libraries that are adapted."""

import jax
import numpy as np


def require_float64(library: str) -> None:
    """An error unless JAX has float64, which the library computes in."""
    if jax.dtypes.canonicalize_dtype(float) != np.float64:
        raise RuntimeError(f'{library} works in float64. Enable it first: jax.config.update("jax_enable_x64", True).')
