"""Shooting: from a discrete path of least action to the momentum whose geodesic arrives."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax import _paths
from dlnjax._hamiltonian import integrate
from dlnjax._metric import apply_metric_operator
from dlnjax._minimise import minimise, Minimum

Matrix = Float[Array, "d d"]
Scalar = Float[Array, ""]

SEGMENTS = 32
_MOST = 40


class Shot(eqx.Module):
    """The orthonormal momentum at both ends, where the geodesic came, and how the search went."""

    start: Float[Array, "*n d d"]
    end: Float[Array, "*n d d"]
    x: Float[Array, "*n d d"]
    error: Float[Array, "*n"]
    lost_rank: Bool[Array, "*n"]
    settled: Bool[Array, "*n"]
    shots: Int[Array, "*n"]
    steps: Int[Array, "*n"]


class _Aim(eqx.Module):
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


def shoot(a: Matrix, b: Matrix, guess: Minimum, inverse_depth: Scalar, rtol: Scalar) -> Shot:
    """Broyden's method in orthonormal coordinates, from the Jacobian of the discrete path."""
    d = a.shape[0]
    root_a = lambda z: apply_metric_operator(a, z, inverse_depth, power=0.5)
    root_b = lambda z: apply_metric_operator(b, z, inverse_depth, power=0.5)
    ts = jnp.array([0.0, 1.0], a.dtype)
    size = jnp.sqrt(jnp.sum(b * b))

    def norm(z):
        return jnp.sqrt(jnp.sum(z * z))

    def step(now: _Aim) -> _Aim:
        begin = now.shots == 0
        move = -now.inverse @ now.miss
        move *= now.damping * jnp.minimum(1.0, norm(now.w) / jnp.maximum(norm(move), jnp.finfo(a.dtype).tiny))
        move = jnp.where(begin, 0.0, move)
        w = now.w + move
        path = integrate(a, w.reshape(d, d), inverse_depth, ts, rtol, max_steps=256)
        off = path.x[-1] - b
        miss = apply_metric_operator(b, off, inverse_depth, power=-0.5).ravel()
        good = path.finished & jnp.all(jnp.isfinite(miss))
        # The change of rank one that explains what was seen.
        back = now.inverse @ (miss - now.miss)
        scale = move @ back
        update = jnp.outer(move - back, move @ now.inverse) / jnp.where(scale == 0, 1.0, scale)
        learnt = good & ~begin & (scale != 0) & jnp.all(jnp.isfinite(update))
        better = begin | (good & (norm(miss) < norm(now.miss)))
        keep = lambda new, old: jnp.where(better, new, old)
        error = jnp.where(good, jnp.sqrt(jnp.sum(off * off)) / size, jnp.inf)
        return _Aim(
            w=keep(w, now.w),
            miss=jnp.where(better, jnp.where(good, miss, 1e3), now.miss),
            inverse=jnp.where(learnt, now.inverse + update, now.inverse),
            damping=jnp.where(better, jnp.minimum(1.0, 4 * now.damping), now.damping / 4),
            stuck=jnp.where(better & (norm(miss) < 0.5 * norm(now.miss)), 0, now.stuck + 1),
            shots=now.shots + 1,
            x=keep(path.x[-1], now.x),
            end=keep(path.w[-1], now.end),
            error=keep(error, now.error),
            lost_rank=keep(path.lost_rank, now.lost_rank),
            steps=now.steps + path.steps,
        )

    def go_on(now: _Aim):
        rounding = 8 * jnp.finfo(a.dtype).eps
        there = ((now.error <= 1e-11) & (now.stuck >= 2)) | (norm(now.miss) <= rounding * norm(now.w))
        return (now.shots == 0) | ~there & (now.shots < _MOST) & (now.damping > 1e-4) & (now.stuck < 12)

    basis = jnp.eye(d * d, dtype=a.dtype).reshape(-1, d, d)
    left, right = (jax.vmap(f)(basis).reshape(d * d, d * d) for f in (root_a, root_b))
    one, none, no = jnp.asarray(1.0, a.dtype), jnp.asarray(0), jnp.asarray(False)
    start = _Aim(
        w=root_a(guess.p).ravel(),
        miss=jnp.zeros(d * d, a.dtype),
        inverse=left @ guess.by_end @ right,
        damping=one,
        stuck=none,
        shots=none,
        x=a,
        end=a,
        error=one,
        lost_rank=no,
        steps=none,
    )
    aim = jax.lax.while_loop(go_on, step, start)
    return Shot(aim.w.reshape(d, d), aim.end, aim.x, aim.error, aim.lost_rank, guess.settled, aim.shots, aim.steps)


def candidates(a: Matrix, b: Matrix, inverse_depth: Scalar, rtol: Scalar, descend: bool = True) -> Shot:
    """From each first guess down to the path of least action near it, and on to the geodesic: `2 ...`.

    Without `descend`, from the guess itself, to whatever critical path is near.
    """
    ts = _paths.times(a, b, inverse_depth, SEGMENTS)
    guesses = _paths.first_guesses(a, b, inverse_depth, ts)

    def follow(xs):
        xs = _paths.bend(xs, ts).at[0].set(a).at[-1].set(b) if descend else xs
        low = minimise(xs, jnp.diff(ts), inverse_depth, most=80 if descend else 1)
        return shoot(a, b, low, inverse_depth, rtol)

    return jax.vmap(follow)(guesses)
