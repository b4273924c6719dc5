"""The network upstairs in continuous time: its gradient flow, with noise or without."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from dlnjax._checks import as_count, check_energy
from dlnjax._compile import first_times, with_more_times
from dlnjax._networks.chain import (
    as_weights,
    described,
    dtype_of,
    each,
    matrix_shape,
    products,
    require_finite_weights,
    Sizes,
    sizes_of,
)
from dlnjax._networks.diffusion import check_diffusion, diffuse
from dlnjax._networks.integration import Accuracy, integrate, Start
from dlnjax._noise import check_steps, Noise, with_noise
from dlnjax._results import result_counts, RESULTS
from dlnjax._saved import Layout, Solution
from dlnjax._scale import ATOL_SHARE
from dlnjax._show import Curves, FLOW_TIME, singular_values_of
from dlnjax._solver import as_times, as_tolerance, warn_of_precision
from dlnjax._traced import traced_energy
from dlnjax._tree import own_arithmetic
from dlnjax._types import Energy, Number, Numbers, Scalar, Weights


class NetworkSolution(Solution):
    """A flow of the factors, saved at `ts`.

    **Attributes:** `ts`, in units of the 1/N-normalised flow; `weights`, W_1 first, `ts N d d`, or a tuple of factors
    with the axis `ts` in front, as they were given; `x`, their products, `ts m n`; `t_end`, the time of the last good
    state, which later `ts` repeat; `result`, a code of `RESULTS`; `stats`: `steps` of the solver, and with noise
    `crossings`. Under `vmap` each has
    the axis of the networks in front.

    **Example:**

        >>> energy, weights = dln.MatrixCompletion.diagonal(2), jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
        >>> up = dln.network_flow(energy, weights, ts=[0.0, 1.0])
        >>> up.weights.shape, up.x.shape
        ((2, 2, 2, 2), (2, 2, 2))
        >>> bool(jnp.allclose(dln.balancedness(up.weights[-1]), dln.balancedness(weights)))  # conserved
        True
    """

    ts: Float[Array, "... ts"]
    weights: Float[Array, "*k ts N d d"] | tuple[Float[Array, "*k ts _ _"], ...]
    t_end: Float[Array, "*k"]
    result: RESULTS
    stats: dict[str, Int[Array, "*k"]]

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
    def x(self) -> Float[Array, "*k ts m n"]:
        """The end-to-end matrices."""
        return products(self.weights)

    def _title(self) -> str:
        return described(self.weights)

    def _curves(self) -> Curves:
        return Curves.of(self.ts, singular_values_of(self.x), FLOW_TIME, result=self.result)

    def _describe(self) -> str:
        ts = np.asarray(self.ts).reshape(-1, self.ts.shape[-1])[0]
        span = f"{len(ts)} times from {ts[0]:.6g} to {ts[-1]:.6g}"
        return f"NetworkSolution({described(self.weights)}, {span}, {result_counts(self.result)})"


def network_flow(
    energy: Energy | None,
    weights: Weights | Sequence[ArrayLike],
    *,
    ts: Numbers,
    rtol: Number = 1e-8,
    atol: Number | None = None,
    noise: Noise | None = None,
    max_steps: int = 100_000,
    throw: bool = True,
) -> NetworkSolution:
    """Gradient flow of the factors of a network of N layers, (1.5)-(1.6) divided by N, from any start, balanced or not:

        dW_p/dt = -(1/N) (W_N ... W_{p+1})^T dE(X) (W_{p-1} ... W_1)^T.

    It conserves `balancedness`. **Convention:** the time is that of `gradient_flow`: from balanced factors, X at the
    time t is that of `gradient_flow` at depth N at the same t. The thesis's time is `ts` / N.

    With `noise` the factors are balanced, and move on the surface of all balanced factors of full rank by

        dW_p = -(1/N) dL/dW_p dt + sqrt(2/(N beta)) dB_p,    L(W) = E(W_N ... W_1),

    where B is the Brownian motion of this surface in the space of the factors, whose generator is half its Laplacian.
    The product X then has the law of `gradient_flow` with `Noise(key, beta, dt, gauge=True)`: the noise that turns the
    gauge drives X by the entropy. A step adds Gaussian noise in the tangent space and goes to the nearest balanced
    factors, with errors of order dt in law. Where X passes through a singular matrix, its determinant changes sign.

    **Main arguments:** `energy`, as in `gradient_flow`; `weights`, W_1 first, a stack `N d d` or a sequence of matrices
    that chain (`balanced_factors`, `imbalanced_factors`); `ts`, at least two increasing times.

    **Other arguments:** `rtol`, `atol`, of a step of Dopri8, on each entry of the factors: by default `atol` is
    `rtol` / 100 in units of each factor's Frobenius norm at the start; `max_steps`; `throw`, raise if the flow does not
    reach the last of `ts`: otherwise see `result`; `noise`, a `Noise` without `gauge`, for factors of one width. With
    it `energy` may be None, which is Brownian motion, there are no tolerances, and a path has no derivative. How often
    the determinant of X has changed its sign is in `stats`, as `crossings`.

    **Returns:** a `NetworkSolution`, with factors in the form in which they were given. It has derivatives in both
    modes, and second ones, in the energy, the factors and the times.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs; an error with the sentence of the code
    in `RESULTS` if the flow fails and `throw`.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> up = dln.network_flow(energy, dln.balanced_factors(x0, 3), ts=[0.0, 3.0])
        >>> down = dln.gradient_flow(energy, x0, depth=3, ts=[0.0, 3.0], rtol=1e-9, atol=1e-11)
        >>> bool(jnp.max(jnp.abs(up.x[-1] - down.x[-1])) < 1e-7)
        True
        >>> noise = dln.Noise(jax.random.key(0), beta=10.0, dt=0.1)
        >>> noisy = dln.network_flow(energy, dln.balanced_factors(x0, 3), ts=[0.0, 3.0], noise=noise)
        >>> bool(jnp.max(jnp.abs(dln.balancedness(noisy.weights[-1]))) < 1e-12)
        True
    """
    given = with_noise(energy, noise, rtol=(rtol, 1e-8), atol=(atol, None))
    weights = require_finite_weights(as_weights(weights))
    shape, dtype = matrix_shape(weights), dtype_of(weights)
    check_energy(given, shape, dtype)
    ts, max_steps = as_times(ts, dtype), as_count("max_steps", max_steps)
    if noise is None:
        solution = _without_noise(given, weights, ts, rtol, atol, max_steps)
    else:
        solution = _with_noise(given, weights, ts, noise, max_steps)
    return solution.result.error_if(solution, solution.result != RESULTS.successful) if throw else solution


def _with_noise(energy: Energy, weights: Weights, ts: Array, noise: Noise, max_steps: int) -> NetworkSolution:
    # Under `jit` the error of a check is raised where what it returns is used.
    stack = check_diffusion(weights, noise)
    ts = check_steps(ts, noise.dt, max_steps)
    energy = traced_energy(energy, matrix_shape(weights), dtype_of(weights))
    with own_arithmetic():
        return diffused(energy, stack, ts, noise, chain=isinstance(weights, tuple))


def diffused(
    energy: Callable, stack: Float[Array, "N d d"], ts: Float[Array, " ts"], noise: Noise, *, chain: bool
) -> NetworkSolution:
    """The path of balanced factors with noise, unchecked. With `chain`, the factors of the solution are a tuple."""
    saved, end = diffuse(energy, stack, noise, with_more_times(ts, stack.size))
    saved = first_times(saved, ts)
    return NetworkSolution(
        ts=ts,
        weights=tuple(jnp.swapaxes(saved, 0, 1)) if chain else saved,
        t_end=end.t,
        result=end.code,
        stats={"steps": end.steps, "crossings": end.crossings},
    )


def _without_noise(
    energy: Energy, weights: Weights, ts: Array, rtol: Number, atol: Number | None, max_steps: int
) -> NetworkSolution:
    tolerances = as_tolerances(rtol, atol, dtype_of(weights))
    energy = traced_energy(energy, matrix_shape(weights), dtype_of(weights))
    unit = unit_of(weights, tolerances[1])
    with own_arithmetic():
        return integrated(energy, weights, unit, ts, tolerances, max_steps=max_steps)


def as_tolerances(rtol: Number, atol: Number | None, dtype: Any) -> tuple[Scalar, Scalar | None]:
    """(rtol, atol) as numbers of the precision of the factors. An `atol` of None follows the start."""
    rtol = as_tolerance("rtol", rtol).astype(dtype)
    warn_of_precision("weights are", dtype, rtol)
    return rtol, None if atol is None else as_tolerance("atol", atol, relative=False).astype(dtype)


def unit_of(weights: Weights, atol: Scalar | None) -> Sizes:
    """The unit of each factor in which its absolute tolerance is one number: its norm, or 1 where `atol` is given."""
    return jax.lax.stop_gradient(sizes_of(weights) if atol is None else each(lambda w: jnp.ones((), w.dtype), weights))


def integrated(
    energy: Callable,
    weights: Weights,
    unit: Sizes,
    ts: Float[Array, " ts"],
    tolerances: tuple[Scalar, Scalar | None],
    *,
    max_steps: int,
) -> NetworkSolution:
    """The flow of the factors, unchecked."""
    rtol, atol = tolerances
    atol = ATOL_SHARE * rtol if atol is None else atol
    padded = with_more_times(ts, sum(w.size for w in jax.tree.leaves(weights)))
    end = integrate(Start(energy, weights, padded), Accuracy(unit, rtol, atol, max_steps))
    return NetworkSolution(
        ts=ts,
        weights=first_times(end.weights, ts),
        t_end=end.t_end,
        result=end.result,
        stats={"steps": end.steps},
    )
