"""The operator A_X, the quadratic form Tr(P^T A_X(Q)), and the rules of their derivatives.

A_X^power is a function of X X^T and X^T X. By the theorem of Daleckii and Krein its derivative, in the frame of
X = U diag(sigma) V^T, is made of divided differences of lambda^power in the squares of the singular values. Autodiff
would take the derivative of the frame, which does not exist where singular values repeat. The rules here are for a
square X. For any other X they call `tall.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geometry import tall
from dlnjax._geometry.differences import first_difference, second_differences, squares, values
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.motion import bent, densities, in_x, moved, turned
from dlnjax._geometry.parts import Parts
from dlnjax._svd import plain_point, repeats, SVD, svd
from dlnjax._tree import instantiate, is_perturbed, ravel
from dlnjax._types import Matrix, Scalar

Gradients: TypeAlias = tuple[Matrix, Matrix, Matrix]
# The gradient in X of a quadratic form, as a function of X, P and Q.
Gradient: TypeAlias = Callable[[Matrix, Matrix, Matrix], Matrix]
# The arguments of a quadratic form, and their tangents. None stands for a tangent that is zero, also in the leaves of
# the tangent of the kernel.
FormPrimals: TypeAlias = tuple[Matrix, Matrix, Matrix, Kernel]
FormTangents: TypeAlias = tuple[Matrix | None, Matrix | None, Matrix | None, PyTree]


def into(point: SVD, z: Matrix) -> Float[Array, "r r"]:
    """U^T Z V: the entries of Z in the frame of the point."""
    return point.u.T @ z @ point.v


def out_of(point: SVD, z: Float[Array, "r r"]) -> Matrix:
    """U Z V^T: the matrix whose entries in the frame of the point are `z`."""
    return point.u @ z @ point.v.T


def _all_out_of(point: SVD, gradients: Gradients) -> Gradients:
    by_x, by_p, by_q = gradients
    return out_of(point, by_x), out_of(point, by_p), out_of(point, by_q)


def operator_at(point: SVD, p: Matrix, kernel: Kernel, *, power: int | float = 1) -> Matrix:
    """A_X^power(P) at a point that is decomposed, of any shape and rank. It has no derivative rule of its own."""
    (m, r), n = point.u.shape, point.v.shape[0]
    if m == r == n:
        return out_of(point, kernel.eigenvalues(point.sigma) ** power * into(point, p))
    return Parts.of(point, p).apply(point, kernel, power).out_of(point.u, point.v)


def is_square(x: Matrix) -> bool:
    """Whether X has as many rows as columns."""
    return x.shape[0] == x.shape[1]


def apply_metric_operator(x: Matrix, p: Matrix, kernel: Kernel, *, power: int | float = 1) -> Matrix:
    """A_X^power(P); `metric_operator` and its inverse are the public forms.

    Its first and second derivatives, in either mode, are exact at any singular values.
    """
    return applied_at(x, p, kernel, svd(jax.lax.stop_gradient(x)), power=power)


# The functions below have what they need of X, its decomposition or that and the first divided differences, as their
# last argument, so that it is computed once. Their rules differentiate in X and leave that argument alone.
@filter_custom_jvp
def applied_at(x: Matrix, p: Matrix, kernel: Kernel, point: SVD, *, power: int | float) -> Matrix:
    return operator_at(point, p, kernel, power=power)


@applied_at.def_jvp
def _applied_jvp(
    primals: tuple[Matrix, Matrix, Kernel, SVD],
    tangents: tuple[Matrix | None, Matrix | None, PyTree, Any],
    *,
    power: int | float,
):
    (x, p, kernel, point), (dx, dp, dkernel, _) = primals, tangents
    tangent = jnp.zeros_like(p)
    if dp is not None:
        tangent += applied_at(x, dp, kernel, point, power=power)
    if is_perturbed(dkernel):
        tangent += _along_kernel(partial(operator_at, plain_point(x), p, power=power), kernel, dkernel)
    if dx is not None:
        at = jax.lax.stop_gradient(_differences(point, kernel, power))
        tangent += _bilinear(x, p, dx, kernel, at, power=power, slope=False)
    return applied_at(*primals, power=power), tangent


@applied_at.def_transpose
def _applied_back(ct: Matrix, x: Matrix, p: Matrix | None, kernel: Kernel, point: SVD, *, power: int | float) -> Matrix:
    return applied_at(x, ct, kernel, point, power=power)


Differences: TypeAlias = tuple[SVD, Any]


def _differences(point: SVD, kernel: Kernel, power: int | float) -> Differences:
    square = len(point.u) == len(point.v)
    of = first_difference(squares(point.sigma), kernel, power) if square else tall.weights(point, kernel, power)
    return point, of


def _along_x(exact: Callable[[Matrix], Matrix], of_x: Callable[[Matrix], Matrix], x: Matrix, dx: Matrix) -> Matrix:
    """exact(dX) where singular values of X repeat, and elsewhere the same derivative of `of_x` by that of the frame.

    `exact` takes second divided differences, which are d^4 numbers. The frame needs d^3: at d = 25 it is forty times as
    fast.
    """
    by_frame = lambda dx: jax.jvp(of_x, (x,), (dx,))[1]
    # With the checkpoint, reverse mode keeps none of the d^4 numbers.
    return jax.lax.cond(repeats(x), jax.checkpoint(exact), by_frame, dx)


def _change(at: Differences, p: Matrix, dx: Matrix) -> Matrix:
    """The derivative of A_X^power(P) along dX at fixed P: the theorem of Daleckii and Krein."""
    if not is_square(p):
        return tall.change_of_operator(*at, p, dx)
    point, first = at
    return out_of(point, turned(first, into(point, p), *moved(into(point, dx), point.sigma)))


def _slope(at: Differences, q: Matrix, p: Matrix) -> Matrix:
    """The gradient in X of Tr(Q^T A_X^power(P))."""
    if not is_square(p):
        return tall.slope(*at, q, p)
    point, first = at
    return out_of(point, in_x(point.sigma, *densities(first, into(point, q), into(point, p))))


def _exact_change(by_x: Gradient, x: Matrix, p: Matrix, dx: Matrix, dy: Matrix) -> Matrix:
    """The derivative of `_change` along dY is the gradient in Q of that of Tr(dX^T by_x(Q, P))."""
    return jax.grad(lambda q: jnp.sum(_exact_slope(by_x, x, q, p, dy) * dx))(p)


def _exact_slope(by_x: Gradient, x: Matrix, q: Matrix, p: Matrix, dy: Matrix) -> Matrix:
    return jax.jvp(lambda x: by_x(x, q, p), (x,), (dy,))[1]


@filter_custom_jvp
def _bilinear(
    x: Matrix, a: Matrix, b: Matrix, kernel: Kernel, at: Differences, *, power: int | float, slope: bool
) -> Matrix:
    """`_change` of P = a and dX = b, or `_slope` of Q = a and P = b: each is the transpose of the other."""
    return (_slope if slope else _change)(at, a, b)


@_bilinear.def_jvp
def _bilinear_jvp(
    primals: tuple[Matrix, Matrix, Matrix, Kernel, Differences],
    tangents: tuple[Matrix | None, Matrix | None, Matrix | None, PyTree, Any],
    *,
    power: int | float,
    slope: bool,
):
    (x, a, b, kernel, at), (dx, da, db, dkernel, _) = primals, tangents
    of = partial(_bilinear, power=power, slope=slope)
    at_differences, exact = (_slope, _exact_slope) if slope else (_change, _exact_change)
    tangent = jnp.zeros_like(x)
    if da is not None:
        tangent += of(x, da, b, kernel, at)
    if db is not None:
        tangent += of(x, a, db, kernel, at)
    if is_perturbed(dkernel):
        of_kernel = lambda k: at_differences(_differences(plain_point(x), k, power), a, b)
        tangent += _along_kernel(of_kernel, kernel, dkernel)
    if dx is not None:
        by_x = lambda x, q, p: form_gradient(x, q, p, kernel, power=power)[0]
        of_x = lambda x: at_differences(_differences(svd(x), kernel, power), a, b)
        tangent += _along_x(partial(exact, by_x, x, a, b), of_x, x, dx)
    return of(*primals), tangent


@_bilinear.def_transpose
def _bilinear_back(
    ct: Matrix,
    x: Matrix,
    a: Matrix | None,
    b: Matrix | None,
    kernel: Kernel,
    at: Differences,
    *,
    power: int | float,
    slope: bool,
) -> Matrix:
    of = partial(_bilinear, power=power)
    if slope:
        return of(x, b if a is None else a, ct, kernel, at, slope=False)
    return of(x, ct, b, kernel, at, slope=False) if a is None else of(x, ct, a, kernel, at, slope=True)


def _along_kernel(f: Callable[[Kernel], Any], kernel: Kernel, dkernel: PyTree) -> Any:
    return eqx.filter_jvp(f, (kernel,), (dkernel,))[1]


@filter_custom_jvp
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


@filter_custom_jvp
def form_gradient(x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, *, power: int | float) -> Gradients:
    """The gradients of `form` in X, P and Q."""
    if not is_square(x):
        return tall.form_gradient(x, p, q, kernel, power)
    point = svd(x)
    return _all_out_of(point, _gradients(point.sigma, into(point, p), into(point, q), kernel, power))


def _gradients(sigma: Float[Array, " d"], p: Matrix, q: Matrix, kernel: Kernel, power: int | float) -> Gradients:
    """`form_gradient`, with everything in the frame of X."""
    first, f = first_difference(squares(sigma), kernel, power), kernel.eigenvalues(sigma) ** power
    return in_x(sigma, *densities(first, p, q)), f * q, f * p


@form_gradient.def_jvp
def _form_gradient_jvp(primals: FormPrimals, tangents: FormTangents, *, power: int | float):
    """The second derivatives of `form`, by second divided differences: the theorem of Daleckii and Krein once more."""
    (x, p, q, kernel), (dx, dp, dq, dkernel) = primals, tangents
    if not is_square(x):
        return _tall_form_gradient_jvp(primals, tangents, power)
    # A third derivative by this frame would be wrong where singular values repeat. It is NaN.
    point = plain_point(x)
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
        on_left = bent(three, mixed, p, q, left, right)
        on_right = bent(three, mixed, p.T, q.T, right, left)
        was_left, was_right = densities(first, p, q)
        # The gradient in X is 2 (L X + X R). The first term is the motion of L and R, the second that of X.
        by_x += in_x(sigma, on_left, on_right) + 2 * (was_left @ m + m @ was_right)
        by_p += turned(first, q, left, right)
        by_q += turned(first, p, left, right)
    return _all_out_of(point, out), _all_out_of(point, (by_x, by_p, by_q))


def _tall_form_gradient_jvp(
    primals: FormPrimals, tangents: FormTangents, power: int | float
) -> tuple[Gradients, Gradients]:
    """The rule of `form_gradient` at a matrix that is not square."""
    (x, p, q, kernel), (dx, dp, dq, dkernel) = primals, tangents
    out = tall.form_gradient(x, p, q, kernel, power)
    change = tall.change_of_form_gradient(x, p, q, kernel, (dx, dp, dq), power)
    if is_perturbed(dkernel):
        slopes = _along_kernel(lambda k: tall.form_gradient(x, p, q, k, power), kernel, dkernel)
        change = jax.tree.map(jnp.add, change, slopes)
    return out, change


@filter_custom_jvp
def form_by_kernel(x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, *, power: int | float) -> Kernel:
    """The gradient of `form` in the arrays of the kernel, a tree like it."""
    point = svd(x)
    if not is_square(x):
        return eqx.filter_grad(lambda k: jnp.sum(p * operator_at(point, q, k, power=power)))(kernel)
    s, weights = squares(point.sigma), into(point, p) * into(point, q)
    return eqx.filter_grad(lambda k: jnp.sum(weights * values(s, k, power)))(kernel)


@form_by_kernel.def_jvp
def _form_by_kernel_jvp(primals: FormPrimals, tangents: FormTangents, *, power: int | float):
    """The change of the slope in the kernel along (dX, dP, dQ, dkernel).

    Second derivatives are symmetric. The change of the slope in the kernel along (dX, dP, dQ) is therefore the slope in
    the kernel of the derivative along (dX, dP, dQ).
    """
    (x, p, q, kernel), (dx, dp, dq, dkernel) = primals, tangents
    point, out = svd(x), form_by_kernel(*primals, power=power)
    if is_square(x):
        sigma, p, q = point.sigma, into(point, p), into(point, q)
        moves = [None if dz is None else into(point, dz) for dz in (dx, dp, dq)]
    else:
        sigma, moves = point.sigma, [dx, dp, dq]

    def gradients_of(k: Kernel) -> Gradients:
        return _gradients(sigma, p, q, k, power) if is_square(x) else tall.form_gradient(x, p, q, k, power)

    def value(k: Kernel) -> Any:
        return values(squares(sigma), k, power) * q if is_square(x) else operator_at(point, q, k, power=power)

    def along(k: Kernel) -> Scalar:
        total = sum(jnp.sum(g * dz) for g, dz in zip(gradients_of(k), moves, strict=True) if dz is not None)
        if is_perturbed(dkernel):
            total += jnp.sum(p * _along_kernel(value, k, dkernel))
        return jnp.asarray(total)

    return out, eqx.filter_grad(along)(kernel)
