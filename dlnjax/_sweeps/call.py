"""The call of a sweep: its arguments, and what they are when they have been checked."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import numpy as np

from dlnjax._checks import shape_of
from dlnjax._flows.gradient_flow import beside_noise
from dlnjax._flows.problem import as_start, Options, prepare, shape_of_point
from dlnjax._geometry.depth import as_kernel, Depths
from dlnjax._geometry.kernel import Kernel
from dlnjax._networks.chain import as_weights
from dlnjax._noise import with_noise
from dlnjax._svd import SVD
from dlnjax._sweeps.downstairs import Downstairs
from dlnjax._sweeps.flow import Flow
from dlnjax._sweeps.grid import as_grid, energies_of, Family, Grid, taken_by
from dlnjax._sweeps.plan import Plan
from dlnjax._sweeps.run import ByPoint, Run
from dlnjax._sweeps.seeds import Energies, split
from dlnjax._sweeps.starts import Ensemble
from dlnjax._sweeps.upstairs import are_networks, as_networks, check_networks, Upstairs
from dlnjax._traced import traced_energies


class Call(NamedTuple):
    """The arguments of `sweep` that decide its numbers. A worker in another process is sent these and no others."""

    energy: Any
    starts: Any
    depth: Any
    ts: Any
    solver: Any
    rtol: Any
    atol: Any
    coordinates: Any
    stop: Any
    observe: Any
    noise: Any
    max_steps: Any
    grid: Any


class Checked(NamedTuple):
    """A call that has been checked. `take` gives the starts of some flows."""

    grid: Grid
    by_point: ByPoint
    starts: Any
    take: Callable
    flow: Flow
    energies: Energies

    def identity(self) -> dict[str, Any]:
        return self.flow.identity(self.energies, self.starts, self.take, self.grid)

    def require_savable(self) -> None:
        """A `ValueError` if `observe` returns what a folder cannot hold, of which writing would say so at the end."""
        flow = self.flow
        if not isinstance(flow, Downstairs) or flow.options.observe is None:
            return
        seen = jax.eval_shape(flow.options.observe, flow.point)
        leaves = jax.tree.leaves(seen)
        if leaves != [seen]:
            raise ValueError(
                f"a folder holds one array of what observe returns, got {len(leaves)} in a {type(seen).__name__}: "
                "return one, as by jnp.stack, or leave out folder."
            )
        if jax.dtypes.issubdtype(seen.dtype, jax.dtypes.extended) or seen.dtype.kind == "V":
            raise ValueError(
                f"a folder cannot hold the type of what observe returns, {seen.dtype}: convert it, as by "
                ".astype(jnp.float32)."
            )

    def plan(self, devices: Any, chunk: int | None) -> Plan:
        return self.flow.plan(self.grid.n, self.energies.first, devices, chunk)

    def run(self, plan: Plan) -> Run:
        flow, first = self.flow, self.energies.first
        own, shared = traced_energies(self.energies.own, self.energies.shared, flow.shape, flow.dtype, flow.rank)
        return Run(self.grid, self.by_point, self.take, Energies(own, shared, first), flow, plan)


def check_call(call: Call) -> Checked:
    """The call, checked.

    **Raises:** `ValueError` or `TypeError` for bad input.
    """
    family = call.energy if isinstance(call.energy, Family) else None
    energy = with_noise(call.energy, call.noise, **_beside_noise(call))
    grid, example, take, used = _grid_and_take(call.starts, call.grid)
    by_point = ByPoint(family is not None, "depth" in grid.axes)
    if _is_of_networks(example):
        flow, take = _upstairs(call, example), _checked_networks(take, call.noise)
    else:
        flow = _downstairs(call, energy, example, grid)
    if family is None:
        energies = split(energy, grid.seeds, flow.shape, flow.dtype)
    else:
        energies = energies_of(family, grid, flow.shape, flow.dtype)
        used |= {*taken_by("make", family.make, grid, 0)}
    idle = [name for name in grid.axes if name not in used | {"depth"}]
    if idle:
        raise ValueError(f"grid has the axis {', '.join(idle)}, which neither init nor the make of a Family takes.")
    return Checked(grid, by_point, call.starts, take, flow.of_energy(energies.first), energies)


def _beside_noise(call: Call) -> dict[str, Any]:
    """The options that have no meaning beside noise."""
    rtol = 1e-6 if call.rtol is None else call.rtol
    return beside_noise(call.solver, rtol, call.atol, call.coordinates, call.stop)


def _downstairs(call: Call, energy: Any, example: Any, grid: Grid) -> Downstairs:
    depth = _depth(call.depth, grid)
    many = grid.points if "depth" in grid.axes else grid.seeds
    kernel = _kernels(depth, many, jax.tree.leaves(example)[0].dtype)
    options = Options(
        solver=call.solver,
        rtol=1e-6 if call.rtol is None else call.rtol,
        atol=call.atol,
        coordinates=call.coordinates,
        stop=call.stop,
        observe=call.observe,
        max_steps=call.max_steps,
    )
    problem, options = prepare(energy, example, kernel, call.ts, options, noise=call.noise, many=True)
    return Downstairs(problem, options, shape_of_point(example, many=True))


# Why a sweep of networks takes no option of this name.
_NOT_OF_NETWORKS = {
    "depth": "the depth of a network is the number of its factors",
    "solver": "the flow of the factors has one solver, Dopri8",
    "coordinates": "the flow of the factors has one kind of coordinates, their entries",
    "stop": "the flow of the factors has no stop and goes on to the last of ts",
    "observe": "the factors are saved, from which all else can be computed",
}


def _upstairs(call: Call, example: Any) -> Upstairs:
    given = [name for name in ("solver", "stop", "observe") if getattr(call, name) is not None]
    given += ["coordinates"] * (call.coordinates != "svd")
    infinite = not isinstance(call.depth, Kernel) and np.ndim(call.depth) == 0 and call.depth == np.inf
    given += ["depth"] * (not infinite or "depth" in (call.grid or {}))
    if given:
        raise ValueError(f"starts are networks, and {_NOT_OF_NETWORKS[given[0]]}: leave {given[0]} out.")
    one = as_weights(jax.tree.map(lambda w: np.asarray(w)[0], example))
    return Upstairs.of(one, call.ts, call.rtol, call.atol, call.noise, call.max_steps)


def _checked_networks(take: Callable, noise: Any) -> Callable:
    """`take`, and an error for networks on which noise has no meaning."""

    def checked(flows: np.ndarray) -> Any:
        weights = take(flows)
        check_networks(weights, noise, flows)
        return weights

    return checked


def _is_of_networks(example: Any) -> bool:
    return isinstance(example, tuple) or (not isinstance(example, SVD) and example.ndim == 4)


def _depth(depth: Any, grid: Grid) -> Depths:
    """The depth, or those at the points of the grid if it is an axis."""
    if "depth" not in grid.axes:
        return depth
    if isinstance(depth, Kernel) or np.ndim(depth) or not np.isinf(depth):
        raise ValueError("depth is an axis of the grid, and is given as an argument as well. Leave out one of them.")
    if grid.axes["depth"].dtype.kind == "U":
        raise ValueError(f"grid['depth'] must be numbers, got {grid.axes['depth'].tolist()}.")
    return grid.at_points(["depth"])["depth"].astype(float)


def _kernels(depth: Depths, n: int, dtype: Any) -> Kernel:
    """One kernel for all starts, or a kernel whose numbers have one entry for each start."""
    kernel = as_kernel(depth, dtype, many="")
    for numbers in jax.tree.leaves(kernel) if kernel.per_seed else ():
        if numbers.shape not in ((), (n,)):
            raise ValueError(f"depth must be one number or one for each of the {n} starts, got shape {numbers.shape}.")
    return kernel


def _grid_and_take(starts: Any, axes: Any) -> tuple[Grid, Any, Callable, set[str]]:
    """(the grid, one start with the axis of seeds, a callable that gives the starts of some flows, the axes in it)."""
    if not isinstance(starts, Ensemble):
        n, example, take = _count_and_take(starts)
        grid = as_grid(axes, n)
        return grid, example, lambda flows: take(flows % n), set()
    grid = as_grid(axes, starts.n)
    if not grid.axes:
        return grid, _example(shape_of("init", starts.init, starts.key)), starts.take, set()
    names = taken_by("init", starts.init, grid, 1)
    values = grid.at_points(names)
    if any(array.dtype.kind == "U" for array in values.values()):
        raise ValueError("init takes an axis of names, and JAX traces init: only the make of a Family takes names.")
    init = lambda arguments: starts.init(arguments[0], **arguments[1])
    one = {name: array[0] for name, array in values.items()}

    def take(flows: np.ndarray) -> Any:
        points, seeds = np.divmod(flows, starts.n)
        return starts.take(seeds, **{name: array[points] for name, array in values.items()})

    return grid, _example(shape_of("init", init, (starts.key, one))), take, set(names)


def _count_and_take(starts: Any) -> tuple[int, Any, Callable]:
    """(the number of starts, one start with the axis of seeds, a callable that gives the starts of some seeds)."""
    if are_networks(starts):
        networks = as_networks(starts)
        n = len(jax.tree.leaves(networks)[0])
        return n, jax.tree.map(lambda w: w[:1], networks), lambda seeds: jax.tree.map(itemgetter(seeds), networks)
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
    """A start of that shape for the checks, which read no number of it: no start of an `Ensemble` is drawn for them.

    NumPy makes the arrays, since JAX would compile several programs for each.
    """
    if isinstance(shape, SVD):
        eye = lambda q: jax.device_put(np.eye(*q.shape[-2:], dtype=q.dtype)[None])
        return SVD(eye(shape.u), jax.device_put(np.ones((1, *shape.sigma.shape), shape.sigma.dtype)), eye(shape.v))
    zeros = lambda leaf: jax.device_put(np.zeros((1, *leaf.shape), leaf.dtype))
    if isinstance(shape, (list, tuple)) or getattr(shape, "ndim", None) == 3:
        return jax.tree.map(zeros, tuple(shape) if isinstance(shape, list) else shape)
    if getattr(shape, "ndim", None) != 2:
        raise ValueError(
            f"init must return one matrix (m, n), an SVD of it, or the factors of a network, for a key, got {shape}."
        )
    return zeros(shape)
