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
from dlnjax._tree import any_of_batch
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
    task: Task, work: Lanes, saved: PyTree, points: Any, at: tuple[Int[Array, " lanes"], Bool[Array, " lanes"]]
) -> PyTree:
    """Write `observe(points)` to the buffers `saved`.

    `at` is (the index of a time for each lane, whether the flow on that lane has reached this time).
    """
    index, reached = at

    def write(saved: PyTree):
        # There is no row `n`, so what is written to that row is dropped.
        id = jnp.where(reached, work.id, task.n)
        seen = jax.vmap(task.observe)(points)
        return jax.tree.map(lambda buffer, x: buffer.at[id, index].set(x, mode="drop"), saved, seen)

    return jax.lax.cond(any_of_batch(reached), write, lambda saved: saved, saved)
