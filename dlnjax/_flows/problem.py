"""The problem and the options of a flow, made from what the user gave and checked here."""

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
    as_matrix,
    as_positive,
    as_real,
    check_energy,
    is_concrete,
    known,
    require_finite,
    shape_of,
)
from dlnjax._flows.noise import check_noise
from dlnjax._flows.solvers import program_of
from dlnjax._geometry.depth import as_kernel
from dlnjax._geometry.kernel import Kernel
from dlnjax._noise import check_steps, Noise
from dlnjax._protocol import at_start
from dlnjax._scale import ATOL_SHARE
from dlnjax._solver import as_times, as_tolerance, warn_of_precision
from dlnjax._svd import as_point, SVD
from dlnjax._traced import Traced, traced_energy
from dlnjax._types import Number


class Steady(eqx.Module):
    """A stop: the flow is at rest once |dE(X)|_F <= `gradient`. Later `ts` repeat that state; `t_end` says when.

    With a stop, the error of X in each step is also kept below a hundredth of the distance that X moves. Near rest the
    tolerance alone would be larger than the distance that is left. `t_end` is the end of the first step after which
    the flow is at rest. At the default tolerance it is some percent later than the time at which |dE| crosses
    `gradient`.

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
    """All that a flow may be differentiated with respect to: energy, start, kernel, times and noise."""

    energy: Callable
    start: SVD | Float[Array, "*starts m n"]
    kernel: Kernel
    ts: Float[Array, " ts"]
    noise: Noise | None = None

    @property
    def x0(self) -> Float[Array, "*starts m n"]:
        """The start as a matrix."""
        return self.start.matrix if isinstance(self.start, SVD) else self.start


class Options(eqx.Module):
    """How a problem is solved. The constructor checks what the user gave. Options are never differentiated.

    All numbers are arrays, so that a new value of a number does not compile anything again.
    """

    rtol: Float[Array, ""]
    # The absolute tolerance is `share` * `rtol` * (the size at the start) + `fixed`. One of the two terms is 0, so that
    # one compiled program serves a tolerance that follows the start and a fixed tolerance.
    share: Float[Array, ""]
    fixed: Float[Array, ""]
    # The bound of the stop. Without a stop it is 0, so that one program serves both.
    steady: Float[Array, ""]
    max_steps: Int[Array, ""]
    solver: diffrax.AbstractSolver[Any] | None
    # The checksum of a step of a solver of one's own, by which a number that it reads from elsewhere is seen to change.
    program: str | None = eqx.field(static=True)
    coordinates: str = eqx.field(static=True)
    observe: Callable[[SVD], Any] | None
    # The kind of the steps with noise, "shallow", "deep" or "either", or None without noise.
    steps: str | None

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
        self.rtol = as_tolerance("rtol", rtol, "Use 1e-3 for a sketch, 1e-6 by default, 1e-10 to check a formula.")
        self.share = as_real("share", ATOL_SHARE if atol is None else 0.0)
        self.fixed = as_real("atol", 0.0) if atol is None else as_tolerance("atol", atol, relative=False)
        self.steady = as_real("stop", 0.0) if stop is None else stop.gradient
        self.max_steps = as_array("max_steps", as_count("max_steps", max_steps))
        self.solver, self.program = solver, program_of(solver)
        self.coordinates = coordinates
        self.observe = observe
        self.steps = None

    def of(self, point: SVD) -> "Options":
        """The options for points with the shapes and dtype of `point`: numbers are cast, and `observe` is traced."""
        dtype = point.sigma.dtype
        if self.steps is None:
            warn_of_precision("x0 is", dtype, self.rtol)
        observe = self.observe
        if observe is not None:
            shape_of("observe", observe, point)
            observe = Traced.of(observe, point)
        # `known` makes a NumPy array of a concrete number. Inside of `jit`, `astype` makes a tracer of a JAX array.
        as_own = lambda x: as_array("a tolerance", known(x).astype(dtype))
        cast = jax.tree.map(as_own, (self.rtol, self.share, self.fixed, self.steady))
        where = lambda o: (o.rtol, o.share, o.fixed, o.steady, o.observe)
        return eqx.tree_at(where, self, (*cast, observe), is_leaf=lambda x: x is None)

    def unobserved(self) -> "Options":
        """The options without `observe`, with which all states are saved."""
        return eqx.tree_at(lambda o: o.observe, self, None, is_leaf=lambda x: x is None)

    def absolute(self, size: Float[Array, "*values"]) -> Float[Array, "*values"]:
        """The absolute tolerance of a quantity that has this size at the start.

        By default it is the size times `rtol` / 100. A fixed number would be too coarse for small starts: a flow that
        leaves a saddle from 1e-12 multiplies its start by 1e12, and its first error by as much.
        """
        return self.share * self.rtol * size + self.fixed

    @property
    def atol(self) -> Float[Array, ""] | None:
        """The `atol` that the user gave, or None if the absolute tolerance follows the start."""
        return None if is_concrete(self.share) and float(self.share) > 0 else self.fixed


def prepare(
    energy: Any, x0: Any, depth: Any, ts: Any, options: Options, *, noise: Noise | None = None, many: bool = False
) -> tuple[Problem, Options]:
    """Check what the user gave, and trace the energy and `observe` with the numbers that they hold now.

    With `many`, the first axis of the starts and of the arrays of the energy is that of the seeds. The caller then
    checks and traces the energy.
    """
    start = as_start(x0, many)
    point = shape_of_point(start, many)
    shape, dtype = (len(point.u), len(point.v)), point.sigma.dtype
    ts = as_times(ts, dtype)
    kernel = as_kernel(depth, dtype, many="" if many else "dlnjax.sweep or jax.vmap")
    if not many:
        check_energy(energy, shape, dtype)
        if noise is None:
            _check_rank(start, min(shape), kernel, options.coordinates)
        energy = traced_energy(at_start(energy), shape, dtype, len(point.sigma))
    if noise is not None:
        kind = check_noise(start, kernel, many)
        options = eqx.tree_at(lambda o: o.steps, options, kind, is_leaf=lambda x: x is None)
        numbers = [as_array("a number of the noise", known(x).astype(dtype)) for x in (noise.beta, noise.dt)]
        noise = eqx.tree_at(lambda n: [n.beta, n.dt], noise, numbers)
        ts = check_steps(ts, numbers[1], options.max_steps)
    return Problem(energy, start, kernel, ts, noise), options.of(point)


def shape_of_point(start: Any, many: bool = False) -> SVD:
    """The shapes and the type of the `SVD` of one start. With `many`, the starts have the axis of seeds in front."""
    if isinstance(start, SVD):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[many:], x.dtype), start)
    m, n = start.shape[many:]
    zeros = lambda *shape: jnp.zeros(shape, start.dtype)
    return jax.eval_shape(lambda: SVD(zeros(m, min(m, n)), zeros(min(m, n)), zeros(n, min(m, n))))


def saved_entries(point: Any, options: Options) -> int:
    """The number of entries that are saved of a flow at each time. `point` has the shapes of its states."""
    seen = point if options.observe is None else (point.sigma, jax.eval_shape(options.observe, point))
    return sum(leaf.size for leaf in jax.tree.leaves(seen))


def as_start(x0: Any, many: bool, name: str = "x0") -> SVD | Array:
    """A start as a matrix or an `SVD`, or with `many` a stack of them, of which a matrix may be NaN."""
    if isinstance(x0, SVD):
        return as_point(name, x0, leading=many)
    x0 = as_matrix(name, x0, leading=many)
    return x0 if many else require_finite(name, x0)


def _check_rank(start: Any, d: int, kernel: Kernel, coordinates: str) -> None:
    """Refuse a start if the flow in these coordinates would not keep its rank. `d` is the full rank."""
    if isinstance(start, SVD) and start.sigma.shape[-1] < d and coordinates == "matrix":
        raise ValueError(_leaves(start.sigma.shape[-1], d))
    if not all(map(is_concrete, jax.tree.leaves((start, kernel)))):
        return
    sigma = np.abs(start.sigma) if isinstance(start, SVD) else np.linalg.svd(np.asarray(start), compute_uv=False)
    # The singular values of a given `SVD` count as exact, however small. Those of a matrix have errors of rounding.
    floor = 0.0 if isinstance(start, SVD) else rounding(sigma) * sigma.max()
    rank = int(np.sum(sigma > floor))
    if rank == sigma.shape[-1]:
        return
    crosses = bool(jnp.asarray(kernel.order) <= 0)
    if rank == 0 and not crosses:
        raise ValueError("x0 is the zero matrix, where the flow of depth > 1 rests for ever. Start nearby instead.")
    if crosses and coordinates == "svd":
        raise ValueError(
            f"x0 has rank {rank} < {d}, and one layer, or layers of this imbalance, leave that rank: pass "
            'coordinates="matrix".'
        )
    if not crosses and coordinates == "matrix":
        raise ValueError(_leaves(rank, d))


def _leaves(rank: int, d: int) -> str:
    return (
        f"x0 has rank {rank} < {d}: the flow in X cannot tell zero from rounding and would leave the "
        f'rank-{rank} matrices. Pass coordinates="svd", which stays there, or a start of full rank.'
    )


def rounding(sigma: Any):
    return sigma.shape[-1] * np.finfo(sigma.dtype).eps
