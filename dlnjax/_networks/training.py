"""Training of the network in discrete time, by the optimisers of optax."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._checks import as_array, check_energy, is_concrete, known, require, require_finite
from dlnjax._compile import compiled
from dlnjax._networks.factors import as_weights, chain_product, products
from dlnjax._protocol import gradient
from dlnjax._results import code_of, result_counts, RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._show import Curves, singular_values_of
from dlnjax._traced import traced_energy
from dlnjax._tree import iterate, own_arithmetic
from dlnjax._types import Energy, Scalar, Weights


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
    weights: Weights,
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    steps: int | Sequence[int] | Int[Array | np.ndarray, "*saved"],
    *,
    throw: bool = True,
) -> Training:
    """Training of the network in discrete time: steps of an optimiser along the gradient of E(W_N ... W_1), (1.6),

        dE/dW_p = (W_N ... W_{p+1})^T dE(X) (W_{p-1} ... W_1)^T.

    **Convention:** gradient descent, `optax.sgd(h)`, follows the flow (1.5), and from balanced factors X follows (2.9),
    which has no 1/N: n steps arrive at the time t = N n h of `gradient_flow` and `network_flow`, up to an error of
    order h.

    Composes with `jit` and `vmap`; inside `jit` the numbers of the optimiser may be traced. Outside, an optimiser made
    anew is compiled anew.

    **Arguments:**

    - `energy`: as in `gradient_flow`.
    - `weights`: the start, `N d d`, W_1 first; see `balanced_factors`.
    - `optimizer`: any of optax's that works on a tree of parameters and their gradient. Its parameters are the tuple
      (W_1, ..., W_N), so that `lars` and `muon` treat each factor by itself. It is offered `value`, `grad`, `value_fn`,
      `grad_fn` and `obj_fn`, which `lbfgs`, line searches, `polyak_sgd`, `reduce_on_plateau`, `sam` and `sophia` ask
      for. What is saved are the parameters that it updates; `schedule_free` means another average of them.
    - `steps`: how many, or increasing numbers of steps after each of which the weights are saved.
    - `throw`: raise if the weights or their energy leave the finite numbers; otherwise see `result`.

    **Returns:** a `Training`.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs: an optimiser that works on no such tree
    is refused (`optax.lookahead`, which has two sets of parameters, and `dpsgd`, which has a gradient for each
    example). An error with the sentence of `RESULTS.non_finite` if the weights or their energy leave the finite numbers
    and `throw`.

    **Example:**

        >>> energy, weights = dln.MatrixCompletion.diagonal(2), dln.balanced_factors(0.5 * jnp.eye(2), 3)
        >>> out = dln.train(energy, weights, optax.sgd(0.05), steps=200)
        >>> jnp.diagonal(out.x).round(6).tolist()
        [1.0, 1.0]
        >>> bool(energy(dln.train(energy, weights, optax.lbfgs(), steps=20).x) < 1e-10)
        True
    """
    weights = require_finite("weights", as_weights(weights))
    check_energy(energy, weights.shape[1:], weights.dtype)
    optimizer = _as_optimizer(optimizer)
    counts = _as_steps(steps)
    energy = traced_energy(energy, weights.shape[1:], weights.dtype)
    with own_arithmetic():
        _check_optimizer(energy, weights, optimizer)
        out = _train(energy, weights, optimizer, jnp.atleast_1d(counts))
    if throw:
        out = out.result.error_if(out, out.result != RESULTS.successful)
    if counts.ndim == 0:
        out = eqx.tree_at(lambda o: (o.weights, o.steps), out, (out.weights[0], out.steps[0]))
    return out


def _as_optimizer(optimizer: Any) -> optax.GradientTransformation:
    if isinstance(optimizer, optax.MultiSteps):
        # Its own `gradient_transformation` does not say that `update` takes extra arguments, which it does.
        update: Any = optimizer.update
        return optax.GradientTransformationExtraArgs(optimizer.init, update)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"optimizer must be one of optax, such as optax.sgd(1e-3), got {type(optimizer).__name__}.")
    return optimizer


def _as_steps(steps: Any) -> Int[Array, "*saved"]:
    counts = as_array("steps", steps, "It is a whole number, or a list of them.")
    if counts.ndim > 1 or counts.size == 0 or not jnp.issubdtype(counts.dtype, jnp.integer):
        raise ValueError(f"steps must be a whole number, or some that increase, got {steps!r}.")
    listed = known(counts).reshape(-1)
    bad = (listed[0] < 0) | (listed[1:] <= listed[:-1]).any()
    shown = f", got {steps!r}" if is_concrete(counts) else ""
    return require(counts, bad, f"steps must be at least 0, and increase where there are several{shown}.")


def _check_optimizer(energy: Energy, weights: Weights, optimizer: optax.GradientTransformation) -> None:
    """Trace one step, so that an optimiser of another kind of parameters is refused by one sentence."""
    eqx.filter_eval_shape(partial(_evaluate, energy), weights)
    must = "optimizer must turn the gradient by (W_1, ..., W_N), a tuple of matrices, into updates of the same shapes"
    try:
        start = eqx.filter_eval_shape(partial(_start, energy, optimizer=optimizer), weights)
        updates, _ = eqx.filter_eval_shape(partial(_update, energy, optimizer), start)
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TypeError(f"{must}. It says: {said}") from error
    shapes = [leaf.shape for leaf in jax.tree.leaves(updates)]
    if shapes != [weights.shape[1:]] * len(weights):
        raise ValueError(f"{must}, got shapes {shapes}. Private ones need a gradient for each example.")


class _Progress(NamedTuple):
    """Training between two steps: the energy and its gradient are those of `weights`."""

    weights: Weights
    value: Scalar
    slope: Weights
    state: PyTree
    taken: Int[Array, ""]
    good: Bool[Array, ""]


@compiled
def _train(energy: Callable, weights: Weights, optimizer: Any, counts: Int[Array, " saved"]) -> Training:
    def until(at: _Progress, count: Int[Array, ""]) -> tuple[_Progress, tuple[Weights, Int[Array, ""]]]:
        def goes_on(at: _Progress) -> Bool[Array, ""]:
            return (at.taken < count) & at.good

        at = iterate(partial(_step, energy, optimizer), goes_on, at)
        return at, (at.weights, at.taken)

    start = _start(energy, weights, optimizer)._replace(taken=jnp.zeros((), counts.dtype))
    last, (saved, taken) = jax.lax.scan(until, start, counts)
    return Training(saved, taken, code_of((~last.good, RESULTS.non_finite)))


def _start(energy: Energy, weights: Weights, optimizer: optax.GradientTransformation) -> _Progress:
    value, slope = _evaluate(energy, weights)
    state = jax.tree.map(jnp.asarray, optimizer.init(tuple(weights)))
    start = _Progress(weights, value, slope, state, jnp.zeros((), int), jnp.isfinite(value))
    # Some optimisers start from float32 or integers and go on in the type of the parameters; a loop keeps one type.
    after = jax.eval_shape(lambda s: _update(energy, optimizer, start._replace(state=s))[1], state)

    def cast(leaf: Array, to: jax.ShapeDtypeStruct) -> Array:
        return leaf if leaf.dtype == to.dtype else leaf.astype(to.dtype)

    return start._replace(state=jax.tree.map(cast, state, after))


def _step(energy: Energy, optimizer: optax.GradientTransformation, at: _Progress) -> _Progress:
    """The next state. If its weights or its energy are not finite, the weights stay and training ends."""
    updates, state = _update(energy, optimizer, at)
    after: Any = optax.apply_updates(at.weights, jnp.stack(updates))
    value, slope = _evaluate(energy, after)
    good = jnp.all(jnp.isfinite(after)) & jnp.isfinite(value)
    return _Progress(
        jnp.where(good, after, at.weights), value, slope, state, jnp.where(good, at.taken + 1, at.taken), good
    )


def _update(energy: Energy, optimizer: optax.GradientTransformation, at: _Progress) -> tuple[PyTree, PyTree]:
    # A line search of optax refuses extra arguments that `value_fn` has no name for.
    def value_fn(layers: Any, grad_fn: Any = None, obj_fn: Any = None):
        return energy(chain_product(layers))

    def grad_fn(layers: Any, _: Any):
        return tuple(_evaluate(energy, jnp.stack(layers))[1])

    layers, slope = tuple(at.weights), tuple(at.slope)
    offered: dict[str, Any] = {
        "value": at.value,
        "grad": slope,
        "value_fn": value_fn,
        "obj_fn": value_fn,
        "grad_fn": grad_fn,
    }
    takes = _keywords(optimizer.update)
    extra = offered if takes is None else {name: x for name, x in offered.items() if name in takes}
    return optimizer.update(slope, at.state, layers, **extra)


def _keywords(f: Callable) -> set[str] | None:
    """The names of the arguments that `f` takes; None if it takes any."""
    parameters = inspect.signature(f).parameters.values()
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}


def _evaluate(energy: Energy, weights: Weights) -> tuple[Scalar, Weights]:
    """E(W_N ... W_1) and its gradient (1.6), which uses the closed form of dE where the energy has one."""
    x, pull = jax.vjp(chain_product, weights)
    return energy(x), pull(gradient(energy, x))[0]
