"""The grid of a sweep: the product of named axes, and the seeds at each of its points.

The flows of a sweep are numbered through, with the seed as the last axis: flow i is seed i % S at point i // S. Each
point has the same S starts and the same noise, but for what an axis changes in them.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import check_energy
from dlnjax._protocol import at_start
from dlnjax._sweeps.seeds import Energies
from dlnjax._traced import checksums, traced_energy

if TYPE_CHECKING:
    import xarray

# The names that the dataset of a flow uses itself.
_TAKEN = {
    *("seed", "time", "mode", "row", "column", "sigma", "energy", "effective_rank", "u", "v", "t_end", "result"),
    *("steps", "rejected", "evaluations", "crossings", "observed", "rtol", "atol", "dt", "key", "x", "layer"),
}
# The beginnings of the names of the arrays and the axes of factors.
_PREFIXES = ("weights", "width_", "network")
_NOTES = {"depth": "number of layers N of the geometry", "seed": "number of the start"}


class Family(eqx.Module):
    """An energy for each point of the grid of a `sweep`.

    **Arguments:** `make`, a callable that is given axes of the grid by their names and returns an energy. The energies
    may differ in their numbers and arrays, and in nothing else.

    **Raises:** `TypeError` if `make` is not callable. In the sweep: `ValueError` if it asks for an axis that the grid
    does not have, or if the energies differ in more than their arrays. Outside of a sweep: `ValueError` when it is
    called.

    **Example:**

        >>> family = dln.Family(lambda beta: dln.FreeEnergy(dln.Schatten(2), beta))
        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.3), jax.random.key(0), 5)
        >>> data = dln.sweep(family, starts, ts=[0.0, 30.0], grid={"beta": [0.5, 2.0]})
        >>> data["sigma"].isel(time=-1, mode=0).mean("seed").round(3).values.tolist()
        [1.0, 0.5]
    """

    make: Callable[..., Any]

    def __check_init__(self) -> None:
        if isinstance(self.make, type) or not callable(self.make):
            raise TypeError(f"make must be a callable that returns an energy, got {self.make!r}.")

    def __call__(self, x: Float[Array, "m n"]) -> Float[Array, ""]:
        raise ValueError("Family has an energy for each point of a grid: only dlnjax.sweep(..., grid=...) takes it.")


class Grid(NamedTuple):
    """The axes by their names, and the number of seeds at each point. A sweep without `grid` has one point."""

    axes: dict[str, np.ndarray]
    seeds: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.axes.values())

    @property
    def points(self) -> int:
        return math.prod(self.shape)

    @property
    def n(self) -> int:
        return self.points * self.seeds

    def described(self) -> dict[str, list[Any]] | None:
        """The axes as plain values, of which the identity of a call is made."""
        return {name: values.tolist() for name, values in self.axes.items()} or None

    def at_points(self, names: list[str]) -> dict[str, np.ndarray]:
        """The values of some axes at each point."""
        index = np.unravel_index(np.arange(self.points), self.shape) if self.axes else ()
        return {name: self.axes[name][i] for name, i in zip(self.axes, index, strict=True) if name in names}

    def parts(self, size: int) -> dict[int, int]:
        """The number of seeds of each part, by its first. A part has some whole points, or is a piece of one point."""
        if size >= self.seeds:
            size = size // self.seeds * self.seeds
            return {first: min(size, self.n - first) for first in range(0, self.n, size)}
        rows = range(0, self.n, self.seeds)
        pieces = lambda row: range(row, row + self.seeds, size)
        return {first: min(size, row + self.seeds - first) for row in rows for first in pieces(row)}

    def pieces(self, first: int, count: int) -> Iterator[tuple[tuple[Any, ...], slice]]:
        """(the index in an array with the axes in front, the slice of the part) for each point of a part."""
        done = 0
        while done < count:
            point, seed = divmod(first + done, self.seeds)
            length = min(self.seeds - seed, count - done)
            where = tuple(map(int, np.unravel_index(point, self.shape))) if self.axes else ()
            yield (*where, slice(seed, seed + length)), slice(done, done + length)
            done += length

    def unfolded(self, data: "xarray.Dataset") -> "xarray.Dataset":
        """A dataset of all flows, with the axes of the grid in place of the one axis of flows."""
        import xarray

        def unfold(variable: Any):
            if "seed" not in variable.dims:
                return variable
            values = variable.values.reshape(*self.shape, self.seeds, *variable.shape[1:])
            return xarray.Variable((*self.axes, *variable.dims), values, variable.attrs)

        data = data.drop_vars(set(self.axes) & set(data.variables))
        parts = {kind: {name: unfold(v.variable) for name, v in getattr(data, kind).items()} for kind in _KINDS}
        return xarray.Dataset(parts["data_vars"], parts["coords"] | self.coordinates(), data.attrs)

    def coordinates(self) -> dict[str, Any]:
        """The coordinates of the axes and of the seeds, for a dataset."""
        about = lambda name: {"long_name": _NOTES.get(name, name)}
        axes = self.axes | {"seed": np.arange(self.seeds)} if self.axes else {}
        return {name: (name, values, about(name)) for name, values in axes.items()}


_KINDS = ("data_vars", "coords")


def as_grid(given: Any, seeds: int) -> Grid:
    """The grid that the caller gave, checked."""
    if given is None:
        return Grid({}, seeds)
    if not isinstance(given, Mapping) or not given or not all(isinstance(name, str) for name in given):
        raise TypeError(f"grid must be a dict of axes such as {{'depth': [2, 3]}}, got {given!r}.")
    axes = {}
    for name, values in given.items():
        if name in _TAKEN or name.startswith(_PREFIXES) or not name.isidentifier():
            raise ValueError(f"grid cannot have an axis {name!r}: it is no name, or that of an array of the dataset.")
        array = np.asarray(values)
        if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iufU":
            raise ValueError(f"grid[{name!r}] must be a list of numbers or of names, got {values!r}.")
        if len(np.unique(array)) != len(array) or (array.dtype.kind == "f" and np.isnan(array).any()):
            raise ValueError(f"grid[{name!r}] must be different numbers or names, got {values!r}.")
        axes[name] = array
    return Grid(axes, seeds)


def taken_by(what: str, f: Callable, grid: Grid, skip: int) -> list[str]:
    """The axes that `f` takes by their names after its first `skip` arguments.

    **Raises:** `ValueError` if it needs something else.
    """
    parameters = list(inspect.signature(f).parameters.values())[skip:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(grid.axes)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    unknown = [p.name for p in named if p.name not in grid.axes and p.default is p.empty]
    if unknown:
        there = ", ".join(grid.axes) or "no axis"
        raise ValueError(f"{what} takes {', '.join(unknown)}, and the grid has {there}: sweep(..., grid={{...}}).")
    return [p.name for p in named if p.name in grid.axes]


def energies_of(family: Family, grid: Grid, shape: tuple[int, ...], dtype: Any) -> Energies:
    """The energies of a family. The arrays in which they differ have the points of the grid in front."""
    used = taken_by("make", family.make, grid, 0)
    lengths = [range(len(grid.axes[name])) for name in grid.axes if name in used]
    order = [name for name in grid.axes if name in used]
    of = lambda index: {name: grid.axes[name][i].item() for name, i in zip(order, index, strict=True)}
    all_indices = list(itertools.product(*lengths))
    made, computed = [], set()
    for index in all_indices:
        energy = family.make(**of(index))
        check_energy(energy, shape, dtype)
        made.append(energy)
        # What an object holds that is no tree is in no leaf.
        if any(_may_change(leaf) for leaf in jax.tree.leaves(energy)):
            computed.update(checksums(traced_energy(energy, shape, dtype)))
    if len(computed) > 1 and all(leaf is made[0] for leaf in made):
        raise ValueError("make must return another energy at each point, got one object that it changes.")
    flat = [jax.tree.flatten(energy) for energy in made]
    if any(structure != flat[0][1] for _, structure in flat):
        raise ValueError("make must return energies that differ in their arrays only, got energies of other structure.")
    # Which of the energies that were made belongs to each point.
    places = np.unravel_index(np.arange(grid.points), grid.shape)
    picked = [place for name, place in zip(grid.axes, places, strict=True) if name in used]
    which = np.ravel_multi_index(picked, [len(r) for r in lengths]) if picked else np.zeros(grid.points, int)
    columns = [_stacked(leaves, which) for leaves in zip(*[leaves for leaves, _ in flat], strict=True)]
    own = jax.tree.unflatten(flat[0][1], columns)
    shared = jax.tree.map(lambda mine, x: x if mine is None else None, own, made[0], is_leaf=lambda x: x is None)
    shared = at_start(shared)
    return Energies(own, shared, eqx.combine(jax.tree.map(lambda x: jax.device_put(x[0]), own), shared))


def _may_change(leaf: Any) -> bool:
    """Whether a leaf is an object with numbers that no tree has, and neither an array nor a function."""
    return not eqx.is_array_like(leaf) and callable(leaf) and not inspect.isroutine(leaf)


def _stacked(leaves: tuple[Any, ...], which: np.ndarray) -> np.ndarray | None:
    """The leaf at each point, or None if it is the same everywhere."""
    first = leaves[0]
    if all(leaf is first for leaf in leaves):
        return None
    if not all(eqx.is_array_like(leaf) for leaf in leaves):
        if all(leaf == first for leaf in leaves):
            return None
        raise ValueError(f"make must return energies that differ in their arrays only, got {first!r} and others.")
    arrays = [np.asarray(jnp.asarray(leaf)) for leaf in leaves]
    if any(array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"make must return energies with arrays of one shape, got {[a.shape for a in arrays]}.")
    return None if all(np.array_equal(array, arrays[0]) for array in arrays) else np.stack(arrays)[which]
