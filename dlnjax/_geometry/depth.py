"""What the public face takes for a depth: a number N, or a kernel, which is recorded as it is now."""

from typing import Any, TypeAlias

import equinox as eqx
import jax
import numpy as np

from dlnjax._checks import as_depth
from dlnjax._geometry.kernel import Balanced, Kernel
from dlnjax._recorded import record_of
from dlnjax._types import Number, Numbers

Depth: TypeAlias = Number | Kernel
"""What the public face takes for a depth: a number N, or a kernel."""
Depths: TypeAlias = Numbers | Kernel


def as_kernel(depth: Depth | Depths, dtype: Any, many: str = "jax.vmap") -> Kernel:
    """The kernel that `depth` stands for, with numbers of type `dtype`: `depth` itself, or `Balanced(depth)`.

    If `many` is not empty, several depths are refused, and `many` is what the message recommends for them.
    """
    kernel = depth if isinstance(depth, Kernel) else Balanced(as_depth(depth, many=many))
    shapes = [np.shape(numbers) for numbers in jax.tree.leaves(kernel)]
    if many and kernel.per_seed and any(shapes):
        hint = "One kernel with several numbers has a tuple of them: dlnjax.Imbalanced((0.5, 0.3))."
        raise ValueError(f"depth must be one kernel, got numbers of shape {max(shapes)}. For many use {many}. {hint}")
    return as_it_is(jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, kernel), dtype)


def as_it_is(kernel: Kernel, dtype: Any) -> Kernel:
    """The kernel with a record of what its methods compute now, if it needs one."""
    if (record := record_of(kernel, Kernel, dtype)) is None:
        return kernel
    recorded = jax.tree.map(lambda x: x, kernel)
    object.__setattr__(recorded, "_record", record)
    return recorded


def unchanged(kernel: Kernel, dtype: Any) -> Kernel:
    """The kernel of a solution, as it is.

    **Raises:** `ValueError` if its methods compute something else than when the solution was found.
    """
    now = as_it_is(kernel, dtype)
    if kernel._record and now._record != kernel._record:
        raise ValueError(
            f"the kernel {type(kernel).__name__} has changed since this solution was computed: one of its methods "
            "reads a number that is now another. Compute the solution again, or make the number a field of the kernel."
        )
    return now
