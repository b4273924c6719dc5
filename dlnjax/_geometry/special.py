"""Even functions of the log-ratio u that the spectral kernels are made of, exact at u = 0."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

# shc(x) = sum x^(2k) / (2k+1)!; nine terms are exact to rounding for |x| <= 1.
_SHC = [1 / math.factorial(2 * k + 1) for k in range(10)]
_SHC_SLOPE = [2 * k / math.factorial(2 * k + 1) for k in range(1, 10)]


def _polynomial(coefficients: Any, x: Array):
    out = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        out = out * x + c
    return out


def shc_small(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """sinh(x)/x for |x| <= 1/2, by its series: no division, no transcendental. Beyond, finite and wrong."""
    # Eight terms are exact to rounding there. Beyond, callers take another form; the bound keeps this one finite.
    return _polynomial(_SHC[:8], jnp.minimum(x * x, 1.0))


def log_shc(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log(sinh(x)/x) for any finite x: smooth at 0, no overflow."""
    small = jnp.abs(x) < 1
    near, far = jnp.where(small, x, 0.0), jnp.abs(jnp.where(small, 1.0, x))
    square = near * near
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
    return jnp.where(
        small,
        near * _polynomial(_SHC_SLOPE, square) / _polynomial(_SHC, square),
        1 / jnp.tanh(far) - 1 / far,
    )


def divided_difference(
    values: Float[Array, " d"], slopes: Float[Array, "d d"], points: Float[Array, " d"]
) -> Float[Array, "d d"]:
    """(values_i - values_j) / (points_i - points_j), and `slopes` where the points coincide.

    Below a relative gap of 1e-5 rounding costs the quotient more than the mean slope loses to curvature.
    """
    gap = points[:, None] - points[None, :]
    close = jnp.abs(gap) <= 1e-5 * (jnp.abs(points[:, None]) + jnp.abs(points[None, :]))
    quotient = (values[:, None] - values[None, :]) / jnp.where(close, 1.0, gap)
    return jnp.where(close, (slopes + slopes.T) / 2, quotient)


def bose(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """x/(e^x - 1) for x >= 0, which is 1 at x = 0 and keeps its relative accuracy as it vanishes."""
    apart = x > 0
    safe = jnp.where(apart, x, 1.0)
    return jnp.where(apart, safe * jnp.exp(-safe) / -jnp.expm1(-safe), 1.0 - x / 2)
