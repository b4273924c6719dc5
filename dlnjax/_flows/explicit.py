"""Explicit Runge-Kutta methods, a whole step at a time."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from dlnjax._flows.coordinates import Coordinates
from dlnjax._flows.method import Lanes, Method, save_reached, Task
from dlnjax._flows.step import Attempt, Choice, conclude, Flow, MEMORY, NO_TERMS, Rules
from dlnjax._runge_kutta import clip, square_tableau
from dlnjax._tree import combine, where
from dlnjax._types import Scalar, State

# Dopri5 is stable up to h * radius = 3.3. A flow whose running mean is above this value is held up by stability.
HELD_UP = 2.6
# When a flow leaves Dopri5, the stabilised method starts its running mean at this multiple of the last one. Its steps
# are longer, and from the old mean it could be sent back at once.
HEAD_START = 4


class Explicit(Method):
    """Any explicit method of diffrax, with steps that end on the times to be saved.

    One that ends on its own last stage, as Dopri5 does, is written out here: each step has a chart of its own, so no
    velocity is kept beyond it. Any other is diffrax's, started anew at each step, since what diffrax remembers would
    depend on the neighbours under `vmap`.
    """

    def __init__(self, solver: diffrax.AbstractSolver, stiff: int | None = None):
        """`stiff`: the number of the method to which a flow changes that is held up by stability, or None."""
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
        """A step on every lane."""
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
        leaving = Choice(jnp.asarray(self.stiff), HEAD_START * mean, jnp.zeros_like(stay), choice.patience * 2)
        return where(leave, leaving, Choice(choice.method, mean, stay, choice.patience))

    def _stages(self, coordinates: Coordinates, s: Flow, h: Scalar, t1: Scalar) -> tuple[Attempt, Scalar]:
        """(the attempt, h times the spectral radius that it has met)."""
        tableau, chart = self.tableau, coordinates.chart(coordinates.gauge(s.y))
        # The length of the step as it is in floating point.
        h_exact, z0 = t1 - s.t, chart.enter(s.y)
        stages = tableau.num_stages

        def weighted(weights: Float[Array, " stages"], ks: State) -> State:
            return jax.tree.map(lambda k: sum(h_exact * weights[j] * k[j] for j in range(stages)), ks)

        # A loop, so that the velocity is compiled once.
        def stage(i: Any, carry: PyTree):
            ks, before, _, _ = carry
            z = combine((1.0, z0), (1.0, weighted(rows[i], ks)))
            velocity, unrest = chart.velocity(z)
            return jax.tree.map(lambda k, v: k.at[i].set(v), ks, velocity), z, before, unrest

        rows = jnp.asarray(square_tableau(tableau), h.dtype)
        ks = jax.tree.map(lambda z: jnp.zeros((stages, *z.shape), z.dtype), z0)
        ks, z, before, unrest = jax.lax.fori_loop(0, stages, stage, (ks, z0, z0, s.unrest))
        error = weighted(jnp.asarray(tableau.b_error, h.dtype), ks)
        penultimate, velocity = (jax.tree.map(lambda k, i=i: k[i], ks) for i in (-2, -1))
        # The last two stages stand at the same time. The quotient of their differences estimates the spectral radius:
        # E. Hairer and G. Wanner, Solving Ordinary Differential Equations II, section IV.2.
        # The length of the step is inside, so that squares stay in the range of the floats in any unit of time.
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
