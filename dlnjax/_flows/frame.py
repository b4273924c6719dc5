"""The gradient flow in the frame of the singular value decomposition, (4.17)-(4.19).

The frame is the pair (U, V). Its rotation has two parts for each pair of singular vectors: the common rotation, by
which U and V turn alike, and the relative rotation, by which they turn oppositely.

For a matrix of rank r with m rows and n columns the frame is thin: U is `m r` and V is `n r`. The columns of a thin
frame also leave the space that they span, at the rates `leaving` of the kernel (S. Arora et al., Implicit
Regularization in Deep Matrix Factorization, NeurIPS 2019).

Where two singular values nearly meet, the common rotation grows without bound as their gap closes, while X hardly
moves by this rotation. The charts of `charts` do without it.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dlnjax._flows.coordinates import Chart, Coordinates
from dlnjax._geometry.kernel import Kernel, log_ratio
from dlnjax._protocol import pullback, sides
from dlnjax._svd import orthogonalise, orthogonalise_frame, SVD
from dlnjax._tree import plain_norm, positive, side_of_zero
from dlnjax._types import Scalar

# Two values share a block if their logarithms differ by less than this, or if values between them link them so.
LINKED = 0.05
# A motion whose part in X is below this fraction is a turn of vectors that X hardly depends on. For the errors of steps
# this fraction is above 0.05 in flows to random matrices, and below 0.001 in flows to equal values.
UNSEEN_SHARE = 0.01
# The tolerance of a common rotation is at least what moves X by this many errors of rounding.
UNSEEN = 10


def frame_velocity(
    sigma: Float[Array, " d"],
    pullback: Float[Array, "d d"],
    kernel: Kernel,
    gap: Scalar,
    common: Float[Array, "d d"] | float = 1.0,
) -> tuple[Float[Array, "d d"], Float[Array, " d"], Float[Array, "d d"], Float[Array, "d d"]]:
    """(U^T dU/dt, dsigma/dt, V^T dV/dt, the rates of the relative rotation), (4.17)-(4.19), where `pullback` is
    G = U^T dE V.

    The common rotation of each pair is multiplied by `common`, 1 or 0. The rate of the relative rotation of a pair is
    lambda_kl / (sigma_k + sigma_l).

    At depth 1 a singular value may cross zero and become negative. The rates of rotation need positive values, so the
    sign is moved to V before the rates are computed, and moved back afterwards.
    """
    size, sign = jnp.abs(sigma), side_of_zero(sigma)
    # A pair turns at the rate of its larger value.
    speeds = _relative_rates(sigma, kernel)
    damping, wide = _damping(speeds, gap), _widened(speeds, gap)
    g = pullback * sign * jnp.maximum(damping[:, None], damping)
    rates = rotation_rates(kernel.rotation_weights(size), size, wide, common)
    left, right = rates * g.T, rates * g
    return (
        left - left.T,
        -kernel.speed(sigma) * jnp.diagonal(pullback),
        (right - right.T) * sign * sign[:, None],
        rates + rates.T,
    )


def rotation_rates(
    weights: Float[Array, "d d"], sigma: Float[Array, " d"], gap: Float[Array, " d"], common: Array | float = 1.0
) -> Float[Array, "d d"]:
    """The rates Q at which (4.17) and (4.19) turn the frame, from the `rotation_weights` of a kernel.

    With G = U^T dE V they are Q_ij = lambda_ij sigma_i / (sigma_i^2 - sigma_j^2), V^T dV/dt = Q o G - (Q o G)^T and
    U^T dU/dt = Q o G^T - (Q o G^T)^T. The rate of the common rotation of U and V is Q - Q^T, and that of the relative
    rotation Q + Q^T.

    The common rotation is singular where sigma_i = sigma_j, and there it does not move X. Therefore its factor 1/u,
    u = log(sigma_i/sigma_j), is replaced by u/(u^2 + g^2), g^2 = gap_i gap_j, which moves X by at most g sigma_i. It is
    multiplied by `common`, 1 or 0 for each pair. The relative rotation has the factor m = (sigma_i - sigma_j)/u, the
    logarithmic mean. It is m u^2/(u^2 + g^2) + m g^2/(u^2 + g^2), and in the second part the arithmetic mean stands for
    m, since they agree to u^2/12.
    """
    _, u = log_ratio(sigma)
    total, difference = sigma[:, None] + sigma[None, :], sigma[:, None] - sigma[None, :]
    # The weights may be as large as 1/sigma^2, so they are multiplied by sigma first.
    total, difference = weights * total, weights * difference
    # Both fractions are divided by g^2, which may be too large for a float. The division comes last: XLA computes what
    # ends in a division once on a CPU, and other expressions for each of their uses and again for the transpose.
    inverse = 1 / gap
    narrow = inverse[:, None] * inverse
    return (0.5 * u * narrow * (common * total + difference) + 0.25 * total) / (u * u * narrow + 1)


def is_thin(point: SVD) -> bool:
    """Whether the frame is thin: the columns of U or of V do not span the whole space."""
    return max(point.u.shape[-2], point.v.shape[-2]) > point.sigma.shape[-1]


def _relative_rates(sigma: Float[Array, " r"], kernel: Kernel) -> Float[Array, " r"]:
    """q/q_1, where q = speed/sigma is the order of the rate at which a singular vector turns, and q_1 that of the
    largest value.

    At depth 2 and beyond no q is larger than q_1. At depth 1, and in layers that are not balanced, the speed does not
    vanish with sigma, and the vectors of a value that tends to 0 turn ever faster.
    """
    size = jnp.abs(sigma)
    rate = kernel.speed(sigma) / positive(size)
    return rate / positive(rate[jnp.argmax(size)])


def _damping(rates: Float[Array, " r"], gap: Scalar) -> Float[Array, " r"]:
    """1 / (1 + (gap q/q_1)^2), by which the turns of each singular vector are slowed.

    Without it the steps of a flow whose value tends to 0 would become ever shorter, although X hardly depends on the
    vectors of this value. The damping moves X by at most `gap`. It is 1 to rounding where no q is larger than q_1.
    """
    return 1 / (1 + (gap * rates) ** 2)


def _widened(rates: Float[Array, " r"], gap: Scalar) -> Float[Array, " r"]:
    """The gap of `rotation_rates` for each value: `gap`, or more where the vectors turn fast.

    Rounding in dE turns the common frame of two nearly equal values at a rate of about q eps |dE|/gap. If they tend to
    0 together at depth 1, every step would follow this rounding. The gap grows with q, so that the rate stays below the
    tolerance. It moves X by at most `gap` times the largest singular value.
    """
    # The tolerance is ten times the gap.
    noise = jnp.minimum(gap, jnp.finfo(gap.dtype).eps / (10 * gap))
    return jnp.maximum(gap, noise * rates)


def _over(weight: Float[Array, " r"], sigma: Float[Array, " r"]) -> Float[Array, " r"]:
    """weight / sigma, the rate at which a singular vector leaves the column or the row space of X.

    The rate is set to 0 where sigma is 0, since X does not depend on that vector.
    """
    return jnp.where(sigma == 0, 0.0, weight / jnp.where(sigma == 0, 1.0, sigma))


def displacement(y: SVD, du: Float[Array, "m r"], dk: Float[Array, "r r"], dv: Float[Array, "n r"]) -> Scalar:
    """|dX|_F divided by the largest singular value, where X = U K V^T and K is diag(sigma) at `y`."""
    size = positive(jnp.max(jnp.abs(y.sigma)))
    sigma = y.sigma / size
    left, right = y.u.T @ du, y.v.T @ dv
    parts = [left * sigma + dk / size + sigma[:, None] * right.T]
    if is_thin(y):
        parts += [(du - y.u @ left) * sigma, (dv - y.v @ right) * sigma]
    return plain_norm(parts)


class Coupled(eqx.Module):
    """A state in a chart: X = u K v^T, where K is symmetric and has `sigma` on its diagonal.

    `coupling` has the entries of K off the diagonal that are not zero: one for each value and its partner, or a matrix.
    """

    u: Float[Array, "m r"]
    sigma: Float[Array, " r"]
    v: Float[Array, "n r"]
    coupling: Float[Array, " r"] | Float[Array, "r r"]

    @property
    def frame(self) -> SVD:
        """The state without its coupling."""
        return SVD(self.u, self.sigma, self.v)


class Motion(NamedTuple):
    """The velocity at a point, the pullback G, the rates of the relative rotation, and the unrest."""

    velocity: SVD
    pullback: Float[Array, "r r"]
    relative: Float[Array, "r r"]
    unrest: Scalar | None


class FrameCoordinates(Coordinates):
    """The flow of U, sigma and V, (4.17)-(4.19).

    It decomposes no matrix after the start, and its cost does not depend on the depth.
    """

    # Below this relative gap the common rotation of two singular vectors is regularised.
    gap: Scalar
    # The absolute tolerance of the columns of U and V, which are of length 1.
    column_atol: Scalar

    def velocity(self, y: SVD) -> tuple[SVD, Scalar | None]:
        motion = self.motion(y)
        return motion.velocity, motion.unrest

    def motion(self, y: SVD, common: Float[Array, "r r"] | float = 1.0) -> Motion:
        """The motion at `y`, where the common rotation of each pair is multiplied by `common`, 1 or 0."""
        if not is_thin(y):
            g = pullback(self.energy, y)
            left, dsigma, right, relative = frame_velocity(y.sigma, g, self.kernel, self.gap, common)
            return Motion(SVD(y.u @ left, dsigma, y.v @ right), g, relative, self.unrest(g))
        by_v, by_u = sides(self.energy, y)
        g = y.u.T @ by_v
        left, dsigma, right, relative = frame_velocity(y.sigma, g, self.kernel, self.gap, common)
        # The parts of dE V outside of the column space of X, and of dE^T U outside of the row space.
        above, beside = by_v - y.u @ g, by_u - y.v @ g.T
        nu, mu = self.kernel.leaving(jnp.abs(y.sigma))
        damping = _damping(_relative_rates(y.sigma, self.kernel), self.gap)
        out, off = damping * _over(nu, y.sigma), damping * _over(mu, y.sigma)
        velocity = SVD(y.u @ left - above * out, dsigma, y.v @ right - beside * off)
        unrest = self.unrest(g, jnp.where(nu > 0, above, 0.0), jnp.where(mu > 0, beside, 0.0))
        return Motion(velocity, g, relative, unrest)

    def project(self, y: SVD, stiff: bool) -> SVD:
        if not stiff:
            return SVD(orthogonalise(y.u), y.sigma, orthogonalise(y.v))
        # A turn changes the lengths of the columns by its square, which is a hundredth of their tolerance at most.
        return orthogonalise_frame(y, 0.1 * jnp.sqrt(self.column_atol + self.rtol))

    def error(self, y0: SVD, y1: SVD, error: "SVD | Coupled") -> Scalar:
        sigma = jnp.maximum(jnp.abs(y0.sigma), jnp.abs(y1.sigma))
        wrong = jnp.abs(error.sigma)
        if isinstance(error, Coupled):
            wrong = jnp.maximum(wrong, jnp.max(jnp.abs(error.coupling).reshape(len(wrong), -1), axis=1))
        # A singular value that stays zero has tolerance 0 and error 0. With the least float in place of 0 in the
        # denominator their quotient is 0.
        values = jnp.max(wrong / jnp.maximum(self.atol + self.rtol * sigma, jnp.finfo(sigma.dtype).tiny))
        lengths = jnp.sum(error.u**2, axis=0) + jnp.sum(error.v**2, axis=0)
        columns = jnp.max(lengths) ** 0.5 / (self.column_atol + self.rtol)
        return jnp.maximum(values, columns)

    def size(self, y: SVD) -> Scalar:
        return jnp.max(jnp.abs(y.sigma))

    def measure(self, y: SVD, dy: "SVD | Coupled") -> Scalar:
        """The norm of a motion, in which singular values and couplings are divided by the largest singular value.

        The columns of U and V have length 1 in any unit of X. Without the division, the singular values of a small X
        would count for nothing beside the columns, and so would the stiffness of the singular values.
        """
        size = positive(self.size(y))
        own = [dy.sigma / size, dy.coupling / size] if isinstance(dy, Coupled) else [dy.sigma / size]
        return plain_norm([dy.u, dy.v, *own])

    def displacement(self, y: SVD, dy: SVD) -> Scalar:
        return displacement(y, dy.u, jnp.diag(dy.sigma), dy.v)

    def determined(self, y: SVD, dy: "SVD | Coupled") -> "SVD | Coupled":
        """The error `dy`, where the tolerance of each common rotation is raised to `UNSEEN` errors of rounding in X.

        Rounding in dE turns the common frame of two values with u = log(sigma_i/sigma_j) by about eps/u, which may be
        more than a small tolerance. Without this, steps to a matrix with equal values would follow rounding.
        """
        eps = jnp.finfo(y.sigma.dtype).eps

        def raised() -> "SVD | Coupled":
            size, sign = jnp.abs(y.sigma), side_of_zero(y.sigma)
            # This is u to first order. For values that are not near, the rounding does not count.
            u = jnp.abs(size[:, None] - size) / positive(size[:, None] + size) * 2
            free = UNSEEN * eps / jnp.maximum(u, self.gap)
            common = (y.u.T @ dy.u + sign[:, None] * (y.v.T @ dy.v) * sign) / 2
            less = common * free / (self.column_atol + self.rtol + free)
            turned = (dy.u - y.u @ less, dy.v - y.v @ (sign[:, None] * less * sign))
            return eqx.tree_at(lambda z: (z.u, z.v), dy, turned)

        # The rounding, eps/gap at most, is below larger tolerances, which are ten times the gap.
        return jax.lax.cond(self.gap**2 < eps, raised, lambda: dy)

    def misfit(self, chart: Chart, y: SVD, z: "SVD | Coupled", dz: "SVD | Coupled") -> Bool[Array, ""]:
        """Whether some values are near one another, and `dz` hardly moves X."""
        unseen = chart.displacement(z, dz) < UNSEEN_SHARE * chart.measure(z, dz)
        return unseen & any_linked(y.sigma)

    def loses_rank(self, y0: SVD, y1: SVD) -> Bool[Array, ""]:
        return (jnp.asarray(self.kernel.order) > 0) & jnp.any((y0.sigma > 0) & (y1.sigma <= 0))


def near_pairs(sigma: Float[Array, " d"], within: float) -> tuple[Bool[Array, "d d"], Float[Array, "d d"]]:
    """(which pairs of singular values differ by less than `within` in their logarithms, these differences)."""
    log = jnp.log(positive(sigma))
    i = jnp.arange(len(sigma))
    gap = jnp.abs(log[:, None] - log)
    return (gap < within) & (sigma > 0) & (sigma > 0)[:, None] & (i != i[:, None]), gap


def any_linked(sigma: Float[Array, " d"]) -> Bool[Array, ""]:
    """Whether any two singular values are so near one another that they share a block."""
    return jnp.any(near_pairs(sigma, LINKED)[0])
