"""One flow for each of many starts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import as_count, as_depth, as_square, check_energy
from dlnjax._flow import Options, prepare, Problem, solve_many, Steady
from dlnjax._random import Ensemble
from dlnjax._solution import FlowSolution
from dlnjax._svd import SVD

LANES = 16


def sweep(
    energy: Callable[[Float[Array, "d d"]], Float[Array, ""]],
    starts: Float[Array, "n d d"] | Ensemble,
    *,
    depth=jnp.inf,
    ts,
    solver: diffrax.AbstractSolver | None = None,
    rtol=1e-6,
    atol=1e-8,
    coordinates: Literal["svd", "matrix"] = "svd",
    stop: Steady | None = None,
    observe: Callable[[SVD], Any] | None = None,
    max_steps: int = 100_000,
    chunk: int | None = None,
    progress: bool = True,
) -> FlowSolution:
    """The flow of `gradient_flow` from each of many starts, with a result code for each seed and none lost.

    A seed that fails ends with its code and its last good state; the others do not notice. Nothing is raised for it.

    **Main arguments:**

    - `energy`: as in `gradient_flow`. Its arrays may carry the seeds in front: labels `n d d` give each seed its own.
      For an energy of your own, either no array carries the seeds, or every array with a first axis of length n does.
    - `starts`: `n d d`, or an `Ensemble`.
    - `depth`: one number for all, or `n` of them.
    - `ts`: as in `gradient_flow`, the same for all.

    **Other arguments:** `chunk`, seeds that run together (by default 256, or as many as keep the saved states
    small); `progress`, a bar on a terminal with the seeds done and the time left; the rest as in `gradient_flow`.

    **Returns:** a `FlowSolution` with the seed as its first axis.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs. NaN in a start is no bad input but that
    seed's result, `non_finite`.
    """
    n, take = _lazy(starts)
    example = take(np.arange(1))
    depth = as_depth(depth)
    if depth.shape not in ((), (n,)):
        raise ValueError(f"depth must be one number or one for each of the {n} starts, got shape {depth.shape}.")
    problem, options = prepare(
        energy, example, depth, ts, solver, rtol, atol, coordinates, stop, observe, max_steps, many=True
    )
    d = example.shape[-1]
    seeded, shared = _split_energy(energy, n, d, example.dtype)
    inverse_depth = np.broadcast_to(problem.inverse_depth, (n,))
    chunk = _chunk_size(chunk, n, len(problem.ts), d, observe is not None)

    parts = []
    with _progress(n, progress) as advance:
        for first in range(0, n, chunk):
            count = min(chunk, n - first)
            # The last chunk repeats its last seed to keep the shape, and with it the compilation.
            index = np.minimum(np.arange(first, first + chunk), n - 1)
            own = jax.tree.map(itemgetter(index), seeded)
            out = _solve_chunk(own, shared, take(index), inverse_depth[index], problem.ts, options)
            parts.append(jax.tree.map(itemgetter(slice(count)), jax.device_get(out)))
            advance(count)
    return _join(parts, problem.ts)


@eqx.filter_jit
def _solve_chunk(seeded, shared, starts, inverse_depth, ts, options: Options) -> FlowSolution:
    def of_row(row):
        seeded, start, inverse_depth = row
        return Problem(eqx.combine(seeded, shared), start, inverse_depth, ts)

    sol = solve_many(of_row, (seeded, starts, inverse_depth), ts, options, LANES)
    return eqx.tree_at(lambda s: s.ts, sol, None)


def _lazy(starts) -> tuple[int, Callable]:
    """How many starts, and the callable that gives those of some seeds."""
    if isinstance(starts, Ensemble):
        shape = jax.eval_shape(starts.init, starts.key)
        if getattr(shape, "ndim", None) != 2 or shape.shape[0] != shape.shape[1]:
            raise ValueError(f"init must return one square matrix (d, d) for a key, got {shape}.")
        return starts.n, starts.take
    starts = as_square("starts", starts, leading=True)
    if starts.ndim != 3:
        raise ValueError(f"starts must be of shape (n, d, d), got {starts.shape}. For one matrix use gradient_flow.")
    if len(starts) == 0:
        raise ValueError("starts is empty: a sweep needs at least one.")
    return len(starts), lambda index: starts[index]


def _split_energy(energy, n: int, d: int, dtype):
    """The arrays of the energy that carry the seeds in front, and the rest of it."""
    seeded = jax.tree.map(lambda x: eqx.is_array(x) and x.ndim > 0 and len(x) == n, energy)
    own, shared = eqx.partition(energy, seeded)
    if any(jax.tree.leaves(seeded)) and _shape(energy, d, dtype) != ():
        one = eqx.combine(jax.tree.map(lambda x: x[0], own), shared)
        check_energy(one, d, dtype)
        return own, shared
    check_energy(energy, d, dtype)
    return jax.tree.map(lambda _: None, own), energy


def _shape(energy, d, dtype):
    try:
        return getattr(jax.eval_shape(energy, jax.ShapeDtypeStruct((d, d), dtype)), "shape", None)
    except (TypeError, ValueError):
        return None  # it cannot take one matrix as it is, so its arrays carry the seeds


def _chunk_size(chunk, n: int, times: int, d: int, observed: bool) -> int:
    if chunk is None:
        per_seed = 8 * times * (d if observed else 2 * d * d + d)
        return int(min(n, 256, max(1, 2**28 // per_seed)))
    return min(as_count("chunk", chunk), n)


def _join(parts: list[FlowSolution], ts) -> FlowSolution:
    joined = jax.tree.map(lambda *xs: jnp.asarray(np.concatenate(xs)), *parts)
    return eqx.tree_at(lambda s: s.ts, joined, ts, is_leaf=lambda x: x is None)


@contextmanager
def _progress(n: int, show: bool) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    quiet = not show or not (console.is_terminal or console.is_jupyter)
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task("", total=n)
        yield lambda count: bar.advance(task, count)
