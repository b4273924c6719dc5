"""Geodesics in closed form, for the ends that have one; and the line of (3.76), which is not always a geodesic."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_real, as_square, is_concrete, known, require, require_finite, require_full_rank
from dlnjax._geometry.depth import as_kernel, Depth
from dlnjax._geometry.kernel import symmetric
from dlnjax._scale import exponent, scaled
from dlnjax._svd import plain_svd
from dlnjax._tree import norm
from dlnjax._types import Matrix, Numbers, Scalar

Curve = Callable[[Numbers], Array]

# Ends fit a form if they satisfy its conditions up to this relative error in float64, or up to this many errors of
# rounding in float32. Both are above the rounding in a product of a few matrices.
_FITS = 1e-10
_ROUNDINGS = 1e3


def _ends(a: Any, b: Any) -> tuple[Matrix, Matrix]:
    a, b = as_square("a", a), as_square("b", b)
    if a.shape != b.shape:
        raise ValueError(f"a and b must have one shape, got {a.shape} and {b.shape}.")
    return _end("a", a), _end("b", b)


def _end(name: str, z: Array) -> Array:
    return require_full_rank(name, require_finite(name, z), "its determinant is 0.")


def _fit(x: Array, defect: Scalar, what: str) -> Array:
    """`x`, if the relative error `defect` with which the ends fit a form is rounding."""
    shown = f" by {float(defect):.2e}" if is_concrete(defect) else ""
    fits = max(_FITS, _ROUNDINGS * float(jnp.finfo(x.dtype).eps))
    return require(x, ~(defect <= fits), f"{what}{shown}. dlnjax.geodesic joins any two matrices of one component.")


def _over(curve: Callable[[Scalar], Matrix]) -> Curve:
    """The function that gives the curve at one time, or at each of an array of times."""

    def at_all(t: Numbers) -> Array:
        return jnp.vectorize(curve, signature="()->(d,d)")(as_real("t", t, "It is a time, or an array of them."))

    return at_all


def diagonal(a: Matrix, b: Matrix, depth: Depth) -> Curve:
    """((1-t) A^(1/N) + t B^(1/N))^N, A^(1-t) B^t at infinite depth, (3.86): not always the shortest geodesic.

    **Arguments:** `a` and `b`, diagonal `d d`, with entries of equal signs; `depth`, N in [1, inf].

    **Returns:** t -> X(t).

    **Raises:** `ValueError` for entries off the diagonal or of opposite signs.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([1.0, 4.0])), jnp.diag(jnp.array([4.0, 1.0]))
        >>> jnp.diagonal(dln.closed_form.diagonal(a, b, 2)(0.5)).round(6).tolist()
        [2.25, 2.25]
        >>> jnp.diagonal(dln.closed_form.diagonal(a, b, jnp.inf)(0.5)).round(6).tolist()
        [2.0, 2.0]
    """
    a, b = _ends(a, b)
    x, y, kernel = _diagonal("a", a), _diagonal("b", b), as_kernel(depth, a.dtype)
    equal = ((known(x) > 0) & (known(y) > 0)) | ((known(x) < 0) & (known(y) < 0))
    shown = f", got {x} and {y}" if is_concrete(x) and is_concrete(y) else ""
    x = require(x, ~equal.all(), f"a and b must have equal signs on the diagonal{shown}.")

    def at(t: Scalar) -> Matrix:
        return jnp.diag(jnp.sign(x) * kernel.mix(t, jnp.abs(x), jnp.abs(y)))

    return _over(at)


def _diagonal(name: str, z: Matrix) -> Float[Array, " d"]:
    """The diagonal of `z`, if all other entries are 0 up to rounding."""
    unit = _unit(z)
    off = norm(unit - jnp.diag(jnp.diagonal(unit))) / norm(unit)
    return _fit(jnp.diagonal(z), off, f"{name} must be diagonal: relative to its norm it is off")


def bures_wasserstein(a: Matrix, b: Matrix) -> Curve:
    """The geodesic of depth 2 between matrices of equal polar factors, A = S_A O and B = S_B O: Theorem 3.2.3,

        ((1-t) I + t M) S_A ((1-t) I + t M) O,    M = S_A^{-1/2} (S_A^{1/2} S_B S_A^{1/2})^{1/2} S_A^{-1/2},

    that of Bures and Wasserstein, (3.15), where both are positive definite.

    **Arguments:** `a` and `b`, `d d`, with U V^T the same.

    **Returns:** t -> X(t).

    **Raises:** `ValueError` if the polar factors differ.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])
        >>> print(dln.closed_form.bures_wasserstein(a, b)(0.5).round(6))
        [[3.171041 0.789118]
         [0.789118 1.592805]]
    """
    a, b = _ends(a, b)
    (s, u, o), (r, w) = _same_polar(a, b)
    root_a, root_b = symmetric(jnp.sqrt(s), u), symmetric(jnp.sqrt(r), w)
    # M S_A^(1/2) = S_B^(1/2) Q, where Q is the orthogonal polar factor of S_B^(1/2) S_A^(1/2). No inverse is taken, and
    # the condition number is not squared.
    q = _polar(_unit(root_b) @ _unit(root_a))[-1]

    def at(t: Scalar) -> Matrix:
        # X(t) = F F^T O, where F = ((1-t) I + t M) S_A^(1/2) moves on a straight line.
        factor = (1 - t) * root_a + t * (root_b @ q)
        return factor @ factor.T @ o

    return _over(at)


def commuting(a: Matrix, b: Matrix, depth: Depth) -> Curve:
    """The geodesic where polar factors are equal and positive factors commute, Theorem 3.4.2 (2):

        ((1-t) S_A^(1/N) + t S_B^(1/N))^N O,    exp((1-t) log S_A + t log S_B) O at infinite depth.

    **Arguments:** `a` and `b`, `d d`; `depth`, N in [1, inf].

    **Returns:** t -> X(t).

    **Raises:** `ValueError` if the polar factors differ, or the positive factors do not commute.

    **Example:**

        >>> a, b = jnp.eye(2), jnp.array([[2.5, 1.5], [1.5, 2.5]])
        >>> print(dln.closed_form.commuting(a, b, jnp.inf)(0.5).round(6))  # the square root of b
        [[1.5 0.5]
         [0.5 1.5]]
    """
    a, b = _ends(a, b)
    (s, u, _), (r, w) = _same_polar(a, b)
    # With entries near 1 the products cannot overflow.
    sa, sb = _unit(symmetric(s, u)), _unit(symmetric(r, w))
    defect = norm(sa @ sb - sb @ sa) / (norm(sa) * norm(sb))
    a = _fit(a, defect, "the positive factors of a and b must commute: relative to their norms they fail")
    return printed_line(a, b, depth)


def printed_line(a: Matrix, b: Matrix, depth: Depth) -> Curve:
    """(3.76) as printed, ((1-t) S_A^(1/N) + t S_B^(1/N))^N O: a geodesic only where S_A and S_B commute.

    It is a geodesic of the metric with kernel ((1/N)(x - y)/(x^(1/N) - y^(1/N)))^2, and its length an upper bound.

    **Arguments:** `a` and `b`, `d d`, with equal polar factors; `depth`, N in [1, inf].

    **Returns:** t -> X(t).

    **Raises:** `ValueError` if the polar factors differ.

    **Example:**

        >>> a, b = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])
        >>> print(dln.closed_form.printed_line(a, b, 2)(0.5).round(6))  # not `bures_wasserstein(a, b)(0.5)`
        [[3.125 0.75 ]
         [0.75  1.625]]
    """
    a, b = _ends(a, b)
    kernel = as_kernel(depth, a.dtype)
    (s, u, o), end = _same_polar(a, b)

    def at(t: Scalar) -> Matrix:
        return kernel.mix_symmetric(t, (s, u), end) @ o

    return _over(at)


def _polar(x: Matrix) -> tuple[Float[Array, " d"], Matrix, Matrix]:
    """(sigma, U, O) with X = U diag(sigma) U^T O.

    They come from a singular value decomposition of X. An eigenvalue decomposition of the positive factor loses the
    digits of its small eigenvalues, and may make them negative.
    """
    sigma, u, v = plain_svd(x)
    return sigma, u, u @ v.T


def _same_polar(
    a: Matrix, b: Matrix
) -> tuple[tuple[Float[Array, " d"], Matrix, Matrix], tuple[Float[Array, " d"], Matrix]]:
    """((sigma, U, O) of A, (sigma, U) of B), if O is also that of B."""
    first = _polar(a)
    sigma, u, o = _polar(b)
    return first, (_fit(sigma, norm(first[-1] - o), "a and b must have the same polar factor U V^T: they differ"), u)


def _unit(x: Matrix) -> Matrix:
    """`x` times a power of two, so that its largest entry is near 1."""
    return scaled(x, -exponent(x))
