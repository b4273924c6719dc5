"""Random rotations of frames, to second order in law, by products of matrices alone.

Batches of decompositions that do not depend on each other can wait for each other for ever on a CPU. None is needed
here, neither for the exponential nor for the part of a thin frame that leaves its space.
"""

import jax.numpy as jnp
from jaxtyping import Array

from dlnjax._svd import orthogonalise
from dlnjax._types import Matrix, Square

# exp(C) is a power of a Taylor polynomial of this degree at C/2^s, by s doublings: s = 4, and one more for each
# doubling of d, since the norm of a random C grows with d. For |C| = d the error is 1e-11, and one Newton-Schulz step
# makes the result orthogonal to rounding.
_DEGREE, _DOUBLINGS = 6, 4


def rotated(u: Matrix, inside: tuple[Square, Square], outside: tuple[Matrix, Matrix] | None, angles: Array) -> Matrix:
    """The frame `u` after a random rotation.

    **Arguments:** `inside`, two independent draws of the rotation within the span of `u`, antisymmetric, `r r`;
    `outside`, two independent draws of standard normal numbers, `m r`, or None for a square frame; `angles`, the
    standard deviation of the angle by which each column of `u` leaves the span, for each direction, ` r`.
    """
    if outside is None:
        return u @ rotation(of_second_order(*inside))
    # The rotation takes u to u C + P, where P = D diag(angles) is orthogonal to u, and P to -u P^T P. It therefore
    # stays in the span of u and of the two draws D and D', and acts there on coefficients. The draws are divided by
    # the root of the number of their rows, so that the blocks of this action are of the size of the angles.
    root = len(u) ** 0.5
    leaving = [(draw - u @ (u.T @ draw)) / root for draw in outside]
    wide = root * angles
    zero, eye = jnp.zeros((len(wide), len(wide)), u.dtype), jnp.diag(wide)

    def action(k: int) -> Square:
        back = [-wide[:, None] * (leaving[k].T @ other) for other in leaving]
        rows = [[zero, zero, zero], [zero, zero, zero]]
        rows[k][0] = eye
        return jnp.block([[inside[k], *back], *rows])

    turned = _exponential(of_second_order(action(0), action(1)))[:, : len(wide)]
    return jnp.concatenate([u, *leaving], axis=1) @ turned


def rotation(c: Square) -> Square:
    """exp(c) of an antisymmetric matrix."""
    return orthogonalise(_exponential(c))


def _exponential(c: Square) -> Square:
    doublings = _DOUBLINGS + (len(c) - 1).bit_length()
    small = c / 2**doublings
    eye = jnp.eye(len(c), dtype=c.dtype)
    out = eye
    for k in range(_DEGREE, 0, -1):
        out = eye + small @ out / k
    for _ in range(doublings):
        out = out @ out
    return out


def of_second_order(x: Square, other: Square) -> Square:
    """x + [x, x']/(2 sqrt 2) + [x', [x', x]]/12 for two independent draws x and x' of a random rotation.

    exp(x) alone has the law of Brownian motion on the rotations to first order only, as rotations do not commute. The
    two terms are Levy's area and the third level of the cubature of T. Lyons and N. Victoir, Cubature on Wiener space
    (2004): the expectation of exp of the sum is exp of half the sum of squares up to the third power of the time.
    """
    area = x @ other - other @ x
    return x + area / 8**0.5 - (other @ area - area @ other) / 12
