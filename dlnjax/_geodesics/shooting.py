"""Shooting: from a discrete path of least action to the momentum whose geodesic arrives."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._geodesics import guesses as _paths
from dlnjax._geodesics.action import minimise, Minimum
from dlnjax._geodesics.hamiltonian import integrate
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.metric import into, out_of
from dlnjax._svd import SVD, svd
from dlnjax._tree import norm
from dlnjax._types import Matrix, Scalar

SEGMENTS = 32
_MOST = 200
# Beyond this condition number frames that turn outrun a discrete path.
CONDITION = 1e3


class Shot(eqx.Module):
    """The orthonormal momentum at both ends, where the geodesic came, and how the search went."""

    start: Float[Array, "*n d d"]
    end: Float[Array, "*n d d"]
    x: Float[Array, "*n d d"]
    error: Float[Array, "*n"]
    lost_rank: Bool[Array, "*n"]
    shots: Int[Array, "*n"]
    steps: Int[Array, "*n"]


class _Aim(eqx.Module):
    """Where the search stands. `flat` is the exponent of the singular values for which it aims, `base` the last that
    was hit, with `hit` the momentum; `rate` is how the momentum moves with the exponent."""

    w: Float[Array, " n"]
    miss: Float[Array, " n"]
    inverse: Float[Array, "n n"]
    damping: Scalar
    stuck: Int[Array, ""]
    shots: Int[Array, ""]
    x: Matrix
    end: Matrix
    error: Scalar
    lost_rank: Bool[Array, ""]
    steps: Int[Array, ""]
    flat: Scalar
    fresh: Bool[Array, ""]
    base: Scalar
    hit: Float[Array, " n"]
    rate: Float[Array, " n"]
    stride: Scalar


def flattened(point: SVD, exponent: Scalar) -> Matrix:
    """The matrix with its singular values to a power below one: better conditioned."""
    return SVD(point.u, point.sigma**exponent, point.v).matrix


def chart(x: Matrix, point: SVD, kernel: Kernel) -> Float[Array, " n"]:
    """Coordinates of X about B, orthonormal at B to first order: the factors of U^T X V = L D R, triangular.

    A turn of the frame by delta moves a small singular value by delta^2 of the largest in X, and not at all here.
    """
    sigma, d = point.sigma, point.sigma.shape[0]
    y, pivots, left, right = into(point, x), [], [], []
    for k in range(d):
        safe = jnp.where(y[k, k] > 0, y[k, k], 1.0)
        pivots.append(y[k, k])
        left.append(y[:, k] / safe)
        right.append(y[k, :] / safe)
        y = y - jnp.outer(left[-1], right[-1]) * safe
    pivot = jnp.stack(pivots)
    good = jnp.all(pivot > 0)
    lower = jnp.tril(jnp.stack(left, 1), -1) * sigma
    upper = jnp.triu(jnp.stack(right, 0), 1) * sigma[:, None]
    root = jnp.sqrt(kernel.eigenvalues(sigma))
    diagonal = kernel.straighten(jnp.where(good, pivot, sigma)) - kernel.straighten(sigma)
    # Too far away for the factors, the difference itself.
    plain = (into(point, x) - jnp.diag(sigma)) / root
    return jnp.where(good, (lower + upper) / root + jnp.diag(diagonal), plain).ravel()


def shoot(a: SVD, b: SVD, guess: Minimum, start: Scalar, kernel: Kernel, rtol: Scalar) -> Shot:
    """Broyden's method in orthonormal coordinates, from the Jacobian of the discrete path.

    That path joins A and B with singular values to the power `start`; from there, where it is below one, by
    continuation in the power, the last momentum and Jacobian taken on.
    """
    d = a.sigma.shape[0]
    dtype = a.sigma.dtype
    ts = jnp.array([0.0, 1.0], dtype)
    condition = jnp.maximum(a.sigma[0] / a.sigma[-1], b.sigma[0] / b.sigma[-1])
    # A small singular value moves with the error of X beside it.
    tight = rtol * jnp.clip(CONDITION / condition, 1e-2, 1.0)

    def step(now: _Aim) -> _Aim:
        fresh = now.fresh
        move = -now.inverse @ now.miss
        move *= now.damping * jnp.minimum(1.0, norm(now.w) / jnp.maximum(norm(move), jnp.finfo(dtype).tiny))
        move = jnp.where(fresh, 0.0, move)
        w = now.w + move
        target = SVD(b.u, b.sigma**now.flat, b.v)
        x = flattened(a, now.flat)
        accuracy = jnp.where(now.flat < 1, 100 * rtol, tight)
        path = integrate(x, from_frame(a, w), kernel, ts, accuracy, max_steps=1024)
        miss = chart(path.x[-1], target, kernel)
        good = path.finished & jnp.all(jnp.isfinite(miss))
        miss = jnp.where(good, miss, 1e3)
        # The change of rank one that explains what was seen.
        back = now.inverse @ (miss - now.miss)
        scale = move @ back
        update = jnp.outer(move - back, move @ now.inverse) / jnp.where(scale == 0, 1.0, scale)
        learnt = good & ~fresh & (scale != 0) & jnp.all(jnp.isfinite(update))
        better = fresh | (good & (norm(miss) < norm(now.miss)))
        keep = lambda new, old: jnp.where(better, new, old)
        w, miss = keep(w, now.w), keep(miss, now.miss)
        error = jnp.where(good, norm(path.x[-1] - target.matrix) / norm(target.sigma), jnp.inf)
        damping = jnp.where(fresh, 1.0, jnp.where(better, jnp.minimum(1.0, 4 * now.damping), now.damping / 4))
        stuck = jnp.where(fresh | (better & (norm(miss) < 0.5 * norm(now.miss))), 0, now.stuck + 1)

        # On with the continuation: the next power, or a nearer one.
        on_the_way = now.flat < 1
        # Ends that are equal to rounding have no more digits to be told apart by.
        there = on_the_way & (norm(miss) <= 1e-3 * norm(w) + 1e3 * jnp.finfo(dtype).eps)
        lost = ~there & (now.base > 0) & ((damping < 1e-2) | (stuck >= 6) | (fresh & ~good))
        lost &= (now.flat < 1) | (keep(error, now.error) > 1e-9)
        gap = now.flat - now.base
        rate = jnp.where(there & (now.base > 0), (w - now.hit) / jnp.where(gap > 0, gap, 1.0), now.rate)
        base, hit = jnp.where(there, now.flat, now.base), jnp.where(there, w, now.hit)
        stride = jnp.where(there, 1.5 * now.stride, jnp.where(lost, jnp.minimum(now.stride, gap) / 3, now.stride))
        flat = jnp.where(there | lost, jnp.minimum(1.0, base + stride), now.flat)
        w = jnp.where(there | lost, hit + rate * (flat - base), w)
        return _Aim(
            w=w,
            miss=miss,
            inverse=jnp.where(learnt, now.inverse + update, now.inverse),
            damping=damping,
            stuck=stuck,
            shots=now.shots + 1,
            x=keep(path.x[-1], now.x),
            end=keep(path.w[-1], now.end),
            error=jnp.where(there | lost, jnp.inf, keep(error, now.error)),
            lost_rank=keep(path.lost_rank, now.lost_rank),
            steps=now.steps + path.steps,
            flat=flat,
            fresh=there | lost,
            base=base,
            hit=hit,
            rate=rate,
            stride=stride,
        )

    def go_on(now: _Aim):
        rounding = 8 * jnp.finfo(dtype).eps
        there = ((now.error <= 1e-11) & (now.stuck >= 2)) | (norm(now.miss) <= rounding * norm(now.w))
        there &= ~now.fresh & (now.flat == 1)
        hope = (now.damping > 1e-4) & (now.stuck < 12) & (now.stride > 1e-3) & (now.shots < _MOST)
        return ~there & hope

    point, end = (SVD(z.u, z.sigma**start, z.v) for z in (a, b))
    left, right = (_orthonormal(z, kernel) for z in (point, end))
    zero, none, no = jnp.asarray(0.0, dtype), jnp.asarray(0), jnp.asarray(False)
    begin = _Aim(
        w=left @ guess.p.ravel(),
        miss=jnp.zeros(d * d, dtype),
        inverse=left @ guess.by_end @ right.T,
        damping=zero + 1,
        stuck=none,
        shots=none,
        x=point.matrix,
        end=point.matrix,
        error=zero + jnp.inf,
        lost_rank=no,
        steps=none,
        flat=zero + start,
        fresh=~no,
        base=zero,
        hit=jnp.zeros(d * d, dtype),
        rate=jnp.zeros(d * d, dtype),
        stride=zero + 0.1,
    )
    aim = jax.lax.while_loop(go_on, step, begin)
    error = jnp.where(aim.flat == 1, aim.error, jnp.inf)
    w = from_frame(a, aim.w)
    return Shot(w, aim.end, aim.x, error, aim.lost_rank, aim.shots, aim.steps)


def from_frame(a: SVD, w):
    """W, from its entries in the frame of A as a vector."""
    return out_of(a, w.reshape(a.u.shape))


def _orthonormal(point: SVD, kernel) -> Float[Array, "n n"]:
    """Covectors at a point to orthonormal coordinates in its frame, as a matrix."""
    root = jnp.sqrt(kernel.eigenvalues(point.sigma)).ravel()
    return root[:, None] * jnp.kron(point.u, point.v).T


@jax.custom_batching.sequential_vmap
def candidates(a: Matrix, b: Matrix, kernel: Kernel, rtol: Scalar, descend: Bool[Array, ""]) -> Shot:
    """From each first guess down to the path of least action near it, and on to the geodesic: `2 ...`.

    Unless they `descend`, from the guess itself, to whatever critical path is near. One after the other also under
    `vmap`: searches differ too much in length to wait for each other.
    """
    first, last = svd(a), svd(b)
    condition = jnp.maximum(first.sigma[0] / first.sigma[-1], last.sigma[0] / last.sigma[-1])
    start = jnp.minimum(1.0, jnp.log(CONDITION) / jnp.log(condition + 1))
    x, y = flattened(first, start), flattened(last, start)
    ts = _paths.times(x, y, kernel, SEGMENTS)
    guesses = _paths.first_guesses(x, y, kernel, ts)

    def follow(xs):
        xs = jnp.where(descend, _paths.bend(xs, ts), xs).at[0].set(x).at[-1].set(y)
        low = minimise(xs, jnp.diff(ts), kernel, most=jnp.where(descend, 80, 1))
        return shoot(first, last, low, start, kernel, rtol)

    return jax.lax.map(follow, guesses)
