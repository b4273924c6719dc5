"""From two matrices to the momentum that joins them, with derivatives: the engine of `geodesic`.

Each end is decomposed once, where it comes in; the search goes on with the decompositions.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dlnjax._compile import compiled
from dlnjax._geodesics.exponential import covector, orthonormal
from dlnjax._geodesics.hamiltonian import integrate
from dlnjax._geodesics.jacobi import jacobians
from dlnjax._geodesics.shooting import candidates, Shot
from dlnjax._geometry.kernel import degree_of, Kernel, scale_exponent
from dlnjax._geometry.operator import form_by_kernel, operator_at
from dlnjax._results import code_of, RESULTS
from dlnjax._scale import scaled
from dlnjax._svd import SVD, svd
from dlnjax._tree import instantiate, is_perturbed, norm, ravel, tangent_at
from dlnjax._types import Matrix, Scalar

# A geodesic arrives if it ends within this of B, relative to |B|.
_ARRIVED = 1e-8
# Lengths that differ by less than this are of one path, found from both guesses.
_SAME_LENGTH = 1e-9
# Gauss-Legendre on the whole geodesic: the integrand is analytic along it, and 24 nodes give ten digits and more.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


class Frame(eqx.Module):
    """The isometry and the scale under which A is diagonal and A and B have like norms: X = c U X' V^T.

    Where lambda is homogeneous of degree p, X -> cX takes geodesics to geodesics, and multiplies their momenta by
    c^(1-p) and their lengths by c^(1-p/2). Where it is not homogeneous, the scale is 1.

    **Attributes:** `u`, `v`, `scale`, `kernel`; `first` and `last`, A and B as they look from here.
    """

    u: Matrix
    v: Matrix
    scale: Scalar
    kernel: Kernel
    first: SVD
    last: SVD

    @classmethod
    def of(cls, a: SVD, b: SVD, kernel: Kernel) -> "Frame":
        # The root of the norm, by way of the largest value, whose square may overflow.
        size = lambda sigma: jnp.sqrt(norm(sigma / sigma[0]) * sigma[0])
        scale = jnp.ones((), a.sigma.dtype) if kernel.degree is None else size(a.sigma) * size(b.sigma)
        eye = jnp.eye(a.sigma.shape[0], dtype=a.sigma.dtype)
        first = SVD(eye, a.sigma / scale, eye)
        return cls(a.u, a.v, scale, kernel, first, SVD(a.u.T @ b.u, b.sigma / scale, a.v.T @ b.v))

    @property
    def degree(self) -> Scalar | float:
        return 0.0 if self.kernel.degree is None else self.kernel.degree

    def out_of(self, x: Matrix) -> Matrix:
        return self.scale * (self.u @ x @ self.v.T)

    def momentum(self, p: Matrix) -> Matrix:
        return self.scale ** (1 - self.degree) * (self.u @ p @ self.v.T)

    def momentum_into(self, p: Matrix) -> Matrix:
        return self.scale ** (self.degree - 1) * (self.u.T @ p @ self.v)

    def length(self, length: Float[Array, "*k"] | float) -> Float[Array, "*k"]:
        return self.scale ** (1 - self.degree / 2) * length


class Connection(eqx.Module):
    """The momenta at both ends of a geodesic, its length, and how well it was found."""

    p: Float[Array, "*n d d"]
    p_end: Float[Array, "*n d d"]
    length: Float[Array, "*n"]
    error: Float[Array, "*n"]
    drift: Float[Array, "*n"]
    result: RESULTS
    stats: dict[str, Int[Array, "*n"]]


class Ends(eqx.Module):
    """Both ends, decomposed, and what can be said of them before a search.

    Ends that no path joins are replaced by the identity, and the search ends at once; `finite` and `apart` say why.
    """

    first: SVD
    last: SVD
    finite: Bool[Array, ""]
    apart: Bool[Array, ""]
    same: Bool[Array, ""]

    @classmethod
    def of(cls, a: Matrix, b: Matrix) -> "Ends":
        finite = jnp.all(jnp.isfinite(a)) & jnp.all(jnp.isfinite(b))
        first, last = svd(a), svd(b)
        # The sign of NaN is 0, and what is not finite would count as singular.
        apart = finite & (sign_of(first) * sign_of(last) <= 0)
        eye = jnp.eye(a.shape[0], dtype=a.dtype)
        instead = SVD(eye, jnp.ones_like(first.sigma), eye)
        choose = lambda point: jax.tree.map(lambda z, w: jnp.where(finite & ~apart, z, w), point, instead)
        return cls(choose(first), choose(last), finite, apart, jnp.all(a == b) | ~finite | apart)


def sign_of(point: SVD) -> Scalar:
    """The sign of the determinant, 0 where the matrix is singular to rounding."""
    sigma = point.sigma
    rounding = sigma.shape[0] * jnp.finfo(sigma.dtype).eps * sigma[0]
    return jnp.where(sigma[-1] > rounding, jnp.linalg.slogdet(point.u @ point.v.T)[0], 0.0)


@compiled
def connect_all(a: Matrix, b: Matrix, kernel: Kernel, rtol: Scalar, descend: Bool[Array, ""]) -> Connection:
    """Every candidate, leading axis 2."""
    ends = Ends.of(a, b)
    frame = Frame.of(ends.first, ends.last, kernel)
    shots = candidates(frame.first, frame.last, kernel, rtol, descend)
    return jax.vmap(lambda shot: _connection(shot, ends, frame))(shots)


def _connection(shot: Shot, ends: Ends, frame: Frame) -> Connection:
    speed, end = norm(shot.start), norm(shot.end)
    joined = ends.finite & ~ends.apart
    unless_same = lambda z: jnp.where(ends.same, 0.0, z)
    p = operator_at(frame.first, shot.start, frame.kernel, power=-0.5)
    p_end = covector(shot.x, shot.end, frame.kernel)
    drift = jnp.where(speed > 0, jnp.abs(end**2 - speed**2) / jnp.where(speed > 0, speed, 1.0) ** 2, 0.0)
    result = code_of(
        (~ends.finite, RESULTS.non_finite),
        (ends.apart, RESULTS.other_component),
        (ends.same | (shot.error <= _ARRIVED), RESULTS.successful),
        (shot.lost_rank, RESULTS.rank_lost),
        (True, RESULTS.not_arrived),
    )
    return Connection(
        p=unless_same(frame.momentum(p)),
        p_end=unless_same(frame.momentum(p_end)),
        length=jnp.where(joined, unless_same(frame.length(speed)), jnp.inf),
        error=jnp.where(joined, unless_same(shot.error), jnp.inf),
        drift=unless_same(drift),
        result=result,
        stats={"shots": shot.shots, "steps": shot.steps},
    )


# It is not compiled as a whole: its derivatives, the distance and all critical paths share the one long compilation.
@eqx.filter_custom_jvp
def connect(a: Matrix, b: Matrix, kernel: Kernel, *, rtol: Scalar) -> Connection:
    """The shortest candidate that arrives; if none does, the one that comes nearest."""
    return _shortest(connect_all(a, b, kernel, rtol, jnp.asarray(True)))


@compiled
def _shortest(every: Connection) -> Connection:
    arrived = every.result == RESULTS.successful
    length = jnp.where(arrived, every.length, jnp.inf)
    # Where both guesses lead to the same path, it is that of the first.
    best = jnp.argmax(arrived & (length <= jnp.min(length) * (1 + _SAME_LENGTH)))
    best = jnp.where(jnp.any(arrived), best, jnp.argmin(every.error))
    one = jax.tree.map(lambda z: z[best], every)
    return eqx.tree_at(lambda c: c.stats, one, one.stats | {"guess": best})


@connect.def_jvp
def _connect_jvp(primals, tangents, *, rtol):
    """By Jacobi fields: dP is the solution of dB = (dX(1)/dA) dA + (dX(1)/dP) dP + (dX(1)/dkernel) dkernel."""
    a, b, kernel = primals
    da, db, dkernel = tangents
    out = connect(a, b, kernel, rtol=rtol)
    tangent = instantiate(tangents, primals)
    dp, dp_end = _momentum_variation(a, out, kernel, tangent, rtol)
    change = _first_variation(out, da, db) + _kernel_variation(a, b, kernel, dkernel, out, rtol)
    return out, tangent_at(lambda c: (c.p, c.p_end, c.length), out, (dp, dp_end, change))


def _momentum_variation(
    a: Matrix, found: Connection, kernel: Kernel, tangent: tuple[Matrix, Matrix, Any], rtol: Scalar
) -> tuple[Matrix, Matrix]:
    """How the momenta at both ends change with (A, B, kernel). The Jacobi fields are those at size one."""
    da, db, dkernel = tangent
    n, k = a.size, scale_exponent(a, kernel)
    back = lambda p, kernel: scaled(p, k * (1 - degree_of(kernel)))
    start, end = (scaled(p, k * (degree_of(kernel) - 1)) for p in (found.p, found.p_end))
    x, p = (z[-1] for z in jacobians(scaled(a, -k), start, kernel, jnp.array([0.0, 1.0], a.dtype), rtol))
    dnumbers, _ = ravel(dkernel)
    # The columns belong to the start, the momentum, and the numbers of the kernel.
    given = lambda j: j[:, :n] @ scaled(da, -k).ravel() + j[:, 2 * n :] @ dnumbers
    dp = jnp.linalg.solve(x[:, n : 2 * n], scaled(db, -k).ravel() - given(x))
    dp_end = given(p) + p[:, n : 2 * n] @ dp
    along = lambda p, dp: eqx.filter_jvp(back, (p, kernel), (dp.reshape(a.shape), dkernel))[1]
    return along(start, dp), along(end, dp_end)


def _first_variation(out: Connection, da: Matrix | None, db: Matrix | None) -> Scalar:
    """d(length^2 / 2) = <P(1), dB> - <P(0), dA>."""
    change = jnp.zeros_like(out.length)
    if db is not None:
        change += jnp.sum(out.p_end * db)
    if da is not None:
        change -= jnp.sum(out.p * da)
    return _per_length(change, out.length)


def _per_length(change: Float[Array, "*k"], length: Scalar) -> Float[Array, "*k"]:
    """The change of a length from that of half its square, 0 where the length is 0."""
    there = (length > 0) & jnp.isfinite(length)
    return jnp.where(there, change / jnp.where(there, length, 1.0), 0.0)


@eqx.filter_custom_jvp
def measure(a: Matrix, b: Matrix, kernel: Kernel, *, rtol: Scalar) -> tuple[Scalar, RESULTS]:
    """(the length of `connect`, infinite where nothing arrives; its code)."""
    found = connect(a, b, kernel, rtol=rtol)
    return jnp.where(found.result == RESULTS.successful, found.length, jnp.inf), found.result


@measure.def_jvp
def _measure_jvp(primals, tangents, *, rtol):
    a, b, kernel = primals
    da, db, dkernel = tangents
    found = connect(a, b, kernel, rtol=rtol)
    out = jnp.where(found.result == RESULTS.successful, found.length, jnp.inf), found.result
    change = _first_variation(found, da, db) + _kernel_variation(a, b, kernel, dkernel, found, rtol)
    return out, (change, jax.tree.map(lambda _: None, found.result))


def _kernel_variation(a, b, kernel: Kernel, dkernel, found: Connection, rtol):
    """How the length changes as the kernel changes by `dkernel`, the ends held in place."""
    if not is_perturbed(dkernel):
        return 0.0
    return _by_kernel(a, b, kernel, found, rtol) @ ravel(instantiate(dkernel, kernel))[0]


@compiled
def _by_kernel(a, b, kernel: Kernel, found: Connection, rtol) -> Float[Array, " k"]:
    """d(length) in each number of the kernel.

    At fixed ends the action changes by the integral of -dH along the geodesic, as that is stationary.
    """
    frame = Frame.of(svd(a), svd(b), kernel)
    x = frame.first.matrix
    w = orthonormal(x, frame.momentum_into(found.p), kernel)
    ts = jnp.concatenate([jnp.zeros(1), (1 + jnp.asarray(_NODES)) / 2, jnp.ones(1)]).astype(a.dtype)
    path = integrate(x, w, kernel, ts, rtol)

    def slope(x, w):
        p = covector(x, w, kernel)
        return ravel(form_by_kernel(x, p, p, kernel, power=1))[0] / 2

    action = -(jnp.asarray(_WEIGHTS, a.dtype) / 2) @ jax.vmap(slope)(path.x[1:-2], path.w[1:-2])
    # The degree of the kernel is also the power with which the scale enters the length.
    log_factor = lambda k: jnp.log(eqx.tree_at(lambda f: f.kernel, frame, k).length(1.0))
    by_scale, _ = ravel(eqx.filter_grad(log_factor)(kernel))
    return frame.length(_per_length(action, norm(w))) + by_scale * found.length
