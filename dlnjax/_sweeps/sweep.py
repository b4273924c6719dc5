"""`sweep`: the flow from each of many starts, and its progress bar."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from operator import itemgetter
from typing import Any, Literal, overload, TYPE_CHECKING, TypeAlias, TypedDict, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import refuse_tracing, shape_of
from dlnjax._flows.gradient_flow import beside_noise
from dlnjax._flows.problem import as_start, Options, prepare, shape_of_point, Steady
from dlnjax._flows.solution import FlowSolution
from dlnjax._geometry.kernel import as_kernel, Depths, Kernel
from dlnjax._noise import Noise, with_noise
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


# The least time between two lines of progress in the log of a batch job.
_SECONDS_BETWEEN_LINES = 60.0

Starts: TypeAlias = Float[Array | np.ndarray, "seeds m n"] | SVD | Ensemble


class _Options(TypedDict, total=False):
    depth: Depths
    solver: diffrax.AbstractSolver[Any] | None
    rtol: Number
    atol: Number | None
    coordinates: Literal["svd", "matrix"]
    stop: Steady | None
    observe: Callable[[SVD], Any] | None
    noise: Noise | None
    max_steps: int
    chunk: int | None
    progress: bool
    devices: Sequence[Any] | None


@overload
def sweep(
    energy: Energy | None, starts: Starts, *, ts: Numbers, folder: None = None, **options: Unpack[_Options]
) -> FlowSolution: ...


@overload
def sweep(
    energy: Energy | None, starts: Starts, *, ts: Numbers, folder: str | os.PathLike[str], **options: Unpack[_Options]
) -> "xarray.Dataset": ...


def sweep(
    energy: Energy | None,
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
    noise: Noise | None = None,
    max_steps: int = 100_000,
    chunk: int | None = None,
    progress: bool = True,
    devices: Sequence[Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> "FlowSolution | xarray.Dataset":
    """The flow of `gradient_flow` from each of many starts, with a result code for each seed and none lost.

    A seed is one flow of the sweep. A seed that fails ends with its code and its last good state. It raises no error,
    and does not change the other seeds.

    **Main arguments:**

    - `energy`: as in `gradient_flow`. The arrays of an energy of this library may have the seeds in front: labels
      `n d d` give each seed its own. For an energy of your own, `PerSeed` says which arrays have the seeds in front.
    - `starts`: matrices `seeds m n`, an `SVD` with the seeds in front, or an `Ensemble`.
    - `depth`: one number for all, or `n` of them.
    - `ts`: as in `gradient_flow`, the same for all.
    - `folder`: a folder to which finished seeds are written, for sweeps that are long or do not fit in memory. The same
      call again goes on after the last finished seeds. It needs zarr and filelock.

    **Other arguments:** `noise`, `Noise`, whose key gives seed i the key fold_in(key, i), so that the first hundred
    paths of a million are those of a hundred; `chunk`, the number of seeds that one call integrates (by default up to
    256 on a CPU, or as many as keep the saved states small); `devices`, those that share the work, by default all;
    `progress`, a bar on a terminal with the number of finished seeds and the time left; the rest as in `gradient_flow`.

    **Returns:** a `FlowSolution` with the seed as its first axis; with `folder`, the `xarray.Dataset` in it, of which
    each array is read when it is used (`dlnjax.load(folder)` makes a `FlowSolution` of it).

    **Reproducible:** the order of the seeds, the other seeds, the progress bar and a restart change no bit of a seed's
    result. Another chunk or number of devices is another compilation, which may round differently. The difference is
    far within the tolerance, and below 1e-9 at the default tolerance as long as no stop ends a flow.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs, and under `jax.jit`, `grad` and `vmap`,
    where a sweep cannot run; `ValueError` for a folder that belongs to another call, is damaged, or is being written by
    another process. NaN in a start raises no error: that seed has the result `non_finite`.

    **Example:**

        >>> energy = dln.MatrixCompletion.diagonal(2)
        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 10)
        >>> sol = dln.sweep(energy, starts, ts=[0.0, 1.0, 100.0], stop=dln.Steady(1e-6))
        >>> sol.effective_rank.shape, bool(jnp.all(sol.result == dln.RESULTS.steady))
        ((10, 3), True)
    """
    refuse_tracing(
        "a sweep", (energy, starts, depth, ts, rtol, atol, stop, noise), "dlnjax.gradient_flow with jax.vmap"
    )
    checked = with_noise(energy, noise, **beside_noise(solver, rtol, atol, coordinates, stop))
    n, example, take = _count_and_take(starts)
    kernel = _kernels(depth, n, jax.tree.leaves(example)[0].dtype)
    options = Options(
        solver=solver,
        rtol=rtol,
        atol=atol,
        coordinates=coordinates,
        stop=stop,
        observe=observe,
        max_steps=max_steps,
    )
    problem, options = prepare(checked, example, kernel, ts, options, noise=noise, many=True)
    point = shape_of_point(example, many=True)
    shape, dtype = (len(point.u), len(point.v)), point.sigma.dtype
    energies = split(checked, n, shape, dtype)
    problem = eqx.tree_at(lambda p: p.energy, problem, energies.first)
    chunk = as_chunk(chunk, n)
    store = None
    if folder is not None:
        store = Store(folder, identity(problem, options, energies, starts), chunk)
        chunk = store.chunk or chunk
    with store or nullcontext():
        plan = make_plan(n, point, len(problem.ts), options, energy=energies.first, devices=devices, chunk=chunk)
        own, shared = traced_energies(energies.own, energies.shared, shape, dtype, len(point.sigma))
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
    """One kernel for all starts, or a kernel whose numbers have one entry for each start."""
    kernel = as_kernel(depth, dtype, many="")
    for numbers in jax.tree.leaves(kernel):
        if numbers.shape not in ((), (n,)):
            raise ValueError(f"depth must be one number or one for each of the {n} starts, got shape {numbers.shape}.")
    return kernel


def _count_and_take(starts: Starts) -> tuple[int, Any, Callable]:
    """(the number of starts, one start with the axis of seeds, a callable that gives the starts of some seeds)."""
    if isinstance(starts, Ensemble):
        return starts.n, _example(shape_of("init", starts.init, starts.key)), starts.take
    stack = as_start(starts, many=True, name="starts")
    lead = jax.tree.leaves(stack)[0].shape[:-2]
    if len(lead) != 1:
        raise ValueError(
            f"starts must be of shape (seeds, m, n), or an SVD with the seeds in front, got {lead} in front of each. "
            "For one matrix use gradient_flow."
        )
    if lead[0] == 0:
        raise ValueError("starts is empty: a sweep needs at least one.")
    rows = jax.tree.map(np.asarray, stack)
    return lead[0], jax.tree.map(lambda x: x[:1], rows), lambda seeds: jax.tree.map(itemgetter(seeds), rows)


def _example(shape: Any) -> Any:
    """A start of that shape for the checks, which read no number of it: no start of an `Ensemble` is drawn for them."""
    if isinstance(shape, SVD):
        eye = lambda q: jnp.eye(*q.shape[-2:], dtype=q.dtype)[None]
        return SVD(eye(shape.u), jnp.ones((1, *shape.sigma.shape), shape.sigma.dtype), eye(shape.v))
    if getattr(shape, "ndim", None) != 2:
        raise ValueError(f"init must return one matrix (m, n), or an SVD of it, for a key, got {shape}.")
    return jnp.zeros((1, *shape.shape), shape.dtype)


@contextmanager
def _progress(n: int, show: bool, done: int) -> Iterator[tuple[Callable[[], None], Callable[[int], None]]]:
    """Show the progress: (a callable for the moment when all is compiled, a callable for each number of seeds done)."""
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
    """The progress of a sweep in the log of a batch job: a line each minute, and none in the first minute."""

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
