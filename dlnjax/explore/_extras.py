"""What stands beside the flow of the followed seed: a network trained in discrete time, and a geodesic."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import dlnjax as dln
from dlnjax._compile import compiled
from dlnjax.explore._problem import FIRST, starts, target
from dlnjax.explore._state import State, TIMES

# All networks have so many layers, of which those beyond the depth are the identity and are not trained. One program
# then serves every depth.
LAYERS = 10
# So many steps are answered in time.
MOST_STEPS = 1500
# Points of a geodesic that are drawn as ellipses.
ELLIPSES = 5
# Gaps between two of them along which a length is summed.
_FINE = 16


class Network(NamedTuple):
    """Singular values of a trained network, `saved d`, at the times t = N n h of n steps, and whether it broke down."""

    ts: np.ndarray
    sigma: np.ndarray
    steps: np.ndarray
    failed: bool


class Line(NamedTuple):
    """A geodesic and the printed line (3.76) between two positive matrices: `ELLIPSES` points of each, the lengths."""

    points: np.ndarray
    printed: np.ndarray
    length: float
    printed_length: float
    arrived: bool


def has_network(state: State) -> bool:
    """Whether there is a network of this depth to train: one with a whole number of layers, and a step."""
    return state.step > 0 and not state.noisy and state.depth <= LAYERS and state.depth == round(state.depth)


def train(state: State) -> Network:
    """Gradient descent of step h on the factors of the followed start, balanced or of imbalance g."""
    n, most = int(state.depth), min(state.t / (state.depth * state.step), MOST_STEPS)
    # The numbers of steps increase, and are even in their logarithms where there is room.
    steps = np.arange(TIMES) + np.maximum(np.round(np.geomspace(FIRST, 1.0, TIMES) * most).astype(int) - TIMES, 0)
    labels, mask, weight = target(state)
    trained = (np.arange(LAYERS) < n).astype(float)
    start = jnp.asarray(_factors(starts(state)[state.seed], n, state.imbalance))
    numbers = (jnp.asarray(trained), jnp.asarray(steps), jnp.asarray(state.step))
    out = _train(start, jnp.asarray(labels), jnp.asarray(mask), jnp.asarray(weight), *numbers)
    taken = np.asarray(out.steps)
    sigma = np.linalg.svd(np.asarray(out.x), compute_uv=False)
    return Network(taken * n * state.step, sigma, taken, bool(out.result == "non_finite"))


def _factors(x: np.ndarray, n: int, g: float) -> np.ndarray:
    """W_1, ..., W_N with the product X, and the identity after them: balanced, or two of imbalance g."""
    u, sigma, vt = np.linalg.svd(x)
    if g:
        middle = np.sqrt(sigma**2 + g**2 / 4)
        values = [np.sqrt(middle + g / 2), sigma / np.sqrt(middle + g / 2)]
    else:
        values = [sigma ** (1 / n)] * n
    layers = [np.diag(s) for s in values]
    layers[0] = layers[0] @ vt
    layers[n - 1] = u @ layers[n - 1]
    return np.stack([*layers, *[np.eye(len(x))] * (LAYERS - n)])


@compiled
def _train(start: Any, labels: Any, mask: Any, weight: Any, trained: Any, steps: Any, h: Any) -> Any:
    def update(gradient: Any, *_: Any) -> Any:
        return tuple(-h * on * slope for on, slope in zip(trained, gradient, strict=True))

    energy, descent = dln.MatrixCompletion(labels, mask, weight), optax.stateless(update)
    return dln.train(energy, tuple(start), descent, steps, throw=False)


def join(state: State, start: np.ndarray, end: np.ndarray) -> Line:
    """The geodesic between the positive factors of two matrices, with the line (3.76) between the same ends."""
    a, b = (_positive_factor(x) for x in (start, end))
    found = dln.geodesic(jnp.asarray(a), jnp.asarray(b), state.depth, throw=False)
    points = np.asarray(found.evaluate(jnp.linspace(0.0, 1.0, ELLIPSES)))
    fine = printed_line(a, b, state.depth, np.linspace(0.0, 1.0, _FINE * (ELLIPSES - 1) + 1))
    length = float(norms((fine[1:] + fine[:-1]) / 2, np.diff(fine, axis=0), state.depth).sum())
    return Line(points, fine[::_FINE], float(found.length), length, bool(found.result == "successful"))


def _positive_factor(x: np.ndarray) -> np.ndarray:
    u, sigma, _ = np.linalg.svd(x)
    return (u * sigma) @ u.T


def printed_line(a: np.ndarray, b: np.ndarray, depth: float, ts: np.ndarray) -> np.ndarray:
    """(3.76) between positive matrices, ((1-t) A^(1/N) + t B^(1/N))^N; at infinite depth exp((1-t) log A + t log B)."""
    into = np.log if np.isinf(depth) else lambda s: s ** (1 / depth)
    back = np.exp if np.isinf(depth) else lambda s: s**depth
    mixed = (1 - ts)[:, None, None] * _of(a, into) + ts[:, None, None] * _of(b, into)
    return _of(mixed, back)


def _of(x: np.ndarray, f: Any) -> np.ndarray:
    """A function of the eigenvalues of symmetric matrices."""
    values, vectors = np.linalg.eigh(x)
    return (vectors * f(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def norms(x: np.ndarray, z: np.ndarray, depth: float) -> np.ndarray:
    """The lengths of tangent vectors in the metric of depth N: |z_kl / sqrt(lambda_kl)| in the frame of X."""
    u, s, vt = np.linalg.svd(x)
    own, other = s[:, :, None], s[:, None, :]
    # At equal values the quotient is its limit.
    apart = np.abs(own - other) > 1e-6 * own
    other = np.where(apart, other, 0.5 * own)
    below = 2 * np.log(own / other) if np.isinf(depth) else depth * (own ** (2 / depth) - other ** (2 / depth))
    eigenvalue = np.where(apart, (own**2 - other**2) / below, own ** (2 - 2 / depth))
    return np.sqrt(((np.swapaxes(u, 1, 2) @ z @ np.swapaxes(vt, 1, 2)) ** 2 / eigenvalue).sum((1, 2)))
