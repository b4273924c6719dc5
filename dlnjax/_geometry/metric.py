"""The metric g^N on full-rank matrices, through the operator A_X that carries covectors to tangent vectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_finite, as_spectrum, as_square, check_energy, require
from dlnjax._geometry.differences import first_difference, second_differences, squares, values
from dlnjax._geometry.kernel import as_kernel, Depth, Kernel
from dlnjax._protocol import gradient
from dlnjax._svd import svd
from dlnjax._tree import instantiate, is_perturbed, ravel
from dlnjax._types import Energy


def into(point, z):
    return point.u.T @ z @ point.v


def out_of(point, z):
    return point.u @ z @ point.v.T


def _along_kernel(f, kernel, dkernel):
    return eqx.filter_jvp(f, (kernel,), (dkernel,))[1]


def moved(m, sigma):
    """The motion of X X^T and of X^T X in the frame, when X moves by m there."""
    left, right = m * sigma, m.T * sigma
    return left + left.T, right + right.T


@eqx.filter_custom_jvp
def apply_metric_operator(x, p, kernel: Kernel, *, power=1):
    """A_X^power(P); `metric_operator` and its inverse are the public forms."""
    point = svd(x)
    return out_of(point, kernel.eigenvalues(point.sigma) ** power * into(point, p))


@apply_metric_operator.def_jvp
def _apply_metric_operator_jvp(primals, tangents, *, power=1):
    # A_X is a function of X X^T and X^T X: its derivative has divided differences in the squares, and turns no frame.
    (x, p, kernel), (dx, dp, dkernel) = primals, tangents
    point, out = svd(x), apply_metric_operator(x, p, kernel, power=power)
    s, g = squares(point.sigma), into(point, p)
    tangent = jnp.zeros_like(g)
    if dp is not None:
        tangent += kernel.eigenvalues(point.sigma) ** power * into(point, dp)
    if is_perturbed(dkernel):
        tangent += _along_kernel(lambda k: values(s, k, power), kernel, dkernel) * g
    if dx is not None:
        tangent += turned(first_difference(s, kernel, power), g, *moved(into(point, dx), point.sigma))
    return out, out_of(point, tangent)


def turned(first, g, left, right):
    return jnp.einsum("ikj,ik,kj->ij", first, left, g) + jnp.einsum("jki,ik,kj->ij", first, g, right)


@eqx.filter_custom_jvp
def form(x, p, q, kernel: Kernel, *, power):
    """Tr(P^T A_X^power(Q)), with first and second derivatives exact at any singular values."""
    return jnp.sum(p * apply_metric_operator(x, q, kernel, power=power))


@form.def_jvp
def _form_jvp(primals, tangents, *, power):
    by = form_gradient(*primals, power=power)
    tangent = sum(jnp.sum(g * dz) for g, dz in zip(by, tangents[:3], strict=True) if dz is not None)
    if is_perturbed(tangents[3]):
        slopes, _ = ravel(form_by_kernel(*primals, power=power))
        tangent += slopes @ ravel(instantiate(tangents[3], primals[3]))[0]
    return form(*primals, power=power), tangent


@eqx.filter_custom_jvp
def form_gradient(x, p, q, kernel: Kernel, *, power):
    """The gradient of `form` in X, P and Q."""
    point = svd(x)
    gradients = _gradient(point.sigma, into(point, p), into(point, q), kernel, power)
    return tuple(out_of(point, z) for z in gradients)


def _gradient(sigma, p, q, kernel: Kernel, power):
    first, f = first_difference(squares(sigma), kernel, power), kernel.eigenvalues(sigma) ** power
    return in_x(sigma, *densities(first, p, q)), f * q, f * p


def densities(first, p, q):
    """The gradients in X X^T and in X^T X."""
    left, right = jnp.einsum("ikj,ij,kj->ik", first, p, q), jnp.einsum("jki,ij,ik->jk", first, p, q)
    return (left + left.T) / 2, (right + right.T) / 2


def in_x(sigma, left, right):
    """The gradient in X of what has these gradients in X X^T and in X^T X."""
    return 2 * (left * sigma + sigma[:, None] * right)


@form_gradient.def_jvp
def _form_gradient_jvp(primals, tangents, *, power):
    (x, p, q, kernel), (dx, dp, dq, dkernel) = primals, tangents
    point = svd(x)
    sigma, s = point.sigma, squares(point.sigma)
    p, q = into(point, p), into(point, q)
    f, first = kernel.eigenvalues(sigma) ** power, first_difference(s, kernel, power)
    out = _gradient(sigma, p, q, kernel, power)
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
        slopes = _along_kernel(lambda k: _gradient(sigma, p, q, k, power), kernel, dkernel)
        by_x, by_p, by_q = (z + w for z, w in zip((by_x, by_p, by_q), slopes, strict=True))
    if dx is not None:
        m = into(point, dx)
        left, right = moved(m, sigma)
        three, mixed = second_differences(s, first, kernel, power)
        on_left = _bent(three, mixed, p, q, left, right)
        on_right = _bent(three, mixed, p.T, q.T, right, left)
        was_left, was_right = densities(first, p, q)
        by_x += in_x(sigma, on_left, on_right) + 2 * (was_left @ m + m @ was_right)
        by_p += turned(first, q, left, right)
        by_q += turned(first, p, left, right)
    back = lambda gradients: tuple(out_of(point, z) for z in gradients)
    return back(out), back((by_x, by_p, by_q))


@eqx.filter_custom_jvp
def form_by_kernel(x, p, q, kernel: Kernel, *, power):
    """The gradient of `form` in the arrays of the kernel, a tree like it."""
    point = svd(x)
    s, weights = squares(point.sigma), into(point, p) * into(point, q)
    return eqx.filter_grad(lambda k: jnp.sum(weights * values(s, k, power)))(kernel)


@form_by_kernel.def_jvp
def _form_by_kernel_jvp(primals, tangents, *, power):
    (x, p, q, kernel), (dx, dp, dq, dkernel) = primals, tangents
    point = svd(x)
    sigma, frame_p, frame_q = point.sigma, into(point, p), into(point, q)
    out = form_by_kernel(*primals, power=power)
    moves = [None if dz is None else into(point, dz) for dz in (dx, dp, dq)]

    # Second derivatives are symmetric: how the slope in the kernel changes along (dX, dP, dQ) is the slope in the
    # kernel of the derivative along them.
    def along(k):
        gradients = _gradient(sigma, frame_p, frame_q, k, power)
        total = sum(jnp.sum(g * dz) for g, dz in zip(gradients, moves, strict=True) if dz is not None)
        if is_perturbed(dkernel):
            square = squares(sigma)
            total += jnp.sum(frame_p * frame_q * _along_kernel(lambda k: values(square, k, power), k, dkernel))
        return jnp.asarray(total)

    return out, eqx.filter_grad(along)(kernel)


def _bent(three, mixed, p, q, left, right):
    """How the gradient in X X^T changes; with p, q transposed and left, right exchanged, that in X^T X."""
    along = jnp.einsum("ikmj,ij,mj->ikm", three, p, q)
    across = jnp.einsum("ikjm,ij,km->ikjm", mixed, p, q)
    out = jnp.einsum("ikm,km->ik", along, left) + jnp.einsum("ikm,ik->km", along, left)
    out += jnp.einsum("ikjm,mj->ik", across, right)
    return (out + out.T) / 2


def _as_pair(x, name: str, p):
    x, p = as_finite("x", as_square("x", x)), as_finite(name, as_square(name, p))
    if x.shape != p.shape:
        raise ValueError(f"x and {name} must have one shape, got {x.shape} and {p.shape}.")
    return x, p


def _full_rank(x):
    sigma = jnp.linalg.svd(jax.lax.stop_gradient(x), compute_uv=False)
    message = (
        "x must have full rank: at a singular matrix the metric of depth > 1 is infinite or has no inverse. "
        "The operator itself, metric_operator, is defined there."
    )
    return require(x, ~(sigma[-1] > 0), message)


def metric_operator(x: Float[Array, "d d"], p: Float[Array, "d d"], depth: Depth) -> Float[Array, "d d"]:
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
    return apply_metric_operator(x, p, as_kernel(depth, x.dtype))


def metric_operator_inverse(x: Float[Array, "d d"], z: Float[Array, "d d"], depth: Depth) -> Float[Array, "d d"]:
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
    return apply_metric_operator(_full_rank(x), z, as_kernel(depth, x.dtype), power=-1)


def metric_eigenvalues(sigma: Float[Array, " d"], depth: Depth) -> Float[Array, "d d"]:
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
    return as_kernel(depth, sigma.dtype).eigenvalues(sigma)


def inner(x: Float[Array, "d d"], z1: Float[Array, "d d"], z2: Float[Array, "d d"], depth: Depth) -> Float[Array, ""]:
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
    return form(_full_rank(x), z1, z2, as_kernel(depth, x.dtype), power=-1)


def norm(x: Float[Array, "d d"], z: Float[Array, "d d"], depth: Depth) -> Float[Array, ""]:
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
    square = inner(x, z, z, depth)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def riemannian_gradient(energy: Energy, x: Float[Array, "d d"], depth: Depth) -> Float[Array, "d d"]:
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
    check_energy(energy, x.shape[-1], x.dtype)
    slope = as_finite("the gradient of energy at x", gradient(energy, x))
    return apply_metric_operator(x, slope, as_kernel(depth, x.dtype))


def hamiltonian(x: Float[Array, "d d"], p: Float[Array, "d d"], depth: Depth) -> Float[Array, ""]:
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
    return form(x, p, p, as_kernel(depth, x.dtype), power=1) / 2
