"""The exponential map, which takes a point and a momentum to the geodesic that starts there."""

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from dlnjax._checks import as_count, as_positive, as_square, as_times, require_finite, require_full_rank
from dlnjax._compile import compiled, first_times, with_more_times
from dlnjax._geodesics.hamiltonian import integrate
from dlnjax._geodesics.jacobi import jacobians
from dlnjax._geometry.kernel import as_kernel, degree_of, Depth, Kernel, scale_exponent
from dlnjax._geometry.operator import apply_metric_operator
from dlnjax._results import code_of, result_counts, RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._scale import scaled
from dlnjax._show import Curves, singular_values_of
from dlnjax._tree import instantiate, ravel, tangent_at
from dlnjax._types import Number, Numbers, Scalar, Square


class ExponentialSolution(Solution):
    """A geodesic, given by its start and its momentum at the start.

    **Attributes:**

    - `ts`: the times; `x` and `momentum`: the states at them, `ts d d`. Entries after `t_end` repeat the last state.
    - `t_end`: the time of the last good state.
    - `hamiltonian_drift`: the relative change of H along the geodesic.
    - `result`: a code of `RESULTS`; `stats`: `steps` of the solver.

    **Example:**

        >>> out = dln.exponential(jnp.eye(2), jnp.diag(jnp.array([1.0, 0.0])), jnp.inf, ts=[0.0, 1.0])
        >>> out.x.shape, bool(out.hamiltonian_drift < 1e-8)
        ((2, 2, 2), True)
    """

    ts: Float[Array, "*n ts"]
    x: Float[Array, "*n ts d d"]
    momentum: Float[Array, "*n ts d d"]
    t_end: Float[Array, "*n"]
    hamiltonian_drift: Float[Array, "*n"]
    result: RESULTS
    stats: dict[str, Int[Array, "*n"]]

    layout: ClassVar[Layout] = Layout(
        format="dlnjax.ExponentialSolution/1",
        lead="start",
        sized="t_end",
        axes={"ts": "time", "x": "time row column", "momentum": "time row column"},
        notes={
            "x": "the states; after t_end they repeat the last",
            "momentum": "their covectors",
            "t_end": "time of the last good state",
            "hamiltonian_drift": "relative change of H on the way",
        },
    )

    def _curves(self) -> Curves:
        return Curves.of(self.ts, singular_values_of(self.x), r"$t$")

    def _describe(self) -> str:
        shape, codes = self.x.shape, result_counts(self.result)
        return f"ExponentialSolution(d = {shape[-1]}, {shape[-3]} times, {codes})"


def orthonormal(x: Square, p: Square, kernel: Kernel) -> Square:
    """The orthonormal momentum W = A_X^{1/2}(P), whose norm is the speed of the geodesic."""
    return apply_metric_operator(x, p, kernel, power=0.5)


def covector(x: Square, w: Square, kernel: Kernel) -> Square:
    """The covector P = A_X^{-1/2}(W) that belongs to the orthonormal momentum W."""
    return apply_metric_operator(x, w, kernel, power=-0.5)


def exponential(
    x: Square,
    p: Square,
    depth: Depth,
    *,
    ts: Numbers = (0.0, 1.0),
    rtol: Number = 1e-10,
    max_steps: int = 4096,
    throw: bool = True,
) -> ExponentialSolution:
    """The geodesic from `x` with momentum `p`, the Hamiltonian flow (3.46) of the 1/N-normalised operator,

        dX/dt = A_X(P),    dP/dt = -dH/dX,    H(X, P) = 1/2 Tr(P^T A_X(P)),

    integrated in X and A_X^{1/2}(P), whose norm is the constant speed. H, X P^T - P X^T and X^T P - P^T X are
    conserved.
    **Convention:** for the same p, the time of the thesis's unnormalised flow is t / N.

    At finite depth a geodesic may lose rank in finite time: it ends there with the code `rank_lost`. Differentiable,
    forwards and in reverse, in `x`, `p` and `depth`.

    **Main arguments:** `x`, of full rank, and the covector `p`, `d d`; `depth`, N in [1, inf], a number or a traced
    array.

    **Other arguments:** `ts`, increasing times, of which the first is that of `x`; `rtol`, the error of a step relative
    to the norms; `max_steps`; `throw`, raise if the geodesic does not reach the last of `ts`: else see `result`.

    **Returns:** an `ExponentialSolution`; `.x[-1]` is the point reached.

    **Raises:** `ValueError` or `TypeError` for shapes that differ, a singular `x`, NaN, or a depth outside [1, inf]; an
    error with the sentence of the code in `RESULTS` if the geodesic ends early and `throw`.

    **Example:**

        >>> out = dln.exponential(jnp.eye(2), jnp.diag(jnp.array([1.0, 0.0])), jnp.inf)
        >>> jnp.diagonal(out.x[-1]).round(6).tolist()  # e and 1: at infinite depth, scaling is exponential
        [2.718282, 1.0]
    """
    x, p = as_square("x", x), as_square("p", p)
    if x.shape != p.shape:
        raise ValueError(f"p must be a covector at x, of the shape {x.shape}, got {p.shape}. For many use jax.vmap.")
    dtype = np.result_type(x.dtype, p.dtype)
    x, p = x.astype(dtype), p.astype(dtype)
    x, p = require_finite("x", x), require_finite("p", p)
    x = require_full_rank("x", x, "its determinant is 0, and the metric of depth > 1 ends there.")
    rtol = as_positive("rtol", rtol).astype(x.dtype)
    kernel, ts = as_kernel(depth, x.dtype), as_times(ts, x.dtype)
    solution = _solve(x, p, kernel, with_more_times(ts, x.size + p.size), rtol, as_count("max_steps", max_steps))
    solution = replace(solution, ts=ts, x=first_times(solution.x, ts), momentum=first_times(solution.momentum, ts))
    return solution.result.error_if(solution, solution.result != RESULTS.successful) if throw else solution


@compiled
def _solve(
    x: Square, p: Square, kernel: Kernel, ts: Float[Array, " ts"], rtol: Scalar, max_steps: int
) -> ExponentialSolution:
    """The geodesic, computed for X scaled to size one and then scaled back.

    The map X -> cX takes geodesics to geodesics, and multiplies P by c^(1-degree).
    """
    k, degree = scale_exponent(x, kernel), degree_of(kernel)
    p = scaled(p, k * (degree - 1))
    out = _exponential(scaled(x, -k), p, kernel, ts=ts, rtol=rtol, max_steps=max_steps)
    moved = scaled(out.x, k), scaled(out.momentum, k * (1 - degree))
    return eqx.tree_at(_states, out, moved)


def _states(out: ExponentialSolution) -> tuple[Any, Any]:
    return out.x, out.momentum


@eqx.filter_custom_jvp
def _exponential(
    x: Square, p: Square, kernel: Kernel, *, ts: Float[Array, " ts"], rtol: Scalar, max_steps: int
) -> ExponentialSolution:
    """The flow (3.46) in (X, W), and at each time the covector that belongs to W."""
    w = orthonormal(x, p, kernel)
    path = integrate(x, w, kernel, ts, rtol, max_steps=max_steps)
    # The last state in `path` is the state at its end. It takes the place of the states at times that were not reached.
    came = (ts <= path.t_end)[:, None, None]
    xs, ws = jnp.where(came, path.x[:-1], path.x[-1]), jnp.where(came, path.w[:-1], path.w[-1])
    energy, end = jnp.sum(w * w), jnp.sum(path.w[-1] ** 2)
    return ExponentialSolution(
        ts=ts,
        x=xs,
        momentum=jax.vmap(partial(covector, kernel=kernel))(xs, ws),
        t_end=path.t_end,
        hamiltonian_drift=jnp.where(energy > 0, jnp.abs(end - energy) / jnp.where(energy > 0, energy, 1.0), 0.0),
        result=code_of(
            (path.lost_rank, RESULTS.rank_lost),
            (path.exhausted, RESULTS.max_steps_reached),
            (~path.finished, RESULTS.diverged),
        ),
        stats={"steps": path.steps},
    )


@_exponential.def_jvp
def _exponential_jvp(
    primals: tuple[Square, Square, Kernel],
    tangents: tuple[Square | None, Square | None, PyTree],
    *,
    ts: Float[Array, " ts"],
    rtol: Scalar,
    max_steps: int,
):
    """The derivative by Jacobi fields, which are here matrices that multiply the tangents.

    This product has a transpose, which the reverse mode needs. A loop of the solver that carried the tangents along
    would have no transpose.
    """
    x, p, kernel = primals
    out = _exponential(*primals, ts=ts, rtol=rtol, max_steps=max_steps)
    until = jnp.minimum(ts, out.t_end)
    moved, _ = ravel(instantiate(tangents, primals))
    dx, dp = ((j @ moved).reshape(len(ts), *x.shape) for j in jacobians(x, p, kernel, until, rtol))
    return out, tangent_at(_states, out, (dx, dp))
