"""A discrete path of least action between two matrices, from which shooting starts.

The action of X_0, ..., X_K at times t_k is sum_k h_k/2 g(V_k, V_k) at the midpoints, V_k = (X_{k+1} - X_k)/h_k. Its
Hessian is block tridiagonal. The minimiser is Newton's method. As in the method of Levenberg and Marquardt, it adds a
multiple of the kinetic part to the Hessian; this multiple is the damping. Plain Newton's method converges to any
critical path. This minimiser refuses each step that raises the action, so that it finds a minimum. It never finds a
geodesic with a conjugate point inside, since such a geodesic is no minimum.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._geodesics.hamiltonian import velocity
from dlnjax._geodesics.tridiagonal import Blocks, respond, solve
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import into, out_of
from dlnjax._lapack import sign_of_determinant
from dlnjax._svd import svd
from dlnjax._tree import iterate, where
from dlnjax._types import Scalar, Square

# The damping is divided by _EASE after an accepted step, and multiplied by _BRAKE after a refused one. It starts small,
# as most first guesses are near their minimum. At the largest damping a step moves nothing, and the search ends.
_EASE, _BRAKE = 10.0, 4.0
_FIRST_DAMPING = 1e-2
_LARGEST_DAMPING = 1e8
# A step may raise the action by this fraction, which is no more than a few errors of rounding in the sum.
_SAME_ACTION = 1e-14
# The search ends where the expected decrease is below this fraction of the action. More digits would be of no use: the
# discrete action differs from the action of the geodesic by far more.
_SETTLED = 1e-12


class Segment(eqx.Module):
    """The derivatives of the Lagrangian g(V, V)/2 at a midpoint.

    Matrices are written as vectors of length `n` = d^2.
    """

    by_x: Float[Array, "*k n"]
    by_v: Float[Array, "*k n"]
    xx: Float[Array, "*k n n"]
    vx: Float[Array, "*k n n"]
    vv: Float[Array, "*k n n"]


class Minimum(eqx.Module):
    """The momentum at the start of the path that was found, and its derivative with respect to the end of the path."""

    p: Square
    by_end: Float[Array, "n n"]


class Descent(eqx.Module):
    """The state of the minimiser.

    `ys` are the positions, which are the nodes less the `origin`. `eased` says that the last step was accepted, and
    `settled` that the search may end.
    """

    ys: Float[Array, "nodes d d"]
    part: Segment
    action: Scalar
    damping: Scalar
    eased: Bool[Array, ""]
    settled: Bool[Array, ""]
    step: Int[Array, ""]


def segment(x: Square, v: Square, kernel: Kernel) -> Segment:
    """The derivatives of the Lagrangian L(X, V) = g(V, V)/2 by Legendre's transform, from those of the Hamiltonian.

    With P = A_X^{-1}(V): L_X = -H_X and L_V = P, so that L_VV = A_X^{-1}, L_VX = -L_VV H_PX, and
    L_XX = -H_XX + H_XP L_VV H_PX.
    """
    d = x.shape[0]
    n = d * d
    basis = jnp.eye(n, dtype=x.dtype).reshape(n, d, d)
    point = svd(x)
    lam = kernel.eigenvalues(point.sigma)
    p = out_of(point, into(point, v) / lam)

    def along(z: Square) -> tuple[Any, Any]:
        return jax.jvp(lambda y: velocity(y, p, kernel), (x,), (z,))

    # `velocity` is (H_P, -H_X), and its derivatives in X are the rows of (H_PX, -H_XX).
    (_, force), (dx, dp) = jax.vmap(along, out_axes=(None, 0))(basis)
    hpx, minus_hxx = dx.reshape(n, n).T, dp.reshape(n, n).T
    frame = jnp.kron(point.u, point.v)
    vv = (frame / lam.ravel()[None, :]) @ frame.T
    return Segment(force.ravel(), p.ravel(), minus_hxx + hpx.T @ vv @ hpx, -vv @ hpx, vv)


def segments(
    ys: Float[Array, "nodes d d"], h: Float[Array, " k"], kernel: Kernel, origin: Square | float = 0.0
) -> tuple[Segment, Scalar]:
    """The derivatives of the Lagrangian at each midpoint, and the action. The nodes are `ys` plus the `origin`.

    The action of a path that crosses the singular matrices is set to infinity. In discrete time a path could jump over
    them at a finite cost. A kernel that does not vanish at singular matrices lets paths cross them.
    """
    xs = ys + jnp.broadcast_to(origin, ys.shape)
    x, v = (xs[1:] + xs[:-1]) / 2, (ys[1:] - ys[:-1]) / h[:, None, None]
    part = jax.vmap(partial(segment, kernel=kernel))(x, v)
    action = jnp.sum(h * jnp.sum(part.by_v * v.reshape(part.by_v.shape), axis=1)) / 2
    signs = sign_of_determinant(jnp.concatenate([x, xs]))
    inside = jnp.all(signs == signs[-1]) | (jnp.asarray(kernel.order) <= 0)
    return part, jnp.where(inside & jnp.isfinite(action), action, jnp.inf)


def gradient(part: Segment, h: Float[Array, " k"]) -> Float[Array, "m n"]:
    """The gradient of the action in the inner nodes.

    Where a node moves by Z, the midpoints beside it move by Z/2, and the velocities by Z/h and -Z/h.
    """
    half = h[:, None] * part.by_x / 2
    return (half + part.by_v)[:-1] + (half - part.by_v)[1:]


def hessian(part: Segment, h: Float[Array, " k"]) -> Blocks:
    """The Hessian of the action in the inner nodes."""
    h = h[:, None, None]
    cross = (part.vx + jnp.swapaxes(part.vx, -1, -2)) / 2
    square = h * part.xx / 4 + part.vv / h
    skew = (jnp.swapaxes(part.vx, -1, -2) - part.vx) / 2
    return Blocks((square + cross)[:-1] + (square - cross)[1:], h * part.xx / 4 + skew - part.vv / h)


def kinetic(part: Segment, h: Float[Array, " k"]) -> Blocks:
    """The kinetic part of the Hessian, which has the second derivatives in the velocities alone.

    It is positive definite.
    """
    vv = part.vv / h[:, None, None]
    return Blocks(vv[:-1] + vv[1:], -vv)


def minimise(
    ys: Float[Array, "nodes d d"], origin: Square, h: Float[Array, " k"], kernel: Kernel, most: Int[Array, ""]
) -> Minimum:
    """The path of least action that damped Newton's method finds from `ys`, with fixed ends, in at most `most` steps.

    The first step evaluates the path and does not move it, so that the start and all steps share one compiled function.
    With `most` = 1 the result is that of the path `ys` itself.
    """
    d = ys.shape[-1]

    def go_on(now: Descent) -> Bool[Array, ""]:
        started = now.step > 0
        return (
            ~now.settled & (now.step < most) & (now.damping < _LARGEST_DAMPING) & (~started | jnp.isfinite(now.action))
        )

    step = partial(_newton_step, origin=origin, h=h, kernel=kernel)
    part = iterate(step, go_on, _before_the_first_step(ys)).part
    blocks = hessian(part, h)
    response, _ = respond(blocks)
    p = (part.by_v[0] - h[0] * part.by_x[0] / 2).reshape(d, d)
    return Minimum(p, -blocks.upper[0] @ response)


def _before_the_first_step(ys: Float[Array, "nodes d d"]) -> Descent:
    nodes, d, _ = ys.shape
    k, n, dtype = nodes - 1, d * d, ys.dtype
    nothing = Segment(*(jnp.zeros((k, n), dtype),) * 2, *(jnp.zeros((k, n, n), dtype),) * 3)
    return Descent(
        ys=ys,
        part=nothing,
        action=jnp.asarray(jnp.inf, dtype),
        damping=jnp.asarray(_FIRST_DAMPING, dtype),
        eased=jnp.asarray(True),
        settled=jnp.asarray(False),
        step=jnp.asarray(0),
    )


def _newton_step(now: Descent, origin: Square, h: Float[Array, " k"], kernel: Kernel) -> Descent:
    first, mu = now.step == 0, now.damping
    damped = jax.tree.map(lambda a, b: a + mu * b, hessian(now.part, h), kinetic(now.part, h))
    slope = gradient(now.part, h)
    move, definite = solve(damped, -slope)
    decrement = -jnp.sum(slope * move)
    definite &= jnp.all(jnp.isfinite(move))
    move = jnp.where(first | ~definite, 0.0, move)
    ys = now.ys.at[1:-1].add(move.reshape(now.ys[1:-1].shape))
    part, action = segments(ys, h, kernel, origin)
    better = first | (definite & (action <= now.action * (1 + _SAME_ACTION)))
    # A step that is accepted right after a refused step keeps the damping, since a smaller damping has just failed.
    eased = jnp.where(now.eased, mu / _EASE, mu)
    braked = jnp.maximum(_BRAKE * mu, _FIRST_DAMPING)
    settled = ~first & better & (decrement <= _SETTLED * action) & (mu <= _FIRST_DAMPING)
    ys, part, action = where(better, (ys, part, action), (now.ys, now.part, now.action))
    return Descent(
        ys=ys,
        part=part,
        action=action,
        damping=jnp.where(first, mu, jnp.where(better, eased, braked)),
        eased=better,
        settled=settled,
        step=now.step + 1,
    )
