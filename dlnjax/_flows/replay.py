"""The flow in X in two passes, for its derivative: `find_steps` takes the steps, and `replay` differentiates them.

The first pass is not differentiated. It keeps X at the end of each step. The second pass is a scan of the derivatives
of steps of Dopri5 of known lengths from known states, in either mode. If the first pass were differentiated, the choice
of the steps would be differentiated too, and the loop would have to be compiled for the largest number of steps, with
the rejected steps among them.

For a thin frame, both passes take the flow of P, S and Q in X = P S Q^T (`factored`) in place of the flow in X.
"""

from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dlnjax._compile import compiled, power_of_two_from, runs_at_once
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._flows.coordinates import Coordinates, MatrixCoordinates
from dlnjax._flows.explicit import Explicit
from dlnjax._flows.factored import Factored, factored, FactoredCoordinates, lifted
from dlnjax._flows.frame import is_thin
from dlnjax._flows.problem import Options, Problem
from dlnjax._flows.step import Flow, flow_with_step, Rules
from dlnjax._flows.trajectory import of_own_type
from dlnjax._results import RESULTS
from dlnjax._runge_kutta import square_tableau
from dlnjax._svd import SVD
from dlnjax._tree import any_of_batch, instantiate, norm, put, where, while_any
from dlnjax._types import Matrix, Scalar, State

# The largest number of steps. The reverse mode keeps the state at the start of each step in memory.
MOST_STEPS = 4096
# The first pass finds this many steps by one call of its program.
_TOGETHER = 256
# The second pass takes, or skips, this many steps together.
_CHUNK = 64
_DOPRI5 = diffrax.Dopri5()
_METHOD = Explicit(_DOPRI5)


class Steps(eqx.Module):
    """The steps of a flow. `times` has 0 and the times at which steps end, and `states` has X, or its factors, there.

    After the last step, its time and its state are repeated. `enough` says that the flow did not need more than
    `MOST_STEPS`.
    """

    times: Float[Array, " ends"]
    states: State
    enough: Bool[Array, ""]


class _Probed(Coordinates):
    """The flow of X, or of its factors, together with one tangent, the probe. The errors of both control the step.

    Steps that are chosen for X alone may be far too long for its derivative, which still moves when X is at rest.
    """

    thin: bool = eqx.field(static=True)

    @property
    def _alone(self) -> Coordinates:
        kind = FactoredCoordinates if self.thin else MatrixCoordinates
        return kind(self.energy, self.kernel, self.rtol, self.atol, None)

    def velocity(self, y: tuple[State, State]) -> tuple[tuple[State, State], None]:
        return jax.jvp(lambda x: self._alone.velocity(x)[0], y[:1], y[1:]), None

    def error(self, y0: Any, y1: Any, error: Any) -> Scalar:
        return jnp.maximum(*(self._alone.error(*each) for each in zip(y0, y1, error, strict=True)))

    def size(self, y: tuple[State, State]) -> Scalar:
        return self._alone.size(y[0])

    def loses_rank(self, y0: Any, y1: Any) -> Bool[Array, ""]:
        return self._alone.loses_rank(y0[0], y1[0])


def start_of(problem: Problem) -> State:
    """X at the start, or its factors where the frame is thin."""
    start = problem.start
    thin = is_thin(start) if isinstance(start, SVD) else start.shape[-2] != start.shape[-1]
    return factored(start) if thin else problem.x0


def reached(problem: Problem, t_end: Scalar) -> Float[Array, " ts"]:
    """The times that the user asked for, counted from the first of them, and none later than `t_end`."""
    # `jnp.minimum` would halve the derivative where the last time is equal to `t_end`.
    start = problem.ts[0]
    return jnp.where(problem.ts <= t_end, problem.ts - start, jax.lax.stop_gradient(t_end - start))


def find_steps(problem: Problem, t_end: Scalar, count: Int[Array, ""], options: Options) -> Steps:
    """The steps of Dopri5 that end at each of the times that the flow reaches. About so many are needed as `count`.

    Inside of `jit` there is room for `MOST_STEPS`. Outside of it, a program finds a few steps and is called again until
    the flow has ended, so that few steps need little memory.
    """
    size, state = _begin_steps(problem, t_end, count, options)
    if not runs_at_once(state):
        return _some_steps(problem, t_end, options, size, state, most=MOST_STEPS)[1]
    parts = []
    while not parts or (state[0].active and len(parts) < MOST_STEPS // _TOGETHER):
        state, steps = _some_steps(problem, t_end, options, size, state, most=_TOGETHER)
        parts.append(steps)
    # The number of parts is a power of two, so that the derivative is compiled for few lengths.
    return _joined(parts, power_of_two_from(len(parts)))


def _joined(parts: list[Steps], count: int) -> Steps:
    """The steps of all parts as one. The end of the last part is repeated, as if there were `count` parts."""
    if count == 1:
        return parts[0]

    def join(*xs: Array) -> Array:
        first, rest = np.asarray(xs[0]), [np.asarray(x)[1:] for x in xs[1:]]
        last = np.repeat(np.asarray(xs[-1])[-1:], (count - len(xs)) * _TOGETHER, axis=0)
        return jax.device_put(np.concatenate([first, *rest, last]))

    times, states = jax.tree.map(join, *((part.times, part.states) for part in parts))
    return Steps(times, states, parts[-1].enough)


def _ways(problem: Problem, t_end: Scalar, options: Options, size: Scalar, thin: bool) -> tuple[_Probed, Rules]:
    """(the coordinates in which steps are found, their rules). `size` is that of X at the start."""
    atol = options.absolute(size)
    coordinates = _Probed(problem.energy, problem.kernel, options.rtol, atol, None, thin)
    return coordinates, Rules(reached(problem, t_end), None, jnp.asarray(2 * MOST_STEPS))


@compiled
def _begin_steps(
    problem: Problem, t_end: Scalar, count: Int[Array, ""], options: Options
) -> tuple[Scalar, tuple[Flow, Any]]:
    """(the size of X at the start, the flow before its first step and the start of this step).

    The first step that is tried has the mean length. Where it is too long, it is refused and shortened. `start_flow`
    finds a length from the velocity, which would be compiled once more.
    """
    y0 = start_of(problem)
    thin = isinstance(y0, Factored)
    size = norm(y0.s if thin else y0)
    coordinates, rules = _ways(problem, t_end, options, size, thin)
    first = rules.ts[-1] / jnp.maximum(count, 1)
    flow = flow_with_step((y0, _probe(y0)), first, rules, _METHOD.order, None)
    return of_own_type((size, (flow, _METHOD.begin(coordinates, flow))))


@compiled
def _some_steps(
    problem: Problem, t_end: Scalar, options: Options, size: Scalar, state: tuple[Flow, Any], *, most: int
) -> tuple[tuple[Flow, Any], Steps]:
    """The next `most` steps, or fewer if the flow ends: (the flow after them and the start of the next, the steps)."""
    coordinates, rules = _ways(problem, t_end, options, size, isinstance(state[0].y[0], Factored))
    begun = state[0]
    count = lambda flow: flow.accepted - begun.accepted
    go_on = lambda state: state[0].active & (count(state[0]) < most)

    def step(carry: Any) -> Any:
        state, ends = carry
        flow, start = _METHOD.step(coordinates, rules, *state)
        # Under `vmap` a flow that has ended stays as it is. A select over `ends` would read all of it at each step.
        state = where(go_on(state), (flow, start), state)
        flow = state[0]
        return state, jax.tree.map(lambda all, x: put(all, x, count(flow)), ends, (flow.t, flow.y[0]))

    ends = jax.tree.map(lambda x: jnp.zeros((most + 1, *x.shape), x.dtype).at[0].set(x), (begun.t, begun.y[0]))
    state, ends = while_any(lambda carry: go_on(carry[0]), step, (state, ends))
    flow = state[0]
    # After the last step its time and its state are repeated. This also holds for a flow that failed.
    over = jnp.arange(most + 1) > count(flow)
    times, states = jax.tree.map(lambda all, x: where(over, x[None], all), ends, (flow.t, flow.y[0]))
    enough = ~flow.active & (flow.code != RESULTS.max_steps_reached)
    return of_own_type(state), Steps(times, states, enough)


def _probe(y0: State) -> State:
    """The probe: a tangent without any special direction."""

    def one(x: Matrix) -> Matrix:
        i, j = (jnp.arange(n, dtype=x.dtype) for n in x.shape)
        return jnp.cos(jnp.multiply.outer(i + 1, j + 2)) * jnp.max(jnp.abs(x))

    return jax.tree.map(one, y0)


def replay(problem: Problem, t_end: Scalar, steps: Steps, times_move: bool) -> State:
    """X, or its factors, at each of the times that the flow reaches, differentiable in both modes.

    Without `times_move` it is not differentiable in `ts`, which halves the program.
    """
    ts = reached(problem, t_end)
    fixed = jax.lax.stop_gradient(ts)
    end = steps.times[-1]
    index = jnp.searchsorted(steps.times, jnp.minimum(fixed, end))
    ys = jax.tree.map(lambda ys: ys[index], _at_ends(problem, steps=steps))
    if times_move:
        # `later` is 0, but its derivative is that of `ts`. A last step of this length gives X its derivative in `ts`.
        later = ts - fixed
        ys = jax.vmap(lambda y, h: _step(problem, y, h))(ys, later)
    return ys


@filter_custom_jvp
def _at_ends(problem: Problem, *, steps: Steps) -> State:
    """X, or its factors, at the start and at the ends of the steps. They are known, and this gives them a derivative.

    The values are those that the steps of Dopri5 of these lengths would have, and so is the derivative.
    """
    return steps.states


@_at_ends.def_jvp
def _at_ends_jvp(primals: tuple[Problem], tangents: tuple[Any], *, steps: Steps) -> tuple[State, State]:
    (problem,), (dproblem,) = primals, tangents
    ys = _at_ends(problem, steps=steps)
    dy0 = _tangent_of_start(problem, dproblem, jax.tree.map(lambda y: y[0], ys))

    # The adjoint keeps X at the start of each step, and no more.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(dy: State, start: tuple[State, Scalar]) -> tuple[State, State]:
        y, h = start
        _, dy = eqx.filter_jvp(lambda problem, y: _step(problem, y, h), (problem, y), (dproblem, dy))
        return dy, dy

    def chunk(dy: State, starts: tuple[State, Float[Array, " chunk"]]) -> tuple[State, State]:
        walk = lambda dy: jax.lax.scan(step, dy, starts)
        stay = lambda dy: (dy, jax.tree.map(lambda x: jnp.broadcast_to(x, (_CHUNK, *x.shape)), dy))
        return jax.lax.cond(any_of_batch(jnp.any(starts[1] > 0)), walk, stay, dy)

    in_chunks = lambda x: x.reshape(-1, _CHUNK, *x.shape[1:])
    starts = jax.tree.map(lambda y: y[:-1], ys), jnp.diff(steps.times)
    _, dys = jax.lax.scan(chunk, dy0, jax.tree.map(in_chunks, starts))
    after = lambda dy0, dys: jnp.concatenate([dy0[None], dys.reshape(-1, *dy0.shape)])
    return ys, jax.tree.map(after, dy0, dys)


def _tangent_of_start(problem: Problem, dproblem: Any, y0: State) -> State:
    """The tangent of X at the start, or that of the factors `y0`, in which the steps have been found."""
    if isinstance(y0, Factored):
        return lifted(y0, problem.start, instantiate(dproblem.start, problem.start))
    x0, dx0 = eqx.filter_jvp(lambda problem: problem.x0, (problem,), (dproblem,))
    return instantiate(dx0, x0)


def _step(problem: Problem, y: State, h: Scalar) -> State:
    """A step of Dopri5. The last stage of Dopri5 is the state at the end of the step."""
    kind = FactoredCoordinates if isinstance(y, Factored) else MatrixCoordinates
    # No step is chosen here, so the two tolerances are never used: `h` only fills their places.
    velocity = lambda y: kind(problem.energy, problem.kernel, h, h, None).velocity(y)[0]
    rows = jnp.asarray(square_tableau(_DOPRI5.tableau), h.dtype)
    stages = len(rows)

    def ahead(weights: Float[Array, " stages"], ks: State) -> State:
        return jax.tree.map(lambda x, k: x + h * jnp.tensordot(weights, k, 1), y, ks)

    def stage(ks: State, row: tuple[Any, Any]) -> tuple[State, None]:
        i, weights = row
        return jax.tree.map(lambda k, v: k.at[i].set(v), ks, velocity(ahead(weights, ks))), None

    none = jax.tree.map(lambda x: jnp.zeros((stages, *x.shape), x.dtype), y)
    ks, _ = jax.lax.scan(stage, none, (jnp.arange(stages - 1), rows[:-1]))
    return ahead(rows[-1], ks)
