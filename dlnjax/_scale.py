"""Powers of two, by which matrices are brought to size one and back without rounding.

A_{cX} = c^p A_X where lambda is homogeneous of degree p. The derivative rules divide by the squares of the singular
values, and by their squares again, which leaves the range of the floats at 1e80; at size one it does not.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._types import Scalar


def exponent(x: Float[Array, "..."]) -> Scalar:
    """The whole number k, as a float, for which the largest entry of x is between 2^(k-1) and 2^k.

    0 where there is none. It is a constant for differentiation: what it is multiplied by is put back.
    """
    size = jnp.max(jnp.abs(jax.lax.stop_gradient(x)))
    k = jnp.frexp(jnp.where(jnp.isfinite(size), size, 0.0))[1]
    return jnp.clip(k.astype(x.dtype), -_largest(x), _largest(x))


def scaled(x: Float[Array, "*s"], e: Scalar | float) -> Float[Array, "*s"]:
    """2^e x for a real number e, in steps that are in the range of the floats wherever x and the outcome are.

    XLA computes 2^e by the exponential of e log 2, which rounds; of the whole part of e it is exact here.
    """
    e = jnp.asarray(e, x.dtype)
    whole = jnp.round(jax.lax.stop_gradient(e))
    half = jnp.trunc(whole / 2)
    return x * _power(half) * _power(whole - half) * jnp.exp2(e - whole)


def along_slope(slope: Float[Array, "*#s"], direction: Float[Array, "*#s"]) -> Float[Array, "..."]:
    """slope * direction, and 0 in the direction 0 where the slope is infinite: in two factors, both finite."""
    infinite, huge = jnp.isinf(slope), jnp.finfo(slope.dtype).max
    return direction * jnp.where(infinite, huge, slope) * jnp.where(infinite, huge, 1.0)


def _largest(x: Float[Array, "..."]) -> int:
    """The largest k for which 2^k and 2^-k are both normal numbers: XLA takes smaller ones for zero."""
    return -int(jnp.finfo(x.dtype).minexp) - 1


def _power(k: Scalar) -> Scalar:
    largest = _largest(k)
    return jnp.ldexp(jnp.ones((), k.dtype), jnp.clip(k, -largest, largest).astype(jnp.int32))
