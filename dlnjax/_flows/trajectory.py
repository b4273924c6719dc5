"""From a checked problem to the saved states: which coordinates, which methods, and the state at the start."""

import dataclasses
from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._flows.chebyshev import RungeKuttaChebyshev
from dlnjax._flows.coordinates import Coordinates, MatrixCoordinates
from dlnjax._flows.explicit import Explicit
from dlnjax._flows.frame import FrameCoordinates
from dlnjax._flows.lanes import integrate
from dlnjax._flows.method import Method
from dlnjax._flows.problem import Options, Problem, rounding
from dlnjax._flows.stabilised import Stabilised
from dlnjax._flows.step import Rules
from dlnjax._protocol import pullback
from dlnjax._results import RESULTS
from dlnjax._svd import canonical, orthogonalise, SVD, svd, turn
from dlnjax._tree import all_finite, norm, ravel, where
from dlnjax._types import Scalar, State


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


def start_of(problem: Problem, options: Options) -> State:
    """The state from which a flow starts, with all the decompositions that a flow in the frame needs."""
    if options.coordinates == "svd":
        return _frame_start(problem, _gap(options))
    return problem.start.matrix if isinstance(problem.start, SVD) else problem.start


def trajectories(
    of_row: Callable[[Any], Problem],
    starts: tuple[PyTree, State],
    ts: Float[Array, " ts"],
    options: Options,
    *,
    lanes: int,
    wanted: Bool[Array, " n"] | bool = True,
) -> Trajectory:
    """The flow of the problem of each row, on `lanes` at a time.

    **Arguments:** `starts`, the rows and the states y0 from which their flows begin; `wanted`, which are to run at all.
    """
    rows, y0 = starts
    frame = options.coordinates == "svd"
    sizes = y0.sigma if frame else jax.vmap(norm)(y0)

    # An interpolated or projected frame is orthogonal to the square of its error.
    def to_svd(y: State) -> SVD:
        return canonical(SVD(orthogonalise(y.u), y.sigma, orthogonalise(y.v))) if frame else svd(y)

    def observe(y: State) -> PyTree:
        point = to_svd(y)
        return (point.sigma, point if options.observe is None else options.observe(point))

    # The flow does not depend on the time itself. It runs from 0, where a short step is not lost in a long time.
    rules = Rules(ts - ts[0], options.steady, options.max_steps)
    flows, (sigma, saved) = integrate(
        lambda own: _coordinates(of_row(own[0]), own[1], options),
        ((rows, sizes), y0),
        rules,
        observe,
        methods=_methods(options),
        lanes=lanes,
        wanted=wanted,
    )
    kept = options.observe is None
    return Trajectory(
        svd=saved if kept else None,
        sigma=sigma,
        observed=None if kept else saved,
        final=jax.vmap(to_svd)(flows.y),
        t_end=jnp.where(flows.t == rules.ts[-1], ts[-1], ts[0] + flows.t),
        code=flows.code,
        steps=flows.accepted,
        rejected=flows.rejected,
        evaluations=flows.evaluations,
    )


def _methods(options: Options) -> Sequence[Method]:
    """By default Dopri5 and the stabilised method, as each flow needs them; in X, the plain check, Dopri5 alone."""
    solver = options.solver
    if solver is None and options.coordinates == "svd":
        return Explicit(diffrax.Dopri5(), stiff=1), Stabilised(explicit=0)
    if isinstance(solver, RungeKuttaChebyshev):
        return (Stabilised(),)
    return (Explicit(_with_tolerances(solver or diffrax.Dopri5(), options)),)


def _with_tolerances(solver: diffrax.AbstractSolver, options: Options) -> diffrax.AbstractSolver:
    """An implicit solver with the tolerances of the step in its root finder, where it asks for those of a controller.

    `diffrax.diffeqsolve` would put them in. Here the error of a step is one number, and the controller has none.
    """
    if not isinstance(solver, diffrax.AbstractImplicitSolver) or isinstance(solver.root_finder.rtol, Number):
        return solver
    root_finder = dataclasses.replace(
        solver.root_finder,
        rtol=options.rtol,
        atol=options.absolute(jnp.ones_like(options.rtol)),
        norm=lambda y: jnp.max(jnp.abs(ravel(y)[0])),
    )
    return eqx.tree_at(lambda s: s.root_finder, solver, root_finder)


def _coordinates(problem: Problem, size: Float[Array, "*values"], options: Options) -> Coordinates:
    """`size` is that of the start: its singular values or, in X, its norm."""
    atol = options.absolute(size)
    if options.coordinates == "matrix":
        return MatrixCoordinates(problem.energy, problem.kernel, options.rtol, atol)
    column_atol = options.absolute(jnp.ones_like(options.rtol))
    return FrameCoordinates(problem.energy, problem.kernel, options.rtol, atol, _gap(options), column_atol)


def _gap(options: Options) -> Scalar:
    # Gaps below the tolerance are gauge; below eps^(5/8) they are rounding.
    return jnp.maximum(options.rtol / 10, jnp.finfo(options.rtol.dtype).eps ** 0.625)


def _frame_start(problem: Problem, gap: Scalar) -> SVD:
    start = problem.start if isinstance(problem.start, SVD) else svd(problem.start)
    # A start that is not finite is replaced by the identity and marked, so that nothing is decomposed that is NaN.
    finite = all_finite(start)
    eye = jnp.eye(len(start.sigma), dtype=start.sigma.dtype)
    start: SVD = canonical(where(finite, start, SVD(eye, jnp.ones_like(eye[0]), eye)))
    if not isinstance(problem.start, SVD):
        # Singular values of a matrix at the level of rounding are set to zero, so that the flow keeps that rank. Those
        # of a given `SVD` are left as they are.
        floor = rounding(start.sigma) * start.sigma[0]
        start = SVD(start.u, jnp.where(start.sigma > floor, start.sigma, 0.0), start.v)
    y0 = turn(start, pullback(problem.energy, start), gap)
    return SVD(y0.u, jnp.where(finite, y0.sigma, jnp.nan), y0.v)
