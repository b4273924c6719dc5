"""The decompositions of LAPACK. On a CPU one call decomposes one matrix, or several small ones.

Of a stack above `_SHARED` operations, JAX shares the matrices among the threads of its pool, while the thread that
calls waits for them (`GetLapackBatchChunkSize` in lapack_kernels.cc of jaxlib). Where parts of a program, or programs,
call at once on all threads of the pool, all of them wait, and the program hangs for ever: `tests/stress/lapack.py`
shows this fault within seconds, without this library, on jaxlib 0.10.2. We know of no public report; jax-ml/jax#39292
concerns the same pool. Here such stacks are therefore decomposed in a loop, also those that `jax.vmap` makes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Complex, Float

# JAX counts at most 30 operations for each m n min(m, n), those of complex singular values.
_SHARED, _OPERATIONS = 200_000, 30


def in_turn(decompose: Callable[..., Any], tangent: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """`decompose` of arrays whose last two axes are matrices. Their leading axes must be the same.

    `tangent` takes the arrays, what was returned and the tangents of the arrays, three lists, to the tangents of what
    was returned. Without it there is no derivative, and JAX says so.

    It is a primitive, with rules for `jax.vmap` and for derivatives. JAX drops the rules of `jax.custom_jvp` where a
    loop is differentiated twice, and a `jax.custom_batching.custom_vmap` cannot be differentiated twice in reverse
    (jax 0.10.2).
    """
    flat = lambda *xs: jax.tree.leaves(decompose(*xs))
    primitive = Primitive(f"{decompose.__name__}_in_turn")
    primitive.multiple_results = True
    together = primitive.bind

    def of_batch(xs: tuple[Any, ...], axes: tuple[int | None, ...]) -> tuple[list[Array], list[int]]:
        size = next(x.shape[axis] for x, axis in zip(xs, axes, strict=True) if axis is not None)
        stacks = [batching.bdim_at_front(x, axis, size) for x, axis in zip(xs, axes, strict=True)]
        if sum(x.size * min(x.shape[-2:]) for x in stacks) * _OPERATIONS < _SHARED:
            out = together(*stacks)
        else:
            one_by_one = lambda *xs: jax.lax.map(lambda each: together(*each), xs)
            out = jax.lax.platform_dependent(*stacks, cpu=one_by_one, default=together)
        return out, [0] * len(out)

    def with_tangents(xs: tuple[Any, ...], dxs: tuple[Any, ...]) -> tuple[list[Array], list[Array]]:
        assert tangent is not None
        out = together(*xs)
        return out, jax.tree.leaves(tangent(xs, out, tuple(map(ad.instantiate_zeros, dxs))))

    primitive.def_impl(flat)
    primitive.def_abstract_eval(lambda *xs: [ShapedArray(x.shape, x.dtype) for x in jax.eval_shape(flat, *xs)])
    mlir.register_lowering(primitive, mlir.lower_fun(flat, multiple_results=True))
    batching.primitive_batchers[primitive] = of_batch
    if tangent is not None:
        ad.primitive_jvps[primitive] = with_tangents

    # Outside of a program, each call of `lax.map` would be compiled anew.
    @jax.jit
    def call(*xs: Array) -> Any:
        f = together
        for _ in xs[0].shape[:-2]:
            f = jax.vmap(f)
        return jax.tree.unflatten(jax.tree.structure(jax.eval_shape(decompose, *xs)), f(*xs))

    return call


def _sign_by_elimination(x: Array) -> Array:
    """The product of the signs of the pivots and of the exchanges of rows. It is NaN where a pivot is.

    `jnp.linalg.slogdet` multiplies the entries of a 2 x 2 matrix, and gives a wrong sign where a product leaves the
    range of the floats (jax 0.10.2).
    """
    lu, rows, _ = jax.lax.linalg.lu(x)
    pivots = jnp.diagonal(lu, axis1=-2, axis2=-1)
    exchanged = rows != jax.lax.broadcasted_iota(rows.dtype, rows.shape, rows.ndim - 1)
    return jnp.prod(jnp.where(exchanged, -jnp.sign(pivots), jnp.sign(pivots)), axis=-1)


_eigenvalues = in_turn(jnp.linalg.eigvalsh)
_cholesky = in_turn(jnp.linalg.cholesky)
_cholesky_solve = in_turn(lambda l, b: jax.scipy.linalg.cho_solve((l, True), b))
_sign = in_turn(_sign_by_elimination)
_solve = in_turn(jnp.linalg.solve)
_upper = in_turn(jax.scipy.linalg.solve_triangular)
_lower = in_turn(lambda r, b: jax.scipy.linalg.solve_triangular(r, b, trans=1))


def _t(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def eigenvalues(x: Float[Array, "*n d d"]) -> Float[Array, "*n d"]:
    """The eigenvalues of a symmetric matrix, ascending. They have no derivative."""
    return _eigenvalues(x)


def _tangent_of_eigh(_: Any, out: list[Array], dxs: Sequence[Array]) -> tuple[Array, Array]:
    (w, v), (dx,) = out, dxs
    inside = _t(v.conj()) @ ((dx + _t(dx.conj())) / 2) @ v
    gap = w[..., None, :] - w[..., :, None]
    one = jnp.broadcast_to(jnp.eye(w.shape[-1], dtype=w.dtype), gap.shape)
    return jnp.real(jnp.diagonal(inside, axis1=-2, axis2=-1)), v @ ((1 / (one + gap) - one).astype(v.dtype) * inside)


_eigh = in_turn(lambda x: tuple(jnp.linalg.eigh(x)), _tangent_of_eigh)


def eigh(x: Float[Array, "*n d d"] | Complex[Array, "*n d d"]) -> tuple[Array, Array]:
    """(eigenvalues, eigenvectors) of a Hermitian matrix, the values ascending.

    The derivative of the vectors is NaN where eigenvalues repeat, as in JAX.
    """
    return _eigh(x)


def _tangent_of_qr(_: Any, out: list[Array], dxs: Sequence[Array]) -> tuple[Array, Array]:
    (q, r), (dx,) = out, dxs
    # dX R^(-1) = dQ + Q dR R^(-1), of which Q^T dQ is antisymmetric and dR R^(-1) upper triangular.
    ratio = _t(solve_triangular(r, _t(dx), transposed=True))
    inside = _t(q) @ ratio
    turn = jnp.tril(inside, -1) - _t(jnp.tril(inside, -1))
    return ratio - q @ (inside - turn), (inside - turn) @ r


_qr = in_turn(lambda x: tuple(jnp.linalg.qr(x)), _tangent_of_qr)


def qr(x: Float[Array, "*n d e"]) -> tuple[Array, Array]:
    """(Q, R), thin. It is differentiable where d >= e and the rank is e."""
    return _qr(x)


def cholesky(x: Float[Array, "*n d d"]) -> Float[Array, "*n d d"]:
    """L with L L^T = X, or NaN where X is not positive definite. It has no derivative."""
    return _cholesky(x)


def cholesky_solve(l: Float[Array, "*n d d"], b: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """(L L^T)^(-1) B. It has no derivative."""
    return _of_columns(partial(_cholesky_solve, l), l, b)


def sign_of_determinant(x: Float[Array, "*n d d"]) -> Float[Array, "*n"]:
    """The sign of det X, a constant in derivatives. It is right where det X leaves the range of the floats."""
    return _sign(jax.lax.stop_gradient(x))


def solve_linear(a: Float[Array, "*n d d"], b: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """A^(-1) B, by elimination."""
    return _linear(a, b, partial(_solve, a), partial(_solve, _t(a)))


def solve_triangular(
    r: Float[Array, "*n d d"], b: Float[Array, "*b"], *, transposed: bool = False
) -> Float[Array, "*b"]:
    """R^(-1) B, or R^(-T) B if `transposed`, for an upper triangular R."""
    upper, lower = partial(_upper, r), partial(_lower, r)
    return _linear(_t(r), b, lower, upper) if transposed else _linear(r, b, upper, lower)


def _linear(a: Array, b: Array, solve: Callable[[Array], Array], transposed: Callable[[Array], Array]) -> Array:
    """A^(-1) B with its derivative, by functions B -> A^(-1) B and B -> A^(-T) B of matrices."""
    whole = lambda b: jax.lax.custom_linear_solve(lambda x: a @ x, b, lambda _, b: solve(b), lambda _, b: transposed(b))
    return _of_columns(whole, a, b)


def _of_columns(solve: Callable[[Array], Array], a: Array, b: Array) -> Array:
    """solve(B), where B is a matrix, or a vector, for each A."""
    return solve(b) if b.ndim == a.ndim else solve(b[..., None])[..., 0]
