"""Broyden's method for f(w) = 0: C. G. Broyden, Math. Comp. 19 (1965). Its steps are damped.

One call of f computes one geodesic, and the Jacobian of f would cost as much as 2 d^2 geodesics. The method starts from
an approximate inverse of the Jacobian, and corrects this inverse after each call.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dlnjax._results import code_of, RESULTS
from dlnjax._tree import norm, where
from dlnjax._types import Scalar

# A step that does not make |f| smaller divides the damping by this factor. A step that does multiplies it, up to 1.
_DAMP = 4.0
# A call counts as progress where it makes |f| smaller by this factor.
_PROGRESS = 0.5
# This number replaces each entry of f where f has no value. It is far larger than any value near a solution, but
# finite, so that no NaN arises.
_NO_VALUE = 1e3


class Value(eqx.Module):
    """The result of a call of f: f(w), `successful` or why f is not defined at w (`flaw`), the cost of the call, and
    other results."""

    f: Float[Array, " n"]
    flaw: RESULTS
    cost: Int[Array, ""]
    other: Any

    @property
    def good(self) -> Bool[Array, ""]:
        """Whether f is defined at w."""
        return self.flaw == RESULTS.successful


class Search(eqx.Module):
    """The state of Broyden's method: the best `w` so far, f at that point, and the inverse of the Jacobian.

    `damping` multiplies the next step; `stuck` counts the calls since the last progress; `calls` and `cost` count all
    of them. `fresh` says that f was not called yet, `failed` that its first call had no value, and `flaw` why the last
    call had none.
    """

    w: Float[Array, " n"]
    f: Float[Array, " n"]
    inverse: Float[Array, "n n"]
    damping: Scalar
    stuck: Int[Array, ""]
    calls: Int[Array, ""]
    cost: Int[Array, ""]
    fresh: Bool[Array, ""]
    failed: Bool[Array, ""]
    flaw: RESULTS
    other: Any

    @classmethod
    def at(cls, w: Float[Array, " n"], inverse: Float[Array, "n n"], other: Any) -> "Search":
        """The state before the first call. `other` gives the shapes of what a call returns beside f."""
        none, true, no_flaw = jnp.asarray(0), jnp.asarray(True), code_of((True, RESULTS.successful))
        return cls(w, jnp.zeros_like(w), inverse, jnp.ones((), w.dtype), none, none, none, true, ~true, no_flaw, other)

    def again(self, w: Float[Array, " n"]) -> "Search":
        """The state before the first call of another f, at `w`. The inverse of the Jacobian and the counts are kept."""
        start = Search.at(w, self.inverse, self.other)
        return eqx.tree_at(lambda s: (s.calls, s.cost), start, (self.calls, self.cost))


def improve(f: Callable[[Float[Array, " n"]], Value], now: Search) -> Search:
    """Call f at a quasi-Newton step from the best `w`, and update the inverse of the Jacobian by the result.

    The first call is at the start itself.
    """
    move = -now.inverse @ now.f
    # No step is longer than `w` itself. The Jacobian says nothing about f farther away.
    limit = jnp.minimum(1.0, norm(now.w) / jnp.maximum(norm(move), jnp.finfo(now.w.dtype).tiny))
    move = jnp.where(now.fresh, 0.0, move * (now.damping * limit))
    value = f(now.w + move)
    found = jnp.where(value.good, value.f, _NO_VALUE)
    update, learnt = _rank_one(now, move, found)
    learnt &= value.good & ~now.fresh
    better = now.fresh | (value.good & (norm(found) < norm(now.f)))
    progress = now.fresh | (better & (norm(found) < _PROGRESS * norm(now.f)))
    w, best, other = where(better, (now.w + move, found, value.other), (now.w, now.f, now.other))
    damping = jnp.where(better, jnp.minimum(1.0, _DAMP * now.damping), now.damping / _DAMP)
    return Search(
        w=w,
        f=best,
        inverse=jnp.where(learnt, now.inverse + update, now.inverse),
        damping=damping,
        stuck=jnp.where(progress, 0, now.stuck + 1),
        calls=now.calls + 1,
        cost=now.cost + value.cost,
        fresh=jnp.asarray(False),
        failed=now.fresh & ~value.good,
        flaw=value.flaw,
        other=other,
    )


def _rank_one(
    now: Search, move: Float[Array, " n"], found: Float[Array, " n"]
) -> tuple[Float[Array, "n n"], Bool[Array, ""]]:
    """(Broyden's change of the inverse, by the formula of Sherman and Morrison; whether it is finite).

    Broyden's method makes the smallest change of the Jacobian, in the Frobenius norm, after which the inverse maps the
    change of f to `move`. This change has rank one.
    """
    back = now.inverse @ (found - now.f)
    scale = move @ back
    update = jnp.outer(move - back, move @ now.inverse) / jnp.where(scale == 0, 1.0, scale)
    return update, (scale != 0) & jnp.all(jnp.isfinite(update))
