"""Sweeps that many figures share. All sweeps have the same shapes, so that one compilation serves all figures."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax import FlowSolution, MatrixCompletion, Steady, SVD, sweep

ENERGY = "E(X) = sum_i (X_ii - 1)^2, thesis (4.21)"
SIZE, TIMES, CHUNK = 25, 97, 50


class PaddedDiagonal(eqx.Module):
    """(4.21) of the leading d x d block: E(X) = sum_{i <= d} (X_ii - 1)^2.

    A d x d matrix padded by zeros has rank d, and the flow keeps the rank. Flows of all sizes d therefore have one
    shape. `inside` is 1 for the first d entries of the diagonal, and 0 for the others.
    """

    inside: Float[Array, "*n size"]
    array_axes: ClassVar[dict[str, int]] = {"inside": 1}

    def _residual(self, diagonal):
        return self.inside * (diagonal - 1)

    def __call__(self, x: Float[Array, "size size"]) -> Float[Array, "*n"]:
        return jnp.sum(self._residual(jnp.diagonal(x, axis1=-2, axis2=-1)) ** 2, axis=-1)

    def gradient(self, x: Float[Array, "size size"]) -> Float[Array, "size size"]:
        return jnp.diag(2 * self._residual(jnp.diagonal(x)))

    def pullback(self, point: SVD) -> Float[Array, "size size"]:
        residual = self._residual(jnp.sum(point.u * point.sigma * point.v, axis=1))
        return (2 * residual[:, None] * point.u).T @ point.v


def many_diagonal(n: int, d: int) -> MatrixCompletion:
    """The energy (4.21) for each of n matrices of size d."""
    eye = np.broadcast_to(np.eye(d), (n, d, d))
    return MatrixCompletion(jax.device_put(eye), eye == 1, weight=1.0)


def times(first: float, last: float, *others: float) -> Float[np.ndarray, " times"]:
    """TIMES times: 0, the `others`, and logarithmic times from `first` to `last`."""
    return np.sort([0.0, *others, *np.geomspace(first, last, TIMES - 1 - len(others))])


def diagonal_flows(entries, d, std, ts, *, depth: Any = jnp.inf, gradient=1e-4) -> FlowSolution:
    """A sweep from starts X_ij ~ N(0, std^2) of size d until rest, |dE| <= gradient.

    Only the singular values are saved, padded by zeros.

    **Arguments:** `entries`, draws of N(0, 1), `n size size`; `d`, `std` and `depth`, one number or `n`; `ts`, as many
    as `times` gives.
    """
    n, size, _ = entries.shape
    d, std = (np.broadcast_to(a, n) for a in (d, std))
    inside = np.arange(size) < d[:, None]
    starts = np.where(inside[:, :, None] & inside[:, None, :], std[:, None, None] * entries, 0.0)
    chunk = CHUNK if size == SIZE else -(-n // 2)
    options = {"ts": ts, "stop": Steady(gradient), "observe": sigma_of, "chunk": chunk}
    return dealt_sweep(PaddedDiagonal(jax.device_put(inside.astype(float))), starts, depth, **options)


def completion_flows(
    energy: MatrixCompletion, starts, ts, *, depth: Any = jnp.inf, gradient, rtol=1e-6, chunk: int = 1000
) -> FlowSolution:
    """A sweep of completions, each with its own labels and mask, `n d d`, until rest, |dE| <= gradient.

    Only the singular values are saved.

    **Arguments:** `starts`, `n d d`; `ts`, three times.
    """
    options = {"ts": ts, "stop": Steady(gradient), "observe": sigma_of, "rtol": rtol, "chunk": chunk}
    return dealt_sweep(energy, starts, depth, **options)


def small_flows(energy, starts, ts, *, depth: Any = jnp.inf, gradient, rtol=1e-6) -> FlowSolution:
    """A sweep of 2 x 2 matrices until rest, |dE| <= gradient, which saves only the singular values.

    **Arguments:** `ts`, as many as `times` gives.
    """
    options = {"ts": ts, "stop": Steady(gradient), "observe": sigma_of, "rtol": rtol, "chunk": 250}
    return dealt_sweep(energy, starts, depth, **options)


def dealt_sweep(energy, starts, depth, *, chunk: int, **options) -> FlowSolution:
    """`sweep` in chunks of one size that take about the same time. In `starts`, slow flows come first."""
    # Flow i goes to chunk i modulo the number of chunks. Every chunk thus gets the same share of the slow flows, and
    # begins with them. A sweep smaller than a chunk would have a shape of its own and would be compiled again. It is
    # therefore filled up with starts of NaN, which end at once.
    n = len(starts)
    hands = -(-n // chunk)
    rows = np.append(np.argsort(np.arange(n) % hands, kind="stable"), np.full(max(0, chunk - n), -1))
    # NumPy picks the rows, since JAX would compile a program for each shape.
    starts = np.where(rows[:, None, None] < 0, np.nan, np.asarray(starts)[rows])
    energy = jax.tree.map(lambda a: jax.device_put(np.asarray(a)[rows]) if np.ndim(a) and len(a) == n else a, energy)
    sol = sweep(energy, starts, depth=np.broadcast_to(depth, n)[rows], chunk=chunk, **options)
    return jax.tree.map(jax.device_put, jax.device_get(sol)[np.argsort(rows[:n])])


def rank_of(sigma) -> Float[np.ndarray, "*n"]:
    """The effective rank (4.23) by NumPy, as JAX would compile a program for each shape."""
    sigma = np.asarray(sigma)
    part = sigma / sigma.sum(-1, keepdims=True)
    return np.exp(-np.sum(part * np.log(np.maximum(part, np.finfo(float).tiny)), axis=-1))


def sigma_of(point: SVD) -> Float[Array, "*n d"]:
    """The singular values of a state, which the sweeps of figures save in place of the state."""
    return point.sigma
