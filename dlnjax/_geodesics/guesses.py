"""First guesses of a path between two matrices of one sign of the determinant, each in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import form
from dlnjax._svd import eigh, singular_values, SVD
from dlnjax._tree import norm
from dlnjax._types import Matrix, Scalar

# The angle by which a rotation with the eigenvalue -1 is turned first: large beside rounding, small beside the path.
# A rotation within ten such angles of it is treated likewise, as its logarithm is ill-conditioned.
_TURN, _NEAR = 1e-3, 10
# How far a guess is bent: enough to leave a symmetric saddle in a few steps, and too little to add to the length.
_BEND = 0.1
# Nodes of the fine grid along which the change of the singular values is measured.
_FINE = 257


def _generic(d: int, dtype) -> Matrix:
    """An antisymmetric matrix with no symmetry, the same for every call."""
    i = jnp.arange(d, dtype=dtype)
    k = jnp.cos(1.0 + jnp.add.outer(i, 2 * i) + jnp.multiply.outer(i, i))
    return (k - k.T) / d


def _imaginary(x: Float[Array, "*s"]) -> Complex[Array, "*s"]:
    """i x, in the precision of x."""
    return jax.lax.complex(jnp.zeros_like(x), x)


class Rotation(eqx.Module):
    """t -> Q^t for a rotation Q. Where Q has the eigenvalue -1, of which the plane is not unique, Q is first turned."""

    vectors: Complex[Array, "d d"]
    angles: Float[Array, " d"]
    detour: Matrix
    back: Matrix

    @classmethod
    def to(cls, q: Matrix) -> "Rotation":
        eye = jnp.eye(q.shape[0], dtype=q.dtype)
        nearest = singular_values(q + eye)[-1]
        k = jnp.where(nearest < _NEAR * _TURN, _TURN, 0.0) * _generic(q.shape[0], q.dtype)
        detour = jnp.linalg.solve(eye - k / 2, eye + k / 2)
        q = q @ detour
        # Cayley's transform is antisymmetric, with the eigenvalues i tan(angle / 2).
        half = jnp.linalg.solve((q + eye).T, (q - eye).T).T
        tangents, vectors = eigh(_imaginary((half.T - half) / 2))
        return cls(vectors, 2 * jnp.arctan(tangents), k, detour.T)

    def __call__(self, t: Scalar) -> Matrix:
        turned = (self.vectors * jnp.exp(_imaginary(self.angles * t))[None, :]) @ self.vectors.conj().T
        eye = jnp.eye(self.angles.shape[0], dtype=self.angles.dtype)
        return turned.real @ (eye + t * (self.back - eye))

    @property
    def rates(self) -> Matrix:
        """The logarithm of Q, without the detour."""
        return ((self.vectors * _imaginary(self.angles)[None, :]) @ self.vectors.conj().T).real


def first_guesses(a: SVD, b: SVD, kernel: Kernel, ts: Float[Array, " nodes"]) -> Float[Array, "2 nodes d d"]:
    """Two paths: polar, (3.76) between the positive factors of A = S_A O_A and B = S_B O_B with the rotation from O_A
    to O_B; and frames, the frames of A turned into those of B, the largest singular value into the largest."""
    ya, yb = kernel.straighten(a.sigma), kernel.straighten(b.sigma)
    oa, ob = a.u @ a.v.T, b.u @ b.v.T
    left, right = a.u.T @ b.u, a.v.T @ b.v
    sign = _signs(left, right)
    turns = jax.vmap(Rotation.to)(jnp.stack([oa.T @ ob, left * sign[None, :], right * sign[None, :]]))
    sa, sb = (a.u * ya[None, :]) @ a.u.T, (b.u * yb[None, :]) @ b.u.T

    def at(t):
        turn, turn_left, turn_right = jax.vmap(lambda turn: turn(t))(turns)
        y, u = eigh((1 - t) * sa + t * sb)
        polar = (u * kernel.unstraighten(y)[None, :]) @ u.T @ oa @ turn
        sigma = kernel.unstraighten((1 - t) * ya + t * yb)
        return polar, a.u @ (turn_left * sigma[None, :]) @ (a.v @ turn_right).T

    return jnp.stack(jax.vmap(at)(ts)).at[:, 0].set(a.matrix).at[:, -1].set(b.matrix)


def _signs(left: Matrix, right: Matrix) -> Float[Array, " d"]:
    """The signs of the columns of U_B and V_B, together, for which both frames turn least, and by proper rotations."""
    near = jnp.diagonal(left) + jnp.diagonal(right)
    sign = jnp.where(near < 0, -1.0, 1.0).astype(left.dtype)
    odd = jnp.linalg.slogdet(left * sign[None, :])[0] < 0
    return jnp.where(odd & (jnp.arange(len(near)) == jnp.argmin(jnp.abs(near))), -sign, sign)


def bend(xs: Float[Array, "nodes d d"], ts: Float[Array, " nodes"]) -> Float[Array, "nodes d d"]:
    """The path turned a little in between: Newton's method would keep a symmetry of the path all the way down."""
    generic, eye = _generic(xs.shape[-1], xs.dtype), jnp.eye(xs.shape[-1], dtype=xs.dtype)

    def at(x, t):
        k = _BEND * jnp.sin(jnp.pi * t) * generic
        return (eye - k) @ x @ (eye + k)

    return jax.vmap(at)(xs, ts)


def times(a: SVD, b: SVD, kernel: Kernel, segments: int) -> Float[Array, " nodes"]:
    """Nodes in [0, 1], closer where a singular value of a path from A to B changes by a larger factor."""
    s = jnp.linspace(0, 1, _FINE, dtype=a.sigma.dtype)
    # A step that is flat to the second order at both ends, so that the grid is fine there too.
    fine = s * s * s * (10 - 15 * s + 6 * s * s)
    ya, yb = kernel.straighten(a.sigma), kernel.straighten(b.sigma)
    log = jnp.log(kernel.unstraighten((1 - fine[:, None]) * ya[None, :] + fine[:, None] * yb[None, :]))
    measure = fine + jnp.cumsum(jnp.append(0.0, jnp.max(jnp.abs(jnp.diff(log, axis=0)), axis=1)))
    nodes = jnp.interp(jnp.linspace(0, measure[-1], segments + 1, dtype=a.sigma.dtype), measure, fine)
    return nodes.at[0].set(0.0).at[-1].set(1.0)


def bounds(a: SVD, b: SVD, kernel: Kernel) -> tuple[Scalar, Scalar]:
    """(lower, upper): between the singular values; (3.76), after a rotation at either end."""
    ya, yb = kernel.straighten(a.sigma), kernel.straighten(b.sigma)
    sa, sb = (a.u * ya[None, :]) @ a.u.T, (b.u * yb[None, :]) @ b.u.T
    turn = Rotation.to(a.v @ a.u.T @ b.u @ b.v.T)
    speed = lambda x, k: jnp.sqrt(form(x, x @ k, x @ k, kernel, power=-1))
    far = jnp.minimum(*(speed(x, turn.rates) + speed(x, turn.detour) for x in (a.matrix, b.matrix)))
    return norm(ya - yb), norm(sa - sb) + far
