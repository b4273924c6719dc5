"""What makes two calls of `sweep` the same, as far as that can be told."""

import hashlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dlnjax._protocol import gradient
from dlnjax._svd import svd
from dlnjax._sweeps.starts import Ensemble


def identity(energy, first_energy, starts, problem, options, n: int, example) -> dict[str, Any]:
    """Settings and arrays; and as code cannot be compared, the numbers that the energy gives for the first seed."""
    start = example[0]
    slope = gradient(first_energy, start)
    # Of lazy starts the first and the last tell the key and the rule.
    drawn = [start, starts.take(np.array([n - 1]))[0]] if isinstance(starts, Ensemble) else [starts]
    return {
        "n": n,
        "d": int(example.shape[-1]),
        "dtype": str(example.dtype),
        "starts": _digest(drawn),
        "energy": [type(energy).__name__, _digest([x for x in jax.tree.leaves(energy) if eqx.is_array(x)])],
        "energy at the first start": [float(first_energy(start)), float(jnp.linalg.norm(slope))],
        "depth": [type(problem.kernel).__name__, _digest(jax.tree.leaves(problem.kernel))],
        "ts": _digest([problem.ts]),
        "rtol": float(options.rtol),
        "atol": None if options.atol is None else float(options.atol),
        "stop": None if options.steady is None else float(options.steady),
        "max_steps": int(options.max_steps),
        "solver": repr(options.solver),
        "coordinates": options.coordinates,
        "observe": _observed(options.observe, start),
    }


def _observed(observe, start) -> list[float] | None:
    if observe is None:
        return None
    # Sums with different weights, so that an order of entries is told from another.
    leaves = [jnp.ravel(jnp.asarray(x, start.dtype)) for x in jax.tree.leaves(observe(svd(start)))]
    return [float(x @ jnp.cos(jnp.arange(len(x), dtype=x.dtype))) for x in leaves]


def _digest(arrays) -> str:
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()
