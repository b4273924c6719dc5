"""The network upstairs in continuous time: its gradient flow, and the flow that balances it."""

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dlnjax._checks import as_count, as_positive, as_times, check_energy, require, require_finite
from dlnjax._networks.factors import as_weights, balancedness, product, products
from dlnjax._protocol import gradient
from dlnjax._results import result_counts, RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._show import Curves, singular_values_of
from dlnjax._types import Energy, Number, Numbers, Weights


class NetworkSolution(Solution):
    """A flow of the factors, saved at `ts`.

    **Attributes:** `ts`; `weights`, `ts N d d`, W_1 first; `x`, their products, `ts d d`; `t_end`, the time of the last
    good state, which later `ts` repeat; `result`, a code of `RESULTS`; `stats`: `steps` of the
    solver. Under `vmap` each has the axis of the networks in front.

    **Example:**

        >>> energy, weights = dln.MatrixCompletion.diagonal(2), jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
        >>> up = dln.network_flow(energy, weights, ts=[0.0, 1.0])
        >>> up.weights.shape, up.x.shape
        ((2, 2, 2, 2), (2, 2, 2))
        >>> bool(jnp.allclose(dln.balancedness(up.weights[-1]), dln.balancedness(weights)))  # conserved
        True
    """

    ts: Float[Array, "*n ts"]
    weights: Float[Array, "*n ts N d d"]
    t_end: Float[Array, "*n"]
    result: RESULTS
    stats: dict[str, Int[Array, "*n"]]

    layout: ClassVar[Layout] = Layout(
        format="dlnjax.NetworkSolution/1",
        lead="network",
        sized="t_end",
        axes={"ts": "time", "weights": "time layer row column", "x": "time row column"},
        notes={
            "weights": "the factors, W_1 first",
            "x": "their product W_N ... W_1",
            "t_end": "time of the last good state; later times repeat it",
        },
    )

    def _derived(self) -> dict[str, Any]:
        return {"x": self.x}

    @property
    def x(self) -> Float[Array, "*n ts d d"]:
        """The end-to-end matrices."""
        return products(self.weights)

    def _curves(self) -> Curves:
        return Curves.of(self.ts, singular_values_of(self.x), r"time $t$ (the thesis's)")

    def _describe(self) -> str:
        depth, d = self.weights.shape[-3:-1]
        ts = np.asarray(self.ts).reshape(-1, self.ts.shape[-1])[0]
        span = f"{len(ts)} times from {ts[0]:.6g} to {ts[-1]:.6g}"
        return f"NetworkSolution(N = {depth}, d = {d}, {span}, {result_counts(self.result)})"


def network_flow(
    energy: Energy,
    weights: Weights,
    *,
    ts: Numbers,
    rtol: Number = 1e-8,
    atol: Number = 1e-10,
    max_steps: int = 100_000,
    throw: bool = True,
) -> NetworkSolution:
    """Gradient flow of the factors of a network of N layers, (1.5)-(1.6), from any start, balanced or not:

        dW_p/dt = -(W_N ... W_{p+1})^T dE(X) (W_{p-1} ... W_1)^T.

    It conserves `balancedness`. **Convention:** this is the thesis's time: from balanced factors, X at the time t is
    that of `gradient_flow` at depth N and the time N t.

    **Main arguments:** `energy`, as in `gradient_flow`; `weights`, `N d d`, W_1 first (`balanced_factors`); `ts`, at
    least two increasing times.

    **Other arguments:** `rtol`, `atol`, of a step of Dopri8; `max_steps`; `throw`, raise if the flow does not reach the
    last of `ts`: otherwise see `result`.

    **Returns:** a `NetworkSolution`.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs; an error with the sentence of the code
    in `RESULTS` if the flow fails and `throw`.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> up = dln.network_flow(energy, dln.balanced_factors(x0, 3), ts=[0.0, 1.0])
        >>> down = dln.gradient_flow(energy, x0, depth=3, ts=[0.0, 3.0], rtol=1e-9, atol=1e-11)
        >>> bool(jnp.max(jnp.abs(up.x[-1] - down.x[-1])) < 1e-7)
        True
    """
    weights = require_finite("weights", as_weights(weights))
    check_energy(energy, weights.shape[-1], weights.dtype)
    ts = as_times(ts).astype(weights.dtype)
    tolerances = (as_positive("rtol", rtol), as_positive("atol", atol))
    solution = _network_flow(energy, weights, ts, *tolerances, as_count("max_steps", max_steps))
    return solution.result.error_if(solution, solution.result != RESULTS.successful) if throw else solution


@eqx.filter_jit
def _network_flow(energy, weights, ts, rtol, atol, max_steps) -> NetworkSolution:
    def velocity(t, weights, args):
        x, pull = jax.vjp(product, weights)
        return -pull(gradient(energy, x))[0]

    # A blow-up ends where the shortest step that moves time does not help.
    shortest = 1e-13 * (ts[-1] - ts[0])
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Dopri8(),
        t0=ts[0],
        t1=ts[-1],
        dt0=None,
        y0=weights,
        saveat=diffrax.SaveAt(subs=[diffrax.SubSaveAt(ts=ts), diffrax.SubSaveAt(t1=True)]),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, dtmin=shortest, force_dtmin=False),
        max_steps=max_steps,
        throw=False,
    )
    (saved, last), t_end = _states(solution)
    # Times that were not reached are infinite there.
    came = jnp.all(jnp.isfinite(saved), axis=(1, 2, 3), keepdims=True)
    finite = jnp.all(jnp.isfinite(last)) & jnp.all(jnp.isfinite(velocity(t_end, last, None)))
    failed = RESULTS.where(finite, RESULTS.diverged, RESULTS.non_finite)
    exhausted = solution.result == diffrax.RESULTS.max_steps_reached
    failed = RESULTS.where(exhausted, RESULTS.max_steps_reached, failed)
    done = solution.result == diffrax.RESULTS.successful
    return NetworkSolution(
        ts=ts,
        weights=jnp.where(came, saved, last),
        t_end=t_end,
        result=RESULTS.where(done, RESULTS.successful, failed),
        stats={"steps": solution.stats["num_steps"]},
    )


def _states(solution):
    ys, times = solution.ys, solution.ts
    return (ys[0], ys[1][0]), times[1][0]


def balance(weights: Weights, *, rtol: Number = 1e-12, max_steps: int = 10_000) -> Weights:
    """The balanced factors of the same product to which the least-norm flow on the fibre leads,

        dW_p/dt = -(G_p W_p - W_p G_{p-1}),    G_0 = G_N = 0,    G_p as in `balancedness`:

    X stays in place, and sum |W_p|^2 falls to its minimum, N sum sigma^(2/N) (Remark 2.1.4).
    Source: K. Lindsey and G. Menon, the flow of theirs whose limit is the balanced point of the fibre.

    **Arguments:** `weights`, `N d d`, W_1 first, of a product of full rank; `rtol`, the error of a step, and the |G|
    relative to |W|^2 at which it ends; `max_steps`.

    **Returns:** the factors, `N d d`.

    **Raises:** `ValueError` or `TypeError` for what is no stack of real, finite square matrices, or a singular factor,
    from where the flow need not arrive; an error if `max_steps` are not enough.

    **Example:**

        >>> weights = jnp.stack([jnp.eye(2), 4 * jnp.eye(2)])
        >>> balanced = dln.balance(weights)
        >>> balanced.round(6).tolist()
        [[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]]]
    """
    weights = require_finite("weights", as_weights(weights))
    singular = jnp.any(jnp.linalg.slogdet(weights)[0] == 0)
    weights = require(weights, singular, "weights must have full rank: the determinant of a factor is 0.")
    out, arrived = _balance(weights, as_positive("rtol", rtol), as_count("max_steps", max_steps))
    message = "the factors are not balanced after max_steps: raise it, or start from factors of like size."
    return require(out, ~arrived, message)


@eqx.filter_jit
def _balance(weights, rtol, max_steps):
    # In units in which the factors are of size 1, and so is the fastest rate.
    scale = jnp.max(jnp.linalg.norm(weights, axis=(1, 2)))

    def velocity(t, weights, args):
        g = jnp.pad(balancedness(weights), ((1, 1), (0, 0), (0, 0)))
        return weights @ g[:-1] - g[1:] @ weights

    def balanced(t, weights, args, **kwargs):
        return jnp.linalg.norm(balancedness(weights)) <= rtol * jnp.sum(weights**2)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Dopri8(),
        t0=0.0,
        t1=1e12,
        dt0=None,
        y0=weights / scale,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
        event=diffrax.Event(balanced),
        max_steps=max_steps,
        throw=False,
    )
    last: Any = solution.ys
    return scale * last[0], balanced(0.0, last[0], None)
