"""The Levi-Civita connection of g^N and its curvature: the public functions.

All of them are for the metric of dlnjax, which is N times the g^N of the thesis. The connection, `curvature` and
`ricci` are the same for both. The sectional and the scalar curvature of the thesis's metric are N times those here.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import as_finite, as_square, known, require, shape_of
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geometry.depth import as_kernel, Depth
from dlnjax._geometry.kernel import degree_of, Kernel, scale_exponent
from dlnjax._geometry.levi_civita import LeviCivita
from dlnjax._geometry.metric import as_pair, full_rank
from dlnjax._geometry.operator import into, out_of
from dlnjax._modes import compiled_both_ways
from dlnjax._scale import exponent, scaled
from dlnjax._svd import svd
from dlnjax._tree import positive, root
from dlnjax._types import Matrix, Scalar

Vectors = tuple[Matrix, ...]
Formula = Callable[..., Array]

# A derivative is interpolated from points on a line at which singular values that nearly agree are apart. Each moves
# by up to half of these shares of itself. With singularities at a distance of pi in log sigma, the error of the
# interpolation is about 36 (0.02/(2 pi))^6, which is below rounding.
_SHIFTS = np.array([-3, -2, -1, 1, 2, 3]) * 0.02
_INTERPOLATION = np.array([1, -6, 15, 15, -6, 1]) / 20
# On the way values may cross. Of these multiples of the shifts, the one that keeps them farthest apart is taken.
_MULTIPLES = np.array([1.0, 1.13, 1.29, 1.41])
# Up to this d, the points of an interpolation are computed at once. At d = 8 that would take 540 MB.
_SMALL = 5
# Two tangent vectors span a plane if the part of either that is orthogonal to the other is above rounding.
_DEPENDENT = 64


@filter_custom_jvp
def _in_frame(x: Matrix, z: Vectors, kernel: Kernel, *, formula: Formula) -> Array:
    """A formula of the connection at X and of tangent vectors Z, evaluated in the frame of X."""
    return _plain(x, z, kernel, formula)


def _plain(x: Matrix, z: Vectors, kernel: Kernel, formula: Formula) -> Array:
    point = svd(x)
    at = LeviCivita(point.sigma, kernel)
    out = formula(at, *(at.pair(into(point, z)) for z in z))
    return out_of(point, out) if out.ndim == 2 else out


@_in_frame.def_jvp
def _in_frame_jvp(
    primals: tuple[Matrix, Vectors, Kernel], tangents: tuple[Matrix | None, Any, PyTree], *, formula: Formula
) -> tuple[Array, Array]:
    """The derivative, interpolated along a line through X on which the singular values are apart.

    The formula is an analytic function of X. Autodiff of it takes the derivative of the frame, which does not exist
    where singular values repeat.
    """
    x, z, kernel = primals
    point = svd(jax.lax.stop_gradient(x))
    line = out_of(point, jnp.diag(point.sigma * _speeds(point.sigma)))

    def tangent_at(t: Scalar) -> Array:
        moved = lambda x, z, kernel: _plain(x + t * line, z, kernel, formula)
        return eqx.filter_jvp(moved, primals, tangents)[1]

    shifts = jnp.asarray(_SHIFTS, x.dtype)
    # At once they compile in two thirds of the time, and take six times the memory, which grows as d^5.
    tangent = jax.vmap(tangent_at)(shifts) if len(x) <= _SMALL else jax.lax.map(tangent_at, shifts)
    return _in_frame(x, z, kernel, formula=formula), jnp.tensordot(jnp.asarray(_INTERPOLATION, x.dtype), tangent, 1)


def _speeds(sigma: Float[Array, " d"]) -> Float[Array, " d"]:
    """The speeds, relative to each value, at which the singular values move apart: 0 if none are near each other."""
    d, log = len(sigma), jnp.log(sigma)
    speeds = jnp.asarray(np.outer(_MULTIPLES, np.linspace(0.5, -0.5, d) if d > 1 else [0.0]), sigma.dtype)
    there = log + jnp.log1p(speeds[:, None, :] * jnp.asarray(_SHIFTS, sigma.dtype)[:, None])
    k, l = np.triu_indices(d, 1)
    least = jnp.min(jnp.abs(there[..., k] - there[..., l]), axis=(1, 2), initial=jnp.inf)
    near = jnp.any(log[:-1] - log[1:] < abs(_SHIFTS).min())
    return jnp.where(near, speeds[jnp.argmax(least)], 0.0)


@compiled_both_ways
def _tensor(x: Matrix, z: Vectors, kernel: Kernel, formula: Formula, power: int) -> Array:
    """A formula that is linear in each of the vectors, and of degree -`power` in X, computed at size one."""
    exponents = sum(exponent(z) for z in z) - power * scale_exponent(x, kernel)
    return scaled(_in_frame(*_units(x, z, kernel), kernel, formula=formula), exponents)


def _units(x: Matrix, z: Vectors, kernel: Kernel) -> tuple[Matrix, Vectors]:
    """X and the vectors, each at size one."""
    return scaled(x, -scale_exponent(x, kernel)), tuple(scaled(z, -exponent(z)) for z in z)


def _as_curvature(out: Scalar, x: Matrix, kernel: Kernel) -> Scalar:
    """The inverse of a squared length at X, from that at size one."""
    return scaled(out, -scale_exponent(x, kernel) * (2 - degree_of(kernel)))


@compiled_both_ways
def _plane(x: Matrix, z: Vectors, kernel: Kernel) -> tuple[Scalar, Scalar]:
    """The curvature of a plane, and the sine of the angle between the vectors that span it."""
    curvature, sine = _in_frame(*_units(x, z, kernel), kernel, formula=_sectional)
    return _as_curvature(curvature, x, kernel), sine


@compiled_both_ways
def _all_planes(x: Matrix, kernel: Kernel) -> Scalar:
    return _as_curvature(_in_frame(*_units(x, (), kernel), kernel, formula=_twice_traced), x, kernel)


def _checked(x: Any, depth: Depth, **vectors: Any) -> tuple[Matrix, Vectors, Kernel]:
    x = as_finite("x", as_square("x", x))
    z = tuple(as_pair(x, name, z)[1] for name, z in vectors.items())
    return full_rank(x), z, as_kernel(depth, x.dtype)


def _gamma(at: LeviCivita, y1: Array, y2: Array) -> Matrix:
    return at.christoffel(y1, y2)


def _curved(at: LeviCivita, y1: Array, y2: Array, y3: Array) -> Matrix:
    return at.matrix(at.raised(at.curvature(y1, y2, y3)))


def _sectional(at: LeviCivita, y1: Array, y2: Array) -> Float[Array, "2"]:
    """(The curvature of the plane, the sine of the angle in it)."""

    def unit(y: Array) -> tuple[Array, Scalar]:
        square = at.inner(y, y)
        return y / jnp.sqrt(positive(square)), root(square)

    y1, y2 = unit(y1)[0], unit(y2)[0]
    y2, sine = unit(y2 - at.inner(y1, y2) * y1)
    # The part of y1 that is left in y2 has the size of rounding over the sine. A second step removes it.
    y2 = unit(y2 - at.inner(y1, y2) * y1)[0]
    return jnp.stack([at.riemann(y1, y2, y2, y1), sine])


def _traced(at: LeviCivita, y1: Array, y2: Array) -> Scalar:
    return jnp.sum(jax.vmap(lambda e: at.riemann(e, y1, y2, e))(at.basis))


def _twice_traced(at: LeviCivita) -> Scalar:
    return jnp.sum(jax.lax.map(lambda e: _traced(at, e, e), at.basis))


def christoffel(x: Matrix, z1: Matrix, z2: Matrix, depth: Depth) -> Matrix:
    """Gamma_X(Z1, Z2): the Levi-Civita derivative along Z1 of the vector field that is Z2 everywhere.

        2 g(Gamma(Z1, Z2), Z3) = D_Z1 g(Z2, Z3) + D_Z2 g(Z1, Z3) - D_Z3 g(Z1, Z2),

    so that a geodesic solves X'' + Gamma_X(X', X') = 0.

    **Arguments:** `x`, of full rank, `d d`; `z1` and `z2`, `d d`; `depth`, N in [1, inf], or a kernel.

    **Returns:** a matrix, `d d`, symmetric in `z1` and `z2`.

    **Raises:** `ValueError` or `TypeError` for an `x` that is not square or has not full rank, shapes that differ,
    integers, NaN, or a depth outside [1, inf].

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> dln.christoffel(x, x, x, jnp.inf).round(6).tolist()  # e^t X is a geodesic
        [[-2.0, 0.0], [0.0, -1.0]]
    """
    x, z, kernel = _checked(x, depth, z1=z1, z2=z2)
    return _tensor(x, z, kernel, _gamma, 1)


def covariant_derivative(field: Callable[[Matrix], Matrix], x: Matrix, z: Matrix, depth: Depth) -> Matrix:
    """The Levi-Civita derivative of a vector field Y along Z, nabla_Z Y = dY(X)[Z] + Gamma_X(Z, Y(X)).

    With the gradient of an energy as the field, this is the Riemannian Hessian of the energy, applied to Z.

    **Arguments:** `field`, a differentiable callable X -> tangent vector, `d d` to `d d`; `x`, of full rank, and `z`,
    `d d`; `depth`, N in [1, inf], or a kernel.

    **Returns:** a tangent vector, `d d`.

    **Raises:** as `christoffel`, and for a `field` that does not return a matrix of the shape of `x`.

    **Example:**

        >>> x, z = jnp.diag(jnp.array([2.0, 1.0])), jnp.ones((2, 2))
        >>> energy = dln.Schatten(2)
        >>> gradient = lambda x: dln.riemannian_gradient(energy, x, 1)
        >>> dln.covariant_derivative(gradient, x, z, 1).round(6).tolist()  # at depth 1, the Hessian of |X|^2/2
        [[1.0, 1.0], [1.0, 1.0]]
    """
    x, (z,), kernel = _checked(x, depth, z=z)
    returned = shape_of("field", field, jax.ShapeDtypeStruct(x.shape, x.dtype))
    if getattr(returned, "shape", None) != x.shape:
        shown = f"{type(returned).__name__} of " * (not hasattr(returned, "shape"))
        shown += " and ".join(str(r.shape) for r in jax.tree.leaves(returned)) or "nothing"
        raise ValueError(f"field must return one matrix of shape {x.shape}, that of x, got {shown}.")
    dtype = jnp.result_type(x, z)
    value, change = jax.jvp(field, (x.astype(dtype),), (z.astype(dtype),))
    value = as_pair(x, "the value of field at x", value)[1]
    return change + _tensor(x, (z, value), kernel, _gamma, 1)


def curvature(x: Matrix, z1: Matrix, z2: Matrix, z3: Matrix, depth: Depth) -> Matrix:
    """The Riemann curvature tensor of g^N,

        R(Z1, Z2) Z3 = nabla_Z1 nabla_Z2 Z3 - nabla_Z2 nabla_Z1 Z3 - nabla_[Z1, Z2] Z3,

    so that `inner(x, curvature(x, z1, z2, z2, depth), z1, depth)` is positive on a sphere. It is 0 at depth 1.

    No term has a singularity where singular values meet. At a diagonal `x`, in a frame of unit vectors, a component is
    right to 1e-12 of its size. For planes of one pair, the size is the inverse square of y = N sigma^(1/N) of the
    larger value, or the largest component; for all others it is that of the second smallest value. If lambda does not
    vanish at 0, as at depth 1, the curvature is smaller than that near the singular matrices. It is NaN where rounding
    may be larger than 1e-6 of the inverse square of y of the largest value. The decomposition of an `x` that is not
    diagonal adds a relative error of rounding times its condition number to the smallest singular value.

    **Arguments:** `x`, of full rank, `d d`; `z1`, `z2` and `z3`, tangent vectors, `d d`; `depth`, N in [1, inf], or a
    kernel.

    **Returns:** a tangent vector, `d d`, the same for the metric of the thesis.

    **Raises:** as `christoffel`.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> z1, z2 = jnp.diag(jnp.array([1.0, 0.0])), jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> dln.curvature(x, z1, z2, z2, 2).round(6).tolist()  # (3/4) s_2/(s_1 + s_2)^2 |z2|^2 z1, |z2|^2 = 4/3
        [[0.111111, 0.0], [0.0, -0.111111]]
    """
    x, z, kernel = _checked(x, depth, z1=z1, z2=z2, z3=z3)
    return _tensor(x, z, kernel, _curved, 2)


def sectional_curvature(x: Matrix, z1: Matrix, z2: Matrix, depth: Depth) -> Scalar:
    """The sectional curvature of the plane of Z1 and Z2,

        K = g(R(Z1, Z2) Z2, Z1) / (g(Z1, Z1) g(Z2, Z2) - g(Z1, Z2)^2).

    Both signs occur. K of the thesis's metric is N times this number.

    **Arguments:** `x`, of full rank, `d d`; `z1` and `z2`, which span a plane, `d d`; `depth`, N in [1, inf], or a
    kernel.

    **Returns:** a number.

    **Raises:** as `christoffel`, and `ValueError` for `z1` and `z2` that are parallel to rounding.

    **Example:**

        >>> x, z1 = jnp.eye(2), jnp.diag(jnp.array([1.0, 0.0]))
        >>> even, odd = jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> k = dln.sectional_curvature(x, z1, even, jnp.inf), dln.sectional_curvature(x, z1, odd, jnp.inf)
        >>> print(f"{k[0]:.6f} and {k[1]:.6f}")
        0.250000 and -0.083333
    """
    x, z, kernel = _checked(x, depth, z1=z1, z2=z2)
    out, sine = _plane(x, z, kernel)
    bad = known(jax.lax.stop_gradient(sine)) <= _DEPENDENT * float(jnp.finfo(x.dtype).eps)
    return require(out, bad, "z1 and z2 must span a plane, and are parallel to rounding, or zero.")


def ricci(x: Matrix, z1: Matrix, z2: Matrix, depth: Depth) -> Scalar:
    """The Ricci curvature, Ric(Z1, Z2) = sum_e g(R(e, Z1) Z2, e) over an orthonormal basis e of the tangent space.

    **Arguments:** `x`, of full rank, `d d`; `z1` and `z2`, tangent vectors, `d d`; `depth`, N in [1, inf], or a kernel.

    **Returns:** a number, the same for the metric of the thesis. It takes d^2 evaluations of the curvature.

    **Raises:** as `christoffel`.

    **Example:**

        >>> x = jnp.eye(2)
        >>> print(f"{dln.ricci(x, x, x, jnp.inf):.6f}")  # X e^t is a line that splits off
        0.000000
    """
    x, z, kernel = _checked(x, depth, z1=z1, z2=z2)
    return _tensor(x, z, kernel, _traced, 2)


def scalar_curvature(x: Matrix, depth: Depth) -> Scalar:
    """The scalar curvature, the sum of the sectional curvatures of all ordered pairs of an orthonormal basis.

    **Arguments:** `x`, of full rank, `d d`; `depth`, N in [1, inf], or a kernel.

    **Returns:** a number. That of the thesis's metric is N times this number. It takes d^4 evaluations of the
    curvature.

    **Raises:** as `christoffel`.

    **Example:**

        >>> x = jnp.eye(2)
        >>> print(f"{dln.scalar_curvature(x, 1):.6f}, {dln.scalar_curvature(x, jnp.inf):.6f}")
        0.000000, 0.333333
    """
    x, _, kernel = _checked(x, depth)
    return _all_planes(x, kernel)
