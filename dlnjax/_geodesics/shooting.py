"""Shooting: the search for the momentum at A whose geodesic arrives at B, from a discrete path of least action.

A shot is one geodesic from A with a trial momentum. Broyden's method finds the momentum by a series of shots. Where the
ends are ill-conditioned, the discrete path is too coarse to start from. A continuation then begins at ends whose
singular values are those of A and B to a power below 1, which are better conditioned, and raises the power to 1. The
target at one power is B with its singular values to that power. Where this fails, another way is tried, on which the
powers of small and of large singular values differ.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._geodesics import guesses
from dlnjax._geodesics.action import minimise, Minimum
from dlnjax._geodesics.aiming import aimed, flaw, MOST_STEPS, NEAR, Shot
from dlnjax._geodesics.broyden import improve, Search, Value
from dlnjax._geodesics.charts import Pair
from dlnjax._geodesics.hamiltonian import integrate
from dlnjax._geodesics.mesh import FINE
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import out_of
from dlnjax._results import code_of, RESULTS
from dlnjax._svd import SVD
from dlnjax._tree import iterate, norm, positive, where
from dlnjax._types import Scalar, Square

# The number of pieces of a discrete path. With this number the momentum of the path is accurate to about 1e-3, from
# where Broyden's method converges.
SEGMENTS = 32
# The largest number of steps of the minimiser. A search that needs more has no minimum among paths of full rank.
_DESCENT = 80
# The largest number of shots of one search, over all powers. The hardest pair of the stress test needs 303.
_MOST_SHOTS = 400
# The largest number of steps of the solver in one shot at the power 1; below it, `MOST_STEPS`. At the condition number
# 1e6 the geodesics that arrive need up to 1300 and 500, since the tolerance is lower at the power 1. A geodesic that
# needs more has come near the singular matrices and will not arrive.
_MOST_STEPS_AT_LAST = 4096
# Up to this size the search of this module follows, where that of `aiming.py` does not arrive, and above it that of
# `aiming.py` on a finer mesh. The time of the search of this module grows like d^6.
DENSE = 8
# Up to this size, where both searches would be parts of one program, that of this module is the only one. The search of
# `aiming.py` takes a third of its time here, but would double the compilation.
_SMALL = 4
# At a larger condition number of an end, the frames turn faster than a path of `SEGMENTS` pieces can resolve.
CONDITION = 1e3
# Up to `_SMALL` rows the search of `aiming.py` is tried up to this condition number. Near 1000 it saves little time
# there, and at depth 3 it ends at a longer geodesic than that of this module for 1 of 100 pairs.
_EASY = 300.0
# An error of X moves a small singular value by as much. The tolerance is therefore lowered where the condition number
# is large, but by no more than this factor: below it, rounding is larger than the tolerance.
TIGHTEST = 1e-2
# A shot at a power below 1 only shows where to aim next, so that its tolerance is larger by this factor.
_COARSE = 100.0

# A target at a power below 1 counts as hit if the miss is at most `Way.hit` times the momentum plus _HIT_ROUNDINGS eps.
# The second term is for ends that are equal up to rounding, whose momentum is itself rounding.
_HIT_ROUNDINGS = 1e3
# The target at the power 1 is reached if the miss is at most _ROUNDINGS eps times the momentum. It is also reached if
# the error is at most _NO_DIGITS and the last _NO_HELP shots made no progress.
_ROUNDINGS = 8
_NO_DIGITS, _NO_HELP = 1e-11, 2
# A search gets a nearer target if its damping is below the first number, or if it has made no progress for as many
# shots as the second number says.
_LOST_DAMPING, _LOST_STUCK = 1e-2, 6
# A search ends without success at these two numbers, if there is no nearer target.
_HOPELESS_DAMPING, _HOPELESS_STUCK = 1e-4, 12
# Lengths are compared with their bound up to this part, and this number for ends that are equal to rounding.
_LONGER = 1e-9
# A geodesic that has missed B is shorter than another if it is so by this part. Its own length is less accurate.
_SHORTER = 1e-6
# The steps of the power: the first step, the factors by which a step grows and shrinks, and the smallest step.
_FIRST_STRIDE, _GROW, _SHRINK, _SMALLEST_STRIDE = 0.1, 1.5, 3.0, 1e-3


class Way(NamedTuple):
    """How a continuation goes: the condition number of the ends at which it begins, the bend of `flattened`, and the
    miss with which a target counts as hit, over the momentum."""

    condition: Scalar
    bend: Scalar
    hit: Scalar


# The ways, (condition, bend, hit) of each, are tried one after the other until a geodesic arrives. The second is for
# the few pairs whose first target cannot be hit better. The last is for those whose geodesics end in a fold where all
# singular values have one power.
_WAYS = ((CONDITION, 0.0, 1e-4), (CONDITION, 0.0, 1e-3), (30.0, 0.0, 1e-4), (30.0, 1.0, 1e-4))


class Landing(eqx.Module):
    """The end of a shot, at time 1: the position, the orthonormal momentum, and the error, that of `Pair.error`."""

    y: Square
    w: Square
    error: Scalar


class Continuation(eqx.Module):
    """The state of the continuation.

    `power` is that of the next target, and `w` the momentum of the first shot at this target. `reached` is the last
    power whose target was hit, or 0 if there is none, and `hit` is the momentum there. `rate` is the slope of the
    momentum in the power, by which the next momentum is extrapolated. `stride` is the next step of the power. `search`
    is the search at the last target, and `more` says that there is another target.
    """

    power: Scalar
    w: Float[Array, " n"]
    reached: Scalar
    hit: Float[Array, " n"]
    rate: Float[Array, " n"]
    stride: Scalar
    search: Search
    more: Bool[Array, ""]


def flattened(ends: Pair, power: Scalar, bend: Scalar) -> Pair:
    """The ends with their singular values to a power; below 1, they are better conditioned.

    With a `bend` above 0, small singular values have a smaller power than large ones: p^(1 + bend/2) for the least and
    p^(1 - bend/2) for the largest.
    """
    k = jnp.linspace(-0.5, 0.5, len(ends.between), dtype=ends.between.dtype)
    first, last = (SVD(x.u, x.sigma ** (power ** (1 + bend * k)), x.v) for x in (ends.first, ends.last))
    return Pair.of(first, last, jnp.where(power < 1, last.matrix - first.matrix, ends.between))


def from_frame(a: SVD, w: Float[Array, " n"]) -> Square:
    """The matrix W, from the vector of its entries in the frame of A."""
    return out_of(a, w.reshape(a.u.shape))


def _orthonormal(point: SVD, kernel: Kernel) -> Float[Array, "n n"]:
    """The matrix that takes covectors at a point to orthonormal coordinates in its frame."""
    root = jnp.sqrt(kernel.eigenvalues(point.sigma)).ravel()
    return root[:, None] * jnp.kron(point.u, point.v).T


def _condition(ends: Pair) -> Scalar:
    a, b = ends.first.sigma, ends.last.sigma
    return jnp.maximum(a[0] / a[-1], b[0] / b[-1])


def shoot(ends: Pair, guess: Minimum, power: Scalar, way: Way, kernel: Kernel, rtol: Scalar) -> Shot:
    """The geodesic from A to B, by a continuation.

    It begins with the momentum `guess` of the discrete path between A and B with their singular values to the `power`.
    """
    at = flattened(ends, power, way.bend)
    left, right = _orthonormal(at.first, kernel), _orthonormal(at.last, kernel)
    w = left @ guess.p.ravel()
    zero, nothing = jnp.zeros((), w.dtype), jnp.zeros_like(w)
    landing = Landing(at.start, at.start, zero + jnp.inf)
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
    done = iterate(partial(_next_target, ends, way, kernel, rtol), _goes_on, start)
    landed, at_last = done.search.other, (done.power == 1) & ~done.more
    return Shot(
        start=from_frame(ends.first, done.w),
        end=landed.w,
        x=ends.origin + landed.y,
        error=jnp.where(at_last, landed.error, jnp.inf),
        power=jnp.where(at_last, 1.0, done.reached),
        code=code_of(
            (done.search.calls >= _MOST_SHOTS, RESULTS.max_shots_reached),
            (done.search.flaw != RESULTS.successful, done.search.flaw),
            (True, RESULTS.not_arrived),
        ),
        shots=done.search.calls,
        steps=done.search.cost,
    )


def _next_target(ends: Pair, way: Way, kernel: Kernel, rtol: Scalar, now: Continuation) -> Continuation:
    """Search for one target by Broyden's method, and choose the next target.

    The next target has a larger power if this one was hit, and a smaller power if this one was lost.
    """

    def f(w: Float[Array, " n"]) -> Value:
        return _fire(flattened(ends, now.power, way.bend), w, kernel, rtol, now.power)

    def go_on(search: Search) -> Bool[Array, ""]:
        ends = _hit(search, now.power, way) | _lost(search, now, way) | _arrived(search, now.power)
        return search.fresh | (_hopeful(search) & ~ends)

    search = iterate(partial(improve, f), go_on, now.search.again(now.w))
    hit, lost = _hit(search, now.power, way), _lost(search, now, way)
    gap = now.power - now.reached
    rate = (search.w - now.hit) / positive(gap)
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


def _fire(ends: Pair, w: Float[Array, " n"], kernel: Kernel, rtol: Scalar, power: Scalar) -> Value:
    """One shot from A with the momentum `w`. Its value is the miss: the end of the geodesic in coordinates around B."""
    ts = jnp.array([0.0, 1.0], w.dtype)
    tight = rtol * jnp.clip(CONDITION / _condition(ends), TIGHTEST, 1.0)
    accuracy, most = jnp.where(power < 1, _COARSE * rtol, tight), jnp.where(power < 1, MOST_STEPS, _MOST_STEPS_AT_LAST)
    w = from_frame(ends.first, w)
    path = integrate(ends.start, w, kernel, ts, accuracy, max_steps=most, origin=ends.origin)
    y = path.x[-1]
    miss = ends.miss(y, kernel)
    good = path.finished & jnp.all(jnp.isfinite(miss))
    error = jnp.where(good, ends.error(y, miss, w, kernel), jnp.inf)
    return Value(miss, flaw(path, good), path.steps, Landing(y, path.w[-1], error))


def _hit(search: Search, power: Scalar, way: Way) -> Bool[Array, ""]:
    """Whether a target at a power below 1 is hit."""
    rounding = _HIT_ROUNDINGS * jnp.finfo(search.w.dtype).eps
    return (power < 1) & (norm(search.f) <= way.hit * norm(search.w) + rounding)


def _lost(search: Search, now: Continuation, way: Way) -> Bool[Array, ""]:
    """Whether the target is out of reach, and there is a target of smaller power that was hit."""
    out_of_reach = (search.damping < _LOST_DAMPING) | (search.stuck >= _LOST_STUCK) | search.failed
    far = (now.power < 1) | (search.other.error > NEAR)
    return ~_hit(search, now.power, way) & (now.reached > 0) & out_of_reach & far


def _arrived(search: Search, power: Scalar) -> Bool[Array, ""]:
    """Whether the target at the power 1 is reached."""
    rounding = _ROUNDINGS * jnp.finfo(search.w.dtype).eps
    near = (search.other.error <= _NO_DIGITS) & (search.stuck >= _NO_HELP)
    return (power == 1) & (near | (norm(search.f) <= rounding * norm(search.w)))


def _hopeful(search: Search) -> Bool[Array, ""]:
    fruitless = (search.damping <= _HOPELESS_DAMPING) | (search.stuck >= _HOPELESS_STUCK)
    return ~fruitless & (search.calls < _MOST_SHOTS)


@jax.custom_batching.sequential_vmap
def candidates(ends: Pair, kernel: Kernel, rtol: Scalar, descend: Bool[Array, ""], every: Bool[Array, ""]) -> Shot:
    """The geodesics that are found from the two first guesses. The leading axis of the result is that of the guesses.

    Above `_SMALL` rows the search of `aiming.py` comes first. It follows both guesses if `every` holds, and else only
    as many as it needs. Where that does not arrive, `last_candidates` follow, also where a pair is ill-conditioned, and
    without `descend`. Without `descend`, shooting starts from the guess itself, and finds whatever critical path is
    near.

    Under `vmap` the pairs are searched one after the other. Searches differ much in length, and side by side all would
    last as long as the longest.
    """
    if len(ends.between) <= _SMALL:
        return _shot(ends, kernel, rtol, descend)
    first = lambda: first_candidates(ends, kernel, rtol, descend, every)
    found = jax.lax.cond(is_easy(ends, descend), first, lambda: no_candidates(ends))
    last = lambda: nearest(found, last_candidates(ends, kernel, rtol, descend, every))
    return jax.lax.cond(suffices(found), lambda: found, last)


def first_candidates(
    ends: Pair, kernel: Kernel, rtol: Scalar, descend: Bool[Array, ""], every: Bool[Array, ""]
) -> Shot:
    """What the search of `aiming.py` finds, for a pair that is easy."""
    return aimed(ends, kernel, rtol, every)


def is_easy(ends: Pair, descend: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether the search of `aiming.py` is tried. Up to `DENSE` rows it is not where another has to follow anyway."""
    d = len(ends.between)
    return descend & ((d > DENSE) | (_condition(ends) <= (CONDITION if d > _SMALL else _EASY)) | ends.near)


def last_candidates(ends: Pair, kernel: Kernel, rtol: Scalar, descend: Bool[Array, ""], every: Bool[Array, ""]) -> Shot:
    """What the search of this module finds, and above `DENSE` rows that of `aiming.py` on a fine mesh."""
    if len(ends.between) <= DENSE:
        return _shot(ends, kernel, rtol, descend)
    # Its time is several times that of a search on the usual mesh, on which about 1 in 30 random pairs does not arrive.
    fine = lambda: aimed(ends, kernel, rtol, every, FINE)
    return jax.lax.cond(descend, fine, lambda: no_candidates(ends))


def no_candidates(ends: Pair) -> Shot:
    """The result where nothing was searched for from either guess."""
    return jax.tree.map(lambda z: jnp.stack([z, z]), Shot.none(ends.between))


def nearest(old: Shot, new: Shot) -> Shot:
    """Of each guess the result that came nearer, and the shorter geodesic where both arrive."""
    both = (old.error <= NEAR) & (new.error <= NEAR)
    shorter = jax.vmap(norm)(new.start) < jax.vmap(norm)(old.start)
    nearer = (new.error < old.error) | (jnp.isinf(old.error) & (new.power >= old.power))
    return where(jnp.where(both, shorter, nearer), new, old)


def suffices(found: Shot) -> Bool[Array, ""]:
    """Whether a geodesic arrives and none that has missed B is shorter, so that no other search follows."""
    arrived, length = found.error <= NEAR, jax.vmap(norm)(found.start)
    missed = ~arrived & (found.shots > 0)
    shortest = jnp.min(jnp.where(arrived, length, jnp.inf))
    return jnp.any(arrived) & ~jnp.any(missed & (length < (1 - _SHORTER) * shortest))


def _shot(ends: Pair, kernel: Kernel, rtol: Scalar, descend: Bool[Array, ""]) -> Shot:
    """The geodesics that the search of this module finds from both guesses.

    The action is minimised from each guess, and shooting starts from the path of least action. Where no geodesic
    arrives, the search is repeated from ends of a smaller condition number, where the path is more accurate, and then
    on another way. The result is that of the search that came nearest, and the shortest of those that arrive.
    """
    log = jnp.log(_condition(ends) + 1)
    turns = guesses.turns_between(ends.first, ends.last)
    # A geodesic longer than a path in closed form is not the shortest.
    longest = (1 + _LONGER) * guesses.bounds(ends.first, ends.last, turns, kernel)[1] + _LONGER

    def attempt(now: tuple[Int[Array, ""], Shot]) -> tuple[Int[Array, ""], Shot]:
        way = Way(*jnp.asarray(_WAYS, log.dtype)[now[0]])
        power = jnp.where(ends.near, 1.0, jnp.minimum(1.0, jnp.log(way.condition) / log))
        at = flattened(ends, power, way.bend)
        ts = guesses.times(at.first, at.last, kernel, SEGMENTS)

        def follow(xs: Float[Array, "nodes d d"]) -> Shot:
            ys = at.straight(jnp.where(descend, guesses.bend(xs, ts), xs), ts)
            low = minimise(ys, at.origin, jnp.diff(ts), kernel, most=jnp.where(descend, _DESCENT, 1))
            return shoot(ends, low, power, way, kernel, rtol)

        old, new = now[1], jax.lax.map(follow, guesses.first_guesses(at.first, at.last, turns, kernel, ts))
        # A way that arrives later may lead to a shorter geodesic.
        return now[0] + 1, nearest(old, new)

    def go_on(now: tuple[Int[Array, ""], Shot]) -> Bool[Array, ""]:
        arrived = (now[1].error <= NEAR) & (jax.vmap(norm)(now[1].start) <= longest)
        return (now[0] == 0) | (descend & (now[0] < len(_WAYS)) & ~jnp.any(arrived))

    return iterate(attempt, go_on, (jnp.asarray(0), no_candidates(ends)))[1]
