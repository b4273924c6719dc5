"""The flow in X in two passes, for its derivative: `find_steps` chooses the steps, and `replay` takes them again.

The first pass is not differentiated. The second pass is a scan of steps of Dopri5 of known lengths, which JAX
differentiates in either mode. If the first pass were differentiated, the choice of the steps would be differentiated
too, and the loop would have to be compiled for the largest number of steps, with the rejected steps among them.
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
from dlnjax._flows.problem import Options, Problem
from dlnjax._flows.step import Rules, start_flow
from dlnjax._results import RESULTS
from dlnjax._runge_kutta import square_tableau
from dlnjax._tree import any_of_batch, iterate, norm
from dlnjax._types import Matrix, Scalar

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
    """The flow of X together with one tangent, the probe. The errors of both control the step.

    Steps that are chosen for X alone may be far too long for its derivative, which still moves when X is at rest.
    """

    @property
    def _alone(self) -> MatrixCoordinates:
        return MatrixCoordinates(self.energy, self.kernel, self.rtol, self.atol, None)

    def velocity(self, y: tuple[Matrix, Matrix]) -> tuple[tuple[Matrix, Matrix], None]:
        return jax.jvp(lambda x: self._alone.velocity(x)[0], y[:1], y[1:]), None

    def error(self, y0: Any, y1: Any, error: Any) -> Scalar:
        return jnp.maximum(*(self._alone.error(*each) for each in zip(y0, y1, error, strict=True)))

    def size(self, y: tuple[Matrix, Matrix]) -> Scalar:
        return self._alone.size(y[0])

    def loses_rank(self, y0: Any, y1: Any) -> Bool[Array, ""]:
        return self._alone.loses_rank(y0[0], y1[0])


def reached(problem: Problem, t_end: Scalar) -> Float[Array, " ts"]:
    """The times that the user asked for, counted from the first of them, and none later than `t_end`."""
    # `jnp.minimum` would halve the derivative where the last time is equal to `t_end`.
    start = problem.ts[0]
    return jnp.where(problem.ts <= t_end, problem.ts - start, jax.lax.stop_gradient(t_end - start))


@compiled
def find_steps(problem: Problem, t_end: Scalar, options: Options) -> Steps:
    """The steps of Dopri5 for the flow in X, which end at each of the times that the flow reaches."""
    x0, ts = problem.x0, reached(problem, t_end)
    coordinates = _Probed(problem.energy, problem.kernel, options.rtol, options.absolute(norm(x0)), None)
    rules, method = Rules(ts, None, jnp.asarray(2 * MOST_STEPS)), Explicit(_DOPRI5)
    i = jnp.arange(len(x0), dtype=x0.dtype)
    probe = jnp.cos(jnp.multiply.outer(i + 1, i + 2)) * jnp.max(jnp.abs(x0))
    flow = start_flow(coordinates, (x0, probe), rules, method.order, method.memory(coordinates))
    times = jnp.zeros(MOST_STEPS + 1, ts.dtype)

    def step(state: Any) -> Any:
        flow, times = state
        flow, _ = method.step(coordinates, rules, flow)
        return flow, times.at[flow.accepted].set(flow.t)

    flow, times = iterate(step, lambda state: state[0].active & (state[0].accepted < MOST_STEPS), (flow, times))
    # After the last step its time is repeated. This also holds for a flow that failed.
    times = jnp.where(jnp.arange(len(times)) > flow.accepted, flow.t, times)
    enough = ~flow.active & (flow.code != RESULTS.max_steps_reached)
    return Steps(times, jnp.searchsorted(times, jnp.minimum(ts, flow.t)), flow.accepted, ts <= flow.t, enough)


@compiled
def replay(problem: Problem, t_end: Scalar, steps: Steps) -> Float[Array, "ts d d"]:
    """X at each of the times that the flow reaches, differentiable in both modes."""
    # `replay` chooses no steps, so the two tolerances are never used: `t_end` only fills their places.
    coordinates = MatrixCoordinates(problem.energy, problem.kernel, t_end, t_end, None)

    def velocity(x: Matrix) -> Matrix:
        return coordinates.velocity(x)[0]

    @jax.checkpoint
    def step(x: Matrix, h: Scalar) -> tuple[Matrix, Matrix]:
        x = _step(velocity, x, h)
        return x, x

    def chunk(x: Matrix, h: Float[Array, " chunk"]) -> tuple[Matrix, Float[Array, "chunk d d"]]:
        walk = lambda x: jax.lax.scan(step, x, h)
        stay = lambda x: (x, jnp.broadcast_to(x, (len(h), *x.shape)))
        return jax.lax.cond(any_of_batch(jnp.any(h > 0)), walk, stay, x)

    x0, ts = problem.x0, reached(problem, t_end)
    _, xs = jax.lax.scan(chunk, x0, jnp.diff(steps.times).reshape(-1, _CHUNK))
    xs = jnp.concatenate([x0[None], xs.reshape(-1, *x0.shape)])[steps.index]
    # `later` is 0, but its derivative is that of `ts`. A last step of this length gives X its derivative in `ts`.
    later = ts - jax.lax.stop_gradient(ts)
    xs = jax.vmap(lambda x, h: _step(velocity, x, h))(xs, later)
    # A flow that fails on the way has no derivative beyond.
    return xs * jnp.where(steps.reached, 1.0, jnp.nan).astype(xs.dtype)[:, None, None]


def _step(velocity: Any, x: Matrix, h: Scalar) -> Matrix:
    """A step of Dopri5. The last stage of Dopri5 is the state at the end of the step."""
    rows = jnp.asarray(square_tableau(_DOPRI5.tableau), x.dtype)
    stages = len(rows)

    def stage(ks: Float[Array, "stages d d"], row: tuple[Any, Any]) -> tuple[Float[Array, "stages d d"], None]:
        i, weights = row
        return ks.at[i].set(velocity(x + h * jnp.tensordot(weights, ks, 1))), None

    ks, _ = jax.lax.scan(stage, jnp.zeros((stages, *x.shape), x.dtype), (jnp.arange(stages - 1), rows[:-1]))
    return x + h * jnp.tensordot(rows[-1], ks, 1)
