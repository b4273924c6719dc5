"""What stands beside the flow of the followed seed: a network trained in discrete time, and a geodesic."""

from typing import Any, NamedTuple

import jax
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
    """W_1, ..., W_N with the product X, and the identity after them: balanced, or two of imbalance g.

    They are found in NumPy, since `balanced_factors` is compiled for each number of layers.
    """
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
    printed, length = _printed(jnp.asarray(a), jnp.asarray(b), jnp.asarray(state.depth))
    return Line(points, np.asarray(printed), float(found.length), float(length), bool(found.result == "successful"))


def _positive_factor(x: np.ndarray) -> np.ndarray:
    u, sigma, _ = np.linalg.svd(x)
    return (u * sigma) @ u.T


@compiled
def _printed(a: Any, b: Any, depth: Any) -> tuple[Any, Any]:
    """(points of the line (3.76) between positive matrices, its length)."""
    fine = jax.vmap(dln.closed_form.printed_line(a, b, depth))(jnp.linspace(0.0, 1.0, _FINE * (ELLIPSES - 1) + 1))
    middle, step = (fine[1:] + fine[:-1]) / 2, jnp.diff(fine, axis=0)
    return fine[::_FINE], jax.vmap(dln.norm, (0, 0, None))(middle, step, depth).sum()
