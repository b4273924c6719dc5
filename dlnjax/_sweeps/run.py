"""The run of a sweep: its flows are integrated chunk by chunk, by the workers and devices of the plan."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from threading import Lock
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from dlnjax._compile import compiled
from dlnjax._geometry.kernel import Kernel
from dlnjax._saved import on_device, Solution
from dlnjax._sweeps.flow import Chunk, Common, Flow
from dlnjax._sweeps.grid import Grid
from dlnjax._sweeps.plan import Plan
from dlnjax._sweeps.seeds import Energies
from dlnjax._sweeps.settings import settings, under
from dlnjax._tree import own_arithmetic


@compiled
def start_chunk(rows: PyTree, common: Common) -> PyTree:
    """The states from which the flows of a chunk start.

    Flows in the frame decompose their matrices here and only here.
    """
    return common.start(rows)


def _solve_chunk(kept: tuple[Callable, Chunk, Common, tuple[Any, ...], tuple[Any, ...]], state: PyTree) -> PyTree:
    """A step of the work on a chunk, (step, chunk, common, devices, static). Each device does an equal share of the
    rows.
    """
    step, chunk, common, devices, static = kept

    def on_device(own: PyTree, shared: PyTree):
        chunk, state = eqx.combine(own, own_static)
        with own_arithmetic():
            return step(eqx.combine(shared, shared_static), chunk, state, *static)

    own, own_static = eqx.partition((chunk, state), eqx.is_array)
    shared, shared_static = eqx.partition(common, eqx.is_array)
    mesh, seeds, whole = Mesh(np.asarray(devices), ("seeds",)), PartitionSpec("seeds"), PartitionSpec()
    return jax.shard_map(on_device, mesh=mesh, in_specs=(seeds, whole), out_specs=seeds, check_vma=False)(own, shared)


# The products of matrices of a flow are too small to be shared between cores. Each core has a chunk of its own.
_ONE_CORE = {"xla_cpu_multi_thread_eigen": False}
# The state is used up, so that the memory holds the saved states once.
_USED_UP = "warn-except-first"
solve_quickly_compiled: Any = compiled(_solve_chunk, donate=_USED_UP, **_ONE_CORE)
solve_fully_compiled = eqx.filter_jit(_solve_chunk, donate=_USED_UP, compiler_options=_ONE_CORE)  # pyright: ignore[reportCallIssue]


class Programs:
    """The programs of one sweep. Each is compiled once, by the first worker that needs it.

    `compiling` is told when a compilation begins, and when it has ended.
    """

    def __init__(self, plan: Plan, compiling: Callable[[bool], None]):
        self.devices, self.run = plan.devices, solve_quickly_compiled if plan.quick else solve_fully_compiled
        self.compiling, self.compiled, self.lock = compiling, set(), Lock()

    def __call__(self, step: Callable[..., PyTree], common: Any, chunk: Chunk, state: PyTree, *static: Any) -> PyTree:
        kept = step, chunk, common, self.devices, static
        with self.lock:
            # A worker that waits here waits for a compilation, but for no run of another worker.
            if (step, static) not in self.compiled:
                self.compiling(True)
                self._compile(kept, state)
                self.compiled.add((step, static))
                self.compiling(False)
        return self.run(kept, state)

    def _compile(self, kept: PyTree, state: PyTree) -> Any:
        with warnings.catch_warnings():
            # Not all of the state has a place in what the last program returns. JAX says so when it compiles. Workers
            # that run at once must not change the filters of warnings, since some changes would then stay.
            warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
            return self.run.lower(kept, state).compile()


class ByPoint(NamedTuple):
    """Whether the numbers of the energies, and those of the kernel, belong to the points of the grid. They belong to
    the seeds otherwise."""

    energies: bool
    kernel: bool


class Run(eqx.Module):
    """All flows of one sweep. `take` gives the starts of some flows, and `flow` says how they are solved."""

    grid: Grid
    by_point: ByPoint
    take: Callable
    energies: Energies
    flow: Flow
    plan: Plan

    @property
    def n(self) -> int:
        return self.grid.n

    def chunks(
        self, parts: Mapping[int, int], compiling: Callable[[bool], None] = lambda now: None
    ) -> Iterator[Solution]:
        """The solutions of the chunks of some parts: the number of seeds of each, by its first seed.

        Their arrays are of NumPy, so that nothing is compiled to cut or to join them. `compiling` is told when
        a program begins to be compiled, and when it has been.
        """
        counts = self.plan.chunks(parts)
        programs = Programs(self.plan, compiling)
        begin = lambda first: self._begin(first, counts[first])
        solve = lambda first, chunk: self._solve(first, chunk, programs)
        for first, chunk in in_order(begin, solve, list(counts), self.plan.workers):
            yield chunk.first_seeds(counts[first])

    def blank(self) -> Solution:
        """The solution of a chunk with zeros in place of its numbers. It is found by tracing, and nothing is compiled
        for it."""
        rows, common, plan = self._rows(self._seeds(0)), self._common(), self.plan
        y0 = eqx.filter_eval_shape(start_chunk, rows, common)

        def program(step: Callable[..., PyTree], common: Any, chunk: Chunk, state: PyTree, *static: Any) -> PyTree:
            shapes = lambda chunk, common, state: _solve_chunk((step, chunk, common, plan.devices, static), state)
            return eqx.filter_eval_shape(shapes, chunk, common, state)

        out = common.solve(Chunk(rows, y0, np.ones(plan.rows, bool)), plan.lanes, program)
        zeros = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), out)
        return on_device(self._solution(0, zeros))

    def _common(self) -> Common:
        return self.flow.common(self.energies.shared, self.plan.times)

    def _seeds(self, first: int) -> np.ndarray:
        # The last start is repeated to fill up the last chunk. Every call then has the same shape, and nothing is
        # compiled again.
        return np.minimum(np.arange(first, first + self.plan.rows), self.n - 1)

    def _kernels(self, flows: np.ndarray) -> Kernel | None:
        """The kernels of some flows, if each has its own numbers. NumPy picks them, as JAX would compile a program for
        each shape."""
        if self.flow.kernel is None or not self.flow.kernel.per_seed:
            return None
        points, seeds = np.divmod(flows, self.grid.seeds)
        index, rows = (points, self.grid.points) if self.by_point.kernel else (seeds, self.grid.seeds)
        return jax.tree.map(lambda x: np.broadcast_to(x, (rows,))[index], self.flow.kernel)

    def _rows(self, flows: np.ndarray) -> PyTree:
        points, seeds = np.divmod(flows, self.grid.seeds)
        own = jax.tree.map(itemgetter(points if self.by_point.energies else seeds), self.energies.own)
        number = None if self.flow.noise is None else seeds.astype(np.uint32)
        return own, jax.tree.map(np.asarray, self.take(flows)), self._kernels(flows), number

    def _begin(self, first: int, count: int) -> Chunk:
        rows = self._rows(self._seeds(first))
        wanted = np.arange(self.plan.rows) < count
        return Chunk(rows, start_chunk(rows, self._common()), wanted)

    def _solve(self, first: int, chunk: Chunk, programs: Programs) -> Solution:
        return self._solution(first, self._common().solve(chunk, self.plan.lanes, programs))

    def _solution(self, first: int, out: Any) -> Solution:
        kernel = self.flow.kernel
        if kernel is not None and kernel.per_seed and any(map(np.ndim, jax.tree.leaves(kernel))):
            kernel = jax.tree.map(jax.device_put, self._kernels(self._seeds(first)))
        return self.flow.solution(kernel, out, self.plan.times)


def in_order(
    begin: Callable[[int], Chunk], solve: Callable[[int, Chunk], Solution], firsts: Sequence[int], workers: int
) -> Iterator[tuple[int, Solution]]:
    """(first, solve(first, begin(first))) for each of `firsts`, in their order, `workers` at a time.

    The results lie in the memory of the host. `begin` draws starts, and is called while nothing else runs, since a law
    may decompose matrices: see `calls_lapack`.
    """
    ours = settings()

    def work(first: int, chunk: Chunk) -> Solution:
        with under(ours):
            return jax.device_get(solve(first, chunk))

    with ThreadPoolExecutor(workers) as pool:
        for k in range(0, len(firsts), workers):
            batch = firsts[k : k + workers]
            ready = jax.block_until_ready([begin(first) for first in batch])
            yield from zip(batch, pool.map(work, batch, ready), strict=True)
