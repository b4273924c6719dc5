"""Jacobi fields: the derivative of the exponential, integrated along with it, and the times at which it is singular."""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._geodesics.hamiltonian import BlockDopri8, largest, velocity
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.metric import apply_metric_operator
from dlnjax._tree import ravel
from dlnjax._types import Matrix, Scalar

_CELLS = 64


class Fields(eqx.Module):
    """A geodesic, its momentum, and `n` variations of both, at each time."""

    x: Float[Array, "times d d"]
    p: Float[Array, "times d d"]
    dx: Float[Array, "times n d d"]
    dp: Float[Array, "times n d d"]


def _varied(state, kernel):
    x, p, dx, dp = state
    along = lambda z, q: jax.jvp(lambda x, p: velocity(x, p, kernel), (x, p), (z, q))
    moved, rates = jax.vmap(along, out_axes=(None, 0))(dx, dp)
    return *moved, *rates


@eqx.filter_jit
def jacobians(x: Matrix, p: Matrix, kernel: Kernel, ts: Float[Array, " times"], rtol: Scalar):
    """The derivatives of X and P at each time in X and P at the start and the numbers of the kernel, as vectors.

    **Returns:** two arrays `times n 2n+k`, for n = d^2 and a kernel of k numbers (one, 1/N, for `Balanced`).
    """
    n = x.size
    numbers, kernel_of = ravel(kernel)
    basis = jnp.eye(2 * n + len(numbers), dtype=x.dtype)
    dx, dp, dk = basis[:, :n].reshape(-1, *x.shape), basis[:, n : 2 * n].reshape(-1, *x.shape), basis[:, 2 * n :]

    def varied(state):
        x, p, dx, dp = state
        flow = lambda x, p, numbers: velocity(x, p, kernel_of(numbers))
        along = lambda *d: jax.jvp(flow, (x, p, numbers), d)
        moved, rates = jax.vmap(along, out_axes=(None, 0))(dx, dp, dk)
        return *moved, *rates

    found = _integrate(varied, (x, p, dx, dp), ts, rtol)
    columns = lambda z: jnp.swapaxes(z.reshape(len(ts), -1, n), 1, 2)
    return columns(found.dx), columns(found.dp)


def fields(
    x: Matrix,
    p: Matrix,
    dx: Float[Array, "n d d"],
    dp: Float[Array, "n d d"],
    kernel: Kernel,
    ts: Float[Array, " times"],
    rtol: Scalar,
) -> Fields:
    """The flow (3.46) and its derivative along each variation (dX, dP) of the start."""
    return _integrate(lambda state: _varied(state, kernel), (x, p, dx, dp), ts, rtol)


def _integrate(varied, start, ts, rtol) -> Fields:
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: varied(y)),
        BlockDopri8(),
        t0=ts[0],
        t1=ts[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=ts),
        stepsize_controller=diffrax.PIDController(rtol=0.0, atol=rtol, norm=largest),
        adjoint=diffrax.ForwardMode(),
        max_steps=4096,
        throw=False,
    )
    states: Any = solution.ys
    return Fields(*states)


def conjugate_time(x: Matrix, p: Matrix, kernel: Kernel, rtol: Scalar) -> Scalar:
    """The first t in (0, 1] at which P -> X(t) is singular, inf if there is none, NaN if the geodesic ends early.

    The Jacobi fields that vanish at the start are taken in orthonormal coordinates at both ends. A zero of the smallest
    singular value that is no change of sign (of even multiplicity) counts as well.
    """
    d = x.shape[0]
    n = d * d
    basis = jnp.eye(n, dtype=x.dtype).reshape(n, d, d)
    root = lambda z, power: apply_metric_operator(z[0], z[1], kernel, power=power)
    dp = jax.vmap(lambda z: root((x, z), -0.5))(basis)
    ts = jnp.linspace(0.0, 1.0, _CELLS + 1, dtype=x.dtype)
    found = fields(x, p, jnp.zeros_like(dp), dp, kernel, ts, rtol)
    rates = jax.vmap(lambda y: _varied((y.x, y.p, y.dx, y.dp), kernel)[2])(found)

    def singular(x, dx):
        j = jax.vmap(lambda z: root((x, z), -0.5))(dx).reshape(n, n)
        return jnp.linalg.svd(j, compute_uv=False)[-1], jnp.linalg.slogdet(j)[0]

    smallest, sign = jax.vmap(singular)(found.x[1:], found.dx[1:])
    # Per unit of time the fields begin with the identity.
    s = jnp.append(1.0, smallest / ts[1:])
    sign = jnp.append(1.0, sign)
    left = jnp.append(jnp.inf, s[:-1])
    crossed = jnp.append(sign[:-1] != sign[1:], False)
    right = jnp.append(s[1:], jnp.inf)
    # A zero between two times is as near as the slope there carries.
    touched = (
        (s <= left) & (s <= right) & (s <= 2 * jnp.minimum(left - s, jnp.where(jnp.isinf(right), left, right) - s))
    )
    suspects = crossed | touched | jnp.append(touched[1:], False)

    def at(i, t):
        """The smallest singular value inside cell i, by cubic interpolation."""
        h = ts[1]
        u = (t - ts[i]) / h
        y0, y1, f0, f1 = found.dx[i], found.dx[i + 1], h * rates[i], h * rates[i + 1]
        dx = y0 + u * (f0 + u * (3 * (y1 - y0) - 2 * f0 - f1 + u * (2 * (y0 - y1) + f0 + f1)))
        v0, v1 = (h * apply_metric_operator(found.x[k], found.p[k], kernel) for k in (i, i + 1))
        z0, z1 = found.x[i], found.x[i + 1]
        z = z0 + u * (v0 + u * (3 * (z1 - z0) - 2 * v0 - v1 + u * (2 * (z0 - z1) + v0 + v1)))
        return singular(z, dx)[0] / jnp.maximum(t, h / 2)

    golden = (5**0.5 - 1) / 2

    def narrow(state):
        i, _ = state
        i = jnp.argmax((jnp.arange(_CELLS + 1) > i) & suspects)

        def shrink(_, ends):
            lo, hi = ends
            inner, outer = hi - golden * (hi - lo), lo + golden * (hi - lo)
            lower = at(i, inner) < at(i, outer)
            return jnp.where(lower, lo, inner), jnp.where(lower, outer, hi)

        lo, hi = jax.lax.fori_loop(0, 45, shrink, (ts[i], ts[i + 1]))
        t = (lo + hi) / 2
        return i, jnp.where(at(i, t) < 1e-6, t, jnp.inf)

    suspects = suspects.at[-1].set(False)
    more = lambda state: jnp.isinf(state[1]) & jnp.any((jnp.arange(_CELLS + 1) > state[0]) & suspects)
    _, t = jax.lax.while_loop(more, narrow, (jnp.asarray(-1), jnp.asarray(jnp.inf, x.dtype)))
    return jnp.where(jnp.all(jnp.isfinite(found.dx)), t, jnp.nan)
