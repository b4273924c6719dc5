"""The map phi from the factors to their product: horizontal lifts, and the two parts of a motion of the factors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_finite, as_float, as_square, require
from dlnjax._networks.factors import as_weights, product
from dlnjax._types import Weights


def horizontal_lift(weights: Weights, z: Float[Array, "d d"]) -> Weights:
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
    _, pull = jax.vjp(product, weights)
    # A factor without inverse makes d phi d phi^T singular. The sign of its determinant is 0 only if elimination meets
    # a pivot of exactly 0, so that small factors are not refused.
    singular = jnp.any(jnp.linalg.slogdet(weights)[0] == 0)
    message = "weights must have a product of full rank: the determinant of a factor is 0, and not every Z has a lift."
    weights = require(weights, singular, message)
    # d phi d phi^T is d^2 by d^2, and dense where the factors are not balanced: its columns are made one by one.
    unit = jnp.eye(z.size, dtype=z.dtype).reshape(-1, *z.shape)
    push = lambda p: jax.jvp(product, (weights,), (pull(p)[0],))[1]
    operator = jax.vmap(push)(unit).reshape(z.size, z.size)
    return pull(jnp.linalg.solve(operator, z.ravel()).reshape(z.shape))[0]


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
    weights, velocity = as_weights(weights), as_finite("velocity", as_float("velocity", velocity))
    if velocity.shape != weights.shape:
        raise ValueError(f"velocity must have the shape of weights, {weights.shape}, got {velocity.shape}.")
    return horizontal_lift(weights, jax.jvp(product, (weights,), (velocity,))[1])


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
