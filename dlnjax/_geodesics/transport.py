"""Parallel transport along a geodesic."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_finite, as_matrix, as_real, known, require
from dlnjax._compile import compiled
from dlnjax._geodesics.dopri8 import solve
from dlnjax._geodesics.exponential import orthonormal
from dlnjax._geodesics.geodesic import GeodesicSolution
from dlnjax._geodesics.hamiltonian import orthonormal_velocity
from dlnjax._geometry.depth import unchanged
from dlnjax._geometry.kernel import degree_of, Kernel, scale_exponent
from dlnjax._geometry.levi_civita import LeviCivita
from dlnjax._geometry.operator import into, out_of
from dlnjax._results import RESULTS
from dlnjax._scale import exponent, scaled
from dlnjax._svd import svd
from dlnjax._types import Numbers, Square

# The error of a step, relative to the norms. It is that with which a geodesic is found.
_RTOL = 1e-11
_MOST_STEPS = 4096


def transport(line: GeodesicSolution, z: Float[Array, "*n d d"], t: Numbers = 1.0) -> Float[Array, "*nt d d"]:
    """The parallel transport of a tangent vector from the start of a geodesic along it,

        Z' + Gamma_X(X', Z) = 0,    Z(0) = z.

    It keeps the lengths of vectors and their angles, in the metric: g(Z, W) at X(t) is g(z, w) at the start. The
    velocity of the geodesic is transported to its velocity. On a diagonal geodesic, in y = N sigma^(1/N), the part of z
    on the diagonal is constant, and the symmetric and the antisymmetric part of each pair of entries scale by
    sqrt(lambda_kl).

    **Arguments:** `line`, a `GeodesicSolution` that arrived; `z`, a tangent vector at `line.a`, `d d`; for many
    geodesics with the same axes in front; `t`, times in [0, 1], one or an array of them in any order.

    **Returns:** Z at the times `t`, `t d d`; by default at the end, `d d`. Differentiable in forward mode in `z`.

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
        carry = eqx.filter_vmap(carry, in_axes=(0, 0, 0, eqx.if_array(0), None))
    out = carry(line.a, line.momentum, z, unchanged(line.depth, line.a.dtype), t.ravel())
    return out.reshape(line.a.shape[:-2] + t.shape + line.a.shape[-2:])


@compiled
def _carried(x: Square, p: Square, z: Square, kernel: Kernel, t: Float[Array, " t"]) -> Float[Array, "t d d"]:
    """Z at the times `t`, computed for X at size one, since X -> cX is an isometry up to a factor."""
    k = scale_exponent(x, kernel)
    x, p, size = scaled(x, -k), scaled(p, k * (degree_of(kernel) - 1)), exponent(z)
    order = jnp.argsort(t)
    ts = jnp.concatenate([jnp.zeros(1, t.dtype), t[order], jnp.ones(1, t.dtype)])
    start = x, orthonormal(x, p, kernel), scaled(z, -size)
    walk = solve(
        lambda y: _velocity(y[0], y[1], y[2], kernel), start, ts, jnp.asarray(_RTOL, x.dtype), max_steps=_MOST_STEPS
    )
    return scaled(walk.saved[2][1:-1][jnp.argsort(order)], size)


def _velocity(x: Square, w: Square, z: Square, kernel: Kernel) -> tuple[Square, Square, Square]:
    """The flow of the geodesic, and Z' = -Gamma_X(X', Z)."""
    moved, turned = orthonormal_velocity(x, w, kernel)
    point = svd(x)
    at = LeviCivita(point.sigma, kernel)
    along, vector = at.pair(into(point, moved)), at.pair(into(point, z))
    return moved, turned, -out_of(point, at.christoffel(along, vector))
