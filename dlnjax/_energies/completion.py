"""Matrix completion."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from dlnjax._checks import (
    as_argument,
    as_array,
    as_count,
    as_matrix,
    as_positive,
    broadcast,
    is_concrete,
    known,
    require,
)
from dlnjax._energies.entries import SparseCompletion
from dlnjax._svd import SVD
from dlnjax._tree import norm
from dlnjax._types import Number, Numbers, Scalar


class MatrixCompletion(eqx.Module):
    """Squared distance to the labels on the entries of a mask, (4.24):

        E(X) = weight sum_{(i,j) in mask} (X_ij - labels_ij)^2,    weight = 1/2,

    with the gradient 2 weight (X - labels) on the mask, (4.25). Labels outside the mask are not read, and may be NaN.

    Labels and mask are whole matrices. A large matrix of which a few percent are seen is given by its entries,
    `MatrixCompletion.from_entries`.

    **Arguments:** `labels`, `m n`; `mask`, `m n`, boolean or 0/1; `weight`. In a `sweep` each may have the seeds in
    front.

    **Raises:** `ValueError` for shapes that do not match, a mask that is not boolean or 0/1 or has nothing
    on it, or NaN labels on the mask; `TypeError` for integers or complex numbers.

    **Example:**

        >>> energy = dln.MatrixCompletion(labels=jnp.eye(2), mask=jnp.array([[1, 1], [0, 0]]))
        >>> float(energy(jnp.ones((2, 2)))), energy.gradient(jnp.ones((2, 2))).tolist()
        (0.5, [[0.0, 1.0], [0.0, 0.0]])
    """

    labels: Float[Array, "*seeds m n"]
    mask: Bool[Array, "*seeds m n"]
    weight: Float[Array, "*seeds"]
    entries: Int[Array, "3 r"] | None

    array_axes: ClassVar[dict[str, int]] = {"labels": 2, "mask": 2, "weight": 0}

    def __init__(self, labels: ArrayLike, mask: ArrayLike, weight: Number = 0.5):
        labels = as_matrix("labels", labels, leading=True)
        mask = as_array("mask", mask)
        if mask.shape[-2:] != labels.shape[-2:]:
            raise ValueError(f"mask must have the shape of labels, {labels.shape}, got {mask.shape}.")
        if mask.dtype != bool:
            other = ((known(mask) != 0) & (known(mask) != 1)).any()
            mask = require(mask, other, "mask must be boolean or 0/1: which entries are seen.")
            mask = as_array("mask", known(mask) != 0)
        if is_concrete(mask) and not np.any(known(mask)):
            raise ValueError("mask must have an entry that is seen: without one the energy is 0 at every X.")
        weight = as_positive("weight", weight, many=True).astype(labels.dtype)
        lead = broadcast("labels and mask", labels.shape, mask.shape)
        if weight.ndim:
            # Weights that are one for each seed have axes of length 1 for the rows and columns: without them, as many
            # weights as there are columns would be taken for weights of the columns.
            lead = broadcast("labels, mask and weight", lead, (*weight.shape, 1, 1))
        unknown = (known(mask) & ~(abs(known(labels)) < jnp.inf)).any()
        labels = require(labels, unknown, "labels must be finite on the mask, got NaN or infinity there.")
        self.labels, self.mask = jnp.broadcast_to(labels, lead), jnp.broadcast_to(mask, lead)
        self.weight = weight
        self.entries = None

    @classmethod
    def diagonal(cls, d: int) -> "MatrixCompletion":
        """The diagonal completion of (4.21), without the 1/2: E(X) = sum_i (X_ii - 1)^2."""
        d = as_count("d", d)
        # NumPy makes the matrices, for which JAX would compile six programs.
        return cls(np.eye(d, dtype=jnp.result_type(float)), np.eye(d, dtype=bool), weight=1.0)

    @classmethod
    def from_entries(
        cls, rows: Numbers, columns: Numbers, values: Numbers, shape: tuple[int, int], *, weight: Number = 0.5
    ) -> SparseCompletion:
        """The completion of a large matrix from few of its entries, (4.24) with labels_{rows, columns} = values.

        A flow on a point of rank r costs of the order of entries r + (m + n) r^2 for each evaluation, and never makes a
        matrix `m n`. A row or a column without an entry is allowed. Nothing is known of it: the flow makes it what its
        start and the rest of the matrix say, and warns when it begins.

        **Arguments:** `rows` and `columns`, `entries` each, whole numbers from 0 on, known before anything runs;
        `values`, `entries`, which may be traced, and in a `sweep` have the seeds in front; `shape`, (m, n); `weight`.

        **Returns:** an energy with two methods more. `split(key, share)` gives two energies, the second of a random
        share of the entries that is held out of the first. `error(point)` is the root mean square error on the entries
        for a `point` that is an `SVD`: the `error` of the held-out part can be passed as `observe` to a flow.

        **Raises:** `ValueError` for entries outside of the shape or given twice, lengths that differ, no entries, NaN;
        `TypeError` for rows and columns that are no whole numbers or traced, or values that are integers.

        **Example:**

            >>> energy = dln.MatrixCompletion.from_entries([0, 0, 1], [0, 2, 1], [1.0, 2.0, 3.0], (2, 3))
            >>> float(energy(jnp.zeros((2, 3)))), energy.gradient(jnp.zeros((2, 3))).tolist()
            (7.0, [[-1.0, 0.0, -2.0], [0.0, -3.0, 0.0]])
            >>> seen, held_out = energy.split(jax.random.key(0), 1 / 3)
            >>> len(seen.values), len(held_out.values), held_out.error(dln.svd(jnp.zeros((2, 3)))).shape
            (2, 1, ())
        """
        return SparseCompletion(rows, columns, values, shape, weight)

    def _residual(self, x: Any):
        shape = self.labels.shape
        x = as_argument(x, shape[-2:], f"the labels have shape {shape}")
        return jnp.where(self.mask, x - self.labels, 0.0)

    def __call__(self, x: Float[Array, "m n"]) -> Float[Array, "*seeds"]:
        return self.weight * jnp.sum(self._residual(x) ** 2, axis=(-2, -1))

    def gradient(self, x: Float[Array, "m n"]) -> Float[Array, "*seeds m n"]:
        return 2 * self.weight[..., None, None] * self._residual(x)

    def error(self, point: SVD) -> Scalar:
        """The root mean square of X - labels on the mask; 0 where nothing is on it, as may be for one of many seeds."""
        seen = jnp.maximum(jnp.sum(self.mask), 1)
        return norm(self._residual(point.matrix)) / jnp.sqrt(seen.astype(self.labels.dtype))

    def at_start(self) -> "MatrixCompletion":
        """The energy with the `entries` of its mask, if they are few.

        They are not found when the energy is made: after `eqx.tree_at` has put in another mask, they would still be
        those of the first, and a stack of energies would have no entries for each seed.
        """
        return eqx.tree_at(lambda e: e.entries, self, _few_entries(self.mask), is_leaf=lambda leaf: leaf is None)

    def pullback(self, point: SVD) -> Float[Array, "r r"]:
        """U^T dE V. With at most min(m, n) entries seen, X is computed at these alone, by one product, not by three."""
        if self.entries is None:
            return point.u.T @ self.gradient(point.matrix) @ point.v
        rows, columns, seen = self.entries
        u, v = point.u[rows], point.v[columns]
        labels = jnp.where(seen > 0, self.labels[rows, columns], 0.0)
        # The rows are added up by a product with a vector of ones. By a sum of the rows a sweep would be slower, by 4
        # parts in 100 at d = 5 and 2 at d = 25.
        residual = seen.astype(u.dtype) * ((u * point.sigma[None, :] * v) @ jnp.ones_like(point.sigma) - labels)
        return (point.u.T[:, rows] * (2 * self.weight * residual)[None, :]) @ v


def _few_entries(mask: Any) -> Array | None:
    """(rows, columns, 1 or 0 for those that count) of a mask of at most min(m, n) entries; None if it has more."""
    if mask is None or not is_concrete(mask) or mask.ndim != 2 or np.count_nonzero(mask) > min(mask.shape):
        return None
    rows, columns = np.nonzero(np.asarray(mask))
    # They are padded to min(m, n), so that masks with fewer entries are not compiled again.
    return as_array("mask", np.pad([rows, columns, np.ones_like(rows)], ((0, 0), (0, min(mask.shape) - len(rows)))))
