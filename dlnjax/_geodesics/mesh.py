"""Paths that are polynomials on a few elements of time: the spectral element method, with Lobatto's quadrature.

On each element a path is the polynomial through its values at Lobatto's nodes, and the action is summed at the same
nodes. Such a method is a variational integrator of order 2 r for polynomials of degree r (J. Marsden and M. West, Acta
Numerica 10, 2001). The momentum at the ends, read from the derivative of the action, has the same order.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._lapack import solve_linear

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
        h, at = jnp.diff(ends), cls.at(len(ends) - 1)
        inside = ends[:-1, None] + h[:, None] * jnp.asarray((1 + _NODES) / 2, ends.dtype)[None, :]
        ts = jnp.append(inside[:, :-1].ravel(), ends[-1])
        weights = (h[:, None] / 2 * jnp.asarray(_WEIGHTS, ends.dtype)[None, :]).ravel()
        # Within an element the derivative in time is that on [-1, 1] times 2/h.
        local = 2 / h[:, None, None] * jnp.asarray(_RATES, ends.dtype)[None, :, :]
        rows = np.arange(len(at)).reshape(-1, DEGREE + 1)
        rates = jnp.zeros((len(at), len(ts)), ends.dtype)
        rates = rates.at[rows[:, :, None], at.reshape(rows.shape)[:, None, :]].set(local)
        inner = rates[:, 1:-1]
        green = solve_linear(inner.T @ (weights[:, None] * inner), jnp.eye(inner.shape[1], dtype=ends.dtype))
        return cls(ts, rates, weights, green)

    @staticmethod
    def at(elements: int) -> np.ndarray:
        """The node of each point of the quadrature. Neighbouring elements share a node."""
        return (DEGREE * np.arange(elements)[:, None] + np.arange(DEGREE + 1)).ravel()
