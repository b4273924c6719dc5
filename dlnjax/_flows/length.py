"""The length of the path of a flow in the metric, from its saved states."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._compile import compiled
from dlnjax._geometry.kernel import degree_of, Kernel, scale_exponent
from dlnjax._lapack import qr
from dlnjax._scale import scaled
from dlnjax._svd import SVD, svd
from dlnjax._tree import nan_unless, own_arithmetic, positive, root
from dlnjax._types import Scalar

# The largest sum of the corrections, relative to the length, up to which the saved states count as fine enough. Of 120
# flows at depths 1.5 to infinity, thinned to 31 to 301 times, 288 lengths were below this number and `LONG`. All of
# them were right to 1.2 %, and all but five to 0.5 %.
COARSE = 0.005
# No chord may be longer than this share of the path, since its neighbours cannot tell what the path does over it. With
# 0.5 in its place, some of these lengths were wrong by 15 %.
LONG = 0.25
# A chord has to be longer than about this share of its neighbour to tell the direction of the path there. It is a
# difference of states with errors of about 1e-6 by default, so that its direction is then known to about 1e-2.
SHORT = 1e-4
# With fewer saved states, some chord is longer than `LONG`.
FEWEST_STATES = 5
# A chord of this many roundings of y may be one between equal states.
ROUNDINGS = 16
# Below this distance of two values in log sigma, the weight of `_log_common` is 1 to about the square of the number.
EQUAL = 1e-4


@compiled
def path_lengths(points: SVD, kernel: Kernel) -> Float[Array, "*n ts"]:
    """The length of each path, up to each of its saved states.

    A number of the kernel is one for all paths, or has the axes of the paths in front. The paths are done one after the
    other, since all their chords together take more memory than their states.
    """
    lead = points.sigma.shape[:-2]
    arrays, others = eqx.partition(kernel, eqx.is_array)
    leaves, tree = jax.tree.flatten(arrays)

    def in_one_axis(x: Array, axes: int) -> Array:
        own = x.shape[x.ndim - axes :]
        return jnp.broadcast_to(x, (*lead, *own)).reshape(-1, *own)

    with own_arithmetic():
        paths = jax.tree.map(lambda x: in_one_axis(x, x.ndim - len(lead)), points)
        numbers = jax.tree.unflatten(tree, list(map(in_one_axis, leaves, kernel._axes)))
        lengths = jax.lax.map(lambda one: _lengths(one[0], eqx.combine(one[1], others)), (paths, numbers))
        return lengths.reshape(points.sigma.shape[:-1])


def _lengths(points: SVD, kernel: Kernel) -> Float[Array, " ts"]:
    """The lengths of the chords, corrected for what a chord is shorter than its arc, and added up.

    The arc over a short chord s is s + K s^3, where K is smooth along the path. Over two neighbouring chords a and b
    and the chord c from the first to the last of their three points, a + b - c = 3 K a b (a + b) to this order. This is
    Richardson's extrapolation for chords of unequal length. The estimate of the error is the sum of the corrections up
    to a state. An entry is NaN if this is more than the share `COARSE` of the whole length. A chord about which its
    neighbours tell nothing counts as an error of its own length.
    """
    e = scale_exponent(points.sigma, kernel)
    points = eqx.tree_at(lambda p: p.sigma, points, scaled(points.sigma, -e))
    some = lambda start, stop: jax.tree.map(lambda x: x[start:stop], points)
    # All chords are one batch, so that the distance is compiled once.
    starts, ends = (
        jax.tree.map(lambda *x: jnp.concatenate(x), *both)
        for both in ((some(None, -1), some(None, -2)), (some(1, None), some(2, None)))
    )
    chords = jax.vmap(lambda a, b: _chord(a, b, kernel))(starts, ends)
    sides, across = jnp.split(chords, [len(points.sigma) - 1])
    whole = jnp.sum(sides)
    s = sides / positive(whole)
    left, right = s[:-1], s[1:]
    excess, weight = left + right - across / positive(whole), 3 * left * right * (left + right)
    # Of a chord with two neighbours both triangles count, the more the longer the neighbour.
    excess, weight = (jnp.pad(z, (1, 0)) + jnp.pad(z, (0, 1)) for z in (excess, weight))
    cube = s**3
    seen = (weight > SHORT * cube) & (s <= LONG)
    correction = jnp.where(seen, cube * excess / jnp.where(seen, weight, 1.0), s)
    # The chords of a flow at rest are rounding, of which no length is made.
    rounding = ROUNDINGS * jnp.finfo(s.dtype).eps * jnp.max(_y(points.sigma[0], kernel)) / positive(whole)
    fine = jnp.cumsum(jnp.abs(correction)) <= jnp.maximum(COARSE, len(s) * rounding)
    length = nan_unless(fine, jnp.cumsum(s + correction) * whole)
    return scaled(jnp.pad(length, (1, 0)), e * (1 - degree_of(kernel) / 2))


def _chord(a: SVD, b: SVD, kernel: Kernel) -> Scalar:
    """The distance of two points to the third order, and exactly if they commute.

    It is the length of the straight line in the coordinate Z = U diag(y) V^T, where y is `straighten` with y(0) = 0,
    in the metric at its midpoint. Z does not depend on the signs and the order of the singular vectors, and is smooth
    where singular values are equal, or cross 0 at a kernel of order 0. In X itself, a line over decades of sigma would
    be measured at the end with the larger values.
    """
    left, right = _basis(a.u, b.u), _basis(a.v, b.v)
    start, end = ((left.T @ p.u * _y(p.sigma, kernel)) @ (right.T @ p.v).T for p in (a, b))
    middle, r = svd((start + end) / 2), a.sigma.shape[0]
    u, y, v = middle.u[:, :r], middle.sigma[:r], middle.v[:, :r]
    # Rounding may make a number near 0 negative, or NaN. A state that is NaN makes `start` or `end` NaN.
    tiny = _tiny(y)
    sigma = kernel.unstraighten(y + kernel.straighten(tiny))
    log = jnp.log(jnp.where(sigma > tiny, sigma, tiny))
    move = end - start
    inside = u.T @ move @ v
    common, relative = (inside + inside.T) / 2, (inside - inside.T) / 2
    log_common, log_relative = _log_weights(log, y, kernel)
    parts = [common * jnp.exp(log_common / 2), relative * jnp.exp(log_relative / 2)]
    nu, mu = kernel.leaving(jnp.exp(log))
    for frame, columns, outside in ((u, move @ v, nu), (v, move.T @ u, mu)):
        if frame.shape[0] > r:
            moves = outside > 0
            weight = jnp.where(moves, jnp.exp(log) / jnp.sqrt(jnp.where(moves, outside, 1.0)) / positive(y), 0.0)
            parts.append((columns - frame @ (frame.T @ columns)) * weight)
    return _size(parts)


def _y(sigma: Float[Array, " r"], kernel: Kernel) -> Float[Array, " r"]:
    """`straighten` from 0 on. The smallest normal number stands for 0, since y(0) is infinite at infinite depth."""
    tiny = _tiny(sigma)
    return kernel.straighten(jnp.maximum(sigma, tiny)) - kernel.straighten(tiny)


def _tiny(like: Float[Array, " r"]) -> Scalar:
    return jnp.asarray(jnp.finfo(like.dtype).tiny, like.dtype)


def _basis(a: Float[Array, "m r"], b: Float[Array, "m r"]) -> Float[Array, "m k"]:
    """An orthonormal basis of a space that holds the columns of both frames.

    It is a constant in derivatives: the distance of two points does not change to first order when they leave a space
    that holds both, since the reflection at the space is an isometry.
    """
    m, r = a.shape
    if 2 * r >= m:
        return jnp.eye(m, dtype=a.dtype)
    return qr(jax.lax.stop_gradient(jnp.concatenate([a, b], axis=1)))[0]


def _log_weights(
    log: Float[Array, " r"], y: Float[Array, " r"], kernel: Kernel
) -> tuple[Float[Array, "r r"], Float[Array, "r r"]]:
    """The logarithms of the metric in Z: ((s - t)/(y(s) - y(t)))^2/lambda(s, t) for a common rotation of U and V, and
    the same with + for a relative rotation.
    """
    s, t = log[:, None], log[None, :]
    log_eigenvalue = kernel.log_eigenvalue(*jnp.broadcast_arrays(s, t))
    gap, total = jnp.abs(y[:, None] - y[None, :]), y[:, None] + y[None, :]
    apart = (jnp.abs(s - t) > EQUAL) & (gap > 0)
    log_gap = jnp.maximum(s, t) + jnp.log(-jnp.expm1(-jnp.where(apart, jnp.abs(s - t), 1.0)))
    common = 2 * (log_gap - jnp.log(jnp.where(apart, gap, 1.0))) - log_eigenvalue
    relative = 2 * (jnp.logaddexp(s, t) - jnp.log(positive(total))) - log_eigenvalue
    return jnp.where(apart, common, 0.0), jnp.where(total > 0, relative, 0.0)


def _size(parts: list[Float[Array, "_ _"]]) -> Scalar:
    """The root of the sum of all squares. Its derivative at 0 is taken to be 0."""
    largest = positive(jax.lax.stop_gradient(jnp.max(jnp.stack([jnp.max(jnp.abs(part)) for part in parts]))))
    square = sum((jnp.sum((part / largest) ** 2) for part in parts), jnp.zeros_like(largest))
    return largest * root(square)
