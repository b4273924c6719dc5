"""What all solutions share: the axis of seeds, and how they become NumPy arrays, an xarray dataset or a file.

A solution is a Module whose fields are arrays. Four kinds of fields are written in the same way by every solution:
`result`, the codes; `stats`, the numbers of the solver; `depth`, a kernel; and an `SVD`. Each class of solutions has a
`Layout`, which names its axes and says what its numbers mean. A file holds numbers and names only. No code from a file
is run when it is read.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TYPE_CHECKING, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dlnjax._checks import as_path, require_known
from dlnjax._results import as_index, NAMES, RESULTS, taken
from dlnjax._show import Shown
from dlnjax._versions import version_of

if TYPE_CHECKING:
    import xarray

# The prefixes of names in the file: the frames of a flow are u and v, those of its last state final_u and final_v.
PREFIXES = {"svd": "", "final": "final_", "depth": "kernel_"}
SETTINGS = ("depth", "rtol", "atol", "beta", "dt")
# The field with the factors of a network. A tuple of factors is weights_1, ..., weights_N in the file.
LAYERS = "weights"
# The largest number of bytes of a variable in netCDF 3. SciPy writes this number as a signed integer of 32 bits.
_LARGEST = 2**31 - 4
# The attribute that marks an array of integers that had 64 bits before it was written.
LONG = "before_netcdf"
# The attribute with the type of the matrices for which the checksum of the kernel was found.
KERNEL_DTYPE = "dtype of the kernel"
# The attribute with the types of the settings: an attribute of a file is a number of no type.
TYPES = "types"
# JAX shares the memory of an array of NumPy that begins at a multiple of this many bytes.
_ALIGNMENT = 64
_NOTES = {
    "result": "how it ended, a code of dlnjax.RESULTS",
    "steps": "accepted steps of the solver",
    "rejected": "rejected steps of the solver",
    "evaluations": "evaluations of the right-hand side; of a solver that does not say, 0",
    "crossings": "changes of the sign of the determinant, with noise",
}


S = TypeVar("S", bound="Solution")


class Layout(NamedTuple):
    """The format of the file of a solution: its name, and the axes and the meaning of its arrays.

    `lead` is the name of the leading axes, those of a sweep or of `jax.vmap`. `sized` is the name of an array that has
    no other axes. `axes` has the other axes of each array, `notes` what an array means, and `attrs` further attributes.
    """

    format: str
    lead: str
    sized: str
    axes: dict[str, str]
    notes: dict[str, str]
    attrs: dict[str, str] = {}  # noqa: RUF012


class Solution(Shown):
    """A solution that can be indexed along its seeds, saved, and read again by `dlnjax.load`."""

    layout: ClassVar[Layout]

    def _derived(self) -> dict[str, Any]:
        """Further arrays to write. They are computed from the other arrays, and are not read back."""
        return {}

    @property
    def _lead(self) -> tuple[int, ...]:
        """The sizes of the leading axes, those of a sweep or of `jax.vmap`."""
        return tuple(np.shape(getattr(self, self.layout.sized)))

    def _carries_lead(self, name: str, leaf: Any) -> bool:
        if name.startswith("observed"):
            return bool(self._lead)
        own = self._own_axes.get(name, len(_axes(self.layout, name)))
        return np.ndim(leaf) > own and np.shape(leaf)[: len(self._lead)] == self._lead

    @property
    def _own_axes(self) -> dict[str, int]:
        """The number of axes that the arrays of a kernel of one's own have for one seed, by their names."""
        kernel = getattr(self, "depth", None)
        if kernel is None or kernel._record is None:
            return {}
        leaves = jax.tree_util.tree_leaves_with_path(self)
        arrays = [_name(path) for path, leaf in leaves if path[0].name == "depth" and _is_of_arrays(leaf)]
        return dict(zip(arrays, kernel._axes, strict=True))

    @staticmethod
    def joined(parts: Iterable[S], n: int) -> S:
        """One solution of `n` seeds from its parts, in their order. What all seeds share is taken from the first part.

        Each part is copied to its place when it comes, and is not kept, so that the memory holds the numbers once.
        """
        whole, done = None, 0
        for part in parts:
            whole = part._taken(lambda leaf: _aligned((n, *leaf.shape[1:]), leaf.dtype)) if whole is None else whole
            rows = slice(done, done + len(part))
            leaves = jax.tree_util.tree_leaves_with_path(part)
            for (path, leaf), room in zip(leaves, jax.tree.leaves(whole), strict=True):
                if part._carries_lead(_name(path), leaf):
                    room[rows] = leaf
            done += len(part)
        return on_device(whole)

    def first_seeds(self: S, n: int) -> S:
        """The solution of the first `n` seeds, as views by NumPy, which copy nothing."""
        return self._taken(lambda leaf: np.asarray(leaf)[:n])

    def __len__(self) -> int:
        if not self._lead:
            raise TypeError(
                f"this {type(self).__name__} is of one matrix and has no axis of {self.layout.lead}s. Index its arrays."
            )
        return self._lead[0]

    def __getitem__(self: S, index: int | slice | np.ndarray | jax.Array | list[int]) -> S:
        """The solution of one seed, or of some: what all seeds share, such as `ts`, is left as it is."""
        len(self)
        chosen = as_index(index, self._lead, self.layout.lead)
        return self._taken(lambda leaf: taken(leaf, chosen))

    def _taken(self: S, take: Callable[[Any], Any]) -> S:
        """The solution with `take` of each array that has the seeds in front."""
        own = lambda path, leaf: take(leaf) if self._carries_lead(_name(path), leaf) else leaf
        return jax.tree_util.tree_map_with_path(own, self)

    def __iter__(self: S) -> Iterator[S]:
        return (self[i] for i in range(len(self)))

    def _numbers(self) -> dict[str, Any]:
        """The arrays and the numbers of Python, by their names in a file."""
        arrays = eqx.filter(self, eqx.is_array_like)
        return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(arrays)}

    def to_numpy(self) -> dict[str, Any]:
        """Everything as NumPy arrays, by name; `result` as the names of the codes."""
        require_known("what is saved", self)
        leaves = {name: np.asarray(leaf) for name, leaf in self._numbers().items()}
        kernel = eqx.filter(getattr(self, "depth", None), eqx.is_array_like)
        # The infinite depth is 1/0, where NumPy warns and JAX does not. The kernel of a solution may be of NumPy
        # arrays.
        if (number := getattr(jax.tree.map(jnp.asarray, kernel), "depth", None)) is not None:
            leaves["depth"] = np.asarray(number)
        leaves |= {name: np.asarray(value) for name, value in self._derived().items()}
        result: RESULTS = getattr(self, "result")  # noqa: B009
        return leaves | {"result": result.names}

    def to_xarray(self) -> "xarray.Dataset":
        """An xarray `Dataset` with named dimensions, and units or conventions in the attributes.

        Dimensions: `seed` (of a sweep), `time`, `mode` (singular values, descending), `row` and `column`. The depth and
        each tolerance is an attribute if all seeds share it, and a coordinate if the seeds differ in it.
        """
        import xarray

        layout, lead = self.layout, _numbered(self.layout.lead, len(self._lead))
        notes = _NOTES | layout.notes
        data, coords = {}, {}
        attrs = {"format": layout.format, "written_by": f"dlnjax {version_of('dlnjax')}", **layout.attrs}
        for name, value in self.to_numpy().items():
            setting = name in SETTINGS or name.startswith(PREFIXES["depth"])
            own = ("time", *_numbered(name, 9)) if name.startswith("observed") else _axes(layout, name)
            front = lead if self._carries_lead(name, value) else []
            axes = [*front, *own][: value.ndim]
            axes += _numbered(f"{name}_axis", value.ndim - len(axes))
            if setting and not front and value.ndim == 0:
                attrs[name] = value.item()
            elif name == "ts" and not front:
                coords["time"] = ("time", value, {"long_name": "time", "units": "1", **layout.attrs})
            else:
                about = {"long_name": notes[name]} if name in notes else {}
                (coords if setting else data)[name] = (tuple(axes), value, about)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                attrs[field.name] = value
            elif field.name == "atol" and value is None:
                attrs["absolute tolerance"] = "a hundredth of rtol of the size of the start"
            elif field.name == "depth":
                attrs["kernel"] = type(value).__name__
                if value._record and not value._record.callbacks:
                    attrs |= {"kernel_checksum": value._record.checksum, "kernel_jax": version_of("jax")}
                    attrs[KERNEL_DTYPE] = value._record.dtype
            elif isinstance(value, dict):
                attrs[field.name] = " ".join(value)
        return xarray.Dataset(data, coords=coords, attrs=attrs | {TYPES: json.dumps(self._types())})

    def _types(self) -> dict[str, str]:
        """The types of the settings, of which a file keeps numbers: of arrays, and of numbers of Python."""
        kind = lambda leaf: str(leaf.dtype) if _is_of_arrays(leaf) else f"python {type(leaf).__name__}"
        return {n: kind(x) for n, x in self._numbers().items() if n in SETTINGS or n.startswith(PREFIXES["depth"])}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file, which `dlnjax.load` reads. The format is netCDF 3, which any netCDF tool reads. For a path
        that ends in `.zarr` it is a zarr group, which has no limit of size and needs zarr.

        **Raises:** `ValueError` for a path that cannot be written, an array above 2 GiB or of a type that netCDF 3 does
        not have, or an `observe` that returned more than one array.
        """
        path = as_path("path", path)
        kernel = getattr(self, "depth", None)
        if not all(map(eqx.is_array_like, jax.tree.leaves(kernel))):
            raise ValueError(f"a file holds arrays, and {type(kernel).__name__} has other fields: use to_xarray.")
        observed = getattr(self, "observed", None)
        if observed is not None and not eqx.is_array(observed):
            raise ValueError("save needs observe to return one array, not a tuple or dict: use to_numpy or to_xarray.")
        data = self.to_xarray()
        unknown = {str(name): str(v.dtype) for name, v in data.variables.items() if v.dtype.kind == "V"}
        if unknown:
            raise ValueError(f"a file cannot hold the types of {unknown}: convert them, as by .astype(jnp.float32).")
        if path.suffix == ".zarr":
            _write_zarr(data, path)
        else:
            _write_netcdf(data, path)


def on_device(tree: Any) -> Any:
    """The tree with arrays of JAX. A kernel may hold functions, which stay."""
    return jax.tree.map(lambda x: jax.device_put(x) if _is_of_arrays(x) else x, tree)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array without values yet, which JAX on a CPU takes as it is, and copies where its memory begins elsewhere."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def _is_of_arrays(x: Any) -> bool:
    """Whether `x` is an array of JAX or of NumPy, or one number of NumPy, and no number of Python."""
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def _name(path: tuple[Any, ...]) -> str:
    """The name in a file of the leaf at `path`: `ts`, `final_u`, `steps`, `kernel_inverse_depth`, `observed['a']`."""
    first, *rest = path
    field = first.name.lstrip("_")
    if field == "observed":
        return field + jax.tree_util.keystr(tuple(rest))
    if field == "depth":
        return name_in_kernel(rest)
    if field in PREFIXES:
        return PREFIXES[field] + rest[-1].name
    if field == LAYERS and rest:
        return f"{field}_{rest[-1].idx + 1}"
    return str(rest[-1].key) if field == "stats" else field


def name_in_kernel(path: Iterable[Any]) -> str:
    """The name of a leaf of a kernel, which may hold a tuple of numbers: `kernel_imbalance_0`."""
    return PREFIXES["depth"] + "_".join(str(getattr(key, "name", getattr(key, "idx", key))) for key in path)


def _axes(layout: Layout, name: str) -> list[str]:
    """The axes of an array beyond those in front. The factor W_p has n_p rows and n_{p-1} columns."""
    field, _, number = name.rpartition("_")
    if field != LAYERS:
        return layout.axes.get(name, "").split()
    widths = {"row": f"width_{number}", "column": f"width_{int(number) - 1}"}
    return [widths.get(axis, axis) for axis in layout.axes[field].split() if axis != "layer"]


def _numbered(name: str, n: int) -> list[str]:
    return [name] if n == 1 else [f"{name}_{k}" for k in range(n)]


def _write_netcdf(data: "xarray.Dataset", path: Path) -> None:
    large = {str(name): value.nbytes for name, value in data.variables.items() if value.nbytes > _LARGEST}
    if large:
        name, size = max(large.items(), key=lambda item: item[1])
        raise ValueError(
            f"{name} has {size / 2**30:.1f} GiB, and netCDF 3 holds 2 GiB of each array: "
            f"save it as {str(path.with_suffix('.zarr'))!r}, which needs zarr, or use to_numpy."
        )
    # In netCDF 3 only the first axis may have size 0. SciPy writes other axes of size 0 too, but cannot read them.
    if empty := [str(name) for name, value in data.variables.items() if 0 in value.shape[1:]]:
        raise ValueError(
            f"{empty[0]} has the shape {data[empty[0]].shape}, and netCDF 3 holds no array without entries: "
            f"save it as {str(path.with_suffix('.zarr'))!r}, which needs zarr, or use to_numpy."
        )
    # netCDF 3 has no integers of 64 bits: xarray writes them in 32 if they fit, and refuses them if not.
    long = {name: v.assign_attrs({LONG: "int64"}) for name, v in data.data_vars.items() if v.dtype == np.int64}
    data = data.assign(long)
    # The data go to another file first, which then replaces `path` by one operation, so that `path` is always complete.
    fresh = path.with_name(path.name + ".new")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        data.to_netcdf(fresh, engine="scipy", format="NETCDF3_64BIT")
        os.replace(fresh, path)
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error}. Name a file in a folder that exists.") from error
    except (TypeError, ValueError) as error:
        zarr = str(path.with_suffix(".zarr"))
        raise ValueError(f"netCDF 3 cannot hold this: {error}. Save it as {zarr!r}, which needs zarr.") from error
    finally:
        fresh.unlink(missing_ok=True)


def _write_zarr(data: "xarray.Dataset", path: Path) -> None:
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError("a file that ends in .zarr needs zarr: pip install 'zarr>=3'.") from error
    if path.exists() and not (path / "zarr.json").is_file():
        raise ValueError(f"cannot write {str(path)!r}: it is something else than a zarr group. Name another.")
    try:
        coded(data).to_zarr(path, mode="w", consolidated=False, zarr_format=3)
    except OSError as error:
        raise ValueError(f"cannot write {str(path)!r}: {error}. Name a file in a folder that exists.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"zarr cannot hold this: {error}. Use to_numpy.") from error


def coded(data: "xarray.Dataset") -> "xarray.Dataset":
    """The dataset with results as numbers and with their names as attributes. zarr can hold numbers in any version."""
    result = data["result"]
    codes = RESULTS.named(result.values).code.astype(np.int8)
    attrs = result.attrs | {"flag_values": list(range(len(NAMES))), "flag_meanings": " ".join(NAMES)}
    return data.assign(result=(result.dims, codes, attrs))
