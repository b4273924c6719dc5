"""The Hamiltonian flow on the matrices `m n` of rank r, in the coordinates X = Q1 S Q2^T.

S is a square matrix of full rank, and the columns of Q1 and Q2 are orthonormal. The momentum P has a part inside of the
spaces of X and two parts that leave them, B = (I - Q1 Q1^T) P Q2 and C = (I - Q2 Q2^T) P^T Q1. With Pi = Q1^T P Q2,
Y1 = B S^T, Y2 = C S, G = g(S S^T) and K = k(S^T S), g = nu/sigma^2, k = mu/sigma^2,

    H = 1/2 Tr(Pi^T A_S(Pi)) + 1/2 Tr(Y1^T Y1 G) + 1/2 Tr(Y2^T Y2 K),
    S' = A_S(Pi),    Pi' = -dH/dS at fixed Y1 and Y2,
    Q1' = Y1 G,    Y1' = Y1 G J - Q1 G Y1^T Y1,    J = S Pi^T - Pi S^T,

and Q2, Y2 likewise with the transpose of S and Pi. The equations of Q1 and Y1 say that X P^T - P X^T is constant.
At infinite depth G = K = 0: the spaces of X never turn.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._custom_jvp import custom_jvp
from dlnjax._geodesics.dopri8 import solve
from dlnjax._geodesics.hamiltonian import follow, Path, velocity_in_frame
from dlnjax._geometry.differences import first_of_one, squares
from dlnjax._geometry.kernel import Kernel, symmetric
from dlnjax._geometry.leaving import turning, turning_rate
from dlnjax._geometry.motion import moved
from dlnjax._geometry.operator import apply_metric_operator, form_gradient, into, out_of
from dlnjax._geometry.parts import Parts
from dlnjax._lapack import solve_linear
from dlnjax._modes import compiled_by_columns
from dlnjax._svd import SVD, svd
from dlnjax._tree import instantiate, positive, ravel
from dlnjax._types import Matrix, Scalar, Square

# The largest number of steps of the solver for a derivative.
_MOST_STEPS = 4096


class State(eqx.Module):
    """A point and its momentum: Q1, S, Q2 and Pi, Y1, Y2."""

    q1: Float[Array, "*ts m r"]
    s: Float[Array, "*ts r r"]
    q2: Float[Array, "*ts n r"]
    pi: Float[Array, "*ts r r"]
    y1: Float[Array, "*ts m r"]
    y2: Float[Array, "*ts n r"]

    @classmethod
    def of(cls, core: tuple[Array, Array, Array], p: Matrix) -> "State":
        q1, s, q2 = core
        parts = Parts.of(SVD(q1, jnp.ones(len(s)), q2), p)
        return cls(q1, s, q2, parts.inside, parts.left @ s.T, parts.right @ s)

    @property
    def x(self) -> Matrix:
        """X."""
        return self.q1 @ self.s @ self.q2.T

    @property
    def p(self) -> Matrix:
        """P, without what moves no matrix of rank r."""
        left, right = solve_linear(self.s, self.y1.T).T, solve_linear(self.s.T, self.y2.T).T
        return Parts(self.pi, left, right).out_of(self.q1, self.q2)


@custom_jvp
def core_of(x: Matrix) -> tuple[Array, Array, Array]:
    """(Q1, S, Q2) of a matrix of full rank."""
    point = svd(x)
    return point.u, jnp.diag(point.sigma), point.v


@core_of.defjvp
def _core_of_jvp(primals, tangents):
    """S takes up all of dX inside of the spaces, so that the frame need not turn where singular values repeat.

    The tangents are those of the core as it moves, and not of a new decomposition: so X has all its derivatives.
    """
    (x,), (dx,) = primals, tangents
    q1, s, q2 = core_of(x)
    parts = Parts.of(SVD(q1, jnp.ones(len(s)), q2), dx)
    left, right = solve_linear(s.T, parts.left.T).T, solve_linear(s, parts.right.T).T
    return (q1, s, q2), (left, parts.inside, right)


class _Moving(eqx.Module):
    """The state in which the flow is integrated: Q1, S, Q2, and W, whose norm is the speed.

    W is a stack of the rows of A_S^{1/2}(Pi), Y1 G^{1/2} and Y2 K^{1/2}. One tolerance suits all its entries.
    """

    q1: Float[Array, "*ts m r"]
    s: Float[Array, "*ts r r"]
    q2: Float[Array, "*ts n r"]
    w: Float[Array, "*ts r+m+n r"]

    @classmethod
    def of(cls, y: State, kernel: Kernel) -> "_Moving":
        inside = apply_metric_operator(y.s, y.pi, kernel, power=0.5)
        left, right = y.y1 @ _root(y.s, kernel, 0), y.y2 @ _root(y.s.T, kernel, 1)
        return cls(y.q1, y.s, y.q2, jnp.concatenate([inside, left, right]))

    def parts(self) -> list[Array]:
        r, m = len(self.s), len(self.q1)
        return jnp.split(self.w, [r, r + m])

    def state(self, start: State, kernel: Kernel) -> State:
        """The point and its momentum. Where the spaces never turn, Y1 and Y2 are those of the start."""
        inside, left, right = self.parts()
        pi = apply_metric_operator(self.s, inside, kernel, power=-0.5)
        y1 = _unless_still(left @ _root(self.s, kernel, 0, -0.5), start.y1, kernel, 0)
        y2 = _unless_still(right @ _root(self.s.T, kernel, 1, -0.5), start.y2, kernel, 1)
        return State(self.q1, self.s, self.q2, pi, y1, y2)


def _root(s: Square, kernel: Kernel, side: int, power: float = 0.5) -> Square:
    """G^power; for `side` = 1 and the transpose of S, K^power."""
    point = svd(s)
    return symmetric(turning_rate(kernel, side, power)(squares(point.sigma)), point.u)


def _unless_still(y: Array, start: Array, kernel: Kernel, side: int) -> Array:
    weight = kernel.leaving(jnp.ones(1, y.dtype))[side]
    return jnp.where(weight > 0, y, start)


def _turn_in_frame(
    q: Array, b: Array, square: Array, left: Square, j: Square, kernel: Kernel, side: int
) -> tuple[Array, Array, Square]:
    """(Q', (Y G^{1/2})', the density D of the force -D S), with all r columns in the frame of S.

    The arguments are Q, b = Y G^{1/2}, the squared singular values, (S S^T)' and J. The derivative of G^{1/2} is the
    matrix f' of divided differences of f = g^{1/2} times (S S^T)', and so b' = b (f J f + f^{-1} f') - Q f b^T b.
    """
    root = turning_rate(kernel, side, 0.5)
    f, m = root(square), b.T @ b
    relative = jnp.where(f > 0, 1 / positive(f), 0.0)[:, None] * first_of_one(root, square)
    db = b @ (f[:, None] * j * f[None, :] + relative * left) - q @ (f[:, None] * m)
    # The divided difference of g = f^2 is (f_i + f_j) times that of f.
    return b * f[None, :], db, (relative + relative.T) * m


def _velocity(y: _Moving, kernel: Kernel) -> _Moving:
    """The flow of Q1, S, Q2 and W."""
    point = svd(y.s)
    sigma, s = point.sigma, squares(point.sigma)
    inside, left, right = y.parts()
    w = into(point, inside)
    root = jnp.sqrt(kernel.eigenvalues(sigma))
    pi, along = w / root, moved(root * w, sigma)
    row, column = sigma[:, None], sigma[None, :]
    j1, j2 = row * pi.T - pi * column, row * pi - pi.T * column
    q1, b1, d1 = _turn_in_frame(y.q1 @ point.u, left @ point.u, s, along[0], j1, kernel, 0)
    q2, b2, d2 = _turn_in_frame(y.q2 @ point.v, right @ point.v, s, along[1], j2, kernel, 1)
    m, dw = velocity_in_frame(sigma, w, kernel, push=-(d1 * column + row * d2))
    moving = jnp.concatenate([out_of(point, dw), b1 @ point.u.T, b2 @ point.v.T])
    return _Moving(q1 @ point.u.T, out_of(point, m), q2 @ point.v.T, moving)


def integrate(
    start: State, kernel: Kernel, ts: Float[Array, " times"], rtol: Scalar, max_steps: int
) -> tuple[State, Scalar, Path]:
    """(the states at `ts`, the relative change of the speed's square, how the flow ended)."""
    first = _Moving.of(start, kernel)
    path = follow(lambda y: _velocity(y, kernel), first, lambda y: y.s, kernel, ts, rtol, max_steps=max_steps)
    came = (ts <= path.t_end)[:, None, None]
    moving = jax.tree.map(lambda z: jnp.where(came, z[:-1], z[-1]), path.states)
    energy, end = jnp.sum(first.w**2), jnp.sum(path.states.w[-1] ** 2)
    drift = jnp.where(energy > 0, jnp.abs(end - energy) / positive(energy), 0.0)
    return jax.vmap(lambda y: y.state(start, kernel))(moving), drift, path


def velocity(y: State, kernel: Kernel) -> State:
    """The flow of the state, with an exact derivative."""
    by_s, by_pi, _ = form_gradient(y.s, y.pi, y.pi, kernel, power=1)
    m1, m2 = y.y1.T @ y.y1, y.y2.T @ y.y2
    (g, on_left), (k, on_right) = turning(y.s, m1, kernel, side=0), turning(y.s.T, m2, kernel, side=1)
    j1, j2 = y.s @ y.pi.T - y.pi @ y.s.T, y.s.T @ y.pi - y.pi.T @ y.s
    return State(
        q1=y.y1 @ g,
        s=by_pi,
        q2=y.y2 @ k,
        pi=-by_s / 2 - on_left - on_right.T,
        y1=y.y1 @ (g @ j1) - y.q1 @ (g @ m1),
        y2=y.y2 @ (k @ j2) - y.q2 @ (k @ m2),
    )


@compiled_by_columns
def jacobian(start: State, kernel: Kernel, ts: Float[Array, " times"], rtol: Scalar) -> State:
    """The derivative of the states at `ts` in the start and in the numbers of the kernel, by Jacobi fields.

    **Returns:** a `State` whose leaves have an axis of the variations after that of the times.
    """
    entries, state_of = ravel(start)
    numbers, kernel_of = ravel(kernel, entries.dtype)
    basis = jnp.eye(len(entries) + len(numbers), dtype=entries.dtype)
    variations, dk = jax.vmap(state_of)(basis[:, : len(entries)]), basis[:, len(entries) :]

    def varied(state: tuple[State, State]) -> tuple[State, State]:
        y, dy = state

        def along(dy: State, dk: Float[Array, " k"]) -> Any:
            return jax.jvp(lambda y, k: velocity(y, kernel_of(k)), (y, numbers), (dy, dk))

        return jax.vmap(along, out_axes=(None, 0))(dy, dk)

    return solve(varied, (start, variations), ts, rtol, max_steps=_MOST_STEPS).saved[1]


def along(jacobian: State, start: PyTree, dstart: PyTree) -> State:
    """The tangent of the states along a tangent of (the start, the kernel), None standing for zero."""
    direction, _ = ravel(instantiate(dstart, start))
    return jax.tree.map(lambda z: jnp.tensordot(direction, jnp.moveaxis(z, 1, 0), 1), jacobian)
