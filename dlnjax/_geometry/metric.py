"""The metric g^N on full-rank matrices: the public functions, made of the operator A_X."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import as_finite, as_spectrum, as_square, check_energy, known, require
from dlnjax._compile import compiled
from dlnjax._geometry.kernel import as_kernel, degree_of, Depth, Kernel, scale_exponent
from dlnjax._geometry.operator import apply_metric_operator, form, form_gradient, FormPrimals, FormTangents, Gradients
from dlnjax._protocol import gradient
from dlnjax._scale import along_slope, exponent, scaled
from dlnjax._svd import singular_values
from dlnjax._tree import is_perturbed
from dlnjax._types import Energy, Matrix, Scalar


def _as_pair(x: Any, name: str, p: Any) -> tuple[Matrix, Matrix]:
    x, p = as_finite("x", as_square("x", x)), as_finite(name, as_square(name, p))
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
    """((X, P, Q) over powers of two, the exponents of these, that of the form).

    lambda is homogeneous of degree p: of X over 2^k, A_X^power is A_X^power over 2^(k p power).
    """
    ks = scale_exponent(x, kernel), exponent(p), exponent(q)
    units = scaled(x, -ks[0]), scaled(p, -ks[1]), scaled(q, -ks[2])
    return units, ks, ks[0] * degree_of(kernel) * power + ks[1] + ks[2]


@eqx.filter_custom_jvp
def _scaled_form(x: Matrix, p: Matrix, q: Matrix, kernel: Kernel, *, power: int | float) -> Scalar:
    (x, p, q), _, e = _at_size_one(x, p, q, kernel, power)
    return scaled(form(x, p, q, kernel, power=power), e)


@_scaled_form.def_jvp
def _scaled_form_jvp(primals: FormPrimals, tangents: FormTangents, *, power: int | float):
    """The gradients get their powers of two before they meet a tangent: they may be in range where the form is not."""
    x, p, q, kernel = primals
    units, ks, e = _at_size_one(x, p, q, kernel, power)
    gradients = form_gradient(*units, kernel, power=power)
    by = [scaled(g, e - k) for g, k in zip(gradients, ks, strict=True)]
    tangent = sum(jnp.sum(g * dz) for g, dz in zip(by, tangents[:3], strict=True) if dz is not None)
    if is_perturbed(tangents[3]):
        # The degree of the kernel is in the power of two as well.
        def of_kernel(k: Kernel) -> Scalar:
            return scaled(form(*units, k, power=power), _at_size_one(x, p, q, k, power)[2])

        tangent += eqx.filter_jvp(of_kernel, (kernel,), (tangents[3],))[1]
    return _scaled_form(x, p, q, kernel, power=power), tangent


@compiled
def _root(x: Matrix, z: Matrix, kernel: Kernel) -> Scalar:
    """The root of Tr(Z^T A_X^{-1}(Z)), whose square may leave the range of the floats."""
    (x, z, w), _, e = _at_size_one(x, z, z, kernel, -1)
    square = form(x, z, w, kernel, power=-1)
    # The derivative of a root at 0 is infinite; times that of the square, 0, it would be NaN.
    return scaled(jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), square), e / 2)


def _full_rank(x: Matrix) -> Matrix:
    sigma = singular_values(jax.lax.stop_gradient(x))
    message = (
        "x must have full rank: at a singular matrix the metric of depth > 1 is infinite or has no inverse. "
        "The operator itself, metric_operator, is defined there."
    )
    return require(x, ~(known(sigma)[-1] > 0), message)


def metric_operator(x: Matrix, p: Matrix, depth: Depth) -> Matrix:
    """The operator of the metric, 1/N times (2.19):

        A_X(P) = (1/N) sum_{q=1}^N (X X^T)^((N-q)/N) P (X^T X)^((q-1)/N),

    through its diagonalisation (2.20), so that it is smooth in X at repeated singular values and in N up to infinity.

    **Arguments:** `x` and `p`, `d d`; `depth`, N in [1, inf], a number or a traced array.

    **Returns:** a tangent vector, `d d`.

    **Raises:** `ValueError` or `TypeError` for shapes that differ, integers, NaN (traced, it comes out as NaN), or a
    depth outside [1, inf].

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> dln.metric_operator(x, jnp.ones((2, 2)), 2).round(6).tolist()
        [[2.0, 1.5], [1.5, 1.0]]
    """
    x, p = _as_pair(x, "p", p)
    return _apply(x, p, as_kernel(depth, x.dtype))


def metric_operator_inverse(x: Matrix, z: Matrix, depth: Depth) -> Matrix:
    """The covector A_X^{-1}(Z) of a tangent vector, N times the inverse of (2.19).

    **Arguments:** `x`, of full rank, and `z`, `d d`; `depth`, N in [1, inf].

    **Returns:** a covector, `d d`, with `metric_operator(x, p, depth)` equal to `z`.

    **Raises:** as `metric_operator`, and `ValueError` for a singular `x`.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> dln.metric_operator_inverse(x, dln.metric_operator(x, jnp.ones((2, 2)), 2), 2).round(6).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    x, z = _as_pair(x, "z", z)
    return _apply(_full_rank(x), z, as_kernel(depth, x.dtype), power=-1)


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


@eqx.filter_custom_jvp
def _eigenvalues_at_size_one(sigma: Float[Array, " d"], kernel: Kernel) -> Matrix:
    return kernel.eigenvalues(sigma)


@_eigenvalues_at_size_one.def_jvp
def _eigenvalues_jvp(primals: tuple[Float[Array, " d"], Kernel], tangents: tuple[Float[Array, " d"] | None, PyTree]):
    """In sigma from above where a singular value is 0: lambda(s, t) is no smooth function there, except at depth 1."""
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
    # Between two zeros: lambda(s, 0) = s^order lambda(1, 0) and lambda(s, s) = s^order lambda(1, 1).
    power = jnp.where((order <= 0) | (order > 1), 0.0, jnp.where(order == 1, 1.0, jnp.inf))
    one_zero = kernel.eigenvalues(jnp.array([1.0, 0.0], sigma.dtype))
    weight = jnp.where(jnp.eye(len(sigma), dtype=bool), one_zero[0, 0] / 2, one_zero[0, 1])
    return jnp.where(zero[:, None] & zero[None, :], jnp.where(power > 0, weight * power, 0.0), rates)


def inner(x: Matrix, z1: Matrix, z2: Matrix, depth: Depth) -> Scalar:
    """The metric g^N(Z1, Z2) = Tr(Z1^T A_X^{-1}(Z2)), N times (2.18), with derivatives exact to the second.

    **Arguments:** `x`, of full rank; `z1` and `z2`, tangent vectors, `d d`; `depth`, N in [1, inf].

    **Returns:** a number.

    **Raises:** as `metric_operator_inverse`.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> print(f"{dln.inner(x, jnp.eye(2), jnp.eye(2), 2):.6f}")
        1.500000
    """
    x, z1 = _as_pair(x, "z1", z1)
    z2 = _as_pair(x, "z2", z2)[1]
    return _form(_full_rank(x), z1, z2, as_kernel(depth, x.dtype), power=-1)


def norm(x: Matrix, z: Matrix, depth: Depth) -> Scalar:
    """The length of a tangent vector, the root of `inner(x, z, z, depth)`: sqrt(N) times that of the thesis's g^N.

    **Arguments:** `x`, of full rank; `z`, `d d`; `depth`, N in [1, inf].

    **Returns:** a number; at `z` = 0 its derivative is taken to be 0.

    **Raises:** as `metric_operator_inverse`.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> print(f"{dln.norm(x, x, jnp.inf):.6f} at infinite depth, where scaling has one speed everywhere")
        1.414214 at infinite depth, where scaling has one speed everywhere
        >>> print(f"{dln.norm(5 * x, 5 * x, jnp.inf):.6f}")
        1.414214
    """
    x, z = _as_pair(x, "z", z)
    return _root(_full_rank(x), z, as_kernel(depth, x.dtype))


def riemannian_gradient(energy: Energy, x: Matrix, depth: Depth) -> Matrix:
    """grad E = A_X(dE(X)), (2.24)-(2.29) divided by N: `gradient_flow` follows its negative.

    **Arguments:** `energy`, a differentiable callable X -> scalar; `x`, `d d`; `depth`, N in [1, inf].

    **Returns:** a tangent vector, `d d`, with `inner(x, grad, z, depth)` the derivative of E along `z`.

    **Raises:** as `metric_operator`.

    **Example:**

        >>> energy, x, z = dln.Schatten(2), jnp.diag(jnp.array([2.0, 1.0])), jnp.ones((2, 2))
        >>> grad = dln.riemannian_gradient(energy, x, 3)
        >>> print(f"{dln.inner(x, grad, z, 3):.6f} = {jnp.sum(jax.grad(energy)(x) * z):.6f}")
        3.000000 = 3.000000
    """
    x = as_finite("x", as_square("x", x))
    check_energy(energy, x.shape, x.dtype)
    slope = as_finite("the gradient of energy at x", gradient(energy, x))
    return _apply(x, slope, as_kernel(depth, x.dtype))


def hamiltonian(x: Matrix, p: Matrix, depth: Depth) -> Scalar:
    """H(X, P) = 1/2 Tr(P^T A_X(P)), (3.37) with the operator in place of its inverse, and the 1/N in the operator.

    Its derivatives are exact to the second at any singular values; `exponential` follows its flow.

    **Arguments:** `x` and the covector `p`, `d d`; `depth`, N in [1, inf].

    **Returns:** a number, half of the squared speed of the geodesic.

    **Raises:** as `metric_operator`.

    **Example:**

        >>> x = jnp.diag(jnp.array([2.0, 1.0]))
        >>> print(f"{dln.hamiltonian(x, jnp.eye(2), 2):.6f}")
        1.500000
    """
    x, p = _as_pair(x, "p", p)
    return _form(x, p, p, as_kernel(depth, x.dtype), power=1) / 2
