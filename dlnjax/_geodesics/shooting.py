"""Shooting: from a discrete path of least action to the momentum whose geodesic arrives.

Broyden's method finds the momentum. Where the ends are ill-conditioned the discrete path is too coarse to start from;
a continuation in the exponent of the singular values then begins at better conditioned ends, whose singular values are
those of A and B to a power below 1, and goes up to the power 1.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._geodesics import guesses
from dlnjax._geodesics.action import minimise, Minimum
from dlnjax._geodesics.broyden import improve, Search, Value
from dlnjax._geodesics.hamiltonian import integrate
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import into, out_of
from dlnjax._svd import SVD
from dlnjax._tree import iterate, norm
from dlnjax._types import Matrix, Scalar

# Pieces of a discrete path: its momentum is then good to about 1e-3, from where Broyden's method converges.
SEGMENTS = 32
# Steps of the minimiser. Paths that need more are those whose action has no minimum inside.
_DESCENT = 80
# Shots of one search, over all exponents: ten times what the hardest of the stress test that arrive need.
_MOST_SHOTS = 200
# Steps of the solver in one shot. A geodesic that needs more has come near the boundary and will not arrive.
_MOST_STEPS = 1024
# Beyond this condition number the frames turn faster than a discrete path of this many pieces resolves.
CONDITION = 1e3
# A small singular value moves with the error of X beside it, so that the tolerance goes down as the condition number
# goes up, but by no more than this: below it rounding takes over.
_TIGHTEST = 1e-2
# Shots on the way to the power 1 are only to tell where to aim next.
_COARSE = 100.0

# A target on the way counts as hit to this part of the momentum, or to this many roundings. The second is for ends that
# are equal to rounding, whose momentum is rounding itself.
_HIT, _HIT_ROUNDINGS = 1e-3, 1e3
# The final target is reached where no digit is left, or where it is hit to the first number and shots no longer help.
_ROUNDINGS = 8
_NO_DIGITS, _NO_HELP = 1e-11, 2
# A final shot as near as this is finished without going back to a smaller power.
_NEAR = 1e-9
# A search that damps its steps below this, or makes no progress in as many shots, gets a nearer target ...
_LOST_DAMPING, _LOST_STUCK = 1e-2, 6
# ... and is given up at these, if there is no nearer one.
_HOPELESS_DAMPING, _HOPELESS_STUCK = 1e-4, 12
# The steps of the power: the first; by how much they grow and shrink; the smallest that is worth a target.
_FIRST_STRIDE, _GROW, _SHRINK, _SMALLEST_STRIDE = 0.1, 1.5, 3.0, 1e-3


class Shot(eqx.Module):
    """The orthonormal momentum at both ends, where the geodesic came, and how the search went."""

    start: Float[Array, "*n d d"]
    end: Float[Array, "*n d d"]
    x: Float[Array, "*n d d"]
    error: Float[Array, "*n"]
    lost_rank: Bool[Array, "*n"]
    shots: Int[Array, "*n"]
    steps: Int[Array, "*n"]


class Landing(eqx.Module):
    """Where a geodesic came at time 1: X, the orthonormal momentum, and the distance to the target over its size."""

    x: Matrix
    w: Matrix
    error: Scalar
    lost_rank: Bool[Array, ""]


class Continuation(eqx.Module):
    """Where the continuation stands.

    `power` is the exponent of the singular values at which the search aims, from the momentum `w`. `reached` is the
    last exponent that was hit, 0 if there is none, and `hit` the momentum there; `rate` is the slope of the momentum in
    the exponent, by which the next is extrapolated over `stride`. `search` is that at the last target, and `more` says
    that there is another one to aim at.
    """

    power: Scalar
    w: Float[Array, " n"]
    reached: Scalar
    hit: Float[Array, " n"]
    rate: Float[Array, " n"]
    stride: Scalar
    search: Search
    more: Bool[Array, ""]


def flattened(point: SVD, power: Scalar) -> SVD:
    """The point with its singular values to a power; below 1, it is better conditioned."""
    return SVD(point.u, point.sigma**power, point.v)


def chart(x: Matrix, point: SVD, kernel: Kernel) -> Float[Array, " n"]:
    """Coordinates of X about B, orthonormal at B to first order: the factors of U^T X V = L D R, triangular.

    When the frame turns by delta, a small singular value moves by delta^2 of the largest in the entries of X; in these
    coordinates it does not move at all.
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
    lower = jnp.tril(jnp.stack(left, 1), -1) * sigma[None, :]
    upper = jnp.triu(jnp.stack(right, 0), 1) * sigma[:, None]
    root = jnp.sqrt(kernel.eigenvalues(sigma))
    diagonal = kernel.straighten(jnp.where(good, pivot, sigma)) - kernel.straighten(sigma)
    # Where X is too far from B to have these factors, the difference itself serves.
    plain = (into(point, x) - jnp.diag(sigma)) / root
    return jnp.where(good, (lower + upper) / root + jnp.diag(diagonal), plain).ravel()


def from_frame(a: SVD, w: Float[Array, " n"]) -> Matrix:
    """W, from its entries in the frame of A as a vector."""
    return out_of(a, w.reshape(a.u.shape))


def _orthonormal(point: SVD, kernel: Kernel) -> Float[Array, "n n"]:
    """The matrix that takes covectors at a point to orthonormal coordinates in its frame."""
    root = jnp.sqrt(kernel.eigenvalues(point.sigma)).ravel()
    return root[:, None] * jnp.kron(point.u, point.v).T


def _condition(a: SVD, b: SVD) -> Scalar:
    return jnp.maximum(a.sigma[0] / a.sigma[-1], b.sigma[0] / b.sigma[-1])


def shoot(a: SVD, b: SVD, guess: Minimum, power: Scalar, kernel: Kernel, rtol: Scalar) -> Shot:
    """The geodesic from A to B by continuation from the path `guess`, between A and B flattened to `power`."""
    first, last = flattened(a, power), flattened(b, power)
    left, right = _orthonormal(first, kernel), _orthonormal(last, kernel)
    zero, d = jnp.zeros((), a.sigma.dtype), a.sigma.shape[0]
    w, nothing = left @ guess.p.ravel(), jnp.zeros(d * d, a.sigma.dtype)
    landing = Landing(first.matrix, first.matrix, zero + jnp.inf, jnp.asarray(False))
    start = Continuation(
        power=zero + power,
        w=w,
        reached=zero,
        hit=nothing,
        rate=nothing,
        stride=zero + _FIRST_STRIDE,
        search=Search.at(w, left @ guess.by_end @ right.T, landing),
        more=jnp.asarray(True),
    )
    done = iterate(partial(_next_target, a, b, kernel, rtol), _goes_on, start)
    landed = done.search.other
    return Shot(
        start=from_frame(a, done.w),
        end=landed.w,
        x=landed.x,
        error=jnp.where((done.power == 1) & ~done.more, landed.error, jnp.inf),
        lost_rank=landed.lost_rank,
        shots=done.search.calls,
        steps=done.search.cost,
    )


def _next_target(a: SVD, b: SVD, kernel: Kernel, rtol: Scalar, now: Continuation) -> Continuation:
    """Broyden's method at one target; and the next target, further on if it was hit, and nearer if it was lost."""

    def f(w: Float[Array, " n"]) -> Value:
        return _fire(a, flattened(b, now.power), w, kernel, rtol, now.power)

    def go_on(search: Search) -> Bool[Array, ""]:
        ends = _hit(search, now.power) | _lost(search, now) | _arrived(search, now.power)
        return search.fresh | (_hopeful(search) & ~ends)

    search = iterate(partial(improve, f), go_on, now.search.again(now.w))
    hit, lost = _hit(search, now.power), _lost(search, now)
    gap = now.power - now.reached
    rate = (search.w - now.hit) / jnp.where(gap > 0, gap, 1.0)
    rate = jnp.where(hit & (now.reached > 0), rate, now.rate)
    reached, at = jnp.where(hit, now.power, now.reached), jnp.where(hit, search.w, now.hit)
    shorter = jnp.minimum(now.stride, gap) / _SHRINK
    stride = jnp.where(hit, _GROW * now.stride, jnp.where(lost, shorter, now.stride))
    more = hit | lost
    power = jnp.where(more, jnp.minimum(1.0, reached + stride), now.power)
    w = jnp.where(more, at + rate * (power - reached), search.w)
    return Continuation(power, w, reached, at, rate, stride, search, more)


def _goes_on(now: Continuation) -> Bool[Array, ""]:
    return now.more & (now.stride > _SMALLEST_STRIDE) & _hopeful(now.search)


def _fire(a: SVD, target: SVD, w: Float[Array, " n"], kernel: Kernel, rtol: Scalar, power: Scalar) -> Value:
    """The geodesic from A with a momentum, to time 1, and how far it misses the target, in its chart."""
    ts = jnp.array([0.0, 1.0], w.dtype)
    tight = rtol * jnp.clip(CONDITION / _condition(a, target), _TIGHTEST, 1.0)
    accuracy = jnp.where(power < 1, _COARSE * rtol, tight)
    path = integrate(flattened(a, power).matrix, from_frame(a, w), kernel, ts, accuracy, max_steps=_MOST_STEPS)
    x = path.x[-1]
    miss = chart(x, target, kernel)
    good = path.finished & jnp.all(jnp.isfinite(miss))
    error = jnp.where(good, norm(x - target.matrix) / norm(target.sigma), jnp.inf)
    return Value(miss, good, path.steps, Landing(x, path.w[-1], error, path.lost_rank))


def _hit(search: Search, power: Scalar) -> Bool[Array, ""]:
    """Whether a target on the way is hit."""
    rounding = _HIT_ROUNDINGS * jnp.finfo(search.w.dtype).eps
    return (power < 1) & (norm(search.f) <= _HIT * norm(search.w) + rounding)


def _lost(search: Search, now: Continuation) -> Bool[Array, ""]:
    """Whether the target is out of reach, and there is one to go back to."""
    out_of_reach = (search.damping < _LOST_DAMPING) | (search.stuck >= _LOST_STUCK) | search.failed
    far = (now.power < 1) | (search.other.error > _NEAR)
    return ~_hit(search, now.power) & (now.reached > 0) & out_of_reach & far


def _arrived(search: Search, power: Scalar) -> Bool[Array, ""]:
    """Whether the final target is reached."""
    rounding = _ROUNDINGS * jnp.finfo(search.w.dtype).eps
    near = (search.other.error <= _NO_DIGITS) & (search.stuck >= _NO_HELP)
    return (power == 1) & (near | (norm(search.f) <= rounding * norm(search.w)))


def _hopeful(search: Search) -> Bool[Array, ""]:
    fruitless = (search.damping <= _HOPELESS_DAMPING) | (search.stuck >= _HOPELESS_STUCK)
    return ~fruitless & (search.calls < _MOST_SHOTS)


@jax.custom_batching.sequential_vmap
def candidates(a: SVD, b: SVD, kernel: Kernel, rtol: Scalar, descend: Bool[Array, ""]) -> Shot:
    """The geodesics that are found from the two first guesses, which are the leading axis of what is returned.

    Each search minimises the action from its guess, and shoots from the path that it finds.

    Without `descend`, shooting starts from the guess itself and finds whatever critical path is near. Under `vmap` the
    pairs come one after the other: searches differ much in length, and side by side all would last as the longest.
    """
    power = jnp.minimum(1.0, jnp.log(CONDITION) / jnp.log(_condition(a, b) + 1))
    first, last = flattened(a, power), flattened(b, power)
    ts = guesses.times(first, last, kernel, SEGMENTS)

    def follow(xs: Float[Array, "nodes d d"]) -> Shot:
        xs = jnp.where(descend, guesses.bend(xs, ts), xs).at[0].set(first.matrix).at[-1].set(last.matrix)
        low = minimise(xs, jnp.diff(ts), kernel, most=jnp.where(descend, _DESCENT, 1))
        return shoot(a, b, low, power, kernel, rtol)

    return jax.lax.map(follow, guesses.first_guesses(first, last, kernel, ts))
