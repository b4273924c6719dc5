"""The gradient flow of an energy in the geometry of the deep linear network."""

from collections.abc import Callable
from typing import Any, Literal

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._flows.coordinates import FrameCoordinates, MatrixCoordinates
from dlnjax._flows.explicit import Rules
from dlnjax._flows.lanes import integrate
from dlnjax._flows.problem import Options, prepare, Problem, rounding, Steady
from dlnjax._flows.solution import FlowSolution
from dlnjax._geometry.kernel import Depth
from dlnjax._protocol import name_of, pullback
from dlnjax._results import RESULTS
from dlnjax._svd import canonical, frame_tangent, orthogonalise, SVD, svd, turn
from dlnjax._tree import tangent_at
from dlnjax._types import Energy, Number, Numbers


class Trajectory(eqx.Module):
    """The saved states and how the flow ended. With `observe`, `svd` is None."""

    svd: SVD | None
    sigma: Float[Array, "*n ts d"]
    observed: Any
    final: SVD
    t_end: Float[Array, "*n"]
    code: RESULTS
    steps: Int[Array, "*n"]
    rejected: Int[Array, "*n"]
    evaluations: Int[Array, "*n"]


def gradient_flow(
    energy: Energy,
    x0: Float[Array, "d d"] | SVD,
    *,
    depth: Depth = jnp.inf,
    ts: Numbers,
    solver: diffrax.AbstractSolver[Any] | None = None,
    rtol: Number = 1e-6,
    atol: Number = 1e-8,
    coordinates: Literal["svd", "matrix"] = "svd",
    stop: Steady | None = None,
    observe: Callable[[SVD], Any] | None = None,
    max_steps: int = 100_000,
    throw: bool = True,
) -> FlowSolution:
    """Riemannian gradient flow of the deep linear network of depth N, (2.9) divided by N:

        dX/dt = -A_X(dE(X)),    A_X(Z) = (1/N) sum_{p=1}^N (X X^T)^((N-p)/N) Z (X^T X)^((p-1)/N),

    integrated in the frame of its singular value decomposition by (4.17)-(4.19), with one decomposition at the start.
    **Convention:** with the 1/N, infinite depth is the limit, and (4.18) holds as printed; the thesis's time at finite
    depth is `ts` / N.

    Composes with `jit` and `vmap` (over starts, energies and depths). Differentiable, forwards and in reverse, in `x0`,
    the arrays of `energy`, `depth` and `ts`; the derivative is that of the flow of X, so repeated singular values do it
    no harm: the derivative of `x` is exact there, though its frame has none, and is taken not to turn in the block. It
    needs a start of full rank, and at most 4096 steps in X.

    **Main arguments:**

    - `energy`: any differentiable callable X -> scalar. It may offer `gradient(x)` in closed form.
    - `x0`: the start, `d d`, or an `SVD`. Of rank r < d, the flow stays on the matrices of rank r (depth > 1).
    - `depth`: N in [1, inf], a number or a traced array.
    - `ts`: at least two increasing times; the first is that of `x0`. States are saved at each.

    **Other arguments:**

    - `solver`: by default Dopri5 and, wherever stability rather than accuracy limits its steps, the stabilised method
      of `RungeKuttaChebyshev` (in "matrix", Dopri5 alone); or any diffrax solver with an error estimate.
    - `rtol`, `atol`: tolerances of a step, on each singular value and on the frame (in "matrix", on the Frobenius norm
      of X).
    - `coordinates`: "svd", or "matrix" for the flow in X itself, with a decomposition at every evaluation: slower, and
      written independently, to check by.
    - `stop`: `Steady(gradient)` ends the flow at rest.
    - `observe`: saved in place of the states: a callable `SVD` -> arrays. `sigma` and the last state are always kept.
    - `max_steps`: accepted and rejected steps together.
    - `throw`: raise if the flow does not end as successful or steady; otherwise see `result`.

    **Returns:** a `FlowSolution`.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs; an error with the sentence of the code
    in `RESULTS` if the flow fails and `throw`.

    **Example:**

        >>> energy = dln.MatrixCompletion.diagonal(2)
        >>> x0 = jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> jnp.diagonal(sol.x[-1]).round(5).tolist()
        [1.0, 1.0]
        >>> final = lambda depth: dln.gradient_flow(energy, x0, depth=depth, ts=[0.0, 2.0]).energy[-1]
        >>> print(f"{jax.grad(final)(3.0):.4f}")
        0.0209
    """
    sol = _solve_one(*prepare(energy, x0, depth, ts, solver, rtol, atol, coordinates, stop, observe, max_steps))
    if throw:
        failed = (sol.result != RESULTS.successful) & (sol.result != RESULTS.steady)
        sol = sol.result.error_if(sol, failed)
    return sol


def _matrix(start):
    return start.matrix if isinstance(start, SVD) else start


@eqx.filter_jit
def _solve_one(problem: Problem, options: Options) -> FlowSolution:
    with jax.default_matmul_precision("highest"):
        out = _trajectory(problem, options=options)
        energy = None if out.svd is None else jax.vmap(problem.energy)(out.svd.matrix)
    return solution_of(problem, options, out, energy)


def start_many(of_row: Callable[[Any], Problem], rows, options: Options):
    """The state from which the flow of each row starts: all the decompositions there are, but for those in X."""
    with jax.default_matmul_precision("highest"):
        return jax.vmap(lambda row: _start(of_row(row), options))(rows)


def solve_many(
    of_row: Callable[[Any], Problem],
    rows,
    y0,
    ts: Float[Array, " ts"],
    options: Options,
    *,
    lanes: int,
    wanted: Bool[Array, " n"],
) -> tuple[Trajectory, Float[Array, "n ts"] | None]:
    """The flow of the problem of each row from `y0`, on `lanes` at a time, and the energies along it. A row that is not
    `wanted` ends where it begins.

    It is to be compiled by the caller, who makes a solution of it with `solution_of`.
    """
    with jax.default_matmul_precision("highest"):
        out = _trajectories(of_row, rows, y0, ts, options, lanes, wanted)
        energies = jax.vmap(lambda row, x: jax.vmap(of_row(row).energy)(x))
        energy = None if out.svd is None else energies(rows, out.svd.matrix)
    return out, energy


def solution_of(problem: Problem, options: Options, out: Trajectory, energy: Any) -> FlowSolution:
    """The solution of a problem, or of the many of a sweep, from its trajectory and the energies along it."""
    return FlowSolution(
        ts=problem.ts,
        sigma=out.sigma,
        final=out.final,
        t_end=out.t_end,
        result=out.code,
        stats={"steps": out.steps, "rejected": out.rejected, "evaluations": out.evaluations},
        observed=out.observed,
        depth=problem.kernel,
        rtol=options.rtol,
        atol=options.atol,
        energy_name=name_of(problem.energy),
        _svd=out.svd,
        _energy=energy,
    )


def _gap(options: Options):
    # Gaps below the tolerance are gauge; below eps^(5/8) they are rounding.
    return jnp.maximum(options.rtol / 10, jnp.finfo(options.rtol.dtype).eps ** 0.625)


def _start(problem: Problem, options: Options):
    return _frame_start(problem, _gap(options)) if options.coordinates == "svd" else _matrix(problem.start)


def _trajectories(of_row, rows, y0, ts, options: Options, lanes: int, wanted: Any = True) -> Trajectory:
    frame = options.coordinates == "svd"

    def coordinates(row):
        problem = of_row(row)
        if frame:
            return FrameCoordinates(problem.energy, problem.kernel, options.rtol, options.atol, _gap(options))
        return MatrixCoordinates(problem.energy, problem.kernel, options.rtol, options.atol)

    # An interpolated or projected frame is orthogonal to the square of its error.
    def to_svd(y):
        return canonical(SVD(orthogonalise(y.u), y.sigma, orthogonalise(y.v))) if frame else svd(y)

    def observe(y):
        point = to_svd(y)
        return (point.sigma, point if options.observe is None else options.observe(point))

    rules = Rules(ts, options.steady, options.max_steps)
    # In X, the check is to be as plain as it can be.
    solver = options.solver or (None if frame else diffrax.Dopri5())
    flows, (sigma, saved) = integrate(coordinates, rows, y0, rules, observe, solver=solver, lanes=lanes, wanted=wanted)
    kept = options.observe is None
    return Trajectory(
        svd=saved if kept else None,
        sigma=sigma,
        observed=None if kept else saved,
        final=jax.vmap(to_svd)(flows.y),
        t_end=flows.t,
        code=flows.code,
        steps=flows.accepted,
        rejected=flows.rejected,
        evaluations=flows.evaluations,
    )


@eqx.filter_custom_jvp
def _trajectory(problem: Problem, *, options: Options) -> Trajectory:
    arrays, rest = eqx.partition(problem, eqx.is_array)
    one = lambda tree: jax.tree.map(lambda x: x[None], tree)
    of_row = lambda row: eqx.combine(row, rest)
    out = _trajectories(of_row, one(arrays), one(_start(problem, options)), problem.ts, options, lanes=1)
    return jax.tree.map(lambda x: x[0], out)


def _frame_start(problem: Problem, gap: Float[Array, ""]) -> SVD:
    start = problem.start if isinstance(problem.start, SVD) else svd(problem.start)
    # A start that is not finite is carried as the identity, and marked: its neighbours in a sweep must not notice.
    finite = jnp.all(jnp.isfinite(start.u)) & jnp.all(jnp.isfinite(start.sigma)) & jnp.all(jnp.isfinite(start.v))
    eye = jnp.eye(len(start.sigma), dtype=start.sigma.dtype)
    start = canonical(jax.tree.map(lambda x, y: jnp.where(finite, x, y), start, SVD(eye, jnp.ones_like(eye[0]), eye)))
    # What rounding left of a zero is zero: the flow stays on the matrices of that rank.
    floor = rounding(start.sigma) * start.sigma[0]
    start = SVD(start.u, jnp.where(start.sigma > floor, start.sigma, 0.0), start.v)
    y0 = turn(start, pullback(problem.energy, start), gap)
    return SVD(y0.u, jnp.where(finite, y0.sigma, jnp.nan), y0.v)


@_trajectory.def_jvp
def _trajectory_jvp(primals, tangents, *, options: Options):
    """The derivative of the flow in X, which is smooth where the frame is not: through repeated singular values."""
    (problem,), (dproblem,) = primals, tangents
    full = eqx.tree_at(lambda o: o.observe, options, None, is_leaf=lambda x: x is None)
    states = _trajectory(problem, options=full)
    singular = states.sigma[0, -1] <= rounding(states.sigma) * states.sigma[0, 0]
    message = (
        "the flow from a start of rank r < d has no derivative here: it is taken in X, which leaves that rank. "
        "Start at full rank, nearby."
    )
    states = eqx.error_if(states, singular & (jnp.asarray(problem.kernel.order) > 0), message)
    rest = jax.lax.stop_gradient(states.t_end)

    def in_matrix(problem):
        return _differentiable_flow(problem, rest, options)

    _, (dx, dfinal) = eqx.filter_jvp(in_matrix, (problem,), (dproblem,))
    point_tangent = lambda point, dx: SVD(*frame_tangent(point, dx))
    dsvd, dend = point_tangent(states.svd, dx), point_tangent(states.final, dfinal)
    if options.observe is None:
        out, dobserved = states, None
        dpoints = dsvd
    else:
        observed, dobserved = eqx.filter_jvp(jax.vmap(options.observe), (states.svd,), (dsvd,))
        out = eqx.tree_at(lambda s: (s.observed, s.svd), states, (observed, None), is_leaf=lambda x: x is None)
        dpoints = None
    moved = (dpoints, dsvd.sigma, dobserved, dend, jnp.zeros_like(out.t_end))
    return out, tangent_at(lambda t: (t.svd, t.sigma, t.observed, t.final, t.t_end), out, moved)


def _differentiable_flow(problem: Problem, t_end, options: Options):
    """X at min(ts, t_end) and at t_end, by diffrax in X, differentiable in both modes.

    A probe tangent is integrated along with X and shares the error control: steps that suit X alone may be far too
    long for its derivative, which still moves where X rests.
    """
    start = _matrix(problem.start)
    coordinates = MatrixCoordinates(problem.energy, problem.kernel, options.rtol, options.atol)
    fixed = jax.lax.stop_gradient(eqx.filter(coordinates, eqx.is_array))
    fixed = eqx.combine(fixed, coordinates)

    def velocity(t, y, args):
        x, probe = y
        still = jax.lax.stop_gradient((x, probe))
        return coordinates.velocity(x)[0], jax.jvp(lambda x: fixed.velocity(x)[0], still[:1], still[1:])[1]

    i = jnp.arange(start.shape[-1], dtype=start.dtype)
    probe = jnp.cos(jnp.multiply.outer(i + 1, i + 2)) * jax.lax.stop_gradient(jnp.max(jnp.abs(start)))
    # Not a minimum: at the tie of the last time it would halve the derivative.
    ts = jnp.where(problem.ts <= t_end, problem.ts, t_end)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Dopri5(),
        t0=ts[0],
        t1=ts[-1],
        dt0=None,
        y0=(start, probe),
        saveat=diffrax.SaveAt(ts=ts, t1=True, fn=lambda t, y, args: y[0]),
        stepsize_controller=diffrax.PIDController(rtol=options.rtol, atol=options.atol),
        adjoint=diffrax.DirectAdjoint(),
        max_steps=4096,
        throw=False,
    )
    message = (
        "the derivative of the flow, which is taken in X, needs more than 4096 steps: end the flow earlier, at rest "
        "with stop=dlnjax.Steady(...), or loosen rtol."
    )
    states: Any = eqx.error_if(solution.ys, solution.result != diffrax.RESULTS.successful, message)
    return states[:-1], states[-1]
