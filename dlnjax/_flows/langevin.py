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
function of the start, where noise drawn in the frame would turn with each vector of the frame. Where both U and V are
thin, the noise is drawn in the frame all the same: a draw of the size of X would cost more than the rest of the step.

In deep networks y is N (sigma^(1/N) - 1), so that infinite depth is a limit like any other, and the force turns the
frame by rotations: Z lies near N times an orthogonal matrix, where a straight step would change the singular values.

X of rank r with m rows and n columns has a thin frame, and the law of y is that of a flat Z of r rows and
r + (m + n - 2r) columns. Its first r columns make the same step as a square Z, and the others are added to Z Z^T
afterwards (`widen`). A column of U also leaves the column space of X, and a column of V the row space, at the rate
N/y_k^2 in each direction: such turns are part of the rotations. Adding the other columns afterwards does not commute
with the square step, and `_ahead` is what the rotations need so that the frame is right to second order too.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from dlnjax._flows.rotations import rotated, rotation
from dlnjax._geometry.kernel import Balanced
from dlnjax._geometry.special import langevin, log_balanced_slope, log_shc
from dlnjax._lapack import qr, sign_of_determinant
from dlnjax._noise import Free, standard_normal
from dlnjax._protocol import pullback, sides
from dlnjax._svd import askew, eigh, orthogonalise, SVD, svd
from dlnjax._tree import norm, positive, power_of_two, side_of_zero
from dlnjax._types import Matrix, Scalar, Square

# The standard deviation of the angle of a random rotation is at most this number, in radians. It is reached between
# two singular values near 0 only, where the rotation hardly moves X.
_WIDEST = 0.5
# A step after which the columns of a frame are farther than this from orthonormal is too long for `rotation`.
_ASKEW = 1e-3
# The angle by which a column of U or V leaves its space in a random rotation, or by a force, is at most this number. It
# is reached for singular values near 0 only, whose columns hardly matter for X.
_FARTHEST = 2.0
_FARTHEST_BY_FORCE = 0.5
# Below this number L(x)/x is 1/3 to rounding, with Langevin's function L(x) = coth(x) - 1/x.
_FLAT = 1e-7


class Frame(eqx.Module):
    """X by its frame and the coordinates y of its singular values, which descend."""

    u: Float[Array, "m r"]
    y: Float[Array, " r"]
    v: Float[Array, "n r"]

    @property
    def beyond(self) -> tuple[int, int]:
        """(m - r, n - r), the numbers of directions in which the columns of U and of V leave their spaces."""
        r = len(self.y)
        return len(self.u) - r, len(self.v) - r

    @property
    def within(self) -> tuple[Square, Square]:
        """(L, R), from which the noise is seen: U and V where they are square.

        A thin frame has the other one in its place. If both are thin, the noise is drawn in the frame.
        """
        rows, columns = self.beyond
        either = self.v if columns == 0 else self.u if rows == 0 else jnp.eye(len(self.y), dtype=self.y.dtype)
        return (either if rows else self.u), (either if columns else self.v)


class Force(eqx.Module):
    """The force of an energy at a state: its part on Z as seen from the frame, and the rates at which it turns U and V.

    In shallow networks no turn within the span of U or of V is left, since all of the force there acts on Z. `above`
    and `beside` are the rates at which the columns of U and V leave their spaces; a square frame has none.
    """

    inside: Square
    left: Square
    right: Square
    above: Float[Array, "m r"] | None
    beside: Float[Array, "n r"] | None

    def seen(self, p: Square, q: Square) -> "Force":
        """The force as seen from the frame from which P and Q have led to this one."""
        back = lambda leaving, q: None if leaving is None else leaving @ q.T
        inside, left, right = p @ self.inside @ q.T, p @ self.left @ p.T, q @ self.right @ q.T
        return Force(inside, left, right, back(self.above, p), back(self.beside, q))


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
        r, dtype, (rows, columns) = len(state.y), state.y.dtype, state.beyond
        inside = standard_normal(key, (5, r, r), dtype)
        # A square frame has no directions beyond, and no numbers are drawn for it.
        draw = lambda k, *shape: standard_normal(jax.random.fold_in(key, k), shape, dtype)
        above = draw(0, 4, len(state.u), r) if rows else None
        beside = draw(1, 4, len(state.v), r) if columns else None
        more = draw(2, r, rows + columns) if rows + columns else None
        pair = lambda draws, k: None if draws is None else (draws[k], draws[k + 1])
        beyond = lambda k: (pair(above, k), pair(beside, k))
        state = self.turn(state, h / 2, (inside[1], inside[2]), beyond(0))
        state, crossed, coarse = self.move(state, h, inside[0], more)
        state = self.turn(state, h / 2, (inside[3], inside[4]), beyond(2))
        coarse = coarse | ~((askew(state.u) < _ASKEW) & (askew(state.v) < _ASKEW))
        return Frame(orthogonalise(state.u), state.y, orthogonalise(state.v)), crossed, coarse

    def turn(self, state: Frame, h: Scalar, draws: tuple[Square, Square], beyond: tuple[Any, Any]) -> Frame:
        """The random rotation of the frame for the time `h`, which is half a step.

        With C the common and R the relative rotation, at the rates rho_-^2 and rho_+^2, U turns by exp(C + R) and V by
        exp(C - R), where C + R is corrected by `of_second_order`. `beyond` has two draws for each thin frame, whose
        columns leave their space in these directions.
        """
        common, relative = self.rates(state.y)
        if sum(state.beyond):
            ahead = jnp.minimum(self._ahead(state, 2 * h), relative)
            common, relative = common + ahead, relative - ahead
        common, relative = (jnp.minimum(_root(rate * h / self.beta), _WIDEST) for rate in (common, relative))
        frame, _ = state.within

        def angles(draw: Square) -> tuple[Square, Square]:
            seen = lambda z: frame.T @ (z - z.T) @ frame
            # The entries above the diagonal make one antisymmetric matrix, and those below make another.
            c, r = common * seen(jnp.triu(draw, 1)), relative * seen(jnp.tril(draw, -1).T)
            return c + r, c - r

        left, right = zip(*map(angles, draws), strict=True)
        # In each of the directions beyond, y_k^2 = N^2 sigma_k^(2/N) and the rate 2N/y_k^2 make 2 sigma_k^(-2/N)/N.
        a = self.kernel.inverse_depth
        leaving = _root(2 * a * h / self.beta) * jnp.exp(-a * self.log(state.y))
        most = lambda count: _FARTHEST / max(count, 1) ** 0.5
        outside = [None if pair is None else tuple(z @ frame for z in pair) for pair in beyond]
        u, v = (
            rotated(side, inside, out, jnp.minimum(leaving, most(count)))
            for side, inside, out, count in zip((state.u, state.v), (left, right), outside, state.beyond, strict=True)
        )
        return Frame(u, state.y, v)

    def _ahead(self, state: Frame, h: Scalar) -> Square:
        """What the common rate gains and the relative rate loses in a step in which `widen` follows the square step.

        With delta = m + n - 2r, the radial drift R = delta/(2y) d/dy does not commute with the generator of the square
        step. As the law of y, and of U alone, is exact in each step, what is left of the commutator is a correlation of
        the turns of U and V. It is removed by the rates h delta/(beta y_k y_l (y_k + y_l)^2).
        """
        a, (total, x) = self.kernel.inverse_depth, _pairs(self.log(state.y))
        most = -jnp.log(jnp.finfo(state.y.dtype).tiny) / 2
        root = a**2 / 2 * jnp.exp(jnp.minimum(-a * total - _log_cosh(a * x), most))
        return sum(state.beyond) * (h / self.beta * root) * root

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

    def force(self, state: Frame) -> Force:
        """The force of the energy at a state."""
        a, log, point = self.kernel.inverse_depth, self.log(state.y), self.point(state)
        total, x = _pairs(log)
        above = beside = None
        if sum(state.beyond):
            by_v, by_u = sides(self.energy, point)
            g, rate = state.u.T @ by_v, -a * jnp.exp((1 - 2 * a) * log)
            above = rate * (by_v - state.u @ g) if state.beyond[0] else None
            beside = rate * (by_u - state.v @ g.T) if state.beyond[1] else None
        else:
            g = pullback(self.energy, point)
        symmetric, antisymmetric = (g + g.T) / 2, (g - g.T) / 2
        inside = -jnp.exp((1 - a) / 2 * total + _log_cosh(x) - _log_cosh(a * x)) * symmetric
        if self.deep:
            turns = -jnp.exp((1 - 2 * a) / 2 * total + log_shc(x) - log_shc(2 * a * x)) / 2 * antisymmetric
            return Force(inside, turns, -turns, above, beside)
        sideways = jnp.exp((1 - a) / 2 * total + log_shc(x) - log_shc(a * x)) / a
        zero = jnp.zeros_like(g)
        return Force(inside - sideways * antisymmetric, zero, zero, above, beside)

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

    def move(
        self, state: Frame, h: Scalar, draw: Square, more: Matrix | None
    ) -> tuple[Frame, Bool[Array, ""], Bool[Array, ""]]:
        """The step of Z: (the state after it, whether the determinant changed its sign, whether `h` is too long).

        `draw` has the noise of the first r columns of Z, and `more` that of the others, which a square Z does not have.
        """
        (left, right), size = state.within, jnp.sqrt(2 * h / self.beta)
        noise = size * (left.T @ draw @ right)
        z, mean, coarse = jnp.diag(state.y) + noise, None, jnp.asarray(False)
        if self.driven:
            force, entropic = self.force(state), self.entropic(state.y, h)
            p, y, q = self.decompose(z + h * (force.inside + entropic))
            if more is not None:
                y = self.widened(y, size**2 * more.shape[1])
            guess = self._turned(state, jax.tree.map(lambda x: h * x, force), p, y, q)
            there = self.force(guess).seen(p, q)
            mean = jax.tree.map(lambda a, b: h / 2 * (a + b), force, there)
            z = z + mean.inside + h / 2 * (entropic + p @ self.entropic(y, h) @ q.T)
            coarse = self._is_coarse(state.y, noise, h, force, there)
        p, y, q = self.decompose(z)
        # The product of the frames has the sign of the determinant, which may itself leave the range of the floats.
        crossed = sign_of_determinant(p @ q.T) < 0
        if more is not None:
            # A matrix of lower rank, or with more rows than columns, has no determinant.
            crossed = jnp.asarray(False)
            turned, y = self.widen(y, size * (p.T @ left.T @ more))
            p, q = p @ turned, q @ turned
            # Noise that is drawn in the frame would change its sign with that of a vector, which the library of the
            # decomposition chooses. Each vector therefore continues the one before.
            sign = side_of_zero(jnp.diagonal(p))
            p, q = p * sign, q * sign
        return self._turned(state, mean, p, y, q), crossed, coarse

    def _turned(self, state: Frame, turns: Force | None, p: Square, y: Float[Array, " r"], q: Square) -> Frame:
        """The state after the turns by a force, in which the rates are angles, and after the step of Z."""
        u, v = state.u, state.v
        if turns is not None:
            u, v = _left(u, turns.above, turns.left), _left(v, turns.beside, turns.right)
            if self.deep:
                u, v = u @ rotation(turns.left), v @ rotation(turns.right)
        return Frame(u @ p, y, v @ q)

    def _is_coarse(self, y: Float[Array, " r"], noise: Square, h: Scalar, force: Force, there: Force) -> Any:
        """Whether the force changes over the step by more than the step moves Z: then h times the stiffness is above 1.

        Heun's method is unstable from 2 on. At 1 the stationary variance of a stiff mode is wrong by a third. A draw of
        the noise may be small by chance. A step therefore counts as moving Z at least as far as the noise of a square Z
        does in the mean: otherwise paths would end at random, the sooner the smaller the matrix.
        """
        a = self.kernel.inverse_depth
        # The metric of a column that leaves its space is y/sqrt(N) times its angle; no column does at infinite depth.
        weight = jnp.exp(a * self.log(y)) / jnp.sqrt(jnp.maximum(a, jnp.finfo(y.dtype).tiny))
        leaving = lambda f: [weight * x for x in (f.above, f.beside) if x is not None]
        change = jax.tree.map(lambda a, b: h * (b - a), force, there)
        # The metric of a relative rotation at an isotropic matrix is that of twice its angle in y.
        changed = norm((change.inside, 2 * change.left, leaving(change)))
        moved = norm((noise + h * force.inside, [h * x for x in leaving(force)]))
        usual = jnp.sqrt(2 * h / self.beta) * len(y)
        return changed > jnp.maximum(moved, usual) + jnp.finfo(y.dtype).eps ** 0.5 * norm(y)

    def widen(self, y: Float[Array, " r"], more: Matrix) -> tuple[Square, Float[Array, " r"]]:
        """(P, y') of the flat matrix (diag(y), more), which is P diag(y') times orthonormal rows.

        In deep networks y'^2 is (1 + y'/N)^2, of which the eigenvalues of diag(y + y^2/(2N)) + more more^T/(2N) are
        y' + y'^2/(2N).
        """
        if more.shape[0] < more.shape[1]:
            more = qr(more.T)[1].T
        if not self.deep:
            point = svd(jnp.concatenate([jnp.diag(y), more], axis=1))
            return point.u, point.sigma
        a = self.kernel.inverse_depth
        values, p = eigh(jnp.diag(y + a / 2 * y**2) + a / 2 * (more @ more.T))
        return p[:, ::-1], self._from_values(values[::-1])[0]

    def widened(self, y: Float[Array, " r"], variance: Scalar) -> Float[Array, " r"]:
        """The values of `widen` where more more^T is its mean, `variance` times the identity."""
        if not self.deep:
            return jnp.sqrt(y**2 + variance)
        a = self.kernel.inverse_depth
        return self._from_values(y + a / 2 * (y**2 + variance))[0]

    def _from_values(self, values: Float[Array, " r"]) -> tuple[Float[Array, " r"], Float[Array, " r"]]:
        """(y, 1 + y/N) of y + y^2/(2N)."""
        a = self.kernel.inverse_depth
        ratio = jnp.sqrt(jnp.maximum(1 + 2 * a * values, jnp.finfo(values.dtype).tiny))
        return 2 * values / (1 + ratio), ratio

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
        y, ratio = self._from_values(values)
        return (q + a * (z @ q)) / ratio, y, q


def _left(u: Matrix, leaving: Matrix | None, turn: Square) -> Matrix:
    """The frame after its columns have left their space by these angles, before it turns by exp(`turn`).

    The two at once are exp(x) of x = u `turn` u^T + D u^T - u D^T, for which D (1 - `turn`/2) is taken here. The angles
    are cut where they are wide, and two Newton-Schulz steps make the columns orthonormal.
    """
    if leaving is None:
        return u
    leaving = leaving - leaving @ turn / 2
    # At infinite depth all angles are 0, where a norm has no derivative. Its square has one, of angles up to 1 as of
    # those over a power of two.
    size = power_of_two(jnp.maximum(jnp.max(jnp.abs(leaving)), 1.0))
    leaving = leaving / size
    wide = jnp.sum(leaving**2) / _FARTHEST_BY_FORCE**2
    return orthogonalise(orthogonalise(u + leaving / jnp.sqrt(1 / size**2 + wide)))


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


def _root(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The square root, with the derivative 0 at 0. At depth 1 all rates are 0, and at infinite depth some are."""
    return jnp.where(x > 0, jnp.sqrt(positive(x)), 0.0)
