"""The coordinates of the Levi-Civita connection at a square X of full rank, and the divided differences in them.

Near X = diag(sigma), a matrix is written as e^(R/2) sigma(W) e^(R/2), where W is symmetric with the eigenvalues
y(sigma) of `Kernel.straighten`, and R is antisymmetric. With W = diag(y), a tangent vector is a pair (A, R), and

    g = sum_ij c_ij A_ij^2 + P_ij R_ij^2,    P_ij = (sigma_i + sigma_j)^2 / (4 lambda_ij),
    c_ij = ((sigma_i - sigma_j)/(y_i - y_j))^2 / lambda_ij.

c and P are smooth where singular values meet, and c_ii = 1. In coordinates of X itself the metric grows without bound
near the singular matrices, and terms of the curvature cancel there to the last digit. Derivatives along W are made of
divided differences in y (Daleckii and Krein). Where two singular values are near each other, these are means of
derivatives over the segment between them (Peano), by Gauss-Legendre quadrature in log sigma.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dlnjax._geometry.kernel import Balanced, Kernel
from dlnjax._geometry.special import log_shc

# Two singular values are near each other if their logarithms differ by less than _CLOSE. The functions here are
# analytic in log sigma up to a distance of pi, so that six nodes are exact to rounding there.
_CLOSE = 0.5
_POINTS, _MASSES = np.polynomial.legendre.leggauss(6)
_NODES, _WEIGHTS = (1 + _POINTS) / 2, _MASSES / 2

# log sigma and sigma, of equal shape. Both are kept, since the derivatives of sigma in y follow from lambda alone.
Value: TypeAlias = tuple[Float[Array, "..."], Float[Array, "..."]]
Weights: TypeAlias = Callable[[Value, Value, Float[Array, "..."]], Float[Array, "... 2"]]


def _value(log: Float[Array, "*s"]) -> Value:
    return log, jnp.exp(log)


def _log_rate(kernel: Kernel, log: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """log dsigma/dy, which is log lambda(sigma, sigma)/2."""
    return kernel.log_eigenvalue(log, log) / 2


def _velocity(kernel: Kernel, s: Value) -> Value:
    """The derivatives of a value in y."""
    rate = _log_rate(kernel, s[0])
    return jnp.exp(rate - s[0]), jnp.exp(rate)


def _log_stretch(kernel: Kernel, log_s: Float[Array, "*s"], log_t: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The logarithm of (y(s) - y(t))/(log s - log t)."""
    u = log_s - log_t
    if isinstance(kernel, Balanced):
        return kernel.inverse_depth * (log_s + log_t) / 2 + log_shc(kernel.inverse_depth * u / 2)
    near = jnp.abs(u) < _CLOSE
    small, apart = jnp.where(near, u, 0.0), jnp.where(near, 1.0, u)
    # The mean of dy/dlog sigma over the segment between the two. Its size is taken out, so that no power overflows.
    along = log_t[..., None] + small[..., None] * jnp.asarray(_NODES, u.dtype)
    slope = along - _log_rate(kernel, along)
    size = jax.lax.stop_gradient(slope[..., :1])
    mean = jnp.log(jnp.exp(slope - size) @ jnp.asarray(_WEIGHTS, u.dtype)) + size[..., 0]
    gap = kernel.straighten(jnp.exp(log_s)) - kernel.straighten(jnp.exp(log_t))
    return jnp.where(near, mean, jnp.log(jnp.where(near, 1.0, gap / apart)))


def _weights(kernel: Kernel) -> Weights:
    """(c, P) as a function of two singular values and of the difference of their y, elementwise."""

    def weights(s: Value, t: Value, gap: Float[Array, "..."]) -> Float[Array, "... 2"]:
        (log_s, s), (log_t, t) = s, t
        u = log_s - log_t
        near = jnp.abs(u) < _CLOSE
        small = jnp.where(near, u, 0.0)
        # Where the two are apart, y enters by its difference alone, whose derivatives in y are 1 and -1.
        logarithmic = (log_s + log_t) / 2 + log_shc(small / 2) - _log_stretch(kernel, log_t + small, log_t)
        quotient = jnp.log(jnp.where(near, 1.0, (s - t) / jnp.where(near, 1.0, gap)))
        even = jnp.where(near, logarithmic, quotient)
        odd = jnp.log((s + t) / 2)
        return jnp.exp(2 * jnp.stack([even, odd], -1) - kernel.log_eigenvalue(log_s, log_t)[..., None])

    return weights


def _along(f: Weights, kernel: Kernel, argument: int) -> Weights:
    """The derivative of f in the y of its first (0) or second (1) argument."""

    def derivative(s: Value, t: Value, gap: Float[Array, "..."]) -> Float[Array, "... 2"]:
        still = (jnp.zeros_like(gap),) * 2
        moves = (still, _velocity(kernel, t), -jnp.ones_like(gap)) if argument else (_velocity(kernel, s), still, jnp.ones_like(gap))
        return jax.jvp(f, (s, t, gap), moves)[1]

    return derivative


def _at(f: Weights, kernel: Kernel, log_s: Float[Array, "..."], log_t: Float[Array, "..."]) -> Float[Array, "... 2"]:
    """f at two singular values whose logarithms are broadcast against each other."""
    log_s, log_t = jnp.broadcast_arrays(log_s, log_t)
    gap = (log_s - log_t) * jnp.exp(_log_stretch(kernel, log_s, log_t))
    return f(_value(log_s), _value(log_t), gap)


class Straight(eqx.Module):
    """What the curvature at a point needs of its singular values, which must descend.

    **Attributes:** `gap`, y_i - y_j; `weights`, c and P; `first` at [i, j, k], their divided differences between i and
    j in one argument, with k in the other; `three` at [i, j, l, k], those over i, j and l; `mixed` at [i, j, l, k],
    between i and j in the first argument and between l and k in the second. The last axis, of 2, is for c and P.
    `stretch` and `bend`: the first and second divided differences of sigma as a function of y.
    """

    gap: Float[Array, "d d"]
    weights: Float[Array, "d d 2"]
    first: Float[Array, "d d d 2"]
    three: Float[Array, "d d d d 2"]
    mixed: Float[Array, "d d d d 2"]
    stretch: Float[Array, "d d"]
    bend: Float[Array, "d d d"]

    def __init__(self, sigma: Float[Array, " d"], kernel: Kernel):
        log, weights = jnp.log(sigma), _weights(kernel)
        row, column = log[:, None], log[None, :]
        on = _Segments(log, kernel)
        slope = _along(weights, kernel, 0)
        at_nodes = partial(_at, kernel=kernel, log_s=on.log[..., None])
        self.gap, self.weights = on.gap, _at(weights, kernel, row, column)
        self.first = on.first(self.weights, on.mean(at_nodes(slope, log_t=log)))
        curve = at_nodes(_along(slope, kernel, 0), log_t=log)
        self.three = on.second(self.first, on.mean(curve, on.lever))
        twist = _at(_along(slope, kernel, 1), kernel, on.log[..., None, None, None], on.log)
        by_second = on.mean(jnp.moveaxis(on.mean(twist), (0, 1), (3, 4)))
        self.mixed = on.mixed(self.first, jnp.moveaxis(by_second, (2, 3), (0, 1)))
        self.stretch = jnp.exp((row + column) / 2 + log_shc((row - column) / 2) - _log_stretch(kernel, row, column))
        rate = lambda log: jnp.exp(_log_rate(kernel, log))
        acceleration = jax.jvp(rate, (on.log,), (_velocity(kernel, _value(on.log))[0],))[1]
        self.bend = on.second(self.stretch, on.mean(acceleration, on.lever))


class _Segments(eqx.Module):
    """The segments between any two singular values, the nodes on them, and the divided differences in y."""

    gap: Float[Array, "d d"]
    far: Bool[Array, "d d"]
    log: Float[Array, "d d nodes"]
    slope: Float[Array, "d d nodes"]
    lever: Float[Array, "d d nodes"]

    def __init__(self, log: Float[Array, " d"], kernel: Kernel):
        u = log[:, None] - log[None, :]
        nodes = jnp.asarray(_NODES, log.dtype)
        stretch = _log_stretch(kernel, *jnp.broadcast_arrays(log[:, None], log[None, :]))
        self.gap, self.far = u * jnp.exp(stretch), jnp.abs(u) >= _CLOSE
        self.log = log[:, None, None] - jnp.where(self.far, 0.0, u)[..., None] * nodes
        start = jnp.broadcast_to(log[:, None, None], self.log.shape)
        # How far a node is along the segment, as a share of it in y, and its derivative in that in log sigma.
        self.lever = nodes * jnp.exp(_log_stretch(kernel, start, self.log) - stretch[..., None])
        self.slope = jnp.exp(self.log - _log_rate(kernel, self.log) - stretch[..., None])

    def mean(self, f: Float[Array, "d d nodes *rest"], lever: Float[Array, "d d nodes"] | None = None) -> Array:
        """The mean of f in y over each segment, or with the `lever` half of a mean whose weights rise from 0."""
        share = self.slope * jnp.asarray(_WEIGHTS, f.dtype) * (1.0 if lever is None else lever)
        return jnp.einsum("ijm,ijm...->ij...", share, f)

    def first(self, f: Float[Array, "d *rest"], near: Float[Array, "d d *rest"]) -> Float[Array, "d d *rest"]:
        """The divided differences of f, which near each other are the means of its slope."""
        return _choose(self.far, _quotient(f[:, None] - f[None, :], self.gap, self.far), near)

    def second(self, first: Float[Array, "d d *rest"], hat: Float[Array, "d d *rest"]) -> Float[Array, "d d d *rest"]:
        """The second divided differences at [i, j, l].

        Where all three are near each other, this is the mean of the second derivative with the weights of Peano's
        kernel: they rise from 0 at either end to the value in the middle.
        """
        # As the values descend, the first and the last of the sorted indices are the farthest apart.
        i, j, l = np.sort(np.indices(first.shape[:1] * 3), axis=0)
        gap, far = self.gap[i, l], self.far[i, l]
        quotient = _quotient(first[i, j] - first[j, l], gap, far)
        share = jnp.where(gap == 0, 0.5, self.gap[i, j] / jnp.where(gap == 0, 1.0, gap))
        near = _times(share, hat[i, j]) + _times(1 - share, hat[l, j])
        return _choose(far, quotient, near)

    def mixed(self, first: Float[Array, "d d d 2"], near: Float[Array, "d d d d 2"]) -> Float[Array, "d d d d 2"]:
        """The divided differences in both arguments, at [i, j, l, k]."""
        left, right = self.far[:, :, None, None], self.far[None, None]
        other = jnp.moveaxis(first, 2, 0)
        by_left = _quotient(other[:, None] - other[None, :], self.gap[:, :, None, None], left)
        by_right = _quotient(first[:, :, :, None] - first[:, :, None, :], self.gap[None, None], right)
        return _choose(left, by_left, _choose(right, by_right, near))


def _quotient(above: Float[Array, "..."], gap: Float[Array, "..."], far: Bool[Array, "..."]) -> Float[Array, "..."]:
    """above / gap where `far` holds, and a number without meaning elsewhere."""
    return _times(1 / jnp.where(far, gap, 1.0), above)


def _times(number: Float[Array, "..."], f: Float[Array, "..."]) -> Float[Array, "..."]:
    """The product of f with numbers for its first axes."""
    return number.reshape(number.shape + (1,) * (f.ndim - number.ndim)) * f


def _choose(which: Bool[Array, "..."], one: Float[Array, "..."], other: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(which.reshape(which.shape + (1,) * (one.ndim - which.ndim)), one, other)
