"""The run of a sweep: its flows are integrated chunk by chunk, by the workers and devices of the plan."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int, PyTree

from dlnjax._compile import compiled, repeated
from dlnjax._flows.gradient_flow import solution_of, solve_many, start_many
from dlnjax._flows.problem import Options, Problem
from dlnjax._flows.solution import FlowSolution
from dlnjax._geometry.kernel import Kernel
from dlnjax._noise import Noise
from dlnjax._sweeps.grid import Grid
from dlnjax._sweeps.plan import Plan
from dlnjax._sweeps.seeds import Energies
from dlnjax._types import State


class Chunk(eqx.Module):
    """The flows that one call integrates. `rows` has what is different in each flow: arrays of the energy, the start,
    the kernel, and with noise the number of the seed. `y0` is the state from which each flow begins. `wanted` says
    which flows are to run; it is false for rows that only fill up the chunk.
    """

    rows: PyTree
    y0: State
    wanted: Bool[Array | np.ndarray, " rows"]


class Common(eqx.Module):
    """What all flows of a sweep share: the rest of the energy, the times and the options.

    `count` is the number of times that are asked for. After them the last is repeated, so that sweeps with a few times
    more or less share the compiled program.
    """

    energy: Callable | PyTree
    ts: Any
    count: Int[Array, ""]
    options: Options
    noise: Noise | None

    def problem(self, row: PyTree) -> Problem:
        seeded, start, kernel, seed = row
        noise = self.noise
        if noise is not None:
            noise = eqx.tree_at(lambda n: n.key, noise, jax.random.fold_in(noise.key, seed))
        return Problem(eqx.combine(seeded, self.energy), start, kernel, self.ts, noise)


@compiled
def start_chunk(rows: PyTree, common: Common) -> State:
    """The states from which the flows of a chunk start.

    Flows in the frame decompose their matrices here and only here.
    """
    return start_many(common.problem, rows, common.options)


def _solve_chunk(chunk: Chunk, common: Common, devices: tuple[Any, ...], lanes: int):
    """The trajectories of a chunk. Each device integrates an equal share of the rows."""

    def solve(own: PyTree, shared: PyTree):
        chunk, common = eqx.combine(own, own_static), eqx.combine(shared, shared_static)
        args = (common.problem, chunk.rows, chunk.y0, common.ts, common.options)
        return solve_many(*args, lanes=lanes, wanted=chunk.wanted, count=common.count)

    own, own_static = eqx.partition(chunk, eqx.is_array)
    shared, shared_static = eqx.partition(common, eqx.is_array)
    mesh, seeds, whole = Mesh(np.asarray(devices), ("seeds",)), PartitionSpec("seeds"), PartitionSpec()
    return jax.shard_map(solve, mesh=mesh, in_specs=(seeds, whole), out_specs=seeds, check_vma=False)(own, shared)


# The products of matrices of a flow are too small to be shared between cores. Each core has a chunk of its own.
_ONE_CORE = {"xla_cpu_multi_thread_eigen": False}
solve_quickly_compiled = compiled(_solve_chunk, **_ONE_CORE)
solve_fully_compiled = eqx.filter_jit(_solve_chunk, compiler_options=_ONE_CORE)  # pyright: ignore[reportCallIssue]


class ByPoint(NamedTuple):
    """Whether the numbers of the energies, and those of the kernel, belong to the points of the grid. They belong to
    the seeds otherwise."""

    energies: bool
    kernel: bool


class Run(eqx.Module):
    """All flows of one sweep. `take` gives the starts of some flows; `problem` and `options` are as for one flow."""

    grid: Grid
    by_point: ByPoint
    take: Callable
    energies: Energies
    problem: Problem
    options: Options
    plan: Plan

    @property
    def n(self) -> int:
        return self.grid.n

    def chunks(self, parts: Mapping[int, int], running: Callable[[], None] | None) -> Iterator[FlowSolution]:
        """The solutions of the chunks of some parts: the number of seeds of each, by its first seed.

        `running` is called when all is compiled. Without it the program is compiled by the first chunk.
        """
        counts = self.plan.chunks(parts)
        begin = lambda first: self._begin(first, counts[first])
        for first, chunk in in_order(begin, self._solve, list(counts), self.plan.workers, running):
            yield chunk[: counts[first]]

    def blank(self) -> FlowSolution:
        """The solution of a chunk with zeros in place of its numbers. It is found by tracing, and nothing is compiled
        for it."""
        rows, common, plan = self._rows(self._seeds(0)), self._common(), self.plan
        y0 = eqx.filter_eval_shape(start_chunk, rows, common)
        solve = lambda chunk, common: _solve_chunk(chunk, common, plan.devices, plan.lanes)
        out = eqx.filter_eval_shape(solve, Chunk(rows, y0, np.ones(plan.rows, bool)), common)
        return self._solution(0, jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), out))

    def _common(self) -> Common:
        ts, count = self.problem.ts, jax.device_put(np.asarray(len(self.problem.ts)))
        return Common(self.energies.shared, repeated(ts, self.plan.times), count, self.options, self.problem.noise)

    def _seeds(self, first: int) -> np.ndarray:
        # The last start is repeated to fill up the last chunk. Every call then has the same shape, and nothing is
        # compiled again.
        return np.minimum(np.arange(first, first + self.plan.rows), self.n - 1)

    def _kernels(self, flows: np.ndarray) -> Kernel:
        """The kernels of some flows. NumPy picks them, as JAX would compile a program for each shape."""
        points, seeds = np.divmod(flows, self.grid.seeds)
        index, rows = (points, self.grid.points) if self.by_point.kernel else (seeds, self.grid.seeds)
        return jax.tree.map(lambda x: np.broadcast_to(x, (rows,))[index], self.problem.kernel)

    def _rows(self, flows: np.ndarray) -> PyTree:
        points, seeds = np.divmod(flows, self.grid.seeds)
        own = jax.tree.map(itemgetter(points if self.by_point.energies else seeds), self.energies.own)
        number = None if self.problem.noise is None else seeds.astype(np.uint32)
        return own, jax.tree.map(np.asarray, self.take(flows)), self._kernels(flows), number

    def _begin(self, first: int, count: int) -> Chunk:
        rows = self._rows(self._seeds(first))
        wanted = np.arange(self.plan.rows) < count
        return Chunk(rows, start_chunk(rows, self._common()), wanted)

    def _solve(self, first: int, chunk: Chunk) -> FlowSolution:
        plan = self.plan
        solve_chunk = solve_quickly_compiled if plan.quick else solve_fully_compiled
        return self._solution(first, solve_chunk(chunk, self._common(), plan.devices, plan.lanes))

    def _solution(self, first: int, out: Any) -> FlowSolution:
        kernel = self.problem.kernel
        if any(np.ndim(leaf) for leaf in jax.tree.leaves(kernel)):
            kernel = jax.tree.map(jnp.asarray, self._kernels(self._seeds(first)))
        problem = eqx.tree_at(lambda p: (p.kernel, p.ts), self.problem, (kernel, self._common().ts))
        return self._asked_for(solution_of(problem, self.options, out))

    def _asked_for(self, sol: FlowSolution) -> FlowSolution:
        """The solution without what stands at repeated times. NumPy cuts it, since JAX would compile for that."""
        ts, length = self.problem.ts, len(self.problem.ts)
        if length == self.plan.times:
            return sol
        saved = lambda sol: (sol._svd, sol.sigma, sol._energy, sol.observed)
        cut = jax.tree.map(lambda x: np.asarray(x)[:, :length], saved(sol))
        return eqx.tree_at(lambda sol: (*saved(sol), sol.ts), sol, (*cut, ts), is_leaf=lambda leaf: leaf is None)


def in_order(
    begin: Callable[[int], Chunk],
    solve: Callable[[int, Chunk], FlowSolution],
    firsts: Sequence[int],
    workers: int,
    running: Callable[[], None] | None,
) -> Iterator[tuple[int, FlowSolution]]:
    """(first, solve(first, begin(first))) for each of `firsts`, in their order, `workers` at a time.

    The results lie in the memory of the host. `begin` decomposes matrices, so it is called while nothing else runs: see
    `calls_lapack`.
    """
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    def work(first: int, chunk: Chunk) -> FlowSolution:
        # Each thread has its own setting of `jax_enable_x64`. A new thread starts with the setting of the process.
        with jax.enable_x64(x64):
            return jax.device_get(solve(first, chunk))

    with ThreadPoolExecutor(workers) as pool:
        for k in range(0, len(firsts), workers):
            batch = firsts[k : k + workers]
            ready = jax.block_until_ready([begin(first) for first in batch])
            if k == 0 and running is not None:
                # This call compiles the program before the workers start, since otherwise each worker would compile it.
                # No row is wanted here, so that nothing is integrated.
                nothing = eqx.tree_at(lambda chunk: chunk.wanted, ready[0], np.zeros_like(ready[0].wanted))
                jax.block_until_ready(solve(batch[0], nothing))
                running()
            yield from zip(batch, pool.map(work, batch, ready), strict=True)
