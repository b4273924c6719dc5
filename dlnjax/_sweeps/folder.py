"""The folder of a sweep, to which each part of the solution is written when it is finished.

    folder/call.json    the identity of the call, and a checksum for each part that is finished
    folder/data.zarr    the solution, as `FlowSolution.to_xarray` lays it out, in one zarr group

A part is the solution of one chunk of seeds. It counts as finished when its checksum stands in `call.json`. This file
is replaced as a whole by one operation. A sweep that was killed at any moment therefore goes on from the last finished
part. A process that writes holds the lock `call.lock`, and `call.holder` names this process.
"""

import json
import math
import os
import socket
import zlib
from datetime import datetime
from pathlib import Path
from typing import Any, TYPE_CHECKING

import numpy as np

from dlnjax._checks import as_path
from dlnjax._saved import coded, solution_of

if TYPE_CHECKING:
    import xarray

LOCK_FILES = ("call.lock", "call.holder")
FORMAT = "dlnjax.sweep/2"


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
        """Release the lock if it is held."""
        if self.lock.is_locked:
            self.holder.unlink(missing_ok=True)
            self.lock.release()


class Store:
    """The folder of one sweep, of which `done` seeds are finished. It is a context manager, which holds the lock.

    **Raises:** `ValueError` if the folder belongs to another call or another version, is damaged, cannot be written or
    is being written by another process; `ImportError` without zarr or filelock.
    """

    def __init__(self, folder: str | os.PathLike[str], call: dict[str, Any], chunk: int | None):
        _require_packages()
        self.folder = as_path("folder", folder)
        self.data = self.folder / "data.zarr"
        self.record = self.folder / "call.json"
        self.fresh = self.folder / "call.new"
        self.call = call
        self.parts: list[int] = []
        self.chunk = chunk
        self.lock = Lock(self.folder)
        if self.record.exists():
            self._resume(chunk)
            # A finished folder is only read. It needs no lock, and several processes may read it at once.
            if self.done == call["n"]:
                return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._require_own()
            self.lock.acquire()
            # Another process may have written to the folder before the lock was free, so the record is read again.
            if self.record.exists():
                self._resume(chunk)
            else:
                self._write_record()
        except OSError as error:
            self.lock.release()
            raise ValueError(f"cannot write to {self.folder}: {error.strerror}. Name another folder.") from error
        except ValueError:
            self.lock.release()
            raise

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception: object) -> None:
        self.lock.release()

    @property
    def done(self) -> int:
        return min(len(self.parts) * (self.chunk or 0), self.call["n"])

    def _require_own(self) -> None:
        # `call.new` and the lock files do not count. A process that was killed while it wrote its first record leaves
        # these files behind, and has computed nothing.
        names = {path.name for path in self.folder.iterdir()} - {self.fresh.name, *LOCK_FILES}
        if names and self.record.name not in names:
            raise ValueError(f"{self.folder} is not empty and holds no sweep. Name a new folder, or empty this one.")

    def _resume(self, chunk: int | None) -> None:
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
        part = coded(part)
        self.chunk = chunk
        if not self.parts:
            self._make_room(part, n, chunk)
        first = len(self.parts) * chunk
        region = {"seed": slice(first, first + part.sizes["seed"])}
        part.drop_vars(set(part.variables) - set(_seeded(part))).to_zarr(self.data, region=region, consolidated=False)
        self.parts.append(_checksum(part))
        self._write_record()

    def _make_room(self, part: "xarray.Dataset", n: int, chunk: int) -> None:
        """Make the arrays for all `n` seeds. They take no space, since zarr stores no chunk that is not written yet."""
        import zarr

        seeded = _seeded(part)
        blank = {name: (v.dims, np.full_like(v.values, _missing(v.dtype)), v.attrs) for name, v in seeded.items()}
        # With `assign` a coordinate stays a coordinate. A new data set of `blank` would make it a variable.
        template = part.assign(blank)
        encoding = {
            name: {"chunks": (chunk, *v.shape[1:]), "fill_value": _missing(v.dtype)} for name, v in seeded.items()
        }
        template.to_zarr(self.data, mode="w", consolidated=False, zarr_format=3, encoding=encoding)
        for name in blank:
            array = zarr.open_array(self.data / str(name), mode="r+")
            array.resize((n, *array.shape[1:]))

    def _write_record(self) -> None:
        record = {"format": FORMAT, "call": self.call, "chunk": self.chunk, "parts": self.parts}
        self.fresh.write_text(json.dumps(record), encoding="utf-8")
        os.replace(self.fresh, self.record)

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
    return _open_zarr(folder / "data.zarr")


def open_folder(folder: Path) -> "xarray.Dataset":
    """The data of a finished sweep."""
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


def _require_packages() -> None:
    try:
        import filelock  # noqa: F401
        import zarr  # noqa: F401
    except ImportError as error:
        raise ImportError(f"a sweep into a folder needs {error.name}: pip install filelock 'zarr>=3'.") from error


def _missing(dtype: Any) -> np.ndarray:
    return np.array(np.nan if np.issubdtype(dtype, np.floating) else -1, dtype)


def _checksum(part: "xarray.Dataset") -> int:
    total = 0
    for _, variable in sorted(_seeded(part).items()):
        total = zlib.crc32(np.ascontiguousarray(variable.values).tobytes(), total)
    return total


def _seeded(part: "xarray.Dataset") -> dict[str, Any]:
    """The arrays and the coordinates whose first axis is that of the seeds."""
    return {str(name): variable for name, variable in part.variables.items() if "seed" in variable.dims}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= 1e-9 * (abs(a) + abs(b)) or (math.isnan(a) and math.isnan(b))
    return a == b
