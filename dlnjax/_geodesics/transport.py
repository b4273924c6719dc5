"""Parallel transport along a geodesic."""

from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import as_finite, as_matrix, as_real, known, require
from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geodesics.connection import Frame
from dlnjax._geodesics.dopri8 import solve
from dlnjax._geodesics.exponential import covector, orthonormal
from dlnjax._geodesics.geodesic import GeodesicSolution
from dlnjax._geodesics.hamiltonian import follow, velocity, velocity_in_frame
from dlnjax._geometry.curvature import christoffel
from dlnjax._geometry.depth import unchanged
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.levi_civita import LeviCivita
from dlnjax._geometry.operator import apply_metric_operator, into, out_of
from dlnjax._results import RESULTS
from dlnjax._scale import exponent, scaled
from dlnjax._svd import svd
from dlnjax._tree import instantiate, nan_unless
from dlnjax._types import Numbers, Square

# The error of a step, relative to the norms. It is less than that with which a geodesic is found, as the error of X is
# many times as large relative to its small singular values.
_RTOL = 1e-13
# That of derivatives, whose entries are not those of Y.
_RTOL_OF_SLOPES = 1e-11
_MOST = 4096

# (X, P, Z), or (X, W, Y) in orthonormal coordinates.
State: TypeAlias = tuple[Square, Square, Square]


def transport(line: GeodesicSolution, z: Float[Array, "*n d d"], t: Numbers = 1.0) -> Float[Array, "*nt d d"]:
    """The parallel transport of a tangent vector from the start of a geodesic along it,

        Z' + Gamma_X(X', Z) = 0,    Z(0) = z.

    It keeps the lengths of vectors and their angles, in the metric: g(Z, W) at X(t) is g(z, w) at the start. The
    velocity of the geodesic is transported to its velocity. On a diagonal geodesic, in y = N sigma^(1/N), the part of z
    on the diagonal is constant, and the symmetric and the antisymmetric part of each pair of entries scale by
    sqrt(lambda_kl).

    **Arguments:** `line`, a `GeodesicSolution` that arrived; `z`, a tangent vector at `line.a`, `d d`; for many
    geodesics with the same axes in front; `t`, times in [0, 1], one or an array of them in any order.

    **Returns:** Z at the times `t`, `t d d`; by default at the end, `d d`. It is NaN at times that the geodesic, as it
    is followed anew, does not reach. Differentiable in forward mode, in the ends of the geodesic, its depth, `z` and
    the times.

    **Raises:** `ValueError` or `TypeError` for a vector of another shape, NaN, or times outside of [0, 1]; `ValueError`
    for a geodesic that did not arrive.

    **Example:**

        >>> line = dln.geodesic(jnp.eye(2), jnp.diag(jnp.array([4.0, 1.0])), jnp.inf)
        >>> z = jnp.array([[1.0, 1.0], [1.0, 1.0]])
        >>> dln.transport(line, z).round(6).tolist()  # sqrt(lambda_12) = sqrt((16 - 1)/(2 log 4))
        [[4.0, 2.325964], [2.325964, 1.0]]
    """
    if not isinstance(line, GeodesicSolution):
        raise TypeError(f"line must be a GeodesicSolution, as dlnjax.geodesic returns, got {type(line).__name__}.")
    z = as_finite("z", as_matrix("z", z, leading=True)).astype(line.a.dtype)
    if z.shape != line.a.shape:
        raise ValueError(f"z must be a tangent vector at line.a, of the shape {line.a.shape}, got {z.shape}.")
    t = as_real("t", t, "It is a time in [0, 1], or an array of them.").astype(line.a.dtype)
    t = require(t, ~((known(t) >= 0) & (known(t) <= 1)).all(), "t must lie in [0, 1], the times of the geodesic.")
    lost = known(line.result != RESULTS.successful)
    z = require(z, lost.any(), "line did not arrive, and is no geodesic between its ends: see its result.")
    carry = _carried
    for _ in range(line.length.ndim):
        carry = eqx.filter_vmap(carry, in_axes=(0, 0, 0, 0, eqx.if_array(0), None))
    out = carry(line.a, line.b, line.momentum, z, unchanged(line.depth, line.a.dtype), t.ravel())
    return out.reshape(line.a.shape[:-2] + t.shape + line.a.shape[-2:])


@compiled
def _carried(
    a: Square, b: Square, p: Square, z: Square, kernel: Kernel, t: Float[Array, " t"]
) -> Float[Array, "t d d"]:
    """Z at the times `t`, and NaN at those which the geodesic does not reach.

    All is computed in the frame of the ends, for X at size one, since X -> cX is an isometry up to a factor.
    """
    frame, x = Frame.at_rest(a, b, kernel)
    size, order = exponent(z), jnp.argsort(t)
    z, last = frame.into(scaled(z, -size)), frame.last.matrix
    zs = jax.vmap(frame.out_of)(_along(x, frame.momentum_into(p), z, kernel, t[order], last=last))
    return scaled(zs[jnp.argsort(order)], size)


@filter_custom_jvp
def _along(
    x: Square, p: Square, z: Square, kernel: Kernel, t: Float[Array, " t"], *, last: Square
) -> Float[Array, "t d d"]:
    """Z at the ascending times `t`, on the geodesic from X to `last`.

    The state has Y = A_X^{-1/2}(Z), which only turns. The entries of Z are those of Y times the roots of lambda, and no
    single tolerance suits them all near singular matrices.
    """
    ts, start = _with_ends(t), (x, orthonormal(x, p, kernel), covector(x, z, kernel))
    turning = lambda y: _turning(y[0], y[1], y[2], kernel)
    path = follow(turning, start, lambda y: y[0], kernel, ts, jnp.asarray(_RTOL, x.dtype), max_steps=_MOST)
    came = (ts <= path.t_end)[:, None, None]
    xs, _, ys = jax.tree.map(lambda y: nan_unless(came, y[:-1])[1:-1], path.states)
    # B has the digits of its small singular values, which X(1) has lost.
    xs = jnp.where((t == 1)[:, None, None], last, xs)
    return jax.vmap(lambda x, y: apply_metric_operator(x, y, kernel, power=0.5))(xs, ys)


@_along.def_jvp
def _along_jvp(
    primals: tuple[Square, Square, Square, Kernel, Float[Array, " t"]],
    tangents: tuple[Square | None, Square | None, Square | None, PyTree, Float[Array, " t"] | None],
    *,
    last: Square,
):
    """The derivative, by that of the flow of (X, P, Z) in entries, which exists where singular values repeat."""
    x, p, z, kernel, t = primals
    out, (*starts, dkernel, dt) = _along(*primals, last=last), tangents
    flow = lambda y, kernel: _velocity(y[0], y[1], y[2], kernel)

    def varied(y: tuple[State, State]) -> tuple[State, State]:
        return eqx.filter_jvp(flow, (y[0], kernel), (y[1], dkernel))

    start = (x, p, z), instantiate(tuple(starts), (x, p, z))
    walk = solve(varied, start, _with_ends(t), jnp.asarray(_RTOL_OF_SLOPES, x.dtype), max_steps=_MOST)
    states_at, slopes = jax.tree.map(lambda y: y[1:-1], walk.saved)
    slope = slopes[2]
    if dt is not None:
        slope += dt[:, None, None] * jax.vmap(lambda y: flow(y, kernel)[2])(states_at)
    return out, jnp.where(jnp.isnan(out), jnp.nan, slope)


def _with_ends(t: Float[Array, " t"]) -> Float[Array, " t+2"]:
    return jnp.concatenate([jnp.zeros(1, t.dtype), t, jnp.ones(1, t.dtype)])


def _turning(x: Square, w: Square, y: Square, kernel: Kernel) -> State:
    """The flow of the geodesic, and the velocity of Y."""
    point = svd(x)
    at = LeviCivita(point.sigma, kernel)
    moved, turned = velocity_in_frame(point.sigma, into(point, w), kernel)
    carried = at.turned(at.pair(moved), into(point, y))
    return out_of(point, moved), out_of(point, turned), out_of(point, carried)


def _velocity(x: Square, p: Square, z: Square, kernel: Kernel) -> State:
    """The flow of the geodesic, and Z' = -Gamma_X(X', Z)."""
    moved, force = velocity(x, p, kernel)
    return moved, force, -christoffel(x, moved, z, kernel)
