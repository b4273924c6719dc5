"""The gradient flow of an energy in the geometry of the deep linear network."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dlnjax._checks import is_concrete
from dlnjax._compile import first_times, with_more_times
from dlnjax._flows.derivative import trajectory
from dlnjax._flows.paths import path, start_of_path
from dlnjax._flows.problem import Options, prepare, Problem, saved_entries, shape_of_point, Steady
from dlnjax._flows.solution import FlowSolution
from dlnjax._flows.trajectory import start_of, Trajectory
from dlnjax._geometry.depth import Depth
from dlnjax._noise import most_steps, Noise, with_noise
from dlnjax._protocol import name_of
from dlnjax._results import RESULTS
from dlnjax._svd import SVD
from dlnjax._traced import Traced
from dlnjax._tree import own_arithmetic
from dlnjax._types import Energy, Number, Numbers, State


def gradient_flow(
    energy: Energy | None,
    x0: Float[Array, "m n"] | SVD,
    *,
    depth: Depth = jnp.inf,
    ts: Numbers,
    solver: diffrax.AbstractSolver[Any] | None = None,
    rtol: Number = 1e-6,
    atol: Number | None = None,
    coordinates: Literal["svd", "matrix"] = "svd",
    stop: Steady | None = None,
    observe: Callable[[SVD], Any] | None = None,
    noise: Noise | None = None,
    max_steps: int = 100_000,
    throw: bool = True,
) -> FlowSolution:
    """Riemannian gradient flow of the deep linear network of depth N, (2.9) divided by N:

        dX/dt = -A_X(dE(X)),    A_X(Z) = (1/N) sum_{p=1}^N (X X^T)^((N-p)/N) Z (X^T X)^((p-1)/N),

    integrated in the frame of its singular value decomposition by (4.17)-(4.19), with one decomposition at the start. A
    matrix of another shape or rank has a thin frame, which also leaves its space; at infinite depth it does not, and
    the column space and the row space of X never turn.
    **Convention:** with the 1/N, infinite depth is the limit, and (4.18) holds as printed; the thesis's time at finite
    depth is `ts` / N.

    Composes with `jit` and `vmap` (over starts, energies and depths). Differentiable, forwards and in reverse, in `x0`,
    the arrays of `energy`, `depth` and `ts`. The derivative is that of the flow of X, which is smooth where singular
    values repeat: the derivative of `x` is exact there. The frame has no derivative there, and counts as not turning
    within the block of equal values. The derivative needs a start whose singular values are not 0, and at most 4096
    steps. For a thin start it is the derivative on the matrices of rank r, in the directions that keep the rank. A flow
    that fails has a derivative up to its end in forward mode; in reverse mode it may be NaN.

    **Main arguments:**

    - `energy`: any differentiable callable X -> scalar. It may offer `gradient(x)` in closed form.
    - `x0`: the start, a matrix `m n`, or an `SVD`. A thin `SVD` of r values is a point of the matrices of rank r, and
      the flow stays on these; it costs O((m + n) r^2) an evaluation, and two products with dE. From a matrix whose last
      singular values are 0 the flow keeps that rank as well (depth > 1). A singular value of a matrix counts as 0 if it
      is below the rounding of the largest, min(m, n) eps sigma_1. Those of an `SVD` are exact, however small.
    - `depth`: N in [1, inf], a number or a traced array.
    - `ts`: at least two increasing times; the first is that of `x0`. States are saved at each.

    **Other arguments:**

    - `solver`: by default Dopri5 and, wherever stability rather than accuracy limits its steps, the stabilised method
      of `RungeKuttaChebyshev`. Where near singular values hold their steps up, both go on in coordinates in which
      these may cross, but not inside of `jit` or `vmap`. In "matrix" it is Dopri5 alone. Or any diffrax solver with an
      error estimate.
    - `rtol`, `atol`: tolerances of a step, on each singular value and on the frame (in "matrix", on the Frobenius norm
      of X): an error is at most rtol times the value plus `atol`. By default `atol` follows the start: rtol/100 of each
      singular value there (in "matrix", of the norm), so that what begins at 1e-12 is as accurate as what begins at 1.
    - `coordinates`: "svd", or "matrix" for the flow in X itself, with a decomposition at every evaluation: slower, and
      written independently, to check by.
    - `stop`: `Steady(gradient)` ends the flow at rest.
    - `observe`: saved in place of the states: a callable `SVD` -> arrays. `sigma` and the last state are always kept.
    - `noise`: `Noise` makes the flow a path of the Riemannian Langevin equation, in steps of length dt without
      tolerances or a stop. With it `energy=None` is Brownian motion. A path is differentiable for its fixed key in
      `x0`, `beta`, `depth` and the arrays of `energy`, from a start whose singular values differ.
    - `max_steps`: accepted and rejected steps together. A step of the stabilised method is one of them, and makes up
      to some hundreds of evaluations.
    - `throw`: raise if the flow does not end as successful or steady; otherwise see `result`.

    **Returns:** a `FlowSolution`.

    **Raises:** `ValueError` or `TypeError` for bad input, before anything runs; an error with the sentence of the code
    in `RESULTS` if the flow fails and `throw`.

    **Example:**

        >>> energy = dln.MatrixCompletion.diagonal(2)
        >>> x0 = jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> jnp.diagonal(sol.x[-1]).round(5).tolist()
        [1.0, 1.0]
        >>> final = lambda depth: dln.gradient_flow(energy, x0, depth=depth, ts=[0.0, 2.0]).energy[-1]
        >>> print(f"{jax.grad(final)(3.0):.4f}")
        0.0209
    """
    checked = with_noise(energy, noise, **beside_noise(solver, rtol, atol, coordinates, stop))
    options = Options(
        solver=solver,
        rtol=rtol,
        atol=atol,
        coordinates=coordinates,
        stop=stop,
        observe=observe,
        max_steps=max_steps,
    )
    problem, options = prepare(checked, x0, depth, ts, options, noise=noise)
    # The rules of a flow differentiate in the problem alone. What `observe` closes over may have a derivative too where
    # it is traced: it then sees the saved states after the flow.
    seen = options.observe
    if not isinstance(seen, Traced) or all(map(is_concrete, seen.constants)):
        seen = None
    else:
        options = options.unobserved()
    padded = replace(problem, ts=with_more_times(problem.ts, saved_entries(shape_of_point(problem.start), options)))
    if problem.noise is None:
        out = trajectory(padded, options=options)
    else:
        out = path(padded, options=options, most=most_steps(problem.ts, problem.noise.dt))
    if seen is not None:
        out = out.observed_by(seen)
    svd, sigma, energies, observed = first_times((out.svd, out.sigma, out.energy, out.observed), problem.ts)
    out = replace(out, svd=svd, sigma=sigma, energy=energies, observed=observed)
    sol = solution_of(problem, options, out)
    if throw:
        failed = (sol.result != RESULTS.successful) & (sol.result != RESULTS.steady)
        sol = sol.result.error_if(sol, failed)
    return sol


def beside_noise(solver: Any, rtol: Any, atol: Any, coordinates: Any, stop: Any) -> dict[str, tuple[Any, Any]]:
    """The options that have no meaning beside noise, each as (what was given, the default)."""
    given = {"solver": solver, "rtol": rtol, "atol": atol, "coordinates": coordinates, "stop": stop}
    return {name: (value, {"rtol": 1e-6, "coordinates": "svd"}.get(name)) for name, value in given.items()}


def start_many(of_row: Callable[[Any], Problem], rows: PyTree, options: Options) -> State:
    """The state from which the flow of each row starts. Flows in the frame decompose their matrices only here."""
    start = start_of_path if options.steps is not None else lambda problem: start_of(problem, options)
    with own_arithmetic():
        return jax.vmap(lambda row: start(of_row(row)))(rows)


def solution_of(problem: Problem, options: Options, out: Trajectory) -> FlowSolution:
    """The solution of one problem, or of all problems of a sweep, from the trajectory."""
    noise, tolerances = problem.noise, (options.rtol, options.atol)
    counted: dict[str, Any] = {"steps": out.steps, "rejected": out.rejected, "evaluations": out.evaluations}
    if noise is not None:
        counted["crossings"] = out.crossings
        tolerances = (jnp.full_like(noise.beta, jnp.nan), jnp.full_like(noise.beta, jnp.nan))
    return FlowSolution(
        ts=problem.ts,
        sigma=out.sigma,
        final=out.final,
        t_end=out.t_end,
        result=out.code,
        stats=counted,
        observed=out.observed,
        depth=problem.kernel,
        rtol=tolerances[0],
        atol=tolerances[1],
        energy_name=name_of(problem.energy),
        _svd=out.svd,
        _energy=out.energy,
        beta=None if noise is None else noise.beta,
        dt=None if noise is None else noise.dt,
    )
