"""The flow on the fibre that balances the factors of a network."""

from collections.abc import Sequence
from typing import Any

import diffrax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from dlnjax._checks import as_count, require
from dlnjax._modes import integrated_both_ways
from dlnjax._networks.chain import as_weights, dtype_of, each, require_finite_weights, sizes_of
from dlnjax._networks.cores import cores_of, restored
from dlnjax._networks.factors import balancedness_of_stack
from dlnjax._solver import as_tolerance
from dlnjax._tree import norm, own_arithmetic
from dlnjax._types import Layer, Number, Scalar, Stack, Weights

# The end of the flow on the fibre. An event ends that flow before, but diffrax asks for an end all the same.
NEVER = 1e12


def balance(weights: Weights | Sequence[ArrayLike], *, rtol: Number | None = None, max_steps: int = 10_000) -> Weights:
    """The balanced factors of the same product to which the least-norm flow on the fibre leads,

        dW_p/dt = -(G_p W_p - W_p G_{p-1}),    G_0 = G_N = 0,    G_p as in `balancedness`:

    X stays in place, and sum |W_p|^2 falls to its minimum, N sum sigma^(2/N) (Remark 2.1.4). Before the flow starts,
    each factor is multiplied by a number so that all have one Frobenius norm: from norms far apart the flow is stiff.
    Source: K. Lindsey and G. Menon, the flow of theirs whose limit is the balanced point of the fibre.

    A layer that is wider than the rank of X has parts that X does not see. The flow takes these parts to 0 at a rate
    that falls to 0 as well, and never arrives. So they are left out before the flow starts: each layer keeps the space
    that the narrowest layer reaches.

    **Arguments:** `weights`, W_1 first, a stack `N d d` or a sequence of matrices that chain, whose product has the
    largest rank that the widths allow; `rtol`, the error of a step, and the |G| relative to |W|^2 at which the flow
    ends, by default 1e-12 in float64 and 1e-5 in float32; `max_steps`.

    **Returns:** the factors, in the form in which they were given. They have derivatives in both modes, and second
    ones.

    **Raises:** `ValueError` or `TypeError` if `weights` is neither a stack of real, finite square matrices nor a
    sequence of real, finite matrices that chain, or if the product has lower rank, from where the flow need not arrive;
    an error if `max_steps` are not enough.

    **Example:**

        >>> weights = jnp.stack([jnp.eye(2), 4 * jnp.eye(2)])
        >>> balanced = dln.balance(weights)
        >>> balanced.round(6).tolist()
        [[[2.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 2.0]]]
        >>> dln.product(dln.balance([jnp.ones((1, 2)), 4 * jnp.ones((1, 1))])).round(6).tolist()
        [[4.0, 4.0]]
    """
    weights = require_finite_weights(as_weights(weights))
    if len(weights) == 1:
        return weights
    dtype = dtype_of(weights)
    rtol = as_tolerance("rtol", (1e-12 if dtype == jnp.float64 else 1e-5) if rtol is None else rtol).astype(dtype)
    with own_arithmetic():
        frames, cores = cores_of(weights)
        out, arrived = _balance(frames, cores, rtol, as_count("max_steps", max_steps))
    message = (
        "the factors are not balanced after max_steps: raise it, or loosen rtol. The number of steps grows with the "
        "square of the condition number of a factor."
    )
    return require(out, ~arrived, message)


@integrated_both_ways
def _balance(
    frames: tuple[Layer, ...] | None,
    weights: Stack,
    rtol: Scalar,
    max_steps: int,
    *,
    adjoint: diffrax.AbstractAdjoint,
) -> tuple[Weights, Bool[Array, ""]]:
    # In these units every factor has norm 1, and the fastest rate is near 1. At the end each factor gets the geometric
    # mean of the units. Their product may be beyond the floats, and the sum of their logarithms is not.
    unit = sizes_of(weights)
    common = jnp.exp(jnp.mean(jnp.log(unit)))

    def velocity(t: Any, weights: Stack, args: Any) -> Stack:
        g = jnp.pad(balancedness_of_stack(weights), ((1, 1), (0, 0), (0, 0)))
        return weights @ g[:-1] - g[1:] @ weights

    def balanced(rtol: Scalar, t: Any, weights: Stack, args: Any, **kwargs: Any) -> Bool[Array, ""]:
        return norm(balancedness_of_stack(weights)) <= rtol * jnp.sum(weights**2)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(velocity),
        diffrax.Dopri8(),
        # In the precision of the factors, which a time in another would take over.
        t0=jnp.zeros_like(rtol),
        t1=jnp.full_like(rtol, NEVER),
        dt0=None,
        y0=each(jnp.divide, weights, unit),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
        event=diffrax.Event(Partial(balanced, rtol)),
        adjoint=adjoint,
        max_steps=max_steps,
        throw=False,
    )
    last: Any = solution.ys
    return restored(frames, common * last[0]), balanced(rtol, 0.0, last[0], None)
