"""The operator A_X that carries covectors to tangent vectors, the quadratic form it makes, and their derivative rules.

A_X^power is a function of X X^T and X^T X. In the frame of X = U diag(sigma) V^T its derivative therefore has divided
differences of lambda^power in the squares of the singular values (Daleckii and Krein), and no derivative of the frame,
which does not exist where singular values repeat.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._geometry.differences import first_difference, second_differences, squares, values
from dlnjax._geometry.kernel import Kernel
from dlnjax._svd import SVD, svd
from dlnjax._tree import instantiate, is_perturbed, ravel
from dlnjax._types import Matrix, Scalar

Gradients: TypeAlias = tuple[Matrix, Matrix, Matrix]
# The arguments of a quadratic form, and their tangents: None for zero, also in the leaves of that of the kernel.
FormPrimals: TypeAlias = tuple[Matrix, Matrix, Matrix, Kernel]
FormTangents: TypeAlias = tuple[Matrix | None, Matrix | None, Matrix | None, PyTree]


def into(point: SVD, z: Matrix) -> Matrix:
    """U^T Z V: the entries of Z in the frame of the point."""
    return point.u.T @ z @ point.v


def out_of(point: SVD, z: Matrix) -> Matrix:
    """U Z V^T: the matrix whose entries in the frame of the point are `z`."""
    return point.u @ z @ point.v.T


def _all_out_of(point: SVD, gradients: Gradients) -> Gradients:
    by_x, by_p, by_q = gradients
    return out_of(point, by_x), out_of(point, by_p), out_of(point, by_q)


def operator_at(point: SVD, p: Matrix, kernel: Kernel, *, power: int | float = 1) -> Matrix:
    """A_X^power(P) at a point whose decomposition is there; it has no derivative rule of its own."""
    return out_of(point, kernel.eigenvalues(point.sigma) ** power * into(point, p))


@eqx.filter_custom_jvp
def apply_metric_operator(x: Matrix, p: Matrix, kernel: Kernel, *, power: int | float = 1) -> Matrix:
    """A_X^power(P); `metric_operator` and its inverse are the public forms."""
    return operator_at(svd(x), p, kernel, power=power)


@apply_metric_operator.def_jvp
def _apply_metric_operator_jvp(
    primals: tuple[Matrix, Matrix, Kernel],
    tangents: tuple[Matrix | None, Matrix | None, PyTree],
    *,
    power: int | float = 1,
):
    """The theorem of Daleckii and Krein. Autodiff would take the derivative of the frame, infinite at equal values."""
    (x, p, kernel), (dx, dp, dkernel) = primals, tangents
    point, out = svd(x), apply_metric_operator(x, p, kernel, power=power)
    s, g = squares(point.sigma), into(point, p)
    tangent = jnp.zeros_like(g)
    if dp is not None:
        tangent += kernel.eigenvalues(point.sigma) ** power * into(point, dp)
    if is_perturbed(dkernel):
        tangent += _along_kernel(partial(values, s, power=power), kernel, dkernel) * g
    if dx is not None:
        tangent += turned(first_difference(s, kernel, power), g, *moved(into(point, dx), point.sigma))
    return out, out_of(point, tangent)


def _along_kernel(f: Callable[[Kernel], Any], kernel: Kernel, dkernel: PyTree) -> Any:
    return eqx.filter_jvp(f, (kernel,), (dkernel,))[1]


def moved(m: Matrix, sigma: Float[Array, " d"]) -> tuple[Matrix, Matrix]:
    """The motion of X X^T and of X^T X, in the frame in which X moves by `m`: M Sigma + Sigma M^T and its mirror."""
    left, right = m * sigma[None, :], m.T * sigma[None, :]
    return left + left.T, right + right.T


def turned(first: Float[Array, "d d d"], g: Matrix, left: Matrix, right: Matrix) -> Matrix:
    """The motion of A_X^power(G) at fixed G, when X X^T moves by `left` and X^T X by `right`: Daleckii and Krein."""
    return jnp.einsum("ikj,ik,kj->ij", first, left, g) + jnp.einsum("jki,ik,kj->ij", first, g, right)


@eqx.filter_custom_jvp
def form(x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, *, power: int | float) -> Scalar:
    """Tr(P^T A_X^power(Q)), with first and second derivatives exact at any singular values."""
    return jnp.sum(p * apply_metric_operator(x, q, kernel, power=power))


@form.def_jvp
def _form_jvp(primals: FormPrimals, tangents: FormTangents, *, power: int | float):
    by = form_gradient(*primals, power=power)
    tangent = sum(jnp.sum(g * dz) for g, dz in zip(by, tangents[:3], strict=True) if dz is not None)
    if is_perturbed(tangents[3]):
        slopes, _ = ravel(form_by_kernel(*primals, power=power))
        tangent += slopes @ ravel(instantiate(tangents[3], primals[3]))[0]
    return form(*primals, power=power), tangent


@eqx.filter_custom_jvp
def form_gradient(x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, *, power: int | float) -> Gradients:
    """The gradients of `form` in X, P and Q."""
    point = svd(x)
    return _all_out_of(point, _gradients(point.sigma, into(point, p), into(point, q), kernel, power))


def _gradients(sigma: Float[Array, " d"], p: Matrix, q: Matrix, kernel: Kernel, power: int | float) -> Gradients:
    """`form_gradient`, with everything in the frame of X."""
    first, f = first_difference(squares(sigma), kernel, power), kernel.eigenvalues(sigma) ** power
    return in_x(sigma, *densities(first, p, q)), f * q, f * p


def densities(first: Float[Array, "d d d"], p: Matrix, q: Matrix) -> tuple[Matrix, Matrix]:
    """The gradients of `form` in X X^T and in X^T X."""
    left, right = jnp.einsum("ikj,ij,kj->ik", first, p, q), jnp.einsum("jki,ij,ik->jk", first, p, q)
    return (left + left.T) / 2, (right + right.T) / 2


def in_x(sigma: Float[Array, " d"], left: Matrix, right: Matrix) -> Matrix:
    """The gradient in X of a function with the gradients `left` in X X^T and `right` in X^T X."""
    return 2 * (left * sigma[None, :] + sigma[:, None] * right)


@form_gradient.def_jvp
def _form_gradient_jvp(primals: FormPrimals, tangents: FormTangents, *, power: int | float):
    """The second derivatives of `form`, by second divided differences: those of Daleckii and Krein once more."""
    (x, p, q, kernel), (dx, dp, dq, dkernel) = primals, tangents
    point = svd(x)
    sigma, s = point.sigma, squares(point.sigma)
    p, q = into(point, p), into(point, q)
    f, first = kernel.eigenvalues(sigma) ** power, first_difference(s, kernel, power)
    out = _gradients(sigma, p, q, kernel, power)
    by_x, by_p, by_q = (jnp.zeros_like(z) for z in out)
    if dp is not None:
        dp = into(point, dp)
        by_x += in_x(sigma, *densities(first, dp, q))
        by_q += f * dp
    if dq is not None:
        dq = into(point, dq)
        by_x += in_x(sigma, *densities(first, p, dq))
        by_p += f * dq
    if is_perturbed(dkernel):
        slopes = _along_kernel(partial(_gradients, sigma, p, q, power=power), kernel, dkernel)
        by_x, by_p, by_q = (z + w for z, w in zip((by_x, by_p, by_q), slopes, strict=True))
    if dx is not None:
        m = into(point, dx)
        left, right = moved(m, sigma)
        three, mixed = second_differences(s, first, kernel, power)
        on_left = _bent(three, mixed, p, q, left, right)
        on_right = _bent(three, mixed, p.T, q.T, right, left)
        was_left, was_right = densities(first, p, q)
        # The gradient in X is 2 (L X + X R): L and R move by what bends, and X by itself.
        by_x += in_x(sigma, on_left, on_right) + 2 * (was_left @ m + m @ was_right)
        by_p += turned(first, q, left, right)
        by_q += turned(first, p, left, right)
    return _all_out_of(point, out), _all_out_of(point, (by_x, by_p, by_q))


def _bent(
    three: Float[Array, "d d d d"], mixed: Float[Array, "d d d d"], p: Matrix, q: Matrix, left: Matrix, right: Matrix
) -> Matrix:
    """The motion of the gradient in X X^T, the first of `densities`, when X X^T moves by `left` and X^T X by `right`.

    That of the gradient in X^T X is the same with p and q transposed, and left and right exchanged.
    """
    along = jnp.einsum("ikmj,ij,mj->ikm", three, p, q)
    across = jnp.einsum("ikjm,ij,km->ikjm", mixed, p, q)
    out = jnp.einsum("ikm,km->ik", along, left) + jnp.einsum("ikm,ik->km", along, left)
    out += jnp.einsum("ikjm,mj->ik", across, right)
    return (out + out.T) / 2


@eqx.filter_custom_jvp
def form_by_kernel(x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, *, power: int | float) -> Kernel:
    """The gradient of `form` in the arrays of the kernel, a tree like it."""
    point = svd(x)
    s, weights = squares(point.sigma), into(point, p) * into(point, q)
    return eqx.filter_grad(lambda k: jnp.sum(weights * values(s, k, power)))(kernel)


@form_by_kernel.def_jvp
def _form_by_kernel_jvp(primals: FormPrimals, tangents: FormTangents, *, power: int | float):
    (x, p, q, kernel), (dx, dp, dq, dkernel) = primals, tangents
    point = svd(x)
    sigma, frame_p, frame_q = point.sigma, into(point, p), into(point, q)
    out = form_by_kernel(*primals, power=power)
    moves = [None if dz is None else into(point, dz) for dz in (dx, dp, dq)]

    # Second derivatives are symmetric: the change of the slope in the kernel along (dX, dP, dQ) is the slope in the
    # kernel of the derivative along them.
    def along(k: Kernel) -> Scalar:
        gradients = _gradients(sigma, frame_p, frame_q, k, power)
        total = sum(jnp.sum(g * dz) for g, dz in zip(gradients, moves, strict=True) if dz is not None)
        if is_perturbed(dkernel):
            slope = _along_kernel(partial(values, squares(sigma), power=power), k, dkernel)
            total += jnp.sum(frame_p * frame_q * slope)
        return jnp.asarray(total)

    return out, eqx.filter_grad(along)(kernel)
