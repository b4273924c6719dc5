"""Powers of two, by which matrices are brought to size one and back without rounding, and the scales of a step in time.

A_{cX} = c^p A_X where lambda is homogeneous of degree p. The derivative rules divide by the squares of the singular
values, and by their squares again, which leaves the range of the floats at 1e80; at size one it does not.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._types import Scalar

# By default the absolute tolerance of a flow is this share of `rtol`, in units of the size of its start. A number in
# no relation to the start would be too coarse for a flow that leaves a saddle, and multiplies its first error.
ATOL_SHARE = 0.01
# A step in time is too short once it is this many roundings of the time at which it begins: the time hardly moves.
SHORTEST = 16


def shortest_step(t: Scalar) -> Scalar:
    """The step at the time t below which a flow is stuck.

    It is relative to t alone. As a share of the whole span it would end a long flow at its first short step.
    """
    eps, tiny = jnp.finfo(t.dtype).eps, jnp.finfo(t.dtype).tiny
    return SHORTEST * jnp.maximum(eps * jnp.abs(t), tiny)


def exponent(x: Float[Array, "..."]) -> Scalar:
    """The whole number k, as a float, for which the largest |entry| of x is between 2^(k-1) and 2^k.

    It is 0 where there is none. For differentiation it is a constant: each 2^(-k) meets its 2^k later on.
    """
    size = jnp.max(jnp.abs(jax.lax.stop_gradient(x)))
    # The exponents of subnormal numbers are cut off: their reciprocal power would be infinite.
    k = jnp.frexp(jnp.where(jnp.isfinite(size), size, 0.0))[1]
    return jnp.clip(k.astype(x.dtype), -_largest(x), _largest(x))


def scaled(x: Float[Array, "*s"], e: Scalar | float) -> Float[Array, "*s"]:
    """2^e x for a real number e, in steps that are in the range of the floats wherever x and the outcome are.

    XLA computes 2^e as the exponential of e log 2, which rounds. `ldexp` does not, and takes the whole part of e.
    """
    e = jnp.asarray(e, x.dtype)
    whole = jnp.round(jax.lax.stop_gradient(e))
    half = jnp.trunc(whole / 2)
    return x * _power(half) * _power(whole - half) * jnp.exp2(e - whole)


def along_slope(slope: Float[Array, "*#s"], direction: Float[Array, "*#s"]) -> Float[Array, "..."]:
    """slope * direction, and 0 where the direction is 0 also at an infinite slope, where the product would be NaN."""
    # An infinite slope is multiplied in two finite factors, whose product with anything but 0 is infinite or huge.
    infinite, huge = jnp.isinf(slope), jnp.finfo(slope.dtype).max
    return direction * jnp.where(infinite, huge, slope) * jnp.where(infinite, huge, 1.0)


def _largest(x: Float[Array, "..."]) -> int:
    """The largest k for which 2^k and 2^-k are both normal numbers: XLA takes what is smaller for zero."""
    return -int(jnp.finfo(x.dtype).minexp) - 1


def _power(k: Scalar) -> Scalar:
    largest = _largest(k)
    return jnp.ldexp(jnp.ones((), k.dtype), jnp.clip(k, -largest, largest).astype(jnp.int32))
