"""The map phi from the factors to their product: horizontal lifts, and the two parts of a motion of the factors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlnjax._checks import as_finite, as_float, as_square, require_full_rank
from dlnjax._networks.factors import as_weights, product
from dlnjax._scale import exponent, scaled
from dlnjax._types import Matrix, Scalar, Weights


def horizontal_lift(weights: Weights, z: Matrix) -> Weights:
    """The shortest motion of the factors that moves their product X by Z: d phi^T (d phi d phi^T)^(-1) Z.

    At balanced factors d phi d phi^T is N times the operator of `metric_operator` (Theorem 2.2.6), so that the squared
    length of the lift is the thesis's g^N(Z, Z), `inner(x, z, z, N)` / N. The result is horizontal:

        W_{p+1}^T Z_{p+1} = Z_p W_p^T,    1 <= p < N.

    **Arguments:** `weights`, `N d d`, W_1 first, of a product of full rank, balanced or not; `z`, `d d`.

    **Returns:** the motions of the factors, `N d d`.

    **Raises:** `ValueError` or `TypeError` for shapes that differ, or a product that is singular.

    **Example:**

        >>> x, z = jnp.diag(jnp.array([2.0, 1.0])), jnp.ones((2, 2))
        >>> lift = dln.horizontal_lift(dln.balanced_factors(x, 3), z)
        >>> print(f"{jnp.sum(lift**2):.6f} = {dln.inner(x, z, z, 3) / 3:.6f}")  # Theorem 2.2.6
        0.857217 = 0.857217
    """
    weights, z = as_finite("weights", as_weights(weights)), as_finite("z", as_square("z", z))
    if z.shape != weights.shape[1:]:
        raise ValueError(f"z must have the shape of a factor, {weights.shape[1:]}, got {z.shape}.")
    k, _, lift = _at_size_one(_of_full_rank(weights))
    return lift(scaled(z, -k))


def _of_full_rank(weights: Weights) -> Weights:
    # A factor without inverse makes d phi d phi^T singular.
    message = "the determinant of a factor of the product is 0, and not every Z has a lift."
    return require_full_rank("weights", weights, message)


def _at_size_one(
    weights: Weights,
) -> tuple[Scalar, Callable[[Weights], Matrix], Callable[[Matrix], Weights]]:
    """(k, push, lift), d phi / 2^k and the lift of what it gives, neither of which leaves the range of the floats.

    With factors W_p = 2^(k_p) w_p, d phi at W is 2^(sum k) times the sum over p of 2^(-k_p) d_p phi at w. The largest
    of these powers is taken out, 2^k; what is left of each, at most 1, is `share`.
    """
    each = jax.vmap(exponent)(weights)
    unit, least = jax.vmap(scaled)(weights, -each), jnp.min(each)

    def share(w: Weights) -> Weights:
        return jax.vmap(scaled)(w, least - each)

    def push(w: Weights) -> Matrix:
        return jax.jvp(product, (unit,), (share(w),))[1]

    def pull(z: Matrix) -> Weights:
        return share(jax.vjp(product, unit)[1](z)[0])

    def lift(z: Matrix) -> Weights:
        # The matrix of d phi d phi^T has d^2 rows, and one column for each matrix of the basis. It is dense where the
        # factors are not balanced.
        basis = jnp.eye(z.size, dtype=z.dtype).reshape(-1, *z.shape)
        operator = jax.vmap(lambda p: push(pull(p)))(basis).reshape(z.size, z.size)
        return pull(jnp.linalg.solve(operator, z.ravel()).reshape(z.shape))

    return jnp.sum(each) - least, push, lift


def horizontal_projection(weights: Weights, velocity: Weights) -> Weights:
    """The part of a motion of the factors that moves their product: the lift of d phi(velocity).

    What is left, `velocity` - `horizontal_projection(weights, velocity)`, is vertical: it moves along the fibre, where
    the product rests, and is orthogonal to every horizontal motion.

    **Arguments:** `weights` and `velocity`, `N d d`, W_1 first.

    **Returns:** the horizontal part, `N d d`.

    **Raises:** as `horizontal_lift`.

    **Example:**

        >>> weights = dln.balanced_factors(jnp.diag(jnp.array([2.0, 1.0])), 2)
        >>> turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> along_fibre = jnp.stack([turn @ weights[0], -weights[1] @ turn])  # W_2 W_1 rests
        >>> bool(jnp.max(jnp.abs(dln.horizontal_projection(weights, along_fibre))) < 1e-12)
        True
    """
    weights, velocity = as_finite("weights", as_weights(weights)), as_finite("velocity", as_float("velocity", velocity))
    if velocity.shape != weights.shape:
        raise ValueError(f"velocity must have the shape of weights, {weights.shape}, got {velocity.shape}.")
    _, push, lift = _at_size_one(_of_full_rank(weights))
    return lift(push(velocity))


def vertical_projection(weights: Weights, velocity: Weights) -> Weights:
    """The part of a motion of the factors that leaves their product in place: see `horizontal_projection`.

    Arguments, what is returned and raised, as there.

    **Example:**

        >>> weights = dln.balanced_factors(jnp.diag(jnp.array([2.0, 1.0])), 2)
        >>> turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> along_fibre = jnp.stack([turn @ weights[0], -weights[1] @ turn])  # W_2 W_1 rests
        >>> bool(jnp.allclose(dln.vertical_projection(weights, along_fibre), along_fibre))
        True
    """
    return velocity - horizontal_projection(weights, velocity)
