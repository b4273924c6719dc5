"""The distances of many pairs of matrices, over processes."""

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._checks import refuse_tracing
from dlnjax._geodesics.connection import measure
from dlnjax._geodesics.ends import as_stack, require_double
from dlnjax._geometry.depth import as_kernel, Depth, unchanged
from dlnjax._results import RESULTS
from dlnjax._solver import as_tolerance
from dlnjax._sweeps.executor import hand_out, Lost, require_executor
from dlnjax._sweeps.parts import versions
from dlnjax._sweeps.plan import core_count
from dlnjax._sweeps.processes import submitter
from dlnjax._sweeps.progress import show_progress
from dlnjax._sweeps.settings import settings
from dlnjax._sweeps.work import guarded
from dlnjax._types import Number

# A task has so many pairs. Pairs are not batched: the loop of a batch lasts as long as its slowest pair, and a batch of
# 16 pairs takes as long as the pairs one by one.
_PAIRS = 16
# Processes are started for at least so many pairs for each of them. For fewer pairs they start longer than they run.
_WORTH = 64


def distances(
    a: Float[Array, "n d d"],
    b: Float[Array, "m d d"] | None,
    depth: Depth,
    *,
    rtol: Number = 1e-11,
    executor: Any = None,
    progress: bool = True,
) -> np.ndarray:
    """The table of the distances from each matrix of `a` to each of `b`, computed over all cores.

    **Arguments:** `a`, `n d d`, and `b`, `m d d`, of full rank; with b = None the table is that of `a` with itself, of
    which each pair is computed once; `depth` and `rtol` as in `distance`; `executor`, a number of processes or anything
    with a method `submit`, as in `sweep`, by default a process for each core if there is work for them; `progress`, a
    bar with the number of pairs.

    **Returns:** a table of NumPy, `n m`. It is infinite where the determinants have different signs, as no path leads
    from one to the other, and NaN where no geodesic was found.

    **Raises:** `ValueError` or `TypeError` for bad input, as `distance`; `RuntimeError` if workers die again and again.

    **Example:**

        >>> a = jnp.stack([jnp.eye(2), jnp.diag(jnp.array([4.0, 1.0])), jnp.diag(jnp.array([-1.0, 1.0]))])
        >>> print(dln.distances(a, None, 2).round(6))
        [[ 0.  2. inf]
         [ 2.  0. inf]
         [inf inf  0.]]
    """
    refuse_tracing("distances", (a, b, depth, rtol), "dlnjax.distance with jax.vmap")
    (first, signs), (second, others) = as_stack("a", a), as_stack("b", a if b is None else b)
    if first.shape[1:] != second.shape[1:]:
        raise ValueError(f"a and b must hold matrices of one shape, got {first.shape[1:]} and {second.shape[1:]}.")
    require_double("a and b", first, second)
    kernel, rtol = as_kernel(depth, first.dtype), as_tolerance("rtol", rtol).astype(first.dtype)
    same = signs[:, None] == others[None, :]
    table = np.where(same, np.nan, np.inf)
    wanted = np.triu(same, 1) if b is None else same
    rows, columns = np.nonzero(wanted)
    pairs = first[rows], second[columns]
    for k, lengths in _computed(pairs, (kernel, rtol), executor, progress):
        some = slice(k, k + len(lengths))
        table[rows[some], columns[some]] = lengths
    if b is None:
        table = np.where(wanted.T, table.T, table)
        np.fill_diagonal(table, 0.0)
    return table


def _computed(
    pairs: tuple[np.ndarray, np.ndarray], how: tuple[Any, Any], executor: Any, progress: bool
) -> Iterator[tuple[int, list[float]]]:
    """(the number of a pair, the distances of this pair and of those that follow it), in any order."""
    n = len(pairs[0])
    if executor is None:
        executor = min(core_count(), n // _WORTH)
    else:
        require_executor(executor)
    firsts = range(0, n, _PAIRS)
    with show_progress(n, progress, 0, "pairs") as (compiling, advance):
        if isinstance(executor, int) and executor < 2:
            found = ((k, _lengths(pairs[0][k : k + _PAIRS], pairs[1][k : k + _PAIRS], how)) for k in firsts)
        else:
            found = _by_workers(pairs, how, executor, firsts)
        for k, lengths in found:
            compiling(False)
            yield k, lengths
            advance(len(lengths))


def _by_workers(pairs: Any, how: Any, executor: Any, firsts: range) -> Iterator[tuple[int, list[float]]]:
    from dlnjax._sweeps.pickled import dumps

    job = {"versions": versions(), "settings": settings()}
    with submitter(executor) as submit:

        def submit_pairs(f: Callable, job: dict[str, Any], k: int, attempt: int) -> Any:
            some = tuple(z[k : k + _PAIRS] for z in pairs)
            return submit(f, job | {"pairs": dumps((*some, how))}, k, attempt)

        parts = {k: min(_PAIRS, len(pairs[0]) - k) for k in firsts}
        try:
            for k, answer in hand_out(submit_pairs, compute_pairs, job, parts, "pairs"):
                yield k, answer["lengths"]
        except Lost as error:
            raise RuntimeError(f"not all distances were computed: {error}") from error


def compute_pairs(job: dict[str, Any], first: int, attempt: int) -> dict[str, Any]:
    """What a worker does: the distances of some pairs as `lengths`, or what went wrong as `error`."""

    def lengths() -> dict[str, Any]:
        a, b, (kernel, rtol) = pickle.loads(job["pairs"])
        # A worker imports modules anew, so that a number which a method of a kernel reads may be another.
        return {"lengths": _lengths(a, b, (unchanged(kernel, a.dtype), rtol))}

    return guarded(job, lengths)


def _lengths(a: np.ndarray, b: np.ndarray, how: tuple[Any, Any]) -> list[float]:
    """The distance of each pair, NaN where no geodesic was found. `how` is (kernel, rtol)."""
    kernel, rtol = how
    found = (measure(jnp.asarray(x), jnp.asarray(y), kernel, rtol=rtol) for x, y in zip(a, b, strict=True))
    return [float(jnp.where(result == RESULTS.successful, length, jnp.nan)) for length, result in found]
