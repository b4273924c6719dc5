"""Matrix completion."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dlnjax._checks import as_array, as_positive, as_square, require


class MatrixCompletion(eqx.Module):
    """Squared distance to the labels on the entries of a mask, (4.24):

        E(X) = weight sum_{(i,j) in mask} (X_ij - labels_ij)^2,    weight = 1/2,

    with the gradient 2 weight (X - labels) on the mask, (4.25). Labels outside the mask are not read, and may be NaN.

    **Arguments:** `labels`, `d d`; `mask`, `d d`, boolean or 0/1; `weight`. In a `sweep` each may carry the seeds in
    front.

    **Raises:** `ValueError` for shapes that do not match, a mask that is not boolean or 0/1, or NaN labels on the mask.
    """

    labels: Float[Array, "*n d d"]
    mask: Bool[Array, "*n d d"]
    weight: Float[Array, ""]

    def __init__(self, labels, mask, weight=0.5):
        labels = as_square("labels", labels, leading=True)
        mask = as_array("mask", mask)
        if mask.shape[-2:] != labels.shape[-2:]:
            raise ValueError(f"mask must have the shape of labels, {labels.shape}, got {mask.shape}.")
        if mask.dtype != bool:
            mask = require(
                mask, jnp.any((mask != 0) & (mask != 1)), "mask must be boolean or 0/1: which entries are seen."
            ).astype(bool)
        lead = jnp.broadcast_shapes(labels.shape, mask.shape)
        labels, mask = jnp.broadcast_to(labels, lead), jnp.broadcast_to(mask, lead)
        unknown = jnp.any(mask & ~jnp.isfinite(labels))
        self.labels = require(labels, unknown, "labels must be finite on the mask, got NaN or infinity there.")
        self.mask = mask
        self.weight = as_positive("weight", weight).astype(labels.dtype)

    @classmethod
    def diagonal(cls, d: int) -> "MatrixCompletion":
        """The diagonal completion of (4.21), without the 1/2: E(X) = sum_i (X_ii - 1)^2."""
        return cls(jnp.eye(d), jnp.eye(d, dtype=bool), weight=1.0)

    def _residual(self, x):
        if x.shape[-2:] != self.labels.shape[-2:]:
            raise ValueError(f"X has shape {x.shape}, but the labels have shape {self.labels.shape}.")
        return jnp.where(self.mask, x - self.labels, 0.0)

    def __call__(self, x: Float[Array, "d d"]) -> Float[Array, ""]:
        return self.weight * jnp.sum(self._residual(x) ** 2, axis=(-2, -1))

    def gradient(self, x: Float[Array, "d d"]) -> Float[Array, "d d"]:
        return 2 * self.weight * self._residual(x)
