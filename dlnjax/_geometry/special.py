"""Even functions of the log-ratio u that the spectral kernels are made of, exact at u = 0."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._types import Scalar

# Taylor's coefficients of shc(x) = sinh(x)/x = sum x^(2k)/(2k+1)!, in x^2, and those of its derivative over x. The sum
# of nine terms is exact to rounding for |x| <= 1.
_SHC = [1 / math.factorial(2 * k + 1) for k in range(10)]
_SHC_SLOPE = [2 * k / math.factorial(2 * k + 1) for k in range(1, 10)]
# Eight terms are exact to rounding for |x| <= 1/2, where `shc_small` is used.
_SMALL_TERMS = 8
# Two points count as one below this gap, relative to their sum. The quotient loses eps/gap to rounding and the mean
# slope gap^2 to curvature: the two errors are equal near the cube root of eps.
_COINCIDENT = 1e-5


def _polynomial(coefficients: Sequence[float], x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Horner's scheme, the constant coefficient first."""
    out = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        out = out * x + c
    return out


def shc_small(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """sinh(x)/x for |x| <= 1/2, by its series, which needs no division and no exponential.

    For larger x the result is finite and wrong: callers evaluate it in a `where`, and take another form there.
    """
    # An infinite value in the branch that is not taken would make NaN of the derivative of the `where`.
    return _polynomial(_SHC[:_SMALL_TERMS], jnp.minimum(x * x, 1.0))


def log_shc(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log(sinh(x)/x) for any finite x, smooth at 0."""
    small = jnp.abs(x) < 1
    near, far = jnp.where(small, x, 0.0), jnp.abs(jnp.where(small, 1.0, x))
    square = near * near
    # The quotient is 0/0 at 0, where the series replaces it. sinh(x) overflows from x = 710 on; its logarithm is
    # x - log 2 + log(1 - e^(-2x)), in which nothing does.
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
    # Near 0 both terms are infinite and their difference has no digit left; shc'(x)/shc(x) by the series keeps all.
    return jnp.where(
        small,
        near * _polynomial(_SHC_SLOPE, square) / _polynomial(_SHC, square),
        1 / jnp.tanh(far) - 1 / far,
    )


def divided_difference(
    values: Float[Array, " d"], slopes: Float[Array, "d d"], points: Float[Array, " d"]
) -> Float[Array, "d d"]:
    """(values_i - values_j) / (points_i - points_j); the mean of slopes_ij and slopes_ji where the points coincide."""
    gap = points[:, None] - points[None, :]
    close = jnp.abs(gap) <= _COINCIDENT * (jnp.abs(points[:, None]) + jnp.abs(points[None, :]))
    quotient = (values[:, None] - values[None, :]) / jnp.where(close, 1.0, gap)
    return jnp.where(close, (slopes + slopes.T) / 2, quotient)


def bose(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """x/(e^x - 1) for x >= 0, the function of Bose and Einstein: 1 at x = 0, and accurate where it vanishes."""
    apart = x > 0
    safe = jnp.where(apart, x, 1.0)
    # e^x overflows from x = 710 on, so that numerator and denominator are multiplied by e^(-x). At 0 the tangent
    # 1 - x/2 has the value and the derivative of the limit.
    return jnp.where(apart, safe * jnp.exp(-safe) / -jnp.expm1(-safe), 1.0 - x / 2)


def regularised_inverse(u: Float[Array, "*s"], gap: Scalar) -> Float[Array, "*s"]:
    """u/(u^2 + gap^2): 1/u to a relative (gap/u)^2, and 0 at u = 0."""
    return u / (u * u + gap * gap)
