"""The gradient flow in the frame of the singular value decomposition, (4.17)-(4.19), and a chart for near-crossings.

The frame is the pair (U, V). Its rotation has two parts for each pair of singular vectors: the common rotation, by
which U and V turn alike, and the relative rotation, by which they turn oppositely.

For a matrix of rank r with m rows and n columns the frame is thin: U is `m r` and V is `n r`. The columns of a thin
frame also leave the space that they span, at the rates `leaving` of the kernel (S. Arora et al., Implicit
Regularization in Deep Matrix Factorization, NeurIPS 2019).

Where two singular values nearly meet, the common rotation grows without bound as their gap closes, while X hardly
moves by this rotation. Two such neighbouring values are called partners. From 16 singular values on they are frequent,
and each step is taken in a `Chart`, in which the values of partners may cross.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._flows.coordinates import Coordinates
from dlnjax._geometry.kernel import Kernel, log_ratio
from dlnjax._protocol import pullback, sides
from dlnjax._svd import orthogonalise, orthogonalise_frame, SVD
from dlnjax._tree import plain_norm, positive, side_of_zero
from dlnjax._types import Scalar

# With fewer singular values than this, the chart costs more time than it saves.
CHARTED = 16
# Two neighbouring singular values are partners only if their logarithms differ by less than this. For values farther
# apart, rounding in the square of the coupling would destroy digits of the smaller value.
NEAR = 0.5
# The tolerance of a common rotation is at least what moves X by this many errors of rounding.
UNSEEN = 10


def frame_velocity(
    sigma: Float[Array, " d"],
    pullback: Float[Array, "d d"],
    kernel: Kernel,
    gap: Scalar,
    partner: Int[Array, " d"] | None = None,
) -> tuple[Float[Array, "d d"], Float[Array, " d"], Float[Array, "d d"], Float[Array, " d"] | None]:
    """(U^T dU/dt, dsigma/dt, V^T dV/dt, the pull of partners), (4.17)-(4.19), where `pullback` is G = U^T dE V.

    With `partner`, partners get no common rotation. Their `Chart` moves the entry of K between them instead, by the
    pull lambda_kl (G_kl + G_lk)/2 of each k and its partner l. Without `partner` the pull is None.

    At depth 1 a singular value may cross zero and become negative. The rates of rotation need positive values, so the
    sign is moved to V before the rates are computed, and moved back afterwards.
    """
    size, sign = jnp.abs(sigma), side_of_zero(sigma)
    # A pair turns at the rate of its larger value.
    rates = _relative_rates(sigma, kernel)
    damping, wide = _damping(rates, gap), _widened(rates, gap)
    g = pullback * sign * jnp.maximum(damping[:, None], damping)
    weights, pull = kernel.rotation_weights(size), None
    if partner is None:
        left, right = rotation_rates(weights, size, wide)
    else:
        i = jnp.arange(len(sigma))
        # Numbers are multiplied, since XLA does not vectorise a loop over truth values on a CPU.
        left, right = rotation_rates(weights, size, wide, (partner[:, None] != i).astype(sigma.dtype))
        # The relative rate is lambda_kl / (sigma_k + sigma_l).
        eigenvalues = (right - left)[i, partner] * (size + size[partner])
        pull = eigenvalues * (pullback[i, partner] + pullback[partner, i]) / 2
    left, right = left * g, right * g
    return left - left.T, -kernel.speed(sigma) * jnp.diagonal(pullback), (right - right.T) * sign * sign[:, None], pull


def rotation_rates(
    weights: Float[Array, "d d"], sigma: Float[Array, " d"], gap: Float[Array, " d"], common: Array | float = 1.0
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    """The rates at which (4.17) and (4.19) turn the frame, from the `rotation_weights` of a kernel.

    With G = U^T dE V the first is P and the second is Q = -P^T of U^T dU/dt = P o G - (P o G)^T and
    V^T dV/dt = Q o G - (Q o G)^T. They are P_ij = lambda_ij sigma_j / (sigma_i^2 - sigma_j^2) and
    Q_ij = lambda_ij sigma_i / (sigma_i^2 - sigma_j^2). Their sum is the rate of the common rotation of U and V, and
    Q - P that of the relative rotation.

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
    square = gap[:, None] * gap
    inverse = 1 / (u * u + square)
    half, share = 0.5 * u * inverse, 0.25 * square * inverse
    return half * (common * total - difference) - share * total, half * (common * total + difference) + share * total


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


def _displacement(y: SVD, du: Float[Array, "m r"], dk: Float[Array, "r r"], dv: Float[Array, "n r"]) -> Scalar:
    """|dX|_F divided by the largest singular value, where X = U K V^T and K is diag(sigma) at `y`."""
    size = positive(jnp.max(jnp.abs(y.sigma)))
    sigma = y.sigma / size
    left, right = y.u.T @ du, y.v.T @ dv
    parts = [left * sigma + dk / size + sigma[:, None] * right.T]
    if is_thin(y):
        parts += [(du - y.u @ left) * sigma, (dv - y.v @ right) * sigma]
    return plain_norm(parts)


class FrameCoordinates(Coordinates):
    """The flow of U, sigma and V, (4.17)-(4.19).

    It decomposes no matrix after the start, and its cost does not depend on the depth.
    """

    # Below this relative gap the common rotation of two singular vectors is regularised.
    gap: Scalar
    # The absolute tolerance of the columns of U and V, which are of length 1.
    column_atol: Scalar

    def velocity(self, y: SVD) -> tuple[SVD, Scalar | None]:
        motion, _, unrest = self.motion(y)
        return motion, unrest

    def motion(
        self, y: SVD, partner: Int[Array, " r"] | None = None
    ) -> tuple[SVD, Float[Array, " r"] | None, Scalar | None]:
        """(dy/dt, the pull of partners, the unrest at `y`). With `partner`, partners get no common rotation."""
        if not is_thin(y):
            g = pullback(self.energy, y)
            left, dsigma, right, pull = frame_velocity(y.sigma, g, self.kernel, self.gap, partner)
            return SVD(y.u @ left, dsigma, y.v @ right), pull, self.unrest(g)
        by_v, by_u = sides(self.energy, y)
        g = y.u.T @ by_v
        left, dsigma, right, pull = frame_velocity(y.sigma, g, self.kernel, self.gap, partner)
        # The parts of dE V outside of the column space of X, and of dE^T U outside of the row space.
        above, beside = by_v - y.u @ g, by_u - y.v @ g.T
        nu, mu = self.kernel.leaving(jnp.abs(y.sigma))
        damping = _damping(_relative_rates(y.sigma, self.kernel), self.gap)
        out, off = damping * _over(nu, y.sigma), damping * _over(mu, y.sigma)
        motion = SVD(y.u @ left - above * out, dsigma, y.v @ right - beside * off)
        return motion, pull, self.unrest(g, jnp.where(nu > 0, above, 0.0), jnp.where(mu > 0, beside, 0.0))

    def gauge(self, y: SVD) -> Int[Array, " d"] | None:
        return partners(y.sigma) if len(y.sigma) >= CHARTED else None

    def chart(self, gauge: Int[Array, " d"] | None) -> "FrameCoordinates | Chart":
        return self if gauge is None else Chart(self, gauge)

    def project(self, y: SVD, stiff: bool) -> SVD:
        if not stiff:
            return SVD(orthogonalise(y.u), y.sigma, orthogonalise(y.v))
        # A turn changes the lengths of the columns by its square, which is a hundredth of their tolerance at most.
        return orthogonalise_frame(y, 0.1 * jnp.sqrt(self.column_atol + self.rtol))

    def error(self, y0: SVD, y1: SVD, error: "SVD | Coupled") -> Scalar:
        sigma = jnp.maximum(jnp.abs(y0.sigma), jnp.abs(y1.sigma))
        wrong = jnp.abs(error.sigma)
        if isinstance(error, Coupled):
            wrong = jnp.maximum(wrong, jnp.abs(error.coupling))
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
        return _displacement(y, dy.u, jnp.diag(dy.sigma), dy.v)

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

    def loses_rank(self, y0: SVD, y1: SVD) -> Bool[Array, ""]:
        return (jnp.asarray(self.kernel.order) > 0) & jnp.any((y0.sigma > 0) & (y1.sigma <= 0))


class Coupled(eqx.Module):
    """A state in a `Chart`: X = u K v^T, where K has `sigma` on its diagonal and `coupling` between partners.

    All other entries of K are zero.
    """

    u: Float[Array, "m r"]
    sigma: Float[Array, " r"]
    v: Float[Array, "n r"]
    coupling: Float[Array, " r"]


class Chart(eqx.Module):
    """The flow in coordinates for one or a few steps, in which the singular values of partners may cross.

    The vectors of partners have no common rotation. Instead, K gets an entry off the diagonal. In these coordinates
    the flow is as smooth as in X. Each evaluation of the velocity diagonalises K, which has blocks of one or two rows,
    in closed form.
    """

    flow: FrameCoordinates
    # The gauge: for each singular value the index of its partner, or its own index if it has none.
    partner: Int[Array, " d"]

    def enter(self, y: SVD) -> Coupled:
        return Coupled(y.u, y.sigma, y.v, jnp.zeros_like(y.sigma))

    def leave(self, z: Coupled, dz: Coupled) -> tuple[SVD, Coupled]:
        t = self._tangent(z)
        turned = self._turn(z, t)
        return SVD(turned.u, turned.sigma, turned.v), self._turn(dz, t)

    def measure(self, z: Coupled, dz: Coupled) -> Scalar:
        return self.flow.measure(SVD(z.u, z.sigma, z.v), dz)

    def displacement(self, z: Coupled, dz: Coupled) -> Scalar:
        # The part of K off the diagonal is small, and turns of the frame move X by little more if it is left out.
        pairs = (self.partner[:, None] == jnp.arange(len(self.partner))).astype(dz.sigma.dtype)
        dk = jnp.diag(dz.sigma) + pairs * dz.coupling[:, None]
        return _displacement(SVD(z.u, z.sigma, z.v), dz.u, dk, dz.v)

    def _tangent(self, z: Coupled) -> Float[Array, " d"]:
        """The tangent of the angle by which each column must turn towards its partner to make K diagonal."""
        half = (z.sigma - z.sigma[self.partner]) / 2
        # Where the two values are equal, the angle is 45 degrees: the tangent is 1 for one partner and -1 for the
        # other.
        order = jnp.sign(self.partner - jnp.arange(len(half))).astype(half.dtype)
        width = jnp.abs(half) + jnp.sqrt(half**2 + z.coupling**2)
        return jnp.where(half == 0, order, jnp.sign(half)) * z.coupling / jnp.where(width > 0, width, 1.0)

    def _turn(self, z: Coupled, t: Float[Array, " d"]) -> Coupled:
        """The same matrix in columns that are turned by angles of tangent `t`; for a velocity, the same motion."""
        p, c = self.partner, 1 / jnp.sqrt(1 + t * t)
        columns = lambda q: c * (q + t * q[:, p])
        values = c * c * (z.sigma + t * t * z.sigma[p] + 2 * t * z.coupling)
        coupling = c * c * ((1 - t * t) * z.coupling - t * (z.sigma - z.sigma[p]))
        return Coupled(columns(z.u), values, columns(z.v), coupling)

    def determined(self, z: Coupled, dz: Coupled) -> Coupled:
        moved = self.flow.determined(SVD(z.u, z.sigma, z.v), dz)
        assert isinstance(moved, Coupled)
        return moved

    def velocity(self, z: Coupled) -> tuple[Coupled, Scalar | None]:
        t, p = self._tangent(z), self.partner
        y = self._turn(z, t)
        motion, pull, unrest = self.flow.motion(SVD(y.u, y.sigma, y.v), p)
        assert pull is not None  # since there are partners
        dy = Coupled(motion.u, motion.sigma, motion.v, jnp.where(p == jnp.arange(len(p)), 0.0, -pull))
        return self._turn(dy, -t), unrest


def partners(sigma: Float[Array, " d"]) -> Int[Array, " d"]:
    """For each singular value the index of its partner, or its own index if it has none.

    Two values are partners if each is the nearest to the other and they are near.
    """
    log = jnp.log(jnp.where(sigma > 0, sigma, 1.0))
    i = jnp.arange(len(sigma))
    gap = jnp.abs(log[:, None] - log)
    near = (gap < NEAR) & (sigma > 0) & (sigma > 0)[:, None] & (i != i[:, None])
    nearest = jnp.argmin(jnp.where(near, gap, jnp.inf), axis=1)
    mutual = (nearest[nearest] == i) & near[i, nearest]
    return jnp.where(mutual, nearest, i)
