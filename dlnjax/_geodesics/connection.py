"""From two matrices to the momentum that joins them, with derivatives: the engine of `_geodesic`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dlnjax._geodesics.exponential import covector, orthonormal
from dlnjax._geodesics.hamiltonian import integrate
from dlnjax._geodesics.jacobi import jacobians
from dlnjax._geodesics.shooting import candidates, Shot
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.metric import form_by_kernel
from dlnjax._results import code_of, RESULTS
from dlnjax._svd import svd
from dlnjax._tree import instantiate, is_perturbed, norm, ravel, tangent_at
from dlnjax._types import Matrix, Scalar

_ARRIVED = 1e-8
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


class Frame(eqx.Module):
    """The isometry and the scale under which A is diagonal and A and B have like norms: X = c U X' V^T."""

    u: Matrix
    v: Matrix
    scale: Scalar
    kernel: Kernel

    @classmethod
    def of(cls, a, b, kernel):
        point = svd(a)
        size = lambda z: jnp.sqrt(jnp.sqrt(jnp.sum((z / jnp.max(jnp.abs(z))) ** 2)) * jnp.max(jnp.abs(z)))
        scale = jnp.ones((), a.dtype) if kernel.degree is None else size(a) * size(b)
        return cls(point.u, point.v, scale, kernel)

    @property
    def degree(self):
        return 0.0 if self.kernel.degree is None else self.kernel.degree

    def into(self, x):
        return self.u.T @ (x / self.scale) @ self.v

    def out_of(self, x):
        return self.scale * (self.u @ x @ self.v.T)

    # Where lambda is homogeneous of degree p, X -> cX takes geodesics to geodesics, and multiplies their momenta by
    # c^(1-p) and their lengths by c^(1-p/2). Where it is not, the scale is 1.
    def momentum(self, p):
        return self.scale ** (1 - self.degree) * (self.u @ p @ self.v.T)

    def momentum_into(self, p):
        return self.scale ** (self.degree - 1) * (self.u.T @ p @ self.v)

    def length(self, length):
        return self.scale ** (1 - self.degree / 2) * length


class Connection(eqx.Module):
    p: Float[Array, "*n d d"]
    p_end: Float[Array, "*n d d"]
    length: Float[Array, "*n"]
    error: Float[Array, "*n"]
    drift: Float[Array, "*n"]
    result: RESULTS
    stats: dict[str, Int[Array, "*n"]]


@eqx.filter_jit
def connect_all(a, b, kernel, rtol, descend) -> Connection:
    """Every candidate, leading axis 2."""
    finite = jnp.all(jnp.isfinite(a)) & jnp.all(jnp.isfinite(b))
    eye = jnp.eye(a.shape[0], dtype=a.dtype)
    a, b = jnp.where(finite, a, eye), jnp.where(finite, b, eye)
    apart = sign_of(a) * sign_of(b) <= 0
    a, b = jnp.where(apart, eye, a), jnp.where(apart, eye, b)
    frame = Frame.of(a, b, kernel)
    x, y = frame.into(a), frame.into(b)
    same = jnp.all(a == b)
    shots = candidates(x, y, kernel, rtol, descend)

    def connection(shot: Shot):
        speed, end = norm(shot.start), norm(shot.end)
        back = lambda x, w: jnp.where(same, 0.0, frame.momentum(covector(x, w, kernel)))
        drift = jnp.where(speed > 0, jnp.abs(end**2 - speed**2) / jnp.where(speed > 0, speed, 1.0) ** 2, 0.0)
        result = code_of(
            (~finite, RESULTS.non_finite),
            (apart, RESULTS.other_component),
            (same | (shot.error <= _ARRIVED), RESULTS.successful),
            (shot.lost_rank, RESULTS.rank_lost),
            (True, RESULTS.not_arrived),
        )
        return Connection(
            p=back(x, shot.start),
            p_end=back(shot.x, shot.end),
            length=jnp.where(finite & ~apart, jnp.where(same, 0.0, frame.length(speed)), jnp.inf),
            error=jnp.where(finite & ~apart, jnp.where(same, 0.0, shot.error), jnp.inf),
            drift=jnp.where(same, 0.0, drift),
            result=result,
            stats={"shots": shot.shots, "steps": shot.steps},
        )

    return jax.vmap(connection)(shots)


def sign_of(x):
    """The sign of the determinant, 0 where the matrix is singular to rounding."""
    sigma = jnp.linalg.svd(x, compute_uv=False)
    return jnp.where(sigma[-1] > len(sigma) * jnp.finfo(x.dtype).eps * sigma[0], jnp.linalg.slogdet(x)[0], 0.0)


# Not compiled as a whole: its derivatives, the distance and all critical paths share the one long compilation.
@eqx.filter_custom_jvp
def connect(a, b, kernel, *, rtol) -> Connection:
    """The shortest candidate that arrives; if none does, the one that comes nearest."""
    return _shortest(connect_all(a, b, kernel, rtol, jnp.asarray(True)))


@eqx.filter_jit
def _shortest(every: Connection) -> Connection:
    arrived = every.result == RESULTS.successful
    length = jnp.where(arrived, every.length, jnp.inf)
    # The first guess, where others lead to the same path.
    best = jnp.argmax(arrived & (length <= jnp.min(length) * (1 + 1e-9)))
    best = jnp.where(jnp.any(arrived), best, jnp.argmin(every.error))
    one = jax.tree.map(lambda z: z[best], every)
    return eqx.tree_at(lambda c: c.stats, one, one.stats | {"guess": best})


@connect.def_jvp
def _connect_jvp(primals, tangents, *, rtol):
    """By Jacobi fields: the momentum moves so that the end does what it is told."""
    a, b, kernel = primals
    da, db, dkernel = tangents
    out = connect(a, b, kernel, rtol=rtol)
    n = a.size
    x, p = (z[-1] for z in jacobians(a, out.p, kernel, jnp.array([0.0, 1.0], a.dtype), rtol))
    zero = jnp.zeros(n, a.dtype)
    vector = lambda z: zero if z is None else z.ravel()
    dnumbers, _ = ravel(instantiate(dkernel, kernel))
    # The columns belong to the start, the momentum, and the numbers of the kernel.
    given = lambda j: j[:, :n] @ vector(da) + j[:, 2 * n :] @ dnumbers
    dp = jnp.linalg.solve(x[:, n : 2 * n], vector(db) - given(x))
    dp_end = given(p) + p[:, n : 2 * n] @ dp
    change = _first_variation(out, da, db) + _kernel_variation(a, b, kernel, dkernel, out, rtol)
    moved = (dp.reshape(a.shape), dp_end.reshape(a.shape), change)
    return out, tangent_at(lambda c: (c.p, c.p_end, c.length), out, moved)


def _first_variation(out: Connection, da, db):
    """d(length^2 / 2) = <P(1), dB> - <P(0), dA>."""
    change = jnp.zeros_like(out.length)
    if db is not None:
        change += jnp.sum(out.p_end * db)
    if da is not None:
        change -= jnp.sum(out.p * da)
    return _per_length(change, out.length)


def _per_length(change, length):
    there = (length > 0) & jnp.isfinite(length)
    return jnp.where(there, change / jnp.where(there, length, 1.0), 0.0)


@eqx.filter_custom_jvp
def measure(a, b, kernel, *, rtol):
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


@eqx.filter_jit
def _by_kernel(a, b, kernel: Kernel, found: Connection, rtol) -> Float[Array, " k"]:
    """d(length) in each number of the kernel: at fixed ends the action moves by -dH, integrated along the geodesic."""
    frame = Frame.of(a, b, kernel)
    x = frame.into(a)
    w = orthonormal(x, frame.momentum_into(found.p), kernel)
    ts = jnp.concatenate([jnp.zeros(1), (1 + jnp.asarray(_NODES)) / 2, jnp.ones(1)]).astype(a.dtype)
    path = integrate(x, w, kernel, ts, rtol)

    def slope(x, w):
        p = covector(x, w, kernel)
        return ravel(form_by_kernel(x, p, p, kernel, power=1))[0] / 2

    action = -(jnp.asarray(_WEIGHTS, a.dtype) / 2) @ jax.vmap(slope)(path.x[1:-2], path.w[1:-2])
    # The kernel also decides by which power of the scale a length is multiplied.
    log_factor = lambda k: jnp.log(eqx.tree_at(lambda f: f.kernel, frame, k).length(1.0))
    by_scale, _ = ravel(eqx.filter_grad(log_factor)(kernel))
    return frame.length(_per_length(action, norm(w))) + by_scale * found.length
