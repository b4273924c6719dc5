"""Matrix completion from few entries of a large matrix, which is never made.

X at the entries is sum_k sigma_k u_ik v_jk, and dE V and dE^T U are sums over the entries of each row and each column.
With one index for each entry, these are gathers and scatters, and two things are slow about them on a CPU: XLA adds the
terms of a scatter one by one, and the gathered rows of U and V, `entries r` numbers, do not fit in the cache. So the
entries of each row are cut into strips of one length, over which a sum is a small product of matrices, and the strips
are taken in blocks. At 943 x 1682 with 80,000 entries this takes half of the time at r = 10, and a seventh at r = 50.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dlnjax._checks import as_argument, as_array, as_count, as_float, as_key, as_positive, is_concrete, known, require
from dlnjax._compile import power_of_two_from
from dlnjax._svd import SVD
from dlnjax._tree import norm
from dlnjax._types import Number, Numbers, Scalar

# Entries of a strip. Longer strips are better products, and leave more places empty at the ends of rows.
_LONGEST = 16
# Entries of a block. Their rows of U and V at r = 50 are one megabyte, which stays in the cache of a core.
_BLOCK = 2048


class _Strips(eqx.Module):
    """The entries of each line, a row or a column, in strips of one length, and the strips in blocks of one length."""

    # The number of each entry, -1 at a place that is empty.
    entry: Int[Array, "blocks strips length"]
    # The line of each strip, ascending, and the number of the line that crosses it at each entry.
    line: Int[Array, "blocks strips"]
    crossing: Int[Array, "blocks strips length"]

    @classmethod
    def of(cls, line: np.ndarray, crossing: np.ndarray, lines: int) -> "_Strips":
        """The strips of the entries at (line, crossing)."""
        order, counts = np.argsort(line, kind="stable"), np.bincount(line, minlength=lines)
        length = min(max(len(line) // lines, 1), _LONGEST)
        strips = -(-counts // length)
        owner = np.repeat(np.arange(lines), strips)
        # The number of each strip in its line, and from it the places of its entries in `order`.
        number = np.arange(len(owner)) - np.repeat(np.cumsum(strips) - strips, strips)
        end = np.cumsum(counts)
        place = ((end - counts)[owner] + length * number)[:, None] + np.arange(length)
        entry = np.where(place < end[owner, None], order[np.minimum(place, len(order) - 1)], -1)
        size = min(_BLOCK // length, power_of_two_from(len(owner)))
        empty = -len(owner) % size
        entry = np.pad(entry, ((0, empty), (0, 0)), constant_values=-1).reshape(-1, size, length)
        owner = np.pad(owner, (0, empty), constant_values=lines - 1).reshape(-1, size)
        put = lambda array: as_array("entries", array.astype(np.int32))
        return cls(put(entry), put(owner), put(np.where(entry < 0, 0, crossing[entry])))

    def residual(self, values: Array, near: Array, far: Array) -> Array:
        """X - values at the entries, 0 at empty places, for X = near far^T with the lines as its rows."""
        return jax.lax.map(lambda block: block.of_block(values, near, far)[0], self)

    def sums(self, values: Array, near: Array, far: Array) -> Array:
        """For each line, the sum over its entries of the residual times the row of `far` that crosses there."""

        def of_block(block: "_Strips") -> Array:
            residual, there = block.of_block(values, near, far)
            return jnp.einsum("sl,slr->sr", residual, there)

        sums = jax.lax.map(of_block, self).reshape(-1, far.shape[1])
        return jax.ops.segment_sum(sums, self.line.reshape(-1), len(near), indices_are_sorted=True)

    def of_block(self, values: Array, near: Array, far: Array) -> tuple[Array, Array]:
        """(the residual, the rows of `far`) at the entries of one block."""
        there = far[self.crossing]
        x = jnp.einsum("slr,sr->sl", there, near[self.line])
        return jnp.where(self.entry >= 0, x - values[self.entry], 0.0), there


class SparseCompletion(eqx.Module):
    """What `MatrixCompletion.from_entries` gives: E(X) = weight sum_e (X_{rows_e, columns_e} - values_e)^2.

    **Attributes:** `rows`, `columns`, `values`, as they were given; `weight`; `shape`.
    """

    rows: Int[Array, " entries"]
    columns: Int[Array, " entries"]
    values: Float[Array, "*seeds entries"]
    weight: Float[Array, "*seeds"]
    by_row: _Strips
    by_column: _Strips
    shape: tuple[int, int] = eqx.field(static=True)

    array_axes: ClassVar[dict[str, int]] = {"values": 1, "weight": 0}

    def __init__(self, rows: Numbers, columns: Numbers, values: Numbers, shape: Sequence[int], weight: Number = 0.5):
        if not isinstance(shape, (tuple, list)) or len(shape) != 2:
            raise ValueError(f"shape must be that of the matrix, (m, n), got {shape!r}.")
        m, n = self.shape = as_count("shape[0]", shape[0]), as_count("shape[1]", shape[1])
        i, j = _as_index("rows", rows, m), _as_index("columns", columns, n)
        values = as_float("values", values)
        if len(i) != len(j) or values.ndim == 0 or values.shape[-1] != len(i):
            raise ValueError(
                "rows, columns and values must be of one length, one of each for an entry, "
                f"got {len(i)}, {len(j)} and shape {values.shape}."
            )
        if len(i) == 0:
            raise ValueError("rows, columns and values are empty: completion needs at least one entry.")
        _require_once(i, j, n)
        finite = (abs(known(values)) < np.inf).all()
        self.values = require(values, ~finite, "values must be finite, got NaN or infinity. Leave unseen entries out.")
        self.weight = as_positive("weight", weight, many=True).astype(values.dtype)
        self.rows, self.columns = (as_array("entries", index.astype(np.int32)) for index in (i, j))
        self.by_row, self.by_column = _Strips.of(i, j, m), _Strips.of(j, i, n)

    def split(self, key: PRNGKeyArray, share: float) -> "tuple[SparseCompletion, SparseCompletion]":
        """(the energy of the rest, that of a random `share` of the entries that is held out).

        **Raises:** `ValueError` unless both get an entry; `TypeError` for what is no key.
        """
        entries = len(self.rows)
        if isinstance(share, bool) or not isinstance(share, (int, float, np.number)) or not 0 < share < 1:
            raise ValueError(f"share must be a number between 0 and 1, the part that is held out, got {share!r}.")
        if not is_concrete(as_key(key)):
            raise TypeError("key must be known before anything runs, got a traced one: split the entries outside.")
        held = round(entries * float(share))
        if not 0 < held < entries:
            raise ValueError(f"share must leave an entry on either side, got {share} of {entries} entries.")
        with jax.ensure_compile_time_eval():
            order = np.asarray(jax.random.permutation(key, entries))
        return self._part(np.sort(order[held:])), self._part(np.sort(order[:held]))

    def _part(self, index: np.ndarray) -> "SparseCompletion":
        rows, columns, values = np.asarray(self.rows)[index], np.asarray(self.columns)[index], known(self.values)
        return SparseCompletion(rows, columns, values[..., index], self.shape, self.weight)

    def _residual(self, x: Any):
        x = as_argument(x, self.shape, f"the entries are of a matrix of shape {self.shape}")
        return x[..., self.rows, self.columns] - self.values

    def __call__(self, x: Float[Array, "m n"]) -> Float[Array, "*seeds"]:
        return self.weight * jnp.sum(self._residual(x) ** 2, axis=-1)

    def gradient(self, x: Float[Array, "m n"]) -> Float[Array, "*seeds m n"]:
        slope = 2 * self.weight[..., None] * self._residual(x)
        nothing = jnp.zeros((*slope.shape[:-1], *self.shape), slope.dtype)
        return nothing.at[..., self.rows, self.columns].set(slope, unique_indices=True)

    def _residual_at(self, point: SVD):
        return self.by_row.residual(self._of_one(), point.u * point.sigma[None, :], point.v)

    def _of_one(self) -> Float[Array, " entries"]:
        if self.values.ndim != 1 or self.weight.ndim:
            raise ValueError(
                f"values and weight must be those of one matrix, got shapes {self.values.shape} and "
                f"{self.weight.shape}: only sweep takes many."
            )
        return self.values

    def at(self, point: SVD) -> Scalar:
        return self.weight * jnp.sum(self._residual_at(point) ** 2)

    def error(self, point: SVD) -> Scalar:
        """The root mean square error on the entries, of an `SVD`, so that a flow takes it as `observe`."""
        return norm(self._residual_at(point)) / math.sqrt(len(self.rows))

    def sides(self, point: SVD) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
        values, slope = self._of_one(), 2 * self.weight
        left = self.by_row.sums(values, point.u * point.sigma[None, :], point.v)
        right = self.by_column.sums(values, point.v * point.sigma[None, :], point.u)
        return slope * left, slope * right

    def at_start(self) -> "SparseCompletion":
        """The energy itself, with a warning where a row or a column has no entry."""
        if is_concrete(self.rows):
            named = (("row", self.rows, self.shape[0]), ("column", self.columns, self.shape[1]))
            empty = [(name, size, np.flatnonzero(np.bincount(at, minlength=size) == 0)) for name, at, size in named]
            found = [f"{len(at)} of {size} {name}s (such as {name} {at[0]})" for name, size, at in empty if len(at)]
            if found:
                warnings.warn(
                    f"The energy has no entry in {' and in '.join(found)}, counted from 0. Nothing is known of them: "
                    "the flow makes them what its start and the rest of the matrix say. Leave them out of the matrix, "
                    "or expect no prediction there.",
                    stacklevel=2,
                )
        return self


def _as_index(name: str, index: Any, size: int) -> np.ndarray:
    """Whole numbers from 0 to size - 1, in NumPy."""
    index = as_array(name, index, "They are whole numbers such as [0, 1].")
    if not is_concrete(index):
        raise TypeError(
            f"{name} must be known before anything runs, got traced ones. Where jax.jit or jax.vmap trace which "
            "entries are seen, use dlnjax.MatrixCompletion(labels, mask)."
        )
    index = np.asarray(index)
    if index.ndim != 1 or not (index.size == 0 or np.issubdtype(index.dtype, np.integer)):
        raise TypeError(f"{name} must be whole numbers of shape (entries,), got {index.dtype}{list(index.shape)}.")
    outside = np.flatnonzero((index < 0) | (index >= size))
    if len(outside):
        raise ValueError(
            f"{name} must be from 0 to {size - 1}, as there are {size} in shape, got {index[outside[0]]} at "
            f"position {outside[0]}. Counted from 1? Subtract 1."
        )
    return index.astype(np.int64)


def _require_once(rows: np.ndarray, columns: np.ndarray, n: int) -> None:
    order = np.lexsort((columns, rows))
    again = (np.diff(rows[order]) == 0) & (np.diff(columns[order]) == 0)
    if again.any():
        first = order[np.flatnonzero(again)[0]]
        raise ValueError(
            f"rows and columns must name each entry once, got {int(again.sum())} repeated, such as "
            f"({rows[first]}, {columns[first]}). An entry that was seen several times has the mean of its values."
        )
