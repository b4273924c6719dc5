"""The Hamiltonian flow of the metric, (3.46), in the point X and the orthonormal momentum W = A_X^{1/2}(P).

|W| is the constant speed of the geodesic. In the frame of X, errors in any two entries of W count alike, so that one
tolerance suits all entries. The entries of P are those of W divided by the roots of lambda. Their sizes differ as much
as the singular values do, and no single tolerance suits them all.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._geodesics.dopri8 import solve
from dlnjax._geometry.differences import first_difference, squares, values
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.motion import densities, in_x, moved, turned
from dlnjax._geometry.operator import form_gradient, into, out_of
from dlnjax._geometry.separable import Differences, Jet
from dlnjax._geometry.straight import to_the_boundary
from dlnjax._lapack import sign_of_determinant
from dlnjax._svd import singular_values, SVD, svd
from dlnjax._types import Scalar, Square

# Rank counts as lost where the ratio of the smallest singular value to the largest is at most _FALL times its value at
# the start, or _FALL times _ORDINARY if that is less. It also counts as lost where the ratio is at most _ROUNDINGS eps.
_FALL, _ORDINARY, _ROUNDINGS = 1e-3, 1e-5, 4
# Where the solver could not go on, a fall of the ratio by the factor _STALLED_FALL is enough, if the ratio is also
# below _UNRESOLVED eps/rtol. There rounding alone makes the error of a step larger than its tolerance.
_STALLED_FALL, _UNRESOLVED = 0.1, 1e3
# Where all singular values vanish together, their ratio need not fall. There the solver stops at a distance from the
# matrices of lower rank below eps^_ARRIVED times that of the start.
_ARRIVED = 0.4
# Up to this size an array of all divided differences takes less time than their products.
_SMALL = 4


def velocity(x: Square, p: Square, kernel: Kernel) -> tuple[Square, Square]:
    """(dX/dt, dP/dt) = (A_X(P), -dH/dX), (3.46) divided by N; its derivative is exact at any singular values."""
    by_x, by_p, _ = form_gradient(x, p, p, kernel, power=1)
    return by_p, -by_x / 2


def orthonormal_velocity(x: Square, w: Square, kernel: Kernel) -> tuple[Square, Square]:
    """(dX/dt, dW/dt) of (3.46) for W = A_X^{1/2}(P): dW/dt = A_X^{1/2}(dP/dt) + (d/dt A_X^{1/2})(P).

    All is computed in the frame of X, with one decomposition. The derivative of A_X^{1/2} is given by the formula of
    Daleckii and Krein.
    """
    point = svd(x)
    m, dw = velocity_in_frame(point.sigma, into(point, w), kernel)
    return out_of(point, m), out_of(point, dw)


def velocity_in_frame(
    sigma: Float[Array, " d"], w: Square, kernel: Kernel, push: Square | float = 0.0
) -> tuple[Square, Square]:
    """`orthonormal_velocity`, with everything in the frame of X. `push` is a force beside -dH/dX, by which P moves."""
    s = squares(sigma)
    root = jnp.sqrt(values(s, kernel, 1))
    g, m = w / root, root * w
    if len(sigma) <= _SMALL:
        force = -in_x(sigma, *densities(first_difference(s, kernel, 1), g, g)) / 2
        turning = turned(first_difference(s, kernel, 0.5), g, *moved(m, sigma))
    else:
        jet, (left, right) = Jet.of(s, kernel), moved(m, sigma)
        half = Differences.of(s, jet, 0.5)
        force = _force(sigma, g, Differences.of(s, jet, 1))
        turning = half.turned(g, left) + half.turned(g.T, right).T
    return m, root * (force + push) + turning


def momentum_and_force(point: SVD, v: Square, kernel: Kernel) -> tuple[Square, Square]:
    """(P, -dH/dX) at the point where the velocity is V: the derivatives of g(V, V)/2 in V and in X."""
    s = squares(point.sigma)
    g = into(point, v) / values(s, kernel, 1)
    force = _force(point.sigma, g, Differences.of(s, Jet.of(s, kernel), 1))
    return out_of(point, g), out_of(point, force)


def _force(sigma: Float[Array, " d"], g: Square, differences: Differences) -> Square:
    """-dH/dX in the frame of X, where `g` is the momentum in this frame."""
    return -in_x(sigma, differences.density(g), differences.density(g.T)) / 2


class Path(eqx.Module):
    """The states of the flow at the times asked for, followed by the state at its end, and how the flow ended."""

    states: PyTree
    t_end: Scalar
    lost_rank: Bool[Array, ""]
    finished: Bool[Array, ""]
    exhausted: Bool[Array, ""]
    steps: Int[Array, ""]

    @property
    def x(self) -> Float[Array, "times d d"]:
        """X, in the states of `integrate`."""
        return self.states[0]

    @property
    def w(self) -> Float[Array, "times d d"]:
        """W, in the states of `integrate`."""
        return self.states[1]


def ratio(sigma: Float[Array, " d"]) -> Scalar:
    """The ratio of the smallest singular value to the largest, or 1 if they are NaN, as of a matrix not finite."""
    # A state that is not finite must not count as one that has lost rank.
    return jnp.where(jnp.isnan(sigma[0]), 1.0, sigma[-1] / sigma[0])


def integrate(
    x: Square,
    w: Square,
    kernel: Kernel,
    ts: Float[Array, " times"],
    rtol: Scalar,
    *,
    max_steps: int | Int[Array, ""] = 4096,
    origin: Square | float = 0.0,
) -> Path:
    """The flow from (X, W) at the first of `ts`: its states at each of `ts`, followed by the state at its end.

    States at times that the flow does not reach are infinite. The matrix `origin` is taken off each X, in the argument
    and in the states.
    """

    def moved(state: tuple[Square, Square]) -> tuple[Square, Square]:
        return orthonormal_velocity(origin + state[0], state[1], kernel)

    return follow(moved, (x, w), lambda state: origin + state[0], kernel, ts, rtol, max_steps=max_steps)


def follow(
    velocity: Callable[[Any], Any],
    start: Any,
    square: Callable[[Any], Square],
    kernel: Kernel,
    ts: Float[Array, " times"],
    rtol: Scalar,
    *,
    max_steps: int | Int[Array, ""],
) -> Path:
    """The flow of any state with this velocity. `square` is a matrix of the state that has the singular values of X."""
    x = square(start)
    eps, began = jnp.finfo(x.dtype).eps, singular_values(x)
    first = ratio(began)
    floor = jnp.maximum(_FALL * jnp.minimum(_ORDINARY, first), _ROUNDINGS * eps)
    stalled = jnp.maximum(jnp.minimum(_UNRESOLVED * eps / rtol, _STALLED_FALL * first), floor)
    # At order 0 the kernel does not vanish at singular matrices, and geodesics cross them. From order 2 on singular
    # matrices are infinitely far away.
    order = jnp.asarray(kernel.order)
    bounded = (order > 0) & (order < 2)

    def judge(y: Any) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
        # A step that changes the sign of the determinant has crossed the singular matrices, which no geodesic does.
        x = square(y)
        return bounded & (sign * sign_of_determinant(x) < 0), bounded & (ratio(singular_values(x)) <= floor)

    sign = sign_of_determinant(x)
    walk = solve(velocity, start, ts, rtol, max_steps=max_steps, judge=judge)
    reached = (walk.index == len(ts)) & ~walk.left
    ended = singular_values(square(walk.y))
    before, away = (to_the_boundary(sigma[-1], kernel) for sigma in (began, ended))
    lost_rank = bounded & (
        (ratio(ended) <= jnp.where(reached, floor, stalled)) | (walk.stuck & (away < eps**_ARRIVED * before))
    )
    return Path(
        states=jax.tree.map(lambda saved, last: jnp.concatenate([saved, last[None]]), walk.saved, walk.y),
        t_end=jnp.where(reached, ts[-1], ts[0] + walk.t),
        lost_rank=lost_rank,
        finished=reached & ~lost_rank,
        exhausted=~reached & ~walk.left & ~walk.stuck,
        steps=walk.steps,
    )
