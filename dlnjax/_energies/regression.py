"""Deep linear regression."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dlnjax._checks import (
    as_argument,
    as_array,
    as_finite,
    as_float,
    as_real,
    broadcast,
    is_concrete,
    known,
    require,
)
from dlnjax._svd import SVD
from dlnjax._types import Numbers


class LeastSquares(eqx.Module):
    """Least squares on pairs of vectors, deep linear regression (Saxe, McClelland and Ganguli, ICLR 2014):

        E(X) = 1/2 |X A - B|^2 = 1/2 sum_s w_s |X a_s - b_s|^2,    dE(X) = (X A - B) diag(w) A^T.

    **A sample is a column.** The inputs a_s are the columns of A and the outputs b_s those of B, as X acts from the
    left. A table with one sample a row, as of scikit-learn or pandas, is passed as its transpose: `table.T`.

    With more samples than inputs, known A and B are replaced by as many samples as there are inputs, and a constant:
    the triangular factor of (A^T, B^T), weighted, has the same E to rounding (Golub and Van Loan, Matrix Computations,
    section 5.3.3). A flow then costs the same for any number of samples. The moments A A^T and B A^T would do for dE,
    but E would lose half of its digits near 0.

    **Arguments:** `inputs`, A, `n samples`, and `outputs`, B, `m samples`, for matrices X of shape `m n`; `weights`, w,
    one for each sample or one number for all, at least 0, by default 1. In a `sweep` each may have the seeds in front.

    **Attributes:** `inputs`, `outputs`, `weights`, of the samples that are kept, and `floor`, the constant:
    E = floor + 1/2 sum_s w_s |X a_s - b_s|^2. It is the least energy if there are as many independent inputs as rows.

    **Raises:** `ValueError` for shapes that do not match, no samples, NaN, or weights below 0 or all 0; `TypeError` for
    integers or complex numbers.

    **Example:**

        >>> inputs, outputs = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), jnp.array([[1.0, 2.0, 2.0]])
        >>> energy = dln.LeastSquares(inputs, outputs)  # three samples of two inputs and one output
        >>> x = jnp.array([[1.0, 2.0]])
        >>> print(f"{energy(x):.6f}", energy.gradient(x).round(6).tolist())
        0.500000 [[1.0, 1.0]]
    """

    inputs: Float[Array, "*seeds n k"]
    outputs: Float[Array, "*seeds m k"]
    weights: Float[Array, "*seeds k"]
    floor: Float[Array, "*seeds"]

    array_axes: ClassVar[dict[str, int]] = {"inputs": 2, "outputs": 2, "weights": 1, "floor": 0}

    def __init__(self, inputs: ArrayLike, outputs: ArrayLike, weights: Numbers | None = None):
        inputs, outputs = _as_samples("inputs", inputs), _as_samples("outputs", outputs)
        _require_pairs(inputs.shape, outputs.shape)
        dtype = np.result_type(inputs.dtype, outputs.dtype)
        weights = _as_weights(weights, inputs.shape[-1])
        seeds = broadcast("inputs and outputs", inputs.shape[:-2], outputs.shape[:-2])
        seeds = broadcast("inputs, outputs and weights", (*seeds, 1), weights.shape)[:-1]
        arrays = [
            _spread(array.astype(dtype), seeds, axes)
            for array, axes in ((known(inputs), 2), (known(outputs), 2), (weights, 1), (np.zeros(()), 0))
        ]
        if all(map(is_concrete, arrays)) and inputs.shape[-1] > inputs.shape[-2]:
            arrays = _fewer(*arrays[:3])
        self.inputs, self.outputs, self.weights, self.floor = (
            as_array(name, array) for name, array in zip(self.array_axes, arrays, strict=True)
        )

    def _residual(self, x: Any):
        shape = m, n = self.outputs.shape[-2], self.inputs.shape[-2]
        which = (
            f"this energy takes {m} x {n} matrices: its outputs have {m} rows and its inputs {n}, with one sample a "
            "column"
        )
        x = as_argument(x, shape, which)
        return x @ self.inputs - self.outputs

    def _total(self, residual: Float[Array, "*seeds m k"]) -> Float[Array, "*seeds"]:
        return self.floor + jnp.sum(self.weights[..., None, :] * residual**2, axis=(-2, -1)) / 2

    def __call__(self, x: Float[Array, "m n"]) -> Float[Array, "*seeds"]:
        return self._total(self._residual(x))

    def gradient(self, x: Float[Array, "m n"]) -> Float[Array, "*seeds m n"]:
        return (self.weights[..., None, :] * self._residual(x)) @ jnp.swapaxes(self.inputs, -1, -2)

    def at(self, point: SVD) -> Float[Array, ""]:
        return self._total((point.u * point.sigma[None, :]) @ (point.v.T @ self.inputs) - self.outputs)

    def sides(self, point: SVD) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
        """(dE V, dE^T U) by products with r columns: with P = A^T V, X A = U diag(sigma) P^T is never made."""
        seen, weights = self.inputs.T @ point.v, self.weights[:, None]
        left = (point.u * point.sigma[None, :]) @ (seen.T @ (weights * seen)) - self.outputs @ (weights * seen)
        right = (seen * point.sigma[None, :]) @ (point.u.T @ point.u) - self.outputs.T @ point.u
        return left, self.inputs @ (weights * right)


def _as_samples(name: str, samples: Any) -> Array:
    """A real matrix, or a stack of them, with at least one column."""
    samples = as_finite(name, as_float(name, samples))
    if samples.ndim < 2 or 0 in samples.shape[:-1]:
        raise ValueError(
            f"{name} must be a matrix with one sample a column, got shape {samples.shape}. "
            f"Numbers alone are one row: {name}[None, :]."
        )
    if samples.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one sample, a column each, got shape {samples.shape}.")
    return samples


def _require_pairs(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    if inputs[-1] == outputs[-1]:
        return
    message = (
        f"inputs and outputs must have the same samples, one a column: got shapes {inputs} and {outputs}, "
        f"which are {inputs[-1]} and {outputs[-1]} samples."
    )
    if inputs[-2] == outputs[-2]:
        message += " If the samples are the rows, pass inputs.T and outputs.T."
    elif inputs[-2] == outputs[-1]:
        message += " If the samples are the rows of inputs, pass inputs.T."
    elif inputs[-1] == outputs[-2]:
        message += " If the samples are the rows of outputs, pass outputs.T."
    raise ValueError(message)


def _as_weights(weights: Any, samples: int) -> Array | np.ndarray:
    """A weight for each sample, with the seeds in front if there are any."""
    weights = as_real("weights", 1.0 if weights is None else weights)
    if weights.ndim and weights.shape[-1] != samples:
        raise ValueError(f"weights must be one for each of the {samples} samples, got shape {weights.shape}.")
    values = known(weights)
    bad = ~((values >= 0) & (values < np.inf)).all() | ~(values > 0).any(-1 if weights.ndim else None).all()
    weights = require(weights, bad, "weights must be finite and at least 0, and one of them above 0.")
    return known(weights) if weights.ndim else _spread(known(weights), (samples,), 0)


def _fewer(inputs: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """(inputs, outputs, weights, floor) of the same energy, with as many samples as there are inputs."""
    n, seeds, found = inputs.shape[-2], weights.shape[:-1], []
    for seed in np.ndindex(seeds):
        # X A - B = (X, -I) (A; B), and no rotation of the samples changes its norm.
        pairs = np.concatenate([inputs[seed], outputs[seed]]) * np.sqrt(weights[seed])
        triangle = np.asarray(np.linalg.qr(pairs.T, mode="r"))
        floor = np.sum(triangle[n:, n:] ** 2) / 2
        found.append((triangle[:n, :n].T, triangle[:n, n:].T, np.ones(n, pairs.dtype), floor))
    return [np.reshape(part, (*seeds, *np.shape(part[0]))) for part in zip(*found, strict=True)]


def _spread(array: Any, seeds: tuple[int, ...], axes: int) -> Any:
    """The array for all seeds, where its last `axes` are those of one."""
    shape = seeds + array.shape[array.ndim - axes :]
    return np.broadcast_to(array, shape) if is_concrete(array) else jnp.broadcast_to(array, shape)
