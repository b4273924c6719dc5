"""The path of least action between two matrices, by the method of Broyden, Fletcher, Goldfarb and Shanno.

Newton's method in `action.py` makes blocks of d^2 rows for each node, which take d^6 operations. This method takes
gradients alone, which cost a decomposition and a few products of d x d matrices for each node. It keeps the last
moves and changes of the gradient (J. Nocedal, Math. Comp. 35, 1980). What makes it converge in few steps is its first
approximation of the inverse Hessian, which is the inverse of the kinetic part in orthonormal coordinates: with
dX = A_X^{1/2}(Z) at each node, the kinetic part is a scalar second difference in time, to first order.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._geodesics.hamiltonian import momentum_and_force
from dlnjax._geodesics.mesh import Mesh
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import operator_at
from dlnjax._lapack import sign_of_determinant, solve_triangular
from dlnjax._svd import SVD, svd
from dlnjax._tree import iterate, where
from dlnjax._types import Scalar, Square

# The number of moves that are kept. A search of an ordinary pair takes fewer steps.
_MEMORY = 32
# A step must lower the action by this fraction of what its slope promises (Armijo).
_ENOUGH = 1e-4
# A step that does not is shortened by this factor. After a step of _SHORTEST the kept moves are forgotten, and where
# none are kept, the search ends.
_SHORTEN, _SHORTEST = 3.0, 1e-3
# A move is kept if the change of the slope along it is above this fraction of the product of both norms. Otherwise the
# Hessian is not positive there, and its approximation would not be either.
_CURVED = 1e-10
# A step may raise the action by this fraction, which is no more than a few errors of rounding in the sum.
_SAME_ACTION = 1e-14
# The search ends where for as many steps the promise of a step has not fallen by a half, and the action has not fallen
# by the second fraction of itself.
_STUCK, _ROUNDING = 10, 1e-12
# The largest number of evaluations of a path, over all shots, for each element of its mesh.
_EVALUATIONS = 50


class Course(eqx.Module):
    """A path with its decomposed nodes, its action, and the derivative of the action in all nodes.

    `ys` are the positions, which are the nodes less the `origin` of `Pair`. The derivative in the first node is the
    negative momentum there, and that in the last node is the momentum.
    """

    ys: Float[Array, "nodes d d"]
    points: SVD
    action: Scalar
    slope: Float[Array, "nodes d d"]


class Descent(eqx.Module):
    """The state of the search: the best path, the last moves and changes of the slope (the newest last), and counts.

    `size` is the length of the next step in units of the quasi-Newton step, and `kept` the number of moves kept.
    `least` is the smallest decrease that a step has promised, and `stuck` counts the steps since it fell by a half.
    `fresh` says that the path was not evaluated yet.
    """

    course: Course
    moves: Float[Array, "memory n"]
    changes: Float[Array, "memory n"]
    kept: Int[Array, ""]
    size: Scalar
    least: Scalar
    stuck: Int[Array, ""]
    ended: Bool[Array, ""]
    fresh: Bool[Array, ""]
    step: Int[Array, ""]

    @classmethod
    def at(cls, ys: Float[Array, "nodes d d"]) -> "Descent":
        """The state before the first evaluation."""
        zero, none, false = jnp.zeros((), ys.dtype), jnp.asarray(0), jnp.asarray(False)
        nothing = jnp.zeros((_MEMORY, ys[1:-1].size), ys.dtype)
        points = SVD(jnp.zeros_like(ys), jnp.zeros_like(ys[..., 0]), jnp.zeros_like(ys))
        unknown = Course(ys, points, zero + jnp.inf, jnp.zeros_like(ys))
        return cls(unknown, nothing, nothing, none, zero + 1, zero + jnp.inf, none, false, ~false, none)

    def again(self, ys: Float[Array, "nodes d d"]) -> "Descent":
        """The state before the evaluation of another path, with what was learnt of the Hessian."""
        start = Descent.at(ys)
        return eqx.tree_at(
            lambda s: (s.moves, s.changes, s.kept, s.step), start, (self.moves, self.changes, self.kept, self.step)
        )

    def on(self) -> "Descent":
        """The state from which a search goes on that has ended, to a smaller tolerance."""
        return eqx.tree_at(lambda s: (s.ended, s.stuck), self, (jnp.asarray(False), jnp.asarray(0)))


def course(ys: Float[Array, "nodes d d"], origin: Square, mesh: Mesh, kernel: Kernel) -> Course:
    """The path with its action and gradient. The action of a path across the singular matrices is infinite.

    In discrete time a path could jump over them at a finite cost. A kernel that does not vanish there lets paths cross.
    """
    xs = ys + jnp.broadcast_to(origin, ys.shape)
    points = jax.vmap(svd)(xs)
    v = jnp.tensordot(mesh.rates, ys, 1)
    here = jax.tree.map(mesh.gather, points)
    by_v, by_x = jax.vmap(partial(momentum_and_force, kernel=kernel))(here, v)
    weights = mesh.weights[:, None, None]
    by_v, by_x = weights * by_v, weights * by_x
    action = jnp.sum(by_v * v) / 2
    signs = sign_of_determinant(xs)
    inside = jnp.all(signs == signs[-1]) | (jnp.asarray(kernel.order) <= 0)
    slope = jnp.tensordot(mesh.rates.T, by_v, 1) + mesh.add_up(by_x)
    return Course(ys, points, jnp.where(inside & jnp.isfinite(action), action, jnp.inf), slope)


def _kinetic_step(inner: SVD, green: Float[Array, "m m"], z: Float[Array, "m d d"], kernel: Kernel) -> Array:
    """The inverse of the kinetic part, approximately: A^{1/2} at each node, Green's function, and A^{1/2} again."""
    root = jax.vmap(lambda point, z: operator_at(point, z, kernel, power=0.5))
    return root(inner, jnp.tensordot(green, root(inner, z), 1))


def _direction(now: Descent, mesh: Mesh, kernel: Kernel) -> Float[Array, "m d d"]:
    """The quasi-Newton step, by the two loops of Nocedal, which are written here as two triangular systems."""
    slope = now.course.slope[1:-1]
    used = jnp.arange(_MEMORY) >= _MEMORY - now.kept
    products = jnp.where(used[:, None] & used[None, :], now.moves @ now.changes.T, jnp.eye(_MEMORY, dtype=slope.dtype))
    upper = jnp.triu(products)
    first = jnp.where(used, now.moves @ slope.ravel(), 0.0)
    first = solve_triangular(upper, first)
    rest = (slope.ravel() - first @ now.changes).reshape(slope.shape)
    inner = jax.tree.map(lambda z: z[1:-1], now.course.points)
    z = _kinetic_step(inner, mesh.green, rest, kernel).ravel()
    second = jnp.where(used, jnp.diagonal(upper) * first - now.changes @ z, 0.0)
    second = solve_triangular(upper, second, transposed=True)
    return -(z + second @ now.moves).reshape(slope.shape)


def descend(start: Descent, origin: Square, mesh: Mesh, kernel: Kernel, settled: Scalar) -> Descent:
    """The path of least action that is found from a state of the search, with fixed ends.

    The search ends where a step promises to lower the action by less than the fraction `settled`, or after
    `_EVALUATIONS`.
    """

    def go_on(now: Descent) -> Bool[Array, ""]:
        return ~now.ended & (now.step < _EVALUATIONS * mesh.elements) & (now.fresh | jnp.isfinite(now.course.action))

    return iterate(partial(_step, origin=origin, mesh=mesh, kernel=kernel, settled=settled), go_on, start)


def _step(now: Descent, origin: Square, mesh: Mesh, kernel: Kernel, settled: Scalar) -> Descent:
    # The first step evaluates the path and does not move it, so that the gradient is compiled once.
    fresh, old = now.fresh, now.course
    move = jnp.where(fresh, 0.0, _direction(now, mesh, kernel))
    promise = -jnp.sum(old.slope[1:-1] * move)
    new = course(old.ys.at[1:-1].add(now.size * move), origin, mesh, kernel)
    better = fresh | (new.action <= old.action * (1 + _SAME_ACTION) - _ENOUGH * now.size * promise)
    moved, changed = (now.size * move).ravel(), (new.slope - old.slope)[1:-1].ravel()
    curved = ~fresh & better & (moved @ changed > _CURVED * jnp.sqrt((moved @ moved) * (changed @ changed)))
    short = ~better & (now.size <= _SHORTEST)
    longer = jnp.minimum(1.0, _SHORTEN * now.size)
    progress = fresh | (promise <= now.least / 2) | (new.action < old.action * (1 - _ROUNDING))
    stuck = jnp.where(progress, 0, now.stuck + 1)
    ends = (promise <= settled * old.action) | (short & (now.kept == 0)) | (stuck >= _STUCK)
    return Descent(
        course=where(better, new, old),
        moves=jnp.where(curved, jnp.roll(now.moves, -1, axis=0).at[-1].set(moved), now.moves),
        changes=jnp.where(curved, jnp.roll(now.changes, -1, axis=0).at[-1].set(changed), now.changes),
        kept=jnp.where(curved, jnp.minimum(now.kept + 1, _MEMORY), jnp.where(short, 0, now.kept)),
        size=jnp.where(short | fresh, 1.0, jnp.where(better, longer, now.size / _SHORTEN)),
        least=jnp.where(fresh, jnp.inf, jnp.minimum(now.least, promise)),
        stuck=stuck,
        ended=~fresh & ends,
        fresh=jnp.asarray(False),
        step=now.step + 1,
    )
