"""Which arrays of an energy have the seeds of a sweep as their first axis, and so differ from seed to seed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import check_energy
from dlnjax._protocol import at_start, axes_of
from dlnjax._tree import is_key
from dlnjax._types import Energy

# The three marks of a leaf of an energy: all seeds share the leaf, each seed has its own, or nothing says which. The
# number stands for the axes of an array that is computed from other arrays of the energy.
_SHARED, _SEEDED, _UNSAID, _DERIVED = "shared", "seeded", "unsaid", -1


class PerSeed(eqx.Module):
    """An energy for a `sweep` whose arrays have the seeds as first axis: seed i has the energy with the entries i.

    The energies of this library need no `PerSeed`. Their arrays have known shapes, and an array with one axis more has
    the seeds in front. For an energy of your own nothing is guessed from shapes: an array of labels `n d d` may hold
    the labels of `n` seeds, or `n` matrices with which every seed is compared.

    **Arguments:** `energy`, a callable X -> scalar with arrays in it, such as an `equinox.Module`; `where`, a callable
    that picks from the energy the arrays that have the seeds in front, by default all: `lambda energy: energy.labels`,
    or `lambda energy: (energy.labels, energy.width)`; `lambda energy: ()` says that no array has.

    **Raises:** `TypeError` for what is not callable. In the sweep: `ValueError` if a picked array has another first
    axis, or `where` picks something else than arrays. Outside of a sweep: `ValueError` when it is called.

    **Example:**

        >>> import equinox as eqx
        >>> class Fit(eqx.Module):
        ...     labels: jax.Array
        ...
        ...     def __call__(self, x):
        ...         return jnp.sum((x - self.labels) ** 2) / 2
        >>> labels = jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
        >>> energy, starts = dln.PerSeed(Fit(labels)), jnp.stack([jnp.eye(2) / 2, jnp.eye(2) / 3])
        >>> sol = dln.sweep(energy, starts, depth=2, ts=[0.0, 100.0], stop=dln.Steady(1e-6))
        >>> sol.x[:, -1, 0, 0].round(4).tolist()
        [1.0, 2.0]
    """

    energy: Callable
    where: Callable | None = None

    def __check_init__(self) -> None:
        if isinstance(self.energy, type) or not callable(self.energy):
            raise TypeError(f"energy must be a callable X -> scalar, got {self.energy!r}.")
        if self.where is not None and not callable(self.where):
            raise TypeError(f"where must be a callable that picks arrays of the energy, got {self.where!r}.")

    def __call__(self, x: Float[Array, "m n"]) -> Float[Array, ""]:
        raise ValueError("PerSeed has an energy for each seed of a sweep: only dlnjax.sweep takes it.")


class Energies(NamedTuple):
    """The energies of a sweep. `own` has the arrays with the seeds in front, as NumPy arrays; `shared` has the rest.

    `first` is the energy of seed 0.
    """

    own: PyTree
    shared: PyTree
    first: Callable


def split(energy: Energy, n: int, shape: tuple[int, ...], dtype: Any) -> Energies:
    """The energies of `n` seeds for matrices of that shape.

    **Raises:** `ValueError` or `TypeError` for what is no energy, arrays for another number of seeds, or an energy of
    which it is not said whether its arrays have the seeds in front.
    """
    said, energy = _said(energy, _UNSAID), _unwrapped(energy)
    seeded = jax.tree.map(lambda how: how == _SEEDED, said)
    _require_seeds(energy, seeded, n)
    _require_said(energy, said, n, jax.ShapeDtypeStruct(shape, dtype))
    own, shared = eqx.partition(energy, seeded)
    shared = at_start(shared)
    first = eqx.combine(jax.tree.map(lambda x: x[0], own), shared)
    check_energy(
        first, shape, dtype, f"Does it need a jnp.sum? To give each seed its own, its arrays have {n} in front."
    )
    return Energies(jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), own), shared, first)


def _is_wrapped(energy: Any) -> bool:
    return isinstance(energy, PerSeed)


def _unwrapped(energy: Any) -> Any:
    """The energy without any `PerSeed` in it."""
    strip = lambda part: _unwrapped(part.energy) if _is_wrapped(part) else part
    return jax.tree.map(strip, energy, is_leaf=_is_wrapped)


def _first(energy: Any, seeded: PyTree) -> Any:
    """The energy of the first seed."""
    return jax.tree.map(lambda x, own: x[0] if own else x, energy, seeded)


def _said(energy: Any, every: str) -> PyTree:
    """The mark of each leaf of the energy. `every` is the mark of an array of which no `array_axes` says anything.

    A `PerSeed` in the energy is replaced by the marks of the energy in it.
    """

    def rule(path: Any, leaf: Any):
        if _is_wrapped(leaf):
            return _picked(leaf)
        axes = _axes_at(energy, path)
        if not eqx.is_array(leaf) or axes == _DERIVED:
            return _SHARED
        return every if axes is None else (_SEEDED if leaf.ndim > axes else _SHARED)

    return jax.tree_util.tree_map_with_path(rule, energy, is_leaf=_is_wrapped)


def _axes_at(energy: Any, path: tuple[Any, ...]) -> int | None:
    """The number of axes that the array at `path` has for one matrix, or None if no energy on the path says it."""
    for key in path:
        axes, name = axes_of(energy), getattr(key, "name", None)
        if axes is not None and name in axes:
            return axes[name]
        of_library = type(energy).__module__.startswith("dlnjax.")
        energy = _child(energy, key)
        if axes is not None and not callable(energy):
            # An energy of this library names all of its arrays but those. Another energy may have forgotten one.
            return _DERIVED if of_library else None
    return None


def _child(tree: Any, key: Any) -> Any:
    """The part of `tree` at a key, which is one step of a path of `jax.tree_util`."""
    if hasattr(key, "name"):
        return getattr(tree, key.name)
    if isinstance(key, jax.tree_util.FlattenedIndexKey):
        # The class of this part has given JAX no names of its parts.
        return list(jax.tree.leaves(tree, is_leaf=lambda part: part is not tree))[key.key]
    return tree[key.idx if hasattr(key, "idx") else key.key]


def _picked(wrapped: PerSeed) -> PyTree:
    """The marks of the energy in a `PerSeed`."""
    if wrapped.where is None:
        return _said(wrapped.energy, _SEEDED)
    said = _said(wrapped.energy, _SHARED)
    # `where` is applied to a tree of placeholders. With the arrays themselves, an array that stands in two places could
    # not be told from its copy, and `where` may pick one of them only.
    marks = jax.tree.map(lambda _: _Mark(), said)
    message = "where must pick arrays of the energy, such as lambda energy: energy.labels"
    try:
        picked = jax.tree.leaves(wrapped.where(marks))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{message}: {error}.") from error
    if not all(isinstance(mark, _Mark) for mark in picked):
        raise ValueError(f"{message}, got {picked}.")
    return jax.tree.map(lambda how, mark: _SEEDED if mark in picked else how, said, marks)


class _Mark:
    pass


def _require_seeds(energy: Any, seeded: PyTree, n: int) -> None:
    """An error unless every array that has the seeds in front has `n` of them."""
    wrong = {
        name: f"has shape {np.shape(x)}" if eqx.is_array(x) else f"is {x!r}"
        for name, x in _named(energy, seeded, True)
        if not eqx.is_array(x) or np.shape(x)[:1] != (n,)
    }
    if wrong:
        raise ValueError(
            f"energy must be one scalar for each seed. To give each its own, its arrays have {n} in front: "
            f"{', '.join(f'{name} {what}' for name, what in wrong.items())}. "
            "Pick those that have by dlnjax.PerSeed(energy, where=lambda energy: ...)."
        )


def _require_said(energy: Any, said: PyTree, n: int, x: jax.ShapeDtypeStruct) -> None:
    """An error where an array has `n` in front, but neither the energy nor a `PerSeed` says whether these are seeds."""
    unsaid = {name: np.shape(array) for name, array in _named(energy, said, _UNSAID) if np.shape(array)[:1] == (n,)}
    if not unsaid:
        return
    seeded = jax.tree.map(lambda how: how == _SEEDED, said)
    maybe = jax.tree.map(lambda how, a: how == _SEEDED or (how == _UNSAID and np.shape(a)[:1] == (n,)), said, energy)
    if not _is_scalar(_first(energy, maybe), x):
        return
    shown = ", ".join(f"{name} {shape}" for name, shape in unsaid.items())
    some = ", ".join(f"e.{name}" for name in unsaid)
    message = (
        f"energy has arrays with {n} in front, as many as there are starts: {shown}. If each seed has its own, say "
        f"dlnjax.PerSeed(energy), or dlnjax.PerSeed(energy, where=lambda e: ({some},)) for these alone."
    )
    if _is_scalar(_first(energy, seeded), x):
        message += " If all seeds share them, say dlnjax.PerSeed(energy, where=lambda e: ())."
    raise ValueError(message)


def _is_scalar(energy: Callable, x: jax.ShapeDtypeStruct) -> bool:
    try:
        out = jax.eval_shape(energy, x)
    except Exception:  # whatever the energy raises, it does not take one matrix in this reading
        return False
    return getattr(out, "shape", None) == ()


def _named(energy: Any, flags: PyTree, flag: Any) -> list[tuple[str, Any]]:
    """(name, array) for each leaf that has this flag."""
    leaves = jax.tree_util.tree_leaves_with_path(energy)
    return [
        (jax.tree_util.keystr(path).lstrip("."), leaf)
        for (path, leaf), found in zip(leaves, jax.tree.leaves(flags), strict=True)
        if found == flag
    ]
