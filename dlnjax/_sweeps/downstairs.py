"""Sweeps of gradient flows: the `Flow` of the matrix X, with noise or without."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Int, PyTree

from dlnjax._compile import repeated
from dlnjax._flows.gradient_flow import solution_of, start_many
from dlnjax._flows.paths import paths
from dlnjax._flows.problem import Options, Problem
from dlnjax._flows.solution import FlowSolution
from dlnjax._flows.trajectory import Flows, next_turn, of_own_type, Trajectory
from dlnjax._geometry.kernel import Kernel
from dlnjax._noise import Noise
from dlnjax._svd import SVD
from dlnjax._sweeps.fingerprint import identity
from dlnjax._sweeps.flow import Chunk, of_times, Program
from dlnjax._sweeps.grid import Grid
from dlnjax._sweeps.plan import make_plan, Plan
from dlnjax._sweeps.seeds import Energies
from dlnjax._types import State


class Matrices(eqx.Module):
    """What all flows of a sweep share: the rest of the energy, the times and the options.

    `kernel` is None where it has numbers of each seed.

    `count` is the number of times that are asked for. After them the last is repeated, so that sweeps with a few times
    more or less share the compiled program.
    """

    energy: Callable | PyTree
    kernel: Kernel | None
    ts: Any
    count: Int[Array, ""]
    options: Options
    noise: Noise | None

    def problem(self, row: PyTree) -> Problem:
        """The problem of one flow."""
        seeded, start, kernel, seed = row
        kernel: Any = self.kernel if kernel is None else kernel
        noise = seeded_noise(self.noise, seed)
        return Problem(eqx.combine(seeded, self.energy), start, kernel, self.ts, noise)

    def start(self, rows: PyTree) -> State:
        return start_many(self.problem, rows, self.options)

    def solve(self, chunk: Chunk, lanes: int, program: Program) -> Trajectory:
        """Each turn of a method is a program of its own. A method that no flow needs is then not compiled."""
        if self.noise is not None:
            return program(_walk, self, chunk, ())
        state = program(_begin, self, chunk, ())
        while (number := next_turn(state[0])) is not None:
            state = program(_turn, self, chunk, state, number, lanes)
        return program(_conclude, self, chunk, state)

    def flows(self, chunk: Chunk) -> Flows:
        return Flows(self.problem, chunk.rows, chunk.y0, self.ts, self.options)


def _walk(common: Matrices, chunk: Chunk, state: tuple[()]) -> Trajectory:
    """The paths of a chunk, with noise."""
    wanted: Any = chunk.wanted
    return paths(common.problem, (chunk.rows, chunk.y0), common.ts, common.options, wanted=wanted)


def _begin(common: Matrices, chunk: Chunk, state: tuple[()]) -> PyTree:
    """The flows of a chunk before their first step, and empty buffers."""
    wanted: Any = chunk.wanted
    return of_own_type(common.flows(chunk).begin(wanted))


def _turn(common: Matrices, chunk: Chunk, state: PyTree, number: int, lanes: int) -> PyTree:
    """The flows after the turn of the method with this number, and the buffers."""
    return of_own_type(common.flows(chunk).turns[number](*state, lanes=lanes))


def _conclude(common: Matrices, chunk: Chunk, state: PyTree) -> Trajectory:
    return common.flows(chunk).conclude(state, common.count)


def seeded_noise(noise: Noise | None, seed: Any) -> Noise | None:
    """The noise of one seed, whose key is fold_in(key, seed)."""
    if noise is None:
        return None
    return eqx.tree_at(lambda n: n.key, noise, jax.random.fold_in(noise.key, seed))


class Downstairs(eqx.Module):
    """The flow of X. `point` has the shapes of one start; `problem` and `options` are as for one flow."""

    problem: Problem
    options: Options
    point: SVD

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.point.u), len(self.point.v)

    @property
    def dtype(self) -> Any:
        return self.point.sigma.dtype

    @property
    def rank(self) -> int:
        return len(self.point.sigma)

    @property
    def kernel(self) -> Kernel:
        return self.problem.kernel

    @property
    def noise(self) -> Noise | None:
        return self.problem.noise

    def of_energy(self, energy: Callable) -> "Downstairs":
        return eqx.tree_at(lambda flow: flow.problem.energy, self, energy)

    def plan(self, n: int, energy: Callable, devices: Any, chunk: int | None) -> Plan:
        how = {"energy": energy, "devices": devices, "chunk": chunk}
        return make_plan(n, self.point, len(self.problem.ts), self.options, **how)

    def identity(self, energies: Energies, starts: Any, take: Callable, grid: Grid) -> dict[str, Any]:
        return identity(self.problem, self.options, energies, starts, take, grid)

    def common(self, energy: PyTree, times: int) -> Matrices:
        ts, count = self.problem.ts, jax.device_put(np.asarray(len(self.problem.ts)))
        shared = None if self.kernel.per_seed else self.kernel
        return Matrices(energy, shared, repeated(ts, times), count, self.options, self.problem.noise)

    def solution(self, kernel: Kernel | None, out: PyTree, times: int) -> FlowSolution:
        """The solution without what stands at repeated times."""
        ts, length = self.problem.ts, len(self.problem.ts)
        problem = eqx.tree_at(lambda p: (p.kernel, p.ts), self.problem, (kernel, repeated(ts, times)))
        sol = solution_of(problem, self.options, out)
        if length == times:
            return sol
        saved = lambda sol: (sol._svd, sol.sigma, sol._energy, sol.observed)
        cut = of_times(saved(sol), length)
        return eqx.tree_at(lambda sol: (*saved(sol), sol.ts), sol, (*cut, ts), is_leaf=lambda leaf: leaf is None)
