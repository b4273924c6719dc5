"""A saved solution, read again from the names and the numbers in its file. No code from a file is run."""

import dataclasses
import itertools
import json
import warnings
from collections.abc import Callable
from typing import Any, cast, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dlnjax._recorded import Record, record_of
from dlnjax._results import NAMES, RESULTS
from dlnjax._saved import KERNEL_DTYPE, LAYERS, LONG, name_in_kernel, PREFIXES, SETTINGS, Solution, TYPES
from dlnjax._svd import SVD
from dlnjax._versions import version_of

if TYPE_CHECKING:
    import xarray


def solution_of(data: "xarray.Dataset", source: str) -> Any:
    """The solution from which `to_xarray` made `data`.

    **Raises:** `ValueError` for another dataset, or for a dataset whose kernel is defined nowhere in this program.
    """
    formats = {cls.layout.format: cls for cls in reversed(_subclasses(Solution)) if hasattr(cls, "layout")}
    cls = formats.get(data.attrs.get("format", ""))
    if cls is None:
        raise ValueError(
            f"{source} is no saved solution of this version: its format is {data.attrs.get('format')!r}, "
            f"and not one of {', '.join(sorted(formats))}."
        )
    if any(str(name).startswith("observed") and name != "observed" for name in data):
        raise ValueError(f"{source} holds several observed arrays, which only xarray can open: xarray.open_zarr.")
    _tell_of_float64(data, source)
    types = json.loads(data.attrs.get(TYPES, "{}"))

    def get(name: str) -> Any:
        found, kind = stored(name), types.get(name)
        return found if kind is None else _of_kind(found, kind)

    def stored(name: str) -> Any:
        name = "time" if name == "ts" and "ts" not in data else name
        # An axis of a grid may have the name of a setting that all seeds share, and is then the variable.
        if name not in data.variables or (name in SETTINGS and name in data.attrs):
            return jnp.asarray(data.attrs[name])
        values = data[name].values
        return jnp.asarray(values.astype(data[name].attrs.get(LONG, values.dtype)))

    fields = {field.name: _field(field, data, get, source) for field in dataclasses.fields(cls)}
    return cls(**fields)


def _of_kind(found: Any, kind: str) -> Any:
    """A number of the file in the type that it had: that of an array, or a number of Python."""
    python = {"python float": float, "python int": int, "python bool": bool}
    return python[kind](found) if kind in python else jnp.asarray(np.asarray(found).astype(kind))


def _field(field: Any, data: "xarray.Dataset", get: Callable[[str], Any], source: str) -> Any:
    name = field.name.lstrip("_")
    if name == "result":
        return result_of(data[name], source)
    if name == "stats":
        return {key: get(key) for key in data.attrs.get(name, "").split()}
    if name == "depth":
        return _kernel(field.type, data, get, source)
    if name in PREFIXES:
        parts = [PREFIXES[name] + part for part in ("u", "sigma", "v")]
        return SVD(*map(get, parts)) if set(parts) <= set(data) else None
    if field.type is str:
        return data.attrs[name]
    if name == LAYERS and name not in data.variables:
        return tuple(get(f"{name}_{p + 1}") for p in range(sum(str(v).startswith(f"{name}_") for v in data.variables)))
    return get(name) if name in data.variables or name in data.attrs or name == "ts" else None


def result_of(result: "xarray.DataArray", source: str) -> RESULTS:
    """The codes, found by their names, since another version may give them other numbers. For results that were saved
    as numbers, the names are in the attributes.
    """
    names = result.astype(str).values
    if result.dtype.kind == "i":
        meanings = dict(enumerate(result.attrs["flag_meanings"].split()))
        names = np.vectorize(lambda code: meanings.get(code, str(code)), otypes=[str])(result.values)
    if unknown := sorted({str(name) for name in names.ravel()} - set(NAMES)):
        raise ValueError(f"{source} has results that are no codes of RESULTS: {', '.join(unknown)}.")
    return RESULTS.named(names)


def _kernel(base: type, data: "xarray.Dataset", get: Callable[[str], Any], source: str) -> Any:
    """A kernel of the class that the file names.

    The file has the name only, so the class must be defined in this program.
    """
    name, checksum = data.attrs["kernel"], data.attrs.get("kernel_checksum")
    # The newest comes first, as a cell of a notebook defines a class again each time that it runs.
    found = [cls for cls in _subclasses(base) if cls.__name__ == name][::-1]
    if not found:
        raise ValueError(
            f"{source} was computed with the kernel {name!r}, which is defined nowhere here. "
            "Import its class, or define it, before the call."
        )
    floats = (v.dtype for v in data.variables.values() if v.dtype.kind == "f")
    dtype = np.dtype(data.attrs[KERNEL_DTYPE]) if KERNEL_DTYPE in data.attrs else next(floats)
    kernels, errors = [], []
    for cls in found:
        try:
            kernels.append(_recorded(_module(cls, PREFIXES["depth"], data, get), base, dtype, data))
        except ValueError as error:
            errors.append(error)
    if not kernels:
        raise errors[0]
    # Another version of JAX, or another precision, has other programs.
    if checksum is None or data.attrs.get("kernel_jax") != version_of("jax") or jnp.zeros((), dtype).dtype != dtype:
        return kernels[0]
    same = [kernel for kernel in kernels if kernel._record and kernel._record.checksum == checksum]
    if not same:
        raise ValueError(
            f"{source} was computed with another kernel of the name {name!r}: its methods, or a number that they read, "
            "have changed since. Compute the solution again."
        )
    return same[0]


def _recorded(kernel: Any, base: type, dtype: Any, data: "xarray.Dataset") -> Any:
    """The kernel with a record, if it needs one."""
    arrays = eqx.filter(kernel, eqx.is_array)
    names = [name_in_kernel(path) for path, _ in jax.tree_util.tree_leaves_with_path(arrays)]
    own = lambda name: sum(str(dim).startswith(f"{name}_axis") for dim in data[name].dims) if name in data else 0
    # The record needs to know which axes of the arrays are those of one seed.
    object.__setattr__(kernel, "_record", Record(tuple(map(own, names)), ""))
    object.__setattr__(kernel, "_record", record_of(kernel, base, dtype))
    return kernel


def _module(cls: type, prefix: str, data: "xarray.Dataset", get: Callable[[str], Any]) -> Any:
    """A kernel, or a module that it holds, whose arrays have names with this prefix."""
    module = object.__new__(cls)
    for field in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType]
        name, kind = prefix + field.name, cast(Any, field.type)
        inner = isinstance(kind, type) and issubclass(kind, eqx.Module)
        if field.name == "_record":
            value = None
        else:
            value = _module(kind, f"{name}_", data, get) if inner else _numbers(name, data, get)
        object.__setattr__(module, field.name, value)
    return module


def _numbers(name: str, data: "xarray.Dataset", get: Callable[[str], Any]) -> Any:
    """The array of a kernel by this name, or the tuple of those that are called `name_0`, `name_1` and so on."""
    there = {*data.variables, *data.attrs}
    if name in there:
        return get(name)
    if f"{name}_0" not in there:
        field = name.removeprefix(PREFIXES["depth"])
        raise ValueError(f"the kernel {data.attrs['kernel']} has a field {field} that is not in the file.")
    return tuple(get(f"{name}_{i}") for i in itertools.takewhile(lambda i: f"{name}_{i}" in there, itertools.count()))


def _subclasses(cls: type) -> list[Any]:
    return [each for child in cls.__subclasses__() for each in (child, *_subclasses(child))]


def _tell_of_float64(data: "xarray.Dataset", source: str) -> None:
    if jnp.asarray(0.0).dtype == jnp.float32 and any(v.dtype == np.float64 for v in data.variables.values()):
        warnings.warn(
            f"{source} is float64 and is loaded as float32, since JAX has float64 switched off. Enable it before the "
            'first array is made, jax.config.update("jax_enable_x64", True), or read it with xarray.',
            stacklevel=4,
        )
