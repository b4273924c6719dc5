"""One adaptive loop for every flow: diffrax's solver and controller, with result codes and states that stay good.

The loop is written for one matrix. Under `vmap` its condition is taken over all lanes, and a finished lane is masked
inside, so that the buffers of saved states are never copied.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from dlnjax._results import RESULTS

State = Any


@runtime_checkable
class Coordinates(Protocol):
    """What the loop needs to know of a flow and the coordinates that it is written in."""

    def velocity(self, y: State) -> State: ...
    def project(self, y: State) -> State:
        """Back to the constraint after a step."""
        ...

    def error(self, y0: State, y1: State, error: State) -> Float[Array, ""]:
        """The step's error in units of the tolerance."""
        ...

    def gradient_norm(self, y: State) -> Float[Array, ""]: ...
    def size(self, y: State) -> Float[Array, ""]: ...
    def loses_rank(self, y0: State, y1: State) -> Array: ...


class Loop(eqx.Module):
    """The state of the loop: `y` at `t` is the last good state, `h` the step proposed next."""

    t: Float[Array, ""]
    h: Float[Array, ""]
    y: State
    solver_state: PyTree
    controller_state: PyTree
    saved: PyTree
    index: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    active: Array
    code: RESULTS


def _where(pred, a, b):
    return jax.tree.map(lambda x, y: jnp.where(pred, x, y) if eqx.is_array_like(x) else x, a, b)


def _finite(tree):
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))


def integrate(
    coordinates: Coordinates,
    y0: State,
    ts: Float[Array, " ts"],
    observe: Callable[[State], PyTree],
    *,
    solver: diffrax.AbstractSolver,
    steady: Float[Array, ""] | None,
    max_steps: Int[Array, ""],
) -> Loop:
    """Integrate dy/dt = velocity(y) from ts[0], saving `observe(y)` at `ts`.

    Steps end on the times of `ts`, so that what is saved has the accuracy of the step and not of an interpolant.

    **Returns:** the final `Loop`; its `saved` has `ts` in front, and repeats the last state after an early end.
    """
    terms = diffrax.ODETerm(lambda t, y, args: coordinates.velocity(y))
    # The error comes as one number in units of the tolerance, so the controller's own scaling is the identity.
    controller = diffrax.PIDController(rtol=0.0, atol=1.0, pcoeff=0.2, icoeff=0.4, norm=jnp.abs)
    init, step = _stepper(solver, coordinates)
    zero = jnp.zeros_like(ts[0])
    order = solver.error_order(terms)
    assert order is not None  # an adaptive solver has one
    eps = jnp.finfo(ts.dtype).eps
    first = observe(y0)
    velocity = coordinates.velocity(y0)
    start_ok = _finite((y0, velocity))
    span = ts[-1] - ts[0]
    # A first step that moves by ten tolerances; the controller grows it from there.
    h0 = jnp.minimum(10 / (coordinates.error(y0, y0, velocity) + eps), span)
    _, controller_state = controller.init(terms, ts[0], ts[-1], zero, h0, None, lambda *args: None, order)
    at_rest = False if steady is None else coordinates.gradient_norm(y0) <= steady
    loop = Loop(
        t=ts[0],
        h=h0,
        y=y0,
        solver_state=init(ts[0], h0, y0, velocity),
        controller_state=controller_state,
        saved=jax.tree.map(lambda x: jnp.zeros((len(ts), *x.shape), x.dtype).at[0].set(x), first),
        index=jnp.array(1),
        accepted=jnp.array(0),
        rejected=jnp.array(0),
        active=start_ok & jnp.logical_not(at_rest),
        code=RESULTS.where(start_ok, RESULTS.where(at_rest, RESULTS.steady, RESULTS.successful), RESULTS.non_finite),
    )

    def body(s: Loop) -> Loop:
        # End on the next save time; a step that would leave a sliver before it goes half of the way instead.
        left = ts[jnp.minimum(s.index, len(ts) - 1)] - s.t
        last = s.h >= left * (1 - 1e-12)
        h = jnp.where(last, left, jnp.where(2 * s.h > left, left / 2, s.h))
        t1 = jnp.where(last, ts[jnp.minimum(s.index, len(ts) - 1)], s.t + h)
        y1, error, solver_state = step(s.t, t1, s.y, s.solver_state)
        ratio = coordinates.error(s.y, y1, error)
        finite = _finite((y1, ratio))
        collapsed = coordinates.loses_rank(s.y, y1)
        ratio = jnp.where(finite & ~collapsed, ratio, 1e6)
        keep, _, t2, _, controller_state, _ = controller.adapt_step_size(
            s.t, t1, zero, zero, None, ratio, order, s.controller_state
        )
        proposed = t2 - jnp.where(keep, t1, s.t)
        clipped = h < s.h
        next_h = jnp.where(keep & clipped, jnp.maximum(proposed, s.h), proposed)

        y = _where(keep, coordinates.project(y1), s.y)
        t = jnp.where(keep, t1, s.t)
        saves = s.active & keep & last
        saved = _save(s.saved, lambda: observe(y), s.index, saves)
        index = s.index + saves
        done = index == len(ts)
        at_rest = False if steady is None else keep & (coordinates.gradient_norm(y) <= steady)
        steps = s.accepted + s.rejected + 1
        stuck = ~keep & (next_h <= 16 * eps * jnp.maximum(jnp.abs(s.t), span * eps))
        exhausted = steps >= max_steps
        # In a blow-up even the shortest step moves by a share of the state; at a singular gradient it does not.
        grows = finite & (coordinates.size(y1) > (1 + 1e-4) * coordinates.size(s.y))
        why = RESULTS.where(grows, RESULTS.diverged, RESULTS.non_finite)
        why = RESULTS.where(collapsed, RESULTS.rank_lost, why)
        code = RESULTS.where(exhausted, RESULTS.max_steps_reached, RESULTS.successful)
        code = RESULTS.where(stuck, why, code)
        code = RESULTS.where(done, RESULTS.successful, code)
        code = RESULTS.where(at_rest, RESULTS.steady, code)
        new = Loop(
            t=t,
            h=next_h,
            y=y,
            solver_state=_where(keep, solver_state, s.solver_state),
            controller_state=controller_state,
            saved=None,
            index=index,
            accepted=s.accepted + keep,
            rejected=s.rejected + ~keep,
            active=~(done | stuck | exhausted | at_rest),
            code=code,
        )
        old = eqx.tree_at(lambda x: x.saved, s, None)
        new = _where(s.active, new, old)
        return eqx.tree_at(lambda x: x.saved, new, saved, is_leaf=lambda x: x is None)

    loop = jax.tree.map(lambda x: jnp.asarray(x) if eqx.is_array_like(x) else x, loop)
    static = eqx.filter(loop, eqx.is_array, inverse=True)
    dynamic = eqx.filter(loop, eqx.is_array)
    final = jax.lax.while_loop(
        lambda s: eqxi.unvmap_any(s.active),
        lambda s: eqx.filter(body(eqx.combine(s, static)), eqx.is_array),
        dynamic,
    )
    loop = eqx.combine(final, static)
    reached = jnp.arange(len(ts)) < loop.index
    fill = jax.tree.map(
        lambda buffer, last: jnp.where(jnp.expand_dims(reached, range(1, buffer.ndim)), buffer, last),
        loop.saved,
        observe(loop.y),
    )
    return eqx.tree_at(lambda x: x.saved, loop, fill)


def _stepper(solver: diffrax.AbstractSolver, coordinates: Coordinates):
    """(init, step) of the solver: init(t, h, y, f) -> state, step(t0, t1, y, state) -> (y1, error, state).

    An explicit method that ends on its own last stage, as Dopri5 does, is written out; its state is the velocity. Any
    other is diffrax's, with nothing remembered from step to step that a neighbour under `vmap` could have a say in.
    """
    tableau = getattr(solver, "tableau", None)
    if isinstance(solver, diffrax.AbstractERK) and tableau is not None and tableau.fsal and tableau.ssal:

        def combine(y, h, coefficients, ks):
            terms = [(c, k) for c, k in zip(coefficients, ks, strict=True) if c != 0]
            weights, ks = zip(*terms, strict=True)
            return jax.tree.map(lambda y, *k: y + h * sum(c * x for c, x in zip(weights, k, strict=True)), y, *ks)

        def step(t0, t1, y0, velocity):
            h, y1, ks = t1 - t0, y0, [velocity]
            for row in tableau.a_lower:
                y1 = combine(y0, h, row.tolist(), ks)
                ks.append(coordinates.velocity(y1))
            error = combine(jax.tree.map(jnp.zeros_like, y0), h, tableau.b_error.tolist(), ks)
            return y1, error, ks[-1]

        return lambda t, h, y, velocity: velocity, step

    terms = diffrax.ODETerm(lambda t, y, args: coordinates.velocity(y))

    def library_step(t0, t1, y0, state):
        y1, error, _, state, _ = solver.step(terms, t0, t1, y0, None, state, made_jump=True)
        return y1, error, state

    return lambda t, h, y, velocity: solver.init(terms, t, t + h, y, None), library_step


def _save(buffers, observe, index, pred):
    """Write in place where `pred`; skip the work when no lane of a `vmap` writes."""

    def write(buffers):
        return jax.tree.map(
            lambda b, x: b.at[jnp.where(pred, index, b.shape[0])].set(x, mode="drop"), buffers, observe()
        )

    return jax.lax.cond(eqxi.unvmap_any(pred), write, lambda b: b, buffers)
