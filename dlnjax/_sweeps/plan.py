"""The plan of a sweep: its devices, its number of workers, and the sizes of its chunks and lanes.

- A chunk is a number of flows that one call of a compiled program integrates.
- A part is a number of chunks that are written to a folder together. Whoever computes a part writes it.
- A worker is a thread that runs one chunk at a time. On a CPU the products of matrices of one flow are too small to be
  shared between cores, so that each core works on a chunk of its own.
- A lane is one row of the arrays of that program. It holds one flow at a time.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr

from dlnjax._checks import as_count, is_concrete
from dlnjax._compile import power_of_two_from
from dlnjax._flows.charts import CHARTED
from dlnjax._flows.frame import is_thin
from dlnjax._flows.method import FEW
from dlnjax._flows.problem import Options, saved_entries
from dlnjax._flows.trajectory import TOGETHER
from dlnjax._protocol import pullback, sides
from dlnjax._svd import SVD

# The largest number of bytes of saved states in one chunk. The memory must hold one chunk for each worker.
_MOST_BYTES = 2**28
# The largest number of flows in one chunk on a CPU, where it is enough to keep the lanes busy.
_MOST_ROWS = 256
# On other devices the size of a flow is d^2 and some thirty numbers more. Of this size are all lanes together, and all
# flows of a chunk at most. An NVIDIA H200 with a lane for each flow takes twice as long as with a queue of four flows
# for each lane, since it waits for the longest flow. It compiles the queue for 6 s or more, which fewer flows do not
# save: benchmarks/results/gpu-nvidia-h200.md.
_BESIDES = 32
_SIZE_OF_LANES = 2**21
_SIZE_OF_CHUNK = 2**24
_QUEUE = 4
# A chunk is small if all its matrices together have at most `_SMALL` entries, and a sweep is short if the matrices of
# all its flows have at most `_SHORT`. The queue makes small chunks a quarter faster, which in a short sweep is less
# than the second that it takes to compile.
_SMALL = 8000
_SHORT = 2**16
# A sweep into a folder has at least this many parts if it has as many chunks. Many processes then get equal shares, and
# one that dies loses little.
_LEAST_PARTS = 128
# The largest number of bytes in a part. Writing a smaller part takes longer than these numbers take on the disk.
_PART_BYTES = 2**24
# A program that is compiled quickly runs as fast as another, except for large matrices, whose chart makes it slower by
# a fifth. Where all matrices of a sweep have this many entries, a fifth of the run takes as long as the compilation.
_LONG = 10**6


class Plan(NamedTuple):
    """How a sweep is divided. `chunk` is the number of flows in a chunk, and `part` that in a part.

    `rows` is this number rounded up, so that each device gets the same number of rows. `lanes` is the number of lanes
    on one device. `quick` says that the sweep is to be compiled quickly, even if it then runs a little longer. `times`
    is the number of times for which it is compiled.
    """

    devices: tuple[Any, ...]
    workers: int
    chunk: int
    part: int
    rows: int
    lanes: int
    quick: bool
    times: int

    def chunks(self, parts: Mapping[int, int]) -> dict[int, int]:
        """The chunks of some parts. Of both there is the number of seeds, by the first seed."""
        firsts = lambda part, count: range(part, part + count, self.chunk)
        return {f: min(self.chunk, part + count - f) for part, count in parts.items() for f in firsts(part, count)}


def make_plan(
    n: int, point: SVD, times: int, options: Options, *, energy: Callable, devices: Any, chunk: int | None
) -> Plan:
    """The plan for `n` flows of points like `point`, with the caller's `devices` and `chunk` where they are given.

    **Raises:** `TypeError` for what is no list of devices, or an energy that depends on a value traced by JAX.
    """
    # The side of a square matrix whose frames are as large.
    d = math.isqrt((len(point.u) + len(point.v)) * len(point.sigma) // 2)
    seed_bytes = per_seed(times, d, options.observe is not None)
    plan = divided(n, d, seed_bytes, calls_lapack(energy, point, options), devices=devices, chunk=chunk)
    own = plan.rows // len(plan.devices)
    longer = time_count(times, 8 * own * saved_entries(point, options))
    return plan._replace(quick=len(point.sigma) < CHARTED or n * d**2 < _LONG, times=longer)


def divided(n: int, d: int, seed_bytes: int, decomposes: bool, *, devices: Any, chunk: int | None) -> Plan:
    """The plan for `n` flows of matrices about `d` x `d`, of each of which so many bytes are saved.

    `decomposes` says whether a flow decomposes matrices on its way, see `calls_lapack`.
    """
    devices = as_devices(devices)
    workers = worker_count(devices, n)
    if devices[0].platform == "cpu" and decomposes:
        devices, workers = devices[:1], 1
    chunk = chunk or chunk_size(n, d, workers, devices, seed_bytes)
    rows = -(-_rounded_up(chunk, devices[0]) // len(devices)) * len(devices)
    part = part_size(n, chunk, seed_bytes)
    lanes = lane_count(devices[0], rows // len(devices), d, n)
    return Plan(devices, workers, chunk, part, rows, lanes, quick=True, times=0)


def as_chunk(chunk: Any, n: int) -> int | None:
    """The chunk that the caller gave, but at most `n`, or None."""
    return None if chunk is None else min(as_count("chunk", chunk), n)


def as_devices(devices: Any) -> tuple[Any, ...]:
    """The devices to use: by default all of this process."""
    if devices is None:
        return tuple(jax.local_devices())
    some = isinstance(devices, Sequence) and not isinstance(devices, str) and len(devices) > 0
    if not some or not all(isinstance(device, jax.Device) for device in devices):
        raise TypeError(f"devices must be a list of some of jax.devices(), got {devices!r}.")
    return tuple(devices)


def worker_count(devices: tuple[Any, ...], n: int) -> int:
    """The number of chunks that run at a time: on a CPU one for each core, since a chunk uses one core only."""
    if devices[0].platform != "cpu":
        return 1
    return max(1, min(core_count() // len(devices), n))


def core_count() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def per_seed(times: int, d: int, observed: bool) -> int:
    """The number of bytes that are saved of one flow: singular values, and the frames if nothing else is observed."""
    return 8 * times * (d if observed else 2 * d * d + d)


def chunk_size(n: int, d: int, workers: int, devices: tuple[Any, ...], seed_bytes: int) -> int:
    """The number of flows in a chunk, as large as the numbers above allow, and equal for all workers."""
    most = _MOST_ROWS if devices[0].platform == "cpu" else _SIZE_OF_CHUNK // (d**2 + _BESIDES)
    most = len(devices) * max(1, min(most, _MOST_BYTES // seed_bytes))
    rounds = -(-n // (workers * most))
    return -(-n // (workers * rounds))


def part_size(n: int, chunk: int, seed_bytes: int) -> int:
    """The number of flows in a part: as many chunks as `_LEAST_PARTS` and `_PART_BYTES` allow, and at least one."""
    return chunk * max(1, min(n // chunk // _LEAST_PARTS, _PART_BYTES // (chunk * seed_bytes)))


def _rounded_up(chunk: int, device: Any) -> int:
    """The chunk, rounded up to a power of two if it is small and on a CPU, where idle rows cost little.

    Sweeps with other numbers of seeds then have the same shapes, and share the compiled program.
    """
    return power_of_two_from(chunk) if device.platform == "cpu" and chunk <= _MOST_ROWS else chunk


def time_count(times: int, bytes_a_time: int) -> int:
    """The number of times for which a sweep is compiled: a power of two, unless a chunk would then be too large."""
    more = max(TOGETHER, power_of_two_from(times))
    return more if more * bytes_a_time <= _MOST_BYTES else times


def lane_count(device: Any, rows: int, d: int, n: int) -> int:
    """The number of lanes on a device: on a CPU as many as fit in its cache, elsewhere as many as fill the device.

    In a small chunk of a short sweep each of its `rows` has its own lane. The queue of flows would take longer to
    compile than it saves. `n` is the number of flows of the sweep.
    """
    if device.platform == "cpu":
        alone = rows * d**2 <= _SMALL and n * d**2 <= _SHORT
        return rows if alone else min(rows, max(2, min(FEW, 5000 // d**2)))
    lanes = max(256, _SIZE_OF_LANES // (d**2 + _BESIDES))
    return lanes if rows >= _QUEUE * lanes else rows


_LAPACK = {
    *("svd", "eigh", "eig", "cholesky", "qr", "lu", "geqrf", "geqp3", "householder_product", "triangular_solve"),
    *("schur", "hessenberg", "tridiagonal", "tridiagonal_solve", "pure_callback", "io_callback", "ffi_call"),
}


def calls_lapack(energy: Callable, point: SVD, options: Options) -> bool:
    """Whether a flow decomposes matrices after its start, so that no other chunk may run beside it on a CPU.

    Two programs with batched decompositions that run at once on a CPU can hang for ever: see `_lapack.py`. Those of
    that module do not. An energy, what is observed and a law of starts of the user's may decompose matrices by other
    means. The sweep therefore draws all starts while nothing else runs (`in_order`), and uses one worker and one device
    where the flows decompose matrices so.

    **Raises:** `TypeError` if the energy or what is observed depends on a value that JAX traces outside of it.
    """

    def used(point: SVD):
        seen = energy(point.matrix) if options.observe is None else options.observe(point)
        return sides(energy, point) if is_thin(point) else pullback(energy, point), seen

    return uses_lapack(used, point)


def uses_lapack(f: Callable, argument: Any) -> bool:
    """Whether `f`, made of the energy and of what is observed, decomposes matrices by other means than `_lapack.py`.

    **Raises:** `TypeError` if it depends on a value that JAX traces outside of it.
    """
    closed = jax.make_jaxpr(f)(argument)
    if not all(map(is_concrete, closed.consts)):
        raise TypeError(
            "energy or observe depends on a value that JAX traces, and a sweep cannot be traced by jax.jit, jax.grad "
            "or jax.vmap. Use dlnjax.gradient_flow with jax.vmap there."
        )
    return not _LAPACK.isdisjoint(_primitives(closed.jaxpr))


def _primitives(jaxpr: Jaxpr) -> Iterator[str]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "custom_vmap_call":
            # A rule of its own says how this is done for many seeds at once, as in `_lapack.py`.
            continue
        yield equation.primitive.name
        inner = [getattr(leaf, "jaxpr", leaf) for leaf in jax.tree.leaves(equation.params)]
        for each in inner:
            if isinstance(each, Jaxpr):
                yield from _primitives(each)
