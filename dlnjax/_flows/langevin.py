"""One step of the Riemannian Langevin equation, in coordinates in which the noise is that of a flat space.

The coordinate of a singular value is y = N sigma^(1/N), and Z = U diag(y) V^T has the frame of X. In y and the frame
half the Laplacian of the metric is half that of Z, which is flat, plus independent rotations of the frame. For the
rotation of a pair (k, l), common or relative, the metric has the rates

    a = lambda_kl/(sigma_k - sigma_l)^2 = rho_-^2 + 1/(y_k - y_l)^2,
    b = lambda_kl/(sigma_k + sigma_l)^2 = rho_+^2 + 1/(y_k + y_l)^2,

where the rates 1/(y_k -+ y_l)^2 are those of the flat Z. What is left, rho_-^2 and rho_+^2, is not negative, and is
smooth where values meet. A step is therefore a rotation by half a step at these rates, a step of Z with independent
Gaussian entries, and again a rotation (Strang's splitting). Rotations do not change y, so that the law of y without an
energy is exact for any length of the step. An energy acts in the step of Z, by Heun's method, which is of second weak
order where the noise is additive.

The noise is drawn in the space of X, and then seen from the frame. The path for a fixed key is therefore a smooth
function of the start, where noise drawn in the frame would turn with each vector of the frame.

In deep networks y is N (sigma^(1/N) - 1), so that infinite depth is a limit like any other, and the force turns the
frame by rotations: Z lies near N times an orthogonal matrix, where a straight step would change the singular values.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from dlnjax._geometry.kernel import Balanced
from dlnjax._geometry.special import langevin, log_balanced_slope, log_shc
from dlnjax._noise import Free
from dlnjax._protocol import pullback
from dlnjax._svd import askew, eigh, orthogonalise, SVD, svd
from dlnjax._tree import norm
from dlnjax._types import Scalar, Square

# The standard deviation of the angle of a random rotation is at most this number, in radians. It is reached between
# two singular values near 0 only, where the rotation hardly moves X.
_WIDEST = 0.5
# exp(C) is a power of a Taylor polynomial of this degree at C/2^s, by s doublings: s = 4, and one more for each
# doubling of d, since the norm of a random C grows with d. For |C| = d the error is 1e-11, and one Newton-Schulz step
# makes the result orthogonal to rounding.
_DEGREE, _DOUBLINGS = 6, 4
# A step after which the columns of a frame are farther than this from orthonormal is too long for `rotation`.
_ASKEW = 1e-3
# Below this number L(x)/x is 1/3 to rounding, with Langevin's function L(x) = coth(x) - 1/x.
_FLAT = 1e-7


class Frame(eqx.Module):
    """X by its frame and the coordinates y of its singular values, which descend."""

    u: Float[Array, "d d"]
    y: Float[Array, " d"]
    v: Float[Array, "d d"]


class Langevin(eqx.Module):
    """The equation of one path. `deep` says which of the two coordinates y are in use."""

    energy: Callable
    kernel: Balanced
    beta: Scalar
    gauge: bool = eqx.field(static=True)
    deep: bool = eqx.field(static=True)

    @property
    def driven(self) -> bool:
        """Whether there is a force."""
        return self.gauge or not isinstance(self.energy, Free)

    def enter(self, point: SVD) -> Frame:
        """The state at a point of full rank whose singular values descend."""
        a = self.kernel.inverse_depth
        y = self.kernel.straighten(point.sigma) if self.deep else point.sigma**a / a
        return Frame(point.u, y, point.v)

    def log(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        """The logarithms of the singular values."""
        a, tiny = self.kernel.inverse_depth, jnp.finfo(y.dtype).tiny
        if not self.deep:
            return jnp.log(jnp.maximum(a * y, tiny)) / a
        flat = jnp.abs(a * y) < jnp.finfo(y.dtype).eps
        power = jnp.maximum(jnp.where(flat, 0.0, a * y), tiny - 1)
        return jnp.where(flat, y * (1 - a * y / 2), jnp.log1p(power) / jnp.where(flat, 1.0, a))

    def point(self, state: Frame) -> SVD:
        """X at a state."""
        return SVD(state.u, jnp.exp(self.log(state.y)), state.v)

    def step(self, state: Frame, h: Scalar, key: PRNGKeyArray) -> tuple[Frame, Bool[Array, ""], Bool[Array, ""]]:
        """(the state after a step, whether the determinant changed its sign, whether `h` is too long)."""
        draws = jax.random.normal(key, (5, *state.u.shape), state.y.dtype)
        state = self.turn(state, h / 2, draws[1], draws[2])
        state, crossed, coarse = self.move(state, h, draws[0])
        state = self.turn(state, h / 2, draws[3], draws[4])
        coarse = coarse | ~((askew(state.u) < _ASKEW) & (askew(state.v) < _ASKEW))
        return Frame(orthogonalise(state.u), state.y, orthogonalise(state.v)), crossed, coarse

    def turn(self, state: Frame, h: Scalar, draw: Square, other: Square) -> Frame:
        """The random rotation of the frame at the rates rho_-^2 and rho_+^2 for the time `h`.

        With C the common and R the relative rotation, U turns by exp(C + R) and V by exp(C - R), where C + R is
        corrected by `_of_second_order`.
        """
        common, relative = (jnp.minimum(_root(rate * h / self.beta), _WIDEST) for rate in self.rates(state.y))

        def angles(draw: Square) -> tuple[Square, Square]:
            seen = lambda z: state.u.T @ (z - z.T) @ state.u
            # The entries above the diagonal make one antisymmetric matrix, and those below make another.
            c, r = common * seen(jnp.triu(draw, 1)), relative * seen(jnp.tril(draw, -1).T)
            return c + r, c - r

        left, right = map(_of_second_order, angles(draw), angles(other))
        return Frame(state.u @ rotation(left), state.y, state.v @ rotation(right))

    def rates(self, y: Float[Array, " d"]) -> tuple[Square, Square]:
        """(rho_-^2, rho_+^2), by u = log(sigma_k/sigma_l), x = u/2, L(x) = coth(x) - 1/x and m(x) = L(x)/x:

        rho_-^2 = (m(x) - m(x/N)/N^2) / (1 + (x/N) L(x/N)) / (4 (sigma_k sigma_l)^(1/N) shc(x/N)^2),
        rho_+^2 = ((1 + (x/N) L(x/N))/(1 + x L(x)) - 1/N^2) / (4 (sigma_k sigma_l)^(1/N) cosh(x/N)^2).
        """
        a, (total, x) = self.kernel.inverse_depth, _pairs(self.log(y))
        far, near = langevin(x), langevin(a * x)
        common = (_mean_slope(x, far) - a * a * _mean_slope(a * x, near)) / (1 + a * x * near)
        relative = (1 + a * x * near) / (1 + x * far) - a * a
        # Between two values near 0 the rates are beyond all bounds, and the exponent is cut.
        scale = lambda log: jnp.exp(jnp.minimum(-a * total - 2 * log, -jnp.log(jnp.finfo(y.dtype).tiny) / 2)) / 4
        return common * scale(log_shc(a * x)), relative * scale(_log_cosh(a * x))

    def force(self, state: Frame) -> tuple[Square, Square]:
        """(the force of the energy on Z as seen from the frame, the rate at which it turns the frame relatively).

        The rate is 0 in shallow networks, where all of the force acts on Z.
        """
        a, log = self.kernel.inverse_depth, self.log(state.y)
        total, x = _pairs(log)
        g = pullback(self.energy, self.point(state))
        symmetric, antisymmetric = (g + g.T) / 2, (g - g.T) / 2
        force = -jnp.exp((1 - a) / 2 * total + _log_cosh(x) - _log_cosh(a * x)) * symmetric
        if self.deep:
            turns = jnp.exp((1 - 2 * a) / 2 * total + log_shc(x) - log_shc(2 * a * x)) / 2
            return force, -turns * antisymmetric
        sideways = jnp.exp((1 - a) / 2 * total + log_shc(x) - log_shc(a * x)) / a
        return force - sideways * antisymmetric, jnp.zeros_like(g)

    def entropic(self, y: Float[Array, " d"], h: Scalar) -> Square:
        """The force dS/dy/beta of the gauge noise on Z, or 0 without it.

        Where two values are near 0 it is beyond all bounds. There the force is cut, so that it moves Z in a step by no
        more than the standard deviation of the noise.
        """
        if not self.gauge:
            return jnp.zeros((len(y), len(y)), y.dtype)
        a, log = self.kernel.inverse_depth, self.log(y)
        slopes = jnp.where(jnp.eye(len(y), dtype=bool), 0.0, log_balanced_slope(log[:, None] - log[None, :], a))
        force, most = jnp.exp(-a * log) * jnp.sum(slopes, axis=1) / (2 * self.beta), jnp.sqrt(2 / (self.beta * h))
        return jnp.diag(jnp.clip(force, -most, most))

    def move(self, state: Frame, h: Scalar, draw: Square) -> tuple[Frame, Bool[Array, ""], Bool[Array, ""]]:
        """The step of Z: (the state after it, whether the determinant changed its sign, whether `h` is too long)."""
        noise = jnp.sqrt(2 * h / self.beta) * (state.u.T @ draw @ state.v)
        z, left, right = jnp.diag(state.y) + noise, None, None
        coarse = jnp.asarray(False)
        if self.driven:
            (force, turns), entropic = self.force(state), self.entropic(state.y, h)
            p, y, q = self.decompose(z + h * (force + entropic))
            guess = self._turned(state, (h * turns, -h * turns), p, y, q)
            force1, turns1 = self.force(guess)
            there = p @ force1 @ q.T
            z = z + h / 2 * (force + there + entropic + p @ self.entropic(y, h) @ q.T)
            if self.deep:
                left, right = h / 2 * (turns + p @ turns1 @ p.T), -h / 2 * (turns + q @ turns1 @ q.T)
            coarse = self._is_coarse(state.y, noise + h * force, h * (there - force), h * (turns1 - turns))
        p, y, q = self.decompose(z)
        # The product of the frames has the sign of the determinant. As it depends on the decomposition of z, the two do
        # not run at once on a CPU, where batches of them can wait for each other for ever: see `calls_lapack`.
        sign = jnp.linalg.slogdet(jax.lax.stop_gradient(p @ q.T))[0]
        return self._turned(state, (left, right), p, y, q), sign < 0, coarse

    def _turned(self, state: Frame, turns: tuple, p: Square, y: Float[Array, " d"], q: Square) -> Frame:
        """The state after rotations of U and of V, which are None where there are none, and after the step of Z."""
        u, v = state.u, state.v
        if self.deep and turns[0] is not None:
            u, v = u @ rotation(turns[0]), v @ rotation(turns[1])
        return Frame(u @ p, y, v @ q)

    def _is_coarse(self, y: Float[Array, " d"], move: Square, change: Square, turn: Square) -> Bool[Array, ""]:
        """Whether the force changes over the step by more than the step moves Z: then h times the stiffness is above 1.

        Heun's method is unstable from 2 on. At 1 the stationary variance of a stiff mode is wrong by a third.
        """
        rounding = jnp.finfo(y.dtype).eps ** 0.5 * norm(y)
        # The metric of a relative rotation at an isotropic matrix is that of twice its angle in y.
        return norm((change, 2 * turn)) > norm(move) + rounding

    def decompose(self, z: Square) -> tuple[Square, Float[Array, " d"], Square]:
        """(P, y, Q) of Z = P diag(y) Q^T, of which deep networks have z = N (P diag(1 + y/N) Q^T - 1).

        There P diag(1 + y/N) Q^T = 1 + z/N would lose the digits of y, and is 1 at infinite depth. The eigenvalues of
        H = (z + z^T)/2 + z^T z/(2N) are y + y^2/(2N), whose eigenvectors are Q.
        """
        if not self.deep:
            point = svd(z)
            return point.u, point.sigma, point.v
        a = self.kernel.inverse_depth
        values, q = eigh((z + z.T) / 2 + a / 2 * (z.T @ z))
        values, q = values[::-1], q[:, ::-1]
        ratio = jnp.sqrt(jnp.maximum(1 + 2 * a * values, jnp.finfo(z.dtype).tiny))
        return (q + a * (z @ q)) / ratio, 2 * values / (1 + ratio), q


def rotation(c: Square) -> Square:
    """exp(c) of an antisymmetric matrix, by products of matrices alone."""
    doublings = _DOUBLINGS + (len(c) - 1).bit_length()
    small = c / 2**doublings
    eye = jnp.eye(len(c), dtype=c.dtype)
    out = eye
    for k in range(_DEGREE, 0, -1):
        out = eye + small @ out / k
    for _ in range(doublings):
        out = out @ out
    return orthogonalise(out)


def _of_second_order(x: Square, other: Square) -> Square:
    """x + [x, x']/(2 sqrt 2) + [x', [x', x]]/12 for two independent draws x and x' of a random rotation.

    exp(x) alone has the law of Brownian motion on the rotations to first order only, as rotations do not commute. The
    two terms are Levy's area and the third level of the cubature of T. Lyons and N. Victoir, Cubature on Wiener space
    (2004): the expectation of exp of the sum is exp of half the sum of squares up to the third power of the time.
    """
    area = x @ other - other @ x
    return x + area / 8**0.5 - (other @ area - area @ other) / 12


def _pairs(log: Float[Array, " d"]) -> tuple[Square, Square]:
    """(log sigma_k + log sigma_l, half of log sigma_k - log sigma_l)."""
    return log[:, None] + log[None, :], (log[:, None] - log[None, :]) / 2


def _mean_slope(x: Square, slope: Square) -> Square:
    """L(x)/x, where L(x) is given; it is 1/3 at 0."""
    flat = jnp.abs(x) < _FLAT
    return jnp.where(flat, 1 / 3, slope / jnp.where(flat, 1.0, x))


def _log_cosh(x: Square) -> Square:
    size = jnp.abs(x)
    return size + jnp.log1p(jnp.exp(-2 * size)) - jnp.log(2.0)


def _root(x: Square) -> Square:
    """The square root, with the derivative 0 at 0. At depth 1 all rates are 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)
