"""`FlowSolution`, which a flow or a sweep returns."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dlnjax._checks import require_known
from dlnjax._compile import compiled
from dlnjax._flows.length import FEWEST_STATES, path_lengths
from dlnjax._flows.sampling import autocorrelation_times, equal_gap
from dlnjax._geometry.depth import unchanged
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.spectrum import effective_rank_or_nan
from dlnjax._results import result_counts, RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._show import Curves, FLOW_TIME
from dlnjax._svd import SVD

_CONVENTION = "1/N-normalised flow: time here = thesis time * N at finite depth N (2.9), thesis time at infinite depth"


# What `autocorrelation_time` takes.
_SAMPLED = ("energy", "sigma", "effective_rank", "observed")


@compiled
def _matrices(svd: SVD) -> Float[Array, "*seeds ts m n"]:
    return svd.matrix


_LAYOUT = Layout(
    format="dlnjax.FlowSolution/3",
    lead="seed",
    sized="t_end",
    axes={
        "ts": "time",
        "sigma": "time mode",
        "energy": "time",
        "effective_rank": "time",
        "u": "time row mode",
        "v": "time column mode",
        "final_u": "row mode",
        "final_sigma": "mode",
        "final_v": "column mode",
    },
    notes={
        "sigma": "singular values, descending",
        "effective_rank": "exp of the entropy of sigma/sum(sigma), thesis (4.23); 1 to r",
        "energy": "E(X), in the units of the energy given",
        "u": "left singular vectors, X = u diag(sigma) v^T",
        "v": "right singular vectors, X = u diag(sigma) v^T",
        "t_end": "time of the last good state; later times repeat it",
        "depth": "number of layers N of the geometry",
    },
    attrs={"convention": _CONVENTION},
)


class FlowSolution(Solution):
    """A flow, saved at `ts`. One matrix has time first (`ts r`), a sweep has the seed first (`n ts r`).

    For a sweep, `sol[3]` and `sol[2:5]` are the solutions of the seeds 3 and 2 to 4, and `len(sol)` counts the seeds.

    **Attributes:**

    - `ts`: the times, `ts`, in units of the 1/N-normalised flow (see `gradient_flow`).
    - `sigma`: singular values, descending, `[n] ts r`; r is the smaller side of a matrix, or the number of values of a
      thin `SVD`.
    - `svd`: the `SVD` at each time; `x`: the matrices, `[n] ts m n`. Not kept where `observe` was given.
    - `energy`: E(X), `[n] ts`; not kept where `observe` was given.
    - `effective_rank`: (4.23), `[n] ts`.
    - `path_length`: the length of the path up to each time, `[n] ts`.
    - `observed`: what `observe` returned, `[n] ts ...`; None without it.
    - `final`: the last good state, an `SVD`.
    - `t_end`: the time of `final`, `[n]`. At entries of `ts` after `t_end`, all that is saved repeats that state.
    - `result`: a code of `RESULTS` for each seed.
    - `stats`: `steps` and `rejected` count the accepted and the rejected steps of the solver, and `evaluations` counts
      those of the right-hand side (0 for a solver that does not count them), `[n]`.
    - `depth`: the kernel of the geometry, `Balanced(N)` for a number N. Its numbers are `[n]` where the seeds differ.
    - `rtol`, `atol`: the tolerances. `atol` is None where the absolute tolerance followed the start.
    - `energy_name`: the class of the energy, or the name of the function.
    - `beta`, `dt`: the numbers of the `Noise`, or None. With noise there is `autocorrelation_time()`, the tolerances
      are NaN, as there are none, and `stats` has `crossings`, the number of times that the determinant changed its
      sign.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> sol.sigma.shape, sol.x.shape, sol.energy.shape
        ((3, 2), (3, 2, 2), (3,))
        >>> dict(sol.to_xarray().sizes)
        {'time': 3, 'mode': 2, 'row': 2, 'column': 2}
    """

    ts: Float[Array, "... ts"]
    sigma: Float[Array, "*n ts d"]
    final: SVD
    t_end: Float[Array, "*n"]
    result: RESULTS
    stats: dict[str, Int[Array, "*n"]]
    observed: Any
    depth: Kernel
    rtol: Float[Array, "..."]
    atol: Float[Array, "..."] | None
    energy_name: str = eqx.field(static=True)
    _svd: SVD | None
    _energy: Float[Array, "*n ts"] | None
    beta: Float[Array, "..."] | None = None
    dt: Float[Array, "..."] | None = None

    layout: ClassVar[Layout] = _LAYOUT

    def _kept(self, value: Any, name: str):
        if value is None:
            raise AttributeError(
                f"{name} was not saved, because observe was given: see .observed, .sigma and .final, "
                "or return what you need from observe."
            )
        return value

    @property
    def svd(self) -> SVD:
        return self._kept(self._svd, "svd")

    @property
    def x(self) -> Float[Array, "*seeds ts m n"]:
        return _matrices(self.svd)

    @property
    def energy(self) -> Float[Array, "*n ts"]:
        return self._kept(self._energy, "energy")

    @property
    def effective_rank(self) -> Float[Array, "*n ts"]:
        """The effective rank (4.23). It is NaN where a start was NaN, or the state is the zero matrix."""
        return effective_rank_or_nan(self.sigma)

    @property
    def path_length(self) -> Float[Array, "*n ts"]:
        """The length of the path from the start to each of `ts`, `[n] ts`, in the metric g^N with the 1/N of dlnjax:

            length(t) = integral of sqrt(g(dX/dt, dX/dt)) over the times up to t.

        The last entry is the length of the whole path. The thesis's length is this over sqrt(N). Each two saved states
        give a chord, which is exact where they commute. The excess of two chords over the chord across both is used
        twice: by Richardson's extrapolation the length is corrected, and the corrections estimate its error.

        An entry is NaN where this estimate is above 0.5 % of the whole length, and where a single chord is above a
        quarter of the path. The times are then too coarse: save at more times, placed where the states change. Times
        with equal ratios serve a small start, `jnp.append(0, jnp.geomspace(0.01, 100, 200))`.

        **Raises:** `ValueError` for a flow with noise, as the path of a Brownian motion has no finite length, and for
        fewer than 5 times; `AttributeError` where `observe` was given, since no states were saved.

        **Example:** at depth 1 a flow to the nearest minimum is straight, and as long as its ends are far apart.

            >>> energy, x0 = lambda x: jnp.sum((x - jnp.eye(2)) ** 2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
            >>> sol = dln.gradient_flow(energy, x0, depth=1, ts=jnp.linspace(0.0, 10.0, 101))
            >>> print(f"{sol.path_length[-1]:.6f} = {jnp.linalg.norm(x0 - jnp.eye(2)):.6f}")
            1.072381 = 1.072381
        """
        if self.beta is not None:
            raise ValueError("the path of a flow with noise has no length: that of a Brownian motion is infinite.")
        if (times := self.sigma.shape[-2]) < FEWEST_STATES:
            raise ValueError(f"path_length needs at least {FEWEST_STATES} saved times, got {times}: give more ts.")
        return path_lengths(self.svd, unchanged(self.depth, self.sigma.dtype))

    def autocorrelation_time(self, of: str = "energy", after: float = -math.inf) -> Any:
        """The integrated autocorrelation time of a path with noise, in units of `ts`: tau = integral of rho over t > 0.

        rho(t) is the correlation of a value with itself at a time t later, in equilibrium. If rho = exp(-a t), then
        tau = 1/a. The mean over a path of length T is as good as that over T/(2 tau) independent values. Method: the
        self-consistent window of A. Sokal, Monte Carlo methods in statistical mechanics (1997), of 6 times tau.

        **Arguments:** `of`, the values: "energy", "sigma", "effective_rank" or "observed"; `after`, the time before
        which values are left out, as the way into equilibrium is no part of it.

        **Returns:** an array `[n]`, or `[n] r` for sigma, or such arrays as `observed`. It is NaN where the path ended
        early or never moves, and where it is shorter than 50 tau: by then tau is known to about a half. The standard
        error is about sqrt(24 tau/T) tau.

        **Raises:** `ValueError` without noise, for fewer than 26 times, or for times with unequal gaps.

        **Example:** at depth 1 the energy |X|^2/2 makes X an Ornstein-Uhlenbeck process, with rho = exp(-t) for each
        entry and rho = exp(-2t) for the energy.

            >>> sol = dln.gradient_flow(
            ...     lambda x: jnp.sum(x**2) / 2, jnp.eye(2), depth=1, ts=jnp.linspace(0.0, 1000.0, 5001),
            ...     noise=dln.Noise(jax.random.key(0), beta=1.0, dt=0.2),
            ... )
            >>> abs(float(sol.autocorrelation_time(after=5.0)) - 0.5) < 0.15
            True
        """
        require_known("autocorrelation_time", self)
        if self.beta is None:
            raise ValueError("autocorrelation_time is of a path with noise: give noise=dlnjax.Noise to the flow.")
        if of not in _SAMPLED:
            raise ValueError(f"of must be one of {', '.join(_SAMPLED)}, got {of!r}.")
        if of == "observed" and self.observed is None:
            raise ValueError('nothing was observed: give observe to the flow, or take of="sigma".')
        ts = np.asarray(self.ts)
        kept = ts.reshape(-1, ts.shape[-1])[0] >= after
        gap = equal_gap(ts[..., kept])
        whole = np.asarray(self.t_end) >= ts[..., -1]

        def time_of(values: Any) -> Any:
            front = whole.ndim
            rows = np.moveaxis(np.asarray(values, float)[(slice(None),) * front + (kept,)], front, -1)
            times = autocorrelation_times(rows, gap)
            return jnp.asarray(np.where(whole.reshape(whole.shape + (1,) * (times.ndim - front)), times, np.nan))

        return jax.tree.map(time_of, getattr(self, of))

    def _derived(self) -> dict[str, Any]:
        return {"effective_rank": self.effective_rank}

    def _curves(self) -> Curves:
        return Curves.of(self.ts, self.sigma, FLOW_TIME, result=self.result)

    def _describe(self) -> str:
        return _describe(self)


def _size(point: SVD) -> str:
    """The size of a matrix in words, with its rank if the frame is that of a lower rank than the size allows."""
    m, n, r = point.u.shape[-2], point.v.shape[-2], point.sigma.shape[-1]
    shape = f"d = {m}" if m == n else f"{m} x {n}"
    return shape if r == min(m, n) else f"{shape}, rank {r}"


def _describe(sol: FlowSolution) -> str:
    *seeds, times, _ = sol.sigma.shape
    size = _size(sol.final)
    many = bool(seeds)
    if math.prod(seeds) == 0:
        return f"FlowSolution: 0 seeds, {size}, {times} times"
    ts, sigma = np.asarray(sol.ts).reshape(-1, times)[0], np.asarray(sol.sigma)
    rank = np.asarray(sol.effective_rank)
    steps = np.asarray(sol.stats["steps"])

    def change(values: Any, summarise: Callable, how: str):
        first, last = values[..., 0], values[..., -1]
        tail = f"  ({how})" if many else ""
        of = lambda values: summarise(values) if np.any(np.isfinite(values)) else np.nan
        return f"{of(first):.6g} -> {of(last):.6g}{tail}"

    head = f"FlowSolution: {math.prod(seeds)} seeds, " if many else "FlowSolution: "
    lines = [f"{head}{size}, {times} times from {ts[0]:.6g} to {ts[-1]:.6g}"]
    if sol._energy is not None:
        lines.append("  energy          " + change(np.asarray(sol.energy), np.nanmedian, "median"))
    lines.append("  effective rank  " + change(rank, np.nanmean, "mean"))
    lines.append("  largest sigma   " + change(sigma.max(-1), np.nanmedian, "median"))
    if sol.beta is not None and sol.dt is not None:
        beta, dt = (", ".join(f"{x:g}" for x in np.unique(number)) for number in (sol.beta, sol.dt))
        lines.append(f"  noise           beta = {beta}, dt = {dt}")
    if many:
        lines.append(f"  ended           {result_counts(sol.result)}")
        lines.append(f"  steps           {steps.mean():.0f} mean, {steps.max()} max")
    else:
        lines.append(f"  ended           {result_counts(sol.result)} at t = {float(sol.t_end):.6g}, {int(steps)} steps")
    return "\n".join(lines)
