"""`sweep`: the flow from each of many starts, and its progress bar."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, overload, TYPE_CHECKING, TypeAlias, TypedDict, Unpack

import diffrax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import refuse_tracing
from dlnjax._flows.problem import Steady
from dlnjax._flows.solution import FlowSolution
from dlnjax._geometry.depth import Depths
from dlnjax._networks.flow import NetworkSolution
from dlnjax._noise import Noise
from dlnjax._saved import Solution
from dlnjax._svd import SVD
from dlnjax._sweeps.call import Call, check_call, Checked
from dlnjax._sweeps.executor import hand_out, Lost, require_executor
from dlnjax._sweeps.flow import dataset_of
from dlnjax._sweeps.folder import Store
from dlnjax._sweeps.plan import as_chunk, Plan
from dlnjax._sweeps.processes import submitter
from dlnjax._sweeps.progress import show_progress
from dlnjax._sweeps.run import Run
from dlnjax._sweeps.starts import Ensemble
from dlnjax._sweeps.work import compute, leave
from dlnjax._types import Energy, Number, Numbers

if TYPE_CHECKING:
    import xarray


Matrices: TypeAlias = Float[Array | np.ndarray, "seeds m n"] | SVD
Networks: TypeAlias = Float[Array | np.ndarray, "seeds N d d"] | Sequence[Float[Array | np.ndarray, "seeds _ _"]]
Starts: TypeAlias = Matrices | Networks | Ensemble


class _Options(TypedDict, total=False):
    depth: Depths
    solver: diffrax.AbstractSolver[Any] | None
    rtol: Number | None
    atol: Number | None
    coordinates: Literal["svd", "matrix"]
    stop: Steady | None
    observe: Callable[[SVD], Any] | None
    noise: Noise | None
    max_steps: int
    chunk: int | None
    progress: bool
    devices: Sequence[Any] | None
    executor: Any


@overload
def sweep(
    energy: Energy | None,
    starts: Sequence[Float[Array | np.ndarray, "seeds _ _"]],
    *,
    ts: Numbers,
    folder: None = None,
    grid: None = None,
    **options: Unpack[_Options],
) -> NetworkSolution: ...


@overload
def sweep(
    energy: Energy | None,
    starts: Matrices | Ensemble,
    *,
    ts: Numbers,
    folder: None = None,
    grid: None = None,
    **options: Unpack[_Options],
) -> FlowSolution: ...


@overload
def sweep(
    energy: Energy | None,
    starts: Starts,
    *,
    ts: Numbers,
    folder: str | os.PathLike[str],
    grid: Mapping[str, Any] | None = None,
    **options: Unpack[_Options],
) -> "xarray.Dataset": ...


@overload
def sweep(
    energy: Energy | None,
    starts: Starts,
    *,
    ts: Numbers,
    folder: str | os.PathLike[str] | None = None,
    grid: Mapping[str, Any],
    **options: Unpack[_Options],
) -> "xarray.Dataset": ...


def sweep(
    energy: Energy | None,
    starts: Starts,
    *,
    depth: Depths = jnp.inf,
    ts: Numbers,
    solver: diffrax.AbstractSolver[Any] | None = None,
    rtol: Number | None = None,
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
    executor: Any = None,
    grid: Mapping[str, Any] | None = None,
) -> "FlowSolution | NetworkSolution | xarray.Dataset":
    """The flow of `gradient_flow` from each of many starts, with a result code for each seed and none lost.

    Where the starts are networks, it is the flow of `network_flow` from each.

    A seed is one flow of the sweep. A seed that fails ends with its code and its last good state. It raises no error,
    and does not change the other seeds.

    **Main arguments:**

    - `energy`: as in `gradient_flow`. The arrays of an energy of this library may have the seeds in front: labels
      `n d d` give each seed its own. For an energy of your own, `PerSeed` says which arrays have the seeds in front.
    - `starts`: matrices `seeds m n`, an `SVD` with the seeds in front, or an `Ensemble`. Networks are a stack
      `seeds N d d`, a sequence of factors `seeds n_p n_(p-1)`, W_1 first, or an `Ensemble` whose `init` returns the
      factors of one network; `depth`, `solver`, `coordinates`, `stop` and `observe` have no meaning for them.
    - `depth`: one number for all, or `n` of them; or a kernel, whose arrays all seeds share unless its class has
      `per_seed = True`.
    - `ts`: as in `gradient_flow`, the same for all.
    - `folder`: a folder to which finished seeds are written, for sweeps that are long or do not fit in memory. The same
      call again goes on with the seeds that are missing. It needs zarr and filelock.
    - `executor`: who computes the parts of the folder. It is a number of processes on this machine, or anything with a
      method `submit(f, *args)` that returns a future: a `dask.distributed.Client`, an executor of submitit or
      mpi4py, a `ProcessPoolExecutor` with spawn. A worker that dies costs its part, which is tried again. It needs
      cloudpickle, and all workers must see the folder.

    - `grid`: named axes, such as `{"depth": [2, 3, jnp.inf], "std": [0.01, 0.1]}`. Each of their points has the same
      seeds. The axis `depth` is the depth; every other axis is taken by its name by the `init` of an `Ensemble`,
      `lambda key, std: ...`, or by the `make` of a `Family` of energies.

    **Other arguments:** `noise`, `Noise`, whose key gives seed i the key fold_in(key, i), so that the first hundred
    paths of a million are those of a hundred; `rtol`, by default 1e-6, and 1e-8 for networks; `chunk`, the number of
    seeds that one call integrates (by default up to 256 on a CPU, or as many as keep the saved states small);
    `devices`, those that share the work, by default all; `progress`, a bar on a terminal with the number of finished
    seeds and the time left; the rest as in `gradient_flow`.

    **Returns:** a `FlowSolution`, or for networks a `NetworkSolution`, with the seed as its first axis; with `folder`,
    the `xarray.Dataset` in it, of which each array is read when it is used (`dlnjax.load(folder)` makes a solution of
    it); with `grid`, an `xarray.Dataset` with the axes of the grid and the seed as its first dimensions.

    **Reproducible:** the order of the seeds, the other seeds, the progress bar and a restart change no bit of a seed's
    result. Another chunk or number of devices is another compilation, which may round differently. The difference is
    far within the tolerance, and was 1e-8 at the default one where it was measured and no stop ended a flow.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs, and under `jax.jit`, `grad` and `vmap`,
    where a sweep cannot run; `ValueError` for a folder that belongs to another call, cannot be written, or is being
    written by another process, or with an `observe` of more than one array; `RuntimeError` with an executor whose
    workers have other versions of jax or dlnjax, or die each time with the same seeds. All other seeds are then in the
    folder. NaN in a start raises no error: that seed has the result `non_finite`. **Warns:** a part of the folder that
    is damaged is computed again.

    **Example:**

        >>> energy = dln.MatrixCompletion.diagonal(2)
        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 10)
        >>> sol = dln.sweep(energy, starts, ts=[0.0, 1.0, 100.0], stop=dln.Steady(1e-6))
        >>> sol.effective_rank.shape, bool(jnp.all(sol.result == dln.RESULTS.steady))
        ((10, 3), True)

    Networks that are not balanced:

        >>> widths = ((4, 2), (3, 4), (2, 3))
        >>> init = lambda key: tuple(dln.gaussian(k, w, 0.4) for k, w in zip(jax.random.split(key, 3), widths))
        >>> networks = dln.sweep(energy, dln.Ensemble(init, jax.random.key(0), 10), ts=[0.0, 1.0, 100.0])
        >>> networks.x.shape, [w.shape for w in networks.weights]
        ((10, 3, 2, 2), [(10, 3, 4, 2), (10, 3, 3, 4), (10, 3, 2, 3)])
    """
    refuse_tracing(
        "a sweep", (energy, starts, depth, ts, rtol, atol, stop, noise), "dlnjax.gradient_flow with jax.vmap"
    )
    call = Call(energy, starts, depth, ts, solver, rtol, atol, coordinates, stop, observe, noise, max_steps, grid)
    checked = check_call(call)
    chunk = as_chunk(chunk, checked.grid.n)
    _require_fitting(executor, folder, devices)
    if folder is None:
        sol = _into_memory(checked, checked.plan(devices, chunk), progress)
        return sol if grid is None else checked.grid.unfolded(dataset_of(sol))
    checked.require_savable()
    with Store(folder, checked.identity(), chunk) as store:
        plan = checked.plan(devices, store.chunk)
        plan = plan._replace(part=store.part or plan.part)
        missing = store.begin(plan.chunk, plan.part)
        if missing and executor is None:
            _into_folder(checked, plan, store, missing, progress)
        elif missing:
            with submitter(executor) as submit:
                _by_workers(submit, call, checked.run(plan), store, missing, progress)
        return store.open()


def _require_fitting(executor: Any, folder: Any, devices: Any) -> None:
    if executor is None:
        return
    require_executor(executor)
    if folder is None:
        raise ValueError("executor needs a folder, to which its workers write: dlnjax.sweep(..., folder=...).")
    if devices is not None:
        raise ValueError("devices are those of this process: with executor each worker uses all that it has.")


def _into_memory(checked: Checked, plan: Plan, progress: bool) -> Any:
    run = checked.run(plan)
    with show_progress(run.n, progress, 0) as (compiling, advance):

        def chunks() -> Iterator[Solution]:
            for chunk in run.chunks({0: run.n}, compiling):
                yield chunk
                advance(len(chunk))

        return Solution.joined(chunks(), run.n)


def _into_folder(checked: Checked, plan: Plan, store: Store, missing: dict[int, int], progress: bool) -> None:
    """Compute the parts that are missing, and write each when its last chunk is there."""
    chunks, part, parts = [], -1, iter(missing)
    with show_progress(checked.grid.n, progress, store.count) as (compiling, advance):
        for chunk in checked.run(plan).chunks(missing, compiling):
            if not chunks:
                part = next(parts)
            chunks.append(chunk)
            if sum(map(len, chunks)) == missing[part]:
                store.write(part, dataset_of(Solution.joined(chunks, missing[part])))
                chunks = []
            advance(len(chunk))


def _by_workers(submit: Callable, call: Call, run: Run, store: Store, missing: dict[int, int], progress: bool) -> None:
    """Let the workers compute the parts that are missing."""
    job = leave(store.folder, call, run.plan, store.call)
    try:
        if not store.done:
            store.make_room(dataset_of(run.blank()))
        with show_progress(run.n, progress, store.count) as (compiling, advance):
            for first, answer in hand_out(submit, compute, job, missing):
                compiling(False)
                store.done[first] = answer["count"]
                advance(answer["count"])
    except Lost as error:
        raise RuntimeError(
            f"{store.folder} has {store.count} of {run.n} seeds: {error} The same call again goes on from there."
        ) from error
    finally:
        # In a folder that has become read-only the file stays. What the sweep raises says so.
        with suppress(OSError):
            (store.folder / "call.pickle").unlink()
