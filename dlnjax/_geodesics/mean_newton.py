"""Newton's method for a Frechet mean, on geodesics that follow the mean as it moves. `mean_descent` calls this module.

A search for a geodesic takes tens of shots. Here the geodesics start at the points X_i, which never move, and only the
target where they are to meet moves. When it moves a little, one or two more shots of Broyden's method lead there. For
a geodesic with the end Z_i, in the coordinates of a `chart`, half of the squared distance from X_i is

    f_i(Z) = |W_i|^2 / 2 + G_i . (Z - Z_i) + (Z - Z_i) . H_i (Z - Z_i) / 2

up to third order. W_i is the orthonormal momentum at X_i, and G_i the momentum at the end, by the first variation. The
next target has the least weighted sum of these in a ball around the last one, the region of trust. The matrices H_i,
and B_i, the derivative of W_i in Z_i, come from differences of shots. Each shot then corrects them as little as it can:
B_i by the formula of Broyden, and H_i by that of Powell, which keeps it symmetric.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dlnjax._compile import compiled
from dlnjax._geodesics.charts import chart, point_of, SHARE
from dlnjax._geodesics.connection import ARRIVED
from dlnjax._geodesics.exponential import exponential
from dlnjax._geodesics.shooting import CONDITION, TIGHTEST
from dlnjax._geometry.kernel import Kernel
from dlnjax._results import RESULTS
from dlnjax._svd import SVD
from dlnjax._types import Square

# The change of a momentum for a difference of shots, over the length of X as a tangent vector, and the tolerance of
# these shots.
_CHANGE, _ROUGH = 1e-4, 1e-9
# A geodesic has followed if it misses the target by at most this part of the step. It has so many shots for it.
_MISS, _SHOTS = 0.3, 6
# After the last step the geodesics are led on to the target, until they miss it by at most this part of their lengths.
_MET = 1e-10
# A shot that fails is tried again with a change of momentum that is smaller by this factor, at most so often.
_SHORTEN, _TRIES = 4.0, 3
# No change of momentum is longer than the first number times the spread. A move of the end that is shorter than the
# second number times that corrects no derivatives, as rounding is a part of it.
_LONGEST, _LEARNT = 2.0, 1e-8
# The first radius of the region of trust, and the smallest, over the spread.
_RADIUS, _SMALLEST = 0.2, 1e-12
# A step is kept if the sum falls by the first part of what the model promises. Below the second part the radius is
# halved, and above the third it is doubled.
_KEPT, _POOR, _GOOD = 0.1, 0.25, 0.75
# The sum of squares has this relative error, in tolerances of the solver.
_ERROR = 10
# The number of bisections for the radius, which find a shift to all digits.
_BISECTIONS = 60


class Meeting(NamedTuple):
    """Where the search ends: a matrix X, the momenta of geodesics to X at their points and, reversed, at X, and their
    lengths. `arrived` tells for each whether it ends at X. `steps` counts the steps that were tried."""

    x: np.ndarray
    far: np.ndarray
    momenta: np.ndarray
    lengths: np.ndarray
    arrived: np.ndarray
    steps: int


class Bundle(NamedTuple):
    """Geodesics from all points: W_i, Z_i, G_i, the end and the momentum there as matrices, B_i and H_i."""

    w: np.ndarray
    z: np.ndarray
    g: np.ndarray
    x: np.ndarray
    p: np.ndarray
    inverse: np.ndarray
    hessian: np.ndarray

    def miss(self, target: np.ndarray) -> np.ndarray:
        return np.linalg.norm(self.z - target, axis=1)


class Gun:
    """Shots from the points, whose momenta are in the frames of the points, and whose ends in a chart around X."""

    def __init__(self, points: np.ndarray, weights: np.ndarray, kernel: Kernel, rtol: float, x: np.ndarray):
        u, sigma, vt = np.linalg.svd(np.concatenate([points, x[None]]))
        v = np.swapaxes(vt, 1, 2)
        condition = np.maximum(sigma[:, 0] / sigma[:, -1], sigma[-1, 0] / sigma[-1, -1])
        self.points, self.weights, self.kernel = points, weights, kernel
        # The tolerance is lowered as for the shots of `shooting.py`.
        self.rtol = rtol * np.clip(CONDITION / condition, TIGHTEST, 1.0)
        self.u, self.v, self.root = u, v, np.asarray(_roots(jax.device_put(sigma), kernel))
        self.centre = SVD(*(jax.device_put(z[-1]) for z in (u, sigma, v)))

    def momentum(self, i: int, p: np.ndarray) -> np.ndarray:
        """The coordinates W_i of a covector at X_i."""
        return (self.root[i] * (self.u[i].T @ p @ self.v[i])).ravel()

    def covector(self, i: int, w: np.ndarray) -> np.ndarray:
        """The covector at X_i with the coordinates W_i."""
        return self.u[i] @ (w.reshape(self.root[i].shape) / self.root[i]) @ self.v[i].T

    def fire(self, i: int, w: np.ndarray, rtol: float | None = None) -> tuple[np.ndarray, ...] | None:
        """(Z, G, the end, the momentum there) of the geodesic from X_i with the momentum W.

        None stands for a geodesic without an end in the chart.
        """
        start = jax.device_put(self.points[i]), jax.device_put(self.covector(i, w))
        out = exponential(*start, self.kernel, rtol=self.rtol[i] if rtol is None else rtol, throw=False)
        if not bool(out.result == RESULTS.successful):
            return None
        x, p = (np.asarray(z)[-1] for z in (out.x, out.momentum))
        z, g, good = (np.asarray(y) for y in _landing(jax.device_put(x), jax.device_put(p), self.centre, self.kernel))
        return (z, g, x, p) if good and np.all(np.isfinite(g)) else None

    def derivatives(self, i: int, w: np.ndarray, change: float) -> tuple[np.ndarray, np.ndarray] | None:
        """(B_i, H_i) by differences of shots, or None if a shot fails."""
        shots = [self.fire(i, w + move, _ROUGH) for move in [np.zeros_like(w), *change * np.eye(len(w))]]
        landed = [shot for shot in shots if shot is not None]
        if len(landed) < len(shots):
            return None
        ends, slopes = (np.stack([shot[k] for shot in landed]) for k in (0, 1))
        moved = (ends[1:] - ends[0]).T / change
        if np.linalg.cond(moved) > 1 / _CHANGE:
            return None
        inverse = np.linalg.inv(moved)
        hessian = (slopes[1:] - slopes[0]).T / change @ inverse
        return inverse, (hessian + hessian.T) / 2

    def follow(self, now: Bundle, which: np.ndarray, target: np.ndarray, longest: float) -> Bundle:
        """The geodesics after another shot at the target of those that are marked in `which`.

        A shot that fails, or is no nearer to the target, is tried again with a smaller change of the momentum.
        """
        new = [z.copy() for z in now]
        for i in map(int, np.flatnonzero(which)):
            w, z, g, _, _, inverse, hessian = (part[i] for part in now)
            move = inverse @ (target - z)
            move /= max(1.0, np.linalg.norm(move) / longest)
            for _ in range(_TRIES):
                shot = self.fire(i, w + move)
                if shot is not None and np.linalg.norm(shot[0] - target) < np.linalg.norm(z - target):
                    s = shot[0] - z
                    if np.linalg.norm(s) > _LEARNT * longest:
                        inverse, hessian = _broyden(inverse, s, move), _powell(hessian, s, shot[1] - g)
                    found = w + move, *shot, inverse, hessian
                    for part, value in zip(new, found, strict=True):
                        part[i] = value
                    break
                move = move / _SHORTEN
        return Bundle(*new)

    def model(self, now: Bundle, z: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The weighted sum of f_i at Z, its gradient and its Hessian."""
        off = z - now.z
        bent = np.einsum("nij,nj->ni", now.hessian, off)
        each = np.sum(now.w**2, 1) / 2 + np.sum((now.g + bent / 2) * off, 1)
        return float(self.weights @ each), self.weights @ (now.g + bent), np.tensordot(self.weights, now.hessian, 1)


@compiled
def _roots(sigma: Float[Array, "n d"], kernel: Kernel) -> Float[Array, "n d d"]:
    return jnp.sqrt(jax.vmap(kernel.eigenvalues)(sigma))


@compiled
def _landing(x: Square, p: Square, centre: SVD, kernel: Kernel) -> tuple[Array, Array, Bool[Array, ""]]:
    """The coordinates of a matrix and of a covector there, and whether there are any."""
    z, good = chart(x, centre, kernel)
    _, pull = jax.vjp(lambda z: point_of(z, centre, kernel), z)
    return z, pull(p)[0], good


@compiled
def _coordinates(x: Square, centre: SVD, kernel: Kernel) -> tuple[Array, Bool[Array, ""]]:
    return chart(x, centre, kernel)


def _broyden(inverse: np.ndarray, s: np.ndarray, move: np.ndarray) -> np.ndarray:
    """The inverse B with B s = move whose own inverse has changed least."""
    back = inverse @ s
    scale = move @ back
    return inverse + np.outer(move - back, move @ inverse) / scale if scale != 0 else inverse


def _powell(hessian: np.ndarray, s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The symmetric H with H s = y that has changed least."""
    r, square = y - hessian @ s, s @ s
    if square == 0:
        return hessian
    return hessian + (np.outer(r, s) + np.outer(s, r)) / square - (r @ s) * np.outer(s, s) / square**2


def _least_inside(hessian: np.ndarray, gradient: np.ndarray, radius: float) -> np.ndarray:
    """The step to the least value of a quadratic function in a ball: -(H + shift)^(-1) G with the least shift >= 0 for
    which H + shift is positive and the step is not too long."""
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    g = vectors.T @ gradient
    low = max(0.0, -values[0])
    high = low + np.linalg.norm(g) / radius
    if values[0] > 0 and np.linalg.norm(g / values) <= radius:
        high = 0.0
    for _ in range(_BISECTIONS if high > 0 else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(g / (values + middle)) > radius else (low, middle)
    return -vectors @ (g / (values + high))


def meet(gun: Gun, momenta: np.ndarray, unit: float, tol: float, most: int) -> Meeting | None:
    """The place where the sum is least among places near X, with the geodesics to it, or None if none was found.

    The search ends where the gradient and the misses are at most `tol` times the spread, or where no step helps.
    """
    n, change = len(gun.points), _CHANGE * unit
    w = np.stack([gun.momentum(i, p) for i, p in enumerate(momenta)])
    shots = [gun.fire(i, w[i]) for i in range(n)]
    derivatives = [gun.derivatives(i, w[i], change) for i in range(n)]
    if any(found is None for found in (*shots, *derivatives)):
        return None
    now = Bundle(w, *(np.stack(z) for part in (shots, derivatives) for z in zip(*part, strict=True)))
    target, stale = np.zeros(w.shape[1]), np.zeros(n, bool)
    value, steps = gun.model(now, target)[0], 0
    spread = np.sqrt(2 * value)
    radius, slack = _RADIUS * spread, _ERROR * float(np.max(gun.rtol)) * value
    while steps < most and radius > _SMALLEST * spread:
        value, gradient, hessian = gun.model(now, target)
        if max(np.linalg.norm(gradient), np.max(now.miss(target))) <= tol * spread:
            break
        s, steps = _least_inside(hessian, gradient, radius), steps + 1
        promised, size = -(gradient @ s + s @ hessian @ s / 2), np.linalg.norm(s)
        new, missed = now, np.ones(n, bool)
        for _ in range(_SHOTS):
            if missed.any():
                new = gun.follow(new, missed, target + s, _LONGEST * spread)
                missed = new.miss(target + s) > _MISS * size
        fall = -np.inf if missed.any() else value - gun.model(new, target + s)[0]
        # Where the misses are larger than the step, the sum at the last target is not known well enough to judge by it.
        within = not missed.any() and size <= np.max(now.miss(target))
        if within or fall >= _KEPT * promised - slack:
            now, target, stale[:] = new, target + s, True
            radius *= 2.0 if fall >= _GOOD * promised else 0.5 if fall < _POOR * promised - slack else 1.0
        elif promised <= slack:
            break
        elif (missed & stale).any():
            now, stale = _renewed(gun, now, missed & stale, change), stale & ~missed
        else:
            radius = min(radius, size) / 4
    # The last step may end before the geodesics have followed it, and where `tol` is coarse they need not be accurate.
    for _ in range(_SHOTS):
        missed = now.miss(target) > _MET * np.linalg.norm(now.w, axis=1)
        if missed.any():
            now = gun.follow(now, missed, target, _LONGEST * spread)
    x = np.tensordot(gun.weights, now.x, 1)
    far = np.stack([gun.covector(i, w) for i, w in enumerate(now.w)])
    return Meeting(x, far, -now.p, np.linalg.norm(now.w, axis=1), _arrived(gun, now, x), steps)


def _arrived(gun: Gun, now: Bundle, x: np.ndarray) -> np.ndarray:
    """Whether each geodesic ends at X, as accurately as one that `connect` finds."""
    z, good = (np.asarray(y) for y in _coordinates(jax.device_put(x), gun.centre, gun.kernel))
    off = np.linalg.norm(now.x - x, axis=(1, 2)) / np.linalg.norm(x)
    return good & (off <= ARRIVED) & (now.miss(z) <= SHARE * ARRIVED * np.linalg.norm(now.w, axis=1))


def _renewed(gun: Gun, now: Bundle, which: np.ndarray, change: float) -> Bundle:
    """The same geodesics with new derivatives of some."""
    inverse, hessian = now.inverse.copy(), now.hessian.copy()
    for i in map(int, np.flatnonzero(which)):
        if (found := gun.derivatives(i, now.w[i], change)) is not None:
            inverse[i], hessian[i] = found
    return now._replace(inverse=inverse, hessian=hessian)
