"""One flow as a differentiable function, by a rule of its own: the derivative is taken in X.

There the flow is smooth also where singular values repeat and the frame has no derivative.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import require
from dlnjax._flows.coordinates import MatrixCoordinates
from dlnjax._flows.problem import Options, Problem, rounding
from dlnjax._flows.trajectory import Trajectory, trajectory_of
from dlnjax._svd import frame_tangent, SVD
from dlnjax._tree import norm, own_arithmetic, tangent_at
from dlnjax._types import Matrix, Scalar, State

# The scan of the steps is compiled for this many, and each of them is kept for the reverse mode.
MOST_STEPS = 4096


@eqx.filter_custom_jvp
def trajectory(problem: Problem, *, options: Options) -> Trajectory:
    """The flow of one problem."""
    with own_arithmetic():
        return trajectory_of(problem, options)


@trajectory.def_jvp
def _trajectory_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...], *, options: Options):
    with own_arithmetic():
        return _derivative(primals[0], tangents[0], options)


def _derivative(problem: Problem, dproblem: PyTree, options: Options) -> tuple[Trajectory, PyTree]:
    full = eqx.tree_at(lambda o: o.observe, options, None, is_leaf=lambda x: x is None)
    states = trajectory(problem, options=full)
    singular = states.sigma[0, -1] <= rounding(states.sigma) * states.sigma[0, 0]
    message = (
        "the flow from a start of rank r < d has no derivative here: it is taken in X, which leaves that rank. "
        "Start at full rank, nearby."
    )
    states = require(states, singular & (jnp.asarray(problem.kernel.order) > 0), message)
    rest = jax.lax.stop_gradient(states.t_end)
    in_matrix = lambda problem: _flow_in_x(problem, rest, options)
    _, (dx, dfinal) = eqx.filter_jvp(in_matrix, (problem,), (dproblem,))
    dsvd, dend = SVD(*frame_tangent(states.svd, dx)), SVD(*frame_tangent(states.final, dfinal))
    if options.observe is None:
        out, dpoints, dobserved = states, dsvd, None
        along = lambda energy, x: jax.vmap(energy)(x)
        _, denergy = eqx.filter_jvp(along, (problem.energy, states.svd.matrix), (dproblem.energy, dx))
    else:
        observed, dobserved = eqx.filter_jvp(jax.vmap(options.observe), (states.svd,), (dsvd,))
        empty = (observed, None, None)
        out = eqx.tree_at(lambda s: (s.observed, s.svd, s.energy), states, empty, is_leaf=lambda x: x is None)
        dpoints, denergy = None, None
    moved = (dpoints, dsvd.sigma, denergy, dobserved, dend, jnp.zeros_like(out.t_end))
    return out, tangent_at(lambda t: (t.svd, t.sigma, t.energy, t.observed, t.final, t.t_end), out, moved)


def _flow_in_x(problem: Problem, t_end: Scalar, options: Options) -> tuple[Float[Array, "ts d d"], Float[Array, "d d"]]:
    """X at min(ts, t_end) and at t_end, by diffrax in X, differentiable in both modes.

    A probe tangent is integrated along with X and shares the error control: steps that suit X alone may be far too
    long for its derivative, which still moves where X rests.
    """
    start: Matrix = problem.start.matrix if isinstance(problem.start, SVD) else problem.start
    atol = jax.lax.stop_gradient(options.absolute(norm(start)))
    coordinates = MatrixCoordinates(problem.energy, problem.kernel, options.rtol, atol, None)
    fixed: PyTree = jax.lax.stop_gradient(eqx.filter(coordinates, eqx.is_array))
    fixed = eqx.combine(fixed, coordinates)

    def velocity(t: Any, y: State, args: Any):
        x, probe = y
        still = jax.lax.stop_gradient((x, probe))
        return coordinates.velocity(x)[0], jax.jvp(lambda x: fixed.velocity(x)[0], still[:1], still[1:])[1]

    i = jnp.arange(start.shape[-1], dtype=start.dtype)
    probe = jnp.cos(jnp.multiply.outer(i + 1, i + 2)) * jax.lax.stop_gradient(jnp.max(jnp.abs(start)))
    # Not a minimum: at the tie of the last time it would halve the derivative.
    ts = jnp.where(problem.ts <= t_end, problem.ts, t_end) - problem.ts[0]
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Dopri5(),
        t0=ts[0],
        t1=ts[-1],
        dt0=None,
        y0=(start, probe),
        saveat=diffrax.SaveAt(ts=ts, t1=True, fn=lambda t, y, args: y[0]),
        stepsize_controller=diffrax.PIDController(rtol=options.rtol, atol=atol),
        adjoint=diffrax.DirectAdjoint(),
        max_steps=MOST_STEPS,
        throw=False,
    )
    message = (
        f"the derivative of the flow, which is taken in X, needs more than {MOST_STEPS} steps: end the flow earlier, "
        "at rest with stop=dlnjax.Steady(...), or loosen rtol."
    )
    states: Any = require(solution.ys, solution.result != diffrax.RESULTS.successful, message)
    return states[:-1], states[-1]
