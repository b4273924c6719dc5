"""The exponential map, which takes a point and a momentum to the geodesic that starts there."""

from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from dlnjax._checks import as_count, as_matrix, require_finite
from dlnjax._compile import compiled, first_times, with_more_times
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geodesics import low_rank
from dlnjax._geodesics.hamiltonian import integrate, Path, velocity
from dlnjax._geodesics.jacobi import jacobians
from dlnjax._geometry.depth import as_kernel, Depth
from dlnjax._geometry.kernel import degree_of, Kernel, scale_exponent
from dlnjax._geometry.metric import full_rank
from dlnjax._geometry.operator import apply_metric_operator, is_square
from dlnjax._geometry.thin import as_thin, Core
from dlnjax._results import code_of, result_counts, RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._scale import scaled
from dlnjax._show import Curves, singular_values_of
from dlnjax._solver import as_times, as_tolerance, warn_of_precision, without_derivative
from dlnjax._svd import SVD
from dlnjax._tree import instantiate, positive, ravel, tangent_at
from dlnjax._types import Matrix, Number, Numbers, Scalar, Square


class ExponentialSolution(Solution):
    """A geodesic, given by its start and its momentum at the start.

    **Attributes:**

    - `ts`: the times; `x` and `momentum`: the states at them, `ts m n`. Entries after `t_end` repeat the last state.
    - `t_end`: the time of the last good state.
    - `hamiltonian_drift`: the relative change of H along the geodesic.
    - `result`: a code of `RESULTS`; `stats`: `steps` of the solver.

    **Example:**

        >>> out = dln.exponential(jnp.eye(2), jnp.diag(jnp.array([1.0, 0.0])), jnp.inf, ts=[0.0, 1.0])
        >>> out.x.shape, bool(out.hamiltonian_drift < 1e-8)
        ((2, 2, 2), True)
    """

    ts: Float[Array, "*n ts"]
    x: Float[Array, "*n ts m n"]
    momentum: Float[Array, "*n ts m n"]
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
        return Curves.of(self.ts, singular_values_of(self.x), r"$t$", result=self.result)

    def _describe(self) -> str:
        shape, codes = self.x.shape, result_counts(self.result)
        size = f"d = {shape[-1]}" if shape[-1] == shape[-2] else f"{shape[-2]} x {shape[-1]}"
        return f"ExponentialSolution({size}, {shape[-3]} times, {codes})"


def orthonormal(x: Square, p: Square, kernel: Kernel) -> Square:
    """The orthonormal momentum W = A_X^{1/2}(P), whose norm is the speed of the geodesic."""
    return apply_metric_operator(x, p, kernel, power=0.5)


def covector(x: Square, w: Square, kernel: Kernel) -> Square:
    """The covector P = A_X^{-1/2}(W) that belongs to the orthonormal momentum W."""
    return apply_metric_operator(x, w, kernel, power=-0.5)


def exponential(
    x: Matrix | SVD,
    p: Matrix,
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

    A thin `SVD` as `x` is a point of the matrices of rank r, and the geodesic stays among them. The part of `p` that
    moves none of these, (I - U U^T) P (I - V V^T), is dropped. At infinite depth the column and the row space of a
    matrix that is not square, or of rank r, never turn: the geodesic is that of the r x r matrices U^T X V.

    **Main arguments:** `x`, `m n` of full rank, or a thin `SVD`; the covector `p`, `m n`; `depth`, N in [1, inf], a
    number or a traced array.

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
    x, p = _as_start(x, p)
    rtol = as_tolerance("rtol", rtol)
    warn_of_precision("x is", p.dtype, rtol)
    rtol = rtol.astype(p.dtype)
    kernel = as_kernel(depth, p.dtype)
    message = "exponential has no derivative in ts: it is the velocity, dlnjax.metric_operator(x, momentum, depth)."
    ts = without_derivative(as_times(ts, p.dtype), message)
    solve = _solve_low_rank if isinstance(x, SVD) or not is_square(x) else _solve
    solution = solve(x, p, kernel, with_more_times(ts, 2 * p.size), rtol, as_count("max_steps", max_steps))
    solution = replace(solution, ts=ts, x=first_times(solution.x, ts), momentum=first_times(solution.momentum, ts))
    return solution.result.error_if(solution, solution.result != RESULTS.successful) if throw else solution


def _as_start(x: Any, p: Any) -> tuple[Matrix | SVD, Matrix]:
    if isinstance(x, SVD):
        point, p = as_thin(x, "p", p)
        dtype = np.result_type(point.sigma.dtype, p.dtype)
        return jax.tree.map(lambda z: z.astype(dtype), (point, p))
    x, p = as_matrix("x", x), as_matrix("p", p)
    if x.shape != p.shape:
        raise ValueError(f"p must be a covector at x, of the shape {x.shape}, got {p.shape}. For many use jax.vmap.")
    dtype = np.result_type(x.dtype, p.dtype)
    x, p = require_finite("x", x.astype(dtype)), require_finite("p", p.astype(dtype))
    return full_rank(x), p


@compiled
def _solve(
    x: Square, p: Square, kernel: Kernel, ts: Float[Array, " ts"], rtol: Scalar, max_steps: int
) -> ExponentialSolution:
    """The geodesic, computed for X scaled to size one and then scaled back.

    The map X -> cX takes geodesics to geodesics, and multiplies P by c^(1-degree).
    """
    k, degree = scale_exponent(x, kernel), degree_of(kernel)
    p = scaled(p, k * (degree - 1))
    out = geodesic_flow(scaled(x, -k), p, kernel, ts, rtol=rtol, max_steps=max_steps)
    moved = scaled(out.x, k), scaled(out.momentum, k * (1 - degree))
    return eqx.tree_at(_states, out, moved)


@compiled
def _solve_low_rank(
    x: Matrix | SVD, p: Matrix, kernel: Kernel, ts: Float[Array, " ts"], rtol: Scalar, max_steps: int
) -> ExponentialSolution:
    """The geodesic in the coordinates of `low_rank.py`, computed for X scaled to size one and then scaled back."""
    q1, s, q2 = Core.of(x).matrices if isinstance(x, SVD) else low_rank.core_of(x)
    k, degree = scale_exponent(s, kernel), degree_of(kernel)
    start = low_rank.State.of((q1, scaled(s, -k), q2), scaled(p, k * (degree - 1)))
    states, out = _low_rank(start, kernel, ts=ts, rtol=rtol, max_steps=max_steps)
    xs, ps = jax.vmap(lambda y: (y.x, y.p))(states)
    return replace(out, x=scaled(xs, k), momentum=scaled(ps, k * (1 - degree)))


@filter_custom_jvp
def _low_rank(
    start: low_rank.State, kernel: Kernel, *, ts: Float[Array, " ts"], rtol: Scalar, max_steps: int
) -> tuple[low_rank.State, ExponentialSolution]:
    """(the states, how the flow ended)."""
    states, drift, path = low_rank.integrate(start, kernel, ts, rtol, max_steps)
    return states, _ended(path, ts, states.s, states.pi, drift)


@_low_rank.def_jvp
def _low_rank_jvp(primals: tuple[Any, Kernel], tangents: tuple[PyTree, PyTree], *, ts, rtol, max_steps):
    """The derivative by Jacobi fields, as for square matrices."""
    states, out = _low_rank(*primals, ts=ts, rtol=rtol, max_steps=max_steps)
    jacobian = low_rank.jacobian(*primals, jnp.minimum(ts, out.t_end), rtol)
    return (states, out), (low_rank.along(jacobian, primals, tangents), jax.tree.map(lambda _: None, out))


def _states(out: ExponentialSolution) -> tuple[Any, Any]:
    return out.x, out.momentum


@filter_custom_jvp
def geodesic_flow(
    x: Square, p: Square, kernel: Kernel, ts: Float[Array, " ts"], *, rtol: Scalar, max_steps: int = 4096
) -> ExponentialSolution:
    """The flow (3.46) in (X, W), and at each time the covector that belongs to W."""
    w = orthonormal(x, p, kernel)
    path = integrate(x, w, kernel, ts, rtol, max_steps=max_steps)
    # The last state in `path` is the state at its end. It takes the place of the states at times that were not reached.
    came = (ts <= path.t_end)[:, None, None]
    xs, ws = jnp.where(came, path.x[:-1], path.x[-1]), jnp.where(came, path.w[:-1], path.w[-1])
    energy, end = jnp.sum(w * w), jnp.sum(path.w[-1] ** 2)
    drift = jnp.where(energy > 0, jnp.abs(end - energy) / positive(energy), 0.0)
    return _ended(path, ts, xs, jax.vmap(partial(covector, kernel=kernel))(xs, ws), drift)


def _ended(path: Path, ts: Float[Array, " ts"], x: Array, momentum: Array, drift: Scalar) -> ExponentialSolution:
    return ExponentialSolution(
        ts=ts,
        x=x,
        momentum=momentum,
        t_end=path.t_end,
        hamiltonian_drift=drift,
        result=code_of(
            (path.lost_rank, RESULTS.rank_lost),
            (path.exhausted, RESULTS.max_steps_reached),
            (~path.finished, RESULTS.diverged),
        ),
        stats={"steps": path.steps},
    )


@geodesic_flow.def_jvp
def _geodesic_flow_jvp(
    primals: tuple[Square, Square, Kernel, Float[Array, " ts"]],
    tangents: tuple[Square | None, Square | None, PyTree, Float[Array, " ts"] | None],
    *,
    rtol: Scalar,
    max_steps: int = 4096,
):
    """The derivative by Jacobi fields, which are here matrices that multiply the tangents.

    This product has a transpose, which the reverse mode needs. A loop of the solver that carried the tangents along
    would have no transpose.
    """
    (x, p, kernel, ts), dts = primals, tangents[3]
    out = geodesic_flow(*primals, rtol=rtol, max_steps=max_steps)
    until = jnp.minimum(ts, out.t_end)
    dx = dp = jnp.zeros_like(out.x)
    if jax.tree.leaves(tangents[:3]):
        moved, _ = ravel(instantiate(tangents[:3], primals[:3]))
        dx, dp = ((j @ moved).reshape(len(ts), *x.shape) for j in jacobians(x, p, kernel, until, rtol))
    if dts is not None:
        by_x, by_p = jax.vmap(partial(velocity, kernel=kernel))(out.x, out.momentum)
        later = jnp.where(ts <= out.t_end, dts, 0.0)[:, None, None]
        dx, dp = dx + later * by_x, dp + later * by_p
    return out, tangent_at(_states, out, (dx, dp))
