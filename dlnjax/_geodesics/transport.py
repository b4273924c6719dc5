"""Parallel transport along a geodesic."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_finite, as_matrix, as_real, known, require
from dlnjax._compile import compiled
from dlnjax._geodesics.connection import Frame
from dlnjax._geodesics.exponential import covector, orthonormal
from dlnjax._geodesics.geodesic import GeodesicSolution
from dlnjax._geodesics.hamiltonian import follow, velocity_in_frame
from dlnjax._geometry.depth import unchanged
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.levi_civita import LeviCivita
from dlnjax._geometry.operator import apply_metric_operator, into, out_of
from dlnjax._results import RESULTS
from dlnjax._scale import exponent, scaled
from dlnjax._svd import svd
from dlnjax._tree import nan_unless
from dlnjax._types import Numbers, Square

# The error of a step, relative to the norms. It is less than that with which a geodesic is found, as the error of X is
# many times as large relative to its small singular values.
_RTOL = 1e-13
_MOST = 4096


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
    is followed anew, does not reach. Differentiable in forward mode in `z`.

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

    The state has Y = A_X^{-1/2}(Z), which only turns. The entries of Z are those of Y times the roots of lambda, and no
    single tolerance suits them all near singular matrices. All is computed in the frame of the ends, for X at size one,
    since X -> cX is an isometry up to a factor.
    """
    frame, x = Frame.at_rest(a, b, kernel)
    w, size, order = orthonormal(x, frame.momentum_into(p), kernel), exponent(z), jnp.argsort(t)
    start = x, w, covector(x, frame.into(scaled(z, -size)), kernel)
    ts = jnp.concatenate([jnp.zeros(1, t.dtype), t[order], jnp.ones(1, t.dtype)])
    velocity = lambda y: _velocity(y[0], y[1], y[2], kernel)
    path = follow(velocity, start, lambda y: y[0], kernel, ts, jnp.asarray(_RTOL, x.dtype), max_steps=_MOST)
    came = (ts <= path.t_end)[:, None, None]
    xs, _, ys = jax.tree.map(lambda y: nan_unless(came, y[:-1])[1:-1], path.states)
    # B has the digits of its small singular values, which X(1) has lost.
    xs = jnp.where((t[order] == 1)[:, None, None], frame.last.matrix, xs)
    zs = jax.vmap(lambda x, y: frame.out_of(apply_metric_operator(x, y, kernel, power=0.5)))(xs, ys)
    return scaled(zs[jnp.argsort(order)], size)


def _velocity(x: Square, w: Square, y: Square, kernel: Kernel) -> tuple[Square, Square, Square]:
    """The flow of the geodesic, and the velocity of Y."""
    point = svd(x)
    at = LeviCivita(point.sigma, kernel)
    moved, turned = velocity_in_frame(point.sigma, into(point, w), kernel)
    carried = at.turned(at.pair(moved), into(point, y))
    return out_of(point, moved), out_of(point, turned), out_of(point, carried)
