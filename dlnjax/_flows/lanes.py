"""Many flows on few lanes, inside one compiled loop.

A flow that ends leaves its lane to the next one in the queue. Flows are taken in turns by method: first all that are in
the first method, until each has ended or changes to another; then all that are in the next; and again, if one changes
back. The result of a flow does not depend on which others share the lanes.

Under `vmap` the conditions are taken over all batches, so that the buffers of saved states are never copied.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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


def begin(
    coordinates: Callable[[PyTree], Coordinates], starts: tuple[PyTree, State], rules: Rules, first: Method
) -> Flow:
    """The flow of each row of `starts` before its first step, in the method `first`."""

    def one(own: PyTree, y0: State) -> Flow:
        c = coordinates(own)
        return start_flow(c, y0, rules, first.order, first.memory(c))

    return jax.vmap(one)(*starts)


def empty(task: Task, y0: State) -> PyTree:
    """Where the flows save what is observed of them, `n ts ...`."""
    seen = jax.eval_shape(task.observe, _rows(y0, 0))
    return jax.tree.map(lambda x: jnp.zeros((task.n, len(task.rules.ts), *x.shape), x.dtype), seen)


def fill(task: Task, y0: State, flows: Flow, saved: PyTree) -> PyTree:
    """What was saved, with the start at the first time; after an early end it repeats the last state."""
    ends = jax.vmap(task.observe)(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y0, flows.y))
    reached = jnp.arange(len(task.rules.ts)) < flows.index[:, None]
    one = lambda rows, ends: where(reached, rows.at[:, 0].set(ends[: task.n]), ends[task.n :, None])
    return jax.tree.map(one, saved, ends)


class Turn(NamedTuple):
    """A turn of one method: all flows that are in it, until each has ended or changes to another.

    `own` has a row for each flow, of which the task makes its coordinates; `number` is the method's.
    """

    task: Task
    own: PyTree
    number: int
    method: Method

    def __call__(self, flows: Flow, saved: PyTree, lanes: int) -> tuple[Flow, PyTree]:
        """The turn on that many lanes: (the flows after it, what is saved)."""
        return self._side_by_side(flows, saved) if lanes >= self.task.n else self._in_line(flows, saved, lanes)

    def _in_turn(self, flow: Flow) -> Bool[Array, " n"]:
        return flow.active & (flow.choice.method == self.number)

    def _enter(self, own: PyTree, flow: Flow) -> PyTree:
        return jax.vmap(lambda own, flow: self.method.begin(self.task.coordinates(own), flow))(own, flow)

    def _side_by_side(self, flows: Flow, saved: PyTree) -> tuple[Flow, PyTree]:
        """Each flow has a lane of its own: nothing is moved."""
        n = self.task.n
        ids = lambda flow: jnp.where(self._in_turn(flow), jnp.arange(n), n)

        def body(carry: PyTree) -> PyTree:
            work, saved = carry
            work, saved = self.method.advance(self.task, work, saved)
            return eqx.tree_at(lambda w: w.id, work, ids(work.flow)), saved

        work = Lanes(ids(flows), flows, self.own, self._enter(self.own, flows))
        work, saved = while_any(lambda carry: jnp.any(carry[0].id < n), body, (work, saved))
        return work.flow, saved

    def _in_line(self, flows: Flow, saved: PyTree, lanes: int) -> tuple[Flow, PyTree]:
        """A flow whose turn is over leaves its lane to the next in the queue."""
        n, wanted = self.task.n, self._in_turn(flows)
        # As one array, flows change places by one gather and one scatter.
        unpack = jax.vmap(ravel_pytree(_rows(flows, 0))[1])
        pack = jax.vmap(lambda flow: ravel_pytree(flow)[0])
        queue, waiting = jnp.argsort(~wanted, stable=True), jnp.sum(wanted)
        front = jnp.arange(lanes)
        own, flow = _rows(self.own, front), _rows(flows, front)
        idle = Lanes(jnp.full((lanes,), n), flow, own, self._enter(own, flow))

        def refill(packed: Array, work: Lanes, head: Int[Array, ""]) -> tuple[Array, Lanes, Int[Array, ""]]:
            """Put back the flows whose turn is over, and take the next from the queue in their places."""
            free = (work.id == n) | ~self._in_turn(work.flow)
            packed = packed.at[jnp.where(free, work.id, n)].set(pack(work.flow), mode="drop")
            place = head + jnp.cumsum(free) - 1
            taken = free & (place < waiting)
            id = jnp.where(taken, queue[jnp.minimum(place, n - 1)], jnp.where(free, n, work.id))
            fresh = jnp.where(taken, id, 0)
            flow = where(taken, unpack(packed[fresh]), work.flow)
            own = where(taken, _rows(self.own, fresh), work.own)
            stage = where(taken, self._enter(own, flow), work.stage)
            return packed, Lanes(id, flow, own, stage), head + jnp.sum(taken)

        def body(carry: PyTree) -> PyTree:
            packed, saved, work, head = carry
            left = (work.id < n) & ~self._in_turn(work.flow)
            wants = any_of_batch(jnp.any(left) | (head == 0))
            packed, work, head = jax.lax.cond(wants, refill, lambda *same: same, packed, work, head)
            work, saved = self.method.advance(self.task, work, saved)
            return packed, saved, work, head

        def unfinished(carry: PyTree) -> Bool[Array, ""]:
            _, _, work, head = carry
            return jnp.any(work.id < n) | (head < waiting)

        packed, saved, _, _ = while_any(unfinished, body, (pack(flows), saved, idle, jnp.array(0)))
        return unpack(packed), saved


def _rows(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda x: x[index], tree)
