"""Divided differences of lambda^power, nu^power and mu^power in the squared singular values s, which must descend.

The derivatives of a function of X X^T and X^T X are made of divided differences (Daleckii and Krein). A difference
quotient loses its digits where its arguments meet. There the divided difference is computed as the mean of the
derivative over the segment between them (the formula of Hermite and Genocchi), by Gauss-Legendre quadrature.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dlnjax._geometry.kernel import Kernel
from dlnjax._tree import any_of_batch

# A function of two squared singular values, elementwise, and a function of one.
Elementwise: TypeAlias = Callable[[Float[Array, "..."], Float[Array, "..."]], Float[Array, "..."]]
OfOne: TypeAlias = Callable[[Float[Array, "..."]], Float[Array, "..."]]

# Gauss-Legendre quadrature on [0, 1] with three nodes has an error of the sixth order in the relative gap. For gaps
# below _CLOSE that is less than rounding. For larger gaps the quotient has lost two digits at most.
_NODES = (0.5 - 0.15**0.5, 0.5, 0.5 + 0.15**0.5)
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)
_CLOSE = 1e-2
# Below this gap a second difference is replaced by the derivative at the mean of its arguments. The error is of the
# second order in the gap, and at this gap about as large as that of a quotient of first differences.
_CLOSE_TWICE = 1e-3
# From this number of values on, slopes at all nodes take so long that they are left out where no two values are close.
_MANY = 6


def squares(sigma: Float[Array, " d"]) -> Float[Array, " d"]:
    """sigma^2, and the smallest normal number in place of 0, since the formulas take logarithms and divide by it."""
    return jnp.maximum(sigma * sigma, jnp.finfo(sigma.dtype).tiny)


def power_of_eigenvalue(
    s: Float[Array, "*#s"], t: Float[Array, "*#s"], kernel: Kernel, power: int | float
) -> Float[Array, "..."]:
    """lambda^power at the squared singular values s and t, elementwise."""
    return jnp.exp(power * kernel.log_eigenvalue(jnp.log(s) / 2, jnp.log(t) / 2))


def _derivative(order: tuple[int, ...], kernel: Kernel, power: int | float) -> Elementwise:
    """The partial derivative of lambda^power in the arguments that `order` lists: 0 stands for s, and 1 for t."""

    def in_s(s: Float[Array, "*s"], t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        # The slope of log lambda in log s needs no limit where s = t.
        value, rate = kernel.log_eigenvalue_and_slope(jnp.log(s) / 2, jnp.log(t) / 2)
        return jnp.exp(power * value) * (power / 2) * rate / s

    def in_t(s: Float[Array, "*s"], t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        # The kernel is symmetric. Its slope in t is the slope in s with the arguments exchanged.
        return in_s(t, s)

    f = in_t if order[0] else in_s
    for argument in order[1:]:
        f = _along(f, argument)

    def of_any_shapes(s: Float[Array, "*#s"], t: Float[Array, "*#s"]) -> Float[Array, "..."]:
        # The tangents in `_along` must have the shape of f. Broadcasting the arguments first gives them this shape.
        return f(*jnp.broadcast_arrays(s, t))

    return of_any_shapes


def _along(f: Elementwise, argument: int) -> Elementwise:
    """The partial derivative of f in its first (0) or second (1) argument, by forward mode."""

    def derivative(s: Float[Array, "*s"], t: Float[Array, "*s"]) -> Float[Array, "*s"]:
        one, none = jnp.ones_like(s), jnp.zeros_like(s)
        return jax.jvp(f, (s, t), (none, one) if argument else (one, none))[1]

    return derivative


def _quotient(above: Float[Array, "*#s"], gap: Float[Array, "*#s"], far: Bool[Array, "*#s"]) -> Float[Array, "..."]:
    """above / gap where `far` holds, and a number without meaning elsewhere.

    A caller replaces that number by a `where`, whose derivative would be NaN if it were the NaN of 0/0.
    """
    return above / jnp.where(far, gap, 1.0)


def _gaps(s: Float[Array, " d"], threshold: float) -> tuple[Float[Array, "d d"], Bool[Array, "d d"]]:
    """(s_i - s_j, whether its size is above the threshold times s_i + s_j)."""
    gap, total = s[:, None] - s[None, :], s[:, None] + s[None, :]
    return gap, jnp.abs(gap) > threshold * total


def values(s: Float[Array, " d"], kernel: Kernel, power: int | float) -> Float[Array, "d d"]:
    """The matrix of lambda^power at (s_i, s_j)."""
    return power_of_eigenvalue(s[:, None], s[None, :], kernel, power)


def first_difference(s: Float[Array, " d"], kernel: Kernel, power: int | float) -> Float[Array, "d d d"]:
    """At [i, k, j], the divided difference of the function lambda^power(., s_j) between s_i and s_k."""
    f, slope = values(s, kernel, power), _derivative((0,), kernel, power)
    gap, far = _gaps(s, _CLOSE)
    quotient = _quotient(f[:, None, :] - f[None, :, :], gap[:, :, None], far[:, :, None])

    def mean(s: Float[Array, " d"]) -> Float[Array, "d d d"]:
        # Hermite-Genocchi: the divided difference is the mean of the slope over the segment from s_i to s_k.
        along = s[:, None, None, None] - gap[:, :, None, None] * jnp.asarray(_NODES, s.dtype)[None, None, None, :]
        return slope(along, s[:, None]) @ jnp.asarray(_WEIGHTS, s.dtype)

    def mean_on_diagonal(s: Float[Array, " d"]) -> Float[Array, "d d d"]:
        return jnp.broadcast_to(slope(s[:, None], s)[:, None, :], quotient.shape)

    if len(s) < _MANY:
        return jnp.where(far[:, :, None], quotient, mean(s))
    # Mostly no two values are close, so that only the entries on the diagonal need a slope.
    close = any_of_batch(jnp.any(jnp.triu(~far, 1)))
    return jnp.where(far[:, :, None], quotient, jax.lax.cond(close, mean, mean_on_diagonal, s))


def second_differences(
    s: Float[Array, " d"], first: Float[Array, "d d d"], kernel: Kernel, power: int | float
) -> tuple[Float[Array, "d d d d"], Float[Array, "d d d d"]]:
    """The two kinds of second divided differences of lambda^power, from the first divided differences.

    Where all arguments meet, the second differences are derivatives at the mean, which are good to 1e-7 of their size.

    **Returns:** at [i, j, k, l] of the first array, the difference over s_i, s_j and s_k in one argument, with s_l in
    the other. At [i, k, j, m] of the second array, the mixed difference, between s_i and s_k in one argument and
    between s_j and s_m in the other.
    """
    d = len(s)
    bend, mixed = _derivative((0, 0), kernel, power), _derivative((0, 1), kernel, power)
    other = _derivative((1,), kernel, power)
    # As s descends, the first and the last of the sorted indices are the farthest apart.
    i, j, k = np.sort(np.indices((d, d, d)), axis=0)
    gap, far = _gaps(s, _CLOSE_TWICE)
    wide = far[i, k][..., None]
    quotient = _quotient(first[i, j] - first[j, k], gap[i, k][..., None], wide)
    # Where three arguments meet, the second divided difference is half of the second derivative.
    three = jnp.where(wide, quotient, bend(((s[i] + s[j] + s[k]) / 3)[..., None], s) / 2)

    # The mixed difference is a quotient over a pair that is apart, and the mixed derivative if both pairs meet. If the
    # left pair alone is apart, it is a quotient of slopes at the mean of the right pair.
    mean = (s[:, None] + s[None, :]) / 2
    slope = other(s[:, None, None], mean)
    left_far, right_far = far[:, :, None, None], far[None, None, :, :]
    by_left = _quotient(slope[:, None] - slope[None, :], gap[:, :, None, None], left_far)
    by_right = _quotient(first[:, :, :, None] - first[:, :, None, :], gap[None, None], right_far)
    near = jnp.where(left_far, by_left, mixed(mean[:, :, None, None], mean))
    return three, jnp.where(right_far, by_right, near)


def leaving_power(kernel: Kernel, power: int | float, side: int) -> OfOne:
    """nu^power as a function of s, or mu^power for `side` = 1."""

    def weight(s: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return kernel.leaving(jnp.sqrt(s.ravel()))[side].reshape(s.shape) ** power

    return weight


def _slope(f: OfOne) -> OfOne:
    return lambda s: jax.jvp(f, (s,), (jnp.ones_like(s),))[1]


def first_of_one(f: OfOne, s: Float[Array, " d"]) -> Float[Array, "d d"]:
    """The divided differences of a function of one argument, between s_i and s_j."""
    value = f(s)
    gap, far = _gaps(s, _CLOSE)
    along = s[:, None, None] - gap[:, :, None] * jnp.asarray(_NODES, s.dtype)
    mean = _slope(f)(along) @ jnp.asarray(_WEIGHTS, s.dtype)
    return jnp.where(far, _quotient(value[:, None] - value[None, :], gap, far), mean)


def second_of_one(f: OfOne, s: Float[Array, " d"], first: Float[Array, "d d"]) -> Float[Array, "d d d"]:
    """The second divided differences of a function of one argument, over s_i, s_j and s_k, from the first."""
    i, j, k = np.sort(np.indices((len(s),) * 3), axis=0)
    gap, far = _gaps(s, _CLOSE_TWICE)
    quotient = _quotient(first[i, j] - first[j, k], gap[i, k], far[i, k])
    return jnp.where(far[i, k], quotient, _slope(_slope(f))((s[i] + s[j] + s[k]) / 3) / 2)
