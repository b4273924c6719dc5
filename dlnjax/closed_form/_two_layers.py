"""Two layers on their way to a target: the Riccati equation of Fukumizu, solved in the singular vectors of the target.

M is the target, and W_2^T W_2 - W_1 W_1^T = l I at the start. With Q = [W_1^T; W_2] and
F = [[-l/2 I, M^T], [M, l/2 I]] the flow is Q' = F Q - Q Q^T Q / 2 in the thesis's time, and

    Q Q^T = e^{Ft} Q_0 [I + Q_0^T Phi Q_0]^{-1} Q_0^T e^{Ft},    Phi = int_0^t e^{2Fs} ds.

F is symmetric, and its eigenvectors follow from the singular vectors of M. There e^{Ft} is diagonal, Phi is a function
without a pole, and no power of e is formed that leaves the range of the floats.
Sources: K. Fukumizu 1998; L. Braun, C. Domine, J. Fitzgerald, A. Saxe 2022.
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._checks import as_matrix, as_real, is_concrete, known, require, require_finite
from dlnjax._compile import compiled
from dlnjax._geometry.special import log_shc
from dlnjax._lapack import qr, solve_triangular
from dlnjax._scale import exponent, scaled
from dlnjax._svd import plain_svd
from dlnjax._tree import norm, own_arithmetic, positive, side_of_zero
from dlnjax._types import Matrix, Numbers, Scalar

# W_2^T W_2 - W_1 W_1^T is taken for a multiple of the identity if it is one to two thirds of the digits, relative to
# the factors. What `balance` and long flows leave is well below.
_FITTING_DIGITS = 2 / 3
# What is left of a row, after it is made of two and turned as often as there are columns, counts as 0 up to this many
# roundings for each column.
_ROUNDINGS = 16


First: TypeAlias = Float[Array, "h n"]
Second: TypeAlias = Float[Array, "m h"]


class TwoLayer(NamedTuple):
    """What `two_layer` returns, with the axes of `ts` in front.

    **Attributes:** `x`, the product, `*ts m n`; `weights`, the pair W_1, W_2.

    **Example:**

        >>> w1, w2 = dln.balanced_factors(0.1 * jnp.eye(2), 2)
        >>> sol = dln.closed_form.two_layer(w1, w2, jnp.eye(2), [0.0, 1.0, 2.0])
        >>> sol.x.shape, [w.shape for w in sol.weights]
        ((3, 2, 2), [(3, 2, 2), (3, 2, 2)])
    """

    x: Float[Array, "*ts m n"]
    weights: tuple[Float[Array, "*ts h n"], Float[Array, "*ts m h"]]


def two_layer(w1: First, w2: Second, target: Matrix, ts: Numbers) -> TwoLayer:
    """The gradient flow of two layers under E = |W_2 W_1 - M|^2 / 2, in the time of `network_flow`:

        W_1' = -(1/2) W_2^T (W_2 W_1 - M),    W_2' = -(1/2) (W_2 W_1 - M) W_1^T,

    from any start with W_2^T W_2 - W_1 W_1^T = l I, of any shapes, for any l. A start with l = 0 is balanced; that of
    `imbalanced_factors(x, g)` has l = -g. The same holds for inputs and outputs that are whitened: M is then their
    correlation. Times may be long: t need only be finite. Differentiable where the singular values of M are distinct
    and none is 0.

    **Arguments:** `w1`, `h n`; `w2`, `m h`; `target`, M, `m n`; `ts`, a time, or an array of times, of at least 0.

    **Returns:** a `TwoLayer`: `x`, `ts m n`; `weights`, (W_1, W_2), `ts h n` and `ts m h`. The weights are those of the
    flow up to an orthogonal matrix of the hidden layer, W_1 -> O W_1 and W_2 -> W_2 O^T, which Q Q^T does not see.

    **Raises:** `ValueError` or `TypeError` for shapes that do not chain, negative times, or a start that is not so
    balanced, with the number by which it fails.

    **Example:**

        >>> target = jnp.diag(jnp.array([2.0, 1.0]))
        >>> w1, w2 = dln.balanced_factors(0.1 * jnp.eye(2), 2)
        >>> jnp.diagonal(dln.closed_form.two_layer(w1, w2, target, 1.5).x).round(6).tolist()
        [1.027773, 0.332428]
        >>> [f"{dln.closed_form.mode(0.1, s, 2, 1.5):.6f}" for s in (2.0, 1.0)]
        ['1.027773', '0.332428']
    """
    w1, w2, target = (require_finite(n, as_matrix(n, z)) for n, z in (("w1", w1), ("w2", w2), ("target", target)))
    if w2.shape[1] != w1.shape[0] or target.shape != (w2.shape[0], w1.shape[1]):
        raise ValueError(
            "w1, w2 and target must have the shapes (h, n), (m, h) and (m, n), "
            f"got {w1.shape}, {w2.shape} and {target.shape}."
        )
    ts = as_real("ts", ts, "It is a time, or an array of them.")
    ts = require(ts, ~((known(ts) >= 0) & (known(ts) < jnp.inf)).all(), "ts must be finite and at least 0.")
    dtype = jnp.result_type(w1, w2, target)
    with own_arithmetic():
        (x, weights), defect = _two_layer(w1.astype(dtype), w2.astype(dtype), target.astype(dtype), ts.astype(dtype))
    shown = f" by {float(defect):.2e}" if is_concrete(defect) else ""
    message = (
        "w1 and w2 must have W_2^T W_2 - W_1 W_1^T = l I, a multiple of the identity: relative to their squares it is "
        f"off{shown}. For other starts use network_flow."
    )
    off = ~(defect <= float(jnp.finfo(dtype).eps) ** _FITTING_DIGITS)
    return TwoLayer(*require((x, weights), off, message))


@compiled
def _two_layer(w1: First, w2: Second, target: Matrix, ts: Float[Array, "*ts"]) -> tuple[TwoLayer, Scalar]:
    half, defect = _half_imbalance(w1, w2)
    s, u, v = plain_svd(target)
    # The eigenvectors of F are (v sin a, u cos a) and (v cos a, -u sin a), of the eigenvalues w and -w, and what is
    # orthogonal to all v above, and to all u below, of -l/2 and l/2.
    angle, w = jnp.arctan2(s, half)[:, None] / 2, jnp.hypot(s, half)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    above, below = v.T @ w1.T, u.T @ w2
    one = jnp.concatenate([sine * above, cosine * above, w1.T, w2])
    other = jnp.concatenate([cosine * below, -sine * below, -v @ above, -u @ below])
    # On the stable manifold of a saddle these sums cancel, and what is left of them by rounding would grow.
    rows, sizes = one + other, jnp.max(jnp.maximum(jnp.abs(one), jnp.abs(other)), axis=1)
    (m, n), r = target.shape, len(s)
    rate = lambda size, value: jnp.full(size, value, s.dtype)
    rates = jnp.concatenate([w, -w, rate(n, -half), rate(m, half)])

    def at(t: Scalar) -> tuple[Matrix, tuple[First, Second]]:
        # The time of the thesis is half of ours at two layers.
        plus, minus, rest1, rest2 = jnp.split(
            _gram_root(rows, jax.lax.stop_gradient(sizes), rates, t / 2), [r, 2 * r, 2 * r + n]
        )
        first = v @ (sine * plus + cosine * minus) + rest1
        second = u @ (cosine * plus - sine * minus) + rest2
        return second @ first.T, (first.T, second)

    x, weights = jax.vmap(at)(ts.ravel())
    shaped = lambda z: z.reshape(*ts.shape, *z.shape[1:])
    return TwoLayer(shaped(x), (shaped(weights[0]), shaped(weights[1]))), defect


def _half_imbalance(w1: First, w2: Second) -> tuple[Scalar, Scalar]:
    """l/2, and how far W_2^T W_2 - W_1 W_1^T is from l I, relative to the factors."""
    k = jnp.maximum(exponent(w1), exponent(w2))
    first, second = scaled(w1, -k), scaled(w2, -k)
    g = second.T @ second - first @ first.T
    mean = jnp.trace(g) / len(g)
    off = norm(g - mean * jnp.eye(len(g), dtype=g.dtype))
    return scaled(mean / 2, 2 * k), off / positive(norm(first) ** 2 + norm(second) ** 2)


def _gram_root(
    rows: Float[Array, "k h"], sizes: Float[Array, " k"], rates: Float[Array, " k"], t: Scalar
) -> Float[Array, "k h"]:
    """A Y with Y Y^T = E B [I + B^T phi B]^{-1} B^T E, for the rows B, E = e^{rates t}, phi the integral of E^2.

    With T = max(E, 1), N = min(E, 1) and phi = T psi T, the matrix is N Z [C^T C + Z^T psi Z]^{-1} Z^T N for any
    T B = Z C^{-1}. Z and C stay in the range of the floats: C is an orthogonal matrix, by which rows that grow most
    are made triangular first, and a power of e for each column. psi = (1 - e^{-2|rates| t}) / (2 |rates|).
    """
    grows = jnp.maximum(rates, 0.0) * t
    turned = _turned(rows, sizes, grows)
    largest = jnp.finfo(rows.dtype).max
    size = jnp.log(jnp.maximum(jnp.abs(turned), 1 / largest))
    # The logarithm of the largest entry of each column of T B, or of 1.
    column = jax.lax.stop_gradient(jnp.maximum(jnp.max(grows[:, None] + size, axis=0), 0.0))
    z = turned * jnp.exp(jnp.minimum(grows[:, None] - column, jnp.log(largest)))
    x = 2 * jnp.abs(rates) * t
    # Near x = 0 the derivative of the quotient has no digits.
    near = x < 1
    far = jnp.where(near, 1.0, x)
    psi = t * jnp.where(near, jnp.exp(log_shc(x / 2) - x / 2), -jnp.expm1(-far) / far)
    # Triangular, with R^T R = C^T C + Z^T psi Z, whose condition number a product would square.
    r = qr(jnp.concatenate([jnp.diag(jnp.exp(-column)), jnp.sqrt(psi)[:, None] * z]))[1]
    y = solve_triangular(r, z.T, transposed=True).T
    return jnp.exp(jnp.minimum(rates, 0.0) * t)[:, None] * y


def _turned(rows: Float[Array, "k h"], sizes: Float[Array, " k"], grows: Float[Array, " k"]) -> Float[Array, "k h"]:
    """The rows times an orthogonal matrix, after which each column belongs to the fastest row that is left.

    These are Householder's reflections with pivoting: the next row is the one that is largest at the end, times
    exp(grows), in the columns that are left. Without the order, the columns of e^{Ft} B would all be multiples of the
    fastest row at late times, and nothing would be left of the others. What is left of a row counts as 0 where it is at
    most rounding in a row of these `sizes`.
    """
    columns, rounding = jnp.arange(rows.shape[1]), _ROUNDINGS * rows.shape[1] * jnp.finfo(rows.dtype).eps * sizes

    def reflect(k: Array, rows: Array) -> Array:
        zero = jnp.all((jnp.abs(rows) <= rounding[:, None]) | (columns < k), axis=1)
        # What is 0 here may have a derivative.
        rows = rows - jnp.where(zero[:, None] & (columns >= k), jax.lax.stop_gradient(rows), 0.0)
        left = jnp.where(columns >= k, rows, 0.0)
        # A row of zeros has the size 0, whose derivative in reverse mode would be NaN.
        sizes = jnp.where(zero, 0.0, jax.vmap(norm)(jnp.where(zero[:, None], 1.0, left)))
        at_end = grows + jnp.log(positive(sizes))
        pivot = jnp.argmax(jnp.where(sizes > 0, at_end, -jnp.inf))
        # The reflection takes the pivot row to a multiple of the k-th unit vector, on the far side of it.
        row = left[pivot] / positive(sizes[pivot])
        normal = row + side_of_zero(row[k]) * (columns == k)
        reflected = rows - 2 * jnp.outer(left @ normal, normal) / (normal @ normal)
        # What is to be 0 is 0, and not rounding that grows.
        reflected = reflected.at[pivot].set(jnp.where(columns > k, 0.0, reflected[pivot]))
        return jnp.where(sizes[pivot] > 0, reflected, rows)

    return jax.lax.fori_loop(0, min(rows.shape), reflect, rows)
