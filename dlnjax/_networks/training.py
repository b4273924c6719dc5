"""Training of the network in discrete time, by the optimisers of optax."""

import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._checks import as_array, as_real, is_concrete, known, refuse_tracing, require
from dlnjax._compile import compiled
from dlnjax._networks.batches import Batches, Loss, loss_of
from dlnjax._networks.chain import (
    as_weights,
    chain_product,
    described,
    dtype_of,
    layers_of,
    like,
    matrix_shape,
    products,
    require_finite_weights,
)
from dlnjax._protocol import gradient
from dlnjax._results import code_of, result_counts, RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._show import Curves, singular_values_of
from dlnjax._traced import Program, Traced
from dlnjax._tree import all_finite, iterate, own_arithmetic, where
from dlnjax._types import Energy, Matrix, Number, Scalar, Weights


class Training(Solution):
    """What `train` returns. Where `steps` was one number, the axis of saved states is absent.

    **Attributes:** `weights`, `[saved] N d d`, or a tuple of factors `[saved] n_p n_(p-1)`, as they were given; `x`,
    their product, `[saved] m n`; `steps`, how many were taken until then, `[saved]`; `result`, a code of `RESULTS`.
    After a failure or a stop the last good state is repeated.

    **Example:**

        >>> energy, weights = dln.MatrixCompletion.diagonal(2), dln.balanced_factors(0.5 * jnp.eye(2), 3)
        >>> out = dln.train(energy, weights, optax.sgd(0.05), steps=[0, 10, 200])
        >>> out.steps.tolist(), out.weights.shape, out.x.shape
        ([0, 10, 200], (3, 3, 2, 2), (3, 2, 2))
    """

    weights: Float[Array, "*saved N d d"] | tuple[Float[Array, "*saved _ _"], ...]
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
    def x(self) -> Float[Array, "*saved m n"]:
        """The end-to-end matrices."""
        return products(self.weights)

    def _title(self) -> str:
        return described(self.weights)

    def _curves(self) -> Curves:
        if self.steps.ndim == 0:
            raise ValueError("train kept the last state alone: pass several numbers of steps to draw how it got there.")
        return Curves.of(self.steps, singular_values_of(self.x), "steps", result=self.result, held=True)

    def _describe(self) -> str:
        taken = np.max(np.asarray(self.steps))
        return f"Training({described(self.weights)}, {taken} steps, {result_counts(self.result)})"


def train(
    energy: Energy | Callable[[Matrix, Any], Scalar],
    weights: Weights | Sequence[ArrayLike],
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    steps: int | Sequence[int] | Int[Array | np.ndarray, "*saved"],
    *,
    batches: Batches | None = None,
    stop: Number | None = None,
    throw: bool = True,
) -> Training:
    """Training of the network in discrete time: steps of an optimiser along the gradient of E(W_N ... W_1), (1.6),

        dE/dW_p = (W_N ... W_{p+1})^T dE(X) (W_{p-1} ... W_1)^T.

    **Convention:** gradient descent, `optax.sgd(h)`, follows the flow (1.5), and from balanced factors X follows (2.9),
    which has no 1/N: n steps arrive at the time t = N n h of `gradient_flow` and `network_flow`, up to an error of
    order h.

    Composes with `jit` and `vmap`; inside `jit` the numbers of the optimiser may be traced. Outside, an optimiser made
    anew is compiled anew. Derivatives are those of forward mode, `jax.jvp` and `jax.jacfwd`: the number of steps is not
    known before the end, and JAX has no reverse mode for such a loop.

    **Arguments:**

    - `energy`: as in `gradient_flow`; with `batches` a function of X and a batch.
    - `weights`: the start, W_1 first, a stack `N d d` or a sequence of matrices that chain; see `balanced_factors`.
    - `optimizer`: any of optax's that works on a tree of parameters and their gradient. Its parameters are the tuple
      (W_1, ..., W_N), so that `lars` and `muon` treat each factor by itself. It is offered `value`, `grad`, `value_fn`,
      `grad_fn` and `obj_fn`, which `lbfgs`, line searches, `polyak_sgd`, `reduce_on_plateau`, `sam` and `sophia` ask
      for. Weight decay is that of `adamw`, or `add_decayed_weights` in a chain. What is saved are the parameters that
      it updates; `schedule_free` means another average of them.
    - `steps`: how many, or increasing numbers of steps after each of which the weights are saved.
    - `batches`: what `energy` takes beside X at each step. A callable of the number of the step, 0 at the first, is
      traced into the training: `lambda step: step` gives the energy the step itself, and for noise
      `lambda step: jax.random.fold_in(key, step)` a key of its own. An iterator of batches, trees of arrays of the same
      shapes each time, is asked for one before each step, and cannot be used inside of `jit` and `vmap`.
    - `stop`: end where the energy, that of the batch at hand, is at most this; the result is then `stopped`.
    - `throw`: raise if the weights or their energy leave the finite numbers; otherwise see `result`.

    **Returns:** a `Training`.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs: an optimiser that works on no such tree
    is refused (`optax.lookahead`, which has two sets of parameters, and `dpsgd`, which has a gradient for each
    example), as are batches whose shapes differ or that are fewer than the steps. An error with the sentence of
    `RESULTS.non_finite` if the weights or their energy leave the finite numbers and `throw`.

    **Example:**

        >>> energy, weights = dln.MatrixCompletion.diagonal(2), dln.balanced_factors(0.5 * jnp.eye(2), 3)
        >>> out = dln.train(energy, weights, optax.sgd(0.05), steps=200)
        >>> jnp.diagonal(out.x).round(6).tolist()
        [1.0, 1.0]
        >>> bool(energy(dln.train(energy, weights, optax.lbfgs(), steps=20).x) < 1e-10)
        True
        >>> rows = jnp.eye(2)  # one of them at each step
        >>> loss = lambda x, row: jnp.sum((x @ row - row) ** 2)
        >>> out = dln.train(loss, weights, optax.sgd(0.05), steps=400, batches=lambda step: rows[step % 2])
        >>> jnp.diagonal(out.x).round(6).tolist()
        [1.0, 1.0]
    """
    weights = require_finite_weights(as_weights(weights))
    optimizer, counts, stop = _as_optimizer(optimizer), _as_steps(steps), _as_stop(stop, dtype_of(weights))
    if isinstance(batches, Iterator):
        refuse_tracing("train with an iterator of batches", weights, "a callable of the step")
    loss, stream = loss_of(energy, batches, matrix_shape(weights), dtype_of(weights))
    with own_arithmetic():
        if stream is None:
            programs = _programs_of(loss, as_array("step", 0), weights, optimizer)
            out = _train(loss, weights, _Optimizer(optimizer, programs), jnp.atleast_1d(counts), stop)
        else:
            first = next(stream)
            chosen = _Optimizer(optimizer, _programs_of(loss, first, weights, optimizer))
            out = _train_on(loss, weights, chosen, np.atleast_1d(counts), stop, itertools.chain([first], stream))
    if throw:
        out = out.result.error_if(out, out.result == RESULTS.non_finite)
    if counts.ndim == 0:
        out = Training(jax.tree.map(lambda w: w[0], out.weights), out.steps[0], out.result)
    return out


def _as_optimizer(optimizer: Any) -> optax.GradientTransformation:
    if isinstance(optimizer, optax.MultiSteps):
        # `MultiSteps.update` takes extra arguments, and the type of its `gradient_transformation` does not say so.
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


def _as_stop(stop: Any, dtype: Any) -> Scalar:
    if stop is None:
        return as_array("stop", np.asarray(-np.inf, dtype))
    stop = as_real("stop", stop, "It is a number that the energy is to fall to.")
    if stop.ndim:
        raise ValueError(f"stop must be one number, got shape {stop.shape}.")
    return require(stop, np.isnan(known(stop)) if is_concrete(stop) else jnp.isnan(stop), "stop must not be NaN.")


class _Optimizer(NamedTuple):
    """An optimiser, with the programs of a step, by which a number that it reads from elsewhere is seen to change."""

    of: optax.GradientTransformation
    programs: list[tuple[Program, str]]


def _programs_of(
    loss: Loss, given: PyTree, weights: Weights, optimizer: optax.GradientTransformation
) -> list[tuple[Program, str]]:
    """The programs of one step with their checksums, and one sentence for an optimiser of other parameters."""
    eqx.filter_eval_shape(partial(_evaluate, loss.at(given)), weights)
    must = "optimizer must turn the gradient by (W_1, ..., W_N), a tuple of matrices, into updates of the same shapes"
    arrays, others = eqx.partition((loss, given, weights), eqx.is_array)

    def begin(arrays: PyTree) -> _Progress:
        loss, given, weights = eqx.combine(arrays, others)
        return _start(loss.at(given), weights, optimizer)

    def go_on(arrays: PyTree, now: _Progress) -> tuple[PyTree, PyTree]:
        loss, given, _ = eqx.combine(arrays, others)
        return _update(loss.at(given), optimizer, now)

    try:
        first = Traced.of(begin, arrays)
        then = Traced.of(go_on, arrays, first.returned())
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TypeError(f"{must}. It says: {said}") from error
    shapes = [leaf.shape for leaf in jax.tree.leaves(then.returned()[0])]
    if shapes != [w.shape for w in jax.eval_shape(layers_of, weights)]:
        raise ValueError(f"{must}, got shapes {shapes}. Private ones need a gradient for each example.")
    return [(traced.program, traced.checksum()) for traced in (first, then)]


class _Progress(NamedTuple):
    """Training between two steps: the energy and its gradient are those of `weights`."""

    weights: Weights
    value: Scalar
    slope: Weights
    state: PyTree
    taken: Int[Array, ""]
    good: Bool[Array, ""]


@compiled
def _train(loss: Loss, weights: Weights, optimizer: _Optimizer, counts: Int[Array, " saved"], stop: Scalar) -> Training:
    def at(step: Int[Array, ""]) -> Callable:
        return loss.at(step.astype(int))

    def step(now: _Progress) -> _Progress:
        # After the last step, its own batch says whether the energy is still a number.
        return _step(at(now.taken), at(jnp.minimum(now.taken + 1, jnp.maximum(counts[-1] - 1, 0))), optimizer.of, now)

    def until(now: _Progress, count: Int[Array, ""]) -> tuple[_Progress, tuple[Weights, Int[Array, ""]]]:
        now = iterate(step, lambda now: (now.taken < count) & _goes_on(now, stop), now)
        return now, (now.weights, now.taken)

    zero = jnp.zeros((), counts.dtype)
    last, (saved, taken) = jax.lax.scan(until, _start(at(zero), weights, optimizer.of)._replace(taken=zero), counts)
    return Training(saved, taken, _code(last, stop))


def _train_on(
    loss: Loss, weights: Weights, optimizer: _Optimizer, counts: np.ndarray, stop: Scalar, stream: Iterator[PyTree]
) -> Training:
    """As `_train`, on an iterator of batches: one program for each step, since the next batch is not there before."""
    batch = next(stream)
    now, saved = _begin_on(loss, batch, weights, optimizer), []
    for count in counts:
        while int(now.taken) < count and bool(_goes_on(now, stop)):
            following = batch if int(now.taken) + 1 == counts[-1] else next(stream, None)
            if following is None:
                raise ValueError(f"batches must be as many as steps, {counts[-1]}, got {int(now.taken) + 1} of them.")
            now, batch = _advance_on(loss, batch, following, optimizer, now), following
        saved.append((now.weights, now.taken))
    states, taken = jax.tree.map(lambda *states: jnp.stack(states), *saved)
    return Training(states, taken, _code(now, stop))


@compiled
def _begin_on(loss: Loss, batch: PyTree, weights: Weights, optimizer: _Optimizer) -> _Progress:
    return _start(loss.at(batch), weights, optimizer.of)


@compiled
def _advance_on(loss: Loss, batch: PyTree, following: PyTree, optimizer: _Optimizer, now: _Progress) -> _Progress:
    return _step(loss.at(batch), loss.at(following), optimizer.of, now)


def _goes_on(now: _Progress, stop: Scalar) -> Bool[Array, ""]:
    return now.good & ~(now.value <= stop)


def _code(last: _Progress, stop: Scalar) -> RESULTS:
    return code_of((~last.good, RESULTS.non_finite), (last.value <= stop, RESULTS.stopped))


def _start(energy: Callable, weights: Weights, optimizer: optax.GradientTransformation) -> _Progress:
    value, slope = _evaluate(energy, weights)
    state = jax.tree.map(jnp.asarray, optimizer.init(layers_of(weights)))
    start = _Progress(weights, value, slope, state, jnp.zeros((), int), jnp.isfinite(value))
    # The state of some optimisers starts as float32 or integers, and has the type of the parameters after one step. A
    # loop needs one type, that after the step.
    after = jax.eval_shape(lambda s: _update(energy, optimizer, start._replace(state=s))[1], state)

    def cast(leaf: Array, to: jax.ShapeDtypeStruct) -> Array:
        return leaf if leaf.dtype == to.dtype else leaf.astype(to.dtype)

    return start._replace(state=jax.tree.map(cast, state, after))


def _step(energy: Callable, following: Callable, optimizer: optax.GradientTransformation, now: _Progress) -> _Progress:
    """The state after a step along the gradient of `energy`, with the value and the gradient of `following`.

    If its weights or its energy are not finite, the weights stay and training ends.
    """
    updates, state = _update(energy, optimizer, now)
    after: Any = optax.apply_updates(now.weights, like(now.weights, updates))
    value, slope = _evaluate(following, after)
    good = all_finite(after) & jnp.isfinite(value)
    taken = jnp.where(good, now.taken + 1, now.taken)
    return _Progress(where(good, after, now.weights), value, slope, state, taken, good)


def _update(energy: Callable, optimizer: optax.GradientTransformation, now: _Progress) -> tuple[PyTree, PyTree]:
    # A line search of optax passes its own extra arguments on to `value_fn`, which must have names for them.
    def value_fn(layers: Any, grad_fn: Any = None, obj_fn: Any = None):
        return energy(chain_product(like(now.weights, layers)))

    def grad_fn(layers: Any, _: Any):
        return layers_of(_evaluate(energy, like(now.weights, layers))[1])

    layers, slope = layers_of(now.weights), layers_of(now.slope)
    offered: dict[str, Any] = {
        "value": now.value,
        "grad": slope,
        "value_fn": value_fn,
        "obj_fn": value_fn,
        "grad_fn": grad_fn,
    }
    takes = _keywords(optimizer.update)
    extra = offered if takes is None else {name: x for name, x in offered.items() if name in takes}
    return optimizer.update(slope, now.state, layers, **extra)


def _keywords(f: Callable) -> set[str] | None:
    """The names of the arguments that `f` takes; None if it takes any."""
    parameters = inspect.signature(f).parameters.values()
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}


def _evaluate(energy: Callable, weights: Weights) -> tuple[Scalar, Weights]:
    """E(W_N ... W_1) and its gradient (1.6), which uses the closed form of dE where the energy has one."""
    x, pull = jax.vjp(chain_product, weights)
    return energy(x), pull(gradient(energy, x))[0]
