"""The diagonal completion of (4.21) for many figures, in one shape, and so with one compilation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax import FlowSolution, gaussian, Steady, SVD, sweep

SIZE, TIMES, CHUNK = 25, 49, 50
ENERGY = "E(X) = sum_i (X_ii - 1)^2, thesis (4.21)"


class PaddedDiagonal(eqx.Module):
    """(4.21) of the leading d x d block: E(X) = sum_{i <= d} (X_ii - 1)^2.

    Padded by zeros, a matrix of size d is one of rank d, on which the flow stays: so all dimensions share a shape.
    """

    inside: Float[Array, "*n size"]

    def _residual(self, diagonal):
        return self.inside * (diagonal - 1)

    def __call__(self, x: Float[Array, "size size"]) -> Float[Array, ""]:
        return jnp.sum(self._residual(jnp.diagonal(x, axis1=-2, axis2=-1)) ** 2, axis=-1)

    def gradient(self, x: Float[Array, "size size"]) -> Float[Array, "size size"]:
        return jnp.diag(2 * self._residual(jnp.diagonal(x)))

    def pullback(self, point: SVD) -> Float[Array, "size size"]:
        residual = self._residual(jnp.sum(point.u * point.sigma * point.v, axis=1))
        return (2 * residual[:, None] * point.u).T @ point.v


def times(first: float, last: float, *others: float) -> Float[np.ndarray, " times"]:
    """0, the `others`, and logarithmic times from `first` to `last`: always as many in all."""
    return np.sort([0.0, *others, *np.geomspace(first, last, TIMES - 1 - len(others))])


def diagonal_flows(keys, d, std, ts, *, depth=jnp.inf, gradient=1e-4, size: int = SIZE) -> FlowSolution:
    """A sweep of starts X_ij ~ N(0, std^2) of size d to rest, |dE| <= gradient; sigma is kept, padded by zeros.

    **Arguments:** `keys`, `n`; `d`, `std` and `depth`, one number or `n`; `ts`, as many as `times` gives.
    """
    d, std, depth = (np.broadcast_to(a, len(keys)) for a in (d, std, depth))
    inside = np.arange(size) < d[:, None]
    entries = jax.vmap(gaussian, (0, None, None))(keys, size, 1.0)
    starts = jnp.where(inside[:, :, None] & inside[:, None, :], std[:, None, None] * entries, 0.0)
    # A sweep smaller than a chunk would have a shape of its own: it is filled up with starts that end at once.
    n, chunk = len(keys), CHUNK if size == SIZE else None
    fill = lambda a: np.resize(a, (max(n, chunk or n), *a.shape[1:]))
    starts = fill(starts)
    starts[n:] = np.nan
    energy = PaddedDiagonal(jnp.asarray(fill(inside), float))
    options = {"stop": Steady(gradient), "observe": _sigma, "chunk": chunk}
    sol = sweep(energy, starts, depth=fill(depth), ts=ts, **options)
    return eqx.tree_at(lambda s: s.ts, jax.tree.map(lambda a: a[:n], sol), sol.ts)


def _sigma(point: SVD) -> Float[Array, "*n d"]:
    return point.sigma
