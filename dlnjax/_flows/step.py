"""The state of a flow, the record of one attempted step, and the decision about this step.

A method proposes an `Attempt`. `conclude` accepts or rejects the attempt, and says whether the flow ends. The methods
stand in `explicit` and `stabilised`, and the coordinates in which a flow is written stand in `coordinates` and `frame`.
The reach of a step is h times the spectral radius of the derivative of the velocity. The unrest is |dE|_F divided by
the bound of the stop.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._flows.coordinates import Chart, Coordinates
from dlnjax._results import code_of, RESULTS
from dlnjax._scale import shortest_step
from dlnjax._tree import all_equal, all_finite, any_of_batch, norm, positive, power_of_two, where
from dlnjax._types import Scalar, State

# The first step moves the state by at most this many tolerances. The controller then lengthens the steps.
FIRST_MOVE = 10.0
# A step without a usable estimate of its error gets this error, in units of the tolerance. The controller then rejects
# the step, and shortens the next step by the most that it may.
REFUSED = 1e6
# A flow is stuck where even the shortest step is rejected. It has blown up if |X| grows by more than this fraction in
# that step. Where it is stuck because the gradient is singular, |X| grows by less.
GROWTH = 1e-4
# With a stop, the error of a step in X is kept below this fraction of the distance that X moves. Near rest the
# tolerance alone would be larger than the distance that is left, and |dE| would show the error of the solver only.
SHARE_OF_MOVE = 0.01
# The weight of the old value in the running mean of the reach.
MEMORY = 0.8
# A flow takes at least this many steps in the explicit method before it may leave it.
PATIENCE = 10
# This number of steps is doubled at each return, so that a flow at the border of stiffness does not change for ever. It
# is at most this, since the explicit method would otherwise be kept for thousands of steps where it is far too slow.
MOST_PATIENCE = 160
# A flow changes its coordinates after it has been told this many times in a row that they are a misfit.
MISFITS = 4
# The steps of a flow may take this many evaluations in the mean. A step of the stabilised method may take a hundred
# times more, and `max_steps` of those would never end.
MOST_EVALUATIONS = 200
# A step that moves X by less than this many errors of rounding cannot be told from rest.
ROUNDINGS = 100


class Choice(eqx.Module):
    """Which method a flow is in, and the numbers that decide whether it changes to another method."""

    method: Int[Array, "*n"]
    # The running mean of the reach. Dopri5 is stable up to a reach of about 3.3.
    reach: Float[Array, "*n"]
    # The accepted steps since the flow changed to this method.
    stay: Int[Array, "*n"]
    # The least `stay` before a flow may leave the explicit method. It doubles each time the flow leaves, up to
    # `MOST_PATIENCE`.
    patience: Int[Array, "*n"]
    # How often in a row the coordinates were a misfit when the flow asked.
    misfits: Int[Array, "*n"]

    def asked(self, now: Bool[Array, ""], misfit: Callable[[], Bool[Array, ""]], other: int | None) -> "Choice":
        """The choice after the flow has asked, if `now`, whether its coordinates are a `misfit`.

        It changes to the method `other`, if there is one, where they have been for long. For a short time they are a
        misfit wherever two singular values cross, and to compile another method takes as long as very many steps.
        """
        if other is None:
            return self
        found = jax.lax.cond(any_of_batch(now), misfit, lambda: jnp.asarray(False))
        misfits = jnp.where(now, jnp.where(found, self.misfits + 1, 0), self.misfits)
        zero = jnp.zeros_like(misfits)
        no_reach = jnp.zeros_like(self.reach)
        changed = replace(self, method=jnp.asarray(other), reach=no_reach, stay=zero, misfits=zero)
        return where(misfits >= MISFITS, changed, replace(self, misfits=misfits))


class Flow(eqx.Module):
    """The state of a flow. `y` at time `t` is the last good state, and `h` is the length of the next step.

    `memory` is what the solver keeps from step to step.
    """

    t: Float[Array, "*n"]
    h: Float[Array, "*n"]
    y: State
    memory: PyTree
    unrest: Float[Array, "*n"] | None
    controller_state: PyTree
    # The index of the first time that is not saved yet.
    index: Int[Array, "*n"]
    accepted: Int[Array, "*n"]
    rejected: Int[Array, "*n"]
    evaluations: Int[Array, "*n"]
    active: Bool[Array, "*n"]
    code: RESULTS
    choice: Choice
    # The longest step that has left the state exactly as it was, since the state last changed.
    idle: Float[Array, "*n"]


class Rules(eqx.Module):
    """When states are saved and when a flow ends.

    The first of `ts` is 0. Times may be counted from the start, since the velocity does not depend on the time.
    """

    ts: Float[Array, " ts"]
    steady: Scalar | None
    max_steps: Int[Array, ""]

    def at_rest(self, unrest: Scalar | None) -> Bool[Array, ""]:
        return jnp.asarray(False) if unrest is None else unrest <= 1


class Attempt(eqx.Module):
    """One step of length `h` that a method has tried, from the state of the flow to `y1` at `t1`."""

    h: Scalar
    t1: Scalar
    y1: State
    # The estimate of the error: a state, or a state in the chart of the step.
    error: PyTree
    # The error of X as a part of the distance that X moves, or 0 where there is no stop.
    share: Scalar | float
    # The unrest at `y1`, or None where `rest` of the coordinates is None.
    unrest: Scalar | None
    memory: PyTree = None


# The controller gets the error as one number in units of the tolerance, so its own scaling is the identity.
_CONTROLLER = diffrax.PIDController(rtol=0.0, atol=1.0, pcoeff=0.2, icoeff=0.4, norm=jnp.abs)
NO_TERMS = diffrax.ODETerm(lambda t, y, args: y)


def start_flow(coordinates: Coordinates, y0: State, rules: Rules, order: float, memory: Callable) -> Flow:
    """The flow before its first step, in the first method.

    `order` is the order of the error estimate of this method, and memory(t, h, y) makes what the method keeps from step
    to step.
    """
    ts = rules.ts
    velocity, unrest = coordinates.velocity(y0)
    start_ok = all_finite((y0, velocity))
    # The velocity is divided by `scale`, since its square may overflow. The result is multiplied by `scale` again, as
    # `error` is homogeneous in its last argument.
    scale = jnp.where(start_ok, power_of_two(norm(velocity)), 1.0)
    moved = coordinates.error(y0, y0, jax.tree.map(lambda v: v / scale, velocity)) * scale
    h0 = jnp.where(moved > 0, jnp.minimum(FIRST_MOVE / positive(moved), ts[-1]), ts[-1])
    at_rest = rules.at_rest(unrest)
    flow = flow_with_step(y0, h0, rules, order, memory(ts[0], h0, y0))
    code = code_of((~start_ok, RESULTS.non_finite), (at_rest, RESULTS.steady))
    return replace(flow, unrest=unrest, evaluations=jnp.array(1), active=start_ok & ~at_rest, code=code)


def flow_with_step(y0: State, h: Scalar, rules: Rules, order: float, memory: PyTree) -> Flow:
    """The flow before its first step, of length `h`. No velocity is needed for it."""
    ts, none, zero = rules.ts, jnp.array(0), jnp.zeros_like(h)
    controller_state = _CONTROLLER.init(NO_TERMS, ts[0], ts[-1], zero, h, None, lambda *args: None, order)[1]
    return Flow(
        t=ts[0],
        h=h,
        y=y0,
        memory=memory,
        unrest=None,
        controller_state=controller_state,
        index=jnp.array(1),
        accepted=none,
        rejected=none,
        evaluations=none,
        active=jnp.asarray(True),
        code=RESULTS.successful,
        choice=Choice(none, zero, none, jnp.array(PATIENCE), none),
        idle=zero,
    )


def conclude(
    coordinates: Coordinates, rules: Rules, s: Flow, attempt: Attempt, order: float, stiff: bool = False
) -> tuple[Flow, Bool[Array, ""]]:
    """Accept or reject the attempt: (the flow after it, whether it was accepted). `stiff` is that of `project`.

    `index`, `evaluations` and `choice` stay as they are. The method advances them.
    """
    zero = jnp.zeros_like(attempt.h)
    t1, y1 = attempt.t1, attempt.y1
    ratio = jnp.maximum(coordinates.error(s.y, y1, attempt.error), attempt.share / SHARE_OF_MOVE)
    finite = all_finite((y1, ratio))
    collapsed = coordinates.loses_rank(s.y, y1)
    usable = finite & ~collapsed
    ratio = jnp.where(usable, ratio, REFUSED)
    keep, _, t2, _, controller_state, _ = _CONTROLLER.adapt_step_size(
        s.t, t1, zero, zero, None, ratio, order, s.controller_state
    )
    keep = jnp.asarray(keep)
    proposed = t2 - jnp.where(keep, t1, s.t)
    # A step that was cut short, to end on a time or for stability, says little about how long the next step may be. The
    # next step is then not made shorter than the controller had planned this one.
    next_h = jnp.where(keep & (attempt.h < s.h), jnp.maximum(proposed, s.h), proposed)
    # Beside a wall of NaN a step is refused unless it is too short to change the state at all. Without `idle`, such
    # steps would take turns with longer ones to the last of `max_steps`.
    stuck = ~keep & (next_h <= jnp.maximum(shortest_step(s.t), jnp.where(usable, 0.0, s.idle)))
    idle = jnp.where(all_equal(s.y, y1), jnp.maximum(s.idle, attempt.h), 0.0)
    grows = finite & (coordinates.size(y1) > (1 + GROWTH) * coordinates.size(s.y))
    exhausted = (s.accepted + s.rejected + 1 >= rules.max_steps) | (s.evaluations / MOST_EVALUATIONS >= rules.max_steps)
    at_rest = keep & rules.at_rest(attempt.unrest)
    done = keep & (t1 >= rules.ts[-1])
    after = Flow(
        t=jnp.where(keep, t1, s.t),
        h=next_h,
        y=where(keep, coordinates.project(y1, stiff), s.y),
        memory=where(keep, attempt.memory, s.memory),
        unrest=where(keep, attempt.unrest, s.unrest),
        controller_state=controller_state,
        index=s.index,
        accepted=s.accepted + keep.astype(int),
        rejected=s.rejected + (~keep).astype(int),
        evaluations=s.evaluations,
        active=jnp.logical_not(done | stuck | exhausted | at_rest),
        code=code_of(
            (at_rest, RESULTS.steady),
            (done, RESULTS.successful),
            (stuck & collapsed, RESULTS.rank_lost),
            (stuck & grows, RESULTS.diverged),
            (stuck, RESULTS.non_finite),
            (exhausted, RESULTS.max_steps_reached),
        ),
        choice=s.choice,
        idle=jnp.where(keep, idle, s.idle),
    )
    return after, keep


def attempt_in(
    chart: Chart, rules: Rules, z0: State, z1: State, error: PyTree, *, h: Scalar, t1: Scalar, y1: State, **rest: Any
) -> Attempt:
    """The attempt that goes from `z0` to `z1` in a chart, with an estimate of the error of `z1`."""
    return Attempt(h, t1, y1, chart.determined(z1, error), _share_of_move(chart, rules, z0, z1, error), **rest)


def _share_of_move(chart: Chart, rules: Rules, z0: State, z1: State, error: PyTree) -> Scalar | float:
    """The error of X as a part of the distance that X moves from `z0` to `z1`, or 0 where there is no stop.

    Both are measured in X. Vectors of nearly equal singular values turn by rounding, and X does not move by it.
    """
    if rules.steady is None:
        return 0.0
    floor = ROUNDINGS * jnp.finfo(rules.ts.dtype).eps

    def share() -> Scalar:
        both = jax.tree.map(lambda e, a, b: jnp.stack([e, b - a]), error, z0, z1)
        of_x, moved = jax.vmap(lambda dz: chart.displacement(z1, dz))(both)
        return of_x / jnp.maximum(moved, floor)

    return jax.lax.cond(rules.steady > 0, share, lambda: jnp.zeros((), rules.ts.dtype))
