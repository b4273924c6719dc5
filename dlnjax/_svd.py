"""`SVD`, a matrix held as its singular value decomposition, with its derivative. The frame is the pair (U, V)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from dlnjax import _lapack
from dlnjax._checks import as_count, as_float, as_matrix, is_concrete, known, require, require_normal
from dlnjax._compile import compiled
from dlnjax._custom_jvp import custom_jvp
from dlnjax._tree import nan_unless, positive, side_of_zero

# Eigenvalues of a symmetric matrix that differ by less than this many units of rounding of the largest count as equal.
_ROUNDINGS = 1e6


class SVD(eqx.Module):
    """The point X = u diag(sigma) v^T, (2.7), of the matrices `m n` of rank r.

    **Attributes:** `u`, `m r`, and `v`, `n r`, with orthonormal columns; `sigma`, `r`. Leading axes are allowed
    everywhere.

    **Example:**

        >>> point = dln.svd(jnp.array([[0.0, 2.0], [1.0, 0.0]]))
        >>> point.sigma.tolist()
        [2.0, 1.0]
        >>> point.matrix.tolist()
        [[0.0, 2.0], [1.0, 0.0]]
    """

    u: Float[Array, "*seeds m r"]
    sigma: Float[Array, "*seeds r"]
    v: Float[Array, "*seeds n r"]

    @property
    def matrix(self) -> Float[Array, "*seeds m n"]:
        """The matrix X."""
        return (self.u * self.sigma[..., None, :]) @ jnp.swapaxes(self.v, -1, -2)


# One program, where the operations by themselves would be twenty.
@compiled
def _of_finite(decompose: Callable[[Array], Any], x: Float[Array, "*seeds m n"] | Complex[Array, "*seeds m n"]) -> Any:
    """decompose(x), and NaN for each matrix with an entry that is not finite. LAPACK gets 0 in place of such an entry.

    The SVD of LAPACK never returns where an entry of a matrix of three rows or more is infinite:
    Reference-LAPACK/lapack#1409, seen with jaxlib 0.10.2. NumPy has the same fault, numpy/numpy#32591. LAPACK's solver
    for Hermitian eigenvalues returns for such a matrix, but with numbers that mean nothing.
    """
    good = jnp.all(jnp.isfinite(x), axis=(-2, -1), keepdims=True)
    out = decompose(jnp.where(jnp.isfinite(x), x, 0.0))
    trim = lambda z: good[..., 0] if z.ndim < x.ndim else good
    return jax.tree.map(lambda z: nan_unless(trim(z), z), out)


@custom_jvp
def singular_values(x: Float[Array, "*seeds m n"]) -> Float[Array, "*seeds r"]:
    """The singular values alone, in descending order. They are NaN for a matrix that is not finite."""
    return _of_finite(_values_in_turn, x)


@singular_values.defjvp
def _singular_values_jvp(primals, tangents):
    (_, sigma, _), (_, dsigma, _) = _decompose_jvp(primals, tangents)
    return sigma, dsigma


def values_at_the_door(x: Any) -> Any:
    """The singular values of a matrix, without a derivative. NumPy finds them if `x` is known: nothing is compiled."""
    return np.linalg.svd(x, compute_uv=False) if is_concrete(x) else singular_values(jax.lax.stop_gradient(x))


def singular_to_rounding(sigma: Any, size: int) -> Any:
    """Whether the least of the descending singular values is at most `size` roundings of the largest; not if NaN."""
    return sigma[-1] <= size * np.finfo(sigma.dtype).eps * sigma[0]


def eigh(x: Float[Array, "*n d d"] | Complex[Array, "*n d d"]) -> tuple[Array, Array]:
    """(eigenvalues, eigenvectors) of a Hermitian matrix. They are NaN for a matrix that is not finite."""
    return _of_finite(_lapack.eigh, x)


@custom_jvp
def plain_svd(x: Float[Array, "m n"]) -> tuple[Array, Array, Array]:
    """(sigma, U, V) of one matrix, with a derivative that is NaN where singular values repeat.

    This function is for a use of U or V alone. For such a use, the derivative of `frame_tangent` is finite but wrong
    where singular values repeat.
    """
    u, sigma, v = _decompose(x)
    return sigma, u, v


@plain_svd.defjvp
def _plain_svd_jvp(primals, tangents):
    (u, sigma, v), (du, dsigma, dv) = _decompose_jvp(primals, tangents)
    apart = jnp.all(_are_apart(sigma[:-1], sigma[1:]))
    inside = (len(u) == len(v)) | (sigma[-1] > 0)
    du, dv = (nan_unless(apart & inside, z) for z in (du, dv))
    return (sigma, u, v), (dsigma, du, dv)


def plain_point(x: Float[Array, "m n"]) -> SVD:
    """The decomposition by `plain_svd`: a derivative that would be wrong where singular values repeat is NaN there."""
    sigma, u, v = plain_svd(x)
    return SVD(u, sigma, v)


@custom_jvp
def apart_or_nan(sigma: Float[Array, " r"]) -> Float[Array, " r"]:
    """`sigma`, whose derivative is NaN where two values agree, to the root of rounding."""
    return sigma


@apart_or_nan.defjvp
def _apart_or_nan_jvp(primals, tangents):
    (sigma,), (dsigma,) = primals, tangents
    order = jnp.sort(jnp.abs(sigma))
    return apart_or_nan(sigma), nan_unless(jnp.all(_are_apart(order[:-1], order[1:])), dsigma)


@custom_jvp
def ascending_or_nan(values: Float[Array, " d"]) -> Float[Array, " d"]:
    """The ascending eigenvalues of a symmetric matrix. Their derivative is NaN where two are so near each other that
    the derivative of their vectors would be that of rounding.
    """
    return values


@ascending_or_nan.defjvp
def _ascending_or_nan_jvp(primals, tangents):
    (values,), (change,) = primals, tangents
    size, eps = jnp.abs(values), jnp.finfo(values.dtype).eps
    least = eps**0.5 * (size[:-1] + size[1:]) + _ROUNDINGS * eps * jnp.max(size)
    # A factor NaN holds in reverse mode too where nothing uses the values themselves.
    return ascending_or_nan(values), change * jnp.where(jnp.all(values[1:] - values[:-1] > least), 1.0, jnp.nan)


def _of_lapack(x):
    u, sigma, vt = jnp.linalg.svd(x, full_matrices=False)
    return u, sigma, jnp.swapaxes(vt, -1, -2)


@custom_jvp
def _decompose(x):
    return _of_finite(_in_turn, x)


_in_turn = _lapack.in_turn(_of_lapack, lambda _, point, dxs: frame_tangent(SVD(*point), *dxs))
_values_in_turn = _lapack.in_turn(
    lambda x: jnp.linalg.svd(x, compute_uv=False), lambda xs, _, dxs: frame_tangent(SVD(*_in_turn(*xs)), *dxs)[1]
)


@_decompose.defjvp
def _decompose_jvp(primals, tangents):
    point = _decompose(*primals)
    return point, frame_tangent(SVD(*point), *tangents)


def _are_apart(s, t):
    """Whether two singular values do not agree, to the root of rounding."""
    return jnp.abs(s - t) > jnp.finfo(s.dtype).eps ** 0.5 * (s + t)


def repeats(x: Float[Array, "m n"]) -> Bool[Array, ""]:
    """Whether two singular values of a matrix agree, to the root of rounding."""
    sigma = singular_values(jax.lax.stop_gradient(x))
    return ~jnp.all(_are_apart(sigma[:-1], sigma[1:]))


def _divide(x, y, where):
    return jnp.where(where, x / jnp.where(where, y, 1.0), 0.0)


@custom_jvp
def dual(u: Float[Array, "*seeds m r"]) -> Float[Array, "*seeds m r"]:
    """U (U^T U)^(-1), the frame dual to U. It is U itself, but its derivatives are those that it has at any U."""
    return u


@dual.defjvp
def _dual_jvp(primals, tangents):
    (u,), (du,) = primals, tangents
    t = lambda z: jnp.swapaxes(z, -1, -2)
    d = dual(u)
    out = -d @ (t(du) @ d)
    if u.shape[-2] > u.shape[-1]:
        out = out + (du - d @ (t(u) @ du)) @ (t(d) @ d)
    return d, out


def frame_tangent(point: SVD, dx: Float[Array, "*seeds m n"]):
    """The motion (du, dsigma, dv) of the decomposition when X moves by dx: see `motion_of_frame`."""
    return motion_of_frame(point, dx @ point.v, jnp.swapaxes(dx, -1, -2) @ dual(point.u))


def motion_of_frame(point: SVD, by_v: Float[Array, "*seeds m r"], by_u: Float[Array, "*seeds n r"]):
    """The motion (du, dsigma, dv) of the decomposition when X moves by dX, given dX V and dX^T U: (4.2)-(4.4).

    Where singular values agree, to the root of rounding, (4.2) divides by zero, and the decomposition has no
    derivative. There the frame is not turned. The rest of dX is put into du, so that `matrix` still has its exact
    derivatives, of each order, unless two or more of the values are zero. So U does not stay orthonormal, and the rule
    has its `dual` in place of U, also in `by_u`. Between two zero values no motion of the factors moves X, so that only
    the diagonal of this part of dX is kept.

    The columns of a thin frame also leave the space that they span, by (I - U U^T) dX V / sigma and
    (I - V V^T) dX^T U / sigma. The part of dX that is outside of both spaces leaves the matrices of rank r, and is
    dropped.
    """
    u, sigma, v = point.u, point.sigma, point.v
    m = jnp.swapaxes(dual(u), -1, -2) @ by_v
    mt = jnp.swapaxes(m, -1, -2)
    row, column = sigma[..., :, None], sigma[..., None, :]
    gap, total = column - row, column + row
    apart = _are_apart(row, column)
    symmetric, antisymmetric = (m + mt) / 2, (m - mt) / 2
    common = _divide(symmetric, gap, apart)
    relative = _divide(antisymmetric, total, total > 0)
    off_diagonal = ~jnp.eye(sigma.shape[-1], dtype=bool)
    rest = _divide(symmetric, column, off_diagonal & ~apart & (column > 0))
    dsigma = jnp.diagonal(m, axis1=-2, axis2=-1)
    du, dv = u @ (common + relative + rest), v @ (common - relative)
    if u.shape[-2] > u.shape[-1]:
        du = du + _divide(by_v - u @ m, column, column > 0)
    if v.shape[-2] > v.shape[-1]:
        dv = dv + _divide(by_u - v @ mt, column, column > 0)
    return du, dsigma, dv


def svd(x: Float[Array, "*seeds m n"], *, rank: int | None = None) -> SVD:
    """Singular value decomposition, thin, singular values descending.

    Differentiable by (4.2)-(4.4). At repeated singular values, where the frame is a matter of choice, its derivative is
    finite, and those of `svd(x).matrix`, of any order, are exact if at most one singular value of a square matrix is 0.
    Where two or more are 0, the derivative of `svd(x).matrix` lacks what is off the diagonal between their singular
    vectors. For a matrix that is not square, it also lacks what leaves the space of a singular vector whose value is 0.

    Second derivatives of functions of `u`, `sigma` or `v` alone are, at repeated values, those of a frame that does not
    turn. For the Hessian of a function of the singular values take an energy, such as `Schatten` or `FreeEnergy`.

    **Arguments:** `x`, `m n`, or with leading axes; `rank`, r, by default min(m, n).

    **Returns:** an `SVD` of the r largest values. With all of them, `svd(x).matrix` is `x` to rounding; with fewer it
    is the nearest matrix of rank r (Eckart and Young). Of NaN, NaN.

    **Raises:** `ValueError` or `TypeError` if `x` is no real matrix, or stack of them, or `rank` no number of values.

    **Example:**

        >>> dln.svd(jnp.diag(jnp.array([1.0, 3.0]))).sigma.tolist()
        [3.0, 1.0]
    """
    x = as_matrix("x", x, leading=True)
    most = min(x.shape[-2:])
    if rank is not None and as_count("rank", rank) > most:
        raise ValueError(f"rank must be at most {most}, the least side of x, got {rank}.")
    return truncated(SVD(*_decompose(x)), rank)


def as_point(name: str, point: SVD, leading: bool = False) -> SVD:
    """`point`, if it is one finite matrix with orthonormal frames, or with `leading` a stack of such matrices.

    Its three arrays come out in one precision.
    """
    u, v = as_matrix(f"{name}.u", point.u, leading), as_matrix(f"{name}.v", point.v, leading)
    sigma = as_float(f"{name}.sigma", point.sigma)
    lead, (m, n, r) = sigma.shape[:-1], (u.shape[-2], v.shape[-2], sigma.shape[-1] if sigma.ndim else 0)
    shapes = (*lead, m, r), (*lead, r), (*lead, n, r)
    if (u.shape, sigma.shape, v.shape) != shapes or (lead and not leading) or r > min(m, n):
        raise ValueError(
            f"{name} must be an SVD of shapes u (m, r), sigma (r,), v (n, r) with r at most m and n, "
            f"got {u.shape}, {sigma.shape}, {v.shape}. NumPy's third factor is the transpose of v, and its factors are "
            "too large unless full_matrices=False: dlnjax.svd(matrix) has these shapes."
        )
    dtype = np.result_type(u.dtype, v.dtype, sigma.dtype)
    u, v, sigma = u.astype(dtype), v.astype(dtype), require_normal(f"{name}.sigma", sigma.astype(dtype), axis=())
    bad = ~((abs(known(sigma)) < np.inf).all() & _is_orthonormal(known(u)) & _is_orthonormal(known(v)))
    message = f"{name} must be finite with orthonormal columns of u and v. Pass the matrix itself, or dlnjax.svd(x)."
    return SVD(require(u, bad, message), sigma, v)


def askew(u: Any) -> Any:
    """How far the columns of `u` are from orthonormal: the largest entry of |u^T u - 1|."""
    return abs(u.swapaxes(-1, -2) @ u - np.eye(u.shape[-1], dtype=u.dtype)).max()


def _is_orthonormal(u: Any) -> Any:
    # Frames that have come out of long computations are orthonormal to less than rounding.
    return askew(u) < 1e3 * np.finfo(u.dtype).eps ** 0.75


def truncated(point: SVD, rank: int | None) -> SVD:
    """The first `rank` singular values and their vectors, or all if `rank` is None."""
    if rank is None:
        return point
    return SVD(point.u[..., :rank], point.sigma[..., :rank], point.v[..., :rank])


def canonical(point: SVD) -> SVD:
    """The same X with nonnegative singular values in descending order. The signs of negative ones are moved to v."""
    order = jnp.argsort(-jnp.abs(point.sigma), axis=-1)
    sign = side_of_zero(point.sigma)
    take = lambda a: jnp.take_along_axis(a, order[..., None, :], axis=-1)
    sigma = jnp.take_along_axis(jnp.abs(point.sigma), order, axis=-1)
    return SVD(take(point.u), sigma, take(point.v * sign[..., None, :]))


def orthogonalise(q: Float[Array, "m r"]) -> Float[Array, "m r"]:
    """One Newton-Schulz step towards the nearest matrix with orthonormal columns: an error e becomes 3/8 e^2."""
    # Both are equal. Of a square matrix the first is faster on a CPU, and of a thin one the second is smaller.
    cube = (q @ q.T) @ q if q.shape[0] == q.shape[1] else q @ (q.T @ q)
    return 1.5 * q - 0.5 * cube


def orthogonalise_frame(point: SVD, largest: Any) -> SVD:
    """`point` with columns of U and V that are orthonormal to second order, while X stays to first order.

    With F = U^T U - 1 and G = V^T V - 1, `orthogonalise` multiplies the factors by 1 - F/2 and 1 - G/2. It moves X by
    -U E V^T, where E = (F S + S G)/2. That move is of the size of F times sigma_1, in any direction. So the diagonal of
    E is added to sigma, and the rest is undone by rotations A and B of the two frames, A S - S B = E off the diagonal.
    A pair is not rotated where its angle is above `largest`, that is, where its two values nearly agree.
    """
    u, s, v = point.u, point.sigma, point.v
    one = jnp.eye(len(s), dtype=s.dtype)
    f, g = u.T @ u - one, v.T @ v - one
    size = jnp.max(jnp.abs(s))
    row = s / positive(size)
    # Rounding errors in F and G must not make sigma and the frames wander.
    known = lambda a: jnp.where(jnp.abs(a) > 100 * jnp.finfo(s.dtype).eps, a, 0.0)
    e = (known(f) * row + row[:, None] * known(g)) / 2
    # A_ij = (s_j E_ij + s_i E_ji)/(s_j^2 - s_i^2), and B_ij = (s_i E_ij + s_j E_ji)/(s_j^2 - s_i^2).
    gap = (row - row[:, None]) * (row + row[:, None])
    a, b = row * e + row[:, None] * e.T, row[:, None] * e + row * e.T
    turns = jnp.maximum(jnp.abs(a), jnp.abs(b)) < largest * jnp.abs(gap)
    inverse = jnp.where(turns, 1.0, 0.0) / jnp.where(turns, gap, 1.0)
    return SVD(u @ (one - f / 2 + a * inverse), s + size * jnp.diagonal(e), v @ (one - g / 2 + b * inverse))


def turn(point: SVD, pullback: Float[Array, "r r"], gap: Float[Array, ""]) -> SVD:
    """X to within a relative `gap`, in the frame along which the flow leaves it.

    A block is a set of repeated singular values. Any frame of a block gives a decomposition of X. The flow leaves along
    the frame in which the symmetric part of U^T dE V is diagonal (degenerate perturbation theory). In any other frame,
    the equations of the frame keep the values equal for ever. Where the symmetric part has equal eigenvalues itself, a
    fixed generic frame is taken. A special frame, such as the identity, may solve the equations although nearby flows
    do not follow this solution.

    **Arguments:** `point`, descending; `pullback`, U^T dE(X) V, `r r`; `gap`, below which neighbours count as equal.
    """
    sigma, d = point.sigma, point.sigma.shape[-1]
    block = jnp.cumsum(jnp.append(jnp.zeros(1, bool), sigma[:-1] - sigma[1:] > gap * sigma[:-1]))
    same = block[:, None] == block[None, :]
    # A gradient that is not finite says nothing about the frame. It is replaced by 0, since the start is a good state.
    symmetric = jnp.where(same & jnp.all(jnp.isfinite(pullback)), pullback + pullback.T, 0.0)
    size = jnp.max(jnp.abs(symmetric))
    i = jnp.arange(d, dtype=sigma.dtype)
    generic = jnp.cos(jnp.add.outer(i, i) + 0.7 * jnp.multiply.outer(i, i))
    tiny = 64 * d * jnp.finfo(sigma.dtype).eps
    within = symmetric / positive(size) + jnp.where(same, tiny * generic, 0.0)
    # Each block gets a shift of its own, which keeps the eigenvalues of different blocks apart and in order. The matrix
    # of eigenvectors is then block diagonal.
    w = jnp.where(same, eigh(within + jnp.diag(4.0 * d * block.astype(sigma.dtype)))[1], 0.0)
    w = jnp.where(jnp.any(jnp.triu(same, 1)), w, jnp.eye(d, dtype=sigma.dtype))
    return SVD(point.u @ w, sigma @ (w * w), point.v @ w)
