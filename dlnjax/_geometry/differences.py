"""Divided differences of lambda^power, nu^power and mu^power in the squared singular values s, which must descend.

The derivatives of a function of X X^T and X^T X are made of divided differences (Daleckii and Krein). A difference
quotient loses its digits where its arguments meet. There the divided difference is computed as the mean of the
derivative over the segment between them (the formula of Hermite and Genocchi), by Gauss-Legendre quadrature.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dlnjax._geometry.kernel import Kernel
from dlnjax._tree import any_of_batch

# A function of a squared singular value, elementwise.
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


def _slope(s: Float[Array, "*#s"], t: Float[Array, "*#s"], kernel: Kernel, power: int | float) -> Float[Array, "..."]:
    """The partial derivative of lambda^power in s, elementwise."""
    s, t = jnp.broadcast_arrays(s, t)
    # The slope of log lambda in log s needs no limit where s = t.
    value, rate = kernel.log_eigenvalue_and_slope(jnp.log(s) / 2, jnp.log(t) / 2)
    return jnp.exp(power * value) * (power / 2) * rate / s


def _slopes(
    s: Float[Array, " k"], t: Float[Array, " k"], kernel: Kernel, power: int | float
) -> tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, " k"]]:
    """The partial derivatives of f = lambda^power in t, twice in s, and in s and t, elementwise.

    With L = log f, x = log(s)/2 and y = log(t)/2, they are f L_y/(2t), f (L_x^2 + L_xx - 2 L_x)/(4s^2) and
    f (L_x L_y + L_xy)/(4st).
    """
    x, y = jnp.log(s) / 2, jnp.log(t) / 2
    # The kernel is symmetric, so that its slopes at (y, x) are those at (x, y) exchanged. Both are found at once.
    first, second = jnp.stack([x, y]), jnp.stack([y, x])
    one, none = jnp.ones_like(x), jnp.zeros_like(x)
    (value, (by_x, by_y)), (_, (by_xx, by_xy)) = jax.jvp(
        kernel.log_eigenvalue_and_slope, (first, second), (jnp.stack([one, none]), jnp.stack([none, one]))
    )
    by_x, by_y, by_xx, by_xy = (power * z for z in (by_x, by_y, by_xx, by_xy))
    f = jnp.exp(power * value[0])
    twice, mixed = by_x * by_x + by_xx - 2 * by_x, by_x * by_y + by_xy
    return f * by_y / (2 * t), f * (twice / s / s / 4), f * (mixed / s / t / 4)


def _quotient(above: Float[Array, "*#s"], gap: Float[Array, "*#s"], far: Bool[Array, "*#s"]) -> Float[Array, "..."]:
    """above / gap where `far` holds, and a number without meaning elsewhere.

    A caller replaces that number by a `where`, whose derivative would be NaN if it were the NaN of 0/0.
    """
    return above / jnp.where(far, gap, 1.0)


def _over_nodes(z: Float[Array, "*s nodes"]) -> Float[Array, "*s"]:
    """The mean by the quadrature. It is written as a sum, since a product with a vector takes XLA long to compile."""
    weights = jnp.asarray(_WEIGHTS, z.dtype)
    return jnp.sum(z * jnp.expand_dims(weights, range(z.ndim - 1)), axis=-1)


def _gaps(s: Float[Array, " d"], threshold: float) -> tuple[Float[Array, "d d"], Bool[Array, "d d"]]:
    """(s_i - s_j, whether its size is above the threshold times s_i + s_j)."""
    gap, total = s[:, None] - s[None, :], s[:, None] + s[None, :]
    return gap, jnp.abs(gap) > threshold * total


def values(s: Float[Array, " d"], kernel: Kernel, power: int | float) -> Float[Array, "d d"]:
    """The matrix of lambda^power at (s_i, s_j)."""
    return power_of_eigenvalue(s[:, None], s[None, :], kernel, power)


def first_difference(s: Float[Array, " d"], kernel: Kernel, power: int | float) -> Float[Array, "d d d"]:
    """At [i, k, j], the divided difference of the function lambda^power(., s_j) between s_i and s_k."""
    f, slope = values(s, kernel, power), partial(_slope, kernel=kernel, power=power)
    gap, far = _gaps(s, _CLOSE)
    quotient = _quotient(f[:, None, :] - f[None, :, :], gap[:, :, None], far[:, :, None])

    def mean(s: Float[Array, " d"]) -> Float[Array, "d d d"]:
        # Hermite-Genocchi: the divided difference is the mean of the slope over the segment from s_i to s_k.
        along = s[:, None, None, None] - gap[:, :, None, None] * jnp.asarray(_NODES, s.dtype)[None, None, None, :]
        return _over_nodes(slope(along, s[:, None]))

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
    # The differences are symmetric, so that each set of indices is computed once. As s descends, the first and the last
    # of sorted indices are the farthest apart.
    (i, k), pair = _sorted_indices(d, 2)
    (first_of, second_of, third_of), triple = _sorted_indices(d, 3)
    gap, far = _gaps(s, _CLOSE_TWICE)
    pair_gap, pair_far, pair_mean = gap[i, k], far[i, k], (s[i] + s[k]) / 2
    triple_mean = (s[first_of] + s[second_of] + s[third_of]) / 3
    # The derivatives at all points that are needed are found by one call, which is compiled once.
    points = (triple_mean, s), (pair_mean, pair_mean), (s, pair_mean)
    points = [jnp.broadcast_arrays(one[:, None], other[None, :]) for one, other in points]
    left, right = (jnp.concatenate([point[side].ravel() for point in points]) for side in (0, 1))
    by_t, by_ss, by_st = _slopes(left, right, kernel, power)
    ends = np.cumsum([point[0].size for point in points])
    bend = by_ss[: ends[0]].reshape(-1, d)
    mixed = by_st[ends[0] : ends[1]].reshape(len(i), len(i))
    slope = by_t[ends[1] :].reshape(d, len(i))

    wide = far[first_of, third_of][:, None]
    above = first[first_of, second_of] - first[second_of, third_of]
    # Where three arguments meet, the second divided difference is half of the second derivative.
    three = jnp.where(wide, _quotient(above, gap[first_of, third_of][:, None], wide), bend / 2)

    # The mixed difference is a quotient over a pair that is apart, and the mixed derivative if both pairs meet. If the
    # left pair alone is apart, it is a quotient of slopes at the mean of the right pair.
    left_far, right_far = pair_far[:, None], pair_far[None, :]
    by_left = _quotient(slope[i] - slope[k], pair_gap[:, None], left_far)
    by_right = _quotient(first[i, k][:, i] - first[i, k][:, k], pair_gap[None, :], right_far)
    both = jnp.where(right_far, by_right, jnp.where(left_far, by_left, mixed))
    return three[triple], both[pair][:, :, pair]


def _sorted_indices(d: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(all sorted lists of `count` indices below d, the number in them of each list that is not sorted)."""
    lists = np.sort(np.indices((d,) * count), axis=0).reshape(count, -1)
    different, number = np.unique(lists, axis=1, return_inverse=True)
    return different, number.reshape((d,) * count)


def leaving_power(kernel: Kernel, power: int | float, side: int) -> OfOne:
    """nu^power as a function of s, or mu^power for `side` = 1."""

    def weight(s: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return kernel.leaving(jnp.sqrt(s.ravel()))[side].reshape(s.shape) ** power

    return weight


def _slope_of_one(f: OfOne) -> OfOne:
    return lambda s: jax.jvp(f, (s,), (jnp.ones_like(s),))[1]


def first_of_one(f: OfOne, s: Float[Array, " d"]) -> Float[Array, "d d"]:
    """The divided differences of a function of one argument, between s_i and s_j."""
    value = f(s)
    gap, far = _gaps(s, _CLOSE)
    along = s[:, None, None] - gap[:, :, None] * jnp.asarray(_NODES, s.dtype)[None, None, :]
    mean = _over_nodes(_slope_of_one(f)(along))
    return jnp.where(far, _quotient(value[:, None] - value[None, :], gap, far), mean)


def second_of_one(f: OfOne, s: Float[Array, " d"], first: Float[Array, "d d"]) -> Float[Array, "d d d"]:
    """The second divided differences of a function of one argument, over s_i, s_j and s_k, from the first."""
    (i, j, k), triple = _sorted_indices(len(s), 3)
    gap, far = _gaps(s, _CLOSE_TWICE)
    quotient = _quotient(first[i, j] - first[j, k], gap[i, k], far[i, k])
    return jnp.where(far[i, k], quotient, _slope_of_one(_slope_of_one(f))((s[i] + s[j] + s[k]) / 3) / 2)[triple]
