"""Matrix sensing."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dlnjax._checks import as_argument, as_finite, as_float, as_matrix, broadcast


class MatrixSensing(eqx.Module):
    """Least squares on linear measurements, (5.4) with a factor 1/2, so that (5.5) is its gradient as printed:

        E(X) = 1/2 sum_i (<A_i, X> - y_i)^2,    dE(X) = sum_i (<A_i, X> - y_i) A_i.

    **Arguments:** `measurements`, the A_i, `k m n`, for matrices X of any shape `m n`; `values`, the y_i, `k`. In a
    `sweep` each may have the seeds in front.

    **Raises:** `ValueError` for shapes that do not match, NaN or infinity; `TypeError` for integers or complex numbers.

    **Example:**

        >>> energy = dln.MatrixSensing(jnp.stack([jnp.eye(2), jnp.ones((2, 2))]), jnp.array([2.0, 2.0]))
        >>> float(energy(jnp.eye(2))), float(energy(jnp.ones((2, 2))))
        (0.0, 2.0)
    """

    measurements: Float[Array, "*seeds k m n"]
    values: Float[Array, "*seeds k"]

    array_axes: ClassVar[dict[str, int]] = {"measurements": 3, "values": 1}

    def __init__(self, measurements: ArrayLike, values: ArrayLike):
        self.measurements = as_finite("measurements", as_matrix("measurements", measurements, leading=True))
        self.values = as_finite("values", as_float("values", values))
        if self.measurements.ndim < 3 or self.values.ndim < 1 or self.measurements.shape[-3] != self.values.shape[-1]:
            raise ValueError(
                "measurements must have shape (k, m, n) and values (k,), "
                f"got {self.measurements.shape} and {self.values.shape}."
            )
        seeds = broadcast("measurements and values", self.measurements.shape[:-3], self.values.shape[:-1])
        self.measurements = jnp.broadcast_to(self.measurements, seeds + self.measurements.shape[-3:])
        self.values = jnp.broadcast_to(self.values, seeds + self.values.shape[-1:])

    def _residual(self, x: Any):
        shape = self.measurements.shape
        x = as_argument(x, shape[-2:], f"the measurements have shape {shape}")
        return jnp.einsum("...kij,...ij->...k", self.measurements, x) - self.values

    def __call__(self, x: Float[Array, "m n"]) -> Float[Array, "*seeds"]:
        return jnp.sum(self._residual(x) ** 2, axis=-1) / 2

    def gradient(self, x: Float[Array, "m n"]) -> Float[Array, "*seeds m n"]:
        return jnp.einsum("...k,...kij->...ij", self._residual(x), self.measurements)
