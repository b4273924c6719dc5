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
from dlnjax._tree import rowwise, while_any
from dlnjax._types import State


class Task(NamedTuple):
    """What the `n` flows of a loop share. `coordinates` makes the coordinates of a flow from its own row.

    A flow is `alone` if the loop ends when it does. Other flows end before the loop, and must then stay as they are.
    """

    coordinates: Callable[[PyTree], Coordinates]
    rules: Rules
    observe: Callable[[State], PyTree]
    n: int
    alone: bool


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


# A CPU has at most this many lanes in a queue of flows. On more lanes, the states of all are saved together.
FEW = 32


def save_reached(
    task: Task,
    work: Lanes,
    saved: PyTree,
    first: Int[Array, " lanes"],
    reached: Callable[[Int[Array, " lanes"]], Bool[Array, " lanes"]],
    passed: PyTree,
    point: Callable[[Any, Any], State],
) -> tuple[Lanes, PyTree]:
    """Write what is observed of all flows at the times that they have reached: (the lanes, the buffers).

    `first` is the index of the first time of each lane that is not saved yet. `reached(index)` says which lanes have
    reached their time of that index. `passed` has one row for each lane, and `point(row, index)` is the state at that
    time. On few lanes one state is written after the other: in a step few flows reach a time, or one reaches many, and
    a CPU would loop over all lanes. A GPU has many lanes.
    """
    one_by_one = 1 < len(work.id) <= FEW

    def write(carry: PyTree) -> PyTree:
        index, saved = carry
        now = reached(index)
        lane = jnp.argmax(now)
        pick = (lambda x: x[lane][None]) if one_by_one else (lambda x: x)
        rows, id, at, due = jax.tree.map(pick, (passed, work.id, index, now))
        # There is no row `n`, so what is written to that row is dropped.
        id = jnp.where(due, id, task.n)
        seen = rowwise(lambda row, at: task.observe(point(row, at)))(rows, at)
        saved = jax.tree.map(lambda buffer, x: buffer.at[id, at].set(x, mode="drop"), saved, seen)
        written = now & (jnp.arange(len(now)) == lane) if one_by_one else now
        return index + written.astype(int), saved

    index, saved = while_any(lambda carry: jnp.any(reached(carry[0])), write, (first, saved))
    return eqx.tree_at(lambda work: work.flow.index, work, index), saved
