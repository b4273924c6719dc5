"""First guesses of a path between two matrices of one sign of the determinant, each in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.metric import form
from dlnjax._svd import svd
from dlnjax._tree import norm
from dlnjax._types import Matrix, Scalar

_TURN = 1e-3
_BEND = 0.1


def _generic(d, dtype):
    """An antisymmetric matrix that has nothing to do with anything."""
    i = jnp.arange(d, dtype=dtype)
    k = jnp.cos(1.0 + jnp.add.outer(i, 2 * i) + jnp.multiply.outer(i, i))
    return (k - k.T) / d


class Rotation(eqx.Module):
    """t -> Q^t for a rotation Q. Where Q has the eigenvalue -1, which has no one plane, Q is first turned a little."""

    vectors: Complex[Array, "d d"]
    angles: Float[Array, " d"]
    detour: Matrix
    back: Matrix

    @classmethod
    def to(cls, q: Matrix) -> "Rotation":
        eye = jnp.eye(q.shape[0], dtype=q.dtype)
        nearest = jnp.linalg.svd(q + eye, compute_uv=False)[-1]
        k = jnp.where(nearest < 10 * _TURN, _TURN, 0.0) * _generic(q.shape[0], q.dtype)
        detour = jnp.linalg.solve(eye - k / 2, eye + k / 2)
        q = q @ detour
        # Cayley's transform is antisymmetric, i tan(angle / 2) on each eigenvector.
        half = jnp.linalg.solve((q + eye).T, (q - eye).T).T
        tangents, vectors = jnp.linalg.eigh(-1j * (half - half.T) / 2)
        return cls(vectors, 2 * jnp.arctan(tangents), k, detour.T)

    def __call__(self, t: Scalar) -> Matrix:
        turned = (self.vectors * jnp.exp(1j * self.angles * t)) @ self.vectors.conj().T
        eye = jnp.eye(self.angles.shape[0], dtype=self.angles.dtype)
        return turned.real @ (eye + t * (self.back - eye))

    @property
    def rates(self) -> Matrix:
        """The logarithm of Q, without the detour."""
        return ((self.vectors * (1j * self.angles)) @ self.vectors.conj().T).real


def first_guesses(a: Matrix, b: Matrix, kernel: Kernel, ts: Float[Array, " nodes"]) -> Float[Array, "2 nodes d d"]:
    """Two paths: (3.76) between the positive factors of A = S_A O_A and B = S_B O_B with the rotation from O_A to O_B;
    and the frames of A turned into those of B, the largest singular value into the largest."""
    first, last = svd(a), svd(b)
    ya, yb = kernel.straighten(first.sigma), kernel.straighten(last.sigma)
    oa, ob = first.u @ first.v.T, last.u @ last.v.T
    left, right = first.u.T @ last.u, first.v.T @ last.v
    near = jnp.diagonal(left) + jnp.diagonal(right)
    sign = jnp.where(near < 0, -1.0, 1.0).astype(a.dtype)
    odd = jnp.linalg.slogdet(left * sign)[0] < 0
    sign = jnp.where(odd & (jnp.arange(len(near)) == jnp.argmin(jnp.abs(near))), -sign, sign)
    turns = jax.vmap(Rotation.to)(jnp.stack([oa.T @ ob, left * sign, right * sign]))
    sa, sb = (first.u * ya) @ first.u.T, (last.u * yb) @ last.u.T

    def at(t):
        turn, turn_left, turn_right = jax.vmap(lambda turn: turn(t))(turns)
        y, u = jnp.linalg.eigh((1 - t) * sa + t * sb)
        polar = (u * kernel.unstraighten(y)) @ u.T @ oa @ turn
        sigma = kernel.unstraighten((1 - t) * ya + t * yb)
        return polar, first.u @ (turn_left * sigma) @ (first.v @ turn_right).T

    return jnp.stack(jax.vmap(at)(ts)).at[:, 0].set(a).at[:, -1].set(b)


def bend(xs: Float[Array, "nodes d d"], ts: Float[Array, " nodes"]) -> Float[Array, "nodes d d"]:
    """The path turned a little in between: one with a symmetry would keep it all the way down."""
    k = _BEND * jnp.sin(jnp.pi * ts)[:, None, None] * _generic(xs.shape[-1], xs.dtype)
    eye = jnp.eye(xs.shape[-1], dtype=xs.dtype)
    return (eye - k) @ xs @ (eye + k)


def times(a: Matrix, b: Matrix, kernel: Kernel, segments: int) -> Float[Array, " nodes"]:
    """Nodes in [0, 1], closer where a singular value of a path from A to B changes by a larger factor."""
    s = jnp.linspace(0, 1, 257, dtype=a.dtype)
    fine = s * s * s * (10 - 15 * s + 6 * s * s)
    ya, yb = (kernel.straighten(jnp.linalg.svd(z, compute_uv=False)) for z in (a, b))
    log = jnp.log(kernel.unstraighten((1 - fine[:, None]) * ya + fine[:, None] * yb))
    measure = fine + jnp.cumsum(jnp.append(0.0, jnp.max(jnp.abs(jnp.diff(log, axis=0)), axis=1)))
    nodes = jnp.interp(jnp.linspace(0, measure[-1], segments + 1, dtype=a.dtype), measure, fine)
    return nodes.at[0].set(0.0).at[-1].set(1.0)


def bounds(a: Matrix, b: Matrix, kernel: Kernel) -> tuple[Scalar, Scalar]:
    """(lower, upper): between the singular values; (3.76), after a rotation at either end."""
    first, last = svd(a), svd(b)
    ya, yb = kernel.straighten(first.sigma), kernel.straighten(last.sigma)
    sa, sb = (first.u * ya) @ first.u.T, (last.u * yb) @ last.u.T
    turn = Rotation.to(first.v @ first.u.T @ last.u @ last.v.T)
    speed = lambda x, k: jnp.sqrt(form(x, x @ k, x @ k, kernel, power=-1))
    far = jnp.minimum(*(speed(x, turn.rates) + speed(x, turn.detour) for x in (a, b)))
    return norm(ya - yb), norm(sa - sb) + far
