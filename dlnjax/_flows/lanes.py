"""Many flows on few lanes, inside one compiled loop.

A lane is one row of the arrays of the loop, and holds one flow at a time. A flow that ends leaves its lane to the next
flow in the queue. A turn is a run of the loop with one method: it takes all flows that are in this method, and lasts
until each of them has ended or has changed to another method. The turns of all methods are repeated until every flow
has ended. The result of a flow does not depend on which other flows share the lanes.

Under `vmap` a condition of the loop is one condition over all batches. With a condition for each batch, JAX would copy
the buffers of saved states at every pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Int, PyTree

from dlnjax._flows.coordinates import Coordinates
from dlnjax._flows.method import Lanes, Method, Task
from dlnjax._flows.step import Flow, Rules, start_flow
from dlnjax._tree import any_of_batch, rowwise, where, while_any
from dlnjax._types import State


def begin(
    coordinates: Callable[[PyTree], Coordinates], starts: tuple[PyTree, State], rules: Rules, first: Method
) -> Flow:
    """The flow of each row of `starts` before its first step, in the method `first`."""

    def one(own: PyTree, y0: State) -> Flow:
        c = coordinates(own)
        return start_flow(c, y0, rules, first.order, first.memory(c))

    return rowwise(one)(*starts)


def empty(task: Task, y0: State) -> PyTree:
    """The buffers, still zero, in which the flows save what is observed of them, `n ts ...`."""
    seen = jax.eval_shape(task.observe, _rows(y0, 0))
    return jax.tree.map(lambda x: jnp.zeros((task.n, len(task.rules.ts), *x.shape), x.dtype), seen)


class Ends(NamedTuple):
    """What is observed of each flow at its start and at its end, and the number of times that it has `reached`."""

    start: PyTree
    end: PyTree
    reached: Int[Array, " n"]

    @staticmethod
    def of(task: Task, y0: State, flows: Flow) -> "Ends":
        seen = jax.vmap(task.observe)(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y0, flows.y))
        return Ends(_rows(seen, slice(task.n)), _rows(seen, slice(task.n, None)), flows.index)

    def fill(self, saved: PyTree, first: Any = 0) -> PyTree:
        """What was saved from the time number `first` on, complete: with the start, which the loop does not save, and
        with the end at times that a flow did not reach.
        """
        times = first + jnp.arange(jax.tree.leaves(saved)[0].shape[1])
        passed = times < self.reached[:, None]
        later = lambda saved, end: where(passed, saved, end[:, None])
        one = lambda saved, start, end: where((times == 0)[None], start[:, None], later(saved, end))
        return jax.tree.map(one, saved, self.start, self.end)


class Turn(NamedTuple):
    """A turn of one method, as defined at the top of this module.

    `own` has one row for each flow, from which `task.coordinates` makes the coordinates of that flow. `number` is the
    number of the method.
    """

    task: Task
    own: PyTree
    number: int
    method: Method

    def __call__(self, flows: Flow, saved: PyTree, lanes: int) -> tuple[Flow, PyTree]:
        """Run the turn on this number of lanes: (the flows after the turn, the buffers)."""
        return self._side_by_side(flows, saved) if lanes >= self.task.n else self._in_line(flows, saved, lanes)

    def _in_turn(self, flow: Flow) -> Bool[Array, " n"]:
        return flow.active & (flow.choice.method == self.number)

    def _enter(self, own: PyTree, flow: Flow) -> PyTree:
        return rowwise(lambda own, flow: self.method.begin(self.task.coordinates(own), flow))(own, flow)

    def _side_by_side(self, flows: Flow, saved: PyTree) -> tuple[Flow, PyTree]:
        """The turn where each flow has a lane of its own, so that no flow is moved."""
        n = self.task.n
        ids = lambda flow: jnp.where(self._in_turn(flow), jnp.arange(n), n)

        def body(carry: PyTree) -> PyTree:
            work, saved = carry
            after, saved = self.method.advance(self.task, work, saved)
            flow = after.flow if self.task.alone else where(work.id < n, after.flow, work.flow)
            return Lanes(ids(flow), flow, self.own, after.stage), saved

        work = Lanes(ids(flows), flows, self.own, self._enter(self.own, flows))
        go_on = lambda carry: jnp.any(carry[0].id < n)
        # The outer loop is passed once. Where the inner one stands alone, and its body has the condition of
        # `Stabilised.advance`, XLA copies the buffers of saved states six times at each pass on a CPU (jax 0.10.2).
        work, saved = while_any(go_on, lambda carry: while_any(go_on, body, carry), (work, saved))
        return work.flow, saved

    def _in_line(self, flows: Flow, saved: PyTree, lanes: int) -> tuple[Flow, PyTree]:
        """The turn with fewer lanes than flows. A flow that is done leaves its lane to the next flow in the queue."""
        n, wanted = self.task.n, self._in_turn(flows)
        # The flows are packed into one array, so that flows change places by one gather and one scatter.
        unpack = jax.vmap(ravel_pytree(_rows(flows, 0))[1])
        pack = jax.vmap(lambda flow: ravel_pytree(flow)[0])
        queue, waiting = jnp.argsort(~wanted, stable=True), jnp.sum(wanted)
        front = jnp.arange(lanes)
        own, flow = _rows(self.own, front), _rows(flows, front)
        idle = Lanes(jnp.full((lanes,), n), flow, own, self._enter(own, flow))

        def refill(packed: Array, work: Lanes, head: Int[Array, ""]) -> tuple[Array, Lanes, Int[Array, ""]]:
            """Write the flows that are done back to `packed`, and put the next flows of the queue on their lanes."""
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

        def someone_left(work: Lanes) -> Bool[Array, ""]:
            return any_of_batch(jnp.any((work.id < n) & ~self._in_turn(work.flow)))

        def body(carry: PyTree) -> PyTree:
            # The packed flows stand outside of the inner loop, which would copy them at each pass.
            packed, saved, work, head = carry
            packed, work, head = refill(packed, work, head)
            go_on = lambda carry: jnp.any(carry[0].id < n) & ~someone_left(carry[0])
            work, saved = while_any(go_on, lambda carry: self.method.advance(self.task, *carry), (work, saved))
            return packed, saved, work, head

        def unfinished(carry: PyTree) -> Bool[Array, ""]:
            _, _, work, head = carry
            return jnp.any(work.id < n) | (head < waiting)

        packed, saved, _, _ = while_any(unfinished, body, (pack(flows), saved, idle, jnp.array(0)))
        return unpack(packed), saved


def _rows(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda x: x[index], tree)
