"""What both adapters need: the precision of their libraries, and the kernel of a depth."""

from typing import Any

import jax
import numpy as np

import dlnjax as dln


def require_float64(library: str) -> None:
    """An error unless JAX has float64, which the library computes in."""
    if jax.dtypes.canonicalize_dtype(float) != np.float64:
        raise RuntimeError(f'{library} works in float64. Enable it first: jax.config.update("jax_enable_x64", True).')


def kernel_of(depth: Any) -> dln.Kernel:
    """The kernel that a depth stands for."""
    return depth if isinstance(depth, dln.Kernel) else dln.Balanced(depth)
