"""Geodesics by deferred correction: a path of least action says where to shoot, and a shot says where to aim.

The momentum of a path of least action on the mesh of `mesh.py` is accurate to about 1e-9, so that the first shot nearly
arrives. The next path is aimed beside B, by as much as the shot has missed B on the other side. This needs no
derivative of the shot, which Broyden's method in `shooting.py` starts from, at the cost of d^6 operations.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._geodesics import guesses
from dlnjax._geodesics.charts import Pair
from dlnjax._geodesics.descent import descend, Descent
from dlnjax._geodesics.hamiltonian import integrate, Path
from dlnjax._geodesics.mesh import ELEMENTS, Mesh
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import operator_at
from dlnjax._results import code_of, RESULTS
from dlnjax._tree import iterate, norm, positive, where
from dlnjax._types import Scalar, Square

# The search of a path ends where its action would fall by less than these fractions: the first tells the paths from the
# two guesses apart, and the second is near rounding, as the momentum has the root of it as its error.
_ROUGH, _FINE = 1e-8, 1e-24
# Paths whose actions differ by less than this fraction are one path.
_SAME_ACTION = 1e-6
# The largest number of shots. Each one but the first corrects the aim, and most pairs need two in all.
_MOST_SHOTS = 8
# The search ends where the error of the position is below this fraction of the tolerance of a step. A shot that does
# not shrink the error by the second factor makes no progress. The first such shot is answered by `_FAR`, unless the
# miss is larger, and the search ends at the next.
_ENOUGH, _PROGRESS = 0.1, 0.5
# After a shot that was no better, the aim is moved this far, a length in the metric. The momentum is nearly linear in
# an aim so near, and rounding in it is small beside what it changes by.
_FAR = 1e-3
# A shot with an error below this number has arrived. The other guess is then not followed, and a continuation does not
# go back to milder ends.
NEAR = 1e-9
# The largest number of steps of the solver in one shot.
MOST_STEPS = 1024


class Shot(eqx.Module):
    """The result of a search: the orthonormal momentum at both ends, the point `x` that the geodesic reached, and more.

    `error` is that of `Pair.error`, `shots` the number of shots, `steps` the steps of all shots.
    `power` is the largest for which a geodesic was found between the ends with their singular values to this power, and
    1 where it was shot at B itself. `code` says why the search ended if it did not arrive.
    """

    start: Float[Array, "*n d d"]
    end: Float[Array, "*n d d"]
    x: Float[Array, "*n d d"]
    error: Float[Array, "*n"]
    power: Float[Array, "*n"]
    code: RESULTS
    shots: Int[Array, "*n"]
    steps: Int[Array, "*n"]

    @classmethod
    def none(cls, x: Square) -> "Shot":
        """The result where nothing was searched for."""
        none, zero = jnp.asarray(0), jnp.zeros((), x.dtype)
        return cls(0 * x, 0 * x, x, zero + jnp.inf, zero, code_of((True, RESULTS.not_arrived)), none, none)


def flaw(flight: Path, good: Bool[Array, ""]) -> RESULTS:
    """Why a shot is not `good`, or `successful`."""
    return code_of(
        (good, RESULTS.successful),
        (flight.lost_rank, RESULTS.rank_lost),
        (flight.exhausted, RESULTS.shot_too_long),
        (True, RESULTS.not_arrived),
    )


class Aiming(eqx.Module):
    """The state of a search: the path to the present aim, the aim in the chart of B, and the best shot so far.

    `momentum` is that of the path to the aim before, `miss` that of the best shot, and `factor` the number of times
    this miss by which the aim has moved.
    """

    path: Descent
    aim: Float[Array, " n"]
    momentum: Square
    miss: Float[Array, " n"]
    factor: Scalar
    best: Shot
    ended: Bool[Array, ""]

    @classmethod
    def at(cls, path: Descent, best: Shot) -> "Aiming":
        """The state before the first shot."""
        b = path.course.ys[-1]
        nothing, one = jnp.zeros(b.size, b.dtype), jnp.ones((), b.dtype)
        return cls(path, nothing, jnp.zeros_like(b), nothing, one, best, jnp.asarray(False))


class Guess(NamedTuple):
    """A first guess: the path to which it has led so far, and the best shot from there."""

    path: Descent
    shot: Shot


class _Turn(NamedTuple):
    """The guess whose turn it is, the other one, whether both lead to the same path, and whether they have changed
    places."""

    this: Guess
    other: Guess
    same: Bool[Array, ""]
    swapped: Bool[Array, ""]


def aimed(ends: Pair, kernel: Kernel, rtol: Scalar, every: Bool[Array, ""], elements: int = ELEMENTS) -> Shot:
    """The geodesics from the two first guesses. The leading axis of the result is that of the guesses.

    Both guesses are led to paths of least action. The path of less action is followed first. The other is followed if
    that does not arrive, or with `every`.
    """
    a, b = ends.first, ends.last
    mesh = Mesh.of(guesses.times(a, b, kernel, elements))

    first = guesses.first_guesses(a, b, guesses.turns_between(a, b), kernel, mesh.ts)
    paths = jax.vmap(lambda xs: ends.straight(guesses.bend(xs, mesh.ts), mesh.ts))(first)

    # Two turns lead the guesses to paths, and two follow the paths. The turns are one loop, so that the search of a
    # path is compiled once. They change places by a branch, for which XLA compiles nothing, while it compiles two
    # functions for each array that is read and written by an index.
    def turn(now: _Turn, k: Int[Array, ""]) -> tuple[_Turn, None]:
        action, action_of_other = now.this.path.course.action, now.other.path.course.action
        same = jnp.where(k == 2, jnp.abs(action - action_of_other) <= _SAME_ACTION * action, now.same)
        swapped = jnp.where(k == 2, ~same & (action_of_other < action), now.swapped)
        this, other = _swap_if(swapped & (k == 2), now.this, now.other)
        wanted = (k < 2) | every | ~(other.shot.error <= NEAR)
        skipped = Aiming.at(this.path, where(same, other.shot, Shot.none(b.matrix)))
        follow = lambda: _follow(ends, mesh, kernel, rtol, k < 2, this.path)
        found = jax.lax.cond(wanted, follow, lambda: skipped)
        return _Turn(other, Guess(found.path, found.best), same, swapped), None

    false, none = jnp.asarray(False), Shot.none(b.matrix)
    start = _Turn(Guess(Descent.at(paths[0]), none), Guess(Descent.at(paths[1]), none), false, false)
    last, _ = jax.lax.scan(turn, start, jnp.arange(4))
    shots = _swap_if(last.swapped, last.this.shot, last.other.shot)
    return jax.tree.map(lambda *z: jnp.stack(z), *shots)


def _swap_if(condition: Bool[Array, ""], a: PyTree, b: PyTree) -> tuple[PyTree, PyTree]:
    return jax.lax.cond(condition, lambda: (b, a), lambda: (a, b))


def _follow(ends: Pair, mesh: Mesh, kernel: Kernel, rtol: Scalar, rough: Bool[Array, ""], path: Descent) -> Aiming:
    """The search from a path. If it is `rough`, the path is led to least action, and no shot follows."""

    def step(now: Aiming) -> Aiming:
        path = descend(now.path.on(), ends.origin, mesh, kernel, jnp.where(rough, _ROUGH, _FINE))
        there = eqx.tree_at(lambda s: (s.path, s.ended), now, (path, jnp.asarray(True)))
        return jax.lax.cond(rough, lambda: there, lambda: _correct(ends, mesh, kernel, rtol, path, now))

    start = Aiming.at(path, Shot.none(ends.goal))
    return iterate(step, lambda now: ~now.ended & (now.best.shots < _MOST_SHOTS), start)


def _correct(ends: Pair, mesh: Mesh, kernel: Kernel, rtol: Scalar, path: Descent, now: Aiming) -> Aiming:
    """Shoot with the momentum of the path to the present aim, and aim anew.

    Between ill-conditioned ends a path of least action is found only up to rounding, and its momentum may be wrong in
    the eighth digit. After a shot that was no better, the aim is therefore moved by many times the miss. The momentum
    changes by as many times what the next shot needs, so that rounding counts for as much less.
    """
    old = now.best
    momentum = operator_at(ends.first, -path.course.slope[0], kernel, power=0.5)
    w = old.start + (momentum - now.momentum) / now.factor
    ts = jnp.array([0.0, 1.0], w.dtype)
    flight = integrate(ends.start, w, kernel, ts, rtol, max_steps=MOST_STEPS, origin=ends.origin)
    y = flight.x[-1]
    miss, off = ends.miss(y, kernel), norm(y - ends.goal)
    good = flight.finished & jnp.all(jnp.isfinite(miss))
    error = jnp.where(good, ends.error(y, miss, w, kernel), jnp.inf)
    shots, steps = old.shots + 1, old.steps + flight.steps
    better, progress = (error < old.error) | (old.shots == 0), error <= _PROGRESS * old.error
    code = code_of(
        (~good, flaw(flight, good)), (shots >= _MOST_SHOTS, RESULTS.max_shots_reached), (True, RESULTS.not_arrived)
    )
    shot = where(better, Shot(w, flight.w[-1], ends.origin + y, error, jnp.ones_like(error), code, shots, steps), old)
    shot = eqx.tree_at(lambda s: (s.code, s.shots, s.steps), shot, (code, shots, steps))
    miss = jnp.where(better & good, miss, now.miss)
    short, far = norm(miss), now.factor > 1
    factor = jnp.where(far | ~progress, jnp.maximum(_FAR / positive(short), 1.0), 1.0)
    aim = now.aim - factor * miss
    return Aiming(
        path=path.again(_shifted(path, ends.beside(aim, kernel), mesh, kernel)),
        aim=aim,
        momentum=momentum,
        miss=miss,
        factor=factor,
        best=shot,
        ended=(off <= _ENOUGH * rtol * norm(ends.goal)) | ((far | (short >= _FAR)) & ~progress) | ~good,
    )


def _shifted(path: Descent, end: Square, mesh: Mesh, kernel: Kernel) -> Float[Array, "nodes d d"]:
    """The path with another end, to which all nodes move in proportion to the time, in orthonormal coordinates."""
    ys, points = path.course.ys, path.course.points
    last = jax.tree.map(lambda z: z[-1], points)
    z = operator_at(last, end - ys[-1], kernel, power=-0.5)
    moves = jax.vmap(lambda t, point: t * operator_at(point, z, kernel, power=0.5))(mesh.ts, points)
    return (ys + moves).at[0].set(ys[0]).at[-1].set(end)
