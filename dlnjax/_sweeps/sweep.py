"""One flow for each of many starts."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, overload, TYPE_CHECKING, TypeAlias, TypedDict, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_square, refuse_tracing, shape_of
from dlnjax._flows.problem import Options, prepare, Steady
from dlnjax._flows.solution import FlowSolution
from dlnjax._geometry.kernel import as_kernel, Depths, Kernel
from dlnjax._svd import SVD
from dlnjax._sweeps.fingerprint import identity
from dlnjax._sweeps.folder import Store
from dlnjax._sweeps.plan import as_chunk, make_plan
from dlnjax._sweeps.run import Run
from dlnjax._sweeps.seeds import Energies, split
from dlnjax._sweeps.starts import Ensemble
from dlnjax._terminal import console, is_watched, silence
from dlnjax._traced import traced_energies
from dlnjax._types import Energy, Number, Numbers

if TYPE_CHECKING:
    import xarray


# In the log of a batch job.
_SECONDS_BETWEEN_LINES = 60.0

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

    A seed that fails ends with its code and its last good state, and nothing is raised for it. The others are as they
    are without it.

    **Main arguments:**

    - `energy`: as in `gradient_flow`. The arrays of an energy of this library may have the seeds in front: labels
      `n d d` give each seed its own. Of an energy of your own `PerSeed` says which arrays have them.
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
    tolerance, and below 1e-9 at the default one as long as no stop ends a flow.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs, under `jax.jit`, `grad` and `vmap` too,
    where a sweep cannot be; `ValueError` for a folder that belongs to another call, is damaged, or is being written by
    another process. NaN in a start is no bad input but that seed's result, `non_finite`.

    **Example:**

        >>> energy = dln.MatrixCompletion.diagonal(2)
        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 10)
        >>> sol = dln.sweep(energy, starts, ts=[0.0, 1.0, 100.0], stop=dln.Steady(1e-6))
        >>> sol.effective_rank.shape, bool(jnp.all(sol.result == dln.RESULTS.steady))
        ((10, 3), True)
    """
    refuse_tracing("a sweep", (energy, starts, depth, ts, rtol, atol, stop), "dlnjax.gradient_flow with jax.vmap")
    n, shape, take = _count_and_take(starts)
    # It stands for any of the starts, of which none is drawn before its chunk.
    example = jnp.zeros((1, *shape.shape), shape.dtype)
    kernel = _kernels(depth, n, example.dtype)
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
    energies = split(energy, n, example.shape[-2:], example.dtype)
    problem = eqx.tree_at(lambda p: p.energy, problem, energies.first)
    chunk = as_chunk(chunk, n)
    store = None
    if folder is not None:
        store = Store(folder, identity(problem, options, energies, starts), chunk)
        chunk = store.chunk or chunk
    with store or nullcontext():
        times, first = len(problem.ts), example[0]
        plan = make_plan(n, first, times, options, energy=energies.first, devices=devices, chunk=chunk)
        own, shared = traced_energies(energies.own, energies.shared, first.shape[-2:], first.dtype)
        run = Run(n, take, Energies(own, shared, energies.first), problem, options, plan)
        done, parts = 0 if store is None else store.done, []
        with _progress(n, progress, done) as (running, advance):
            for part in run.parts(done, running):
                if store is None:
                    parts.append(part)
                else:
                    store.write(part.to_xarray(), n, plan.chunk)
                advance(len(part))
        return FlowSolution.joined(parts) if store is None else store.open()


def _kernels(depth: Depths, n: int, dtype: Any) -> Kernel:
    """The kernel of all starts, or those of each."""
    kernel = as_kernel(depth, dtype, many="")
    for numbers in jax.tree.leaves(kernel):
        if numbers.shape not in ((), (n,)):
            raise ValueError(f"depth must be one number or one for each of the {n} starts, got shape {numbers.shape}.")
    return kernel


def _count_and_take(starts: Starts) -> tuple[int, Any, Callable]:
    """How many starts, the shape and the type of each, and the callable that gives those of some seeds."""
    if isinstance(starts, Ensemble):
        shape = shape_of("init", starts.init, starts.key)
        if getattr(shape, "ndim", None) != 2 or shape.shape[0] != shape.shape[1]:
            raise ValueError(f"init must return one square matrix (d, d) for a key, got {shape}.")
        return starts.n, shape, starts.take
    starts = as_square("starts", starts, leading=True)
    if starts.ndim != 3:
        raise ValueError(f"starts must be of shape (n, d, d), got {starts.shape}. For one matrix use gradient_flow.")
    if len(starts) == 0:
        raise ValueError("starts is empty: a sweep needs at least one.")
    return len(starts), jax.ShapeDtypeStruct(starts.shape[1:], starts.dtype), np.asarray(starts).__getitem__


@contextmanager
def _progress(n: int, show: bool, done: int) -> Iterator[tuple[Callable[[], None], Callable[[int], None]]]:
    """(what is called once all is compiled, what is called with the number of seeds that have been finished)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    left = TimeRemainingColumn(), TextColumn("left")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *left)
    log = _Log(n, done) if show and not is_watched() else None
    with silence(), Progress(*columns, console=console(), disable=not show or not is_watched(), transient=True) as bar:
        task = bar.add_task("compiling", total=n, completed=done)

        def advance(count: int) -> None:
            bar.advance(task, count)
            if log is not None:
                log.advance(count)

        yield lambda: bar.update(task, description="seeds"), advance


class _Log:
    """In the log of a batch job, a line now and then: none for a sweep that is done before the first is due."""

    def __init__(self, n: int, done: int):
        self.n, self.first, self.done = n, done, done
        self.began = self.said = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said >= _SECONDS_BETWEEN_LINES:
            self.said = now
            left = (self.n - self.done) * (now - self.began) / (self.done - self.first)
            line = f"dlnjax: {self.done} of {self.n} seeds after {now - self.began:.0f} s, about {left:.0f} s left"
            console().print(line, markup=False, soft_wrap=True)
