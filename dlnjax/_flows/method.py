"""What a method of integration is to the loop that drives it. There are two, `Explicit` and `Stabilised`."""

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
    """What all flows have in common: `coordinates` makes a flow's coordinates from its own row, `n` is their number."""

    coordinates: Callable[[PyTree], Coordinates]
    rules: Rules
    observe: Callable[[State], PyTree]
    n: int


class Lanes(eqx.Module):
    """The flows in work. `id` is the flow's place among all, or their number on an idle lane."""

    id: Int[Array, " lanes"]
    flow: Flow
    own: PyTree
    # What the method keeps inside a step, between two evaluations.
    stage: PyTree


class Method(abc.ABC):
    """A way to integrate a flow; the loop in `lanes` uses what is listed here, and nothing else."""

    # The order to which the estimate of the error vanishes.
    order: float

    @abc.abstractmethod
    def memory(self, coordinates: Coordinates) -> Callable:
        """The callable (t, h, y) that makes what the method keeps from step to step."""

    @abc.abstractmethod
    def begin(self, coordinates: Coordinates, flow: Flow) -> PyTree:
        """The stage of a flow that enters a lane; None for a method that takes each step in one go."""

    @abc.abstractmethod
    def advance(self, task: Task, work: Lanes, saved: PyTree) -> tuple[Lanes, PyTree]:
        """Advance all lanes and save what they reach: (the lanes, what is saved)."""


def save_reached(
    task: Task, work: Lanes, saved: PyTree, points: Any, at: tuple[Int[Array, " lanes"], Bool[Array, " lanes"]]
) -> PyTree:
    """Write `observe(points)` for `at` = (the index of a time for each lane, whether the lane is there)."""
    index, reached = at

    def write(saved: PyTree):
        # A row beyond the last is dropped.
        id = jnp.where(reached, work.id, task.n)
        seen = jax.vmap(task.observe)(points)
        return jax.tree.map(lambda buffer, x: buffer.at[id, index].set(x, mode="drop"), saved, seen)

    return jax.lax.cond(any_of_batch(reached), write, lambda saved: saved, saved)
