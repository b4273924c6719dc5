"""What a worker does: a process, on any machine that sees the folder, which computes parts of a sweep and writes them.

The arguments of the call lie in the folder as `call.pickle`, as long as the sweep runs. A task is a few short strings
and numbers, so that the energy and the starts do not pass through the scheduler once for each part. A task has the
digest of the file. A worker reads no other file than that which its caller wrote.
"""

import functools
import hashlib
import json
import os
import pickle
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dlnjax._saved import Solution
from dlnjax._sweeps.call import Call, check_call
from dlnjax._sweeps.flow import dataset_of
from dlnjax._sweeps.folder import differences
from dlnjax._sweeps.parts import device_kind, not_written, Parts, versions, write_receipt
from dlnjax._sweeps.plan import Plan
from dlnjax._sweeps.settings import settings, under
from dlnjax._terminal import silence

# The process in which this module was imported. In a process that was forked from it, JAX can hang for ever.
_IMPORTED_IN = os.getpid()
# Two programs in which an energy decomposes matrices can hang where they run at once: see `calls_lapack` in `plan.py`.
_ONE_AT_A_TIME = threading.Lock()
# The parts of an identity that are computed from programs and arrays, which are in it too.
_COMPUTED = ("starts", "energy at the first start", "observe")
# The seconds between two looks for a file. Clients of NFS keep for up to 60 s what they know of a folder.
_PAUSES = [0.2 * 2**k for k in range(9)]


def leave(folder: Path, call: Call, plan: Plan, identity: dict[str, Any]) -> dict[str, Any]:
    """Write the call to the folder, and return the job: what a worker needs in order to find and to check it.

    The job is of plain values, which any version of this library can read.

    **Raises:** `TypeError` if the call holds what cannot be sent to another process; `ImportError` without cloudpickle.
    """
    try:
        from dlnjax._sweeps.pickled import dumps
    except ImportError as error:
        raise ImportError("a sweep with executor needs cloudpickle: pip install 'cloudpickle>=3'.") from error
    try:
        text = dumps(call)
    except Exception as error:  # whatever the objects of the caller raise
        raise TypeError(
            f"executor needs a call that can be sent to another process, and cloudpickle refuses this one: {error}. "
            "Does the energy, observe or init hold an open file, a lock or a generator?"
        ) from error
    # The path is absolute, as workers may have another working directory.
    path = folder.absolute() / "call.pickle"
    path.write_bytes(text)
    job = {"path": str(path), "digest": hashlib.sha256(text).hexdigest(), "versions": versions()}
    # Dask takes two tasks with the same arguments for one. The token makes the tasks of two calls differ.
    job |= {"settings": settings(), "identity": json.dumps(identity), "token": uuid.uuid4().hex}
    return job | {"chunk": plan.chunk, "part": plan.part}


def compute(job: dict[str, Any], first: int, attempt: int) -> dict[str, Any]:
    """Compute a part and write it. `attempt` counts how often the part was begun.

    **Returns:** the number of seeds as `count`, or what went wrong as `error`. An exception that a future raises is
    therefore none of this function: its worker has died.
    """
    own = lambda: _worker(*(job[name] for name in ("path", "digest", "chunk", "part", "identity", "token")))
    return guarded(job, lambda: {"count": own().compute(first)})


def guarded(job: dict[str, Any], task: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the task of a job returns, or what went wrong as `error`. Versions and settings are those of the job."""
    try:
        _require_same(job["versions"])
        with _ONE_AT_A_TIME, under(job["settings"]), silence():
            return task()
    except Exception as error:  # an exception of an unknown class may not pass from process to process
        who = f"process {os.getpid()} on {socket.gethostname()}"
        return {"error": f"{type(error).__name__}: {error}", "who": who}


def _require_same(theirs: dict[str, str]) -> None:
    if os.getpid() != _IMPORTED_IN:
        raise RuntimeError(
            "this worker was forked from a process that uses JAX, and JAX can hang in it. Make the executor with "
            'mp_context=multiprocessing.get_context("spawn"), or give a number of processes: executor=2.'
        )
    ours = versions()
    differ = [f"{name} {ours[name]} and not {theirs[name]}" for name in ours if ours[name] != theirs.get(name)]
    if differ:
        raise RuntimeError(
            f"this worker has {', '.join(differ)} as the caller, so that its results could differ. Install the same "
            "versions for all workers."
        )


def _when_seen(read: Callable[[], Any]) -> Any:
    """What `read` returns. On a network file system what the caller has written may be seen here only later, so that it
    is looked for again, for up to 102 s."""
    for pause in _PAUSES:
        with suppress(FileNotFoundError):
            return read()
        time.sleep(pause)
    return read()


@functools.lru_cache(maxsize=1)
def _worker(path: str, digest: str, chunk: int, part: int, identity: str, token: str) -> "_Worker":
    """The worker of the last sweep is kept, so that its program is compiled once.

    Another call of `sweep` has another `token`. What a function of a module reads may have changed between the two,
    which the bytes of the call do not show.
    """
    return _Worker(Path(path), digest, chunk, part, json.loads(identity))


class _Worker:
    def __init__(self, path: Path, digest: str, chunk: int, part: int, identity: dict[str, Any]):
        if not path.parent.is_dir():
            raise ValueError(f"{path.parent} is not seen by this worker. All workers must see the folder of the sweep.")
        text = _when_seen(path.read_bytes)
        # Unpickling runs code. Only what the caller of this sweep has written is unpickled.
        if hashlib.sha256(text).hexdigest() != digest:
            raise ValueError(f"{path} is not what the caller of this sweep wrote.")
        self.folder, self.checked = path.parent, check_call(pickle.loads(text))
        # What is computed here may differ in its last bits from what another processor has computed.
        ours = json.loads(json.dumps(self.checked.identity()))
        differ = [name for name in differences(ours, identity) if name not in _COMPUTED]
        if differ:
            raise ValueError(
                f"this worker computes another call than its caller: {', '.join(differ)} differ. It imports modules "
                "anew, from their files. A number that was changed after the import is to be an argument of the "
                "energy, or an array in it."
            )
        # Each process has one chunk in work at a time, as there is a process for each core or device.
        self.plan = self.checked.plan(None, chunk)._replace(part=part, workers=1)
        self.run = self.checked.run(self.plan)
        self.sizes = self.checked.grid.parts(part)
        self.parts = _when_seen(lambda: Parts(self.folder / "data.zarr", self.checked.grid, "r+"))

    def compute(self, first: int) -> int:
        # A receipt that is there already is no reason to leave the part out. It may be of an earlier sweep, and have
        # been seen by others only after the caller had made new arrays.
        count = self.sizes[first]
        part = dataset_of(Solution.joined(self.run.chunks({first: count}), count))
        try:
            write_receipt(self.folder, first, count, self.parts.write(first, part), device_kind())
        except OSError as error:
            raise ValueError(not_written(self.folder, error)) from error
        return count
