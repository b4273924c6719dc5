"""The Hamiltonian flow of the metric, (3.46), in the point X and the orthonormal momentum W = A_X^{1/2}(P).

|W| is the constant speed of the geodesic, and an error in any entry of W, in the frame of X, changes the length alike.
In P it would not: its entries are those of W over the roots of lambda, which span the range of the singular values.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._geodesics.dopri8 import solve
from dlnjax._geometry.differences import first_difference, squares, values
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import densities, form_gradient, in_x, into, moved, out_of, turned
from dlnjax._svd import singular_values, svd
from dlnjax._types import Matrix, Scalar

# Rank is lost where the smallest singular value over the largest falls by the first factor below that of the start, or
# below it of the second if the start is better conditioned; and where no more than these roundings are left of it.
_FALL, _ORDINARY, _ROUNDINGS = 1e-3, 1e-5, 4
# Where the solver has stalled, a smaller fall is enough; and rounding alone spoils its steps once the ratio is below
# eps / rtol, with a margin.
_STALLED_FALL, _UNRESOLVED = 0.1, 1e3


def velocity(x: Matrix, p: Matrix, kernel: Kernel) -> tuple[Matrix, Matrix]:
    """(dX/dt, dP/dt) = (A_X(P), -dH/dX), (3.46) divided by N; its derivative is exact at any singular values."""
    by_x, by_p, _ = form_gradient(x, p, p, kernel, power=1)
    return by_p, -by_x / 2


def orthonormal_velocity(x: Matrix, w: Matrix, kernel: Kernel) -> tuple[Matrix, Matrix]:
    """(dX/dt, dW/dt): W moves with P, and with the root of the operator."""
    point = svd(x)
    sigma, s = point.sigma, squares(point.sigma)
    root = jnp.sqrt(values(s, kernel, 1))
    w = into(point, w)
    g, m = w / root, root * w
    force = -in_x(sigma, *densities(first_difference(s, kernel, 1), g, g)) / 2
    turning = turned(first_difference(s, kernel, 0.5), g, *moved(m, sigma))
    return out_of(point, m), out_of(point, root * force + turning)


class Path(eqx.Module):
    """Where the flow was at the times asked for, and how it ended."""

    x: Float[Array, "times d d"]
    w: Float[Array, "times d d"]
    t_end: Scalar
    lost_rank: Bool[Array, ""]
    finished: Bool[Array, ""]
    exhausted: Bool[Array, ""]
    steps: Int[Array, ""]


def ratio(x: Matrix) -> Scalar:
    """Of the smallest singular value to the largest; 1 for what is not finite."""
    sigma = singular_values(x)
    return jnp.where(jnp.isnan(sigma[0]), 1.0, sigma[-1] / sigma[0])


def integrate(
    x: Matrix, w: Matrix, kernel: Kernel, ts: Float[Array, " times"], rtol: Scalar, *, max_steps: int = 4096
) -> Path:
    """The flow from (X, W) at the first of `ts`: the states at each time, then the last state.

    States at times that it does not reach are infinite.
    """
    eps, start = jnp.finfo(x.dtype).eps, ratio(x)
    floor = jnp.maximum(_FALL * jnp.minimum(_ORDINARY, start), _ROUNDINGS * eps)
    stalled = jnp.maximum(jnp.minimum(_UNRESOLVED * eps / rtol, _STALLED_FALL * start), floor)
    order = jnp.asarray(kernel.order)
    bounded = (order > 0) & (order < 2)

    sign = jnp.linalg.slogdet(x)[0]

    def crosses(y: tuple[Matrix, Matrix]) -> Bool[Array, ""]:
        # A step that changes the sign of the determinant has crossed the boundary, which no geodesic does.
        return bounded & (sign * jnp.linalg.slogdet(y[0])[0] < 0)

    walk = solve(
        lambda y: orthonormal_velocity(y[0], y[1], kernel),
        (x, w),
        ts,
        rtol,
        max_steps=max_steps,
        refuses=crosses,
        leaves=lambda y: bounded & (ratio(y[0]) <= floor),
    )
    (xs, ws), (x, w) = walk.saved, walk.y
    reached = (walk.index == len(ts)) & ~walk.left
    lost_rank = bounded & (ratio(x) <= jnp.where(reached, floor, stalled))
    return Path(
        x=jnp.concatenate([xs, x[None]]),
        w=jnp.concatenate([ws, w[None]]),
        t_end=jnp.where(reached, ts[-1], ts[0] + walk.t),
        lost_rank=lost_rank,
        finished=reached & ~lost_rank,
        exhausted=~reached & ~walk.left & ~walk.stuck,
        steps=walk.steps,
    )
