"""The energy of a training at each step: one and the same, or that of a batch of data."""

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import equinox as eqx
import jax
from jaxtyping import Array, Int, PyTree

from dlnjax._checks import as_array, check_energy, shape_of
from dlnjax._traced import Traced, traced_energy
from dlnjax._types import Matrix, Scalar

Batches: TypeAlias = Callable[[Int[Array, ""]], Any] | Iterator[Any]


class Loss(eqx.Module):
    """The energies of all steps: `at(given)` is the energy of one step, as a function of X.

    `given` is the number of the step, or the batch itself if batches come from an iterator. Without batches it is not
    used.
    """

    arrays: PyTree
    energy: Callable
    with_batch: bool = eqx.field(static=True)

    def at(self, given: PyTree) -> Callable[[Matrix], Scalar]:
        return (lambda x: self.energy(self.arrays, x, given)) if self.with_batch else self.energy


def loss_of(
    energy: Callable, batches: Batches | None, shape: tuple[int, int], dtype: Any
) -> tuple[Loss, Iterator[PyTree] | None]:
    """(the loss of X, `shape`; the batches of an iterator, or None where `batches` is not one).

    **Raises:** `ValueError` or `TypeError` for what is no such energy, or no batches.
    """
    if batches is None:
        check_energy(energy, shape, dtype)
        return Loss(None, traced_energy(energy, shape, dtype), with_batch=False), None
    if not callable(energy):
        check_energy(energy, shape, dtype)
    _check_takes_batch(energy)
    if isinstance(batches, Iterator):
        stream = _alike(batches)
        first = next(stream)
        return _with_batch(energy, lambda batch: batch, first, shape, dtype), itertools.chain([first], stream)
    if not callable(batches):
        raise TypeError(
            "batches must be a callable step -> batch, or an iterator of batches, such as iter(loader), "
            f"got {type(batches).__name__}."
        )
    step = as_array("step", 0)
    shape_of("batches", batches, step)
    return _with_batch(energy, batches, step, shape, dtype), None


def _check_takes_batch(energy: Callable) -> None:
    try:
        signature = inspect.signature(energy)
    except (TypeError, ValueError):
        # Some callables do not say what they take. Their own error comes when they are called.
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise TypeError(f"energy must take (X, batch) where batches are given: {error}.") from error


def _with_batch(
    energy: Callable, batch_of: Callable[[Any], PyTree], given: PyTree, shape: tuple[int, int], dtype: Any
) -> Loss:
    """The loss energy(X, batch_of(given)), as a program of which all data that it closes over are arguments."""
    check_energy(lambda x: energy(x, batch_of(given)), shape, dtype)
    arrays, rest = eqx.partition(energy, eqx.is_array)
    value = lambda arrays, x, given: eqx.combine(arrays, rest)(x, batch_of(given))
    return Loss(arrays, Traced.of(value, arrays, jax.ShapeDtypeStruct(shape, dtype), given), with_batch=True)


def _alike(batches: Iterator[PyTree]) -> Iterator[PyTree]:
    """The batches as arrays of JAX, all of the shapes of the first, of which there is at least one."""
    expected = None
    for k, batch in enumerate(batches):
        batch = jax.tree.map(lambda leaf: as_array("batches", leaf), batch)
        found = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(batch)], jax.tree.structure(batch)
        expected = found if expected is None else expected
        if found != expected:
            raise ValueError(
                f"batches must all have the shapes of the first, {', '.join(expected[0])}, got {', '.join(found[0])} "
                f"after {k} of them. Leave out a last batch that is smaller."
            )
        yield batch
    if expected is None:
        raise ValueError("batches must have at least one batch, got an iterator that has none.")
