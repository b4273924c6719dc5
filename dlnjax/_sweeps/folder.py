"""A sweep's folder: what is finished, written as it goes, in one zarr group.

    folder/call.json    which call it belongs to, and a checksum for each part that is finished
    folder/data.zarr    the solution, as `FlowSolution.to_xarray` lays it out

A part counts once its checksum stands in `call.json`, which is replaced in one motion: killed at any moment, the sweep
goes on from the last finished part.
"""

import json
import math
import os
import zlib
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np

from dlnjax._checks import as_path
from dlnjax._results import NAMES

if TYPE_CHECKING:
    import xarray

FORMAT = "dlnjax.sweep/1"


class Store:
    """The folder of one sweep; `done` seeds of it are finished.

    **Raises:** `ValueError` if the folder belongs to another call or another version, is damaged or cannot be written;
    `ImportError` without zarr.
    """

    def __init__(self, folder: str | os.PathLike, call: dict[str, Any], chunk: int | None):
        try:
            import zarr  # noqa: F401
        except ImportError as error:
            raise ImportError("a sweep into a folder needs zarr: pip install 'zarr>=3'.") from error
        self.folder = as_path("folder", folder)
        self.data = self.folder / "data.zarr"
        self.record = self.folder / "call.json"
        self.fresh = self.folder / "call.new"
        self.call = call
        self.parts: list[int] = []
        self.chunk = chunk
        if self.record.exists():
            self._resume(chunk)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A first record that was cut off is no work to lose.
            if any(path.name != self.fresh.name for path in self.folder.iterdir()):
                raise ValueError(
                    f"{self.folder} is not empty and holds no sweep. Name a new folder, or empty this one."
                )
            self._write_record()
        except OSError as error:
            raise ValueError(f"cannot write to {self.folder}: {error.strerror}. Name another folder.") from error

    @property
    def done(self) -> int:
        return min(len(self.parts) * (self.chunk or 0), self.call["n"])

    def _resume(self, chunk):
        record = read_record(self.folder)
        theirs = record["call"]
        differ = [key for key in self.call if not _same(self.call[key], theirs.get(key))]
        if differ:
            raise ValueError(
                f"{self.folder} belongs to another call: {', '.join(differ)} differ. "
                "Name a new folder, or repeat that call."
            )
        self.parts, self.chunk = record["parts"], record["chunk"]
        if not self.parts:
            self.chunk = chunk
            return
        if chunk is not None and chunk != self.chunk:
            raise ValueError(f"{self.folder} was begun with chunk={self.chunk}, got chunk={chunk}. Leave it out.")
        check_parts(self.folder, record)

    def write(self, part: "xarray.Dataset", n: int, chunk: int) -> None:
        """Add the next part."""

        part = _coded(part)
        self.chunk = chunk
        if not self.parts:
            self._make_room(part, n, chunk)
        first = len(self.parts) * chunk
        region = {"seed": slice(first, first + part.sizes["seed"])}
        part.drop_vars("time").to_zarr(self.data, region=region, consolidated=False)
        self.parts.append(_checksum(part))
        self._write_record()

    def _make_room(self, part: "xarray.Dataset", n: int, chunk: int) -> None:
        """Arrays of `n` seeds that take no memory: what is not written yet is missing, and is stored nowhere."""
        import xarray
        import zarr

        blank = {name: (v.dims, np.full_like(v.values, _missing(v.dtype)), v.attrs) for name, v in part.items()}
        template = xarray.Dataset(blank, coords={"time": part["time"]}, attrs=part.attrs)
        encoding = {
            name: {"chunks": (chunk, *v.shape[1:]), "fill_value": _missing(v.dtype)} for name, v in part.items()
        }
        template.to_zarr(self.data, mode="w", consolidated=False, zarr_format=3, encoding=encoding)
        for name in blank:
            array = zarr.open_array(self.data / str(name), mode="r+")
            array.resize((n, *array.shape[1:]))

    def _write_record(self):
        record = {"format": FORMAT, "call": self.call, "chunk": self.chunk, "parts": self.parts}
        self.fresh.write_text(json.dumps(record), encoding="utf-8")
        os.replace(self.fresh, self.record)

    def open(self) -> "xarray.Dataset":
        return open_data(self.folder)


def open_data(folder: Path) -> "xarray.Dataset":
    """The data, read only where they are looked at."""
    import xarray

    # The format that is written, and no older one, which could hold pickled objects.
    options = {"consolidated": False, "chunks": None, "mask_and_scale": False, "zarr_format": 3}
    return xarray.open_zarr(folder / "data.zarr", **options)


def open_folder(folder: Path) -> "xarray.Dataset":
    """The data of a sweep that has come to its end."""
    record = read_record(folder)
    check_parts(folder, record)
    n, done = record["call"]["n"], len(record["parts"]) * (record["chunk"] or 0)
    if done < n:
        raise ValueError(f"the sweep has {done} of {n} seeds. Repeat the call that began it, to go on from there.")
    return open_data(folder)


def read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / "call.json").read_text(encoding="utf-8"))
        version = record["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no folder of a sweep, or its call.json is damaged: {error}") from error
    if version != FORMAT:
        raise ValueError(f"{folder} was written as {version!r}, and this version writes {FORMAT!r}. Name a new folder.")
    if not {"call", "chunk", "parts"} <= record.keys():
        raise ValueError(
            f"{folder} cannot be read: its call.json is damaged, an entry is missing. Delete it and begin again."
        )
    return record


def check_parts(folder: Path, record: dict[str, Any]) -> None:
    """Compare every finished part with its checksum."""
    chunk = record["chunk"]
    for k, expected in enumerate(record["parts"]):
        try:
            with open_data(folder) as data:
                part = data.isel(seed=slice(k * chunk, (k + 1) * chunk)).load()
            found = _checksum(part)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            found = error
        if found != expected:
            raise ValueError(
                f"{folder} is damaged: seeds {k * chunk} to {(k + 1) * chunk - 1} are not as they were written. "
                "Delete it and begin again."
            )


def _coded(part: "xarray.Dataset") -> "xarray.Dataset":
    """With the results as numbers, which zarr can hold in any version, and their names beside them."""
    codes = np.array([NAMES.index(name) for name in part["result"].values], np.int8)
    attrs = part["result"].attrs | {"flag_values": list(range(len(NAMES))), "flag_meanings": " ".join(NAMES)}
    return part.assign(result=("seed", codes, attrs))


def _missing(dtype):
    return np.array(np.nan if np.issubdtype(dtype, np.floating) else -1, dtype)


def _checksum(part: "xarray.Dataset") -> int:
    total = 0
    for name in sorted(map(str, part.data_vars)):
        total = zlib.crc32(np.ascontiguousarray(part[name].values).tobytes(), total)
    return total


def _same(a, b) -> bool:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= 1e-9 * (abs(a) + abs(b)) or (math.isnan(a) and math.isnan(b))
    return a == b
