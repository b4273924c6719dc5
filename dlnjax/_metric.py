"""The metric g^N on full-rank matrices, through the operator A_X that carries covectors to tangent vectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_depth, as_square
from dlnjax._kernel import eigenvalues, metric_spectrum_slope
from dlnjax._svd import svd


@eqx.filter_custom_jvp
def apply_metric_operator(x, p, inverse_depth):
    """A_X(P) for an inverse depth; `metric_operator` is the public form."""
    point = svd(x)
    g = point.u.T @ p @ point.v
    return point.u @ (eigenvalues(point.sigma, inverse_depth) * g) @ point.v.T


@apply_metric_operator.def_jvp
def _(primals, tangents):
    # In the frame, the symmetric part of dX enters through divided differences of lambda, and the antisymmetric part
    # turns U and V oppositely: nothing is divided by sigma_i - sigma_j where the limit exists.
    x, p, a = primals
    dx, dp, da = tangents
    point = svd(x)
    u, sigma, v = point.u, point.sigma, point.v
    g = u.T @ p @ v
    lam = eigenvalues(sigma, a)
    out = lam * g
    tangent = jnp.zeros_like(out)
    if dp is not None:
        tangent += lam * (u.T @ dp @ v)
    if da is not None:
        tangent += jax.jvp(lambda b: eigenvalues(sigma, b), (a,), (da,))[1] * g
    if dx is not None:
        m = u.T @ dx @ v
        symmetric, antisymmetric = (m + m.T) / 2, (m - m.T) / 2
        slope = metric_spectrum_slope(sigma, a)
        total = sigma[:, None] + sigma[None, :]
        b = antisymmetric / jnp.where(total > 0, total, 1.0)
        tangent += jnp.einsum("ik,ikj,kj->ij", symmetric, slope, g)
        tangent += jnp.einsum("ik,jki,kj->ij", g, slope, symmetric)
        tangent += b @ out + out @ b - lam * (b @ g + g @ b)
    return u @ out @ v.T, u @ tangent @ v.T


def metric_operator(x: Float[Array, "d d"], p: Float[Array, "d d"], depth) -> Float[Array, "d d"]:
    """The operator of the metric, 1/N times (2.19):

        A_X(P) = (1/N) sum_{q=1}^N (X X^T)^((N-q)/N) P (X^T X)^((q-1)/N),

    through its diagonalisation (2.20), so that it is smooth in X at repeated singular values and in N up to infinity.

    **Arguments:** `x` and `p`, `d d`; `depth`, N in [1, inf], a number or a traced array.

    **Returns:** a tangent vector, `d d`.

    **Raises:** `ValueError` or `TypeError` for shapes that differ, integers, or a depth outside [1, inf].
    """
    x, p = as_square("x", x), as_square("p", p)
    if x.shape != p.shape:
        raise ValueError(f"x and p must have one shape, got {x.shape} and {p.shape}.")
    return apply_metric_operator(x, p, (1 / as_depth(depth)).astype(x.dtype))
