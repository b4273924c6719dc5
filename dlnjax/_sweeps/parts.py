"""The arrays of a folder, in zarr, to which each part of a sweep is written, and the receipt of a part.

A part is one chunk of every array, so that two processes that write two parts never write to the same file. A part
counts when its receipt `parts/<first seed>.json` is there, which whoever computed the part writes last, by one
operation. The receipt has the checksum of the part.
"""

import functools
import json
import os
import socket
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TYPE_CHECKING

import jax
import numpy as np

from dlnjax._saved import coded
from dlnjax._sweeps.grid import Grid
from dlnjax._versions import version_of

if TYPE_CHECKING:
    import xarray

# A message names at most this many parts.
_NAMED = 5
# The attribute of a coordinate that has its names.
_NAMES = "names"


def of_parts(parts: Mapping[int, int], what: str = "seeds") -> str:
    """What some parts consist of, in words: seeds 4 to 7, 12 to 15. `parts` has the size of each, by its first seed."""
    named = [f"{first} to {first + count - 1}" for first, count in sorted(parts.items())[:_NAMED]]
    more = len(parts) - _NAMED
    rest = f" and those of {more} more part{'s' if more > 1 else ''}" if more > 0 else ""
    return f"{what} {', '.join(named)}{rest}"


def make_room(data: Path, blank: "xarray.Dataset", grid: Grid, part: int) -> None:
    """Make the arrays for all seeds, of which `blank` has some. They take no space, since zarr stores no chunk that is
    not written yet."""
    import xarray
    import zarr

    blank = coded(blank).drop_vars(set(grid.axes) & set(blank.variables))
    seeded, one = _seeded(blank), (1,) * len(grid.axes)
    full = lambda v: np.full((*one, *v.shape), _missing(v.dtype), v.dtype)
    missing = {name: ((*grid.axes, *v.dims), full(v), v.attrs) for name, v in seeded.items()}
    # With `assign` a coordinate stays a coordinate. A new data set of `missing` would make it a variable.
    template = blank.drop_vars(seeded).assign(missing).set_coords(set(seeded) & set(blank.coords))
    rows = min(part, grid.seeds)
    encoding = {
        name: {"chunks": (*one, rows, *v.shape[1:]), "fill_value": _missing(v.dtype)} for name, v in seeded.items()
    }
    template.to_zarr(data, mode="w", consolidated=False, zarr_format=3, encoding=encoding)
    for name, v in seeded.items():
        zarr.open_array(data / name, mode="r+").resize((*grid.shape, grid.seeds, *v.shape[1:]))
    if grid.axes:
        coordinates = {name: _numbered(*about) for name, about in grid.coordinates().items()}
        xarray.Dataset(coords=coordinates, attrs=template.attrs).to_zarr(
            data, mode="a", consolidated=False, zarr_format=3
        )


def _numbered(name: str, values: np.ndarray, attrs: dict[str, str]) -> tuple[str, np.ndarray, dict[str, Any]]:
    """A coordinate whose names are numbers, as zarr has no text that every version reads. `named` is the inverse."""
    if values.dtype.kind != "U":
        return name, values, attrs
    return name, np.arange(len(values)), attrs | {_NAMES: values.tolist()}


def named(data: "xarray.Dataset") -> "xarray.Dataset":
    """The dataset with the names of its coordinates in place of their numbers."""
    names = {str(name): v for name, v in data.coords.items() if _NAMES in v.attrs}
    about = lambda v: {key: value for key, value in v.attrs.items() if key != _NAMES}
    return data.assign_coords(
        {name: (name, np.array(v.attrs[_NAMES])[v.values], about(v)) for name, v in names.items()}
    )


class Parts:
    """The arrays of a folder that have the axis of the seeds, after those of the grid."""

    def __init__(self, data: Path, grid: Grid, mode: Literal["r", "r+"] = "r"):
        import zarr

        group, self.grid, front = zarr.open_group(data, mode=mode, zarr_format=3), grid, (*grid.axes, "seed")
        dims = lambda array: tuple(getattr(array.metadata, "dimension_names", None) or ())
        self.arrays = {name: array for name, array in sorted(group.arrays()) if dims(array)[: len(front)] == front}

    def write(self, first: int, part: "xarray.Dataset") -> int:
        """Write a part, and return its checksum."""
        seeded = _seeded(coded(part).drop_vars(set(self.grid.axes) & set(part.variables)))
        if seeded.keys() != self.arrays.keys():
            raise ValueError(f"a part has the arrays {sorted(seeded)}, and its folder has {sorted(self.arrays)}.")
        total = 0
        for name, array in self.arrays.items():
            values = np.ascontiguousarray(seeded[name].values.astype(array.dtype, copy=False))
            for where, rows in self.grid.pieces(first, len(values)):
                array[where] = values[rows]
            total = zlib.crc32(values.tobytes(), total)
        return total

    def checksum(self, first: int, count: int) -> int:
        """The checksum of what is on the disk."""
        total = 0
        for array in self.arrays.values():
            for where, _ in self.grid.pieces(first, count):
                total = zlib.crc32(np.ascontiguousarray(array[where]).tobytes(), total)
        return total


def write_receipt(folder: Path, first: int, count: int, checksum: int, device: str) -> None:
    receipt = {"first": first, "count": count, "checksum": checksum, "versions": versions(), "device": device}
    receipt["host"] = socket.gethostname()
    write_whole(folder / "parts" / f"{first}.json", json.dumps(receipt))


def not_written(folder: Path, error: OSError) -> str:
    """What to say of a folder to which a part could not be written, as its disk is full or it became read-only."""
    return f"cannot write to {folder}: {error.strerror or error}. Its finished seeds are kept."


def write_whole(path: Path, text: str) -> None:
    """Write a file by one operation: it is there as a whole or not at all."""
    fresh = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def read_receipts(folder: Path) -> dict[int, dict[str, int]]:
    """The receipts by the first seed of their part. A file that is no whole receipt is none."""
    found = {}
    for path in (folder / "parts").glob("*.json"):
        try:
            receipt = json.loads(path.read_text(encoding="utf-8"))
            kept = {name: int(receipt[name]) for name in ("first", "count", "checksum")}
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if path.stem == str(kept["first"]):
            found[kept["first"]] = kept
    return found


@functools.cache
def versions() -> dict[str, str]:
    """The versions on which the bits of a result depend."""
    return {name: version_of(name) for name in ("dlnjax", "jax", "jaxlib")}


def device_kind() -> str:
    return jax.local_devices()[0].device_kind


def _missing(dtype: Any) -> np.ndarray:
    if np.issubdtype(dtype, np.unsignedinteger):
        return np.array(np.iinfo(dtype).max, dtype)
    return np.array(np.nan if np.issubdtype(dtype, np.floating) else -1, dtype)


def _seeded(part: "xarray.Dataset") -> dict[str, Any]:
    """The arrays and the coordinates whose first axis is that of the seeds."""
    return {str(name): variable for name, variable in part.variables.items() if "seed" in variable.dims}
