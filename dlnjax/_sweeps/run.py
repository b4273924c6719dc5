"""How the rows of a sweep are worked off: in chunks, by workers, on devices, in lanes.

On a CPU the products of one flow are too small to be shared between cores, so each core takes a chunk of its own.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr
from jax.sharding import Mesh, PartitionSpec

from dlnjax._flows.gradient_flow import solve_many, start_many
from dlnjax._flows.problem import Options, Problem
from dlnjax._flows.solution import FlowSolution
from dlnjax._protocol import pullback
from dlnjax._svd import SVD


@eqx.filter_jit
def start_chunk(rows, shared, ts, options: Options):
    """The states from which the flows of a chunk start, with all the decompositions that they need."""
    return start_many(_of_row(shared, ts), rows, options)


def _of_row(shared, ts):
    def of_row(row) -> Problem:
        seeded, start, kernel = row
        return Problem(eqx.combine(seeded, shared), start, kernel, ts)

    return of_row


@partial(eqx.filter_jit, compiler_options={"xla_cpu_multi_thread_eigen": False})  # pyright: ignore[reportCallIssue]
def solve_chunk(rows, y0, shared, ts, options: Options, devices, lanes: int) -> FlowSolution:
    """Rows are shared out to the devices, each of which goes its own way."""

    def solve(own, common):
        rows, y0 = eqx.combine(own, own_static)
        shared, ts, options = eqx.combine(common, common_static)
        sol = solve_many(_of_row(shared, ts), rows, y0, ts, options, lanes)
        return eqx.tree_at(lambda s: s.ts, sol, None)

    own, own_static = eqx.partition((rows, y0), eqx.is_array)
    common, common_static = eqx.partition((shared, ts, options), eqx.is_array)
    mesh, seeds, whole = Mesh(np.asarray(devices), ("seeds",)), PartitionSpec("seeds"), PartitionSpec()
    return jax.shard_map(solve, mesh=mesh, in_specs=(seeds, whole), out_specs=seeds, check_vma=False)(own, common)


def in_order(begin, solve, firsts: range, workers: int) -> Iterator[tuple[int, FlowSolution]]:
    """solve(*begin(first)) for each in order, `workers` at a time.

    They begin while nothing else is under way: two LAPACK batches at once wait for each other's threads in jaxlib.
    """
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    def work(arguments):
        with jax.enable_x64(x64):
            return jax.device_get(solve(*arguments))

    with ThreadPoolExecutor(workers) as pool:
        for k in range(0, len(firsts), workers):
            batch = firsts[k : k + workers]
            ready = jax.block_until_ready([begin(first) for first in batch])
            if k == 0 and len(batch) > 1:
                # Starts that are NaN end at once: this compiles, where all of them would at the same time.
                rows, y0 = ready[0]
                jax.block_until_ready(solve(rows, jax.tree.map(lambda y: y * jnp.nan, y0)))
            yield from zip(batch, pool.map(work, ready), strict=True)


_LAPACK = {
    *("svd", "eigh", "eig", "cholesky", "qr", "lu", "geqrf", "geqp3", "householder_product", "triangular_solve"),
    *("schur", "hessenberg", "tridiagonal", "tridiagonal_solve", "pure_callback", "io_callback", "ffi_call"),
}


def calls_lapack(energy, example, options: Options) -> bool:
    """Whether the energy, its gradient or what is observed decomposes matrices."""
    if options.coordinates == "matrix":
        return True

    def used(x):
        eye = jnp.eye(x.shape[-1], dtype=x.dtype)
        point = SVD(eye, eye[0], eye)
        seen = energy(x) if options.observe is None else options.observe(point)
        return pullback(energy, point), seen

    def primitives(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            inner = [getattr(leaf, "jaxpr", leaf) for leaf in jax.tree.leaves(equation.params)]
            for each in filter(lambda leaf: isinstance(leaf, Jaxpr), inner):
                yield from primitives(each)

    return not _LAPACK.isdisjoint(primitives(jax.make_jaxpr(used)(example[0]).jaxpr))


def as_devices(devices) -> tuple[Any, ...]:
    if devices is None:
        return tuple(jax.local_devices())
    if isinstance(devices, str) or not isinstance(devices, Sequence) or not devices:
        raise TypeError(f"devices must be a list of some of jax.devices(), got {devices!r}.")
    if not all(isinstance(device, jax.Device) for device in devices):
        raise TypeError(f"devices must be a list of some of jax.devices(), got {devices!r}.")
    return tuple(devices)


def worker_count(devices, n: int) -> int:
    """Calls under way at a time. A flow's small products keep one core of a CPU busy, not several."""
    if devices[0].platform != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores // len(devices), n))


def chunk_size(n: int, workers: int, devices, times: int, d: int, observed: bool) -> int:
    """Large enough that lanes are rarely idle, and small enough for the memory, for all workers to have as much."""
    per_seed = 8 * times * (d if observed else 2 * d * d + d)
    most = 256 if devices[0].platform == "cpu" else 2**16
    most = len(devices) * int(max(1, min(most, 2**28 // per_seed)))
    rounds = -(-n // (workers * most))
    return -(-n // (workers * rounds))


def lane_count(device, rows: int, d: int) -> int:
    """Flows in work at a time: on a CPU as many as stay in its cache, elsewhere as many as it takes to fill it."""
    if device.platform == "cpu":
        return min(rows, max(2, min(32, 5000 // d**2)))
    return min(rows, max(256, 2**23 // (d * d)))
