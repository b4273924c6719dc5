"""The metric g^N on the matrices `m n` of full rank or of rank r: the public functions, made of the operator A_X."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import as_finite, as_matrix, as_spectrum, check_energy, is_concrete, known, require
from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geometry import thin
from dlnjax._geometry.depth import as_kernel, Depth
from dlnjax._geometry.kernel import Balanced, degree_of, Kernel, scale_exponent
from dlnjax._geometry.operator import (
    apply_metric_operator,
    form,
    form_gradient,
    FormPrimals,
    FormTangents,
    Gradients,
    is_square,
)
from dlnjax._geometry.spectrum import least_value
from dlnjax._geometry.straight import to_the_boundary
from dlnjax._protocol import gradient
from dlnjax._scale import along_slope, exponent, scaled
from dlnjax._svd import singular_to_rounding, singular_values, SVD, values_at_the_door
from dlnjax._tree import is_perturbed, length_of
from dlnjax._types import Energy, Matrix, Scalar


def as_pair(x: Any, name: str, p: Any) -> tuple[Matrix, Matrix]:
    x, p = as_finite("x", as_matrix("x", x)), as_finite(name, as_matrix(name, p))
    if x.shape != p.shape:
        raise ValueError(f"x and {name} must have one shape, got {x.shape} and {p.shape}.")
    return x, p


@compiled
def _apply(x: Matrix, p: Matrix, kernel: Kernel, *, power: int | float = 1) -> Matrix:
    """A_X^power(P), computed at size one."""
    k, kp = scale_exponent(x, kernel), exponent(p)
    out = apply_metric_operator(scaled(x, -k), scaled(p, -kp), kernel, power=power)
    return scaled(out, k * degree_of(kernel) * power + kp)


@compiled
def _form(x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, *, power: int | float) -> Scalar:
    """Tr(P^T A_X^power(Q)), computed at size one."""
    return _scaled_form(x, p, q, kernel, power=power)


def _at_size_one(
    x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, power: int | float
) -> tuple[Gradients, tuple[Scalar, Scalar, Scalar], Scalar]:
    """((X, P, Q), each over a power of two; the three exponents; the exponent of the form).

    Where lambda is homogeneous of degree p, the operator A^power at X/2^k is A_X^power over 2^(k p power).
    """
    ks = scale_exponent(x, kernel), exponent(p), exponent(q)
    units = scaled(x, -ks[0]), scaled(p, -ks[1]), scaled(q, -ks[2])
    return units, ks, ks[0] * degree_of(kernel) * power + ks[1] + ks[2]


@filter_custom_jvp
def _scaled_form(x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, *, power: int | float) -> Scalar:
    (x, p, q), _, e = _at_size_one(x, p, q, kernel, power)
    return scaled(form(x, p, q, kernel, power=power), e)


@_scaled_form.def_jvp
def _scaled_form_jvp(primals: FormPrimals, tangents: FormTangents, *, power: int | float):
    """By the gradients of the form, which may be in the range of the floats where the form is not.

    So they are multiplied by their powers of two before they are multiplied by a tangent.
    """
    x, p, q, kernel = primals
    units, ks, e = _at_size_one(x, p, q, kernel, power)
    gradients = form_gradient(*units, kernel, power=power)
    by = [scaled(g, e - k) for g, k in zip(gradients, ks, strict=True)]
    tangent = sum(jnp.sum(g * dz) for g, dz in zip(by, tangents[:3], strict=True) if dz is not None)
    if is_perturbed(tangents[3]):
        # The exponent of the power of two also depends on the kernel, by its degree.
        def of_kernel(k: Kernel) -> Scalar:
            return scaled(form(*units, k, power=power), _at_size_one(x, p, q, k, power)[2])

        tangent += eqx.filter_jvp(of_kernel, (kernel,), (tangents[3],))[1]
    return _scaled_form(x, p, q, kernel, power=power), tangent


@compiled
def _root(x: Matrix, z: Matrix, kernel: Kernel) -> Scalar:
    """The root of Tr(Z^T A_X^{-1}(Z)), whose square may leave the range of the floats."""
    (x, z, w), _, e = _at_size_one(x, z, z, kernel, -1)
    return scaled(length_of(form(x, z, w, kernel, power=-1)), e / 2)


def full_rank(x: Matrix) -> Matrix:
    """`x`, if its least singular value is more than rounding, or if `x` is traced and NaN."""
    sigma = values_at_the_door(x)
    shown = f"its singular values go from {sigma[0]:.1e} to {sigma[-1]:.1e}. " if is_concrete(sigma) else ""
    message = (
        f"x must have full rank: {shown}At a matrix that is singular to rounding the metric of depth > 1 is infinite "
        "or has no inverse. The operator itself, metric_operator, is defined there. A matrix of rank r is an SVD of r "
        "values, dlnjax.svd(x, rank=r)."
    )
    return require(x, singular_to_rounding(sigma, max(x.shape)), message)


def _invertible(x: Matrix, kernel: Kernel) -> Matrix:
    """`x`, if A_X has an inverse there: at full rank, and where all motions that leave a space have a weight."""
    x = full_rank(x)
    if is_square(x):
        return x
    m, n = x.shape
    space = "column" if m > n else "row"
    message = (
        f"x has shape ({m}, {n}), and at infinite depth its {space} space never turns: motions that leave it have "
        "weight 0, so that the metric is infinite and the operator has no inverse. Use a finite depth, or a square x."
    )
    return require(x, known(_least_weight(jax.lax.stop_gradient(x), kernel)) <= 0, message)


@compiled
def _least_weight(x: Matrix, kernel: Kernel) -> Scalar:
    """The least weight of a motion that leaves the column space of a tall X, or the row space of a wide X."""
    m, n = x.shape
    return jnp.min(kernel.leaving(singular_values(x))[0 if m > n else 1])


def _continuous(x: Matrix, kernel: Kernel) -> Matrix:
    """`x`, unless the operator there depends on the singular vectors of the value 0, which X does not determine.

    nu and mu of a balanced network are lambda(s, 0), so that it does not matter which vectors belong to the value 0.
    """
    if is_square(x) or isinstance(kernel, Balanced):
        return x
    message = (
        "x must have full rank: at a matrix of lower rank that is not square, the operator of an imbalanced network "
        "depends on its factors. Only a balanced network, a number as depth, has an operator there."
    )
    return require(x, known(singular_values(jax.lax.stop_gradient(x)))[-1] <= 0, message)


def metric_operator(x: Matrix | SVD, p: Matrix, depth: Depth) -> Matrix:
    """The operator of the metric, 1/N times (2.19):

        A_X(P) = (1/N) sum_{q=1}^N (X X^T)^((N-q)/N) P (X^T X)^((q-1)/N),

    through its diagonalisation (2.20), so that it is smooth in X at repeated singular values, with derivatives exact to
    the second, and in N up to infinity.
    For a kernel, with X = U diag(sigma) V^T in thin frames,

        A_X(P) = U [lambda o (U^T P V)] V^T + (I - U U^T) P V diag(nu) V^T + U diag(mu) U^T P (I - V V^T).

    **Arguments:** `x` and `p`, `m n`; `depth`, N in [1, inf], a number or a traced array, or a kernel. A thin `SVD` as
    `x` is a point of the matrices of rank r, here and in all functions of the metric.

    **Returns:** a tangent vector, `m n`.

    **Raises:** `ValueError` or `TypeError` for shapes that differ, integers, NaN (traced, it comes out as NaN), a depth
    outside [1, inf], or an `x` that is neither square nor of full rank with a kernel that is not `Balanced`.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> dln.metric_operator(x, jnp.ones((2, 2)), 2).round(6).tolist()
        [[2.0, 1.5], [1.5, 1.0]]
    """
    if isinstance(x, SVD):
        return thin.operator(x, p, depth)
    x, p = as_pair(x, "p", p)
    kernel = as_kernel(depth, x.dtype)
    return _apply(_continuous(x, kernel), p, kernel)


def metric_operator_inverse(x: Matrix | SVD, z: Matrix, depth: Depth) -> Matrix:
    """The covector A_X^{-1}(Z) of a tangent vector, N times the inverse of (2.19).

    **Arguments:** `x`, of full rank or a thin `SVD`, and `z`, `m n`; `depth`, N in [1, inf].

    **Returns:** a covector, `m n`, with `metric_operator(x, p, depth)` equal to `z`.

    **Raises:** as `metric_operator`, and `ValueError` for an `x` that has not full rank, or that is not square at
    infinite depth: there its column and row space never turn, and the operator has no inverse. At an `SVD` the `z` is
    refused whose length is infinite: one that leaves the matrices of rank r, or, at infinite depth, one of the spaces.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> dln.metric_operator_inverse(x, dln.metric_operator(x, jnp.ones((2, 2)), 2), 2).round(6).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    if isinstance(x, SVD):
        return thin.inverse(x, z, depth)
    x, z = as_pair(x, "z", z)
    kernel = as_kernel(depth, x.dtype)
    return _apply(_invertible(x, kernel), z, kernel, power=-1)


def metric_eigenvalues(sigma: Float[Array, " d"], depth: Depth) -> Matrix:
    """The eigenvalues of the operator, (2.20) divided by N:

        lambda_kl = (1/N) (sigma_k^2 - sigma_l^2) / (sigma_k^(2/N) - sigma_l^(2/N)),

    and the limit where two singular values agree; at infinite depth their logarithmic mean.

    **Arguments:** `sigma`, singular values, `d`; `depth`, N in [1, inf].

    **Returns:** lambda, `d d`: A_X maps u_k v_l^T to lambda_kl u_k v_l^T.

    **Raises:** `ValueError` for negative singular values or more than one axis of them.

    **Example:**

        >>> dln.metric_eigenvalues(jnp.array([2.0, 1.0]), 2).round(6).tolist()
        [[2.0, 1.5], [1.5, 1.0]]
        >>> dln.metric_eigenvalues(jnp.array([2.0, 2.0]), jnp.inf).round(6).tolist()
        [[4.0, 4.0], [4.0, 4.0]]
    """
    sigma = as_spectrum(sigma)
    if sigma.ndim != 1:
        raise ValueError(f"sigma must have shape (d,), got {sigma.shape}. For many use jax.vmap.")
    return _eigenvalues(sigma, as_kernel(depth, sigma.dtype))


@compiled
def _eigenvalues(sigma: Float[Array, " d"], kernel: Kernel) -> Matrix:
    k = jnp.zeros((), sigma.dtype) if kernel.degree is None else exponent(sigma)
    return scaled(_eigenvalues_at_size_one(scaled(sigma, -k), kernel), k * degree_of(kernel))


@filter_custom_jvp
def _eigenvalues_at_size_one(sigma: Float[Array, " d"], kernel: Kernel) -> Matrix:
    return kernel.eigenvalues(sigma)


@_eigenvalues_at_size_one.def_jvp
def _eigenvalues_jvp(primals: tuple[Float[Array, " d"], Kernel], tangents: tuple[Float[Array, " d"] | None, PyTree]):
    """Where a singular value is 0 the derivative in it is taken from above, since lambda(s, t) is not smooth there."""
    (sigma, kernel), (dsigma, dkernel) = primals, tangents
    lam = kernel.eigenvalues(sigma)
    tangent = jnp.zeros_like(lam)
    if dsigma is not None:
        along = along_slope(_rates(lam, sigma, kernel), dsigma[:, None])
        tangent += along + along.T
    if is_perturbed(dkernel):
        tangent += eqx.filter_jvp(lambda k: k.eigenvalues(sigma), (kernel,), (dkernel,))[1]
    return lam, tangent


def _rates(lam: Matrix, sigma: Float[Array, " d"], kernel: Kernel) -> Matrix:
    """d lambda(s, t)/ds at sigma_k, sigma_l."""
    log_rates, zero, order = kernel.log_rates(sigma), sigma == 0, jnp.asarray(kernel.order)
    rates = jnp.where(jnp.isinf(log_rates), jnp.inf, lam * jnp.where(jnp.isinf(log_rates), 0.0, log_rates))
    # Between two zeros, lambda(s, 0) and lambda(s, s) are multiples of s^order. If the kernel has a degree, they are
    # the values at s = 1.
    power = jnp.where((order <= 0) | (order > 1), 0.0, jnp.where(order == 1, 1.0, jnp.inf))
    s = 1.0 if kernel.degree is not None else float(jnp.finfo(sigma.dtype).tiny) ** 0.5
    one_zero = kernel.eigenvalues(jnp.array([s, 0.0], sigma.dtype)) / s
    weight = jnp.where(jnp.eye(len(sigma), dtype=bool), one_zero[0, 0] / 2, one_zero[0, 1])
    return jnp.where(zero[:, None] & zero[None, :], jnp.where(power > 0, weight * power, 0.0), rates)


def inner(x: Matrix | SVD, z1: Matrix, z2: Matrix, depth: Depth) -> Scalar:
    """The metric g^N(Z1, Z2) = Tr(Z1^T A_X^{-1}(Z2)), N times (2.18), with derivatives exact to the second.

    **Arguments:** `x`, of full rank or a thin `SVD`; `z1` and `z2`, tangent vectors, `m n`; `depth`, N in [1, inf].

    **Returns:** a number.

    **Raises:** as `metric_operator_inverse`.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> print(f"{dln.inner(x, jnp.eye(2), jnp.eye(2), 2):.6f}")
        1.500000
    """
    if isinstance(x, SVD):
        return thin.inner(x, {"z1": z1, "z2": z2}, depth)
    x, z1 = as_pair(x, "z1", z1)
    z2 = as_pair(x, "z2", z2)[1]
    kernel = as_kernel(depth, x.dtype)
    return _form(_invertible(x, kernel), z1, z2, kernel, power=-1)


def norm(x: Matrix | SVD, z: Matrix, depth: Depth) -> Scalar:
    """The length of a tangent vector, the root of `inner(x, z, z, depth)`: sqrt(N) times that of the thesis's g^N.

    **Arguments:** `x`, of full rank or a thin `SVD`; `z`, `m n`; `depth`, N in [1, inf].

    **Returns:** a number; at `z` = 0 its derivative is taken to be 0, and its second derivative is NaN.

    **Raises:** as `metric_operator_inverse`.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> print(f"{dln.norm(x, x, jnp.inf):.6f} at infinite depth, where scaling has one speed everywhere")
        1.414214 at infinite depth, where scaling has one speed everywhere
        >>> print(f"{dln.norm(5 * x, 5 * x, jnp.inf):.6f}")
        1.414214
    """
    if isinstance(x, SVD):
        return thin.length(x, z, depth)
    x, z = as_pair(x, "z", z)
    kernel = as_kernel(depth, x.dtype)
    return _root(_invertible(x, kernel), z, kernel)


def riemannian_gradient(energy: Energy, x: Matrix | SVD, depth: Depth) -> Matrix:
    """grad E = A_X(dE(X)), (2.24)-(2.29) divided by N: `gradient_flow` follows its negative.

    **Arguments:** `energy`, a differentiable callable X -> scalar; `x`, `m n` or a thin `SVD`; `depth`, N in [1, inf].

    **Returns:** a tangent vector, `m n`, with `inner(x, grad, z, depth)` the derivative of E along `z`.

    **Raises:** as `metric_operator`.

    **Example:**

        >>> energy, x, z = dln.Schatten(2), jnp.diag(jnp.array([2.0, 1.0])), jnp.ones((2, 2))
        >>> grad = dln.riemannian_gradient(energy, x, 3)
        >>> print(f"{dln.inner(x, grad, z, 3):.6f} = {jnp.sum(jax.grad(energy)(x) * z):.6f}")
        3.000000 = 3.000000
    """
    if isinstance(x, SVD):
        return thin.gradient(energy, x, depth)
    x = as_finite("x", as_matrix("x", x))
    check_energy(energy, x.shape, x.dtype)
    slope = as_finite("the gradient of energy at x", gradient(energy, x))
    kernel = as_kernel(depth, x.dtype)
    return _apply(_continuous(x, kernel), slope, kernel)


def hamiltonian(x: Matrix | SVD, p: Matrix, depth: Depth) -> Scalar:
    """H(X, P) = 1/2 Tr(P^T A_X(P)), (3.37) with the operator in place of its inverse, and the 1/N in the operator.

    Its derivatives are exact to the second at any singular values. `exponential` follows its flow.

    **Arguments:** `x`, `m n` or a thin `SVD`, and the covector `p`, `m n`; `depth`, N in [1, inf].

    **Returns:** a number, half of the squared speed of the geodesic.

    **Raises:** as `metric_operator`.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> print(f"{dln.hamiltonian(x, jnp.eye(2), 2):.6f}")
        1.500000
    """
    if isinstance(x, SVD):
        return thin.hamiltonian(x, p, depth)
    x, p = as_pair(x, "p", p)
    kernel = as_kernel(depth, x.dtype)
    return _form(_continuous(x, kernel), p, p, kernel, power=1) / 2


def boundary_distance(x: Matrix | SVD, depth: Depth) -> Scalar:
    """The distance from X to the matrices of lower rank, N sigma_min^(1/N): infinite at infinite depth.

    On any path, the motion of the least singular value in y = N sigma^(1/N) is a part of the speed. The path on which
    it moves alone is therefore the shortest. The metric is complete if and only if this distance is infinite, and else
    a geodesic may end after it. It bounds the injectivity radius.

    **Arguments:** `x`, of full rank, `m n`, or a thin `SVD`; `depth`, N in [1, inf], or a kernel, for which it is the
    integral of lambda(s, s)^(-1/2) from 0 to sigma_min.

    **Returns:** a number. That of the thesis's metric is this number over sqrt(N). Where the least value is repeated,
    its copies share the derivative, and the second derivative is NaN.

    **Raises:** `ValueError` or `TypeError` for an `x` without full rank, integers, NaN, or a depth outside [1, inf].

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 0.25]))
        >>> print(f"{dln.boundary_distance(x, 2):.6f}, {dln.boundary_distance(x, jnp.inf)}")
        1.000000, inf
    """
    if isinstance(x, SVD):
        sigma = thin.as_ranked(x).sigma
    else:
        sigma = singular_values(full_rank(as_finite("x", as_matrix("x", x))))
    return to_the_boundary(least_value(sigma), as_kernel(depth, sigma.dtype))
