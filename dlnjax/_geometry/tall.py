"""The operator and the quadratic form at a matrix that is not square, with first and second derivatives.

A matrix with more columns than rows is transposed, which exchanges nu and mu. So let X have more rows than columns.
Inside of the column space of X, A_X acts on Z as in the square case. Outside of it are the eigenvectors of X X^T for
the eigenvalue 0. On them A_X multiplies column j of Z V by nu_j, and the theorem of Daleckii and Krein holds with nu in
place of lambda. All these eigenvectors have the same divided differences. Sums over them are therefore products of
matrices with the rows of X, and no basis of them is needed.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._geometry import motion
from dlnjax._geometry.differences import (
    first_difference,
    first_of_one,
    leaving_power,
    second_differences,
    second_of_one,
    squares,
    values,
)
from dlnjax._geometry.kernel import Kernel
from dlnjax._svd import plain_point, SVD, svd
from dlnjax._types import Matrix


class Entries(eqx.Module):
    """A matrix Z in the frame of X: U^T Z V inside of the column space, (I - U U^T) Z V outside of it."""

    inside: Float[Array, "r r"]
    outside: Float[Array, "m r"]

    @classmethod
    def of(cls, point: SVD, z: Matrix) -> "Entries":
        columns = z @ point.v
        inside = point.u.T @ columns
        return cls(inside, columns - point.u @ inside)

    def out_of(self, point: SVD) -> Matrix:
        """Z itself."""
        return (point.u @ self.inside + self.outside) @ point.v.T

    def __add__(self, other: "Entries") -> "Entries":
        return Entries(self.inside + other.inside, self.outside + other.outside)


class Motion(eqx.Module):
    """A motion of X X^T and of X^T X, or a gradient in them.

    **Attributes:** `left`, X X^T inside of the column space; `beside`, X X^T between the outside (rows) and the inside
    (columns); `right`, X^T X.
    """

    left: Float[Array, "r r"]
    right: Float[Array, "r r"]
    beside: Float[Array, "m r"]

    @classmethod
    def of(cls, m: Entries, sigma: Float[Array, " r"]) -> "Motion":
        """The motion when X moves by the matrix with the entries `m`."""
        return cls(*motion.moved(m.inside, sigma), m.outside * sigma[None, :])


class Weights(eqx.Module):
    """lambda^power and nu^power at X, and their divided differences in the squares s of the singular values.

    **Attributes:** `inside`, lambda^power; `outside`, nu^power; `first`, the differences of lambda^power. `across` at
    [k, j] is the difference between s_k, where the function is lambda^power, and 0, where it is nu^power, with s_j as
    the second argument. `rest` at [j, k] is the difference of nu^power between s_j and s_k.
    """

    inside: Float[Array, "r r"]
    outside: Float[Array, " r"]
    first: Float[Array, "r r r"]
    across: Float[Array, "r r"]
    rest: Float[Array, "r r"]

    @classmethod
    def of(cls, sigma: Float[Array, " r"], kernel: Kernel, power: int | float, side: int) -> "Weights":
        s, nu = squares(sigma), leaving_power(kernel, power, side)
        inside, outside = values(s, kernel, power), nu(s)
        across = (inside - outside[None, :]) / s[:, None]
        return cls(inside, outside, first_difference(s, kernel, power), across, first_of_one(nu, s))

    def apply(self, z: Entries) -> Entries:
        """A_X^power(Z)."""
        return Entries(self.inside * z.inside, z.outside * self.outside[None, :])

    def turned(self, z: Entries, t: Motion) -> Entries:
        """The motion of A_X^power(Z) at fixed Z: `motion.turned`, and the terms of what is outside."""
        inside = motion.turned(self.first, z.inside, t.left, t.right) + self.across * (t.beside.T @ z.outside)
        return Entries(inside, t.beside @ (self.across * z.inside) + z.outside @ (self.rest * t.right))

    def densities(self, p: Entries, q: Entries) -> Motion:
        """The gradients of the form in X X^T and X^T X: `motion.densities`, and the terms of what is outside."""
        left, right = motion.densities(self.first, p.inside, q.inside)
        right = right + _symmetric(self.rest * (p.outside.T @ q.outside))
        beside = p.outside @ (self.across * q.inside).T + q.outside @ (self.across * p.inside).T
        return Motion(left, right, beside / 2)

    def gradients(self, sigma: Float[Array, " r"], p: Entries, q: Entries) -> tuple[Entries, Entries, Entries]:
        """The gradients of the form in X, P and Q."""
        return _in_x(sigma, self.densities(p, q)), self.apply(q), self.apply(p)


class SecondDifferences(eqx.Module):
    """Second divided differences of lambda^power and nu^power in the squares s of the singular values.

    **Attributes:** `three` and `mixed`, the results of `second_differences`; `twice` at [i, k, j], over s_i, s_k and 0
    in the first argument, and `once` at [i, j], over s_i, 0 and 0, both with s_j in the second argument;
    `mixed_across` at [k, j, m], between s_k and 0 in the first argument and between s_j and s_m in the second; `rest`,
    the second differences of nu^power.
    """

    three: Float[Array, "r r r r"]
    mixed: Float[Array, "r r r r"]
    twice: Float[Array, "r r r"]
    once: Float[Array, "r r"]
    mixed_across: Float[Array, "r r r"]
    rest: Float[Array, "r r r"]

    @classmethod
    def of(
        cls, sigma: Float[Array, " r"], w: Weights, kernel: Kernel, power: int | float, side: int
    ) -> "SecondDifferences":
        s = squares(sigma)
        i, k = np.indices((len(s), len(s)))
        # The quotient is taken by the larger of two values, which has the smaller index, since s descends.
        larger, smaller = np.minimum(i, k), np.maximum(i, k)
        twice = (w.first - w.across[smaller]) / s[larger][:, :, None]
        # The derivative in the first argument at 0 need not exist. It occurs in two terms of the second derivatives,
        # which cancel, and is taken to be 0.
        once = w.across / s[:, None]
        mixed_across = (jnp.moveaxis(w.first, -1, 0) - w.rest[None]) / s[:, None, None]
        rest = second_of_one(leaving_power(kernel, power, side), s, w.rest)
        return cls(*second_differences(s, w.first, kernel, power), twice, once, mixed_across, rest)

    def bent(self, p: Entries, q: Entries, t: Motion) -> Motion:
        """The motion of `Weights.densities` at fixed P and Q: `motion.bent`, and the terms of what is outside."""
        tp, tq, pq = t.beside.T @ p.outside, t.beside.T @ q.outside, p.outside.T @ q.outside
        left = motion.bent(self.three, self.mixed, p.inside, q.inside, t.left, t.right)
        left += _symmetric(jnp.einsum("ikj,ij,kj->ik", self.twice, p.inside, tq))
        left += _symmetric(jnp.einsum("ikj,ij,kj->ik", self.twice, tp, q.inside))
        right = motion.bent(self.three, self.mixed, p.inside.T, q.inside.T, t.right, t.left)
        along = self.rest * pq[:, None, :]
        right += _symmetric(jnp.einsum("jkm,km->jk", along, t.right) + jnp.einsum("jkm,jk->km", along, t.right))
        right += _symmetric(jnp.einsum("kjm,kj,km->jm", self.mixed_across, tp, q.inside))
        right += _symmetric(jnp.einsum("kjm,kj,km->jm", self.mixed_across, p.inside, tq))
        both = jnp.einsum("kmj,kj,mj->km", self.twice, p.inside, q.inside)
        beside = t.beside @ (both + both.T)
        beside += q.outside @ (self._across(p.inside, t) + self.once * tp).T
        beside += p.outside @ (self._across(q.inside, t) + self.once * tq).T
        return Motion(left, right, beside / 2)

    def _across(self, z: Float[Array, "r r"], t: Motion) -> Float[Array, "r r"]:
        """The motion of `Weights.across` times z, from the motions `left` and `right` alone."""
        by_left = jnp.einsum("kmj,km,mj->kj", self.twice, t.left, z)
        return by_left + jnp.einsum("kjm,mj,km->kj", self.mixed_across, t.right, z)


def _symmetric(z: Float[Array, "r r"]) -> Float[Array, "r r"]:
    return (z + z.T) / 2


def _in_x(sigma: Float[Array, " r"], by: Motion) -> Entries:
    """The gradient in X of a function with the gradients `by` in X X^T and X^T X."""
    return Entries(motion.in_x(sigma, by.left, by.right), 2 * by.beside * sigma[None, :])


def _upright(f: Callable[..., Any], point: SVD, *matrices: Matrix | None) -> Any:
    """f(X, ...) if X has more rows than columns; otherwise f of the transposes, transposed back."""
    if len(point.u) > len(point.v):
        return f(point, *matrices)
    transposes = [None if z is None else z.T for z in matrices]
    return jax.tree.map(jnp.transpose, f(SVD(point.v, point.sigma, point.u), *transposes))


def _side(point: SVD) -> int:
    """The index in (nu, mu) of the weights of what is outside."""
    return 0 if len(point.u) > len(point.v) else 1


def weights(point: SVD, kernel: Kernel, power: int | float) -> Weights:
    """The `Weights` at X, or at its transpose if X has more columns than rows."""
    return Weights.of(point.sigma, kernel, power, _side(point))


def change_of_operator(point: SVD, w: Weights, p: Matrix, dx: Matrix) -> Matrix:
    """The derivative of A_X^power(P) along dX at fixed P."""

    def of_tall(point: SVD, p: Matrix, dx: Matrix) -> Matrix:
        motion = Motion.of(Entries.of(point, dx), point.sigma)
        return w.turned(Entries.of(point, p), motion).out_of(point)

    return _upright(of_tall, point, p, dx)


def slope(point: SVD, w: Weights, q: Matrix, p: Matrix) -> Matrix:
    """The gradient in X of Tr(Q^T A_X^power(P))."""

    def of_tall(point: SVD, q: Matrix, p: Matrix) -> Matrix:
        by = w.densities(Entries.of(point, q), Entries.of(point, p))
        return _in_x(point.sigma, by).out_of(point)

    return _upright(of_tall, point, q, p)


def form_gradient(x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, power: int | float) -> tuple[Matrix, Matrix, Matrix]:
    """The gradients of Tr(P^T A_X^power(Q)) in X, P and Q."""

    def of_tall(point: SVD, p: Matrix, q: Matrix) -> tuple[Matrix, ...]:
        gradients = w.gradients(point.sigma, Entries.of(point, p), Entries.of(point, q))
        return tuple(z.out_of(point) for z in gradients)

    point = svd(x)
    w = weights(point, kernel, power)
    by_x, by_p, by_q = _upright(of_tall, point, p, q)
    return by_x, by_p, by_q


def change_of_form_gradient(
    x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, moves: tuple[Matrix | None, ...], power: int | float
) -> tuple[Matrix, Matrix, Matrix]:
    """The derivative of `form_gradient` along `moves`, (dX, dP, dQ)."""

    def of_tall(point: SVD, p: Matrix, q: Matrix, *moves: Matrix | None) -> tuple[Matrix, ...]:
        sigma, at_p, at_q = point.sigma, Entries.of(point, p), Entries.of(point, q)
        dx, dp, dq = (None if z is None else Entries.of(point, z) for z in moves)
        by_x = by_p = by_q = Entries.of(point, jnp.zeros_like(p))
        if dp is not None:
            by_x, by_q = by_x + _in_x(sigma, w.densities(dp, at_q)), by_q + w.apply(dp)
        if dq is not None:
            by_x, by_p = by_x + _in_x(sigma, w.densities(at_p, dq)), by_p + w.apply(dq)
        if dx is not None:
            t = Motion.of(dx, sigma)
            bent = SecondDifferences.of(sigma, w, kernel, power, _side(at)).bent(at_p, at_q, t)
            by_x += _in_x(sigma, bent) + _carried(w.densities(at_p, at_q), dx)
            by_p, by_q = by_p + w.turned(at_q, t), by_q + w.turned(at_p, t)
        return tuple(z.out_of(point) for z in (by_x, by_p, by_q))

    at = plain_point(x)
    w = weights(at, kernel, power)
    by_x, by_p, by_q = _upright(of_tall, at, p, q, *moves)
    return by_x, by_p, by_q


def _carried(by: Motion, m: Entries) -> Entries:
    """The motion of the gradient in X, 2 (L X + X R), at fixed gradients L in X X^T and R in X^T X."""
    inside = by.left @ m.inside + by.beside.T @ m.outside + m.inside @ by.right
    return Entries(2 * inside, 2 * (by.beside @ m.inside + m.outside @ by.right))
