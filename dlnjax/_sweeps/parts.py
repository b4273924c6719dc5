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
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TYPE_CHECKING

import jax
import numpy as np

from dlnjax._saved import coded

if TYPE_CHECKING:
    import xarray


def make_room(data: Path, blank: "xarray.Dataset", n: int, part: int) -> None:
    """Make the arrays for `n` seeds, of which `blank` has some. They take no space, since zarr stores no chunk that is
    not written yet."""
    import zarr

    blank = coded(blank)
    seeded = _seeded(blank)
    missing = {name: (v.dims, np.full_like(v.values, _missing(v.dtype)), v.attrs) for name, v in seeded.items()}
    # With `assign` a coordinate stays a coordinate. A new data set of `missing` would make it a variable.
    template = blank.assign(missing)
    encoding = {name: {"chunks": (part, *v.shape[1:]), "fill_value": _missing(v.dtype)} for name, v in seeded.items()}
    template.to_zarr(data, mode="w", consolidated=False, zarr_format=3, encoding=encoding)
    for name in missing:
        array = zarr.open_array(data / name, mode="r+")
        array.resize((n, *array.shape[1:]))


class Parts:
    """The arrays of a folder whose first axis is that of the seeds."""

    def __init__(self, data: Path, mode: Literal["r", "r+"] = "r"):
        import zarr

        group = zarr.open_group(data, mode=mode, zarr_format=3)
        dims = lambda array: getattr(array.metadata, "dimension_names", None) or ()
        self.arrays = {name: array for name, array in sorted(group.arrays()) if "seed" in dims(array)}

    def write(self, first: int, part: "xarray.Dataset") -> int:
        """Write a part, and return its checksum."""
        seeded = _seeded(coded(part))
        if seeded.keys() != self.arrays.keys():
            raise ValueError(f"a part has the arrays {sorted(seeded)}, and its folder has {sorted(self.arrays)}.")
        total = 0
        for name, array in self.arrays.items():
            values = np.ascontiguousarray(seeded[name].values.astype(array.dtype, copy=False))
            array[first : first + len(values)] = values
            total = zlib.crc32(values.tobytes(), total)
        return total

    def checksum(self, first: int, count: int) -> int:
        """The checksum of what is on the disk."""
        total = 0
        for array in self.arrays.values():
            total = zlib.crc32(np.ascontiguousarray(array[first : first + count]).tobytes(), total)
        return total


def write_receipt(folder: Path, first: int, count: int, checksum: int, device: str) -> None:
    receipt = {"first": first, "count": count, "checksum": checksum, "versions": versions(), "device": device}
    receipt["host"] = socket.gethostname()
    write_whole(folder / "parts" / f"{first}.json", json.dumps(receipt))


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
    return {name: _version_of(name) for name in ("dlnjax", "jax", "jaxlib")}


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def device_kind() -> str:
    return jax.local_devices()[0].device_kind


def _missing(dtype: Any) -> np.ndarray:
    return np.array(np.nan if np.issubdtype(dtype, np.floating) else -1, dtype)


def _seeded(part: "xarray.Dataset") -> dict[str, Any]:
    """The arrays and the coordinates whose first axis is that of the seeds."""
    return {str(name): variable for name, variable in part.variables.items() if "seed" in variable.dims}
