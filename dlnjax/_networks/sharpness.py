"""The largest eigenvalue of the Hessian of the energy of a network, by the method of Lanczos."""

from collections.abc import Callable, Sequence
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
from dlnjax._tree import iterate, norm, own_arithmetic
from dlnjax._types import Energy, Scalar, Weights

# The basis holds this many vectors of the size of all weights. One of half the size needs more products with the
# Hessian, and one of twice the size more memory.
BASIS = 32
# Each restart multiplies the part of other eigenvectors by a factor that falls with the gap: at a relative gap of 1e-4
# some twenty restarts arrive.
RESTARTS = 200


def sharpness(weights: Weights | Sequence[ArrayLike], energy: Energy) -> Scalar:
    """The largest eigenvalue of the Hessian of E(W_N ... W_1) in all entries of the factors.

    Gradient descent with steps of size h, `optax.sgd(h)`, is stable at a minimum if it is below 2 / h. At a balanced
    minimum of |X - M|^2 / 2 it is N sigma_1^(2-2/N), as there the Hessian has the spectrum of `tangent_kernel`.
    The Hessian is never formed: the method of Lanczos takes its products with vectors, with full reorthogonalisation
    and restarts (G. Golub and C. Van Loan, Matrix Computations, chapter 10).

    Differentiable where the eigenvalue is simple.

    **Arguments:** `weights`, W_1 first, a stack `N d d` or a sequence of matrices that chain; `energy`, as in
    `gradient_flow`.

    **Returns:** the eigenvalue, with an error below the square root of rounding of the eigenvalue that is largest in
    size, and mostly near rounding.

    **Raises:** `ValueError` or `TypeError` for bad input; an error if the method does not converge, where several
    eigenvalues almost agree.

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
    return require(value, ~arrived, f"sharpness did not converge in {RESTARTS} restarts of the method of Lanczos.")


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
    found = _restarted(lambda v: still(hessian(still(v))), still(flat))
    # For differentiation the eigenvector is a constant: the derivative of the eigenvalue does not see its motion.
    return still(found.vector) @ hessian(still(found.vector)), found.error <= _tolerance(flat) * found.size


def _tolerance(x: Array) -> float:
    return float(np.finfo(x.dtype).eps) ** 0.5


class _Ritz(NamedTuple):
    """The best eigenvector in a Krylov space: of norm 1; `error`, that of its equation; `size`, of the operator."""

    vector: Float[Array, " n"]
    error: Scalar
    size: Scalar
    restarts: Int[Array, ""]


def _restarted(apply: Callable, like: Float[Array, " n"]) -> _Ritz:
    v = _random(0, like)
    infinite = jnp.asarray(jnp.inf, like.dtype)
    start = _Ritz(v / norm(v), infinite, jnp.ones_like(infinite), jnp.zeros((), int))

    def goes_on(ritz: _Ritz) -> Array:
        return (ritz.error > _tolerance(like) * ritz.size) & (ritz.restarts < RESTARTS)

    return iterate(lambda ritz: _krylov(apply, ritz), goes_on, start)


def _random(k: int | Array, like: Float[Array, " n"]) -> Float[Array, " n"]:
    # No eigenvector of an actual Hessian is orthogonal to a random vector, and a fixed key gives the same bits again.
    return jax.random.normal(jax.random.fold_in(jax.random.key(0), k), like.shape, like.dtype)


def _krylov(apply: Callable, start: _Ritz) -> _Ritz:
    """The best eigenvector in the Krylov space of `start.vector`."""
    n, dtype = start.vector.size, start.vector.dtype
    count = min(n, BASIS)

    def without(basis: Array, w: Array) -> Array:
        # Once is not enough where little of w is left: the rest is then as large as the rounding of what was taken.
        w = w - basis.T @ (basis @ w)
        return w - basis.T @ (basis @ w)

    def extend(j: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        basis, diagonal, beside = state
        w = apply(basis[j])
        diagonal = diagonal.at[j].set(w @ basis[j])
        size = jnp.maximum(norm(w), jnp.max(jnp.abs(diagonal)))
        w = without(basis, w)
        # Where the space is invariant, any other direction goes on from there, and the matrix falls into blocks.
        ends = norm(w) <= n * jnp.finfo(dtype).eps * size
        w = jnp.where(ends, without(basis, _random(j + 1, w)), w)
        length = norm(w)
        following = w / jnp.where(length > 0, length, 1.0)
        return basis.at[j + 1].set(following), diagonal, beside.at[j].set(jnp.where(ends, 0.0, length))

    basis = jnp.zeros((count + 1, n), dtype).at[0].set(start.vector)
    state = basis, jnp.zeros(count, dtype), jnp.zeros(count, dtype)
    basis, diagonal, beside = jax.lax.fori_loop(0, count, extend, state)
    off = jnp.diag(beside[:-1], 1)
    values, vectors = eigh(jnp.diag(diagonal) + off + off.T)
    vector = vectors[:, -1] @ basis[:-1]
    error = beside[-1] * jnp.abs(vectors[-1, -1])
    return _Ritz(vector / norm(vector), error, jnp.max(jnp.abs(values)), start.restarts + 1)
