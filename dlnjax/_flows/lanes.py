"""Many flows on few lanes, inside one compiled loop.

A flow that ends leaves its lane to the next one in the queue. Flows are taken in turns by method: first all that are in
the first method, until each has ended or changes to another; then all that are in the next; and again, if one changes
back. The result of a flow does not depend on which others share the lanes.

Under `vmap` the conditions are taken over all batches, so that the buffers of saved states are never copied.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree

from dlnjax._flows.coordinates import Coordinates
from dlnjax._flows.method import Lanes, Method, Task
from dlnjax._flows.step import Flow, Rules, start_flow
from dlnjax._tree import any_of_batch, where, while_any
from dlnjax._types import State


def integrate(
    coordinates: Callable[[PyTree], Coordinates],
    starts: tuple[PyTree, State],
    rules: Rules,
    observe: Callable[[State], PyTree],
    *,
    methods: Sequence[Method],
    lanes: int,
    wanted: Bool[Array, " n"] | bool = True,
) -> tuple[Flow, PyTree]:
    """Integrate dy/dt = velocity(y) from ts[0] = 0 for each row of `starts`, saving `observe(y)` at `ts`.

    **Arguments:** `starts`, a pair (own, y0) with one row for each flow; `coordinates` makes a flow's coordinates from
    its row of `own`; `methods`, in the first of which a flow begins; `lanes`, how many flows are in work at a time;
    `wanted`, which flows are to run at all.

    **Returns:** the flows as they ended, and what was saved, `n ts ...`; after an early end it repeats the last state.
    """
    own, y0 = starts
    n, times = len(jax.tree.leaves(y0)[0]), len(rules.ts)
    task = Task(coordinates, rules, observe, n)

    def begin(own: PyTree, y0: State):
        c = coordinates(own)
        return start_flow(c, y0, rules, methods[0].order, methods[0].memory(c))

    flows = jax.vmap(begin)(own, y0)
    flows = eqx.tree_at(lambda flow: flow.active, flows, flows.active & wanted)
    # As one array, flows change places by one gather and one scatter.
    unpack = jax.vmap(ravel_pytree(_rows(flows, 0))[1])
    pack = jax.vmap(lambda flow: ravel_pytree(flow)[0])
    seen = jax.eval_shape(observe, _rows(y0, 0))
    saved = jax.tree.map(lambda x: jnp.zeros((n, times, *x.shape), x.dtype), seen)

    def round(state: PyTree):
        for number, method in enumerate(methods):
            turn = _Turn(task, own, number, method, pack, unpack)
            state = turn(state, min(lanes, n))
        return state

    packed, saved = while_any(lambda state: jnp.any(unpack(state[0]).active), round, (pack(flows), saved))
    flows = unpack(packed)
    ends = jax.vmap(observe)(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y0, flows.y))
    reached = jnp.arange(times) < flows.index[:, None]
    fill = lambda rows, ends: where(reached, rows.at[:, 0].set(ends[:n]), ends[n:, None])
    return flows, jax.tree.map(fill, saved, ends)


class _Turn:
    """All flows that are in one method, until each has ended or changes to another."""

    def __init__(self, task: Task, own: PyTree, number: int, method: Method, pack: Callable, unpack: Callable):
        self.task, self.own, self.number, self.method = task, own, number, method
        self.pack, self.unpack = pack, unpack
        self.enter = jax.vmap(lambda own, flow: method.begin(task.coordinates(own), flow))

    def _in_turn(self, flow: Flow) -> Bool[Array, " n"]:
        return flow.active & (flow.choice.method == self.number)

    def __call__(self, state: PyTree, lanes: int) -> PyTree:
        packed, saved = state
        flows, n = self.unpack(packed), self.task.n
        wanted = self._in_turn(flows)
        queue, waiting = jnp.argsort(~wanted, stable=True), jnp.sum(wanted)
        front = jnp.arange(lanes)
        own, flow = _rows(self.own, front), _rows(flows, front)
        idle = Lanes(jnp.full((lanes,), n), flow, own, self.enter(own, flow))

        def body(carry: PyTree):
            packed, saved, work, head = carry
            left = (work.id < n) & ~self._in_turn(work.flow)
            wants = any_of_batch(jnp.any(left) | (head == 0))
            refill = lambda *carry: self._refill(queue, waiting, *carry)
            packed, work, head = jax.lax.cond(wants, refill, lambda *same: same, packed, work, head)
            work, saved = self.method.advance(self.task, work, saved)
            return packed, saved, work, head

        def unfinished(carry: PyTree):
            _, _, work, head = carry
            return jnp.any(work.id < n) | (head < waiting)

        packed, saved, _, _ = while_any(unfinished, body, (packed, saved, idle, jnp.array(0)))
        return packed, saved

    def _refill(
        self,
        queue: Int[Array, " n"],
        waiting: Int[Array, ""],
        packed: PyTree,
        work: Lanes,
        head: Int[Array, ""],
    ) -> tuple[PyTree, Lanes, Int[Array, ""]]:
        """Put back the flows whose turn is over, and take the next from the queue in their places."""
        n = self.task.n
        free = (work.id == n) | ~self._in_turn(work.flow)
        packed = packed.at[jnp.where(free, work.id, n)].set(self.pack(work.flow), mode="drop")
        place = head + jnp.cumsum(free) - 1
        taken = free & (place < waiting)
        id = jnp.where(taken, queue[jnp.minimum(place, n - 1)], jnp.where(free, n, work.id))
        fresh = jnp.where(taken, id, 0)
        flow = where(taken, self.unpack(packed[fresh]), work.flow)
        own = where(taken, _rows(self.own, fresh), work.own)
        stage = where(taken, self.enter(own, flow), work.stage)
        return packed, Lanes(id, flow, own, stage), head + jnp.sum(taken)


def _rows(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda x: x[index], tree)
