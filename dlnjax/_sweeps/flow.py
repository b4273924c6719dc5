"""What can be swept. A `Flow` says how a batch is begun and solved, and what its solution is.

There are two: `Downstairs` in `downstairs.py`, the flow of the matrix X, and `Upstairs` in `upstairs.py`, the flow of
the factors of a network.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable, TYPE_CHECKING

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, PyTree

from dlnjax._geometry.kernel import Kernel
from dlnjax._noise import Noise
from dlnjax._saved import Solution
from dlnjax._sweeps.grid import Grid
from dlnjax._sweeps.plan import Plan
from dlnjax._sweeps.seeds import Energies

if TYPE_CHECKING:
    import xarray


class Chunk(eqx.Module):
    """The flows that one call integrates. `rows` has what is different in each flow: arrays of the energy, the start,
    the kernel, and with noise the number of the seed. `y0` is the state from which each flow begins. `wanted` says
    which flows are to run; it is false for rows that only fill up the chunk.
    """

    rows: PyTree
    y0: PyTree
    wanted: Bool[Array | np.ndarray, " rows"]


@runtime_checkable
class Program(Protocol):
    """How a part of the work on a chunk is compiled and run."""

    def __call__(self, step: Callable[..., PyTree], common: Any, chunk: Chunk, state: PyTree, *static: Any) -> PyTree:
        """step(common, chunk, state, *static). The arrays of `state` have the rows in front, and are used up."""
        ...


@runtime_checkable
class Common(Protocol):
    """What all flows of a sweep share, a tree of arrays, and the code that solves a chunk."""

    def start(self, rows: PyTree) -> PyTree:
        """The states from which the flows of some rows begin."""
        ...

    def solve(self, chunk: Chunk, lanes: int, program: "Program") -> PyTree:
        """What is known of the flows of a chunk when they have ended. Each array has the rows in front."""
        ...


@runtime_checkable
class Flow(Protocol):
    """One kind of flow with its options. `kernel` is None where a flow has none."""

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of X, of which the energy is a function."""
        ...

    @property
    def dtype(self) -> Any: ...

    @property
    def rank(self) -> int:
        """The number of singular values of X."""
        ...

    @property
    def kernel(self) -> Kernel | None: ...

    @property
    def noise(self) -> Noise | None: ...

    def of_energy(self, energy: Callable) -> "Flow":
        """The flow of this energy, of which its solutions have the name."""
        ...

    def plan(self, n: int, energy: Callable, devices: Any, chunk: int | None) -> Plan:
        """How `n` flows are divided."""
        ...

    def identity(self, energies: Energies, starts: Any, take: Callable, grid: Grid) -> dict[str, Any]:
        """What a folder compares of a call, as plain values."""
        ...

    def common(self, energy: PyTree, times: int) -> Common:
        """What the flows share, with the shared arrays of the energy, for a program of so many times."""
        ...

    def solution(self, kernel: Kernel | None, out: PyTree, times: int) -> Solution:
        """The solution of a chunk, from what `Common.solve` returned for a program of so many times."""
        ...


def of_times(saved: PyTree, count: int) -> PyTree:
    """What was saved of each seed at the first `count` times, without what was saved at the repeated times after them.

    They are views by NumPy, since JAX would compile a program for each number of times.
    """
    return jax.tree.map(lambda x: np.asarray(x)[:, :count], saved)


def dataset_of(solution: Solution) -> "xarray.Dataset":
    """The solution of a sweep as a dataset whose first dimension is `seed`."""
    data, lead = solution.to_xarray(), solution.layout.lead
    return data if lead == "seed" else data.rename({lead: "seed"})
