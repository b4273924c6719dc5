"""The rates at which the singular vectors of a matrix leave their spaces, as smooth functions of the matrix."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._geometry.kernel import Kernel
from dlnjax._svd import SVD, svd
from dlnjax._tree import instantiate
from dlnjax._types import Matrix

# Two values are near if their relative difference is below this. The derivative at their mean then stands for the
# quotient of differences: its error is of second order in the difference, and a quotient at this one keeps as many
# digits.
_NEAR = 1e-5


@eqx.filter_custom_jvp
def leaving_rates(s: Matrix, kernel: Kernel) -> tuple[Matrix, Matrix]:
    """(U diag(nu/sigma) V^T, U diag(mu/sigma) V^T) of S = U diag(sigma) V^T, a square matrix of full rank."""
    point = svd(s)
    nu, mu = _rates(point.sigma, kernel)
    return _spectral(point, nu), _spectral(point, mu)


@leaving_rates.def_jvp
def _leaving_rates_jvp(primals: tuple[Matrix, Kernel], tangents: tuple[Matrix | None, PyTree]):
    """In the frame of S the derivative of an odd function f of the singular values has divided differences:

        (f_k - f_l)/(sigma_k - sigma_l) on the symmetric part of U^T dS V, (f_k + f_l)/(sigma_k + sigma_l) on the other.

    No derivative of the frame occurs, which does not exist where singular values repeat (Daleckii and Krein).
    """
    (s, kernel), (ds, dkernel) = primals, tangents
    point = svd(s)
    sigma = point.sigma
    values, moved = eqx.filter_jvp(lambda kernel: _rates(sigma, kernel), (kernel,), (dkernel,))
    _, slopes = jax.jvp(lambda sigma: _rates(sigma, kernel), (sigma,), (jnp.ones_like(sigma),))
    m = point.u.T @ instantiate(ds, s) @ point.v
    even, odd = (m + m.T) / 2, (m - m.T) / 2
    gap, total = sigma[:, None] - sigma, sigma[:, None] + sigma
    near = jnp.abs(gap) <= _NEAR * total

    def tangent(f: Float[Array, " r"], slope: Float[Array, " r"], df: Float[Array, " r"]) -> Matrix:
        quotient = (f[:, None] - f) / jnp.where(near, 1.0, gap)
        inside = jnp.where(near, (slope[:, None] + slope) / 2, quotient) * even + (f[:, None] + f) / total * odd
        return point.u @ (inside + jnp.diag(df)) @ point.v.T

    return leaving_rates(s, kernel), tuple(map(tangent, values, slopes, instantiate(moved, values)))


def _rates(sigma: Float[Array, " r"], kernel: Kernel) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    nu, mu = kernel.leaving(sigma)
    return nu / sigma, mu / sigma


def _spectral(point: SVD, values: Float[Array, " r"]) -> Matrix:
    return (point.u * values) @ point.v.T
