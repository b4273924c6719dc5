"""Sweeps of networks: the `Flow` of the factors, with noise or without."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import as_count
from dlnjax._compile import repeated
from dlnjax._geometry.kernel import Kernel
from dlnjax._networks.chain import as_weights, chain_product, dtype_of, matrix_shape, widths_of
from dlnjax._networks.diffusion import check_diffusion
from dlnjax._networks.flow import as_tolerances, diffused, integrated, NetworkSolution, unit_of
from dlnjax._noise import check_steps, Noise
from dlnjax._protocol import gradient
from dlnjax._results import RESULTS
from dlnjax._solver import as_times
from dlnjax._sweeps.downstairs import seeded_noise
from dlnjax._sweeps.fingerprint import described_energies, described_noise, digest, programs
from dlnjax._sweeps.flow import Chunk, of_times, Program
from dlnjax._sweeps.grid import Grid
from dlnjax._sweeps.plan import divided, Plan, time_count, uses_lapack
from dlnjax._sweeps.seeds import Energies
from dlnjax._sweeps.starts import Ensemble
from dlnjax._traced import traced_energy
from dlnjax._tree import all_finite
from dlnjax._types import Number, Scalar, Weights

# By default the tolerance of `network_flow`.
RTOL = 1e-8


class Networks(eqx.Module):
    """What all networks of a sweep share: the rest of the energy, the times and the options."""

    energy: Callable | PyTree
    ts: Float[Array, " ts"]
    rtol: Scalar
    atol: Scalar | None
    noise: Noise | None
    max_steps: int = eqx.field(static=True)

    def start(self, rows: PyTree) -> PyTree:
        """Nothing, since a flow of factors begins from the factors themselves."""
        return ()

    def solve(self, chunk: Chunk, lanes: int, program: Program) -> PyTree:
        return program(Networks.side_by_side, self, chunk, ())

    def side_by_side(self, chunk: Chunk, state: tuple[()]) -> PyTree:
        """All flows of the chunk take their steps side by side. A chunk without a wanted flow takes none."""
        run = lambda rows: jax.vmap(self._one)(rows)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, chunk.rows))
        return jax.lax.cond(jnp.any(chunk.wanted), run, lambda rows: nothing, chunk.rows)

    def _one(self, row: PyTree) -> PyTree:
        """What is known of one flow when it has ended."""
        own, weights, _, seed = row
        energy = eqx.combine(own, self.energy)
        noise = seeded_noise(self.noise, seed)
        if noise is not None:
            chain = isinstance(weights, tuple)
            stack = jnp.stack(weights) if chain else weights
            sol = diffused(energy, stack, self.ts, noise, chain=chain)
        else:
            sol = self._without_noise(energy, weights)
        return sol.weights, sol.t_end, sol.result, sol.stats

    def _without_noise(self, energy: Callable, weights: Weights) -> NetworkSolution:
        # diffrax would reject steps from NaN until there are `max_steps` of them. The flow of 0 takes few.
        good = all_finite(weights)
        weights = jax.tree.map(lambda w: jnp.where(good, w, 0.0), weights)
        unit, tolerances = unit_of(weights, self.atol), (self.rtol, self.atol)
        sol = integrated(energy, weights, unit, self.ts, tolerances, max_steps=self.max_steps)
        return NetworkSolution(
            ts=sol.ts,
            weights=jax.tree.map(lambda w: jnp.where(good, w, jnp.nan), sol.weights),
            t_end=jnp.where(good, sol.t_end, self.ts[0]),
            result=RESULTS.where(good, sol.result, RESULTS.non_finite),
            stats={"steps": jnp.where(good, sol.stats["steps"], 0)},
        )


class Upstairs(eqx.Module):
    """The flow of the factors. `weights` are one network, of which the shapes alone are used."""

    weights: Weights
    ts: Float[Array, " ts"]
    rtol: Scalar
    atol: Scalar | None
    noise: Noise | None
    max_steps: int

    @classmethod
    def of(
        cls, weights: Weights, ts: Any, rtol: Number | None, atol: Number | None, noise: Noise | None, max_steps: Any
    ) -> "Upstairs":
        """The flow of networks of the shapes of `weights`, with the options checked."""
        dtype, max_steps = dtype_of(weights), as_count("max_steps", max_steps)
        ts = as_times(ts, dtype)
        tolerances = as_tolerances(RTOL if rtol is None else rtol, atol, dtype)
        if noise is not None:
            ts = check_steps(ts, noise.dt, max_steps)
        return cls(weights, ts, *tolerances, noise, max_steps)

    @property
    def kernel(self) -> None:
        return None

    @property
    def shape(self) -> tuple[int, int]:
        return matrix_shape(self.weights)

    @property
    def dtype(self) -> Any:
        return dtype_of(self.weights)

    @property
    def rank(self) -> int:
        return min(self.shape)

    def of_energy(self, energy: Callable) -> "Upstairs":
        return self

    def plan(self, n: int, energy: Callable, devices: Any, chunk: int | None) -> Plan:
        x = jax.ShapeDtypeStruct(self.shape, self.dtype)
        decomposes = uses_lapack(lambda x: (energy(x), gradient(energy, x)), x)
        times, entries = len(self.ts), sum(w.size for w in jax.tree.leaves(self.weights))
        plan = divided(n, max(widths_of(self.weights)), 8 * times * entries, decomposes, devices=devices, chunk=chunk)
        return plan._replace(times=time_count(times, 8 * plan.rows // len(plan.devices) * entries))

    def identity(self, energies: Energies, starts: Any, take: Callable, grid: Grid) -> dict[str, Any]:
        # An `Ensemble` is not drawn as a whole. Its first and its last start depend on the key and on `init`.
        drawn = take(np.array([0, grid.n - 1]) if isinstance(starts, Ensemble) else np.arange(grid.seeds))
        first = jax.tree.map(lambda w: jnp.asarray(w[0]), drawn)
        return {
            "n": grid.n,
            "d": list(widths_of(self.weights)),
            "dtype": str(self.dtype),
            "starts": digest(jax.tree.leaves(drawn)),
            **described_energies(energies, chain_product(first)),
            "depth": ["network", "tuple" if isinstance(self.weights, tuple) else "stack"],
            "ts": digest([self.ts]),
            "rtol": float(self.rtol),
            "atol": None if self.atol is None else float(self.atol),
            "max_steps": self.max_steps,
            "noise": described_noise(self.noise),
            "grid": grid.described(),
            "programs": programs(traced_energy(energies.first, self.shape, self.dtype), starts, grid),
        }

    def common(self, energy: PyTree, times: int) -> Networks:
        return Networks(energy, repeated(self.ts, times), self.rtol, self.atol, self.noise, self.max_steps)

    def solution(self, kernel: Kernel | None, out: PyTree, times: int) -> NetworkSolution:
        weights, t_end, result, stats = out
        ts = repeated(self.ts, times)
        sol = NetworkSolution(ts=ts, weights=weights, t_end=t_end, result=result, stats=stats)
        return eqx.tree_at(lambda s: (s.ts, s.weights), sol, (self.ts, of_times(weights, len(self.ts))))


def are_networks(starts: Any) -> bool:
    """Whether starts, with the seeds in front, are factors: a stack `n N d d`, or a sequence of arrays `n d_p d_{p-1}`.

    A sequence of matrices, or of numbers, is no sequence of factors.
    """
    if isinstance(starts, (list, tuple)):
        return len(starts) > 0 and all(getattr(w, "ndim", 0) == 3 for w in starts)
    return getattr(starts, "ndim", 0) == 4


def as_networks(starts: Any) -> Any:
    """Factors with the seeds in front, as NumPy arrays in the form in which they were given.

    **Raises:** `ValueError` or `TypeError` for what are no factors, or no seeds.
    """
    chain = isinstance(starts, (list, tuple))
    layers = [np.asarray(w) for w in (starts if chain else [starts])]
    if len({len(w) for w in layers}) > 1:
        counts = [len(w) for w in layers]
        raise ValueError(f"starts must have each factor W_p of every seed, n d_p d_(p-1), got {counts} seeds.")
    if len(layers[0]) == 0:
        raise ValueError("starts is empty: a sweep needs at least one.")
    dtype = dtype_of(as_weights([w[0] for w in layers] if chain else layers[0][0]))
    layers = [w.astype(dtype) for w in layers]
    return tuple(layers) if chain else layers[0]


def check_networks(weights: Any, noise: Noise | None, flows: np.ndarray) -> None:
    """An error for a network of the chunk on which noise has no meaning. NaN is none: such a flow ends at once."""
    if noise is None:
        return
    for k, flow in enumerate(flows):
        one = jax.tree.map(lambda w, k=k: jnp.asarray(w[k]), weights)
        if all(bool(np.isfinite(w).all()) for w in jax.tree.leaves(one)):
            try:
                check_diffusion(one, noise)
            except Exception as error:
                raise ValueError(f"seed {int(flow)}: {error}") from error
