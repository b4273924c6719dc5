"""Random rotations of frames, to second order in law, by products of matrices alone.

Batches of decompositions that do not depend on each other can wait for each other for ever on a CPU. None is needed
here, neither for the exponential nor for the part of a thin frame that leaves its space.
"""

from collections.abc import Callable
from math import factorial

import jax.numpy as jnp
from jaxtyping import Array

from dlnjax._geometry.levi_civita import bracket
from dlnjax._types import Matrix, Square

# exp(C) is a power of the Taylor polynomial of degree 12 at C/2^s, by s doublings: s = 1, and one more for each
# doubling of d, since the norm of a random C grows with d. For |C| = d the error is 1e-12.
_TAYLOR, _DOUBLINGS = [1 / factorial(k) for k in range(13)], 1


def rotated(u: Matrix, inside: tuple[Square, Square], outside: tuple[Matrix, Matrix] | None, angles: Array) -> Matrix:
    """The frame `u` after a random rotation.

    **Arguments:** `inside`, two independent draws of the rotation within the span of `u`, antisymmetric, `r r`;
    `outside`, two independent draws of standard normal numbers, `m r`, or None for a square frame; `angles`, the
    standard deviation of the angle by which each column of `u` leaves the span, for each direction, ` r`.
    """
    if outside is None:
        return u @ rotation(of_second_order(*inside, _antisymmetric_bracket))
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

    turned = rotation(of_second_order(action(0), action(1), bracket))[:, : len(wide)]
    return jnp.concatenate([u, *leaving], axis=1) @ turned


def rotation(c: Square) -> Square:
    """exp(c) of an antisymmetric matrix, or of one that is antisymmetric in another basis.

    The polynomial takes five products, by M. Paterson and L. Stockmeyer (1973).
    """
    doublings = _DOUBLINGS + (len(c) - 1).bit_length()
    c = c / 2**doublings
    square = c @ c
    cube, fourth = square @ c, square @ square
    powers = [jnp.eye(len(c), dtype=c.dtype), c, square, cube]
    block = lambda k: sum(a * power for a, power in zip(_TAYLOR[k : k + 4], powers, strict=True))
    out = block(0) + fourth @ (block(4) + fourth @ (block(8) + _TAYLOR[12] * fourth))
    for _ in range(doublings):
        out = out @ out
    return out


def _antisymmetric_bracket(x: Square, y: Square) -> Square:
    """[x, y] of two antisymmetric matrices, by one product."""
    product = x @ y
    return product - product.T


def of_second_order(x: Square, other: Square, commutator: Callable[[Square, Square], Square]) -> Square:
    """x + [x, x']/(2 sqrt 2) + [x', [x', x]]/12 for two independent draws x and x' of a random rotation.

    exp(x) alone has the law of Brownian motion on the rotations to first order only, as rotations do not commute. The
    two terms are Levy's area and the third level of the cubature of T. Lyons and N. Victoir, Cubature on Wiener space
    (2004): the expectation of exp of the sum is exp of half the sum of squares up to the third power of the time.
    """
    area = commutator(x, other)
    return x + area / 8**0.5 - commutator(other, area) / 12
