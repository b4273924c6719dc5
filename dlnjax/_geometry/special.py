"""Functions of the log-ratio u = log(s/t) of two singular values, of which the kernels are made, exact at u = 0."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._custom_jvp import custom_jvp, filter_custom_jvp
from dlnjax._types import Scalar

# Taylor's coefficients in x^2 of shc(x) = sinh(x)/x = sum x^(2k)/(2k+1)!, and those of shc'(x)/x. The sum of nine terms
# is exact to rounding for |x| <= 1.
_SHC = [1 / math.factorial(2 * k + 1) for k in range(10)]
_SHC_SLOPE = [2 * k / math.factorial(2 * k + 1) for k in range(1, 10)]
# Where |x| is below this number, the first five terms of sinh(x)/x are exact to rounding, and a difference of squares
# e^x - e^-x has lost less than a digit above it.
NEAR, _SMALL_TERMS = 0.1, 5
# Two points count as one where their gap over their sum is below this number. A quotient of differences has an error of
# eps/gap from rounding, and the mean slope one of gap^2 from curvature. Both are equal near the cube root of eps.
_COINCIDENT = 1e-5


@filter_custom_jvp
def _polynomial(coefficients: Sequence[float], x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The polynomial with these coefficients, of which the first is the constant, by Horner's scheme.

    The rule gives the derivative as one more polynomial. Autodiff would make the scheme three times as long with each
    derivative, and the curvature takes four.
    """
    out = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        out = out * x + c
    return out


@_polynomial.def_jvp
def _polynomial_jvp(primals: tuple[Sequence[float], Array], tangents: tuple[Any, Array]) -> tuple[Array, Array]:
    (coefficients, x), (_, dx) = primals, tangents
    slope = [k * c for k, c in enumerate(coefficients)][1:] or [0.0]
    return _polynomial(coefficients, x), _polynomial(slope, x) * dx


def shc_small(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """sinh(x)/x for |x| <= `NEAR`, by its series, which needs no division and no exponential.

    For larger x the result is finite and wrong. Callers evaluate it in a `where`, and use another formula there.
    """
    # An infinite value in the unused branch of a `where` would make its derivative NaN.
    return _polynomial(_SHC[:_SMALL_TERMS], jnp.minimum(x * x, 1.0))


def log_shc(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log(sinh(x)/x) for any finite x, smooth at 0."""
    small = jnp.abs(x) < 1
    near, far = jnp.where(small, x, 0.0), jnp.abs(jnp.where(small, 1.0, x))
    square = near * near
    # The quotient is 0/0 at 0, and the series replaces it there. sinh(x) overflows from x = 710 on. Its logarithm
    # x - log 2 + log(1 - e^(-2x)) does not.
    return jnp.where(
        small,
        jnp.log1p(square * _polynomial(_SHC[1:], square)),
        far - jnp.log(2 * far) + jnp.log1p(-jnp.exp(-2 * far)),
    )


def langevin(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """coth(x) - 1/x, the derivative of `log_shc`."""
    small = jnp.abs(x) < 1
    near, far = jnp.where(small, x, 0.0), jnp.where(small, 1.0, x)
    square = near * near
    # Near 0 both terms are so large that their difference has no digit left. The series of shc'(x)/shc(x) keeps all.
    return jnp.where(
        small,
        near * _polynomial(_SHC_SLOPE, square) / _polynomial(_SHC, square),
        1 / jnp.tanh(far) - 1 / far,
    )


def logarithmic_mean(sigma: Float[Array, " d"], u: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """(sigma_i - sigma_j)/u_ij for u_ij = log(sigma_i/sigma_j)."""
    root, near = jnp.sqrt(sigma), jnp.abs(u) < 2 * NEAR
    # Near u = 0 the difference has lost its digits. There the mean is sqrt(sigma_i sigma_j) sinh(u/2)/(u/2).
    quotient = (sigma[:, None] - sigma[None, :]) / jnp.where(near, 1.0, u)
    return jnp.where(near, root[:, None] * root[None, :] * shc_small(u / 2), quotient)


def divided_difference(
    values: Float[Array, " d"], slopes: Float[Array, "d d"], points: Float[Array, " d"]
) -> Float[Array, "d d"]:
    """(values_i - values_j) / (points_i - points_j), or where points coincide the mean of slopes_ij and slopes_ji."""
    gap = points[:, None] - points[None, :]
    close = jnp.abs(gap) <= _COINCIDENT * (jnp.abs(points[:, None]) + jnp.abs(points[None, :]))
    quotient = (values[:, None] - values[None, :]) / jnp.where(close, 1.0, gap)
    return jnp.where(close, (slopes + slopes.T) / 2, quotient)


def bose(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """x/(e^x - 1) for x >= 0, the function of Bose and Einstein, with the relative accuracy of the floats."""
    apart = x > 0
    safe = jnp.where(apart, x, 1.0)
    # e^x overflows from x = 710 on. Therefore numerator and denominator are multiplied by e^(-x). At 0 the tangent
    # 1 - x/2 has the value and the derivative of the limit.
    return jnp.where(apart, safe * jnp.exp(-safe) / -jnp.expm1(-safe), 1.0 - x / 2)


@custom_jvp
def log_balanced(log_s: Float[Array, "*#s"], log_t: Float[Array, "*#s"], a: Scalar) -> Float[Array, "..."]:
    """log lambda of (2.20) over N, with a = 1/N. No part of it overflows.

    The derivative has a rule of its own, since autodiff would lose the slope where s is far below t.
    """
    u = log_s - log_t
    return (log_s + log_t) * (1 - a) + log_shc(u) - log_shc(a * u)


@log_balanced.defjvp
def _log_balanced_jvp(primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]):
    (log_s, log_t, a), (ds, dt, da) = primals, tangents
    u = log_s - log_t
    by_a = -(log_s + log_t) - u * langevin(a * u)
    tangent = log_balanced_slope(u, a) * ds + log_balanced_slope(-u, a) * dt + by_a * da
    return log_balanced(log_s, log_t, a), tangent


def log_balanced_slope(u: Float[Array, "*s"], a: Scalar) -> Float[Array, "*s"]:
    """d log lambda / d log s at u = log(s/t), with a = 1/N, to the relative accuracy of the floats.

    Near equal values both terms of (4.36) are infinite and their poles cancel. There the poles 1/u are taken out, by
    coth(u) = 1/u + langevin(u). For s far below t the slope is of the order (s/t)^(2/N), and the terms of that form
    cancel. There (4.36) itself is accurate, 2a/(e^(2aw) - 1) - 2/(e^(2w) - 1) with w = -u. For s far above t the slope
    is 2 - 2a minus that in t, as lambda is homogeneous of degree 2 - 2a.
    """
    near = jnp.abs(u) < 1
    close, w = jnp.where(near, u, 0.0), jnp.where(near, 1.0, jnp.abs(u))
    below = (bose(2 * a * w) - bose(2 * w)) / w
    beyond = jnp.where(u < 0, below, (2 - 2 * a) - below)
    return jnp.where(near, (1 - a) + langevin(close) - a * langevin(a * close), beyond)
