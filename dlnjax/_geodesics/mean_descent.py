"""The search for a Frechet mean, by Newton's method and by gradient descent. The module `mean` calls this one.

Half of the sum of w_i d(X, X_i)^2 has the gradient -sum w_i log_X(X_i) (Karcher 1977). Small matrices go by Newton's
method, in `mean_newton.py`. Where they are larger, or where this method finds no lower sum, a step goes along the
exponential of the sum of logarithms. The search is a loop in Python around the compiled geodesics, since geodesics
differ much in cost, and a compiled loop would compile them once more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dlnjax._compile import compiled
from dlnjax._geodesics.connection import connect
from dlnjax._geodesics.exponential import exponential, orthonormal
from dlnjax._geodesics.mean_newton import Gun, meet, Meeting
from dlnjax._geometry.kernel import Kernel, symmetric
from dlnjax._geometry.operator import apply_metric_operator
from dlnjax._lapack import sign_of_determinant
from dlnjax._results import RESULTS
from dlnjax._svd import eigh, svd
from dlnjax._tree import norm
from dlnjax._types import Scalar, Square

# Armijo's rule: a step is kept if the sum falls by this share of what its slope promises.
_DECREASE = 0.1
# A step is halved at most so often. After 20 halvings the sum changes by less than the error of the lengths.
_HALVINGS = 20
# The bounds of the next step length. It is 1 where the matrices are flat.
_SHORTEST, _LONGEST = 0.1, 2.0
# The spread of points that are equal to rounding is itself rounding. In the test for convergence it counts as at least
# this share of the length of X as a tangent vector.
_LEAST_SPREAD = 1e-5
# Up to this size, and this gradient over the spread, the mean goes by Newton's method. Its derivatives take d^2 shots
# from each point. Farther away there may be shorter geodesics than those that it follows. After so many steps the
# geodesics are searched for anew.
_NEWTON, _NEAR, _ROUND = 5, 0.3, 40
# Newton's method goes on until its gradient is smaller than it must be by this factor, as the geodesics are found anew.
_MARGIN = 0.1
# A geodesic that was followed is kept where the search finds none, or one that is longer by more than this part.
_SAME_LENGTH = 1e-9
# The relative error of a length, in tolerances of the solver.
_LENGTH_ERROR = 10


class Task(NamedTuple):
    """The points, scaled to size one, their weights, and how geodesics to them are searched for."""

    points: np.ndarray
    weights: np.ndarray
    kernel: Kernel
    rtol: Scalar

    def mean(self, of_points: np.ndarray) -> np.ndarray:
        """The weighted sum over the points."""
        return np.tensordot(self.weights, of_points, 1)


class Place(NamedTuple):
    """A matrix, and the geodesics from it to all points: momenta at the matrix, and lengths.

    `far` has the momenta of the same geodesics, reversed, at the points. `spread` is the root of the weighted sum of
    squared lengths, `speed` the length of the mean of the logarithms, and `unit` that of X as a tangent vector. `code`
    is `successful` if all geodesics were found.
    """

    x: np.ndarray
    momenta: np.ndarray
    far: np.ndarray
    lengths: np.ndarray
    spread: float
    speed: float
    unit: float
    code: RESULTS

    @property
    def found(self) -> bool:
        return bool(self.code == RESULTS.successful)


class Descent(NamedTuple):
    """The last place of the search, the code of its end, and the numbers of its steps and of searched geodesics."""

    place: Place
    code: RESULTS
    steps: int
    searches: int


class _Step(NamedTuple):
    """A step that was kept: where it led, its length, and the momentum at its end over its length."""

    place: Place
    length: float
    momentum: np.ndarray


def descend(task: Task, x: np.ndarray, tol: float, most: int) -> Descent:
    """The search from X, until the gradient is at most `tol` times the spread.

    Near the mean Newton's method goes first. Where it ends, all geodesics are searched for anew, so that the lengths
    are distances. If a shorter one is found than was followed, the search goes on from there.

    The step length of the descent is that of Barzilai and Borwein (1988), <s, s>/<s, y> for the step s and the change y
    of the gradient. Both lie at the end of the step. The old gradient comes there by parallel transport along the step,
    which costs nothing: the step goes along the gradient, and the velocity of a geodesic is parallel.
    """
    place, length, count, tries, newton = _look(task, x), 1.0, 0, 1, len(x) <= _NEWTON
    while place.found and place.speed > tol * max(place.spread, _LEAST_SPREAD * place.unit):
        if newton and count < most and place.speed <= _NEAR * place.spread:
            place, steps, newton = _newton(task, place, tol, min(most - count, _ROUND))
            count, tries = count + steps, tries + 1
            continue
        step, more = (None, 0) if count == most else _line_search(task, place, length)
        tries += more
        if step is None:
            return Descent(place, RESULTS.not_converged, count, tries * len(task.points))
        along = _pairing(task, step.place, step.momentum)
        bend = 1 - along / place.speed**2
        length = float(np.clip(step.length / bend, _SHORTEST, _LONGEST)) if bend > 0 else 1.0
        place, count = step.place, count + 1
    return Descent(place, place.code, count, tries * len(task.points))


def _newton(task: Task, place: Place, tol: float, most: int) -> tuple[Place, int, bool]:
    """(the place that Newton's method finds from this one, the number of its steps, whether it is better)."""
    gun = Gun(task.points, task.weights, task.kernel, float(task.rtol), place.x)
    found = meet(gun, place.far, place.unit, _MARGIN * tol, most)
    if found is None:
        return place, 0, False
    end = _look(task, found.x, found)
    fall, slack = 1 - (end.spread / place.spread) ** 2, _LENGTH_ERROR * float(task.rtol)
    better = end.found and (fall > slack or (fall >= -slack and end.speed < place.speed))
    return (end if better else place), found.steps, better


def _line_search(task: Task, place: Place, length: float) -> tuple[_Step | None, int]:
    """(a step along the mean of the logarithms that Armijo's rule keeps, the number of places that were tried)."""
    p, tries = task.mean(place.momenta), 0
    slack = _LENGTH_ERROR * float(task.rtol)
    for _ in range(_HALVINGS):
        out = exponential(on_device(place.x), on_device(length * p), task.kernel, throw=False)
        if out.result == RESULTS.successful:
            end, tries = _look(task, np.asarray(out.x)[-1]), tries + 1
            promised = 2 * length * (place.speed / place.spread) ** 2
            if end.found and (end.spread / place.spread) ** 2 <= 1 - _DECREASE * promised + slack:
                return _Step(end, length, np.asarray(out.momentum)[-1] / length), tries
        length /= 2
    return None, tries


def inductive_mean(task: Task) -> np.ndarray:
    """From one point along the geodesic to the next, by the share of its weight, and so on (Sturm 2003).

    The points are taken in the order in which they differ from an average in closed form, in the Frobenius norm. In the
    given order the result would depend on that order. A point to which no geodesic is found is left out.
    """
    average = np.asarray(_average(on_device(task.points), on_device(task.weights), task.kernel))
    order = np.argsort(np.linalg.norm(task.points - average, axis=(1, 2)), kind="stable")
    x, total = task.points[order[0]], task.weights[order[0]]
    for i in order[1:]:
        line = connect(on_device(x), on_device(task.points[i]), task.kernel, rtol=task.rtol)
        share = task.weights[i] / (total + task.weights[i])
        out = exponential(on_device(x), on_device(share * np.asarray(line.p)), task.kernel, throw=False)
        if line.result == RESULTS.successful and out.result == RESULTS.successful:
            x, total = np.asarray(out.x)[-1], total + task.weights[i]
    return x


def arithmetic_mean(task: Task) -> Descent:
    """The mean at depth 1, where the matrices are flat and geodesics are straight."""
    x = task.mean(task.points)
    momenta = task.points - x
    lengths = np.linalg.norm(momenta, axis=(1, 2))
    speed, unit = np.linalg.norm(task.mean(momenta)), np.linalg.norm(x)
    place = Place(x, momenta, -momenta, lengths, _root(task, lengths), float(speed), float(unit), RESULTS.successful)
    return Descent(place, place.code, 0, 0)


def _look(task: Task, x: np.ndarray, known: Meeting | None = None) -> Place:
    """The geodesics from X to the points: those that the search finds, or the known ones where these are shorter.

    A known one that does not end at X is left out. It may be shorter since it ends before X, and its momentum is that
    at another matrix.
    """
    lines = [connect(on_device(x), on_device(point), task.kernel, rtol=task.rtol) for point in task.points]
    momenta, far = (
        np.stack([np.asarray(line.p) for line in lines]),
        np.stack([-np.asarray(line.p_end) for line in lines]),
    )
    codes = np.stack([np.asarray(line.result.code) for line in lines])
    lengths = np.stack([np.asarray(line.length) for line in lines])
    lengths = np.where(RESULTS(codes) == RESULTS.successful, lengths, np.inf)
    if known is not None:
        shorter = known.arrived & (known.lengths * (1 + _SAME_LENGTH) < lengths)
        lengths, codes = np.where(shorter, known.lengths, lengths), np.where(shorter, RESULTS.successful.code, codes)
        momenta, far = (
            np.where(shorter[:, None, None], old, new) for old, new in ((known.momenta, momenta), (known.far, far))
        )
    code = RESULTS(codes)[int(np.argmax(lengths == np.inf))]
    speed, unit = map(float, _sizes(on_device(x), on_device(task.mean(momenta)), task.kernel))
    return Place(x, momenta, far, lengths, _root(task, lengths), speed, unit, code)


def _root(task: Task, lengths: np.ndarray) -> float:
    return float(np.sqrt(task.mean(lengths**2)))


def on_device(x: np.ndarray | float | int) -> Array:
    """`x` as an array of JAX. `jnp.asarray` would compile a program for each shape."""
    return jax.device_put(np.asarray(x))


@compiled
def _sizes(x: Square, p: Square, kernel: Kernel) -> tuple[Scalar, Scalar]:
    """(the length of the tangent vector of the covector P, that of X as a tangent vector)."""
    return norm(orthonormal(x, p, kernel)), norm(apply_metric_operator(x, x, kernel, power=-0.5))


def _pairing(task: Task, place: Place, p: np.ndarray) -> float:
    """The inner product of P with the mean of the logarithms."""
    return float(_paired(on_device(place.x), on_device(p), on_device(task.mean(place.momenta)), task.kernel))


@compiled
def _paired(x: Square, p: Square, q: Square, kernel: Kernel) -> Scalar:
    return jnp.sum(p * apply_metric_operator(x, q, kernel))


@compiled
def _average(points: Float[Array, "n d d"], weights: Float[Array, " n"], kernel: Kernel) -> Square:
    """The mean of the positive factors, in the coordinate in which commuting matrices are flat, times a mean rotation.

    The rotation is the polar factor of the mean of the polar factors. It has the sign of their determinants.
    """
    each = svd(points)
    rotation = each.u @ jnp.swapaxes(each.v, -1, -2)
    mean = svd(jnp.tensordot(weights, rotation, 1))
    sign = sign_of_determinant(mean.u @ mean.v.T) * sign_of_determinant(rotation[0])
    turn = mean.u.at[:, -1].multiply(sign) @ mean.v.T
    values, vectors = eigh(jnp.tensordot(weights, jax.vmap(symmetric)(kernel.straighten(each.sigma), each.u), 1))
    return symmetric(kernel.unstraighten(values), vectors) @ turn
