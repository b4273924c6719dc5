"""The interface of a method of integration. The loop in `lanes` drives the two methods, `Explicit` and `Stabilised`."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from dlnjax._flows.coordinates import Coordinates
from dlnjax._flows.step import Flow, Rules
from dlnjax._tree import while_any
from dlnjax._types import State


class Task(NamedTuple):
    """What the `n` flows of a loop share. `coordinates` makes the coordinates of a flow from its own row."""

    coordinates: Callable[[PyTree], Coordinates]
    rules: Rules
    observe: Callable[[State], PyTree]
    n: int


class Lanes(eqx.Module):
    """The lanes of the loop. `id` is the index of the flow that each lane holds, and `n` for a lane that holds none."""

    id: Int[Array, " lanes"]
    flow: Flow
    own: PyTree
    # What the method keeps of each flow as long as it is on its lane.
    stage: PyTree


class Method(abc.ABC):
    """A way to integrate a flow; the loop in `lanes` uses what is listed here, and nothing else."""

    # The estimate of the error of a step vanishes like h to this power.
    order: float

    @abc.abstractmethod
    def memory(self, coordinates: Coordinates) -> Callable:
        """A callable of (t, h, y) that makes the memory, which is what the method keeps from step to step."""

    @abc.abstractmethod
    def begin(self, coordinates: Coordinates, flow: Flow) -> PyTree:
        """What the method keeps of a flow that enters a lane, or None."""

    @abc.abstractmethod
    def advance(self, task: Task, work: Lanes, saved: PyTree) -> tuple[Lanes, PyTree]:
        """Advance the flows on all lanes, and save the states at times that they reach: (the lanes, the buffers).

        What this makes of a lane that holds no flow is not used.
        """


def save_reached(
    task: Task,
    work: Lanes,
    saved: PyTree,
    reached: Callable[[Int[Array, " lanes"]], Bool[Array, " lanes"]],
    point: Callable[[Any, Any], Any],
) -> tuple[Lanes, PyTree]:
    """Write what is observed of all flows at the times that they have reached: (the lanes, the buffers).

    `reached(index)` says which lanes have reached their time of that index, and `point(lane, index)` is the state then.
    One state is written after the other. Few flows reach a time in a step, or one flow reaches many, and a CPU would
    loop over all lanes to write to several.
    """

    def one(carry: PyTree) -> PyTree:
        index, saved = carry
        now = reached(index)
        lane = jnp.argmax(now)
        at, due = index[lane], now[lane]
        # In another batch of a `vmap` no lane may be due. There is no row `n`, so what is written to it is dropped.
        id = jnp.where(due, work.id[lane], task.n)
        seen = task.observe(point(lane, at))
        saved = jax.tree.map(lambda buffer, x: buffer.at[id, at].set(x, mode="drop"), saved, seen)
        return index.at[lane].add(due.astype(int)), saved

    index, saved = while_any(lambda carry: jnp.any(reached(carry[0])), one, (work.flow.index, saved))
    return eqx.tree_at(lambda work: work.flow.index, work, index), saved
