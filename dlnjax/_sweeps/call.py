"""The call of a sweep: its arguments, and what they are when they have been checked."""

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dlnjax._checks import shape_of
from dlnjax._flows.gradient_flow import beside_noise
from dlnjax._flows.noise import with_noise
from dlnjax._flows.problem import as_start, Options, prepare, Problem, shape_of_point
from dlnjax._geometry.kernel import as_kernel, Depths, Kernel
from dlnjax._svd import SVD
from dlnjax._sweeps.fingerprint import identity
from dlnjax._sweeps.plan import make_plan, Plan
from dlnjax._sweeps.run import Run
from dlnjax._sweeps.seeds import Energies, split
from dlnjax._sweeps.starts import Ensemble
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


class Checked(NamedTuple):
    """A call that has been checked. `take` gives the starts of some seeds, and `point` has the shape of one start."""

    n: int
    starts: Any
    take: Callable
    point: SVD
    problem: Problem
    options: Options
    energies: Energies

    def identity(self) -> dict[str, Any]:
        return identity(self.problem, self.options, self.energies, self.starts)

    def plan(self, devices: Any, chunk: int | None) -> Plan:
        how = {"energy": self.energies.first, "devices": devices, "chunk": chunk}
        return make_plan(self.n, self.point, len(self.problem.ts), self.options, **how)

    def run(self, plan: Plan) -> Run:
        first, point = self.energies.first, self.point
        shape = (len(point.u), len(point.v))
        own, shared = traced_energies(
            self.energies.own, self.energies.shared, shape, point.sigma.dtype, len(point.sigma)
        )
        return Run(self.n, self.take, Energies(own, shared, first), self.problem, self.options, plan)


def check_call(call: Call) -> Checked:
    """The call, checked.

    **Raises:** `ValueError` or `TypeError` for bad input.
    """
    beside = beside_noise(call.solver, call.rtol, call.atol, call.coordinates, call.stop)
    energy = with_noise(call.energy, call.noise, **beside)
    n, example, take = _count_and_take(call.starts)
    kernel = _kernels(call.depth, n, jax.tree.leaves(example)[0].dtype)
    options = Options(
        solver=call.solver,
        rtol=call.rtol,
        atol=call.atol,
        coordinates=call.coordinates,
        stop=call.stop,
        observe=call.observe,
        max_steps=call.max_steps,
    )
    problem, options = prepare(energy, example, kernel, call.ts, options, noise=call.noise, many=True)
    point = shape_of_point(example, many=True)
    energies = split(energy, n, (len(point.u), len(point.v)), point.sigma.dtype)
    problem = eqx.tree_at(lambda p: p.energy, problem, energies.first)
    return Checked(n, call.starts, take, point, problem, options, energies)


def _kernels(depth: Depths, n: int, dtype: Any) -> Kernel:
    """One kernel for all starts, or a kernel whose numbers have one entry for each start."""
    kernel = as_kernel(depth, dtype, many="")
    for numbers in jax.tree.leaves(kernel):
        if numbers.shape not in ((), (n,)):
            raise ValueError(f"depth must be one number or one for each of the {n} starts, got shape {numbers.shape}.")
    return kernel


def _count_and_take(starts: Any) -> tuple[int, Any, Callable]:
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
