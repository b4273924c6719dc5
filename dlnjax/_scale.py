"""Scales: powers of two, by which matrices are scaled to size one and back without rounding, and the shortest step.

If lambda is homogeneous of degree p, then A_{cX} = c^p A_X, so that a formula may be evaluated at size one. The
derivative rules divide by fourth powers of the singular values, which leave the range of the floats at 1e80.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._types import Scalar

# By default the absolute tolerance of a flow is this number times `rtol` times the size of its start. A tolerance that
# does not depend on the start would be too coarse for a flow that leaves a saddle and multiplies its first error.
ATOL_SHARE = 0.01
# A step is too short if it is below this many errors of rounding of the time at which it begins.
SHORTEST = 16


def shortest_step(t: Scalar) -> Scalar:
    """The length of a step at the time t below which a flow is stuck.

    The length is proportional to t. In proportion to the whole time of the flow, it would end a long flow at its first
    short step.
    """
    eps, tiny = jnp.finfo(t.dtype).eps, jnp.finfo(t.dtype).tiny
    return SHORTEST * jnp.maximum(eps * jnp.abs(t), tiny)


def exponent(x: Float[Array, "..."]) -> Scalar:
    """The whole number k, as a float, for which the largest |entry| of x is between 2^(k-1) and 2^k.

    It is 0 if x is zero or not finite. It counts as a constant in derivatives, since a factor 2^k always comes with a
    factor 2^(-k).
    """
    size = jnp.max(jnp.abs(jax.lax.stop_gradient(x)))
    # The exponents of subnormal numbers are clipped, since 2^(-k) would be infinite for them.
    k = jnp.frexp(jnp.where(jnp.isfinite(size), size, 0.0))[1]
    return jnp.clip(k.astype(x.dtype), -_largest(x), _largest(x))


def scaled(x: Float[Array, "*s"], e: Scalar | float) -> Float[Array, "*s"]:
    """2^e x for a real number e. No intermediate result leaves the range of the floats if x and the result do not.

    XLA computes 2^e as the exponential of e log 2, which rounds. The whole part of e is therefore applied by powers of
    two that do not round.
    """
    e = jnp.asarray(e, x.dtype)
    whole = jnp.round(jax.lax.stop_gradient(e))
    half = jnp.trunc(whole / 2)
    return x * _power(half) * _power(whole - half) * jnp.exp2(e - whole)


def along_slope(slope: Float[Array, "*#s"], direction: Float[Array, "*#s"]) -> Float[Array, "..."]:
    """slope * direction, which is 0 where the direction is 0. At an infinite slope the plain product would be NaN."""
    # An infinite slope is replaced by two finite factors. With a direction other than 0, the product is still infinite
    # or huge.
    infinite, huge = jnp.isinf(slope), jnp.finfo(slope.dtype).max
    return direction * jnp.where(infinite, huge, slope) * jnp.where(infinite, huge, 1.0)


def _largest(x: Float[Array, "..."]) -> int:
    """The largest k for which 2^k and 2^-k are both normal numbers. XLA takes smaller numbers for zero."""
    return -int(jnp.finfo(x.dtype).minexp) - 1


def _power(k: Scalar) -> Scalar:
    """2^k for a whole number k, from its bits. `jnp.ldexp` computes a power of 2, which is not exact on a GPU."""
    largest, info = _largest(k), jnp.finfo(k.dtype)
    biased = jnp.clip(k, -largest, largest).astype(f"int{info.bits}") + (1 - int(info.minexp))
    return jax.lax.bitcast_convert_type(biased << info.nmant, k.dtype)
