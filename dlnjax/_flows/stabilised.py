"""The method `Stabilised`: Runge-Kutta-Chebyshev, which advances a flow by one evaluation of the velocity at a time.

A `Stage` is the state of a flow inside a step, between two evaluations. The stages of a step, in small letters, are
those of the Runge-Kutta method. The reach of a step is h times the spectral radius of the derivative of the velocity.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._flows import chebyshev as rkc
from dlnjax._flows.chebyshev import PowerIteration, Recurrence
from dlnjax._flows.coordinates import Coordinates
from dlnjax._flows.method import Lanes, Method, save_reached, Task
from dlnjax._flows.step import attempt_in, Choice, conclude, Flow, MEMORY, Rules
from dlnjax._runge_kutta import clip
from dlnjax._tree import all_of_batch, any_of_batch, rowwise, where
from dlnjax._types import Scalar, State

# The phases of a step. `_ENTER` evaluates the velocity at the start. `_PROBE` estimates the spectral radius. `_READY`
# chooses the length and the number of stages, and evaluates the first stage. `_STAGES` evaluates the others. In
# `_ENDED` the step waits until it is accepted or rejected.
_ENTER, _PROBE, _READY, _STAGES, _ENDED = range(5)
# Steps that have ended on several lanes are accepted or rejected together. This happens at the latest when one of them
# has waited for this many evaluations.
LONGEST_WAIT = 3
# The power iteration estimates the spectral radius from below, so the estimate is multiplied by this factor.
SAFETY = 1.2
# The power iteration ends after this many probes, even if it has not settled.
MOST_PROBES = 20
# After this many steps the velocity, the partners of the chart and the spectral radius are found anew.
STEPS_IN_A_CHART = 10
# Where the running mean of the reach is below this value, the explicit method is stable and needs fewer evaluations.
NO_LONGER_STIFF = 2.5


class Stage(eqx.Module):
    """The state of a flow inside a stabilised step, between two evaluations."""

    # The number of evaluations on other lanes since this step ended.
    waited: Int[Array, "*n"]
    phase: Int[Array, "*n"]
    probes: Int[Array, "*n"]
    # The number of steps since the spectral radius was estimated.
    age: Int[Array, "*n"]
    h: Float[Array, "*n"]
    last: Bool[Array, "*n"]
    gauge: PyTree
    power: PowerIteration
    recurrence: Recurrence
    # The velocity at the start of the step, and the velocity at the point that was evaluated last.
    velocity0: State
    velocity: State
    unrest: Float[Array, "*n"] | None

    @property
    def ended(self):
        return self.phase == _ENDED


class Step(eqx.Module):
    """An accepted step, kept to find states between its two ends by interpolation."""

    t0: Float[Array, "*n"]
    h: Float[Array, "*n"]
    gauge: PyTree
    z0: State
    z1: State
    f0: State
    f1: State

    def at(self, coordinates: Coordinates, t: Scalar) -> State:
        theta = jnp.clip((t - self.t0) / self.h, 0.0, 1.0)
        z = rkc.hermite(self.z0, self.z1, self.f0, self.f1, self.h, theta)
        return coordinates.chart(self.gauge).leave(z, self.f1)[0]


class Stabilised(Method):
    """Runge-Kutta-Chebyshev, one evaluation at a time, so that steps on different lanes may differ in their stages."""

    order = 3.0

    def __init__(self, explicit: int | None = None, other: int | None = None):
        """`explicit` is the number of the method to which a flow returns once it is no longer stiff, and `other` of the
        one to which it changes where its coordinates are a `misfit`, or None.
        """
        self.explicit, self.other = explicit, other

    def memory(self, coordinates: Coordinates) -> Callable:
        return lambda t, h, y: None

    def advance(self, task: Task, work: Lanes, saved: PyTree) -> tuple[Lanes, PyTree]:
        """Make one evaluation on every lane, and conclude the steps that have ended.

        Steps are concluded when one of them has waited for `LONGEST_WAIT` evaluations, or all steps have ended.
        """
        spend = rowwise(lambda own, flow, stage: self.evaluate(task.coordinates(own), task.rules, flow, stage))
        flow, stage = spend(work.own, work.flow, work.stage)
        busy = work.id < task.n
        work = Lanes(work.id, flow, work.own, stage)
        ended = busy & stage.ended
        due = any_of_batch(ended & (stage.waited >= LONGEST_WAIT)) | all_of_batch(ended | ~busy)
        finish = lambda work, saved: self._finish_all(task, work, saved, ended)
        return jax.lax.cond(due, finish, lambda *same: same, work, saved)

    def _finish_all(self, task: Task, work: Lanes, saved: PyTree, ended: Bool[Array, " lanes"]) -> tuple[Lanes, PyTree]:
        close = rowwise(lambda own, flow, stage: self.finish(task.coordinates(own), task.rules, flow, stage))
        flow, stage, step = close(work.own, work.flow, work.stage)
        if not task.alone:
            flow, stage = where(ended, flow, work.flow), where(ended, stage, work.stage)
        kept = ended & (flow.accepted > work.flow.accepted)
        ts = task.rules.ts
        # Only the last time may be repeated. The flow ends there, and `fill` writes the repetitions.
        first = jnp.append(True, ts[1:] > ts[:-1])
        reached = lambda index: kept & (index < len(ts)) & (ts[index] <= flow.t) & first[index]

        state = lambda row, index: row[1].at(task.coordinates(row[0]), ts[index])
        work = Lanes(work.id, flow, work.own, stage)
        return save_reached(task, work, saved, flow.index, reached, (work.own, step), state)

    def begin(self, coordinates: Coordinates, flow: Flow) -> Stage:
        gauge, zero = coordinates.gauge(flow.y), jnp.array(0)
        z = coordinates.chart(gauge).enter(flow.y)
        still = jax.tree.map(jnp.zeros_like, z)
        return Stage(
            waited=zero,
            phase=jnp.array(_ENTER),
            probes=zero,
            age=zero,
            h=flow.h,
            last=jnp.asarray(False),
            gauge=gauge,
            power=PowerIteration.start(still, jnp.zeros_like(flow.h)),
            recurrence=rkc.first_stage(z, still, flow.h, jnp.array(2)),
            velocity0=still,
            velocity=still,
            unrest=flow.unrest,
        )

    def evaluate(self, coordinates: Coordinates, rules: Rules, s: Flow, stage: Stage) -> tuple[Flow, Stage]:
        """Make one evaluation: at the start of the step, for the spectral radius, or for the next stage."""
        chart, power, f0 = coordinates.chart(stage.gauge), stage.power, stage.velocity0
        z0 = chart.enter(s.y)
        # The step has the length that the controller asked for, unless that needs more stages than are allowed.
        radius, most = SAFETY * power.radius, rkc.most_stages(coordinates.rtol)
        h, last = clip(jnp.minimum(s.h, rkc.longest_step(radius, most)), rules.ts[-1] - s.t)
        first = rkc.first_stage(z0, f0, h, rkc.stage_count(h * radius, most))
        ready = stage.phase == _READY
        h, last = jnp.where(ready, h, stage.h), jnp.where(ready, last, stage.last)
        recurrence = where(ready, first, stage.recurrence)

        entering, probing = stage.phase == _ENTER, stage.phase == _PROBE
        aside, measure = entering | probing, partial(chart.measure, z0)

        def aside_point() -> State:
            probe = power.probe(z0, measure(z0), measure)
            return where(probing, probe, where(entering, z0, recurrence.newer))

        # Few evaluations are probes. Without these conditions norms of the state would be found at each evaluation.
        point = jax.lax.cond(any_of_batch(aside), aside_point, lambda: recurrence.newer)
        f, unrest = chart.velocity(point)
        found = jax.lax.cond(
            any_of_batch(probing),
            lambda: where(probing, power.update(z0, f0, f, measure(z0), measure, s.h), power),
            lambda: power,
        )
        probed = found.settled | (stage.probes >= MOST_PROBES)
        complete = recurrence.complete
        phase = jnp.where(complete, _ENDED, _STAGES)
        phase = jnp.where(entering | (probing & ~probed), _PROBE, jnp.where(probing, _READY, phase))
        # A stage that waits is complete. It is evaluated again, at the same point, and stays as it is.
        waiting = stage.ended
        new = Stage(
            waited=jnp.where(waiting, stage.waited + 1, 0),
            phase=phase,
            probes=jnp.where(probing, stage.probes + 1, 0),
            age=jnp.where(aside, 0, stage.age),
            h=h,
            last=last,
            gauge=stage.gauge,
            power=found,
            recurrence=where(aside | complete, recurrence, rkc.next_stage(recurrence, z0, f0, f, h)),
            velocity0=where(entering, f, f0),
            velocity=f,
            unrest=unrest,
        )
        return eqx.tree_at(lambda f: f.evaluations, s, s.evaluations + (~waiting).astype(int)), new

    def finish(self, coordinates: Coordinates, rules: Rules, s: Flow, stage: Stage) -> tuple[Flow, Stage, Step]:
        """Accept or reject a step after its last evaluation: (the flow, its stage, the step to interpolate in)."""
        gauge, chart = stage.gauge, coordinates.chart(stage.gauge)
        h, z0, z1, f0, f1 = stage.h, chart.enter(s.y), stage.recurrence.newer, stage.velocity0, stage.velocity
        y1, turned = chart.leave(z1, f1)
        t1 = jnp.where(stage.last, rules.ts[-1], s.t + h)
        error = rkc.local_error(z0, z1, f0, f1, h)
        attempt = attempt_in(chart, rules, z0, z1, error, h=h, t1=t1, y1=y1, unrest=stage.unrest, memory=s.memory)
        after, keep = conclude(coordinates, rules, s, attempt, self.order, stiff=True)
        radius, age = stage.power.radius, stage.age + 1
        # After `STEPS_IN_A_CHART` steps, and after a rejected step, the velocity at the start, the partners and the
        # spectral radius are found anew. The velocity that a step hands on is that before `project`, which differs by
        # the stiffness times the move of `project`. With such a velocity a step can be rejected at every length.
        enter = ~keep | (age >= STEPS_IN_A_CHART)
        stage = replace(
            stage,
            phase=jnp.where(enter, _ENTER, _READY),
            probes=jnp.array(0),
            age=age,
            gauge=where(enter, coordinates.gauge(after.y), stage.gauge),
            velocity0=turned,
        )
        choice = self._choose(s.choice, h * radius, stage.last)
        misfit = partial(coordinates.misfit, chart, s.y, z0, stage.power.direction)
        after = eqx.tree_at(lambda f: f.choice, after, choice.asked(enter, misfit, self.other))
        return after, stage, Step(s.t, h, gauge, z0, z1, f0, f1)

    def _choose(self, choice: Choice, reach: Scalar, last: Bool[Array, ""]) -> Choice:
        if self.explicit is None:
            return choice
        mean = MEMORY * choice.reach + (1 - MEMORY) * reach
        leave = (mean < NO_LONGER_STIFF) & ~last
        leaving = replace(choice, method=jnp.asarray(self.explicit), reach=jnp.zeros_like(mean), stay=jnp.array(0))
        return where(leave, leaving, replace(choice, reach=mean, stay=choice.stay + 1))
