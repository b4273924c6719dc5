"""Divided differences of lambda^power in the squared singular values, descending: no limit is a special case.

A difference quotient loses digits where its arguments meet. There it is the mean of the derivative over the segment
between them (Hermite-Genocchi), by quadrature.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._geometry.kernel import Kernel

# Gauss-Legendre on [0, 1]: exact to rounding for relative gaps below _CLOSE.
_NODES = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5)
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)
_CLOSE = 1e-2
_CLOSE_TWICE = 1e-3


def squares(sigma: Float[Array, " d"]) -> Float[Array, " d"]:
    """sigma^2, where zero stands at the smallest normal number."""
    return jnp.maximum(sigma * sigma, jnp.finfo(sigma.dtype).tiny)


def power_of_eigenvalue(s, t, kernel: Kernel, power: int | float):
    """lambda^power at squared singular values s and t."""
    return jnp.exp(power * kernel.log_eigenvalue(jnp.log(s) / 2, jnp.log(t) / 2))


def _derivative(order: tuple[int, ...], kernel: Kernel, power):
    """The derivative of the kernel, in the arguments of `order`, elementwise."""

    def slope(s, t):
        rate = kernel.log_slope(jnp.log(s) / 2, jnp.log(t) / 2)
        return power_of_eigenvalue(s, t, kernel, power) * (power / 2) * rate / s

    # The kernel is symmetric: its slope in t is that in s, with the arguments exchanged.
    f = slope if order[0] == 0 else lambda s, t: slope(t, s)
    for argument in order[1:]:
        f = _along(f, argument)
    return lambda s, t: f(*jnp.broadcast_arrays(s, t))


def _along(f, argument):
    def derivative(s, t):
        one, none = jnp.ones_like(s), jnp.zeros_like(s)
        return jax.jvp(f, (s, t), (one, none) if argument == 0 else (none, one))[1]

    return derivative


def _quotient(above, gap, far):
    return above / jnp.where(far, gap, 1.0)


def _gaps(s, threshold):
    gap, total = s[:, None] - s[None, :], s[:, None] + s[None, :]
    return gap, jnp.abs(gap) > threshold * total


def values(s: Float[Array, " d"], kernel: Kernel, power: int | float) -> Float[Array, "d d"]:
    """[i, j]: lambda^power."""
    return power_of_eigenvalue(s[:, None], s[None, :], kernel, power)


def first_difference(s: Float[Array, " d"], kernel: Kernel, power: int | float) -> Float[Array, "d d d"]:
    """[i, k, j]: the divided difference of lambda^power(., s_j) between s_i and s_k."""
    f, slope = values(s, kernel, power), _derivative((0,), kernel, power)
    gap, far = _gaps(s, _CLOSE)
    quotient = _quotient(f[:, None, :] - f[None, :, :], gap[:, :, None], far[:, :, None])
    along = s[:, None, None, None] - gap[:, :, None, None] * jnp.asarray(_NODES, s.dtype)[None, None, None, :]
    mean = slope(along, s[:, None]) @ jnp.asarray(_WEIGHTS, s.dtype)
    return jnp.where(far[:, :, None], quotient, mean)


def second_differences(
    s: Float[Array, " d"], first: Float[Array, "d d d"], kernel: Kernel, power: int | float
) -> tuple[Float[Array, "d d d d"], Float[Array, "d d d d"]]:
    """([i, j, k, l]: that of s_i, s_j, s_k in one argument, s_l in the other; [i, k, j, m]: of s_i, s_k and s_j, s_m).

    Where all arguments meet they are derivatives at the mean, good to 1e-7 of their size.
    """
    d = len(s)
    bend, mixed = _derivative((0, 0), kernel, power), _derivative((0, 1), kernel, power)
    other = _derivative((1,), kernel, power)
    # As s descends, the first and the last of the sorted indices are the farthest apart.
    i, j, k = np.sort(np.indices((d, d, d)), axis=0)
    gap, far = _gaps(s, _CLOSE_TWICE)
    wide = far[i, k][..., None]
    quotient = _quotient(first[i, j] - first[j, k], gap[i, k][..., None], wide)
    three = jnp.where(wide, quotient, bend(((s[i] + s[j] + s[k]) / 3)[..., None], s) / 2)

    mean = (s[:, None] + s[None, :]) / 2
    slope = other(s[:, None, None], mean)
    left_far, right_far = far[:, :, None, None], far[None, None, :, :]
    by_left = _quotient(slope[:, None] - slope[None, :], gap[:, :, None, None], left_far)
    by_right = _quotient(first[:, :, :, None] - first[:, :, None, :], gap[None, None], right_far)
    near = jnp.where(left_far, by_left, mixed(mean[:, :, None, None], mean))
    return three, jnp.where(right_far, by_right, near)
