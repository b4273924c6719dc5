"""For which networks a flow takes noise, and which kind of step it then has."""

from typing import Any

import jax
import numpy as np

from dlnjax._checks import is_concrete, known
from dlnjax._geometry.kernel import Balanced, Kernel
from dlnjax._svd import SVD

# From this depth on the steps are written around the isotropic matrices, see `langevin`. Below it a path may cross the
# singular matrices, and the steps are written so that nothing changes there. Both are exact in law without an energy.
DEEP = 10.0


def check_noise(start: Any, kernel: Kernel, many: bool) -> str:
    """The kind of the steps, "shallow" or "deep", or "either" where the depth is not known yet or differs.

    **Raises:** `ValueError` for a kernel, a shape or a rank for which there is no noise.
    """
    if not isinstance(kernel, Balanced):
        raise ValueError(f"noise is there for balanced networks: depth must be a number, got {type(kernel).__name__}.")
    inverse = known(kernel.inverse_depth)
    if not is_concrete(inverse):
        return "either"
    if not many and is_concrete(jax.tree.leaves(start)[0]):
        _check_full_rank(start, float(inverse))
    if np.all(inverse < 1 / DEEP):
        return "deep"
    return "shallow" if np.all(inverse >= 1 / DEEP) else "either"


def _check_full_rank(start: Any, inverse_depth: float) -> None:
    sigma = np.abs(start.sigma) if isinstance(start, SVD) else np.linalg.svd(np.asarray(start), compute_uv=False)
    floor = 0.0 if isinstance(start, SVD) else sigma.shape[-1] * np.finfo(sigma.dtype).eps * sigma.max()
    if inverse_depth < 1 and not np.all(sigma > floor):
        rank = int(np.sum(sigma > floor))
        thin = ", or pass an SVD of this rank, which its paths keep" if rank else ""
        raise ValueError(
            f"x0 has rank {rank} < {len(sigma)}: noise of depth > 1 needs singular values above 0. Start nearby{thin}."
        )
