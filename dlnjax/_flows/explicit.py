"""The method `Explicit`, which advances a flow by a whole step at a time.

The reach of a step is h times the spectral radius of the derivative of the velocity. A method is stable up to a certain
reach, so the reach says whether stability or accuracy limits the steps.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from dlnjax._flows.coordinates import Coordinates
from dlnjax._flows.method import Lanes, Method, save_reached, Task
from dlnjax._flows.step import Attempt, Choice, conclude, Flow, MEMORY, MOST_PATIENCE, NO_TERMS, Rules
from dlnjax._runge_kutta import clip, square_tableau
from dlnjax._tree import combine, where
from dlnjax._types import Scalar, State

# Dopri5 is stable up to a reach of 3.3. Where the running mean of the reach is above this value, stability limits the
# steps.
HELD_UP = 2.6
# A flow that changes to the stabilised method multiplies its running mean of the reach by this number. The steps become
# longer by the change. With the old mean, the flow could change back at once.
HEAD_START = 4


class Explicit(Method):
    """A solver of diffrax with an error estimate. Its steps are cut to end at the next time to be saved.

    `_stages` takes the step of a Runge-Kutta method whose last stage is the end of the step, as in Dopri5. Each step
    has a chart of its own, so no velocity is kept for the next step. `_library` calls diffrax for any other solver. It
    starts the solver anew at each step, since what diffrax keeps would depend on the other flows under `vmap`.
    """

    def __init__(self, solver: diffrax.AbstractSolver, stiff: int | None = None):
        """`stiff` is the number of the method to which a flow changes where stability limits its steps, or None."""
        tableau = getattr(solver, "tableau", None)
        self.solver = solver
        self.tableau: Any = tableau
        self.written_out = (
            isinstance(solver, diffrax.AbstractERK) and tableau is not None and tableau.fsal and tableau.ssal
        )
        self.evaluations = self.tableau.num_stages if self.written_out else 0
        self.stiff = stiff
        order = solver.error_order(NO_TERMS)
        assert order is not None  # every adaptive solver has one
        self.order = float(order)

    def memory(self, coordinates: Coordinates) -> Callable:
        if self.written_out:
            return lambda t, h, y: None
        return lambda t, h, y: self.solver.init(_terms(coordinates), t, t + h, y, None)

    def begin(self, coordinates: Coordinates, flow: Flow) -> None:
        return None

    def advance(self, task: Task, work: Lanes, saved: PyTree) -> tuple[Lanes, PyTree]:
        """Try one step of the flow on every lane."""
        step = jax.vmap(lambda own, flow: self.step(task.coordinates(own), task.rules, flow))
        flow, saves = step(work.own, work.flow)
        busy = work.id < task.n
        flow = where(busy, flow, work.flow)
        saved = save_reached(task, work, saved, flow.y, (work.flow.index, busy & saves))
        return Lanes(work.id, flow, work.own, None), saved

    def step(self, coordinates: Coordinates, rules: Rules, s: Flow) -> tuple[Flow, Bool[Array, ""]]:
        """(the flow after one attempt, whether it has reached a time to be saved)."""
        end = rules.ts[jnp.minimum(s.index, len(rules.ts) - 1)]
        h, last = clip(s.h, end - s.t)
        t1 = jnp.where(last, end, s.t + h)
        try_step = self._stages if self.written_out else self._library
        attempt, reach = try_step(coordinates, s, h, t1)
        after, keep = conclude(coordinates, rules, s, attempt, self.order)
        saves = keep & last
        advanced = (s.index + saves.astype(int), s.evaluations + self.evaluations, self._choose(s.choice, keep, reach))
        return eqx.tree_at(lambda f: (f.index, f.evaluations, f.choice), after, advanced), saves

    def _choose(self, choice: Choice, keep: Bool[Array, ""], reach: Scalar) -> Choice:
        if self.stiff is None:
            return choice
        mean = jnp.where(keep, MEMORY * choice.reach + (1 - MEMORY) * reach, choice.reach)
        stay = choice.stay + keep.astype(int)
        leave = (mean > HELD_UP) & (stay >= choice.patience)
        longer = jnp.minimum(choice.patience * 2, MOST_PATIENCE)
        leaving = Choice(jnp.asarray(self.stiff), HEAD_START * mean, jnp.zeros_like(stay), longer)
        return where(leave, leaving, Choice(choice.method, mean, stay, choice.patience))

    def _stages(self, coordinates: Coordinates, s: Flow, h: Scalar, t1: Scalar) -> tuple[Attempt, Scalar]:
        """(the attempt, its reach)."""
        tableau, chart = self.tableau, coordinates.chart(coordinates.gauge(s.y))
        # `t1` is rounded, so the step that leads to `t1` may differ from `h` in the last digits.
        h_exact, z0 = t1 - s.t, chart.enter(s.y)
        stages = tableau.num_stages
        # The number of terms up to which the shorter of two sums is taken.
        few = stages // 2

        def weighted(weights: Float[Array, " stages"], ks: State, terms: int = stages) -> State:
            return jax.tree.map(lambda k: sum(h_exact * weights[j] * k[j] for j in range(terms)), ks)

        def ahead(terms: int) -> Callable[[Float[Array, " stages"], State], State]:
            return lambda weights, ks: combine((1.0, z0), (1.0, weighted(weights, ks, terms)))

        # The stages run in a loop, so that the velocity is compiled once and not once for each stage.
        def stage(i: Any, carry: PyTree):
            ks, before, _, _ = carry
            # Stage i has i terms. The sum of all stages would also read those that are still zero, and half of what a
            # step reads from memory would be zeros.
            z = jax.lax.cond(i <= few, ahead(few), ahead(stages - 1), rows[i], ks)
            velocity, unrest = chart.velocity(z)
            return jax.tree.map(lambda k, v: k.at[i].set(v), ks, velocity), z, before, unrest

        rows = jnp.asarray(square_tableau(tableau), h.dtype)
        ks = jax.tree.map(lambda z: jnp.zeros((stages, *z.shape), z.dtype), z0)
        ks, z, before, unrest = jax.lax.fori_loop(0, stages, stage, (ks, z0, z0, s.unrest))
        error = weighted(jnp.asarray(tableau.b_error, h.dtype), ks)
        penultimate, velocity = (jax.tree.map(lambda k, i=i: k[i], ks) for i in (-2, -1))
        # The last two stages have the same time. The difference of their velocities over the difference of their states
        # estimates the spectral radius: E. Hairer and G. Wanner, Solving Ordinary Differential Equations II, section
        # IV.2. Velocities are multiplied by the step before they are squared, so that the squares stay in the range of
        # the floats in any unit of time.
        apart = chart.measure(z0, combine((1.0, z), (-1.0, before)))
        moved = chart.measure(z0, combine((h_exact, velocity), (-h_exact, penultimate)))
        reach = moved / jnp.where(apart > 0, apart, 1.0)
        attempt = Attempt(h, t1, chart.leave(z, velocity)[0], error, unrest)
        return attempt, jnp.where(jnp.isfinite(reach), reach, 0.0)

    def _library(self, coordinates: Coordinates, s: Flow, h: Scalar, t1: Scalar) -> tuple[Attempt, Scalar]:
        y1, error, _, memory, _ = self.solver.step(_terms(coordinates), s.t, t1, s.y, None, s.memory, made_jump=True)
        attempt = Attempt(h, t1, y1, error, coordinates.velocity(y1)[1], memory)
        return attempt, jnp.zeros_like(h)


def _terms(coordinates: Coordinates) -> diffrax.ODETerm:
    return diffrax.ODETerm(lambda t, y, args: coordinates.velocity(y)[0])
