"""The momentum of the geodesic that joins two matrices, with its derivatives. The module `geodesic` calls this one.

Each end is decomposed once, in `Ends.of`. The search works with the decompositions.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from dlnjax._compile import compiled, runs_at_once
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._geodesics.aiming import Shot
from dlnjax._geodesics.by_kernel import slope_by_kernel
from dlnjax._geodesics.charts import Pair
from dlnjax._geodesics.exponential import covector, orthonormal
from dlnjax._geodesics.jacobi import jacobians
from dlnjax._geodesics.shooting import (
    candidates,
    first_candidates,
    is_easy,
    last_candidates,
    nearest,
    no_candidates,
    suffices,
)
from dlnjax._geometry.kernel import degree_of, Kernel, scale_exponent
from dlnjax._geometry.operator import operator_at
from dlnjax._lapack import sign_of_determinant, solve_linear
from dlnjax._results import code_of, RESULTS
from dlnjax._scale import scaled
from dlnjax._svd import SVD, svd
from dlnjax._tree import instantiate, is_perturbed, norm, per_length, positive, ravel, tangent_at, where
from dlnjax._types import Scalar, Square

# A geodesic from A arrives if its `Pair.error` is at most this number.
ARRIVED = 1e-8
# Lengths with a smaller relative difference than this belong to one path, which was found from both guesses.
_SAME_LENGTH = 1e-9


# The tangents of A, B and the kernel. None stands for zero, also in the leaves of the kernel.
EndsTangents: TypeAlias = tuple[Square | None, Square | None, PyTree]


class Frame(eqx.Module):
    """The map X = c U X' V^T, an isometry times a scale c, for which A' is diagonal and |A'| |B'| = 1.

    Where lambda is homogeneous of degree p, X -> cX takes geodesics to geodesics, and multiplies their momenta by
    c^(1-p) and their lengths by c^(1-p/2). Where it is not homogeneous, the scale is 1.

    **Attributes:** `u`, `v`, `scale`, `kernel`; `first` and `last`, A' and B'.
    """

    u: Square
    v: Square
    scale: Scalar
    kernel: Kernel
    first: SVD
    last: SVD

    @classmethod
    def of(cls, a: SVD, b: SVD, kernel: Kernel) -> "Frame":
        # The scale is the geometric mean of the two norms. Their product may overflow, so the roots are multiplied.
        mean = _root_of_norm(a.sigma) * _root_of_norm(b.sigma)
        scale = jnp.ones((), a.sigma.dtype) if kernel.degree is None else mean
        eye = jnp.eye(a.sigma.shape[0], dtype=a.sigma.dtype)
        first = SVD(eye, a.sigma / scale, eye)
        return cls(a.u, a.v, scale, kernel, first, SVD(a.u.T @ b.u, b.sigma / scale, a.v.T @ b.v))

    @classmethod
    def at_rest(cls, a: Square, b: Square, kernel: Kernel) -> tuple["Frame", Square]:
        """A frame that does not move with A and B, and A', which does.

        The singular vectors of a matrix have no derivative where its singular values repeat. A' has one.
        """
        frame = cls.of(*jax.lax.stop_gradient((svd(a), svd(b))), kernel)
        moving = frame.into(a)
        # The entries of A' are those of the decomposition, as U^T A V has errors of rounding beside the small ones.
        return frame, frame.first.matrix + (moving - jax.lax.stop_gradient(moving))

    def pair(self, ends: "Ends") -> Pair:
        """The pair (A', B')."""
        return Pair.of(self.first, self.last, self.into(ends.between))

    def into(self, x: Square) -> Square:
        return self.u.T @ (x / self.scale) @ self.v

    def out_of(self, x: Square) -> Square:
        return self.scale * (self.u @ x @ self.v.T)

    def momentum(self, p: Square) -> Square:
        return self.scale ** (1 - degree_of(self.kernel)) * (self.u @ p @ self.v.T)

    def momentum_into(self, p: Square) -> Square:
        return self.scale ** (degree_of(self.kernel) - 1) * (self.u.T @ p @ self.v)

    def length(self, length: Float[Array, "*k"] | float) -> Float[Array, "*k"]:
        return self.scale ** (1 - degree_of(self.kernel) / 2) * length


def _root_of_norm(sigma: Float[Array, " d"]) -> Scalar:
    return jnp.sqrt(norm(sigma / sigma[0]) * sigma[0])


class Connection(eqx.Module):
    """The momenta at both ends of a geodesic, its length, and how accurately it was found.

    `error` is |X(1) - B| / |B|, and `drift` is the relative change of H along the geodesic.
    """

    p: Float[Array, "*n d d"]
    p_end: Float[Array, "*n d d"]
    length: Float[Array, "*n"]
    error: Float[Array, "*n"]
    drift: Float[Array, "*n"]
    result: RESULTS
    stats: dict[str, Shaped[Array, "*n"]]


class Ends(eqx.Module):
    """Both ends, decomposed, and what is known of them before the search.

    Ends that no path joins are replaced by the identity, so that the search ends at once. `finite`: all entries are
    finite. `apart`: the entries are finite, and the determinants have opposite signs, or one is 0 to rounding. `same`:
    A equals B, or no path joins them, so that there is nothing to search for. `between`: B - A, which has all its
    digits, while A and B have lost some of them once they are decomposed.
    """

    first: SVD
    last: SVD
    between: Square
    finite: Bool[Array, ""]
    apart: Bool[Array, ""]
    same: Bool[Array, ""]

    @classmethod
    def of(cls, a: Square, b: Square) -> "Ends":
        finite = jnp.all(jnp.isfinite(a)) & jnp.all(jnp.isfinite(b))
        first, last = svd(a), svd(b)
        # The product is 0 for a matrix that is not finite. Without `finite`, such a matrix would count as singular.
        apart = finite & (signs_of(first, last) <= 0)
        eye = jnp.eye(a.shape[0], dtype=a.dtype)
        instead = SVD(eye, jnp.ones_like(first.sigma), eye)
        joined = finite & ~apart
        first, last = where(joined, first, instead), where(joined, last, instead)
        return cls(first, last, jnp.where(joined, b - a, 0.0), finite, apart, jnp.all(a == b) | ~joined)


def sign_of(point: SVD) -> Scalar:
    """The sign of the determinant, 0 where the matrix is singular to rounding."""
    sigma = point.sigma
    rounding = sigma.shape[0] * jnp.finfo(sigma.dtype).eps * sigma[0]
    return jnp.where(sigma[-1] > rounding, sign_of_determinant(point.u @ point.v.T), 0.0)


def signs_of(first: SVD, last: SVD) -> Scalar:
    """The product of the signs of two determinants."""
    return sign_of(first) * sign_of(last)


def connect_all(
    a: Square, b: Square, kernel: Kernel, rtol: Scalar, descend: Bool[Array, ""], every: Bool[Array, ""]
) -> Connection:
    """What was found from the two first guesses. The leading axis is that of the guesses, polar and frames.

    Without `every`, a guess that can not lead to the shortest path is not followed to its end.
    """
    ends, frame, easy, found = _prepared(a, b, kernel, descend)
    arguments = ends, frame, rtol, descend, every
    if not runs_at_once(arguments):
        return _connections(candidates, *arguments, found)[0]
    # A pair may need two searches. Each is compiled only for a pair that needs it.
    if easy:
        connection, found, enough = _connections(first_candidates, *arguments, found)
        if enough:
            return connection
    return _connections(last_candidates, *arguments, found)[0]


@compiled
def _prepared(
    a: Square, b: Square, kernel: Kernel, descend: Bool[Array, ""]
) -> tuple[Ends, Frame, Bool[Array, ""], Shot]:
    """(the ends, their frame, whether `first_candidates` tries the pair, the result before any search)."""
    ends = Ends.of(a, b)
    frame = Frame.of(ends.first, ends.last, kernel)
    pair = frame.pair(ends)
    return ends, frame, is_easy(pair, descend), no_candidates(pair)


@compiled
def _connections(
    search: Callable[..., Shot],
    ends: Ends,
    frame: Frame,
    rtol: Scalar,
    descend: Bool[Array, ""],
    every: Bool[Array, ""],
    found: Shot,
) -> tuple[Connection, Shot, Bool[Array, ""]]:
    """(`connect_all` by this search and the one that has `found` its shots, all shots, whether they suffice)."""
    shots = nearest(found, search(frame.pair(ends), frame.kernel, rtol, descend, every))
    return jax.vmap(partial(_connection, ends=ends, frame=frame))(shots), shots, suffices(shots)


def _connection(shot: Shot, ends: Ends, frame: Frame) -> Connection:
    speed, end = norm(shot.start), norm(shot.end)
    joined = ends.finite & ~ends.apart

    def unless_same(z: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jnp.where(ends.same, 0.0, z)

    p = operator_at(frame.first, shot.start, frame.kernel, power=-0.5)
    p_end = covector(shot.x, shot.end, frame.kernel)
    error = norm(shot.x - frame.last.matrix) / norm(frame.last.sigma)
    drift = jnp.where(speed > 0, jnp.abs(end**2 - speed**2) / positive(speed) ** 2, 0.0)
    result = code_of(
        (~ends.finite, RESULTS.non_finite),
        (ends.apart, RESULTS.other_component),
        (ends.same | (shot.error <= ARRIVED), RESULTS.successful),
        (True, shot.code),
    )
    return Connection(
        p=unless_same(frame.momentum(p)),
        p_end=unless_same(frame.momentum(p_end)),
        length=jnp.where(joined, unless_same(frame.length(speed)), jnp.inf),
        error=jnp.where(joined & jnp.isfinite(shot.error), unless_same(error), jnp.inf),
        drift=unless_same(drift),
        result=result,
        stats={"shots": shot.shots, "steps": shot.steps, "power": jnp.where(ends.same, 1.0, shot.power)},
    )


# `connect` is not compiled as a whole. The long compilation is that of `_connections`, which `distance`, `geodesics`
# and the derivatives share. Compiled as a whole, each of these would compile `_connections` once more.
@filter_custom_jvp
def connect(a: Square, b: Square, kernel: Kernel, *, rtol: Scalar) -> Connection:
    """The shortest of the geodesics that arrive at B or, if none arrives, the one that comes nearest to B."""
    return _shortest(connect_all(a, b, kernel, rtol, jax.device_put(True), jax.device_put(False)))


@compiled
def _shortest(every: Connection) -> Connection:
    arrived = every.result == RESULTS.successful
    length = jnp.where(arrived, every.length, jnp.inf)
    # Where both guesses lead to the same path, the result of the first guess is taken.
    best = jnp.argmax(arrived & (length <= jnp.min(length) * (1 + _SAME_LENGTH)))
    power = every.stats["power"]
    nearest = jnp.argmin(jnp.where(power == jnp.max(power), jnp.nan_to_num(every.error), jnp.inf))
    best = jnp.where(jnp.any(arrived), best, nearest)
    one = jax.tree.map(lambda z: z[best], every)
    return eqx.tree_at(lambda c: c.stats, one, one.stats | {"guess": best})


@connect.def_jvp
def _connect_jvp(primals: tuple[Square, Square, Kernel], tangents: EndsTangents, *, rtol: Scalar):
    """The derivative by Jacobi fields: dP solves dB = (dX(1)/dA) dA + (dX(1)/dP) dP + (dX(1)/dkernel) dkernel.

    Automatic differentiation of the search would differentiate every shot. It would be inexact as well, since the
    search stops at a tolerance.
    """
    a, b, kernel = primals
    da, db, dkernel = tangents
    out = connect(a, b, kernel, rtol=rtol)
    tangent = instantiate(tangents, primals)
    dp, dp_end = _momentum_variation(a, out, kernel, tangent, rtol)
    change = _first_variation(out, da, db) + _kernel_variation(a, b, kernel, dkernel, out, rtol)
    return out, tangent_at(lambda c: (c.p, c.p_end, c.length), out, (dp, dp_end, change))


def _momentum_variation(
    a: Square, found: Connection, kernel: Kernel, tangent: tuple[Square, Square, PyTree], rtol: Scalar
) -> tuple[Square, Square]:
    """The tangents of the momenta at both ends, from the tangents of (A, B, kernel).

    The Jacobi fields are found for A scaled to size one.
    """
    da, db, dkernel = tangent
    n, k = a.size, scale_exponent(a, kernel)

    def back(p: Square, kernel: Kernel) -> Square:
        return scaled(p, k * (1 - degree_of(kernel)))

    def along(p: Square, dp: Float[Array, " n"]) -> Square:
        # The power of two in `back` depends on the degree of the kernel, and is differentiated with the kernel.
        return eqx.filter_jvp(back, (p, kernel), (dp.reshape(a.shape), dkernel))[1]

    start, end = (scaled(p, k * (degree_of(kernel) - 1)) for p in (found.p, found.p_end))
    x, p = (z[-1] for z in jacobians(scaled(a, -k), start, kernel, jnp.array([0.0, 1.0], a.dtype), rtol))
    dnumbers, _ = ravel(dkernel, a.dtype)
    # The columns of the Jacobi fields belong to the start, the momentum, and the numbers of the kernel, in this order.
    given = jnp.concatenate([scaled(da, -k).ravel(), jnp.zeros(n, a.dtype), dnumbers])
    dp = solve_linear(x[:, n : 2 * n], scaled(db, -k).ravel() - x @ given)
    dp_end = p @ given + p[:, n : 2 * n] @ dp
    return along(start, dp), along(end, dp_end)


def _first_variation(out: Connection, da: Square | None, db: Square | None) -> Scalar:
    """The change of the length along (dA, dB), by the first variation: d(length^2 / 2) = <P(1), dB> - <P(0), dA>."""
    change = jnp.zeros_like(out.length)
    if db is not None:
        change += jnp.sum(out.p_end * db)
    if da is not None:
        change -= jnp.sum(out.p * da)
    return per_length(change, out.length)


@compiled
def _length_of(found: Connection) -> Scalar:
    return jnp.where(found.result == RESULTS.successful, found.length, jnp.inf)


@filter_custom_jvp
def measure(a: Square, b: Square, kernel: Kernel, *, rtol: Scalar) -> tuple[Scalar, RESULTS]:
    """(the length that `connect` finds, or infinity where no geodesic arrives; the result code)."""
    found = connect(a, b, kernel, rtol=rtol)
    return _length_of(found), found.result


@measure.def_jvp
def _measure_jvp(primals: tuple[Square, Square, Kernel], tangents: EndsTangents, *, rtol: Scalar):
    """The derivative by the first variation. It needs no Jacobi fields, since the momenta at both ends are known."""
    a, b, kernel = primals
    da, db, dkernel = tangents
    found = connect(a, b, kernel, rtol=rtol)
    out = jnp.where(found.result == RESULTS.successful, found.length, jnp.inf), found.result
    change = _first_variation(found, da, db) + _kernel_variation(a, b, kernel, dkernel, found, rtol)
    return out, (change, jax.tree.map(lambda _: None, found.result))


def _kernel_variation(
    a: Square, b: Square, kernel: Kernel, dkernel: PyTree, found: Connection, rtol: Scalar
) -> Scalar | float:
    """The change of the length when the kernel changes by `dkernel` and the ends stay in place."""
    if not is_perturbed(dkernel):
        return 0.0
    return _by_kernel(a, b, kernel, found, rtol) @ ravel(instantiate(dkernel, kernel))[0]


@compiled
def _by_kernel(a: Square, b: Square, kernel: Kernel, found: Connection, rtol: Scalar) -> Float[Array, " k"]:
    """The derivative of the length in each number of the kernel.

    At fixed ends the action changes by the integral of -dH/dkernel along the geodesic. The geodesic itself changes too,
    but that adds nothing to first order, since the action is stationary at a geodesic.
    """
    frame, x = Frame.at_rest(a, b, kernel)
    p = frame.momentum_into(found.p)
    action, speed = -slope_by_kernel(x, p, kernel, rtol=rtol), norm(orthonormal(x, p, kernel))

    # The length is multiplied by a power of the scale. This power depends on the degree of the kernel.
    def log_factor(kernel: Kernel) -> Scalar:
        return (1 - degree_of(kernel) / 2) * jnp.log(frame.scale)

    by_scale, _ = ravel(eqx.filter_grad(log_factor)(kernel))
    return frame.length(per_length(action, speed)) + by_scale * found.length
