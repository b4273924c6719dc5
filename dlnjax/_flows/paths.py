"""The paths of the Riemannian Langevin equation: their loop over steps, what is saved, and their derivative.

The loop has a number of steps that is known at its run only, so that one program serves all times and all `dt`. Its
derivative replays the path with the same random numbers in loops of fixed length, which JAX can reverse.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from dlnjax._checks import known, require
from dlnjax._compile import compiled
from dlnjax._custom_jvp import filter_custom_jvp
from dlnjax._flows.langevin import Frame, Langevin
from dlnjax._flows.noise import DEEP
from dlnjax._flows.problem import Options, Problem
from dlnjax._flows.trajectory import decomposed_start, Trajectory, values_along
from dlnjax._noise import cut, Path
from dlnjax._results import code_of, RESULTS
from dlnjax._svd import SVD
from dlnjax._tree import all_finite, is_perturbed, own_arithmetic, rowwise, tangent_at
from dlnjax._types import Scalar

# Singular values that differ by less than this fraction count as repeated, where a path has no derivative.
_REPEATED = 1e-9


def start_of_path(problem: Problem) -> SVD:
    """The decomposition of the start. That of a start which is not finite is the identity times NaN."""
    start, finite = decomposed_start(problem)
    return SVD(start.u, jnp.where(finite, start.sigma, jnp.nan), start.v)


def paths(
    of_row: Callable[[Any], Problem],
    starts: tuple[PyTree, SVD],
    ts: Float[Array, " ts"],
    options: Options,
    *,
    wanted: Bool[Array, " n"],
) -> Trajectory:
    """The paths of many problems. `starts` is (the rows, the decompositions of their starts).

    If none is `wanted`, no step is taken.
    """
    rows, points = starts
    any_wanted = jnp.any(wanted)
    return rowwise(lambda row, point: _path(of_row(row), point, ts, options, run=any_wanted))(rows, points)


@filter_custom_jvp
def path(problem: Problem, *, options: Options, most: int | None) -> Trajectory:
    """The path of one problem, with the derivative for its fixed key. No gap between two times has more than `most`
    steps; it is None where their number is not known yet, and then there is no derivative.
    """
    with own_arithmetic():
        return _one_path(problem, options)


@path.def_jvp
def _path_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...], *, options: Options, most: int | None):
    (problem,), (dproblem,) = primals, tangents
    if most is None:
        raise TypeError("the derivative of a path with noise needs ts and dt that are known when it is traced.")
    with own_arithmetic():
        problem = _require_derivative(problem, dproblem)
        out = path(problem, options=options, most=most)
        moved = _replayed(problem, dproblem, options, most)
    return out, tangent_at(_differentiable, out, moved)


def _differentiable(t: Trajectory) -> tuple[Any, ...]:
    return t.svd, t.sigma, t.energy, t.observed, t.final


@compiled
def _one_path(problem: Problem, options: Options) -> Trajectory:
    return _path(problem, start_of_path(problem), problem.ts, options)


@compiled
def _replayed(problem: Problem, dproblem: PyTree, options: Options, most: int) -> tuple[Any, ...]:
    """The tangents of all that is saved. No gap between two times has more than `most` steps."""

    def run(problem: Problem) -> tuple[Any, ...]:
        return _differentiable(_path(problem, start_of_path(problem), problem.ts, options, most=most))

    return eqx.filter_jvp(run, (problem,), (dproblem,))[1]


def _require_derivative(problem: Problem, dproblem: PyTree) -> Problem:
    """The problem, or an error where its path has no derivative."""
    sigma = known(start_of_path(problem).sigma)
    repeated = (sigma[:-1] - sigma[1:] <= _REPEATED * sigma[:-1]).any()
    message = (
        "a path with noise has no derivative here from a start with repeated singular values, whose frame is a matter "
        "of choice: start nearby."
    )
    # The start alone carries the check: a traced check takes no keys, and `ts` has to stay known.
    start = require(problem.start, repeated & is_perturbed(dproblem.start), message)
    first = known(problem.kernel.inverse_depth) >= 1  # pyright: ignore[reportAttributeAccessIssue]
    message = "at depth 1 a path with noise has no derivative in the depth: the frame turns at a rate of its root."
    start = require(start, (first & is_perturbed(dproblem.kernel)).any(), message)
    return eqx.tree_at(lambda p: p.start, problem, start)


def _path(
    problem: Problem, start: SVD, ts: Float[Array, " ts"], options: Options, *, run: Any = True, most: int | None = None
) -> Trajectory:
    """The path from `start` by the steps for the depth, of which a depth that is not known yet has both."""

    def of(deep: bool) -> Callable[[Problem], Trajectory]:
        return lambda problem: _of_kind(problem, start, ts, options, deep=deep, run=run, most=most)

    if options.steps != "either":
        return of(options.steps == "deep")(problem)
    inverse = problem.kernel.inverse_depth  # pyright: ignore[reportAttributeAccessIssue]
    deep, most_shallow = inverse < 1 / DEEP, jnp.asarray(1 / DEEP, inverse.dtype)
    # Under `vmap` both kinds run for all depths. The depth of the kind that is not taken is replaced by one that this
    # kind has, so that no NaN arises.
    at = lambda a: eqx.tree_at(lambda p: p.kernel.inverse_depth, problem, a)
    arrays, rest = eqx.partition(
        (at(jnp.where(deep, inverse, most_shallow / 2)), at(jnp.where(deep, most_shallow, inverse))), eqx.is_array
    )
    kinds = [lambda arrays, k=k: of(k == 0)(eqx.combine(arrays, rest)[k]) for k in (0, 1)]
    return jax.lax.cond(deep, *kinds, arrays)


def _of_kind(
    problem: Problem,
    start: SVD,
    ts: Float[Array, " ts"],
    options: Options,
    *,
    deep: bool,
    run: Any,
    most: int | None,
) -> Trajectory:
    noise = problem.noise
    assert noise is not None
    equation = Langevin(problem.energy, problem.kernel, noise.beta, noise.gauge, deep)  # pyright: ignore[reportArgumentType]
    counts, lengths = (jnp.asarray(x) for x in cut(ts, noise.dt))
    counts = jnp.where(run, counts, 0)
    seen = lambda state: _seen(equation, state, options)

    def gap(path: Path, each: tuple[Array, Array, Array, Array]) -> tuple[Path, PyTree]:
        n, first, h, end = each
        one = lambda j, path: _advanced(equation, path, h, jax.random.fold_in(noise.key, first + j))
        if most is None:
            path = jax.lax.fori_loop(0, n, one, path)
        else:
            # Gaps with fewer steps, and repeated times without any, do not run the steps that they do not have.
            step = jax.checkpoint(lambda path, j: (jax.lax.cond(j < n, one, lambda j, path: path, j, path), None))
            path, _ = jax.lax.scan(step, path, jnp.arange(most))
        path = eqx.tree_at(lambda p: p.t, path, jnp.where(path.code.code == 0, end, path.t))
        return path, seen(path.state)

    first = _begin(equation, start, ts[0])
    firsts = jnp.cumsum(counts) - counts
    last, saved = jax.lax.scan(gap, first, (counts, firsts, lengths, ts[1:]))
    saved = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), seen(first.state), saved)
    svd_, observed, energy = saved, None, None
    if options.observe is None:
        sigma, energy = saved.sigma, values_along(problem.energy, saved)
    else:
        svd_, (sigma, observed) = None, saved
    return Trajectory(
        svd=svd_,
        sigma=sigma,
        energy=energy,
        observed=observed,
        final=equation.point(last.state),
        t_end=last.t,
        code=last.code,
        steps=last.steps,
        rejected=jnp.zeros_like(last.steps),
        evaluations=last.steps * (2 if equation.driven else 0),
        crossings=last.crossings,
    )


def _seen(equation: Langevin, state: Frame, options: Options) -> PyTree:
    """What is saved of a state: the point or, with `observe`, the singular values and what `observe` returns."""
    point = equation.point(state)
    return point if options.observe is None else (point.sigma, options.observe(point))


def _begin(equation: Langevin, start: SVD, t: Scalar) -> Path:
    """The path before its first step. A start that is not finite, or is singular at depth > 1, has ended already."""
    sigma = start.sigma
    finite = all_finite(sigma)
    singular = (sigma[-1] <= 0) & (equation.kernel.inverse_depth < 1)
    inside = equation.enter(SVD(start.u, jnp.maximum(sigma, jnp.finfo(sigma.dtype).tiny), start.v))
    state = Frame(inside.u, jnp.where(finite, inside.y, jnp.nan), inside.v)
    code = code_of((~finite, RESULTS.non_finite), (singular, RESULTS.rank_lost))
    zero = jnp.array(0)
    return Path(state, t, code, zero, zero)


def _advanced(equation: Langevin, path: Path, h: Scalar, key: PRNGKeyArray) -> Path:
    """The path after one more step, or as it is if it has ended."""
    state, crossed, coarse = equation.step(path.state, h, key)
    finite = all_finite((state, equation.log(state.y)))
    large = jnp.max(equation.log(state.y)) >= jnp.log(jnp.finfo(h.dtype).max)
    return path.advanced(state, h, crossed, too_long=coarse | ~finite, large=large)
