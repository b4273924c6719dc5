"""The method `Explicit`, which advances a flow by a whole step at a time.

The reach of a step is h times the spectral radius of the derivative of the velocity. A method is stable up to a certain
reach, so the reach says whether stability or accuracy limits the steps.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from dlnjax._flows.coordinates import Coordinates
from dlnjax._flows.method import Lanes, Method, save_reached, Task
from dlnjax._flows.step import Attempt, attempt_in, Choice, conclude, Flow, MEMORY, MOST_PATIENCE, NO_TERMS, Rules
from dlnjax._runge_kutta import clip, square_tableau
from dlnjax._tree import all_equal, any_of_batch, combine, positive, put, rowwise, where
from dlnjax._types import Scalar, State

# Dopri5 is stable up to a reach of 3.3. Where the running mean of the reach is above this value, stability limits the
# steps.
HELD_UP = 2.6
# A flow that changes to the stabilised method multiplies its running mean of the reach by this number. The steps become
# longer by the change. With the old mean, the flow could change back at once.
HEAD_START = 4
# After this many steps, and after a rejected step, the gauge of the chart is looked for again.
OLD = 5
# After each of this many steps, a flow asks whether it should change its coordinates.
ASKED = 32


class Start(eqx.Module):
    """What is `known` of the start of a step: the `velocity` there, in the chart of this `gauge`.

    The last stage of a step is its end, so that the next step has its first stage already. This velocity is that before
    `project`, which moves the state by less than the error of the step. Near rest the motion may be smaller still, and
    a step can be rejected for it. After a rejected step the velocity is therefore not known. `age` is the number of
    steps that the gauge has served.
    """

    gauge: PyTree
    velocity: State
    known: Bool[Array, "*n"]
    age: Int[Array, "*n"]

    def renewed(self, coordinates: Coordinates, y: State) -> "Start":
        """The start at the state `y`. Where an old gauge is no longer that of `y`, the velocity is not known."""
        old = self.age >= OLD
        renew = lambda: where(old, coordinates.gauge(y), self.gauge)
        gauge = jax.lax.cond(any_of_batch(old), renew, lambda: self.gauge)
        known = all_equal((gauge, True), (self.gauge, self.known))
        return Start(gauge, self.velocity, known, jnp.where(old, 0, self.age))


# The methods of a solver of diffrax by which it takes a step.
_METHODS = ("init", "step", "func")


class Explicit(Method):
    """A solver of diffrax with an error estimate. Its steps are cut to end at the next time to be saved.

    `_stages` takes the step of a Runge-Kutta method whose last stage is the end of the step, as in Dopri5. `_library`
    calls diffrax for any other solver. It starts the solver anew at each step, since what diffrax keeps would depend on
    the other flows under `vmap`.
    """

    def __init__(self, solver: diffrax.AbstractSolver, stiff: int | None = None, other: int | None = None):
        """`stiff` is the number of the method to which a flow changes where stability limits its steps, and `other` of
        the one where its coordinates are a `misfit`, or None.
        """
        tableau = getattr(solver, "tableau", None)
        self.solver = solver
        self.tableau: Any = tableau
        # A class of one's own may take its steps in another way.
        methods = [getattr(type(solver), name) is getattr(diffrax.AbstractERK, name, None) for name in _METHODS]
        self.written_out = all(methods) and tableau is not None and tableau.fsal and tableau.ssal
        self.stiff, self.other = stiff, other
        order = solver.error_order(NO_TERMS)
        assert order is not None  # every adaptive solver has one
        self.order = float(order)

    def memory(self, coordinates: Coordinates) -> Callable:
        if self.written_out:
            return lambda t, h, y: None
        return lambda t, h, y: self.solver.init(_terms(coordinates), t, t + h, y, None)

    def begin(self, coordinates: Coordinates, flow: Flow) -> "Start | None":
        if not self.written_out:
            return None
        gauge = coordinates.gauge(flow.y)
        still = jax.tree.map(jnp.zeros_like, coordinates.chart(gauge).enter(flow.y))
        return Start(gauge, still, jnp.asarray(False), jnp.array(0))

    def advance(self, task: Task, work: Lanes, saved: PyTree) -> tuple[Lanes, PyTree]:
        """Try one step of the flow on every lane."""
        step = rowwise(lambda own, flow, start: self.step(task.coordinates(own), task.rules, flow, start))
        flow, start = step(work.own, work.flow, work.stage)
        reached = lambda index: (work.id < task.n) & (index < flow.index)
        after = Lanes(work.id, flow, work.own, start)
        return save_reached(task, after, saved, work.flow.index, reached, flow.y, lambda y, index: y)

    def step(
        self, coordinates: Coordinates, rules: Rules, s: Flow, start: "Start | None"
    ) -> tuple[Flow, "Start | None"]:
        """(the flow after one attempt, the start of the next step)."""
        end = rules.ts[jnp.minimum(s.index, len(rules.ts) - 1)]
        h, last = clip(s.h, end - s.t)
        t1 = jnp.where(last, end, s.t + h)
        if start is None:
            attempt, evaluations, reach = self._library(coordinates, rules, s, h, t1)
            after, keep = conclude(coordinates, rules, s, attempt, self.order)
            choice = self._choose(s.choice, keep, reach)
        else:
            start = start.renewed(coordinates, s.y)
            evaluations = self.tableau.num_stages - start.known.astype(int)
            attempt, velocity, reach, misfit = self._stages(coordinates, rules, s, start, h, t1)
            after, keep = conclude(coordinates, rules, s, attempt, self.order)
            # The velocity at the end of a rejected step may be NaN, and NaN times a weight 0 is NaN.
            velocity = where(keep, velocity, start.velocity)
            start = Start(start.gauge, velocity, keep, jnp.where(keep, start.age + 1, OLD))
            asks = keep & (s.choice.stay % ASKED == ASKED - 1)
            choice = self._choose(s.choice, keep, reach).asked(asks, misfit, self.other)
        advanced = (s.index + (keep & last).astype(int), s.evaluations + evaluations, choice)
        return eqx.tree_at(lambda f: (f.index, f.evaluations, f.choice), after, advanced), start

    def _choose(self, choice: Choice, keep: Bool[Array, ""], reach: Scalar) -> Choice:
        if self.stiff is None:
            return choice
        mean = jnp.where(keep, MEMORY * choice.reach + (1 - MEMORY) * reach, choice.reach)
        stay = choice.stay + keep.astype(int)
        leave = (mean > HELD_UP) & (stay >= choice.patience)
        longer = jnp.minimum(choice.patience * 2, MOST_PATIENCE)
        zero, stiff = jnp.zeros_like(stay), jnp.asarray(self.stiff)
        leaving = replace(choice, method=stiff, reach=HEAD_START * mean, stay=zero, patience=longer)
        return where(leave, leaving, replace(choice, reach=mean, stay=stay))

    def _stages(
        self, coordinates: Coordinates, rules: Rules, s: Flow, start: "Start", h: Scalar, t1: Scalar
    ) -> tuple[Attempt, State, Scalar, Callable[[], Bool[Array, ""]]]:
        """(the attempt, the velocity at its end, its reach, a function that tells if the coordinates are a misfit)."""
        chart = coordinates.chart(start.gauge)
        # `t1` is rounded, so the step that leads to `t1` may differ from `h` in the last digits.
        h_exact, z0 = t1 - s.t, chart.enter(s.y)
        rows = square_tableau(self.tableau)
        weigh = lambda weights, ks: jax.tree.map(lambda k: jnp.tensordot(h_exact * weights, k, 1), ks)

        # The stages run in a loop, so that the velocity is compiled once and not once for each stage. The first stage
        # is left out if no flow on any lane needs it.
        def stage(i: Any, carry: PyTree):
            ks, _, _ = carry
            z = combine((1.0, z0), (1.0, weigh(weights[i], ks)))
            velocity, unrest = chart.velocity(z)
            velocity = where((i == 0) & start.known, start.velocity, velocity)
            return jax.tree.map(lambda k, v: put(k, v, i), ks, velocity), z, unrest

        weights = jnp.asarray(rows, h.dtype)
        first = jnp.where(any_of_batch(~start.known), 0, 1)
        begin = lambda v: jnp.zeros((len(rows), *v.shape), v.dtype).at[0].set(v)
        carry = jax.tree.map(begin, start.velocity), z0, s.unrest
        ks, z, unrest = jax.lax.fori_loop(first, len(rows), stage, carry)
        velocity = jax.tree.map(lambda k: k[-1], ks)
        # The last two stages have the same time. The difference of their velocities over the difference of their states
        # estimates the spectral radius: E. Hairer and G. Wanner, Solving Ordinary Differential Equations II, section
        # IV.2. Velocities are multiplied by the step before they are squared, so that the squares stay in the range of
        # the floats in any unit of time.
        last_two = [0.0] * (len(rows) - 2) + [-1.0, 1.0]
        sums = weigh(jnp.asarray([self.tableau.b_error, rows[-1] - rows[-2], last_two], h.dtype), ks)
        error, of_states, of_velocities = (jax.tree.map(lambda x, i=i: x[i], sums) for i in range(3))
        apart, moved = chart.measure(z0, of_states), chart.measure(z0, of_velocities)
        reach = moved / positive(apart)
        y1, ended = chart.leave(z, velocity)
        reach = jnp.where(jnp.isfinite(reach), reach, 0.0)
        attempt = attempt_in(chart, rules, z0, z, error, h=h, t1=t1, y1=y1, unrest=unrest)
        return attempt, ended, reach, partial(coordinates.misfit, chart, s.y, z, error)

    def _library(
        self, coordinates: Coordinates, rules: Rules, s: Flow, h: Scalar, t1: Scalar
    ) -> tuple[Attempt, int, Scalar]:
        y1, error, _, memory, _ = self.solver.step(_terms(coordinates), s.t, t1, s.y, None, s.memory, made_jump=True)
        unrest = coordinates.velocity(y1)[1]
        attempt = attempt_in(coordinates, rules, s.y, y1, error, h=h, t1=t1, y1=y1, unrest=unrest, memory=memory)
        return attempt, 0, jnp.zeros_like(h)


def _terms(coordinates: Coordinates) -> diffrax.ODETerm:
    return diffrax.ODETerm(lambda t, y, args: coordinates.velocity(y)[0])
