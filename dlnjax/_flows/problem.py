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
    as_array,
    as_count,
    as_float,
    as_matrix,
    as_positive,
    as_real,
    as_times,
    check_energy,
    is_concrete,
    known,
    require,
    require_finite,
    require_normal,
    shape_of,
)
from dlnjax._geometry.kernel import as_kernel, Kernel
from dlnjax._protocol import at_start
from dlnjax._scale import ATOL_SHARE
from dlnjax._svd import SVD, svd
from dlnjax._traced import Traced, traced_energy
from dlnjax._types import Number


class Steady(eqx.Module):
    """A stop: the flow is at rest once |dE(X)|_F <= `gradient`. Later `ts` repeat that state; `t_end` says when.

    With a stop, the error of each step is also held to a hundredth of the way that the step goes, since near rest the
    tolerance alone would be larger than what is left of the way. `t_end` is the end of the first step after which the
    flow is at rest: at the default tolerance some percent later than the time at which |dE| crosses `gradient`.

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
    start: SVD | Float[Array, "*starts m n"]
    kernel: Kernel
    ts: Float[Array, " ts"]

    @property
    def x0(self) -> Float[Array, "*starts m n"]:
        """The start as a matrix."""
        return self.start.matrix if isinstance(self.start, SVD) else self.start


class Options(eqx.Module):
    """How it is solved; never differentiated. Made of what the user gave, it refuses what is wrong.

    All numbers are arrays, so that no value of one is a reason to compile again.
    """

    rtol: Float[Array, ""]
    # The absolute tolerance is the sum of `share` times `rtol` times the size at the start, and `fixed`. One of the two
    # is 0, so that one program serves both.
    share: Float[Array, ""]
    fixed: Float[Array, ""]
    steady: Float[Array, ""] | None
    max_steps: Int[Array, ""]
    solver: diffrax.AbstractSolver[Any] | None
    coordinates: str = eqx.field(static=True)
    observe: Callable[[SVD], Any] | None

    def __init__(
        self,
        *,
        solver: Any = None,
        rtol: Any = 1e-6,
        atol: Any = None,
        coordinates: Any = "svd",
        stop: Any = None,
        observe: Any = None,
        max_steps: Any = 100_000,
    ):
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
        self.rtol = as_positive("rtol", rtol, "Use 1e-3 for a sketch, 1e-6 by default, 1e-10 to check a formula.")
        self.share = as_real("share", ATOL_SHARE if atol is None else 0.0)
        self.fixed = as_real("atol", 0.0) if atol is None else as_positive("atol", atol)
        self.steady = None if stop is None else stop.gradient
        self.max_steps = jnp.asarray(as_count("max_steps", max_steps))
        self.solver = solver
        self.coordinates = coordinates
        self.observe = observe

    def of(self, point: SVD) -> "Options":
        """The options for such a point: numbers in its precision, and `observe` as it is now."""
        dtype = point.sigma.dtype
        if dtype == jnp.float32 and is_concrete(self.rtol) and float(self.rtol) < 5e-6:
            warnings.warn(
                f"x0 is float32, which cannot keep rtol={float(self.rtol):g}. Enable float64 before the first array is "
                'made, jax.config.update("jax_enable_x64", True), or pass rtol=1e-5.',
                stacklevel=4,
            )
        observe = self.observe
        if observe is not None:
            shape_of("observe", observe, point)
            observe = Traced.of(observe, point)
        # What is known stays known inside of `jit`, where `astype` would trace it.
        as_own = lambda x: as_array("a tolerance", known(x).astype(dtype))
        cast = jax.tree.map(as_own, (self.rtol, self.share, self.fixed, self.steady))
        where = lambda o: (o.rtol, o.share, o.fixed, o.steady, o.observe)
        return eqx.tree_at(where, self, (*cast, observe), is_leaf=lambda x: x is None)

    def absolute(self, size: Float[Array, "*values"]) -> Float[Array, "*values"]:
        """The absolute tolerance of what has this size at the start.

        By default it is a hundredth of `rtol` of that size. A fixed number would have no relation to the problem: a
        flow that leaves a saddle from 1e-12 multiplies its start by 1e12, and the first error with it.
        """
        return self.share * self.rtol * size + self.fixed

    @property
    def atol(self) -> Float[Array, ""] | None:
        """What the user gave; None where it follows the start."""
        return None if is_concrete(self.share) and float(self.share) > 0 else self.fixed


def prepare(energy: Any, x0: Any, depth: Any, ts: Any, options: Options, many: bool = False) -> tuple[Problem, Options]:
    """Check what the user gave, and read the energy and `observe` as they are now.

    With `many`, the energy and the starts carry the seeds in front, and the caller checks and reads the energy.
    """
    start = _as_start(x0, many)
    point = shape_of_point(start, many)
    shape, dtype = (len(point.u), len(point.v)), point.sigma.dtype
    ts = as_times(ts, dtype)
    kernel = as_kernel(depth, dtype, many="" if many else "dlnjax.sweep or jax.vmap")
    if not many:
        check_energy(energy, shape, dtype)
        _check_rank(start, min(shape), kernel, options.coordinates)
        energy = traced_energy(at_start(energy), shape, dtype, len(point.sigma))
    return Problem(energy, start, kernel, ts), options.of(point)


def shape_of_point(start: Any, many: bool = False) -> SVD:
    """The shapes and the type of the `SVD` of one start; with `many`, the starts have the seeds in front."""

    def one(start: Any) -> SVD:
        start = jax.tree.map(lambda x: x[0], start) if many else start
        return start if isinstance(start, SVD) else svd(start)

    return jax.eval_shape(one, start)


def _as_start(x0: Any, many: bool):
    if not isinstance(x0, SVD):
        x0 = as_matrix("x0", x0, leading=many)
        return x0 if many else require_finite("x0", x0)
    u, v, sigma = as_matrix("x0.u", x0.u, many), as_matrix("x0.v", x0.v, many), as_float("x0.sigma", x0.sigma)
    lead, (m, n, r) = sigma.shape[:-1], (u.shape[-2], v.shape[-2], sigma.shape[-1])
    if (u.shape, v.shape) != ((*lead, m, r), (*lead, n, r)) or (lead and not many) or r > min(m, n):
        raise ValueError(
            "x0 must be an SVD of shapes u (m, r), sigma (r,), v (n, r) with r at most m and n, "
            f"got {u.shape}, {sigma.shape}, {v.shape}."
        )
    dtype = np.result_type(u.dtype, v.dtype, sigma.dtype)
    u, v, sigma = u.astype(dtype), v.astype(dtype), require_normal("x0.sigma", sigma.astype(dtype), axis=())
    finite = (abs(known(sigma)) < np.inf).all()
    bad = ~(finite & _orthogonal(known(u)) & _orthogonal(known(v)))
    message = "x0 must be finite with orthonormal columns of u and v. Pass the matrix itself, or dlnjax.svd(x)."
    return SVD(require(u, bad, message), sigma, v)


def _orthogonal(u: Any) -> Any:
    defect = abs(u.swapaxes(-1, -2) @ u - np.eye(u.shape[-1], dtype=u.dtype)).max()
    return defect < 1e3 * np.finfo(u.dtype).eps ** 0.75


def _check_rank(start: Any, d: int, kernel: Kernel, coordinates: str) -> None:
    """Refuse a start from which the flow in these coordinates would not keep the rank; `d` is the full one."""
    if isinstance(start, SVD) and start.sigma.shape[-1] < d and coordinates == "matrix":
        raise ValueError(_leaves(start.sigma.shape[-1], d))
    if not all(map(is_concrete, jax.tree.leaves((start, kernel)))):
        return
    sigma = np.abs(start.sigma) if isinstance(start, SVD) else np.linalg.svd(np.asarray(start), compute_uv=False)
    # What stands in an `SVD` is exact, however small.
    floor = 0.0 if isinstance(start, SVD) else rounding(sigma) * sigma.max()
    rank = int(np.sum(sigma > floor))
    if rank == sigma.shape[-1]:
        return
    crosses = bool(jnp.asarray(kernel.order) <= 0)
    if rank == 0 and not crosses:
        raise ValueError("x0 is the zero matrix, where the flow of depth > 1 rests for ever. Start nearby instead.")
    if crosses and coordinates == "svd":
        raise ValueError(f'x0 has rank {rank} < d = {d}, and depth 1 leaves that rank: pass coordinates="matrix".')
    if not crosses and coordinates == "matrix":
        raise ValueError(_leaves(rank, d))


def _leaves(rank: int, d: int) -> str:
    return (
        f"x0 has rank {rank} < d = {d}: the flow in X cannot tell zero from rounding and would leave the "
        f'rank-{rank} matrices. Pass coordinates="svd", which stays there, or a start of full rank.'
    )


def rounding(sigma: Any):
    return sigma.shape[-1] * np.finfo(sigma.dtype).eps
