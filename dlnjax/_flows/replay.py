"""The flow in X in two passes, for its derivative: `find_steps` chooses the steps, and `replay` takes them again.

The first pass is not differentiated. The second pass is a scan of steps of Dopri5 of known lengths, which JAX
differentiates in either mode. If the first pass were differentiated, the choice of the steps would be differentiated
too, and the loop would have to be compiled for the largest number of steps, with the rejected steps among them.

For a thin frame, both passes take the flow of P, S and Q in X = P S Q^T (`factored`) in place of the flow in X.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dlnjax._compile import compiled
from dlnjax._flows.coordinates import Coordinates, MatrixCoordinates
from dlnjax._flows.explicit import Explicit
from dlnjax._flows.factored import Factored, factored, FactoredCoordinates
from dlnjax._flows.frame import is_thin
from dlnjax._flows.problem import Options, Problem
from dlnjax._flows.step import Rules, start_flow
from dlnjax._results import RESULTS
from dlnjax._runge_kutta import square_tableau
from dlnjax._svd import SVD
from dlnjax._tree import any_of_batch, iterate, norm
from dlnjax._types import Matrix, Scalar, State

# The largest number of steps. The reverse mode keeps the state at the start of each step in memory.
MOST_STEPS = 4096
# The second pass takes, or skips, this many steps together.
_CHUNK = 64
_DOPRI5 = diffrax.Dopri5()


class Steps(eqx.Module):
    """The steps of a flow. `times` has 0 and the times at which steps end; after the last step, that time is repeated.

    `index` has the positions in `times` of the times that the user asked for, and `reached` says which of these the
    flow has reached. `count` is the number of steps. `enough` says that the flow did not need more than `MOST_STEPS`.
    """

    times: Float[Array, " ends"]
    index: Int[Array, " ts"]
    count: Int[Array, ""]
    reached: Bool[Array, " ts"]
    enough: Bool[Array, ""]

    def shortest(self) -> "Steps":
        """The same steps with `times` cut to the shortest of a few lengths. It needs a concrete `count`.

        There are few lengths, so that `replay` is compiled for few shapes.
        """
        chunks = -(-int(self.count) // _CHUNK)
        length = _CHUNK * 2 ** int(np.ceil(np.log2(max(chunks, 1))))
        return eqx.tree_at(lambda s: s.times, self, self.times[: length + 1])


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


@compiled
def find_steps(problem: Problem, t_end: Scalar, options: Options) -> Steps:
    """The steps of Dopri5 that end at each of the times that the flow reaches."""
    y0, ts = start_of(problem), reached(problem, t_end)
    thin = isinstance(y0, Factored)
    size = norm(y0.s if thin else y0)
    coordinates = _Probed(problem.energy, problem.kernel, options.rtol, options.absolute(size), None, thin)
    rules, method = Rules(ts, None, jnp.asarray(2 * MOST_STEPS)), Explicit(_DOPRI5)
    flow = start_flow(coordinates, (y0, _probe(y0)), rules, method.order, method.memory(coordinates))
    times = jnp.zeros(MOST_STEPS + 1, ts.dtype)

    def step(state: Any) -> Any:
        flow, start, times = state
        flow, start, _ = method.step(coordinates, rules, flow, start)
        return flow, start, times.at[flow.accepted].set(flow.t)

    go_on = lambda state: state[0].active & (state[0].accepted < MOST_STEPS)
    flow, _, times = iterate(step, go_on, (flow, method.begin(coordinates, flow), times))
    # After the last step its time is repeated. This also holds for a flow that failed.
    times = jnp.where(jnp.arange(len(times)) > flow.accepted, flow.t, times)
    enough = ~flow.active & (flow.code != RESULTS.max_steps_reached)
    return Steps(times, jnp.searchsorted(times, jnp.minimum(ts, flow.t)), flow.accepted, ts <= flow.t, enough)


def _probe(y0: State) -> State:
    """The probe: a tangent without any special direction."""

    def one(x: Matrix) -> Matrix:
        i, j = (jnp.arange(n, dtype=x.dtype) for n in x.shape)
        return jnp.cos(jnp.multiply.outer(i + 1, j + 2)) * jnp.max(jnp.abs(x))

    return jax.tree.map(one, y0)


@compiled
def replay(problem: Problem, t_end: Scalar, steps: Steps) -> State:
    """X, or its factors, at each of the times that the flow reaches, differentiable in both modes."""
    y0, ts = start_of(problem), reached(problem, t_end)
    kind = FactoredCoordinates if isinstance(y0, Factored) else MatrixCoordinates
    # `replay` chooses no steps, so the two tolerances are never used: `t_end` only fills their places.
    coordinates = kind(problem.energy, problem.kernel, t_end, t_end, None)

    def velocity(y: State) -> State:
        return coordinates.velocity(y)[0]

    @jax.checkpoint
    def step(y: State, h: Scalar) -> tuple[State, State]:
        y = _step(velocity, y, h)
        return y, y

    def chunk(y: State, h: Float[Array, " chunk"]) -> tuple[State, State]:
        walk = lambda y: jax.lax.scan(step, y, h)
        stay = lambda y: (y, jax.tree.map(lambda x: jnp.broadcast_to(x, (len(h), *x.shape)), y))
        return jax.lax.cond(any_of_batch(jnp.any(h > 0)), walk, stay, y)

    def saved(x0: Array, xs: Array) -> Array:
        return jnp.concatenate([x0[None], xs.reshape(-1, *x0.shape)])[steps.index]

    _, ys = jax.lax.scan(chunk, y0, jnp.diff(steps.times).reshape(-1, _CHUNK))
    # `later` is 0, but its derivative is that of `ts`. A last step of this length gives X its derivative in `ts`.
    later = ts - jax.lax.stop_gradient(ts)
    ys = jax.vmap(lambda y, h: _step(velocity, y, h))(jax.tree.map(saved, y0, ys), later)
    # A flow that fails on the way has no derivative beyond.
    valid = jnp.where(steps.reached, 1.0, jnp.nan).astype(ts.dtype)[:, None, None]
    return jax.tree.map(lambda x: x * valid, ys)


def _step(velocity: Any, y: State, h: Scalar) -> State:
    """A step of Dopri5. The last stage of Dopri5 is the state at the end of the step."""
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
