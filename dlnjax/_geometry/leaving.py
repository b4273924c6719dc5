"""The rates at which the singular vectors of a matrix leave their spaces, as smooth functions of the matrix."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geometry.differences import first_of_one, leaving_power, OfOne, second_of_one, squares
from dlnjax._geometry.kernel import Kernel, symmetric
from dlnjax._geometry.motion import moved
from dlnjax._svd import plain_point, SVD, svd
from dlnjax._tree import instantiate, is_perturbed, positive
from dlnjax._types import Matrix, Square


@filter_custom_jvp
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
    point = plain_point(s)
    sigma = point.sigma
    values, changed = eqx.filter_jvp(lambda kernel: _rates(sigma, kernel), (kernel,), (dkernel,))
    m = point.u.T @ instantiate(ds, s) @ point.v
    even, odd = (m + m.T) / 2, (m - m.T) / 2
    total = sigma[:, None] + sigma[None, :]

    def tangent(side: int, f: Float[Array, " r"], df: Float[Array, " r"]) -> Matrix:
        def rate(s: Float[Array, "*s"]) -> Float[Array, "*s"]:
            return _rates(s.ravel(), kernel)[side].reshape(s.shape)

        inside = first_of_one(rate, sigma) * even + (f[:, None] + f[None, :]) / total * odd
        return point.u @ (inside + jnp.diag(df)) @ point.v.T

    return leaving_rates(s, kernel), tuple(map(tangent, (0, 1), values, instantiate(changed, values)))


def _rates(sigma: Float[Array, " r"], kernel: Kernel) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
    nu, mu = kernel.leaving(sigma)
    return nu / sigma, mu / sigma


def _spectral(point: SVD, values: Float[Array, " r"]) -> Matrix:
    return (point.u * values[None, :]) @ point.v.T


@filter_custom_jvp
def leaving_weight(s: Square, point: SVD, kernel: Kernel, *, side: int, power: int | float) -> Square:
    """V diag(nu^power) V^T of S = U diag(sigma) V^T, or U diag(mu^power) U^T for `side` = 1; 0 for a weight of 0.

    `point` is the decomposition of S, which has no derivative here.
    """
    return _weight_at(point, kernel, side, power)


def _weight_at(point: SVD, kernel: Kernel, side: int, power: int | float) -> Square:
    frame = point.u if side else point.v
    return symmetric(weight_power(kernel.leaving(point.sigma)[side], power), frame)


def weight_power(weight: Float[Array, "*s"], power: int | float) -> Float[Array, "*s"]:
    """A power of weights, 0 for a weight of 0."""
    return jnp.where(weight > 0, positive(weight) ** power, 0.0)


@leaving_weight.def_jvp
def _leaving_weight_jvp(
    primals: tuple[Square, SVD, Kernel], tangents: tuple[Square | None, Any, PyTree], *, side: int, power: int | float
):
    """The function of S^T S, or S S^T, has divided differences in place of derivatives (Daleckii and Krein)."""
    (s, _, kernel), (ds, _, dkernel) = primals, tangents
    point, weight = plain_point(s), leaving_power(kernel, 1, side)
    tangent = jnp.zeros_like(s)
    if is_perturbed(dkernel):
        tangent += eqx.filter_jvp(lambda k: _weight_at(point, k, side, power), (kernel,), (dkernel,))[1]
    if ds is not None:
        left, right = moved(point.u.T @ ds @ point.v, point.sigma)
        frame, turn = (point.u, left) if side else (point.v, right)
        rate = lambda s: weight_power(weight(s), power)
        tangent += frame @ (first_of_one(rate, squares(point.sigma)) * turn) @ frame.T
    return leaving_weight(*primals, side=side, power=power), tangent


def turning_rate(kernel: Kernel, side: int, power: float = 1) -> OfOne:
    """(nu/sigma^2)^power as a function of sigma^2, or (mu/sigma^2)^power for `side` = 1; 0 where the weight is 0."""
    weight = leaving_power(kernel, 1, side)

    def rate(s: Float[Array, "*s"]) -> Float[Array, "*s"]:
        nu = weight(s)
        return jnp.where(nu > 0, (positive(nu) / s) ** power, 0.0 * s)

    return rate


@filter_custom_jvp
def turning(s: Matrix, m: Matrix, kernel: Kernel, *, side: int) -> tuple[Matrix, Matrix]:
    """(G, the gradient in S of Tr(M G)/2) for G = g(S S^T), where g is the `turning_rate` and M is symmetric."""
    point = svd(s)
    g, first, m = _turning_in_frame(point, m, kernel, side)
    return symmetric(g, point.u), point.u @ (first * m * point.sigma[None, :]) @ point.v.T


def _turning_in_frame(point: SVD, m: Matrix, kernel: Kernel, side: int) -> tuple[Array, Matrix, Matrix]:
    s, rate = squares(point.sigma), turning_rate(kernel, side)
    return rate(s), first_of_one(rate, s), point.u.T @ m @ point.u


@turning.def_jvp
def _turning_jvp(
    primals: tuple[Matrix, Matrix, Kernel], tangents: tuple[Matrix | None, Matrix | None, PyTree], *, side: int
):
    """G and its gradient have divided differences of g in place of derivatives (Daleckii and Krein)."""
    (s, m, kernel), (ds, dm, dkernel) = primals, tangents
    point, rate = plain_point(s), turning_rate(kernel, side)
    sigma = point.sigma
    values, by_kernel = eqx.filter_jvp(lambda k: _turning_in_frame(point, m, k, side), (kernel,), (dkernel,))
    (g, first, inside), (dg, dfirst, _) = values, instantiate(by_kernel, values)
    move = point.u.T @ instantiate(ds, s) @ point.v
    left, _ = moved(move, sigma)
    second = second_of_one(rate, squares(sigma), first)
    density = first * (point.u.T @ instantiate(dm, m) @ point.u) + dfirst * inside
    # At [i, k, j], the second difference over s_i, s_k and s_j.
    density += jnp.einsum("ikj,ik,kj->ij", second, left, inside) + jnp.einsum("ikj,ik,kj->ij", second, inside, left)
    turn = first * left + jnp.diag(dg)
    bend = density * sigma[None, :] + (first * inside) @ move
    out = symmetric(g, point.u), point.u @ (first * inside * sigma[None, :]) @ point.v.T
    return out, (point.u @ turn @ point.u.T, point.u @ bend @ point.v.T)
