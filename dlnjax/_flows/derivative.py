"""One flow as a differentiable function, whose derivative rule differentiates the flow of X itself.

The flow of X is smooth where singular values repeat. The flow of the frame has no derivative there. For a thin frame,
the rule differentiates the flow of the factors in X = P S Q^T (`factored`), which is smooth there too.
"""

from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import is_concrete, known, require
from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp, moving_leaves, tangent_of
from dlnjax._flows.factored import Factored
from dlnjax._flows.problem import Options, Problem, rounding
from dlnjax._flows.replay import find_steps, MOST_STEPS, reached, replay, Steps
from dlnjax._flows.trajectory import Trajectory, trajectory_of
from dlnjax._protocol import value
from dlnjax._svd import dual, frame_tangent, motion_of_frame, SVD, svd
from dlnjax._tree import nan_unless, own_arithmetic, tangent_at
from dlnjax._types import Scalar, State

# The states at `ts`, the last state, its time.
States: TypeAlias = tuple[SVD, SVD, Scalar]


@filter_custom_jvp
def trajectory(problem: Problem, *, options: Options) -> Trajectory:
    """The flow of one problem, with the derivative rule of this module."""
    with own_arithmetic():
        return trajectory_of(problem, options)


@trajectory.def_jvp
def _trajectory_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...], *, options: Options):
    with own_arithmetic():
        return _derivative(primals[0], tangents[0], options)


def _derivative(problem: Problem, dproblem: PyTree, options: Options) -> tuple[Trajectory, PyTree]:
    states = trajectory(problem, options=options.unobserved())
    sigma = known(states.sigma)
    singular = sigma[0, -1] <= rounding(sigma) * sigma[0, 0]
    message = (
        "the flow from a start of rank r < d has no derivative here: it is taken in X, which leaves that rank. "
        "Start at full rank, nearby, or from a thin dlnjax.SVD of the r values that are not 0."
    )
    if not is_concrete(singular) or singular:
        states = require(states, singular & (known(problem.kernel.order) > 0), message)
    steps = _steps_in_x(problem, states, options)
    out = states if options.observe is None else states.observed_by(options.observe)
    # Where nothing moves the times, the program is half as large.
    times_move = dproblem.ts is not None or not is_concrete(problem.ts)
    ends = states.svd, states.final, states.t_end
    moves = moving_leaves(dproblem, problem)
    static = Static(options, times_move, tuple(moves))
    moved = _saved_tangents(problem, list(moves.values()), ends, steps, static=static)
    return out, tangent_at(lambda t: (t.svd, t.sigma, t.energy, t.observed, t.final, t.t_end), out, moved)


class Static(eqx.Module):
    """What is not differentiated: the options, whether the times move, and the numbers of the leaves that do."""

    options: Options
    times_move: bool
    moving: tuple[int, ...]


# JAX would compile the transpose of a program without the options of this library. Reverse mode therefore calls a
# program for it.
@filter_custom_jvp
def _saved_tangents(
    problem: Problem, moves: list[Array], states: States, steps: Steps, *, static: Static
) -> tuple[Any, ...]:
    """The tangents of all that is saved, from those of the moving leaves of the problem."""
    return _run_tangents(problem, moves, states, steps, static)


@_saved_tangents.def_jvp
@own_arithmetic()
def _saved_tangents_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...], *, static: Static):
    of = lambda problem, moves, states, steps: _run_tangents(problem, moves, states, steps, static)
    return _saved_tangents(*primals, static=static), eqx.filter_jvp(of, primals, tangents)[1]


@_saved_tangents.def_transpose
@own_arithmetic()
def _saved_tangents_back(
    ct: Any, problem: Problem, moves: list[None], states: States, steps: Steps, *, static: Static
) -> list[Array]:
    return _cotangents(ct, problem, states, steps, static)


@compiled
def _cotangents(ct: Any, problem: Problem, states: States, steps: Steps, static: Static) -> list[Array]:
    """The cotangents of the moving leaves: the transpose of `_tangents`."""
    leaves = jax.tree.leaves(problem)
    moves = [jax.ShapeDtypeStruct(leaves[i].shape, leaves[i].dtype) for i in static.moving]
    return jax.linear_transpose(lambda moves: _run_tangents(problem, moves, states, steps, static), moves)(ct)[0]


# Without a checkpoint, the part of the derivative that does not depend on the tangents would be a program of its own.
@eqx.filter_checkpoint
def _tangents(problem: Problem, moves: list[Array], states: States, steps: Steps, static: Static) -> tuple[Any, ...]:
    dproblem = tangent_of(problem, dict(zip(static.moving, moves, strict=True)))
    points, final, t_end = states
    fixed = jax.lax.stop_gradient(t_end)
    at, dat = eqx.filter_jvp(lambda problem: replay(problem, fixed, steps, static.times_move), (problem,), (dproblem,))
    # A flow that fails on the way has no derivative beyond.
    arrived = (reached(problem, fixed) <= steps.times[-1])[:, None, None]
    moving = at, jax.tree.map(lambda dx: nan_unless(arrived, dx), dat)
    last = jax.tree.map(lambda x: x[-1], moving)
    dsvd, dend = _frame_tangent(points, moving), _frame_tangent(final, last)
    # A flow that ends before the last of `ts` does so a fixed time after its start.
    dts = jnp.zeros_like(problem.ts) if dproblem.ts is None else dproblem.ts
    dt_end = jnp.where(t_end < problem.ts[-1], dts[0], dts[-1])
    if static.options.observe is not None:
        _, dobserved = eqx.filter_jvp(jax.vmap(static.options.observe), (points,), (dsvd,))
        return None, dsvd.sigma, None, dobserved, dend, dt_end

    def along(energy: Any, y: State) -> Float[Array, " ts"]:
        return jax.vmap(lambda y: value(energy, _point(y)) if isinstance(y, Factored) else energy(y))(y)

    at, dat = moving
    # Where the derivative is taken in X, the saved points take the place of the X of the replay, as they are more
    # accurate.
    at = at if isinstance(at, Factored) else points.matrix
    _, denergy = eqx.filter_jvp(along, (problem.energy, at), (dproblem.energy, dat))
    return dsvd, dsvd.sigma, denergy, None, dend, dt_end


_run_tangents = compiled(_tangents)


def _point(y: Factored) -> SVD:
    """The point P S Q^T, from the decomposition of S."""
    inner = svd(y.s)
    return SVD(y.p @ inner.u, inner.sigma, y.q @ inner.v)


def _frame_tangent(points: SVD, moving: tuple[State, State]) -> SVD:
    """The tangents of the points, from (X or its factors, their tangents)."""
    at, dat = moving
    if not isinstance(at, Factored):
        return SVD(*frame_tangent(points, dat))
    turned = lambda z: jnp.swapaxes(z, -1, -2)

    def half(p: Array, s: Array, q: Array, dp: Array, ds: Array, dq: Array, v: Array) -> Array:
        """The product dX V for X = P S Q^T."""
        return dp @ (s @ (turned(q) @ v)) + p @ (ds @ (turned(q) @ v) + s @ (turned(dq) @ v))

    by_v = half(at.p, at.s, at.q, dat.p, dat.s, dat.q, points.v)
    by_u = half(at.q, turned(at.s), at.p, dat.q, turned(dat.s), dat.p, dual(points.u))
    return SVD(*motion_of_frame(points, by_v, by_u))


def _steps_in_x(problem: Problem, states: Trajectory, options: Options) -> Steps:
    """The steps of the flow of X, or of its factors, up to the end of `states`, or an error if they are too many."""
    arrays, t_end = jax.lax.stop_gradient((eqx.filter(problem, eqx.is_array), states.t_end))
    steps = find_steps(eqx.combine(arrays, problem), t_end, states.steps, options)
    message = (
        f"the derivative of the flow, which is taken in X, needs more than {MOST_STEPS} steps: end the flow earlier, "
        "at rest with stop=dlnjax.Steady(...), or loosen rtol."
    )
    return require(steps, ~known(steps.enough), message)
