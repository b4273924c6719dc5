"""Jacobi fields, which are the derivative of the exponential map, and conjugate times, at which it is singular."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geodesics.dopri8 import solve
from dlnjax._geodesics.hamiltonian import velocity
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import apply_metric_operator
from dlnjax._lapack import sign_of_determinant
from dlnjax._modes import compiled_by_columns
from dlnjax._svd import singular_values, svd
from dlnjax._tree import instantiate, iterate, nan_unless, ravel
from dlnjax._types import Scalar, Square

# [0, 1] is divided into this many cells, in which conjugate times are looked for. Two in one cell are seen as one.
_CELLS = 64
# The ratio and the number of golden sections. They shorten a cell to 0.618^45 / 64 = 6e-12, as far as rounding allows.
_GOLDEN, _SECTIONS = (5**0.5 - 1) / 2, 45
# A minimum below this value counts as a zero. The interpolation is accurate to about 1e-8.
_ZERO = 1e-6
# The largest number of steps of the solver. A geodesic that needs more comes too near the singular matrices.
_MOST_STEPS = 4096


class Fields(eqx.Module):
    """A geodesic, its momentum, and `n` variations of both, at each time."""

    x: Float[Array, "times d d"]
    p: Float[Array, "times d d"]
    dx: Float[Array, "times n d d"]
    dp: Float[Array, "times n d d"]


# (X, P, dX, dP): a point, its momentum, and `n` variations of both.
State: TypeAlias = tuple[Square, Square, Float[Array, "n d d"], Float[Array, "n d d"]]


def _varied(state: State, kernel: Kernel) -> State:
    """The velocity of (3.46), and its derivative along each variation: the equation of Jacobi fields."""
    x, p, dx, dp = state

    def along(z: Square, q: Square) -> tuple[Any, Any]:
        return jax.jvp(lambda x, p: velocity(x, p, kernel), (x, p), (z, q))

    moved, rates = jax.vmap(along, out_axes=(None, 0))(dx, dp)
    return *moved, *rates


def directions(x: Square, count: int) -> tuple[Float[Array, "m d d"], Float[Array, "m d d"], Float[Array, "m k"]]:
    """A basis of the variations of X, of its momentum, and of `count` numbers of the kernel, in this order."""
    n, basis = x.size, jnp.eye(2 * x.size + count, dtype=x.dtype)
    return basis[:, :n].reshape(-1, *x.shape), basis[:, n : 2 * n].reshape(-1, *x.shape), basis[:, 2 * n :]


@compiled_by_columns
def jacobians(
    x: Square, p: Square, kernel: Kernel, ts: Float[Array, " times"], rtol: Scalar
) -> tuple[Float[Array, "times n m"], Float[Array, "times n m"]]:
    """The derivatives of X and P at each time, with respect to X and P at the start and to the numbers of the kernel.

    Matrices are written as vectors.

    **Returns:** two arrays `times n m`, m = 2n + k, for n = d^2 and a kernel of k numbers (one, 1/N, for `Balanced`).
    """
    # The numbers of the kernel are constant in time, and are no part of the state. A tangent of them moves the
    # velocity.
    numbers, kernel_of = ravel(kernel, x.dtype)
    dx, dp, dk = directions(x, len(numbers))

    def flow(x: Square, p: Square, numbers: Float[Array, " k"]) -> tuple[Square, Square]:
        return velocity(x, p, kernel_of(numbers))

    def varied(state: State) -> State:
        x, p, dx, dp = state

        def along(*direction: Array) -> tuple[Any, Any]:
            return jax.jvp(flow, (x, p, numbers), direction)

        moved, rates = jax.vmap(along, out_axes=(None, 0))(dx, dp, dk)
        return *moved, *rates

    found = _integrate(varied, (x, p, dx, dp), ts, rtol)
    return _columns(found.dx), _columns(found.dp)


def _columns(z: Float[Array, "times m d d"]) -> Float[Array, "times n m"]:
    """The same variations, each written as a column."""
    return jnp.swapaxes(z.reshape(*z.shape[:2], -1), 1, 2)


def fields(
    x: Square,
    p: Square,
    dx: Float[Array, "n d d"],
    dp: Float[Array, "n d d"],
    kernel: Kernel,
    ts: Float[Array, " times"],
    *,
    rtol: Scalar,
) -> Fields:
    """The flow (3.46) and its derivative along each variation (dX, dP) of the start."""
    return _integrate(partial(_varied, kernel=kernel), (x, p, dx, dp), ts, rtol)


def _integrate(varied: Callable[[State], State], start: State, ts: Float[Array, " times"], rtol: Scalar) -> Fields:
    return Fields(*solve(varied, start, ts, rtol, max_steps=_MOST_STEPS).saved)


@filter_custom_jvp
def conjugate_time(x: Square, p: Square, kernel: Kernel, *, rtol: Scalar) -> Scalar:
    """The first t in (0, 1] at which P -> X(t) is singular, inf if there is none, NaN if the geodesic ends early.

    The Jacobian of this map consists of the Jacobi fields that vanish at the start. It is written in orthonormal
    coordinates at both ends. A zero of its smallest singular value counts even if its determinant keeps its sign there,
    as at a zero of even multiplicity.
    """
    dp = _units(x, kernel)
    ts = jnp.linspace(0.0, 1.0, _CELLS + 1, dtype=x.dtype)
    found = fields(x, p, jnp.zeros_like(dp), dp, kernel, ts, rtol=rtol)
    rates = jax.vmap(lambda y: _varied((y.x, y.p, y.dx, y.dp), kernel)[2])(found)

    def curve(i: Int[Array, ""], t: Scalar) -> Scalar:
        return _smallest_inside(found, rates, ts, kernel, i, t)

    t = _first_zero(curve, _suspects(found, ts, kernel), ts)
    return nan_unless(jnp.all(jnp.isfinite(found.dx)), t)


@conjugate_time.def_jvp
def _conjugate_time_jvp(
    primals: tuple[Square, Square, Kernel], tangents: tuple[Square | None, Square | None, PyTree], *, rtol: Scalar
):
    """The derivative of the zero, by the implicit function theorem.

    That of the search would be 0, as its interval shrinks by numbers that do not move. The derivative of inf is 0.
    """
    t = conjugate_time(*primals, rtol=rtol)
    moved, _ = ravel(instantiate(tangents, primals))
    change = _slopes_of_time(*primals, jnp.where(jnp.isfinite(t), t, 1.0), rtol) @ moved
    return t, nan_unless(~jnp.isnan(t), jnp.where(jnp.isinf(t), 0.0, change))


@compiled
def _slopes_of_time(x: Square, p: Square, kernel: Kernel, t: Scalar, rtol: Scalar) -> Float[Array, " m"]:
    """The derivatives of a conjugate time in X, P and the numbers of the kernel.

    With the Jacobian J(t), and vectors u and v of which J v = 0 and u^T J = 0, they are -(u^T dJ v)/(u^T J' v). A zero
    of multiplicity above 1 splits as the start moves, so that its time has no derivative, and NaN is returned.
    """
    n, ts, dp = x.size, jnp.stack([jnp.zeros_like(t), t]), _units(x, kernel)
    found = jax.tree.map(lambda z: z[-1], fields(x, p, jnp.zeros_like(dp), dp, kernel, ts, rtol=rtol))
    # The rows are the fields, in orthonormal coordinates at the end. A factor that is regular adds nothing to u^T dJ v.
    null = svd(_orthonormal(found.x, found.dx, kernel).reshape(n, n))
    field = jnp.tensordot(null.u[:, -1], dp, 1)
    test = apply_metric_operator(found.x, null.v[:, -1].reshape(x.shape), kernel, power=-0.5)
    numbers, kernel_of = ravel(kernel, x.dtype)
    dx, dp, dk = directions(x, len(numbers))

    def flow(x: Square, p: Square, y: Square, q: Square, numbers: Float[Array, " k"]) -> tuple[Square, ...]:
        moved, rates = jax.jvp(lambda x, p: velocity(x, p, kernel_of(numbers)), (x, p), (y, q))
        return *moved, *rates

    def varied(state: PyTree) -> PyTree:
        along = lambda *direction: jax.jvp(flow, (*state[0], numbers), direction)
        return jax.vmap(along, out_axes=(None, 0))(*state[1], dk)

    none = jnp.zeros_like(dx)
    start = (x, p, jnp.zeros_like(x), field), (dx, dp, none, none)
    (end, moves) = jax.tree.map(lambda z: z[-1], solve(varied, start, ts, rtol, max_steps=_MOST_STEPS).saved)
    rate = flow(end[0], end[1], end[2], end[3], numbers)[2]
    simple = null.sigma[-2] > _ZERO * t if n > 1 else True
    return nan_unless(simple, -jnp.sum(moves[2] * test, axis=(1, 2)) / jnp.sum(rate * test))


def _units(x: Square, kernel: Kernel) -> Float[Array, "n d d"]:
    """A basis of the momenta at X, orthonormal in the metric of covectors."""
    return _orthonormal(x, jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape), kernel)


def _orthonormal(x: Square, zs: Float[Array, "n d d"], kernel: Kernel) -> Float[Array, "n d d"]:
    """A_X^{-1/2}(Z) of each Z, whose Frobenius norm is the length of Z."""
    return jax.vmap(lambda z: apply_metric_operator(x, z, kernel, power=-0.5))(zs)


def _singular(x: Square, dx: Float[Array, "n d d"], kernel: Kernel) -> tuple[Scalar, Scalar]:
    """(the smallest singular value of the Jacobian in orthonormal coordinates, the sign of its determinant)."""
    n = x.size
    j = _orthonormal(x, dx, kernel).reshape(n, n)
    return singular_values(j)[-1], sign_of_determinant(j)


def _suspects(found: Fields, ts: Float[Array, " times"], kernel: Kernel) -> Bool[Array, " times"]:
    """The cells of `ts` in which the smallest singular value of the Jacobian may vanish, each at its left end's index.

    A change of sign of the determinant shows zeros of odd multiplicity only. For the other zeros, a cell counts beside
    a local minimum of the smallest singular value, if the slope there is steep enough to reach zero.
    """
    smallest, sign = jax.vmap(partial(_singular, kernel=kernel))(found.x[1:], found.dx[1:])
    # The fields are 0 at the start. Divided by the time they tend to the identity, in orthonormal coordinates.
    s, sign = jnp.append(1.0, smallest / ts[1:]), jnp.append(1.0, sign)
    left, right = jnp.append(jnp.inf, s[:-1]), jnp.append(s[1:], jnp.inf)
    crossed = jnp.append(sign[:-1] != sign[1:], False)
    # Near a zero t0 the smallest singular value is |t - t0| times a slope. The fall from a neighbouring time to this
    # one measures the slope. A value above twice the fall does not vanish in either cell.
    fall = jnp.minimum(left - s, jnp.where(jnp.isinf(right), left, right) - s)
    touched = (s <= left) & (s <= right) & (s <= 2 * fall)
    return (crossed | touched | jnp.append(touched[1:], False)).at[-1].set(False)


def _hermite(u: Scalar, y0: Array, y1: Array, f0: Array, f1: Array) -> Array:
    """The cubic with values y0, y1 and slopes f0, f1 at u = 0 and 1."""
    return y0 + u * (f0 + u * (3 * (y1 - y0) - 2 * f0 - f1 + u * (2 * (y0 - y1) + f0 + f1)))


def _smallest_inside(
    found: Fields,
    rates: Float[Array, "times n d d"],
    ts: Float[Array, " times"],
    kernel: Kernel,
    i: Int[Array, ""],
    t: Scalar,
) -> Scalar:
    """The smallest singular value of the Jacobian divided by the time, at t inside cell i, by cubic interpolation.

    The division keeps this value away from 0 at the start, where the Jacobian itself is 0.
    """
    h = ts[1]
    u = (t - ts[i]) / h
    dx = _hermite(u, found.dx[i], found.dx[i + 1], h * rates[i], h * rates[i + 1])
    v0, v1 = (h * apply_metric_operator(found.x[k], found.p[k], kernel) for k in (i, i + 1))
    x = _hermite(u, found.x[i], found.x[i + 1], v0, v1)
    return _singular(x, dx, kernel)[0] / jnp.maximum(t, h / 2)


def _first_zero(
    curve: Callable[[Int[Array, ""], Scalar], Scalar], suspects: Bool[Array, " times"], ts: Float[Array, " times"]
) -> Scalar:
    """The first zero of the curve in any of the suspected cells, inf if there is none."""
    cells = jnp.arange(ts.shape[0])

    def look(state: tuple[Int[Array, ""], Scalar]) -> tuple[Int[Array, ""], Scalar]:
        i, _ = state
        i = jnp.argmax((cells > i) & suspects)
        t = _minimise(partial(curve, i), ts[i], ts[i + 1])
        return i, jnp.where(curve(i, t) < _ZERO, t, jnp.inf)

    def go_on(state: tuple[Int[Array, ""], Scalar]) -> Bool[Array, ""]:
        i, t = state
        return jnp.isinf(t) & jnp.any((cells > i) & suspects)

    return iterate(look, go_on, (jnp.asarray(-1), jnp.asarray(jnp.inf, ts.dtype)))[1]


def _minimise(f: Callable[[Scalar], Scalar], left: Scalar, right: Scalar) -> Scalar:
    """The point at which f is smallest in an interval, by golden section search.

    Newton's method would need a derivative, and the smallest singular value has a corner at its zero.
    """

    def shrink(_: Any, ends: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        lo, hi = ends
        inner, outer = hi - _GOLDEN * (hi - lo), lo + _GOLDEN * (hi - lo)
        lower = f(inner) < f(outer)
        return jnp.where(lower, lo, inner), jnp.where(lower, outer, hi)

    lo, hi = jax.lax.fori_loop(0, _SECTIONS, shrink, (left, right))
    return (lo + hi) / 2
