"""A path of least action between two matrices, in discrete time: where to start shooting, and at what.

The action of X_0, ..., X_K at times t_k is sum_k h_k/2 g(V_k, V_k) at the midpoints, V_k = (X_{k+1} - X_k)/h_k. Its
Hessian is block tridiagonal. Newton's method, damped by the kinetic part of it, goes down from any path, so that what
it finds is a minimum: no geodesic beyond its first conjugate point.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._geodesics.hamiltonian import velocity
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.metric import into, out_of
from dlnjax._svd import svd
from dlnjax._types import Matrix, Scalar


class Segment(eqx.Module):
    """The derivatives of the Lagrangian g(V, V)/2 at a midpoint, matrices as vectors, `n` = d^2."""

    by_x: Float[Array, "*k n"]
    by_v: Float[Array, "*k n"]
    xx: Float[Array, "*k n n"]
    vx: Float[Array, "*k n n"]
    vv: Float[Array, "*k n n"]


class Blocks(eqx.Module):
    """A symmetric block tridiagonal matrix: `diagonal[k]` of X_{k+1}, `upper[k]` of X_k with X_{k+1}."""

    diagonal: Float[Array, "m n n"]
    upper: Float[Array, "k n n"]


class Minimum(eqx.Module):
    """Of the path found, the momentum it starts with, and how that momentum moves with the end."""

    p: Matrix
    by_end: Float[Array, "n n"]


def segment(x: Matrix, v: Matrix, kernel: Kernel) -> Segment:
    """By Legendre's transform: of the Hamiltonian only its derivatives in X at fixed P are needed."""
    d = x.shape[0]
    n = d * d
    basis = jnp.eye(n, dtype=x.dtype).reshape(n, d, d)
    point = svd(x)
    lam = kernel.eigenvalues(point.sigma)
    p = out_of(point, into(point, v) / lam)
    along = lambda z: jax.jvp(lambda y: velocity(y, p, kernel), (x,), (z,))
    (_, force), (dx, dp) = jax.vmap(along, out_axes=(None, 0))(basis)
    rows = lambda z: z.reshape(n, n)
    frame = jnp.kron(point.u, point.v)
    vv = (frame / lam.ravel()) @ frame.T
    hpx = rows(dx).T
    return Segment(force.ravel(), p.ravel(), rows(dp).T + hpx.T @ vv @ hpx, -vv @ hpx, vv)


def hessian(part: Segment, h: Float[Array, " k"]) -> Blocks:
    """Of the action in the inner nodes."""
    h = h[:, None, None]
    cross = (part.vx + jnp.swapaxes(part.vx, -1, -2)) / 2
    square = h * part.xx / 4 + part.vv / h
    skew = (jnp.swapaxes(part.vx, -1, -2) - part.vx) / 2
    return Blocks((square + cross)[:-1] + (square - cross)[1:], h * part.xx / 4 + skew - part.vv / h)


def kinetic(part: Segment, h: Float[Array, " k"]) -> Blocks:
    vv = part.vv / h[:, None, None]
    return Blocks(vv[:-1] + vv[1:], -vv)


def gradient(part: Segment, h: Float[Array, " k"]) -> Float[Array, "m n"]:
    half = h[:, None] * part.by_x / 2
    return (half + part.by_v)[:-1] + (half - part.by_v)[1:]


def solve(blocks: Blocks, rhs: Float[Array, "m n"]) -> tuple[Float[Array, "m n"], Bool[Array, ""]]:
    """(the solution, whether the matrix is positive definite)."""

    def forward(carry, row):
        c, y = carry
        block, upper, b = row
        z = jax.scipy.linalg.cho_solve((c, True), upper)
        carry = jnp.linalg.cholesky(block - upper.T @ z), b - z.T @ y
        return carry, carry

    def backward(x, row):
        c, y, upper = row
        x = jax.scipy.linalg.cho_solve((c, True), y - upper @ x)
        return x, x

    # The first and the last neighbour stand still.
    eye, zero = jnp.eye(rhs.shape[-1], dtype=rhs.dtype), jnp.zeros_like(rhs[0])
    before = blocks.upper[:-1].at[0].set(0.0)
    _, (cs, ys) = jax.lax.scan(forward, (eye, zero), (blocks.diagonal, before, rhs))
    _, out = jax.lax.scan(backward, zero, (cs, ys, blocks.upper[1:]), reverse=True)
    return out, jnp.all(jnp.isfinite(cs))


def respond(blocks: Blocks) -> tuple[Float[Array, "n n"], Int[Array, " m"]]:
    """(how X_1 moves with X_K on critical paths, how many eigenvalues of each pivot are negative)."""
    n = blocks.upper.shape[-1]

    def forward(carry, row):
        pivot, response = carry
        block, upper = row
        inverse = jnp.linalg.inv(pivot)
        pivot = block - upper.T @ inverse @ upper
        return (pivot, response @ -(inverse @ upper)), jnp.linalg.eigvalsh((pivot + pivot.T) / 2)

    first = blocks.diagonal[0]
    rows = (blocks.diagonal[1:], blocks.upper[1:-1])
    (pivot, response), values = jax.lax.scan(forward, (first, jnp.eye(n, dtype=first.dtype)), rows)
    values = jnp.concatenate([jnp.linalg.eigvalsh(first)[None], values])
    return response @ -jnp.linalg.solve(pivot, blocks.upper[-1]), jnp.sum(values < 0, axis=1)


def midpoints(xs, h):
    return (xs[1:] + xs[:-1]) / 2, (xs[1:] - xs[:-1]) / h[:, None, None]


def segments(xs, h, kernel) -> tuple[Segment, Scalar]:
    """The derivatives and the action, infinite where the determinant changes its sign at depth > 1."""
    x, v = midpoints(xs, h)
    part = jax.vmap(lambda x, v: segment(x, v, kernel))(x, v)
    action = jnp.sum(h * jnp.sum(part.by_v * v.reshape(part.by_v.shape), axis=1)) / 2
    signs = jnp.concatenate([jnp.linalg.slogdet(x)[0], jnp.linalg.slogdet(xs)[0]])
    inside = jnp.all(signs == signs[-1]) | (jnp.asarray(kernel.order) <= 0)
    return part, jnp.where(inside & jnp.isfinite(action), action, jnp.inf)


class _Descent(eqx.Module):
    xs: Float[Array, "nodes d d"]
    part: Segment
    action: Scalar
    damping: Scalar
    eased: Bool[Array, ""]
    settled: Bool[Array, ""]
    step: Int[Array, ""]


def minimise(xs: Float[Array, "nodes d d"], h: Float[Array, " k"], kernel: Kernel, most) -> Minimum:
    """Down from the path `xs`, its ends kept, in at most so many steps; the first only looks."""
    nodes, d, _ = xs.shape
    n, dtype = d * d, xs.dtype

    def step(now: _Descent) -> _Descent:
        begin = now.step == 0
        mu = now.damping
        damped = jax.tree.map(lambda a, b: a + mu * b, hessian(now.part, h), kinetic(now.part, h))
        g = gradient(now.part, h)
        move, definite = solve(damped, -g)
        decrement = -jnp.sum(g * move)
        definite &= jnp.all(jnp.isfinite(move))
        move = jnp.where(begin | ~definite, 0.0, move)
        xs = now.xs.at[1:-1].add(move.reshape(nodes - 2, d, d))
        part, action = segments(xs, h, kernel)
        better = begin | (definite & (action <= now.action * (1 + 1e-14)))
        settled = ~begin & better & (decrement <= 1e-12 * action) & (mu <= 1e-2)
        keep = lambda new, old: jnp.where(better, new, old)
        return _Descent(
            xs=keep(xs, now.xs),
            part=jax.tree.map(keep, part, now.part),
            action=keep(action, now.action),
            # Where one step was too bold the next is not bolder.
            damping=jnp.where(
                begin, mu, jnp.where(better, jnp.where(now.eased, mu / 10, mu), jnp.maximum(4 * mu, 1e-2))
            ),
            eased=better,
            settled=settled,
            step=now.step + 1,
        )

    def go_on(now: _Descent):
        return ~now.settled & (now.step < most) & (now.damping < 1e8) & ((now.step == 0) | jnp.isfinite(now.action))

    k = nodes - 1
    nothing = Segment(*(jnp.zeros((k, n), dtype),) * 2, *(jnp.zeros((k, n, n), dtype),) * 3)
    true, false = jnp.asarray(True), jnp.asarray(False)
    start = _Descent(xs, nothing, jnp.asarray(jnp.inf, dtype), jnp.asarray(1e-2, dtype), true, false, jnp.asarray(0))
    low = jax.lax.while_loop(go_on, step, start)
    part = low.part
    blocks = hessian(part, h)
    response, _ = respond(blocks)
    p = (part.by_v[0] - h[0] * part.by_x[0] / 2).reshape(d, d)
    return Minimum(p, -blocks.upper[0] @ response)
