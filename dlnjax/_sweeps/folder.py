"""The folder of a sweep, to which each part of the solution is written when it is finished.

    folder/call.json           the identity of the call, and the sizes of its chunks and parts
    folder/data.zarr           the solution, as `FlowSolution.to_xarray` lays it out, in one zarr group
    folder/parts/FIRST.json    the receipt of the part whose first seed is FIRST

A part counts as finished when its receipt is there and the checksum in it is that of the data. Parts may be written in
any order, by any process. A sweep that was killed at any moment therefore goes on with the parts that are missing. The
process that called `sweep` holds the lock `call.lock`, and `call.holder` names this process.
"""

import json
import math
import os
import socket
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np

from dlnjax._checks import as_path
from dlnjax._loaded import solution_of
from dlnjax._sweeps.grid import Grid
from dlnjax._sweeps.parts import (
    device_kind,
    make_room,
    named,
    not_written,
    of_parts,
    Parts,
    read_receipts,
    write_receipt,
    write_whole,
)

if TYPE_CHECKING:
    import xarray

LOCK_FILES = ("call.lock", "call.holder")
FORMAT = "dlnjax.sweep/3"
# In this older format the checksums of the parts stand in `call.json`, and the first so many parts are finished.
PREFIX_FORMAT = "dlnjax.sweep/2"


class Lock:
    """The lock of a folder. The operating system releases the lock when its process ends, even if it was killed."""

    def __init__(self, folder: Path):
        import filelock

        self.lock = filelock.FileLock(folder / LOCK_FILES[0], timeout=0, thread_local=False)
        self.holder = folder / LOCK_FILES[1]

    def acquire(self) -> None:
        """Take the lock.

        **Raises:** `ValueError` if another process holds the lock. The error names this process.
        """
        import filelock

        try:
            self.lock.acquire()
        except filelock.Timeout as error:
            raise ValueError(
                f"{self.holder.parent} is being written by {self._whose()}. Wait until that sweep has ended and repeat "
                "the call, or name another folder."
            ) from error
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        self.holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")

    def _whose(self) -> str:
        try:
            return self.holder.read_text(encoding="utf-8") or "another process"
        except OSError:
            return "another process"

    def release(self) -> None:
        """Release the lock if it is held, also where the folder has become read-only."""
        if self.lock.is_locked:
            with suppress(OSError):
                self.holder.unlink()
            self.lock.release()


class Store:
    """The folder of one sweep. It is a context manager, which holds the lock.

    `chunk` and `part` are the sizes with which the folder was begun, or None if nothing in it is finished.

    **Raises:** `ValueError` if the folder belongs to another call or another version, cannot be read or written, or is
    being written by another process; `ImportError` without zarr or filelock.
    """

    def __init__(self, folder: str | os.PathLike[str], call: dict[str, Any], chunk: int | None):
        _require_packages()
        self.grid = _grid_of(call)
        self.folder = as_path("folder", folder)
        self.data = self.folder / "data.zarr"
        self.record = self.folder / "call.json"
        self.call = call
        self.done: dict[int, int] = {}
        self.chunk, self.part, self.parts = chunk, None, None
        self.lock = Lock(self.folder)
        if self.record.exists():
            record = self._resume(chunk)
            # A finished folder is only read. It needs no lock, and several processes may read it at once.
            if self.count == call["n"] and not damaged_parts(self.folder, record):
                return
        try:
            self._take_up(chunk)
        except OSError as error:
            self.lock.release()
            raise ValueError(
                f"cannot write to {self.folder}: {error.strerror}. Make it writable, or name another folder."
            ) from error
        except ValueError:
            self.lock.release()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception: object) -> None:
        self.lock.release()

    @property
    def count(self) -> int:
        """The number of seeds that are finished."""
        return sum(self.done.values())

    def _take_up(self, chunk: int | None) -> None:
        """Take the lock, and forget the parts that are damaged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._require_own()
        self.lock.acquire()
        (self.folder / "parts").mkdir(exist_ok=True)
        if not self.record.exists():
            return
        # Another process may have written to the folder before the lock was free, so the record is read again.
        record = self._resume(chunk)
        if record["format"] == PREFIX_FORMAT:
            self._convert(record)
        damaged = damaged_parts(self.folder, record)
        if damaged:
            text = f"{self.folder}: {of_parts(damaged)} are not as they were written, and are computed again."
            warnings.warn(text, stacklevel=5)
        for first in damaged:
            (self.folder / "parts" / f"{first}.json").unlink(missing_ok=True)
            del self.done[first]

    def _require_own(self) -> None:
        # A process that was killed before its first record was complete leaves these files behind, and has computed
        # nothing.
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith("call.json.")}
        names -= {"call.new", "call.pickle", "parts", *LOCK_FILES}
        if names and self.record.name not in names:
            raise ValueError(f"{self.folder} is not empty and holds no sweep. Name a new folder, or empty this one.")

    def _resume(self, chunk: int | None) -> dict[str, Any]:
        record = read_record(self.folder)
        differ = differences(self.call, record["call"])
        if differ:
            raise ValueError(
                f"{self.folder} belongs to another call: {', '.join(differ)} differ. "
                "Name a new folder, or repeat that call."
            )
        self.done = {first: receipt["count"] for first, receipt in receipts_of(self.folder, record).items()}
        if self.done:
            if chunk is not None and chunk != record["chunk"]:
                raise ValueError(
                    f"{self.folder} was begun with chunk={record['chunk']}, got chunk={chunk}. Leave it out."
                )
            self.chunk, self.part = record["chunk"], record["part"]
        return record

    def _convert(self, record: dict[str, Any]) -> None:
        """Write what the older format has in `call.json` as receipts."""
        for first, receipt in receipts_of(self.folder, record).items():
            write_receipt(self.folder, first, receipt["count"], receipt["checksum"], "unknown")
        self._write_record(record["chunk"], record["part"])

    def begin(self, chunk: int, part: int) -> dict[int, int]:
        """The parts that are to be computed: the number of seeds of each, by its first seed.

        `call.json` is written if nothing is finished yet.
        """
        if not self.done:
            for path in (self.folder / "parts").iterdir():
                path.unlink(missing_ok=True)
            self._write_record(chunk, part)
        self.chunk, self.part = chunk, part
        return {first: count for first, count in self.grid.parts(part).items() if first not in self.done}

    def _write_record(self, chunk: int | None, part: int | None) -> None:
        record = {"format": FORMAT, "call": self.call, "chunk": chunk, "part": part}
        write_whole(self.record, json.dumps(record))

    def make_room(self, blank: "xarray.Dataset") -> None:
        """Make the arrays for all seeds, unless a finished part is in them."""
        if not self.done:
            make_room(self.data, blank, self.grid, self.part or self.grid.n)

    def write(self, first: int, part: "xarray.Dataset") -> None:
        """Add a part."""
        count = part.sizes["seed"]
        try:
            self.make_room(part)
            self.parts = self.parts or Parts(self.data, self.grid, "r+")
            write_receipt(self.folder, first, count, self.parts.write(first, part), device_kind())
        except OSError as error:
            raise ValueError(
                f"{not_written(self.folder, error)} Repeat the call when this is mended, to go on from there."
            ) from error
        self.done[first] = count

    def open(self) -> "xarray.Dataset":
        return open_data(self.folder)


def load(path: str | os.PathLike[str]) -> Any:
    """A solution that its `save` wrote, or the `FlowSolution` in the folder of a finished `sweep`. Reading runs no code
    from the file.

    **Returns:** the solution, of the class that was saved: a `FlowSolution`, `GeodesicSolution`, `ExponentialSolution`,
    `NetworkSolution` or `Training`.

    **Raises:** `ValueError` if it is missing, is no such solution, or is a sweep that has not come to its end. A file
    of float64 is loaded as float32 with a warning where JAX has float64 switched off.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> sol.save("flow.nc")
        >>> bool(jnp.all(dln.load("flow.nc").x == sol.x))
        True
    """
    path = as_path("path", path)
    try:
        with _open(path) as dataset:
            data = dataset.load()
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"cannot read {str(path)!r} as a saved solution: {error}") from error
    return solution_of(data, repr(str(path)))


def _open(path: Path) -> "xarray.Dataset":
    import xarray

    if not path.is_dir():
        return xarray.open_dataset(path, engine="scipy")
    return _open_zarr(path) if (path / "zarr.json").is_file() else open_folder(path)


def _open_zarr(path: Path) -> "xarray.Dataset":
    import xarray

    # Only the format 3, which this module writes, is read. The older format 2 may hold pickled objects.
    return xarray.open_zarr(path, consolidated=False, chunks=None, mask_and_scale=False, zarr_format=3)


def open_data(folder: Path) -> "xarray.Dataset":
    """The data of a folder, each of which is read from the disk when it is used."""
    return named(_open_zarr(folder / "data.zarr"))


def open_folder(folder: Path) -> "xarray.Dataset":
    """The data of a finished sweep."""
    record = read_record(folder)
    damaged = damaged_parts(folder, record)
    if damaged:
        raise ValueError(
            f"{folder} is damaged: {of_parts(damaged)} are not as they were written. Repeat the call that began it, "
            "which computes them again."
        )
    n, done = record["call"]["n"], sum(receipt["count"] for receipt in receipts_of(folder, record).values())
    if done < n:
        raise ValueError(f"the sweep has {done} of {n} seeds. Repeat the call that began it, to go on from there.")
    return open_data(folder)


def read_record(folder: Path) -> dict[str, Any]:
    """What stands in `call.json`. A part of the older format is one chunk."""
    try:
        record = json.loads((folder / "call.json").read_text(encoding="utf-8"))
        version = record["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no folder of a sweep, or its call.json is damaged: {error}") from error
    if version not in (FORMAT, PREFIX_FORMAT):
        raise ValueError(f"{folder} was written as {version!r}, and this version writes {FORMAT!r}. Name a new folder.")
    if not {"call", "chunk", "parts" if version == PREFIX_FORMAT else "part"} <= record.keys():
        raise ValueError(
            f"{folder} cannot be read: its call.json is damaged, an entry is missing. Delete it and begin again."
        )
    return {"part": record["chunk"]} | record


def receipts_of(folder: Path, record: dict[str, Any]) -> dict[int, dict[str, int]]:
    """The receipts of the parts of this record, by their first seeds."""
    sizes = _grid_of(record["call"]).parts(record["part"]) if record["part"] else {}
    if record["format"] == PREFIX_FORMAT:
        firsts = zip(sizes, record["parts"], strict=False)
        return {first: {"count": sizes[first], "checksum": checksum} for first, checksum in firsts}
    found = read_receipts(folder)
    return {first: found[first] for first in sorted(found) if found[first]["count"] == sizes.get(first)}


def _grid_of(call: dict[str, Any]) -> Grid:
    """The grid of a call, from its identity. The older format has none."""
    axes = {name: np.array(values) for name, values in (call.get("grid") or {}).items()}
    return Grid(axes, call["n"] // math.prod(map(len, axes.values())))


def damaged_parts(folder: Path, record: dict[str, Any]) -> dict[int, int]:
    """The parts whose data are not as they were written: the number of seeds of each, by its first seed."""
    receipts = receipts_of(folder, record)
    try:
        parts = Parts(folder / "data.zarr", _grid_of(record["call"]))
    except (OSError, ValueError, KeyError):
        return {first: receipt["count"] for first, receipt in receipts.items()}

    def is_whole(first: int) -> bool:
        try:
            return parts.checksum(first, receipts[first]["count"]) == receipts[first]["checksum"]
        except (OSError, ValueError, KeyError, RuntimeError):
            return False

    # Threads wait for the disk together, and the checksums and the decompression of parts run side by side.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        whole = dict(zip(receipts, pool.map(is_whole, receipts), strict=True))
    return {first: receipt["count"] for first, receipt in receipts.items() if not whole[first]}


def _require_packages() -> None:
    try:
        import filelock  # noqa: F401
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError(f"a sweep into a folder needs {error.name}: pip install filelock 'zarr>=3'.") from error


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """What differs between the identities of two calls."""
    differ = [key for key in ours if key != "programs" and not _same(ours[key], theirs.get(key))]
    programs, before = ours["programs"], theirs.get("programs", {})
    if programs["jax"] == before.get("jax"):
        differ += [f"the program of {key}" for key in programs if programs[key] != before.get(key)]
    return differ


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= 1e-9 * (abs(a) + abs(b)) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict) and isinstance(b, dict):
        # The axes of a grid come in their order.
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    return a == b
