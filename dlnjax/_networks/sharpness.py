"""The largest eigenvalue of the Hessian of the energy of a network, by the method of Lanczos."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from dlnjax._checks import check_energy, require
from dlnjax._compile import compiled
from dlnjax._networks.chain import as_weights, chain_product, dtype_of, matrix_shape, require_finite_weights
from dlnjax._protocol import gradient
from dlnjax._svd import eigh
from dlnjax._traced import traced_energy
from dlnjax._tree import differentiable_once, iterate, norm, own_arithmetic, positive
from dlnjax._types import Energy, Scalar, Weights

# Vectors of the size of all weights in the basis, and how many of them are kept at a restart.
BASIS, KEPT = 48, 16
# At a relative gap of 1e-2 to the next eigenvalue, of 2000 that are spread evenly, 3 restarts arrive; at 1e-4 10.
RESTARTS = 300


def sharpness(weights: Weights | Sequence[ArrayLike], energy: Energy) -> Scalar:
    """The largest eigenvalue of the Hessian of E(W_N ... W_1) in all entries of the factors.

    Gradient descent with steps of size h, `optax.sgd(h)`, is stable at a minimum if it is below 2 / h. At a balanced
    minimum of |X - M|^2 / 2 it is N sigma_1^(2-2/N), as there the Hessian has the spectrum of `tangent_kernel`.
    The Hessian is never formed: the method of Lanczos takes its products with vectors, with full reorthogonalisation
    and thick restarts. Source: K. Wu and H. Simon 2000.

    Differentiable once, where the eigenvalue is simple: the slope of a repeated one is that of any of its vectors.
    Second derivatives are NaN.

    **Arguments:** `weights`, W_1 first, a stack `N d d` or a sequence of matrices that chain; `energy`, as in
    `gradient_flow`.

    **Returns:** the eigenvalue, with an error below the square root of rounding of the eigenvalue that is largest in
    size, and mostly near rounding.

    **Raises:** `ValueError` or `TypeError` for bad input; an error if the method does not converge.

    **Example:**

        >>> target = jnp.diag(jnp.array([8.0, 1.0]))
        >>> weights = dln.balanced_factors(target, 3)
        >>> print(f"{dln.sharpness(weights, lambda x: jnp.sum((x - target) ** 2) / 2):.6f}")  # 3 * 8^(4/3)
        48.000000
    """
    weights = require_finite_weights(as_weights(weights))
    shape, dtype = matrix_shape(weights), dtype_of(weights)
    check_energy(energy, shape, dtype)
    energy = traced_energy(energy, shape, dtype)
    with own_arithmetic():
        value, arrived = _sharpness(energy, weights)
    return require(
        value, ~arrived, f"sharpness must converge in {RESTARTS} restarts of the method of Lanczos, and did not."
    )


@compiled
def _sharpness(energy: Callable, weights: Weights) -> tuple[Scalar, Array]:
    flat, unravel = ravel_pytree(weights)

    def slope(flat: Float[Array, " n"]) -> Float[Array, " n"]:
        # The gradient (1.6), which uses the closed form of dE where the energy has one.
        x, pull = jax.vjp(chain_product, unravel(flat))
        return ravel_pytree(pull(gradient(energy, x))[0])[0]

    def hessian(v: Float[Array, " n"]) -> Float[Array, " n"]:
        return jax.jvp(slope, (flat,), (v,))[1]

    still = jax.lax.stop_gradient
    found = _largest(lambda v: still(hessian(still(v))), still(flat))
    # For differentiation the eigenvector is a constant: the derivative of the eigenvalue does not see its motion, as
    # second derivatives do.
    value = differentiable_once(still(found.vector) @ hessian(still(found.vector)))
    return value, found.error <= _tolerance(flat) * found.size


def _tolerance(x: Array) -> float:
    return float(np.finfo(x.dtype).eps) ** 0.5


class _Krylov(NamedTuple):
    """A basis of a Krylov space, the operator in it, and the best eigenvector."""

    basis: Float[Array, "k+1 n"]
    projected: Float[Array, "k k"]
    # How many eigenvectors the last restart kept, 0 before the first. The basis is filled from the vector after these.
    kept: Int[Array, ""]
    vector: Float[Array, " n"]
    # The norm of the error of the equation that the eigenvector solves.
    error: Scalar
    # The largest eigenvalue in size.
    size: Scalar
    restarts: Int[Array, ""]


def _largest(apply: Callable, like: Float[Array, " n"]) -> _Krylov:
    """The eigenvector of the largest eigenvalue of a symmetric operator on vectors like this one."""
    n, count = like.size, min(like.size, BASIS)
    v = _random(0, like)
    start = _Krylov(
        jnp.zeros((count + 1, n), like.dtype).at[0].set(v / norm(v)),
        jnp.zeros((count, count), like.dtype),
        jnp.zeros((), int),
        v,
        jnp.asarray(jnp.inf, like.dtype),
        jnp.ones((), like.dtype),
        jnp.zeros((), int),
    )

    def goes_on(at: _Krylov) -> Array:
        return (at.error > _tolerance(like) * at.size) & (at.restarts < RESTARTS)

    return iterate(partial(_extend, apply), goes_on, start)


def _random(k: int | Array, like: Float[Array, " n"]) -> Float[Array, " n"]:
    # A random vector is orthogonal to no eigenvector, and a fixed key gives the same bits again.
    return jax.random.normal(jax.random.fold_in(jax.random.key(0), k), like.shape, like.dtype)


def _extend(apply: Callable, at: _Krylov) -> _Krylov:
    """Fill the basis, and find the eigenvectors in it. The best of them begin the next one (a thick restart)."""
    count, n = len(at.projected), at.vector.size

    def without(basis: Array, w: Array) -> tuple[Array, Array]:
        # Once is not enough where little of w is left: the rest is then as large as the rounding of what was taken.
        once = basis @ w
        w = w - basis.T @ once
        twice = basis @ w
        return w - basis.T @ twice, once + twice

    def add(j: Array, state: tuple[Array, Array, Scalar]) -> tuple[Array, Array, Scalar]:
        basis, projected, _ = state
        w = apply(basis[j])
        size = norm(w)
        w, column = without(basis, w)
        projected = projected.at[:, j].set(column[:-1]).at[j, :].set(column[:-1])
        # Where the space is invariant, any other direction goes on from there, and the matrix falls into blocks.
        ends = norm(w) <= n * jnp.finfo(w.dtype).eps * jnp.maximum(size, jnp.max(jnp.abs(projected)))
        w = jnp.where(ends, without(basis, _random(j + 1, w))[0], w)
        following = w / positive(norm(w))
        return basis.at[j + 1].set(following), projected, jnp.where(ends, 0.0, norm(w))

    state = at.basis, at.projected, jnp.zeros_like(at.error)
    basis, projected, beyond = jax.lax.fori_loop(at.kept, count, add, state)
    values, vectors = eigh(projected)
    ritz = vectors.T @ basis[:-1]
    kept = min(KEPT, count)
    again = jnp.zeros_like(basis).at[:kept].set(ritz[-kept:]).at[kept].set(basis[-1])
    return _Krylov(
        again,
        jnp.zeros_like(projected).at[jnp.arange(kept), jnp.arange(kept)].set(values[-kept:]),
        jnp.asarray(kept, at.kept.dtype),
        ritz[-1] / norm(ritz[-1]),
        beyond * jnp.abs(vectors[-1, -1]),
        jnp.max(jnp.abs(values)),
        at.restarts + 1,
    )
