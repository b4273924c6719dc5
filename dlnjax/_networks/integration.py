"""The flow of the factors without noise, by diffrax."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from dlnjax._modes import integrated_both_ways
from dlnjax._networks.chain import chain_product, each, Sizes, times
from dlnjax._protocol import gradient
from dlnjax._results import code_of, RESULTS
from dlnjax._scale import shortest_step
from dlnjax._tree import all_finite, norm, where
from dlnjax._types import Scalar, Weights

# A flow that fails has blown up if its shortest step would move the factors by more than this share of their norm. At a
# singular gradient the shortest step moves them by less.
BLOW_UP = 1e-3


class Start(eqx.Module):
    """All that the flow may be differentiated with respect to."""

    energy: Callable
    weights: Weights
    ts: Float[Array, " ts"]


class Accuracy(eqx.Module):
    """What decides on the accuracy alone, and is not differentiated: tolerances, in this unit of each factor."""

    unit: Sizes
    rtol: Scalar
    atol: Scalar
    max_steps: int = eqx.field(static=True)


class Reached(eqx.Module):
    """The factors at the times of the start, the time of the last good state, its code, and the number of steps."""

    weights: PyTree
    t_end: Scalar
    result: RESULTS
    steps: Int[Array, ""]


class _Controller(diffrax.AbstractStepSizeController):
    """diffrax's controller, which also ends the flow where a step is a few roundings of the time.

    The `dtmin` of `PIDController` is one number for the whole flow. If that number is a share of the span, a flow over
    a long span ends at its first short step.
    """

    inner: diffrax.PIDController

    def wrap(self, direction: Any) -> "_Controller":
        return _Controller(self.inner.wrap(direction))

    # `Any` stands for types that are diffrax's own, those of its times, terms and states.

    def init(
        self, terms: Any, t0: Any, t1: Any, y0: Any, dt0: Any, args: Any, func: Callable, error_order: Any
    ) -> tuple[Any, Any]:
        return self.inner.init(terms, t0, t1, y0, dt0, args, func, error_order)

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: Any,
        y1_candidate: Any,
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> tuple[Any, Any, Any, Any, Any, Any]:
        out: Any = self.inner.adapt_step_size(t0, t1, y0, y1_candidate, args, y_error, error_order, controller_state)
        keep, start, end, jump, state, result = out
        stuck = ~keep & (end - start <= shortest_step(start))
        failed = diffrax.RESULTS.where(stuck, diffrax.RESULTS.dt_min_reached, result)
        return keep, start, end, jump, state, failed


@integrated_both_ways
def integrate(start: Start, accuracy: Accuracy, *, adjoint: diffrax.AbstractAdjoint) -> Reached:
    """The flow of the factors, which is differentiable in `start`."""
    depth, ts, unit = len(start.weights), start.ts, accuracy.unit

    # The arrays are arguments of what diffrax calls, since `jax.checking_leaks` takes arrays in a closure for leaks.
    def velocity(given: tuple[Any, Any], t: Any, y: Weights, args: Any) -> Weights:
        # This is (1.5)-(1.6) over N, for factors in units of `unit`. The pullback of the product is its transpose.
        energy, unit = given
        x, pull = jax.vjp(chain_product, times(unit, y))
        return each(lambda slope, u: -slope / (depth * u), pull(gradient(energy, x))[0], unit)

    velocity = Partial(velocity, (start.energy, unit))

    # The flow is autonomous, and time starts at 0 here: a short step that is added to a late time loses its digits.
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Dopri8(),
        t0=jnp.zeros_like(ts[0]),
        t1=ts[-1] - ts[0],
        dt0=None,
        y0=each(jnp.divide, start.weights, unit),
        saveat=diffrax.SaveAt(subs=[diffrax.SubSaveAt(ts=ts - ts[0]), diffrax.SubSaveAt(t1=True)]),
        stepsize_controller=_Controller(diffrax.PIDController(rtol=accuracy.rtol, atol=accuracy.atol)),
        adjoint=adjoint,
        max_steps=accuracy.max_steps,
        throw=False,
    )
    (saved, last), t_end = _states(solution)
    # diffrax fills the states at times that were not reached with infinity.
    came = jax.vmap(all_finite)(saved)
    speed = velocity(t_end, last, None)
    grows = shortest_step(t_end) * norm(speed) > BLOW_UP * norm(last)
    code = code_of(
        (solution.result == diffrax.RESULTS.successful, RESULTS.successful),
        (solution.result == diffrax.RESULTS.max_steps_reached, RESULTS.max_steps_reached),
        (all_finite((last, speed)) & grows, RESULTS.diverged),
        (jnp.asarray(True), RESULTS.non_finite),
    )
    weights = jax.vmap(lambda came, state: times(unit, where(came, state, last)))(came, saved)
    return Reached(weights, ts[0] + t_end, code, solution.stats["num_steps"])


def _states(solution: diffrax.Solution) -> tuple[tuple[Any, Any], Any]:
    saved, end = solution.ys  # pyright: ignore[reportGeneralTypeIssues]
    times: Any = solution.ts
    return (saved, jax.tree.map(lambda y: y[0], end)), times[1][0]
