"""First guesses, in closed form, of a path between two matrices whose determinants have the same sign."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from dlnjax._geometry.kernel import Kernel, symmetric
from dlnjax._geometry.operator import form
from dlnjax._geometry.straight import most_stretched
from dlnjax._lapack import qr, sign_of_determinant, solve_triangular
from dlnjax._svd import eigh, singular_values, SVD
from dlnjax._tree import norm, root, side_of_zero
from dlnjax._types import Scalar, Square

# A rotation with the eigenvalue -1 is first turned by about the angle _TURN, which is large compared with rounding and
# small compared with the path. A rotation within _NEAR such angles of it is turned too, as its logarithm is
# ill-conditioned.
_TURN, _NEAR = 1e-3, 10
# The size by which `bend` deforms a guess. It is large enough to leave a symmetric saddle in a few steps, and too small
# to add much to the length.
_BEND = 0.1
# The number of nodes of the fine grid along which the change of the singular values is measured.
_FINE = 257
# The bounds are widened by this many units of rounding of y.
_ROUNDING = 8


def _generic(d: int) -> np.ndarray:
    """A fixed antisymmetric matrix that has no other symmetry."""
    i = np.arange(d)
    k = np.cos(1.0 + np.add.outer(i, 2 * i) + np.multiply.outer(i, i))
    return (k - k.T) / d


def _small_turn(d: int) -> tuple[np.ndarray, np.ndarray]:
    """(an antisymmetric matrix k, the rotation near exp(k) that is Cayley's transform of k)."""
    k = _TURN * _generic(d)
    return k, np.linalg.solve(np.eye(d) - k / 2, np.eye(d) + k / 2)


def _imaginary(x: Float[Array, "*s"]) -> Complex[Array, "*s"]:
    """i x, in the precision of x."""
    return jax.lax.complex(jnp.zeros_like(x), x)


class Rotation(eqx.Module):
    """The path t -> Q^t for a rotation Q, by the eigenvectors of its logarithm.

    A rotation with the eigenvalue -1 has many logarithms, and near it the logarithm is ill-conditioned. There Q is
    first multiplied by a small rotation, which is made from the antisymmetric matrix `detour`. The inverse of this
    rotation, `back`, is mixed in along the path, so that the path still ends at Q. Where the small rotation takes an
    angle across pi, the path turns on through pi, as `back` turns it back: the other way round would be the longer.
    """

    vectors: Complex[Array, "d d"]
    angles: Float[Array, " d"]
    detour: Square
    back: Square

    @classmethod
    def to(cls, q: Square) -> "Rotation":
        eye = jnp.eye(q.shape[0], dtype=q.dtype)
        near = singular_values(q + eye)[-1] < _NEAR * _TURN
        k, turn = (jnp.asarray(z, q.dtype) for z in _small_turn(len(q)))
        k, turn = jnp.where(near, k, 0.0), jnp.where(near, turn, eye)
        q = q @ turn
        # The inverse of Cayley's transform, (Q - I)(Q + I)^(-1), is antisymmetric with the eigenvalues i tan(angle/2),
        # so that `eigh` applies to it. A solver for matrices that are not Hermitian, applied to Q, would not give
        # orthogonal eigenvectors where angles repeat.
        # Its factors commute. The elimination of `solve_linear` would take longer to compile.
        orthogonal, upper = qr(q + eye)
        half = solve_triangular(upper, orthogonal.T @ (q - eye))
        tangents, vectors = eigh(_imaginary((half.T - half) / 2))
        angles = 2 * jnp.arctan(tangents)
        # The angles of Q, to first order in the small rotation. They come in pairs of opposite signs, and stay so.
        own = angles - jnp.sum(vectors.conj() * (_imaginary(-k) @ vectors), axis=0).real
        turns = jnp.round((own - own[::-1]) / (4 * jnp.pi))
        return cls(vectors, angles - 2 * jnp.pi * turns, k, turn.T)

    def __call__(self, t: Scalar) -> Square:
        turned = (self.vectors * jnp.exp(_imaginary(self.angles * t))[None, :]) @ self.vectors.conj().T
        eye = jnp.eye(self.angles.shape[0], dtype=self.angles.dtype)
        return turned.real @ (eye + t * (self.back - eye))

    @property
    def rates(self) -> Square:
        """The logarithm of Q, after Q was multiplied by the small rotation where that was needed."""
        return ((self.vectors * _imaginary(self.angles)[None, :]) @ self.vectors.conj().T).real


def turns_between(a: SVD, b: SVD) -> Rotation:
    """Three rotations: from the orthogonal factor O_A = U_A V_A^T to O_B, from U_A to U_B, and from V_A to V_B.

    The columns of U_B and V_B have the signs for which the last two are small. None depends on the singular values.
    """
    left, right = a.u.T @ b.u, a.v.T @ b.v
    sign = _signs(left, right)
    polar = a.v @ left @ b.v.T
    return jax.vmap(Rotation.to)(jnp.stack([polar, left * sign[None, :], right * sign[None, :]]))


def first_guesses(
    a: SVD, b: SVD, turns: Rotation, kernel: Kernel, ts: Float[Array, " nodes"]
) -> Float[Array, "2 nodes d d"]:
    """Two paths, at the times `ts`. Each of them is a geodesic where A and B have the same singular vectors.

    Its first and its last node are A and B up to rounding.

    The polar path is (3.76) between the positive factors of A = S_A O_A and B = S_B O_B, times the rotation from O_A to
    O_B. The frames path turns the singular vectors of A into those of B, in the order of the singular values. `turns`
    are those of `turns_between`.
    """
    oa = a.u @ a.v.T

    def at(t: Scalar) -> tuple[Square, Square]:
        turn, turn_left, turn_right = jax.vmap(lambda turn: turn(t))(turns)
        polar = kernel.mix_symmetric(t, (a.sigma, a.u), (b.sigma, b.u)) @ oa @ turn
        sigma = kernel.mix(t, a.sigma, b.sigma)
        return polar, a.u @ (turn_left * sigma[None, :]) @ (a.v @ turn_right).T

    return jnp.stack(jax.vmap(at)(ts))


def _signs(left: Square, right: Square) -> Float[Array, " d"]:
    """The common signs of the columns of U_B and V_B for which the frames of A turn least, and by proper rotations."""
    near = jnp.diagonal(left) + jnp.diagonal(right)
    sign = side_of_zero(near)
    odd = sign_of_determinant(left * sign[None, :]) < 0
    return jnp.where(odd & (jnp.arange(len(near)) == jnp.argmin(jnp.abs(near))), -sign, sign)


def bend(xs: Float[Array, "nodes d d"], ts: Float[Array, " nodes"]) -> Float[Array, "nodes d d"]:
    """The path, turned a little between its ends. Newton's method would keep a symmetry of the path, and could then
    end at a symmetric saddle.
    """
    generic, eye = jnp.asarray(_generic(xs.shape[-1]), xs.dtype), jnp.eye(xs.shape[-1], dtype=xs.dtype)

    def at(x: Square, t: Scalar) -> Square:
        k = _BEND * jnp.sin(jnp.pi * t) * generic
        return (eye - k) @ x @ (eye + k)

    return jax.vmap(at)(xs, ts)


def times(a: SVD, b: SVD, kernel: Kernel, segments: int) -> Float[Array, " nodes"]:
    """Nodes in [0, 1]. They are closer where a singular value of a path from A to B changes by a larger factor."""
    s = jnp.linspace(0, 1, _FINE, dtype=a.sigma.dtype)
    # This polynomial goes from 0 to 1, and its first two derivatives vanish at both ends, so that the grid is fine
    # there.
    fine = s * s * s * (10 - 15 * s + 6 * s * s)
    log = jnp.log(jax.vmap(lambda t: kernel.mix(t, a.sigma, b.sigma))(fine))
    # Along the path `measure` grows by the time and by the largest change of a logarithm. Between neighbouring nodes it
    # grows by equal amounts.
    measure = fine + jnp.cumsum(jnp.append(0.0, jnp.max(jnp.abs(jnp.diff(log, axis=0)), axis=1)))
    nodes = jnp.interp(jnp.linspace(0, measure[-1], segments + 1, dtype=a.sigma.dtype), measure, fine)
    return nodes.at[0].set(0.0).at[-1].set(1.0)


def bounds(a: SVD, b: SVD, turns: Rotation, kernel: Kernel) -> tuple[Scalar, Scalar]:
    """(lower, upper) bounds of the distance, with y = `straighten`.

    The lower bound is |y(sigma_A) - y(sigma_B)|. The upper bound is that of the length of a path in two parts. The
    first is the line (3.76) between the positive factors, whose length is at most |y(S_A) - y(S_B)| times
    `most_stretched`. The second is a rotation, at that end where the rotation is shorter.
    """
    ya, yb = kernel.straighten(a.sigma), kernel.straighten(b.sigma)
    sa, sb = symmetric(ya, a.u), symmetric(yb, b.u)
    turn = jax.tree.map(lambda z: z[0], turns)

    def speed(x: Square, k: Square) -> Scalar:
        return root(form(x, x @ k, x @ k, kernel, power=-1))

    ends, motions = jnp.stack([a.matrix, b.matrix]), jnp.stack([turn.rates, turn.detour])
    speeds = jax.vmap(jax.vmap(speed, (None, 0)), (0, None))(ends, motions)
    far = jnp.min(jnp.sum(speeds, axis=1))
    both = jnp.concatenate([a.sigma, b.sigma])
    line = most_stretched(kernel, jnp.min(both), jnp.max(both)) * norm(sa - sb)
    # Near each other, the ends differ by less than the rounding of y.
    rounding = _ROUNDING * jnp.finfo(ya.dtype).eps * jax.lax.stop_gradient(norm(ya) + norm(yb))
    return jnp.maximum(norm(ya - yb) - rounding, 0.0), line + far + rounding
