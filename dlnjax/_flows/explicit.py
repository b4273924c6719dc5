"""A flow under way, and one step of it by an explicit Runge-Kutta method."""

from typing import Any, Protocol, runtime_checkable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._results import RESULTS
from dlnjax._tree import all_finite, combine, norm, where
from dlnjax._types import Scalar, State


@runtime_checkable
class Coordinates(Protocol):
    """What the integration needs to know of a flow and the coordinates that it is written in."""

    def velocity(self, y: State) -> tuple[State, Scalar]:
        """dy/dt, and |dE|_F on the way."""
        ...

    def gauge(self, y: State) -> PyTree:
        """What tells a chart around `y` from others."""
        ...

    def chart(self, gauge: PyTree) -> "Chart": ...

    def project(self, y: State) -> State:
        """Back to the constraint after a step."""
        ...

    def error(self, y0: State, y1: State, error: State) -> Scalar:
        """The step's error in units of the tolerance."""
        ...

    def size(self, y: State) -> Scalar: ...
    def loses_rank(self, y0: State, y1: State) -> Array: ...


class Chart(Protocol):
    """Coordinates for a step or some, in which the flow is smoother."""

    def enter(self, y: State, /) -> State: ...
    def leave(self, z: State, dz: State, /) -> tuple[State, State]:
        """The state, and the velocity in the chart of the same gauge around it."""
        ...

    def velocity(self, z: State, /) -> tuple[State, Scalar]: ...


class Choice(eqx.Module):
    """Which method a flow is in, and what speaks for the other."""

    stabilised: Bool[Array, "*n"]
    # Running mean of h times the spectral radius: Dopri5 is stable to about 3.3.
    reach: Float[Array, "*n"]
    # Steps in this method, and how many it takes to leave the explicit one: more after each return.
    stay: Int[Array, "*n"]
    patience: Int[Array, "*n"]


class Flow(eqx.Module):
    """A flow under way: `y` at `t` is the last good state, `h` the step proposed next, `memory` the solver's own."""

    t: Float[Array, "*n"]
    h: Float[Array, "*n"]
    y: State
    memory: PyTree
    gradient_norm: Float[Array, "*n"]
    controller_state: PyTree
    index: Int[Array, "*n"]
    accepted: Int[Array, "*n"]
    rejected: Int[Array, "*n"]
    evaluations: Int[Array, "*n"]
    active: Bool[Array, "*n"]
    code: RESULTS
    choice: Choice | None


class Rules(eqx.Module):
    """When to save and when to end."""

    ts: Float[Array, " ts"]
    steady: Scalar | None
    max_steps: Int[Array, ""]

    def at_rest(self, gradient_norm):
        return jnp.asarray(False) if self.steady is None else gradient_norm <= self.steady


# The error comes as one number in units of the tolerance, so the controller's own scaling is the identity.
_CONTROLLER = diffrax.PIDController(rtol=0.0, atol=1.0, pcoeff=0.2, icoeff=0.4, norm=jnp.abs)


def clip(h, left):
    """(step, whether it ends there) for `left` to go; a step that would leave a sliver goes half of the way instead."""
    last = h >= left * (1 - 1e-12)
    return jnp.where(last, left, jnp.where(2 * h > left, left / 2, h)), last


def start_flow(coordinates: Coordinates, y0: State, rules: Rules, init, order, stabilised: bool | None) -> Flow:
    """`stabilised`: the method to begin with, if the flow may know both; None if it knows one explicit method."""
    ts = rules.ts
    velocity, gradient_norm = coordinates.velocity(y0)
    start_ok = all_finite((y0, velocity))
    # A first step that moves by ten tolerances; the controller grows it from there.
    h0 = jnp.minimum(10 / (coordinates.error(y0, y0, velocity) + jnp.finfo(ts.dtype).eps), ts[-1] - ts[0])
    zero = jnp.zeros_like(h0)
    controller_state = _CONTROLLER.init(_NO_TERMS, ts[0], ts[-1], zero, h0, None, lambda *args: None, order)[1]
    at_rest = rules.at_rest(gradient_norm)
    choice = None
    if stabilised is not None:
        choice = Choice(jnp.asarray(stabilised), zero, jnp.array(0), jnp.array(10))
    return Flow(
        t=ts[0],
        h=h0,
        y=y0,
        memory=init(ts[0], h0, y0),
        gradient_norm=gradient_norm,
        controller_state=controller_state,
        index=jnp.array(1),
        accepted=jnp.array(0),
        rejected=jnp.array(0),
        evaluations=jnp.array(1),
        active=start_ok & ~at_rest,
        code=RESULTS.where(start_ok, RESULTS.where(at_rest, RESULTS.steady, RESULTS.successful), RESULTS.non_finite),
        choice=choice,
    )


_NO_TERMS = diffrax.ODETerm(lambda t, y, args: y)


def conclude(coordinates, rules: Rules, s: Flow, h, t1, y1, memory, gradient_norm, error, order, clipped):
    """Accept or reject the step from `s` to `y1`; (the flow after it, whether it was accepted).

    All but `index`, `evaluations` and `choice`, which the caller advances.
    """
    zero = jnp.zeros_like(h)
    eps = jnp.finfo(h.dtype).eps
    ratio = coordinates.error(s.y, y1, error)
    finite = all_finite((y1, ratio))
    collapsed = coordinates.loses_rank(s.y, y1)
    ratio = jnp.where(finite & ~collapsed, ratio, 1e6)
    keep, _, t2, _, controller_state, _ = _CONTROLLER.adapt_step_size(
        s.t, t1, zero, zero, None, ratio, order, s.controller_state
    )
    proposed = t2 - jnp.where(keep, t1, s.t)
    next_h = jnp.where(keep & clipped, jnp.maximum(proposed, s.h), proposed)
    y = where(keep, coordinates.project(y1), s.y)
    span = rules.ts[-1] - rules.ts[0]
    stuck = ~keep & (next_h <= 16 * eps * jnp.maximum(jnp.abs(s.t), span * eps))
    # In a blow-up even the shortest step moves by a share of the state; at a singular gradient it does not.
    grows = finite & (coordinates.size(y1) > (1 + 1e-4) * coordinates.size(s.y))
    why = RESULTS.where(grows, RESULTS.diverged, RESULTS.non_finite)
    why = RESULTS.where(collapsed, RESULTS.rank_lost, why)
    exhausted = s.accepted + s.rejected + 1 >= rules.max_steps
    at_rest = keep & rules.at_rest(gradient_norm)
    done = keep & (t1 >= rules.ts[-1])
    code = RESULTS.where(exhausted, RESULTS.max_steps_reached, RESULTS.successful)
    code = RESULTS.where(stuck, why, code)
    code = RESULTS.where(done, RESULTS.successful, code)
    code = RESULTS.where(at_rest, RESULTS.steady, code)
    after = Flow(
        t=jnp.where(keep, t1, s.t),
        h=next_h,
        y=y,
        memory=where(keep, memory, s.memory),
        gradient_norm=jnp.where(keep, gradient_norm, s.gradient_norm),
        controller_state=controller_state,
        index=s.index,
        accepted=s.accepted + keep,
        rejected=s.rejected + ~keep,
        evaluations=s.evaluations,
        active=~(done | stuck | exhausted | at_rest),
        code=code,
        choice=s.choice,
    )
    return after, keep


class Explicit:
    """Any explicit method of diffrax, with steps that end on the times to be saved.

    One that ends on its own last stage, as Dopri5 does, is written out, each step in a chart of its own, so that no
    velocity outlives it. Any other is diffrax's, with nothing remembered from step to step that a neighbour under
    `vmap` could have a say in.
    """

    def __init__(self, solver: diffrax.AbstractSolver):
        tableau = getattr(solver, "tableau", None)
        self.solver = solver
        self.tableau: Any = tableau
        self.written_out = (
            isinstance(solver, diffrax.AbstractERK) and tableau is not None and tableau.fsal and tableau.ssal
        )
        self.evaluations = self.tableau.num_stages if self.written_out else 0
        order = solver.error_order(_NO_TERMS)
        assert order is not None  # an adaptive solver has one
        self.order = order

    def init(self, coordinates: Coordinates):
        if self.written_out:
            return lambda t, h, y: None
        terms = diffrax.ODETerm(lambda t, y, args: coordinates.velocity(y)[0])
        return lambda t, h, y: self.solver.init(terms, t, t + h, y, None)

    def step(self, coordinates: Coordinates, rules: Rules, s: Flow) -> tuple[Flow, Any]:
        """(the flow after the step, whether a time to be saved was reached)."""
        end = rules.ts[jnp.minimum(s.index, len(rules.ts) - 1)]
        h, last = clip(s.h, end - s.t)
        t1 = jnp.where(last, end, s.t + h)
        attempt = self._stages if self.written_out else self._library
        y1, error, memory, gradient_norm, reach = attempt(coordinates, s.t, t1, s.y, s.memory)
        after, keep = conclude(
            coordinates, rules, s, h, t1, y1, memory, gradient_norm, error, self.order, clipped=h < s.h
        )
        saves = keep & last
        choice = s.choice
        if choice is not None:
            mean = jnp.where(keep, 0.8 * choice.reach + 0.2 * reach, choice.reach)
            stay = choice.stay + keep
            leave = (mean > 2.6) & (stay >= choice.patience)
            leaving = Choice(jnp.asarray(True), 4 * mean, jnp.zeros_like(stay), choice.patience * 2)
            staying = Choice(choice.stabilised, mean, stay, choice.patience)
            choice = where(leave, leaving, staying)
        after = eqx.tree_at(
            lambda f: (f.index, f.evaluations), after, (s.index + saves, s.evaluations + self.evaluations)
        )
        return eqx.tree_at(lambda f: f.choice, after, choice, is_leaf=lambda x: x is None), saves

    def _stages(self, coordinates, t0, t1, y0, memory):
        tableau, chart = self.tableau, coordinates.chart(coordinates.gauge(y0))
        h, z0 = t1 - t0, chart.enter(y0)
        stages = tableau.num_stages
        rows = np.zeros((stages, stages))
        for row, weights in zip(rows[1:], tableau.a_lower, strict=True):
            row[: len(weights)] = weights
        rows = jnp.asarray(rows, h.dtype)
        # As a loop, so that the velocity is compiled once.
        weighted = lambda weights, ks: jax.tree.map(lambda k: sum(h * weights[j] * k[j] for j in range(stages)), ks)

        def stage(i, carry):
            ks, before, _, _ = carry
            z = combine((1.0, z0), (1.0, weighted(rows[i], ks)))
            velocity, gradient_norm = chart.velocity(z)
            return jax.tree.map(lambda k, v: k.at[i].set(v), ks, velocity), z, before, gradient_norm

        ks = jax.tree.map(lambda z: jnp.zeros((stages, *z.shape), z.dtype), z0)
        ks, z, before, gradient_norm = jax.lax.fori_loop(0, stages, stage, (ks, z0, z0, jnp.zeros_like(h)))
        error = weighted(jnp.asarray(tableau.b_error, h.dtype), ks)
        penultimate, velocity = (jax.tree.map(lambda k, i=i: k[i], ks) for i in (-2, -1))
        # The last two stages stand at the same time: their quotient is the stiffness that the step has met.
        apart = norm(combine((1.0, z), (-1.0, before)))
        reach = h * norm(combine((1.0, velocity), (-1.0, penultimate))) / jnp.where(apart > 0, apart, 1.0)
        return chart.leave(z, velocity)[0], error, memory, gradient_norm, jnp.where(jnp.isfinite(reach), reach, 0.0)

    def _library(self, coordinates, t0, t1, y0, memory):
        terms = diffrax.ODETerm(lambda t, y, args: coordinates.velocity(y)[0])
        y1, error, _, memory, _ = self.solver.step(terms, t0, t1, y0, None, memory, made_jump=True)
        return y1, error, memory, coordinates.velocity(y1)[1], jnp.zeros_like(t0)
