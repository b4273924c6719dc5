"""How the flows of a sweep are worked off: chunk by chunk, by the workers and devices of the plan."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, PyTree

from dlnjax._compile import compiled
from dlnjax._flows.gradient_flow import solution_of, solve_many, start_many
from dlnjax._flows.problem import Options, Problem
from dlnjax._flows.solution import FlowSolution
from dlnjax._geometry.kernel import Kernel
from dlnjax._sweeps.plan import Plan
from dlnjax._sweeps.seeds import Energies
from dlnjax._types import State


class Chunk(eqx.Module):
    """Some flows. `rows` has what is their own: the arrays of the energy, the start and the kernel; `y0`, the state
    from which each begins; `wanted`, which of them are to run: those that only fill up the chunk are not.
    """

    rows: PyTree
    y0: State
    wanted: Bool[Array | np.ndarray, " rows"]


class Common(eqx.Module):
    """What all flows of a sweep share: the rest of the energy, the times and the options."""

    energy: Callable | PyTree
    ts: Any
    options: Options

    def problem(self, row: PyTree) -> Problem:
        seeded, start, kernel = row
        return Problem(eqx.combine(seeded, self.energy), start, kernel, self.ts)


@compiled
def start_chunk(rows: PyTree, common: Common) -> State:
    """The states from which the flows of a chunk start, with all the decompositions that they need."""
    return start_many(common.problem, rows, common.options)


def _solve_chunk(chunk: Chunk, common: Common, devices: tuple[Any, ...], lanes: int):
    """The trajectories of a chunk. Its rows are shared out to the devices, each of which
    works off its own.
    """

    def solve(own: PyTree, shared: PyTree):
        chunk, common = eqx.combine(own, own_static), eqx.combine(shared, shared_static)
        args = (common.problem, chunk.rows, chunk.y0, common.ts, common.options)
        return solve_many(*args, lanes=lanes, wanted=chunk.wanted)

    own, own_static = eqx.partition(chunk, eqx.is_array)
    shared, shared_static = eqx.partition(common, eqx.is_array)
    mesh, seeds, whole = Mesh(np.asarray(devices), ("seeds",)), PartitionSpec("seeds"), PartitionSpec()
    return jax.shard_map(solve, mesh=mesh, in_specs=(seeds, whole), out_specs=seeds, check_vma=False)(own, shared)


# The products of a flow are too small to be shared between cores, each of which has a chunk of its own.
_ONE_CORE = {"xla_cpu_multi_thread_eigen": False}
solve_quickly_compiled = compiled(_solve_chunk, **_ONE_CORE)
solve_fully_compiled = eqx.filter_jit(_solve_chunk, compiler_options=_ONE_CORE)  # pyright: ignore[reportCallIssue]


class Run(eqx.Module):
    """All flows of one sweep: `take` gives the starts of some seeds, and `problem` and `options` are as in a flow."""

    n: int
    take: Callable
    energies: Energies
    problem: Problem
    options: Options
    plan: Plan

    def parts(self, done: int, running: Callable[[], None]) -> Iterator[FlowSolution]:
        """The solutions of the chunks after the first `done` seeds; `running` is called once all is compiled."""
        firsts = range(done, self.n, self.plan.chunk)
        for first, part in in_order(self._begin, self._solve, firsts, self.plan.workers, running):
            yield part[: min(self.plan.chunk, self.n - first)]

    def _common(self) -> Common:
        return Common(self.energies.shared, self.problem.ts, self.options)

    def _seeds(self, first: int) -> np.ndarray:
        # Every call has the same shape, and with it the same compilation: the last start fills up the last chunk.
        return np.minimum(np.arange(first, first + self.plan.rows), self.n - 1)

    def _kernels(self, seeds: np.ndarray) -> Kernel:
        """The kernels of some seeds, indexed in NumPy, which does not compile for each shape."""
        return jax.tree.map(lambda x: np.broadcast_to(x, (self.n,))[seeds], self.problem.kernel)

    def _begin(self, first: int) -> Chunk:
        seeds = self._seeds(first)
        own = jax.tree.map(itemgetter(seeds), self.energies.own)
        rows = (own, np.asarray(self.take(seeds)), self._kernels(seeds))
        wanted = np.arange(first, first + self.plan.rows) < min(first + self.plan.chunk, self.n)
        return Chunk(rows, start_chunk(rows, self._common()), wanted)

    def _solve(self, first: int, chunk: Chunk) -> FlowSolution:
        common, plan, kernel = self._common(), self.plan, self.problem.kernel
        solve_chunk = solve_quickly_compiled if plan.quick else solve_fully_compiled
        out = solve_chunk(chunk, common, plan.devices, plan.lanes)
        if any(np.ndim(leaf) for leaf in jax.tree.leaves(kernel)):
            kernel = jax.tree.map(jnp.asarray, self._kernels(self._seeds(first)))
        problem = Problem(self.problem.energy, self.problem.start, kernel, self.problem.ts)
        return solution_of(problem, self.options, out)


def in_order(
    begin: Callable[[int], Chunk],
    solve: Callable[[int, Chunk], FlowSolution],
    firsts: range,
    workers: int,
    running: Callable[[], None],
) -> Iterator[tuple[int, FlowSolution]]:
    """solve(first, begin(first)) for each in order, `workers` at a time, in the memory of the host.

    They begin while nothing else runs, since `begin` decomposes matrices: see `calls_lapack`.
    """
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    def work(first: int, chunk: Chunk) -> FlowSolution:
        # The setting belongs to a thread, and a new thread has the one that the process began with.
        with jax.enable_x64(x64):
            return jax.device_get(solve(first, chunk))

    with ThreadPoolExecutor(workers) as pool:
        for k in range(0, len(firsts), workers):
            batch = firsts[k : k + workers]
            ready = jax.block_until_ready([begin(first) for first in batch])
            if k == 0:
                # The program is compiled once, before the workers start: else each of them would compile it. A chunk of
                # which no row is wanted integrates nothing.
                nothing = eqx.tree_at(lambda chunk: chunk.wanted, ready[0], np.zeros_like(ready[0].wanted))
                jax.block_until_ready(solve(batch[0], nothing))
                running()
            yield from zip(batch, pool.map(work, batch, ready), strict=True)
