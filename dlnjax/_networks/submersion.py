"""The map phi from the factors to their product: its tangent kernel, lifts, and the two parts of a motion."""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from dlnjax._checks import as_finite, as_float, as_matrix, known, require
from dlnjax._compile import compiled
from dlnjax._lapack import qr, solve_triangular
from dlnjax._networks.chain import as_finite_weights, as_weights, chain_product, dtype_of, each, matrix_shape
from dlnjax._networks.cores import cores_of
from dlnjax._scale import exponent, scaled
from dlnjax._tree import own_arithmetic
from dlnjax._types import Layer, Matrix, Scalar, Weights

# How far from a tangent Z may be, relative to its norm: rounding in the product of two projections.
_TANGENT = 1e-10


def tangent_kernel(weights: Weights | Sequence[ArrayLike]) -> Float[Array, "m n m n"]:
    """The neural tangent kernel of the end-to-end map, K = d phi d phi^T:

        K_{ij,kl} = sum over all weights w of (dX_ij / dw) (dX_kl / dw)
                  = sum_p (B_p B_p^T)_{ik} (A_p^T A_p)_{jl},    B_p = W_N ... W_{p+1},  A_p = W_{p-1} ... W_1.

    Under the gradient flow (1.5) of the factors, dX/dt = -K dE(X). On balanced factors K is N times the operator of
    `metric_operator` (Theorem 2.2.6), which has the 1/N of this library.

    **Arguments:** `weights`, W_1 first: a stack `N d d`, or a sequence of matrices that chain.

    **Returns:** K, `m n m n`: `jnp.tensordot(K, z)` is its action on a matrix, and `K.reshape(m * n, m * n)` the
    symmetric matrix of it.

    **Raises:** as `product`.

    **Example:**

        >>> x, z = jnp.diag(jnp.array([8.0, 1.0])), jnp.ones((2, 2))
        >>> kernel = dln.tangent_kernel(dln.balanced_factors(x, 3))
        >>> bool(jnp.allclose(jnp.tensordot(kernel, z), 3 * dln.metric_operator(x, z, 3)))
        True
    """
    weights = as_finite_weights(as_weights(weights))
    with own_arithmetic():
        return _tangent_kernel(weights)


@compiled
def _tangent_kernel(weights: Weights) -> Float[Array, "m n m n"]:
    m, n = matrix_shape(weights)
    one = lambda size: jnp.eye(size, dtype=dtype_of(weights))
    below = _before_each(lambda a, w: w @ a, one(n), weights, reverse=False)
    above = _before_each(lambda b, w: b @ w, one(m), weights, reverse=True)
    left, right = each(lambda b: b @ b.T, above), each(lambda a: a.T @ a, below)
    return jnp.einsum("pik,pjl->ijkl", jnp.stack(list(left)), jnp.stack(list(right)))


def _before_each(join: Callable[[Matrix, Layer], Matrix], start: Matrix, weights: Weights, reverse: bool) -> Weights:
    """The partial product that is there before each factor joins it, from the first on, or from the last."""
    if isinstance(weights, jax.Array):
        return jax.lax.scan(lambda partial, w: (join(partial, w), partial), start, weights, reverse=reverse)[1]
    found = list(itertools.accumulate(weights[::-1] if reverse else weights, join, initial=start))[:-1]
    return tuple(found[::-1] if reverse else found)


def horizontal_lift(weights: Weights | Sequence[ArrayLike], z: Matrix) -> Weights:
    """The shortest motion of the factors that moves their product X by Z: d phi^T (d phi d phi^T)^(-1) Z.

    At balanced factors d phi d phi^T is N times the operator of `metric_operator` (Theorem 2.2.6), so that the squared
    length of the lift is the thesis's g^N(Z, Z), `inner(x, z, z, N)` / N. The result is horizontal:

        W_{p+1}^T Z_{p+1} = Z_p W_p^T,    1 <= p < N.

    Through a layer of width r below m and n only matrices of rank r come, and Z must be tangent to them.

    **Arguments:** `weights`, W_1 first, a stack `N d d` or a sequence of matrices that chain, balanced or not, whose
    product has the largest rank that the widths allow; `z`, `m n`.

    **Returns:** the motions of the factors, in the form in which they were given.

    **Raises:** `ValueError` or `TypeError` for shapes that differ, a product of lower rank, or a Z that is no tangent.

    **Example:**

        >>> x, z = jnp.diag(jnp.array([2.0, 1.0])), jnp.ones((2, 2))
        >>> lift = dln.horizontal_lift(dln.balanced_factors(x, 3), z)
        >>> print(f"{jnp.sum(lift**2):.6f} = {dln.inner(x, z, z, 3) / 3:.6f}")  # Theorem 2.2.6
        0.857217 = 0.857217
    """
    given, z = as_finite_weights(as_weights(weights)), as_finite("z", as_matrix("z", z))
    dtype = np.result_type(dtype_of(given), z.dtype)
    factors: Weights = each(lambda w: w.astype(dtype), given)
    if z.shape != matrix_shape(factors):
        raise ValueError(f"z must have the shape of the product, {matrix_shape(factors)}, got {z.shape}.")
    z, frames = z.astype(dtype), _frames_of(factors)
    if frames is not None:
        beyond = _normal_part(tuple(map(known, frames)), known(z))
        message = (
            f"z must be tangent to the matrices of rank {frames[0].shape[1]}, as no motion of the factors moves their "
            "product otherwise: see metric_operator and horizontal_projection for motions that are."
        )
        z = require(z, abs(beyond).max() > _TANGENT * abs(known(z)).max(), message)
    with own_arithmetic():
        return _lift(factors, frames, z)


def _frames_of(weights: Weights) -> tuple[Layer, ...] | None:
    """The frames in which a chain reaches the matrices of the rank of its product; None for a stack."""
    frames, _ = cores_of(weights)
    if frames is None:
        return None
    # Motions that leave the space of X come from one factor alone. Beside far larger ones they vanish in d phi d phi^T.
    widest = float(np.finfo(dtype_of(weights)).tiny) ** -0.5
    sizes = [abs(known(w)).max() for w in weights]
    far = functools.reduce(operator.or_, (a > widest * b for a, b in itertools.permutations(sizes, 2)), np.False_)
    message = (
        f"weights must not differ by more than {widest:.0e} in size from factor to factor, which is too much for the "
        "floats. Multiply one by a power of two and divide another by it: their product stays the same."
    )
    return require(frames, far, message)


@compiled
def _lift(weights: Weights, frames: tuple[Layer, ...] | None, z: Matrix) -> Weights:
    k, q, r = _horizontal(weights, frames)
    return _motions(weights)(q @ solve_triangular(r, scaled(z, -k).ravel(), transposed=True))


def _normal_part(frames: tuple[Any, ...], z: Any) -> Any:
    """(I - Q_N Q_N^T) Z (I - Q_0 Q_0^T), what leaves the matrices of the rank of X."""
    outer, inner = frames[-1], frames[0]
    z = z - outer @ (outer.T @ z)
    return z - (z @ inner) @ inner.T


def _horizontal(weights: Weights, frames: tuple[Layer, ...] | None) -> tuple[Scalar, Layer, Layer]:
    """(k, Q, R) with d phi^T / 2^k = Q R, as matrices with a row for each entry of the factors.

    The lift of Z is Q R^(-T) Z / 2^k, and Q Q^T projects on the horizontal motions. The condition number of
    d phi d phi^T, by which the lift is defined, is the square of that of d phi.

    With factors W_p = 2^(k_p) w_p, d phi at W is 2^(sum k) times the sum over p of 2^(-k_p) d_p phi at w. The largest
    of these powers is taken out, 2^k; what is left of each, at most 1, is `share`.
    """
    powers = each(exponent, weights)
    exponents = jnp.stack(list(powers))
    least = jnp.min(exponents)
    unit = each(lambda w, k: scaled(w, -k), weights, powers)
    x, back = jax.vjp(chain_product, unit)

    def pull(z: Matrix) -> Float[Array, " rows"]:
        share = each(lambda w, k: scaled(w, least - k), back(z)[0], powers)
        # The part of Z that is normal to the matrices of the rank of X is mapped to 0. With rows of its own R has an
        # inverse, so that one solve serves matrices of any rank.
        normal = [] if frames is None else [_normal_part(frames, z).ravel()]
        return jnp.concatenate([ravel_pytree(share)[0], *normal])

    basis = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
    q, r = qr(jax.vmap(pull)(basis).T)
    return jnp.sum(exponents) - least, q[: sum(w.size for w in jax.tree.leaves(weights))], r


def _motions(weights: Weights) -> Callable[[Float[Array, " rows"]], Weights]:
    """The motion of the factors whose entries are those of a vector."""
    return ravel_pytree(weights)[1]


def horizontal_projection(weights: Weights | Sequence[ArrayLike], velocity: Any) -> Weights:
    """The part of a motion of the factors that moves their product: the lift of d phi(velocity).

    What is left, `velocity` - `horizontal_projection(weights, velocity)`, is vertical: it moves along the fibre, where
    the product rests, and is orthogonal to every horizontal motion.

    **Arguments:** `weights`, W_1 first, and `velocity`, of the same shapes: stacks `N d d`, or sequences of matrices.

    **Returns:** the horizontal part, in the form of `weights`.

    **Raises:** as `horizontal_lift`.

    **Example:**

        >>> weights = dln.balanced_factors(jnp.diag(jnp.array([2.0, 1.0])), 2)
        >>> turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> along_fibre = jnp.stack([turn @ weights[0], -weights[1] @ turn])  # W_2 W_1 rests
        >>> bool(jnp.max(jnp.abs(dln.horizontal_projection(weights, along_fibre))) < 1e-12)
        True
    """
    weights = as_finite_weights(as_weights(weights))
    velocity = _as_velocity(velocity, weights)
    frames = _frames_of(weights)
    with own_arithmetic():
        return _project(weights, frames, velocity)


@compiled
def _project(weights: Weights, frames: tuple[Layer, ...] | None, velocity: Weights) -> Weights:
    _, q, _ = _horizontal(weights, frames)
    return _motions(weights)(q @ (q.T @ ravel_pytree(velocity)[0]))


def _as_velocity(velocity: Any, weights: Weights) -> Weights:
    """A motion of the factors, of their shapes and in their form."""
    if isinstance(weights, jax.Array):
        velocity = as_finite("velocity", as_float("velocity", velocity))
        if velocity.shape != weights.shape:
            raise ValueError(f"velocity must have the shape of weights, {weights.shape}, got {velocity.shape}.")
        return velocity
    if not isinstance(velocity, (list, tuple)):
        raise TypeError(f"velocity must be a sequence of matrices, as weights are, got {type(velocity).__name__}.")
    layers = tuple(as_finite(f"velocity[{p}]", as_float(f"velocity[{p}]", v)) for p, v in enumerate(velocity))
    expected, found = ([w.shape for w in ws] for ws in (weights, layers))
    if expected != found:
        raise ValueError(f"velocity must have the shapes of weights, {expected}, got {found}.")
    return layers


def vertical_projection(weights: Weights | Sequence[ArrayLike], velocity: Any) -> Weights:
    """The part of a motion of the factors that leaves their product in place: see `horizontal_projection`.

    Arguments, what is returned and raised, as there.

    **Example:**

        >>> weights = dln.balanced_factors(jnp.diag(jnp.array([2.0, 1.0])), 2)
        >>> turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> along_fibre = jnp.stack([turn @ weights[0], -weights[1] @ turn])  # W_2 W_1 rests
        >>> bool(jnp.allclose(dln.vertical_projection(weights, along_fibre), along_fibre))
        True
    """
    horizontal = horizontal_projection(weights, velocity)
    if isinstance(horizontal, tuple):
        return tuple(v - h for v, h in zip(velocity, horizontal, strict=True))
    return velocity - horizontal
