"""One step of one flow by the stabilised method, an evaluation at a time."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._flows import chebyshev as rkc
from dlnjax._flows.chebyshev import PowerIteration, Recurrence
from dlnjax._flows.explicit import Choice, clip, conclude, Coordinates, Flow, Rules
from dlnjax._tree import where
from dlnjax._types import Scalar, State

_ENTER, _PROBE, _READY, _STAGES, _ENDED = range(5)


class Stage(eqx.Module):
    """Where a flow stands inside its stabilised step, between two evaluations."""

    # Evaluations since the step ended: the flow waits for others, to end their steps together.
    waited: Int[Array, "*n"]
    phase: Int[Array, "*n"]
    probes: Int[Array, "*n"]
    # Steps since the spectral radius was looked at.
    age: Int[Array, "*n"]
    h: Float[Array, "*n"]
    last: Bool[Array, "*n"]
    gauge: PyTree
    power: PowerIteration
    recurrence: Recurrence
    # At the start of the step, and at the point that was evaluated last.
    velocity0: State
    velocity: State
    gradient_norm: Float[Array, "*n"]

    @property
    def ended(self):
        return self.phase == _ENDED


class Step(eqx.Module):
    """An accepted step, to interpolate in."""

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


class Stabilised:
    """Runge-Kutta-Chebyshev, one evaluation at a time: flows side by side need not have as many stages."""

    order = 3

    def __init__(self, returns: bool):
        self.returns = returns

    def begin(self, coordinates: Coordinates, s: Flow) -> Stage:
        gauge, zero = coordinates.gauge(s.y), jnp.array(0)
        z = coordinates.chart(gauge).enter(s.y)
        still = jax.tree.map(jnp.zeros_like, z)
        return Stage(
            waited=zero,
            phase=jnp.array(_ENTER),
            probes=zero,
            age=zero,
            h=s.h,
            last=jnp.asarray(False),
            gauge=gauge,
            power=PowerIteration.start(still, jnp.zeros_like(s.h)),
            recurrence=rkc.first_stage(z, still, s.h, jnp.array(2)),
            velocity0=still,
            velocity=still,
            gradient_norm=s.gradient_norm,
        )

    def evaluate(self, coordinates: Coordinates, rules: Rules, s: Flow, stage: Stage) -> tuple[Flow, Stage]:
        """Spend one evaluation: on the start of the step, on the spectral radius, or on the next stage."""
        chart, power, f0 = coordinates.chart(stage.gauge), stage.power, stage.velocity0
        z0 = chart.enter(s.y)
        # The step follows from what the controller asked for and the most stages there can be.
        radius = 1.2 * power.radius
        h, last = clip(jnp.minimum(s.h, rkc.longest_step(radius)), rules.ts[-1] - s.t)
        first = rkc.first_stage(z0, f0, h, rkc.stage_count(h * radius))
        ready = stage.phase == _READY
        h, last = jnp.where(ready, h, stage.h), jnp.where(ready, last, stage.last)
        recurrence = where(ready, first, stage.recurrence)

        entering, probing = stage.phase == _ENTER, stage.phase == _PROBE
        point = where(probing, power.probe(z0), where(entering, z0, recurrence.newer))
        f, gradient_norm = chart.velocity(point)
        found = power.update(z0, f0, f)
        probed = found.settled | (stage.probes >= 20)
        complete = recurrence.complete
        aside = entering | probing
        after = where(aside | complete, recurrence, rkc.next_stage(recurrence, z0, f0, f, h))
        phase = jnp.where(complete, _ENDED, _STAGES)
        phase = jnp.where(entering | (probing & ~probed), _PROBE, jnp.where(probing, _READY, phase))
        waiting = stage.ended
        new = Stage(
            waited=jnp.array(0),
            phase=phase,
            probes=jnp.where(probing, stage.probes + 1, 0),
            age=jnp.where(aside, 0, stage.age),
            h=h,
            last=last,
            gauge=stage.gauge,
            power=where(probing, found, power),
            recurrence=after,
            velocity0=where(entering, f, f0),
            velocity=f,
            gradient_norm=gradient_norm,
        )
        s = eqx.tree_at(lambda f: f.evaluations, s, s.evaluations + ~waiting)
        return s, where(waiting, eqx.tree_at(lambda g: g.waited, stage, stage.waited + 1), new)

    def finish(self, coordinates: Coordinates, rules: Rules, s: Flow, stage: Stage) -> tuple[Flow, Stage, Step]:
        """Accept or reject a step that has had its last evaluation."""
        assert s.choice is not None
        gauge, chart = stage.gauge, coordinates.chart(stage.gauge)
        h, z0, z1, f0, f1 = stage.h, chart.enter(s.y), stage.recurrence.newer, stage.velocity0, stage.velocity
        y1, turned = chart.leave(z1, f1)
        t1 = jnp.where(stage.last, rules.ts[-1], s.t + h)
        error = rkc.local_error(z0, z1, f0, f1, h)
        after, keep = conclude(
            coordinates, rules, s, h, t1, y1, s.memory, stage.gradient_norm, error, self.order, clipped=h < s.h
        )
        radius, age = stage.power.radius, stage.age + 1
        # Now and then the neighbours are looked at anew; after a failure, the spectral radius alone.
        enter = keep & (age >= 10)
        stage = eqx.tree_at(
            lambda g: (g.phase, g.probes, g.age, g.gauge, g.velocity0),
            stage,
            (
                jnp.where(enter, _ENTER, jnp.where(keep, _READY, _PROBE)),
                jnp.array(0),
                age,
                where(enter, coordinates.gauge(after.y), stage.gauge),
                where(keep, turned, f0),
            ),
        )
        choice = s.choice
        mean = 0.8 * choice.reach + 0.2 * h * radius
        leave = (mean < 2.5) & ~stage.last & self.returns
        leaving = Choice(jnp.asarray(False), jnp.zeros_like(mean), jnp.array(0), choice.patience)
        staying = Choice(choice.stabilised, mean, choice.stay + 1, choice.patience)
        after = eqx.tree_at(lambda f: f.choice, after, where(leave, leaving, staying))
        return after, stage, Step(s.t, h, gauge, z0, z1, f0, f1)
