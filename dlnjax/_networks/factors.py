"""The network upstairs: its factors, how far they are from balanced, and their training in discrete time."""

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from dlnjax._checks import (
    as_array,
    as_count,
    as_finite,
    as_float,
    as_square,
    check_energy,
    is_concrete,
    require,
    require_finite,
)
from dlnjax._protocol import gradient
from dlnjax._results import result_counts, RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._show import Curves, singular_values_of
from dlnjax._svd import svd
from dlnjax._types import Energy


def product(weights: Float[Array, "N d d"]) -> Float[Array, "d d"]:
    """The end-to-end matrix of the network, (1.4):

        phi(W_N, ..., W_1) = W_N W_{N-1} ... W_1.

    **Arguments:** `weights`, `N d d`, W_1 first.

    **Returns:** X, `d d`.

    **Raises:** `ValueError` or `TypeError` if `weights` is not a stack of real square matrices.

    **Example:**

        >>> dln.product(jnp.stack([jnp.eye(2), 2 * jnp.eye(2), 3 * jnp.eye(2)])).tolist()
        [[6.0, 0.0], [0.0, 6.0]]
    """
    return _product(as_weights(weights))


def products(weights: Float[Array, "*n N d d"]) -> Float[Array, "*n d d"]:
    """Of many networks."""
    flat = weights.reshape(-1, *weights.shape[-3:])
    return jax.vmap(_product)(flat).reshape(*weights.shape[:-3], *weights.shape[-2:])


def _product(weights):
    # Neighbours are multiplied, then their products: what is compiled grows as log N.
    while len(weights) > 1:
        pairs = len(weights) // 2 * 2
        weights = jnp.concatenate([weights[1:pairs:2] @ weights[:pairs:2], weights[pairs:]])
    return weights[0]


def balanced_factors(x: Float[Array, "d d"], depth: int) -> Float[Array, "N d d"]:
    """Balanced factors of X = U diag(sigma) V^T, a choice in (2.6)-(2.7):

        W_p = Q_p Sigma^(1/N) Q_{p-1}^T,    Q_N = U,  Q_0 = V,  and Q_p = I in between.

    **Arguments:** `x`, `d d`; `depth`, the number N of factors.

    **Returns:** the factors, `N d d`, W_1 first: `product` of them is `x`, and `balancedness` zero.

    **Raises:** `ValueError` or `TypeError` if `x` is not a real square matrix, or `depth` no whole number above 0.

    **Example:**

        >>> weights = dln.balanced_factors(jnp.array([[0.0, 8.0], [1.0, 0.0]]), 3)
        >>> weights.shape, (dln.product(weights).round(6) + 0.0).tolist()
        ((3, 2, 2), [[0.0, 8.0], [1.0, 0.0]])
    """
    depth, point = as_count("depth", depth), svd(as_finite("x", as_square("x", x)))
    root = jnp.diag(point.sigma ** (1 / depth))
    weights = jnp.broadcast_to(root, (depth, *root.shape))
    weights = weights.at[0].set(weights[0] @ point.v.T)
    return weights.at[-1].set(point.u @ weights[-1])


def balancedness(weights: Float[Array, "N d d"]) -> Float[Array, "N-1 d d"]:
    """What the gradient flow of the factors conserves, (2.1), and what is zero where they are balanced:

        G_p = W_p W_p^T - W_{p+1}^T W_{p+1},    p = 1, ..., N-1.

    **Arguments:** `weights`, `N d d`, W_1 first.

    **Returns:** G_1, ..., G_{N-1}, symmetric, `N-1 d d`.

    **Raises:** `ValueError` or `TypeError` if `weights` is not a stack of real square matrices.

    **Example:**

        >>> weights = jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
        >>> dln.balancedness(weights).tolist()
        [[[-3.0, 0.0], [0.0, -3.0]]]
    """
    weights = as_weights(weights)
    lower, upper = weights[:-1], weights[1:]
    return lower @ jnp.swapaxes(lower, -1, -2) - jnp.swapaxes(upper, -1, -2) @ upper


class Training(Solution):
    """What `train` returns. Where `steps` was one number, the axis of saved states is absent.

    **Attributes:** `weights`, `[saved] N d d`; `x`, their product, `[saved] d d`; `steps`, how many were taken until
    then, `[saved]`; `result`, a code of `RESULTS`. After a failure the last good state is repeated.

    **Example:**

        >>> energy, weights = dln.MatrixCompletion.diagonal(2), dln.balanced_factors(0.5 * jnp.eye(2), 3)
        >>> out = dln.train(energy, weights, optax.sgd(0.05), steps=[0, 10, 200])
        >>> out.steps.tolist(), out.weights.shape, out.x.shape
        ([0, 10, 200], (3, 3, 2, 2), (3, 2, 2))
    """

    weights: Float[Array, "*saved N d d"]
    steps: Int[Array, "*saved"]
    result: RESULTS

    layout: ClassVar[Layout] = Layout(
        format="dlnjax.Training/1",
        lead="saved",
        sized="steps",
        axes={"weights": "layer row column", "x": "row column"},
        notes={
            "weights": "the factors, W_1 first",
            "x": "their product W_N ... W_1",
            "steps": "steps of the optimiser that were taken",
        },
    )

    def _derived(self) -> dict[str, Any]:
        return {"x": self.x}

    @property
    def x(self) -> Float[Array, "*saved d d"]:
        """The end-to-end matrices."""
        return products(self.weights)

    def _curves(self) -> Curves:
        if self.steps.ndim == 0:
            raise ValueError("train kept the last state alone: pass several numbers of steps to draw how it got there.")
        return Curves.of(self.steps, singular_values_of(self.x), "steps")

    def _describe(self) -> str:
        depth, d = self.weights.shape[-3:-1]
        taken = np.max(np.asarray(self.steps))
        return f"Training(N = {depth}, d = {d}, {taken} steps, {result_counts(self.result)})"


def train(
    energy: Energy,
    weights: Float[Array, "N d d"],
    optimizer: optax.GradientTransformation,
    steps: int | Sequence[int] | Int[Array | np.ndarray, "*saved"],
    *,
    throw: bool = True,
) -> Training:
    """Training of the network in discrete time: steps of an optimiser along the gradient of E(W_N ... W_1), (1.6),

        dE/dW_p = (W_N ... W_{p+1})^T dE(X) (W_{p-1} ... W_1)^T.

    **Convention:** gradient descent, `optax.sgd(h)`, follows the flow (1.5), and from balanced factors X follows (2.9),
    which has no 1/N: n steps arrive at the time t = N n h of `gradient_flow` at depth N, up to an error of order h.

    Composes with `jit` and `vmap`; inside `jit` the numbers of the optimiser may be traced. Outside, an optimiser made
    anew is compiled anew.

    **Arguments:**

    - `energy`: as in `gradient_flow`.
    - `weights`: the start, `N d d`, W_1 first; see `balanced_factors`.
    - `optimizer`: any of optax's.
    - `steps`: how many, or increasing numbers of steps after each of which the weights are saved.
    - `throw`: raise if the weights leave the finite numbers; otherwise see `result`.

    **Returns:** a `Training`.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs; an error with the sentence of
    `RESULTS.non_finite` if the weights leave the finite numbers and `throw`.

    **Example:**

        >>> energy, weights = dln.MatrixCompletion.diagonal(2), dln.balanced_factors(0.5 * jnp.eye(2), 3)
        >>> out = dln.train(energy, weights, optax.sgd(0.05), steps=200)
        >>> jnp.diagonal(out.x).round(6).tolist()
        [1.0, 1.0]
    """
    weights = require_finite("weights", as_weights(weights))
    check_energy(energy, weights.shape[-1], weights.dtype)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be one of optax, such as optax.sgd(1e-3), got {type(optimizer).__name__}.")
    counts = _as_steps(steps)
    out = _train(energy, weights, optimizer, jnp.atleast_1d(counts))
    if throw:
        out = out.result.error_if(out, out.result != RESULTS.successful)
    if counts.ndim == 0:
        out = eqx.tree_at(lambda o: (o.weights, o.steps), out, (out.weights[0], out.steps[0]))
    return out


def as_weights(weights: Any) -> Float[Array, "N d d"]:
    """At least one factor, all square and of one size."""
    weights = as_float("weights", weights)
    if weights.ndim != 3 or len(weights) == 0 or weights.shape[-1] != weights.shape[-2] or weights.shape[-1] == 0:
        raise ValueError(
            f"weights must be N square matrices of shape (N, d, d), W_1 first, got shape {weights.shape}. "
            "For many networks use jax.vmap."
        )
    return weights


def _as_steps(steps: Any) -> Int[Array, "*saved"]:
    counts = as_array("steps", steps, "It is a whole number, or a list of them.")
    if counts.ndim > 1 or counts.size == 0 or not jnp.issubdtype(counts.dtype, jnp.integer):
        raise ValueError(f"steps must be a whole number, or some that increase, got {steps!r}.")
    listed = jnp.atleast_1d(counts)
    bad = (listed[0] < 0) | jnp.any(listed[1:] <= listed[:-1])
    shown = f", got {steps!r}" if is_concrete(counts) else ""
    return require(counts, bad, f"steps must be at least 0, and increase where there are several{shown}.")


@eqx.filter_jit
def _train(energy, weights, optimizer, counts) -> Training:
    def step(carry):
        weights, state, taken, _ = carry
        x, pull = jax.vjp(_product, weights)
        updates, next_state = optimizer.update(pull(gradient(energy, x))[0], state, weights)
        after: Any = optax.apply_updates(weights, updates)
        good = jnp.all(jnp.isfinite(after))
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        return keep(after, weights), keep(next_state, state), taken + good, good

    def until(carry, count):
        carry = jax.lax.while_loop(lambda c: (c[2] < count) & c[3], step, carry)
        return carry, (carry[0], carry[2])

    start = (weights, optimizer.init(weights), jnp.zeros((), counts.dtype), jnp.asarray(True))
    (_, _, _, good), (saved, taken) = jax.lax.scan(until, start, counts)
    return Training(saved, taken, RESULTS.where(good, RESULTS.successful, RESULTS.non_finite))
