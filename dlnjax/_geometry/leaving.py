"""The rates at which the singular vectors of a matrix leave their spaces, as smooth functions of the matrix."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._geometry.differences import first_of_one
from dlnjax._geometry.kernel import Kernel
from dlnjax._svd import SVD, svd
from dlnjax._tree import instantiate
from dlnjax._types import Matrix


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
    m = point.u.T @ instantiate(ds, s) @ point.v
    even, odd = (m + m.T) / 2, (m - m.T) / 2
    total = sigma[:, None] + sigma

    def tangent(side: int, f: Float[Array, " r"], df: Float[Array, " r"]) -> Matrix:
        def rate(s: Float[Array, "*s"]) -> Float[Array, "*s"]:
            return _rates(s.ravel(), kernel)[side].reshape(s.shape)

        inside = first_of_one(rate, sigma) * even + (f[:, None] + f) / total * odd
        return point.u @ (inside + jnp.diag(df)) @ point.v.T

    return leaving_rates(s, kernel), tuple(map(tangent, (0, 1), values, instantiate(moved, values)))


def _rates(sigma: Float[Array, " r"], kernel: Kernel) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    nu, mu = kernel.leaving(sigma)
    return nu / sigma, mu / sigma


def _spectral(point: SVD, values: Float[Array, " r"]) -> Matrix:
    return (point.u * values) @ point.v.T
