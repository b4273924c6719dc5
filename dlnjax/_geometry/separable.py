"""First divided differences of lambda^power as sums of products, for the flow of geodesics.

`first_difference` in `differences.py` is an array of d^3 numbers, each with three evaluations of the kernel. Between
values that are apart, a divided difference is a difference of two entries of a matrix over a gap. Between values that
are near each other, it is the mean of a derivative, and Hermite's formula gives this mean from the derivatives at both
values. Either way the sums over a third index are products of matrices, and the kernel is evaluated d^2 times.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._geometry.kernel import Kernel
from dlnjax._tree import kept
from dlnjax._types import Matrix

# Hermite's formula with two derivatives at both ends has an error of the sixth order in the relative gap, as the
# quadrature of `first_difference` has. The threshold is the same for this reason.
_CLOSE = 1e-2
# The weights of Hermite's formula: the mean of g over [a, a + h] is half of g(a) + g(a + h), minus h/10 times the
# difference of the slopes of g, plus h^2/120 times the sum of the second derivatives of g.
_SLOPES, _BENDS = 1 / 10, 1 / 120


class Jet(eqx.Module):
    """log lambda at (s_i, s_j) and its first three derivatives in log s_i."""

    value: Float[Array, "d d"]
    derivatives: tuple[Float[Array, "d d"], Float[Array, "d d"], Float[Array, "d d"]]

    @classmethod
    def of(cls, s: Float[Array, " d"], kernel: Kernel) -> "Jet":
        log = jnp.log(s) / 2
        row, column = jnp.broadcast_arrays(log[:, None], log[None, :])
        one = jnp.ones_like(row)

        def slope(row: Float[Array, "d d"]) -> Float[Array, "d d"]:
            return kernel.log_slope(row, column)

        def bend(row: Float[Array, "d d"]) -> tuple[Array, Array]:
            return jax.jvp(slope, (row,), (one,))

        (first, second), (_, third) = jax.jvp(bend, (row,), (one,))
        # s is the square of a singular value, so that each derivative in log s is half of one in log sigma.
        # Four loops read them, some for the transposes: with `kept` the velocity takes half the time at d = 8.
        return cls(kept(kernel.log_eigenvalue(row, column)), (kept(first / 2), kept(second / 4), kept(third / 8)))


class Differences(eqx.Module):
    """The divided differences [s_i, s_k] of lambda^power(., s_j), as the sum over m of

    plain[m]_ik times[m]_ij + other[m]_ik times[m]_kj.
    """

    times: Float[Array, "m d d"]
    plain: Float[Array, "m d d"]
    other: Float[Array, "m d d"]

    @classmethod
    def of(cls, s: Float[Array, " d"], jet: Jet, power: int | float) -> "Differences":
        a, b, c = (power * z for z in jet.derivatives)
        f, column = jnp.exp(power * jet.value), s[:, None]
        # The derivatives in s from those in log s: s d/ds = d/dlog s.
        first, second = a * f, (b + a * a) * f
        third = (c + 3 * a * b + a**3) * f
        bend = (second - first) / column**2
        twist = (third - 3 * second + 2 * first) / column**3
        gap, total = s[:, None] - s[None, :], s[:, None] + s[None, :]
        far = jnp.abs(gap) > _CLOSE * total
        h = jnp.where(far, 0.0, gap)
        quotient, half = jnp.where(far, 1 / jnp.where(far, gap, 1.0), 0.0), jnp.where(far, 0.0, 1 / 2)
        slope, twice = _SLOPES * h, _BENDS * h * h
        return cls(
            jnp.stack([f, first / column, bend, twist]),
            jnp.stack([quotient, half, -slope, twice]),
            jnp.stack([-quotient, half, slope, twice]),
        )

    def density(self, g: Matrix) -> Matrix:
        """The gradient of Tr(G^T A^power(G)) in X X^T, in the frame of X; with G^T in place of G, that in X^T X."""
        m = (self.times * g[None]) @ g.T
        return jnp.sum(self.plain * m + self.other * jnp.swapaxes(m, -1, -2), axis=0)

    def turned(self, g: Matrix, left: Matrix) -> Matrix:
        """The motion of A^power(G) at fixed G, when X X^T moves by `left`."""
        left, g = left[None], g[None]
        return jnp.sum(self.times * ((self.plain * left) @ g) + (self.other * left) @ (self.times * g), axis=0)
