"""The identity of a call of `sweep`, by which a folder recognises the call that it belongs to."""

import hashlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dlnjax._flows.problem import Options, Problem, shape_of_point
from dlnjax._geometry.kernel import Kernel
from dlnjax._noise import Noise
from dlnjax._protocol import gradient, name_of
from dlnjax._svd import SVD, svd
from dlnjax._sweeps.grid import Grid, taken_by
from dlnjax._sweeps.seeds import Energies
from dlnjax._sweeps.starts import Ensemble
from dlnjax._traced import checksums, traced_energy
from dlnjax._tree import is_key
from dlnjax._types import Matrix
from dlnjax._versions import version_of


def identity(
    problem: Problem, options: Options, energies: Energies, starts: Any, take: Callable, grid: Grid
) -> dict[str, Any]:
    """What is compared: the settings, the arrays, numbers that the energy gives for the first seed, and programs.

    The numbers take the place of the code of the energy where another version of JAX makes other programs of it.
    """
    n = grid.n
    # An `Ensemble` is not drawn as a whole. Its first and its last start depend on the key and on `init`.
    drawn = [take(np.array([0, n - 1]))] if isinstance(starts, Ensemble) else [starts]
    start = jax.tree.map(lambda x: jax.device_put(np.asarray(x)[0]), drawn[0])
    x = start.matrix if isinstance(start, SVD) else start
    size = (*x.shape, len(shape_of_point(start).sigma))
    return {
        "n": n,
        "d": size[0] if len(set(size)) == 1 else list(size),
        "dtype": str(x.dtype),
        "starts": digest(jax.tree.leaves(drawn)),
        **described_energies(energies, x),
        "depth": described_kernel(problem.kernel),
        "ts": digest([problem.ts]),
        "rtol": float(options.rtol),
        "atol": None if options.atol is None else float(options.atol),
        "stop": float(options.steady) or None,
        "max_steps": int(options.max_steps),
        "solver": repr(options.solver),
        "coordinates": options.coordinates,
        "observe": _observed(options.observe, start),
        "noise": described_noise(problem.noise),
        "grid": grid.described(),
        "programs": programs(
            traced_energy(energies.first, x.shape, x.dtype, size[2]), starts, grid, options.observe, problem.kernel
        )
        | ({} if options.program is None else {"solver": [options.program]}),
    }


def programs(energy: Any, starts: Any, grid: Grid, observe: Any = None, kernel: Kernel | None = None) -> dict[str, Any]:
    """The checksums of what the user wrote: the other numbers are those of a few flows, and miss what others differ in.

    Another version of JAX may make other programs of the same code.
    """
    init = None
    if isinstance(starts, Ensemble):
        taken = grid.at_points(taken_by("init", starts.init, grid, 1))
        init = starts._traced({name: jnp.asarray(values)[0] for name, values in taken.items()})
    traced = {"energy": energy, "init": init, "observe": observe}
    return {
        "jax": version_of("jax"),
        **{name: checksums(tree) for name, tree in traced.items()},
        "kernel": [kernel._record.checksum] if kernel is not None and kernel._record else [],
    }


def described_energies(energies: Energies, x: Matrix) -> dict[str, Any]:
    """What is compared of the energies, `x` being the first start."""
    first = energies.first
    arrays = [x for x in jax.tree.leaves((energies.own, energies.shared)) if eqx.is_array(x)]
    return {
        "energy": [name_of(first), digest(arrays)],
        "energy at the first start": [float(first(x)), float(jnp.linalg.norm(gradient(first, x)))],
    }


def described_kernel(kernel: Kernel) -> list[Any]:
    """What is compared of the kernel. A kernel of one's own has numbers in the place of its code, too."""
    arrays = eqx.filter(kernel, eqx.is_array)
    what = [type(kernel).__name__, digest(jax.tree.leaves(arrays))]
    if kernel._record is None:
        return what
    leaves, tree = jax.tree.flatten(arrays)
    leaves = [
        jnp.reshape(x, (-1, *np.shape(x)[np.ndim(x) - n :]))[0] for x, n in zip(leaves, kernel._axes, strict=True)
    ]
    first = eqx.combine(jax.tree.unflatten(tree, leaves), kernel)
    sigma = jnp.array([3.0, 1.0, 0.4])
    numbers = first.eigenvalues(sigma), first.rotation_weights(sigma), *first.leaving(sigma)
    return [*what, [float(x) for part in numbers for x in part.ravel()]]


def described_noise(noise: Noise | None) -> list[Any] | None:
    if noise is None:
        return None
    return [digest([jax.random.key_data(noise.key)]), float(noise.beta), float(noise.dt), noise.gauge]


def _observed(observe: Callable | None, start: SVD | Matrix) -> list[float] | None:
    if observe is None:
        return None
    point = start if isinstance(start, SVD) else svd(start)
    # Each entry has a weight of its own, so that the same entries in another order give another sum.
    leaves = [jnp.ravel(jnp.asarray(x, point.sigma.dtype)) for x in jax.tree.leaves(observe(point))]
    return [float(x @ jnp.cos(jnp.arange(len(x), dtype=x.dtype))) for x in leaves]


def digest(arrays: list[Any]) -> str:
    """The checksum of some arrays, their shapes and types included."""
    total = hashlib.sha256()
    for array in arrays:
        if isinstance(array, jax.Array) and is_key(array):
            array = jax.random.key_data(array)
        array = np.ascontiguousarray(array)
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()
