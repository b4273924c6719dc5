"""The trajectory of a checked problem: its state at the start, its coordinates, its methods, and the saved states."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._compile import compiled, runs_at_once
from dlnjax._flows.charts import BlockedFrame, CHARTED, PairedFrame
from dlnjax._flows.chebyshev import RungeKuttaChebyshev
from dlnjax._flows.coordinates import Coordinates, MatrixCoordinates
from dlnjax._flows.explicit import Explicit
from dlnjax._flows.frame import FrameCoordinates
from dlnjax._flows.lanes import begin, empty, Ends, Turn
from dlnjax._flows.method import Method, Task
from dlnjax._flows.problem import Options, Problem, rounding
from dlnjax._flows.solvers import with_tolerances
from dlnjax._flows.stabilised import Stabilised
from dlnjax._flows.step import Flow, Rules
from dlnjax._protocol import pullback, value
from dlnjax._results import RESULTS
from dlnjax._svd import canonical, orthogonalise, SVD, svd, turn
from dlnjax._tree import all_finite, norm, rowwise, where, while_any
from dlnjax._types import Scalar, State

# The numbers of the methods of a flow in the frame, between which it changes.
EXPLICIT, STIFF, BLOCKS, STIFF_BLOCKS = range(4)
# A matrix with this many entries is large: of 32 of them more than 16 MB are made.
_LARGE = 2**16
# The saved states of this many times are put in order together. Together with those of all times they would need
# several arrays as large as all that is saved, and times that are only repeated would cost as much as others.
TOGETHER = 4


class Trajectory(eqx.Module):
    """The saved states and how the flow ended. With `observe`, `svd` and `energy` are None."""

    svd: SVD | None
    sigma: Float[Array, "*n ts d"]
    energy: Float[Array, "*n ts"] | None
    observed: Any
    final: SVD
    t_end: Float[Array, "*n"]
    code: RESULTS
    steps: Int[Array, "*n"]
    rejected: Int[Array, "*n"]
    evaluations: Int[Array, "*n"]
    # How often the determinant changed its sign, which is counted with noise only.
    crossings: Int[Array, "*n"] | None = None

    def observed_by(self, observe: Callable[[SVD], Any]) -> "Trajectory":
        """What a flow with `observe` has, from one that has saved all states."""
        assert self.svd is not None
        return replace(self, svd=None, energy=None, observed=jax.vmap(observe)(self.svd))


def start_of(problem: Problem, options: Options) -> State:
    """The state from which a flow starts. A flow in the frame decomposes its matrix here and only here."""
    if options.coordinates == "svd":
        return _frame_start(problem, _gap(options))
    return problem.x0


def trajectory_of(problem: Problem, options: Options) -> Trajectory:
    """The flow of one problem. Outside of `jit` each turn of a method is a program of its own.

    A method that a flow does not need is then not compiled.
    """
    if not runs_at_once(problem, options):
        return _as_one_program(problem, options)
    y0, state = _begin(problem, options)
    # The start is removed, so that the programs below are the same for a start given as a matrix and as an `SVD`.
    problem = eqx.tree_at(lambda p: p.start, problem, None)
    while (number := next_turn(state[0])) is not None:
        state = _turn(problem, options, y0, state, number)
    return _conclude(problem, options, y0, state)


def next_turn(flows: Flow) -> int | None:
    """The number of a method that some flow needs, or None if all have ended, or if shapes alone are known."""
    if isinstance(flows.active, jax.ShapeDtypeStruct):
        return None
    methods = np.asarray(flows.choice.method)[np.asarray(flows.active)]
    return int(methods[0]) if len(methods) else None


@compiled
def _as_one_program(problem: Problem, options: Options) -> Trajectory:
    y0 = _one(start_of(problem, options))
    flows = _flow_of(problem, options, y0, whole=True)
    return _alone(flows.conclude(_to_the_end(flows, flows.begin(), lanes=1), len(problem.ts)))


@compiled
def _begin(problem: Problem, options: Options) -> tuple[State, PyTree]:
    y0 = _one(start_of(problem, options))
    return y0, of_own_type(_flow_of(problem, options, y0).begin())


@compiled
def _turn(problem: Problem, options: Options, y0: State, state: PyTree, number: int) -> PyTree:
    return of_own_type(_flow_of(problem, options, y0).turns[number](*state, lanes=1))


@compiled
def _conclude(problem: Problem, options: Options, y0: State, state: PyTree) -> Trajectory:
    return _alone(_flow_of(problem, options, y0).conclude(state, len(problem.ts)))


def _flow_of(problem: Problem, options: Options, y0: State, whole: bool = False) -> "Flows":
    arrays, rest = eqx.partition(problem, eqx.is_array)
    return Flows(lambda row: eqx.combine(row, rest), _one(arrays), y0, problem.ts, options, whole)


def _one(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[None], tree)


def of_own_type(tree: PyTree) -> PyTree:
    """The tree without weak types. A weak type, left by a Python number, would make the next program compile again."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)


def _alone(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x[0], tree)


def _to_the_end(flows: "Flows", state: PyTree, lanes: int) -> PyTree:
    """(the flows after their end, the buffers). The turns of all methods are repeated until no flow is active."""

    def round(state: PyTree) -> PyTree:
        for each in flows.turns:
            state = each(*state, lanes=lanes)
        return state

    return while_any(lambda state: jnp.any(state[0].active), round, state)


class Flows:
    """The flows of many problems from the states `y0`, one for each row: their begin, their turns and their end.

    `of_row(row)` makes the problem of one row. With `whole`, one program has all methods.
    """

    def __init__(
        self,
        of_row: Callable[[Any], Problem],
        rows: PyTree,
        y0: State,
        ts: Float[Array, " ts"],
        options: Options,
        whole: bool = False,
    ):
        self.of_row, self.rows, self.y0, self.ts, self.options = of_row, rows, y0, ts, options
        self.n = len(jax.tree.leaves(y0)[0])
        # Beside a flow of a program of all methods, others may run under `jax.vmap`.
        self.alone = self.n == 1 and not whole
        self.frame = options.coordinates == "svd"
        self.own = rows, y0.sigma if self.frame else rowwise(norm)(y0)
        # The velocity does not depend on the time, so times are counted from the start. Near a large time, a short step
        # would be lost in rounding.
        self.rules = Rules(ts - ts[0], options.steady, options.max_steps)
        self.task = self._task(blocked=False)
        self.turns = [
            Turn(self._task(number >= BLOCKS), self.own, number, method)
            for number, method in enumerate(_methods(options, whole))
        ]

    def _task(self, blocked: bool) -> Task:
        coordinates = lambda own: _coordinates(self.of_row(own[0]), own[1], self.options, blocked)
        return Task(coordinates, self.rules, self._seen, self.n, self.alone)

    def begin(self, wanted: Bool[Array, " n"] | bool = True) -> tuple[Flow, PyTree]:
        """(the flows before their first step, empty buffers). A flow that is not `wanted` has ended already."""
        flows = begin(self.task.coordinates, (self.own, self.y0), self.task.rules, self.turns[0].method)
        return eqx.tree_at(lambda f: f.active, flows, flows.active & wanted), empty(self.task, self.y0)

    def conclude(self, state: tuple[Flow, PyTree], count: Int[Array, ""] | int) -> Trajectory:
        """The trajectories. `count` is the number of `ts` that are asked for. What is returned for later times means
        nothing.
        """
        flows, saved = state
        ends = Ends.of(self.task, self.y0, flows)
        svd, observed, energy = None, None, None
        if self.options.observe is None:
            svd, energy = self._points(ends, saved, count)
            sigma = svd.sigma
        else:
            sigma, observed = ends.fill(saved)
        return Trajectory(
            svd=svd,
            sigma=sigma,
            energy=energy,
            observed=observed,
            final=rowwise(self._to_svd)(flows.y),
            t_end=jnp.where(flows.t == self.task.rules.ts[-1], self.ts[-1], self.ts[0] + flows.t),
            code=flows.code,
            steps=flows.accepted,
            rejected=flows.rejected,
            evaluations=flows.evaluations,
        )

    def _points(self, ends: Ends, saved: State, count: Int[Array, ""] | int) -> tuple[SVD, Float[Array, "n ts"]]:
        """(the states at the first `count` of the times, and perhaps at more, their energies)."""

        def found(saved: State, first: Any) -> tuple[SVD, Float[Array, "n together"]]:
            points = rowwise(jax.vmap(self._to_svd))(ends.fill(saved, first))
            energies = lambda row, points: values_along(self.of_row(row).energy, points)
            return points, rowwise(energies)(self.rows, points)

        times = len(self.ts)
        if times % TOGETHER > 0:
            return found(saved, 0)

        def some(k: Any, done: tuple[SVD, Array]) -> tuple[SVD, Array]:
            first = k * TOGETHER
            # The states in the frame are replaced where they are saved, which spares a second array of their size.
            raw = done[0] if self.frame else saved
            raw = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, TOGETHER, axis=1), raw)
            put = lambda all, some: jax.lax.dynamic_update_slice_in_dim(all, some, first, axis=1)
            return jax.tree.map(put, done, found(raw, first))

        shapes = jax.eval_shape(lambda saved: found(saved, 0), saved)
        points, energies = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        rounds = -(-count // TOGETHER)
        return jax.lax.fori_loop(0, rounds, some, (saved if self.frame else points, energies))

    def _seen(self, y: State) -> PyTree:
        """What is saved at each time: the state or, with `observe`, the singular values and what `observe` returns."""
        if self.options.observe is None:
            return y
        point = self._to_svd(y)
        return point.sigma, self.options.observe(point)

    def _to_svd(self, y: State) -> SVD:
        # A saved frame is orthogonal only to about the tolerance, as it may be interpolated. `orthogonalise` squares
        # this error.
        return canonical(SVD(orthogonalise(y.u), y.sigma, orthogonalise(y.v))) if self.frame else svd(y)


def values_along(energy: Callable, points: SVD) -> Float[Array, " ts"]:
    """The energy at each of the points; of large matrices one after the other, since X of all would fill the memory."""
    if len(points.u[0]) * len(points.v[0]) < _LARGE:
        return jax.vmap(partial(value, energy))(points)
    return jax.lax.map(partial(value, energy), points)


def _methods(options: Options, whole: bool) -> Sequence[Method]:
    """The methods between which a flow changes: by default Dopri5 and the stabilised method, and both once more in
    blocks. In X there is Dopri5 alone. A program of all methods has none in blocks, which would double its compilation.
    """
    solver = options.solver
    if solver is None and options.coordinates == "svd":
        dopri5 = diffrax.Dopri5()
        if whole:
            return Explicit(dopri5, stiff=STIFF), Stabilised(explicit=EXPLICIT)
        return (
            Explicit(dopri5, stiff=STIFF, other=BLOCKS),
            Stabilised(explicit=EXPLICIT, other=BLOCKS),
            Explicit(dopri5, stiff=STIFF_BLOCKS, other=EXPLICIT),
            Stabilised(explicit=BLOCKS, other=EXPLICIT),
        )
    if isinstance(solver, RungeKuttaChebyshev):
        return (Stabilised(),)
    atol = options.absolute(jnp.ones_like(options.rtol))
    return (Explicit(with_tolerances(solver or diffrax.Dopri5(), options.rtol, atol)),)


def _coordinates(problem: Problem, size: Float[Array, "*values"], options: Options, blocked: bool) -> Coordinates:
    """The coordinates of a problem. `size` is the size of the start: its singular values or, in X, its norm."""
    atol = options.absolute(size)
    if options.coordinates == "matrix":
        return MatrixCoordinates(problem.energy, problem.kernel, options.rtol, atol, options.steady)
    columns = options.absolute(jnp.ones_like(options.rtol))
    frame = BlockedFrame if blocked else PairedFrame if len(size) >= CHARTED else FrameCoordinates
    return frame(problem.energy, problem.kernel, options.rtol, atol, options.steady, _gap(options), columns)


def _gap(options: Options) -> Scalar:
    # Where two singular values differ by less than the tolerance, the common rotation of their vectors does not matter.
    # A difference below eps^(5/8) is rounding.
    return jnp.maximum(options.rtol / 10, jnp.finfo(options.rtol.dtype).eps ** 0.625)


def decomposed_start(problem: Problem) -> tuple[SVD, Bool[Array, ""]]:
    """(the decomposition of the start, whether the start is finite).

    A start that is not finite is replaced by the identity, so that no NaN is decomposed. Whoever takes it makes its
    singular values NaN in the end, by which the failure is seen later.
    """
    start = problem.start if isinstance(problem.start, SVD) else svd(problem.start)
    finite = all_finite(start)
    eye = lambda q: jnp.eye(*q.shape, dtype=q.dtype)
    start: SVD = canonical(where(finite, start, SVD(eye(start.u), jnp.ones_like(start.sigma), eye(start.v))))
    if not isinstance(problem.start, SVD):
        # Singular values of a matrix at the level of rounding are set to zero, so that the flow keeps that rank. Those
        # of a given `SVD` are left as they are.
        floor = rounding(start.sigma) * start.sigma[0]
        start = SVD(start.u, jnp.where(start.sigma > floor, start.sigma, 0.0), start.v)
    return start, finite


def _frame_start(problem: Problem, gap: Scalar) -> SVD:
    start, finite = decomposed_start(problem)
    y0 = turn(start, pullback(problem.energy, start), gap)
    return SVD(y0.u, jnp.where(finite, y0.sigma, jnp.nan), y0.v)
