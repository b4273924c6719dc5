"""What a flow is asked: the problem and the options, checked at the door."""

import warnings
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dlnjax._checks import (
    as_count,
    as_float,
    as_positive,
    as_square,
    as_times,
    check_energy,
    is_concrete,
    require,
    shape_of,
)
from dlnjax._geometry.kernel import as_kernel, Kernel
from dlnjax._svd import SVD, svd
from dlnjax._types import Number


class Steady(eqx.Module):
    """A stop: the flow is at rest once |dE(X)|_F <= `gradient`. Later `ts` repeat that state; `t_end` says when.

    **Raises:** `ValueError` if gradient <= 0.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 1e9], stop=dln.Steady(1e-6))
        >>> bool(sol.result == dln.RESULTS.steady), bool(sol.t_end < 20)
        (True, True)
    """

    gradient: Float[Array, ""]

    def __init__(self, gradient: Number = 1e-6):
        self.gradient = as_positive("gradient", gradient, "It is the Frobenius norm of dE below which a flow rests.")


class Problem(eqx.Module):
    """What a flow is differentiable in."""

    energy: Callable
    start: SVD | Float[Array, "*starts d d"]
    kernel: Kernel
    ts: Float[Array, " ts"]


class Options(eqx.Module):
    """How it is solved: never differentiated."""

    rtol: Float[Array, ""]
    atol: Float[Array, ""]
    steady: Float[Array, ""] | None
    max_steps: Int[Array, ""]
    solver: diffrax.AbstractSolver[Any] | None
    coordinates: str = eqx.field(static=True)
    observe: Callable[[SVD], Any] | None


def prepare(
    energy, x0, depth, ts, solver, rtol, atol, coordinates, stop, observe, max_steps, many=False
) -> tuple[Problem, Options]:
    """Check what the user gave, and make arrays of all numbers, so that no value is ever a reason to compile again."""
    if coordinates not in ("svd", "matrix"):
        raise ValueError(f'coordinates must be "svd" or "matrix", got {coordinates!r}.')
    if solver is not None and not isinstance(solver, diffrax.AbstractSolver):
        raise TypeError(f"solver must be None or a diffrax solver such as diffrax.Dopri5(), got {solver!r}.")
    if solver is not None and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            f"solver must estimate its error, which {type(solver).__name__} does not: try diffrax.Dopri5()."
        )
    if stop is not None and not isinstance(stop, Steady):
        raise TypeError(f"stop must be dlnjax.Steady(...) or None, got {stop!r}.")
    max_steps = as_count("max_steps", max_steps)
    start, ts = _as_start(x0, many), as_times(ts)
    rtol = as_positive("rtol", rtol, "Use 1e-3 for a sketch, 1e-6 by default, 1e-10 to check a formula.")
    atol = as_positive("atol", atol)
    some = start.sigma if isinstance(start, SVD) else start
    d, dtype = some.shape[-1], some.dtype
    if dtype == jnp.float32 and is_concrete(rtol) and float(rtol) < 5e-6:
        warnings.warn(
            f"x0 is float32, which cannot keep rtol={float(rtol):g}. Enable float64 before the first array is made, "
            'jax.config.update("jax_enable_x64", True), or pass rtol=1e-5.',
            stacklevel=3,
        )
    if observe is not None:
        shape_of("observe", observe, jax.eval_shape(svd, jax.ShapeDtypeStruct((d, d), dtype)))
    kernel = as_kernel(depth, dtype, many="" if many else "dlnjax.sweep or jax.vmap")
    problem = Problem(energy, start, kernel, ts.astype(dtype))
    options = Options(
        rtol=rtol.astype(dtype),
        atol=atol.astype(dtype),
        steady=None if stop is None else stop.gradient.astype(dtype),
        max_steps=jnp.asarray(max_steps),
        solver=solver,
        coordinates=coordinates,
        observe=observe,
    )
    if not many:
        check_energy(energy, d, dtype)
        _check_rank(start, kernel, coordinates)
    return problem, options


def _as_start(x0, many):
    if not isinstance(x0, SVD):
        x0 = as_square("x0", x0, leading=many)
        bad = jnp.asarray(False) if many else ~jnp.all(jnp.isfinite(x0))
        return require(x0, bad, "x0 must be finite, got NaN or infinity.")
    u, v, sigma = as_square("x0.u", x0.u, many), as_square("x0.v", x0.v, many), as_float("x0.sigma", x0.sigma)
    if u.shape != v.shape or sigma.shape != u.shape[:-1]:
        raise ValueError(f"x0 must be an SVD of one square matrix, got shapes {u.shape}, {sigma.shape}, {v.shape}.")
    eye, t = jnp.eye(u.shape[-1]), lambda a: jnp.swapaxes(a, -1, -2)
    defect = jnp.maximum(jnp.max(jnp.abs(t(u) @ u - eye)), jnp.max(jnp.abs(t(v) @ v - eye)))
    bad = ~(jnp.all(jnp.isfinite(sigma)) & (defect < 1e3 * jnp.finfo(u.dtype).eps ** 0.75))
    return SVD(
        require(u, bad, "x0 must be finite with orthogonal u and v. Pass the matrix itself, or dlnjax.svd(x)."),
        sigma,
        v,
    )


def _check_rank(start, kernel: Kernel, coordinates):
    if not all(map(is_concrete, jax.tree.leaves((start, kernel)))):
        return
    sigma = np.abs(start.sigma) if isinstance(start, SVD) else np.linalg.svd(np.asarray(start), compute_uv=False)
    rank, d = int(np.sum(sigma > rounding(sigma) * sigma.max())), sigma.shape[-1]
    if rank == d:
        return
    crosses = bool(jnp.asarray(kernel.order) <= 0)
    if rank == 0 and not crosses:
        raise ValueError("x0 is the zero matrix, where the flow of depth > 1 rests for ever. Start nearby instead.")
    if crosses and coordinates == "svd":
        raise ValueError(f'x0 has rank {rank} < d = {d}, and depth 1 leaves that rank: pass coordinates="matrix".')
    if not crosses and coordinates == "matrix":
        raise ValueError(
            f"x0 has rank {rank} < d = {d}: the flow in X cannot tell zero from rounding and would leave the "
            f'rank-{rank} matrices. Pass coordinates="svd", which stays there, or a start of full rank.'
        )


def rounding(sigma):
    return sigma.shape[-1] * np.finfo(sigma.dtype).eps
