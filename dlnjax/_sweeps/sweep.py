"""One flow for each of many starts."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Literal, overload, TYPE_CHECKING, TypeAlias, TypedDict, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_count, as_square, check_energy, shape_of
from dlnjax._energies.spectral import FreeEnergy
from dlnjax._flows.problem import Options, prepare, Steady
from dlnjax._flows.solution import FlowSolution
from dlnjax._geometry.kernel import as_kernel, Depths
from dlnjax._svd import SVD
from dlnjax._sweeps.fingerprint import identity
from dlnjax._sweeps.folder import Store
from dlnjax._sweeps.run import (
    as_devices,
    calls_lapack,
    chunk_size,
    in_order,
    lane_count,
    solve_chunk,
    start_chunk,
    worker_count,
)
from dlnjax._sweeps.starts import Ensemble
from dlnjax._terminal import console
from dlnjax._traced import traced_energies
from dlnjax._types import Energy, Number, Numbers

if TYPE_CHECKING:
    import xarray


Starts: TypeAlias = Float[Array | np.ndarray, "n d d"] | Ensemble


class _Options(TypedDict, total=False):
    depth: Depths
    solver: diffrax.AbstractSolver[Any] | None
    rtol: Number
    atol: Number | None
    coordinates: Literal["svd", "matrix"]
    stop: Steady | None
    observe: Callable[[SVD], Any] | None
    max_steps: int
    chunk: int | None
    progress: bool
    devices: Sequence[Any] | None


@overload
def sweep(
    energy: Energy, starts: Starts, *, ts: Numbers, folder: None = None, **options: Unpack[_Options]
) -> FlowSolution: ...


@overload
def sweep(
    energy: Energy, starts: Starts, *, ts: Numbers, folder: str | os.PathLike[str], **options: Unpack[_Options]
) -> "xarray.Dataset": ...


def sweep(
    energy: Energy,
    starts: Starts,
    *,
    depth: Depths = jnp.inf,
    ts: Numbers,
    solver: diffrax.AbstractSolver[Any] | None = None,
    rtol: Number = 1e-6,
    atol: Number | None = None,
    coordinates: Literal["svd", "matrix"] = "svd",
    stop: Steady | None = None,
    observe: Callable[[SVD], Any] | None = None,
    max_steps: int = 100_000,
    chunk: int | None = None,
    progress: bool = True,
    devices: Sequence[Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> "FlowSolution | xarray.Dataset":
    """The flow of `gradient_flow` from each of many starts, with a result code for each seed and none lost.

    A seed that fails ends with its code and its last good state; the others do not notice. Nothing is raised for it.

    **Main arguments:**

    - `energy`: as in `gradient_flow`. Its arrays may carry the seeds in front: labels `n d d` give each seed its own.
      For an energy of your own, either no array carries the seeds, or every array with a first axis of length n does.
    - `starts`: `n d d`, or an `Ensemble`.
    - `depth`: one number for all, or `n` of them.
    - `ts`: as in `gradient_flow`, the same for all.
    - `folder`: where to write what is finished as it goes, for sweeps that are long or do not fit in memory. The same
      call again goes on from there. Needs zarr.

    **Other arguments:** `chunk`, seeds that are handed over together (by default up to 256 on a CPU, or as many as keep
    the saved states small); `devices`, those to share the work, by default all; `progress`, a bar on a terminal with
    the seeds done and the time left; the rest as in `gradient_flow`.

    **Returns:** a `FlowSolution` with the seed as its first axis; with `folder`, the `xarray.Dataset` in it, read only
    where it is looked at (`dlnjax.load(folder)` makes a `FlowSolution` of it).

    **Reproducible:** the order of the seeds, their neighbours, the progress bar and a restart change no bit of a seed's
    result. Another chunk or number of devices is another compilation, which may round differently: far within the
    tolerance, and below 1e-9 at the default one.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs; `ValueError` for a folder that belongs
    to another call or is damaged. NaN in a start is no bad input but that seed's result, `non_finite`.

    **Example:**

        >>> energy = dln.MatrixCompletion.diagonal(2)
        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 10)
        >>> sol = dln.sweep(energy, starts, ts=[0.0, 1.0, 100.0], stop=dln.Steady(1e-6))
        >>> sol.effective_rank.shape, bool(jnp.all(sol.result == dln.RESULTS.steady))
        ((10, 3), True)
    """
    n, take = _count_and_take(starts)
    example = jnp.asarray(take(np.arange(1)))
    kernel = as_kernel(depth, example.dtype, many="")
    for numbers in jax.tree.leaves(kernel):
        if numbers.shape not in ((), (n,)):
            raise ValueError(f"depth must be one number or one for each of the {n} starts, got shape {numbers.shape}.")
    options = Options(
        solver=solver,
        rtol=rtol,
        atol=atol,
        coordinates=coordinates,
        stop=stop,
        observe=observe,
        max_steps=max_steps,
    )
    problem, options = prepare(energy, example, kernel, ts, options, many=True)
    d = example.shape[-1]
    seeded, shared, first_energy = _split_energy(energy, n, d, example.dtype)
    seeded, shared = traced_energies(seeded, shared, d, example.dtype)
    seeded = jax.tree.map(np.asarray, seeded)
    kernels = jax.tree.map(lambda numbers: np.broadcast_to(numbers, (n,)), problem.kernel)
    devices = as_devices(devices)
    workers = worker_count(devices, n)
    if devices[0].platform == "cpu" and calls_lapack(first_energy, example, options):
        devices, workers = devices[:1], 1
    if chunk is not None:
        chunk = min(as_count("chunk", chunk), n)
    store = None
    if folder is not None:
        call = identity(energy, first_energy, starts, problem, options, n, example)
        store = Store(folder, call, chunk)
        chunk = store.chunk or chunk
    chunk = chunk or chunk_size(n, workers, devices, len(problem.ts), d, observe is not None)
    # Every call has the same shape, and with it the same compilation: what is missing is filled up with NaN.
    rows = -(-chunk // len(devices)) * len(devices)
    lanes = lane_count(devices[0], rows // len(devices), d)

    def begin(first: int):
        index = np.minimum(np.arange(first, first + rows), n - 1)
        real = np.arange(rows) < n - first
        # In NumPy, which does not compile for each shape.
        points = np.where(real[:, None, None], take(index), np.nan)
        own = (jax.tree.map(itemgetter(index), seeded), points, jax.tree.map(itemgetter(index), kernels))
        return own, start_chunk(own, shared, problem.ts, options)

    def solve(own, y0) -> FlowSolution:
        return solve_chunk(own, y0, shared, problem.ts, options, devices, lanes)  # pyright: ignore[reportCallIssue]

    parts = []
    done = 0 if store is None else store.done
    with _progress(n, progress, done) as advance:
        for first, part in in_order(begin, solve, range(done, n, chunk), workers):
            part = jax.tree.map(itemgetter(slice(min(chunk, n - first))), part)
            part = eqx.tree_at(lambda s: s.ts, part, np.asarray(problem.ts), is_leaf=lambda x: x is None)
            if store is None:
                parts.append(part)
            else:
                store.write(part.to_xarray(), n, chunk)
            advance(min(chunk, n - first))
    return _join(parts, problem.ts) if store is None else store.open()


def _count_and_take(starts) -> tuple[int, Callable]:
    """How many starts, and the callable that gives those of some seeds."""
    if isinstance(starts, Ensemble):
        shape = shape_of("init", starts.init, starts.key)
        if getattr(shape, "ndim", None) != 2 or shape.shape[0] != shape.shape[1]:
            raise ValueError(f"init must return one square matrix (d, d) for a key, got {shape}.")
        return starts.n, starts.take
    starts = as_square("starts", starts, leading=True)
    if starts.ndim != 3:
        raise ValueError(f"starts must be of shape (n, d, d), got {starts.shape}. For one matrix use gradient_flow.")
    if len(starts) == 0:
        raise ValueError("starts is empty: a sweep needs at least one.")
    return len(starts), np.asarray(starts).__getitem__


def _split_energy(energy, n: int, d: int, dtype):
    """The arrays of the energy that carry the seeds in front, the rest of it, and the energy of the first seed."""
    own, shared = eqx.partition(energy, _carries_seeds(energy, n, d, dtype))
    one = eqx.combine(jax.tree.map(lambda x: x[0], own), shared)
    check_energy(one, d, dtype, f"Does it need a jnp.sum? To give each seed its own, its arrays have {n} in front.")
    return own, shared, one


def _carries_seeds(energy, n: int, d: int, dtype):
    """Of each array of the energy, whether it does."""
    seeded = jax.tree.map(lambda x: eqx.is_array(x) and x.ndim > 0 and len(x) == n, energy)
    if isinstance(energy, FreeEnergy):
        return eqx.tree_at(lambda e: e.energy, seeded, _carries_seeds(energy.energy, n, d, dtype))
    if _shape(energy, d, dtype) == ():
        return jax.tree.map(lambda _: False, seeded)
    return seeded


def _shape(energy, d, dtype):
    try:
        return getattr(jax.eval_shape(energy, jax.ShapeDtypeStruct((d, d), dtype)), "shape", None)
    except (TypeError, ValueError):
        return None  # it cannot take one matrix as it is, so its arrays carry the seeds


def _join(parts: list[FlowSolution], ts) -> FlowSolution:
    parts = [eqx.tree_at(lambda s: s.ts, part, None) for part in parts]
    joined = jax.tree.map(lambda *xs: jnp.asarray(np.concatenate(xs)), *parts)
    return eqx.tree_at(lambda s: s.ts, joined, ts, is_leaf=lambda x: x is None)


@contextmanager
def _progress(n: int, show: bool, done: int) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    quiet = not show or not (console().is_terminal or console().is_jupyter)
    with Progress(*columns, console=console(), disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=n, completed=done)
        yield lambda count: bar.advance(task, count)
