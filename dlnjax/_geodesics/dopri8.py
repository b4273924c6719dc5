"""The method of Dormand and Prince of order 8 for flows of matrices, as a loop of its own.

P. J. Prince and J. R. Dormand, High order embedded Runge-Kutta formulae, J. Comput. Appl. Math. 7 (1981), 67-75. The
coefficients are those of diffrax. `diffrax.diffeqsolve` itself takes longer to compile, and its programs may call
Python to report an error. JAX keeps no such program in its persistent cache.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._runge_kutta import clip, square_tableau
from dlnjax._tree import all_finite, any_of_batch, iterate, where
from dlnjax._types import Scalar

_TABLEAU: Any = diffrax.Dopri8.tableau
_STAGES = _TABLEAU.num_stages
_ROWS = square_tableau(_TABLEAU)
# A step is the step before it times a factor between the first two numbers. It is the third number times the step that
# would just meet the tolerance.
_LEAST, _MOST, _SAFETY = 0.2, 10.0, 0.9
# The first step moves no matrix of the state by more than this fraction of the norm of the matrix.
_FIRST_MOVE = 0.1
# The shortest step, as a fraction of the whole time. A shorter step would be lost in rounding of the time.
_SHORTEST = 1e-12
# The least tolerance, in units of eps. Below it the estimate of an error is itself rounding, and steps would be refused
# without a reason.
_FINEST = 16


class Walk(eqx.Module):
    """The state of the solver: the state `y` and the velocity `f` of the flow at time `t`, and the saved states.

    `h` is the length of the next step. `index` is the index of the first time that is not reached yet. Saved states at
    times that are not reached are infinite. `stuck` says that the next step would be too short, and `left` that the
    flow has left its domain.

    The first step, to the first of the times, has the length 0. It finds the velocity there and the length of the next
    step. A call of the velocity before the loop would be compiled a second time.
    """

    t: Scalar
    h: Scalar
    y: PyTree
    f: PyTree
    saved: PyTree
    index: Int[Array, ""]
    steps: Int[Array, ""]
    stuck: Bool[Array, ""]
    left: Bool[Array, ""]


def _never(y: PyTree) -> tuple[bool, bool]:
    return False, False


def solve(
    velocity: Callable[[PyTree], PyTree],
    y0: PyTree,
    ts: Float[Array, " times"],
    rtol: Scalar,
    *,
    max_steps: int | Int[Array, ""],
    judge: Callable[[PyTree], tuple[Any, Any]] = _never,
) -> Walk:
    """Solve dy/dt = velocity(y) from `y0` at the first of `ts` to the last of `ts`. A step ends at each of these times.

    **Arguments:** the leaves of `y0` are matrices or stacks of matrices. The error of a step in each matrix is at most
    `rtol` times the Frobenius norm of that matrix, or eps times that of the largest matrix of its stack. An error
    relative to each entry would need very short steps where an entry is zero. judge(y) says of a state whether a step
    to it is rejected, and whether the flow ends there.
    """
    # The velocity does not depend on the time, so times are counted from the start.
    ts, times = ts - ts[0], len(ts)
    rtol = jnp.maximum(rtol, _FINEST * jnp.finfo(ts.dtype).eps)
    shortest = _SHORTEST * ts[-1]

    def go_on(now: Walk) -> Bool[Array, ""]:
        return (now.index < times) & (now.steps < max_steps) & ~now.stuck & ~now.left

    def step(now: Walk) -> Walk:
        first, end = now.index == 0, ts[jnp.minimum(now.index, times - 1)]
        h, last = clip(now.h, end - now.t)
        y1, f1, ratio = _attempt(velocity, now.y, now.f, h, rtol)
        refused, leaves = map(jnp.asarray, judge(y1))
        good = all_finite((y1, ratio)) & ~refused
        keep = good & (ratio <= 1)
        factor = jnp.where(good, jnp.clip(_SAFETY * _nonzero(ratio, _SHORTEST) ** (-1 / 8), _LEAST, _MOST), _LEAST)
        proposed = h * jnp.where(keep, factor, jnp.minimum(factor, 1.0))
        # A step that was cut short, to end on a time, says little about how long the next step may be. The next step is
        # then not made shorter than this one was before the cut.
        proposed = jnp.where(keep & (h < now.h), jnp.maximum(proposed, now.h), proposed)
        proposed = jnp.where(first, _first_length(y1, f1, ts[-1]), proposed)
        saves, i = keep & last, jnp.minimum(now.index, times - 1)
        return Walk(
            t=jnp.where(keep, jnp.where(last, end, now.t + h), now.t),
            h=proposed,
            y=where(keep, y1, now.y),
            f=where(keep, f1, now.f),
            saved=jax.tree.map(lambda s, y: s.at[i].set(jnp.where(saves, y, s[i])), now.saved, y1),
            # Of equal times only the first is saved here. It is copied to the others at the end of `solve`.
            index=jnp.where(saves, jnp.searchsorted(ts, end, side="right"), now.index),
            steps=jnp.where(first, now.steps, now.steps + 1),
            # A state at which the velocity is not finite leads nowhere.
            stuck=~keep & (first | (proposed < shortest)),
            left=keep & leaves,
        )

    zero, none, false = jnp.zeros_like(ts[0]), jnp.asarray(0), jnp.asarray(False)
    saved = jax.tree.map(lambda y: jnp.full((times, *y.shape), jnp.inf, y.dtype).at[0].set(y), y0)
    start = Walk(zero, zero, y0, jax.tree.map(jnp.zeros_like, y0), saved, none, none, false, false)
    walk, first = iterate(step, go_on, start), jnp.searchsorted(ts, ts)
    return replace(walk, saved=jax.tree.map(lambda z: z[first], walk.saved))


def _first_length(y: PyTree, f: PyTree, longest: Scalar) -> Scalar:
    """The length of the first step, from the state and its velocity."""
    fastest = _largest(jax.tree.map(lambda f, y: _norms(f) / _nonzero(_norms(y), jnp.inf), f, y))
    h = jnp.where(fastest > 0, _FIRST_MOVE / _nonzero(fastest, 1.0), longest)
    return jnp.where(jnp.isfinite(h), jnp.minimum(h, longest), longest)


def _attempt(
    velocity: Callable[[PyTree], PyTree], y0: PyTree, f0: PyTree, h: Scalar, rtol: Scalar
) -> tuple[PyTree, PyTree, Scalar]:
    """(the state after a step, its velocity there, the estimate of the error in units of the tolerance).

    A step of length 0 needs one stage, which finds the velocity.
    """
    rows, error_weights = jnp.asarray(_ROWS, h.dtype), jnp.asarray(_TABLEAU.b_error, h.dtype)

    # A product with the vector of weights takes longer, to run and to compile.
    def moved(weights: Float[Array, " stages"], ks: PyTree) -> PyTree:
        return jax.tree.map(lambda k: h * sum(weights[i] * k[i] for i in range(_STAGES)), ks)

    # The stages run in a loop, so that the velocity is compiled once and not once for each stage. The last stage is the
    # state at the end of the step.
    def stage(i: Any, carry: PyTree) -> PyTree:
        ks, _, _ = carry
        y = jax.tree.map(jnp.add, y0, moved(rows[i], ks))
        f = velocity(y)
        return jax.tree.map(lambda k, v: k.at[i].set(v), ks, f), y, f

    ks = jax.tree.map(lambda f: jnp.zeros((_STAGES, *f.shape), f.dtype).at[0].set(f), f0)
    stages = jnp.where(any_of_batch(h > 0), _STAGES, 2)
    ks, y1, f1 = jax.lax.fori_loop(1, stages, stage, (ks, y0, f0))
    sizes = jax.tree.map(lambda a, b: _above_rounding(jnp.maximum(_norms(a), _norms(b)), rtol), y0, y1)
    relative = jax.tree.map(lambda e, size: _norms(e) / _nonzero(size, 1.0), moved(error_weights, ks), sizes)
    # The length of a step only decides the accuracy, so no derivative is taken of it.
    return y1, f1, jax.lax.stop_gradient(_largest(relative) / rtol)


def _above_rounding(sizes: Float[Array, "*n"], rtol: Scalar) -> Float[Array, "*n"]:
    """The sizes of the matrices of a stack, none so small that its tolerance is below eps of the largest of the stack.

    A matrix of a stack may be zero by cancellation. Such a matrix is all rounding, which no shorter step reduces. One
    is the change of the momentum along a diagonal geodesic of depth 2 when its start moves along the diagonal.
    """
    if sizes.ndim == 0:
        return sizes
    return jnp.maximum(sizes, jnp.finfo(sizes.dtype).eps / rtol * jnp.max(sizes, initial=0.0))


def _norms(y: Float[Array, "*n _ _"]) -> Float[Array, "*n"]:
    return jnp.sqrt(jnp.sum(jax.lax.stop_gradient(y) ** 2, axis=(-2, -1)))


def _nonzero(x: Float[Array, "*n"], instead: float) -> Float[Array, "*n"]:
    return jnp.where(x > 0, x, instead)


def _largest(tree: PyTree) -> Scalar:
    return jnp.max(jnp.stack([jnp.max(leaf) for leaf in jax.tree.leaves(tree)]))
