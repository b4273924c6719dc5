"""Many flows on few lanes, inside one compiled loop.

A flow that ends leaves its lane to the next one in the queue, so that nobody waits for the slowest. Flows are taken in
turns by method: first all that are explicit, until each has ended or is held up by stability; then all those, with the
stabilised method; and again, if one of them wants to go back. What a flow does never depends on its neighbours.

Under `vmap` the conditions are taken over all batches, so that the buffers of saved states are never copied.
"""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree

from dlnjax._flows.chebyshev import RungeKuttaChebyshev
from dlnjax._flows.explicit import Coordinates, Explicit, Flow, Rules, start_flow
from dlnjax._flows.stabilised import Stabilised, Stage
from dlnjax._tree import all_of_batch, any_of_batch, where
from dlnjax._types import State

PATIENCE = 3


class Lanes(eqx.Module):
    """The flows in work. `id` is the flow's place among all, or their number on an idle lane."""

    id: Int[Array, " lanes"]
    flow: Flow
    own: PyTree
    stage: Stage | None


def _rows(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def integrate(
    coordinates: Callable[[PyTree], Coordinates],
    own: PyTree,
    y0: State,
    rules: Rules,
    observe: Callable[[State], PyTree],
    *,
    solver: diffrax.AbstractSolver | None,
    lanes: int,
    wanted: Bool[Array, " n"] | bool = True,
) -> tuple[Flow, PyTree]:
    """Integrate dy/dt = velocity(y) from ts[0] for each row of `own` and `y0`, saving `observe(y)` at `ts`.

    **Arguments:** `coordinates` makes a flow's coordinates from its row of `own`; `solver`, or None for Dopri5 and
    the stabilised method by turns, as each flow needs them; `lanes`, how many flows are in work at a time; `wanted`,
    which flows are to run at all.

    **Returns:** the flows as they ended, and what was saved, `n ts ...`; after an early end it repeats the last state.
    """
    explicit = None if isinstance(solver, RungeKuttaChebyshev) else Explicit(solver or diffrax.Dopri5())
    stabilised = Stabilised(returns=True) if solver is None else None
    if explicit is None:
        stabilised = Stabilised(returns=False)
    both = stabilised is not None
    n, times = len(jax.tree.leaves(y0)[0]), len(rules.ts)
    lanes = min(lanes, n)

    def begin(own, y0):
        c = coordinates(own)
        init = (lambda t, h, y: None) if explicit is None else explicit.init(c)
        order = Stabilised.order if explicit is None else explicit.order
        return start_flow(c, y0, rules, init, order, (explicit is None) if both else None)

    flows = jax.vmap(begin)(own, y0)
    flows = eqx.tree_at(lambda flow: flow.active, flows, flows.active & wanted)
    # As one array, flows change places by one gather and one scatter.
    unpack = jax.vmap(ravel_pytree(_rows(flows, 0))[1])
    pack = jax.vmap(lambda flow: ravel_pytree(flow)[0])
    seen = jax.eval_shape(observe, _rows(y0, 0))
    saved = jax.tree.map(lambda x: jnp.zeros((n, times, *x.shape), x.dtype), seen)

    def turn(state, method: Explicit | Stabilised):
        """All flows that want `method`, until each has ended or wants the other."""
        packed, saved = state
        flows = unpack(packed)
        wanted = flows.active
        if flows.choice is not None:
            wanted &= flows.choice.stabilised == isinstance(method, Stabilised)
        queue, waiting = jnp.argsort(~wanted, stable=True), jnp.sum(wanted)

        def refill(packed, work: Lanes, head):
            free = (work.id == n) | ~_stays(work.flow, method)
            packed = packed.at[jnp.where(free, work.id, n)].set(pack(work.flow), mode="drop")
            place = head + jnp.cumsum(free) - 1
            taken = free & (place < waiting)
            id = jnp.where(taken, queue[jnp.minimum(place, n - 1)], jnp.where(free, n, work.id))
            fresh = jnp.where(taken, id, 0)
            flow = where(taken, unpack(packed[fresh]), work.flow)
            theirs, stage = where(taken, _rows(own, fresh), work.own), work.stage
            if isinstance(method, Stabilised):
                stage = where(taken, enter(theirs, flow), stage)
            return packed, Lanes(id, flow, theirs, stage), head + jnp.sum(taken)

        front, stage = jnp.arange(lanes), None
        if isinstance(method, Stabilised):
            enter = jax.vmap(lambda own, flow: method.begin(coordinates(own), flow))
            stage = enter(_rows(own, front), _rows(flows, front))
        idle = Lanes(jnp.full((lanes,), n), _rows(flows, front), _rows(own, front), stage)
        advance: Callable = _explicit_round if isinstance(method, Explicit) else _stabilised_round

        def body(carry):
            packed, saved, work, head = carry
            left = (work.id < n) & ~_stays(work.flow, method)
            wants = jnp.any(left) | (head == 0)
            packed, work, head = jax.lax.cond(any_of_batch(wants), refill, lambda *same: same, packed, work, head)
            work, saved = advance(method, coordinates, rules, observe, work, saved, n)
            return packed, saved, work, head

        def unfinished(carry):
            _, _, work, head = carry
            return jnp.any(work.id < n) | (head < waiting)

        packed, saved, _, _ = _while(unfinished, body, (packed, saved, idle, jnp.array(0)))
        return packed, saved

    def round(state):
        for method in (explicit, stabilised):
            if method is not None:
                state = turn(state, method)
        return state

    packed, saved = _while(lambda state: jnp.any(unpack(state[0]).active), round, (pack(flows), saved))
    flows = unpack(packed)
    ends = jax.vmap(observe)(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y0, flows.y))
    reached = jnp.arange(times) < flows.index[:, None]
    fill = lambda rows, ends: where(reached, rows.at[:, 0].set(ends[:n]), ends[n:, None])
    return flows, jax.tree.map(fill, saved, ends)


def _stays(flow: Flow, method):
    if flow.choice is None:
        return flow.active
    return flow.active & (flow.choice.stabilised == isinstance(method, Stabilised))


def _while(cond, body, init):
    """`while_loop` on the arrays of a tree, until no batch of a `vmap` goes on."""
    init = jax.tree.map(lambda x: jnp.asarray(x) if eqx.is_array_like(x) else x, init)
    arrays, static = eqx.partition(init, eqx.is_array)
    final = jax.lax.while_loop(
        lambda x: any_of_batch(cond(eqx.combine(x, static))),
        lambda x: eqx.filter(body(eqx.combine(x, static)), eqx.is_array),
        arrays,
    )
    return eqx.combine(final, static)


def _save(saved, observe, work: Lanes, points, index, pred, n: int):
    """Write `observe(points)` at the lanes' own `index` where `pred`; skip the work where no lane does."""

    def write(saved):
        id = jnp.where(pred, work.id, n)
        seen = jax.vmap(observe)(points)
        return jax.tree.map(lambda b, x: b.at[id, index].set(x, mode="drop"), saved, seen)

    return jax.lax.cond(any_of_batch(pred), write, lambda saved: saved, saved)


def _explicit_round(method: Explicit, coordinates, rules, observe, work: Lanes, saved, n: int):
    """A step on every lane."""
    step = jax.vmap(lambda own, flow: method.step(coordinates(own), rules, flow))
    flow, saves = step(work.own, work.flow)
    busy = work.id < n
    flow = where(busy, flow, work.flow)
    saved = _save(saved, observe, work, flow.y, work.flow.index, busy & saves, n)
    return Lanes(work.id, flow, work.own, None), saved


def _stabilised_round(method: Stabilised, coordinates, rules, observe, work: Lanes, saved, n: int):
    """An evaluation on every lane; and the end of their steps, once one has waited or all have come to it."""
    spend = jax.vmap(lambda own, flow, stage: method.evaluate(coordinates(own), rules, flow, stage))
    flow, stage = spend(work.own, work.flow, work.stage)
    work = Lanes(work.id, flow, work.own, stage)
    busy = work.id < n
    ended = busy & stage.ended
    due = any_of_batch(ended & (stage.waited >= PATIENCE)) | all_of_batch(ended | ~busy)

    def finish(work: Lanes, saved):
        close = jax.vmap(lambda own, flow, stage: method.finish(coordinates(own), rules, flow, stage))
        flow, stage, step = close(work.own, work.flow, work.stage)
        flow, stage = where(ended, flow, work.flow), where(ended, stage, work.stage)
        kept = ended & (flow.accepted > work.flow.accepted)
        ts, times = rules.ts, len(rules.ts)

        def pending(index):
            return kept & (index < times) & (ts[jnp.minimum(index, times - 1)] <= flow.t)

        def save(carry):
            index, saved = carry
            at = jnp.minimum(index, times - 1)
            points = jax.vmap(lambda own, step, t: step.at(coordinates(own), t))(work.own, step, ts[at])
            now = pending(index)
            return index + now, _save(saved, observe, work, points, at, now, n)

        index, saved = _while(lambda carry: jnp.any(pending(carry[0])), save, (flow.index, saved))
        flow = eqx.tree_at(lambda f: f.index, flow, index)
        return Lanes(work.id, flow, work.own, stage), saved

    return jax.lax.cond(due, finish, lambda *same: same, work, saved)
