"""Paths that are polynomials on a few elements of time: the spectral element method, with Lobatto's quadrature.

On each element a path is the polynomial through its values at Lobatto's nodes, and the action is summed at the same
nodes. Such a method is a variational integrator of order 2 r for polynomials of degree r (J. Marsden and M. West, Acta
Numerica 10, 2001). The momentum at the ends, read from the derivative of the action, has the same order.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._lapack import cholesky, cholesky_solve

# The number of elements and the degree of the polynomials on them. The product is the number of pieces of a path.
ELEMENTS, DEGREE = 8, 4
# Between the nodes of a coarse mesh a path can cross the singular matrices at no cost. On this many elements all random
# pairs of 12 and 16 rows arrive, also those of condition number 1e4. On 24 some do not.
FINE = 32


def _lobatto(degree: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(nodes on [-1, 1], weights, the matrix that takes values at the nodes to the derivative there)."""
    legendre = np.polynomial.legendre.Legendre.basis(degree)
    x = np.concatenate([[-1.0], np.sort(legendre.deriv().roots().real), [1.0]])
    value = legendre(x)
    gap = x[:, None] - x[None, :] + np.eye(degree + 1)
    rates = value[:, None] / (value[None, :] * gap)
    np.fill_diagonal(rates, 0.0)
    np.fill_diagonal(rates, -rates.sum(axis=1))
    return x, 2 / (degree * (degree + 1) * value**2), rates


_NODES, _WEIGHTS, _RATES = _lobatto(DEGREE)


class Mesh(eqx.Module):
    """The nodes of a path, and the points of the quadrature, `degree` + 1 on each element.

    **Attributes:** `ts`, the times of the nodes; `rates`, the matrix that takes a path to its velocities at the points;
    `weights` of the points; `green`, the inverse of the scalar second difference in the inner nodes.
    """

    ts: Float[Array, " nodes"]
    rates: Float[Array, "points nodes"]
    weights: Float[Array, " points"]
    green: Float[Array, "m m"]

    @property
    def elements(self) -> int:
        """The number of elements."""
        return len(self.weights) // (DEGREE + 1)

    @classmethod
    def of(cls, ends: Float[Array, " elements"]) -> "Mesh":
        """The mesh whose elements lie between the times `ends`."""
        h = jnp.diff(ends)
        inside = ends[:-1, None] + h[:, None] * jnp.asarray((1 + _NODES) / 2, ends.dtype)[None, :]
        ts = jnp.append(inside[:, :-1].ravel(), ends[-1])
        weights = (h[:, None] / 2 * jnp.asarray(_WEIGHTS, ends.dtype)[None, :]).ravel()
        # Within an element the derivative in time is that on [-1, 1] times 2/h.
        rates = jnp.repeat(2 / h, DEGREE + 1)[:, None] * jnp.asarray(_rates_on(len(h)), ends.dtype)
        inner = rates[:, 1:-1]
        factor = cholesky(inner.T @ (weights[:, None] * inner))
        return cls(ts, rates, weights, cholesky_solve(factor, jnp.eye(len(factor), dtype=ends.dtype)))

    @staticmethod
    def at(elements: int) -> np.ndarray:
        """The node of each point of the quadrature. Neighbouring elements share a node."""
        return (DEGREE * np.arange(elements)[:, None] + np.arange(DEGREE + 1)).ravel()

    def gather(self, z: Float[Array, "nodes *s"]) -> Float[Array, "points *s"]:
        """The values at the points, of values at the nodes."""
        return z.at[self.at(self.elements)].get(mode="promise_in_bounds", wrap_negative_indices=False)

    def add_up(self, z: Float[Array, "points *s"]) -> Float[Array, "nodes *s"]:
        """The transpose of `gather`: at each node the sum over its points.

        A product with ones and zeros takes less time than `z.at[...].add`, which XLA makes a loop on a CPU.
        """
        ones = np.equal.outer(np.arange(DEGREE * self.elements + 1), self.at(self.elements))
        return jnp.tensordot(jnp.asarray(ones, z.dtype), z, 1)


def _rates_on(elements: int) -> np.ndarray:
    """The matrix `points nodes` that takes values at the nodes to the derivatives in times on [-1, 1]."""
    rates = np.zeros((elements * (DEGREE + 1), elements * DEGREE + 1))
    for k in range(elements):
        rates[k * (DEGREE + 1) :, k * DEGREE :][: DEGREE + 1, : DEGREE + 1] = _RATES
    return rates
