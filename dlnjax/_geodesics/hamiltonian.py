"""The Hamiltonian flow of the metric, (3.46), in the point X and the orthonormal momentum W = A_X^{1/2}(P).

|W| is the constant speed of the geodesic, and an error in any entry of W, in the frame of X, changes the length alike.
In P it would not: its entries are those of W over the roots of lambda, which span the range of the singular values.
"""

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from dlnjax._geometry.differences import first_difference, squares, values
from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import densities, form_gradient, in_x, into, moved, out_of, turned
from dlnjax._svd import singular_values, svd
from dlnjax._types import Matrix, Scalar

# Rank is lost where the smallest singular value over the largest falls by the first factor below that of the start, or
# below it of the second if the start is better conditioned; and where no more than these roundings are left of it.
_FALL, _ORDINARY, _ROUNDINGS = 1e-3, 1e-5, 4
# Where the solver has stalled, a smaller fall is enough; and rounding alone spoils its steps once the ratio is below
# eps / rtol, with a margin.
_STALLED_FALL, _UNRESOLVED = 0.1, 1e3
# The shortest step, of a geodesic that lasts 1: below it the time of a step is lost in rounding.
_SHORTEST = 1e-12


def velocity(x: Matrix, p: Matrix, kernel: Kernel) -> tuple[Matrix, Matrix]:
    """(dX/dt, dP/dt) = (A_X(P), -dH/dX), (3.46) divided by N; its derivative is exact at any singular values."""
    by_x, by_p, _ = form_gradient(x, p, p, kernel, power=1)
    return by_p, -by_x / 2


def orthonormal_velocity(x: Matrix, w: Matrix, kernel: Kernel) -> tuple[Matrix, Matrix]:
    """(dX/dt, dW/dt): W moves with P, and with the root of the operator."""
    point = svd(x)
    sigma, s = point.sigma, squares(point.sigma)
    root = jnp.sqrt(values(s, kernel, 1))
    w = into(point, w)
    g, m = w / root, root * w
    force = -in_x(sigma, *densities(first_difference(s, kernel, 1), g, g)) / 2
    turning = turned(first_difference(s, kernel, 0.5), g, *moved(m, sigma))
    return out_of(point, m), out_of(point, root * force + turning)


class Path(eqx.Module):
    """Where the flow was at the times asked for, and how it ended."""

    x: Float[Array, "times d d"]
    w: Float[Array, "times d d"]
    t_end: Scalar
    lost_rank: Bool[Array, ""]
    finished: Bool[Array, ""]
    exhausted: Bool[Array, ""]
    steps: Int[Array, ""]


class BlockDopri8(diffrax.AbstractAdaptiveSolver[Any]):
    """Dopri8, with errors relative to the norm of each block of the state.

    Errors relative to each entry would ask for the smallest steps where an entry is zero or crosses it.
    """

    solver: diffrax.Dopri8 = diffrax.Dopri8(scan_kind="lax")
    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = diffrax.Dopri8.interpolation_cls

    def order(self, terms):
        return self.solver.order(terms)

    def init(self, terms, t0, t1, y0, args):
        return self.solver.init(terms, t0, t1, y0, args)

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y1, error, dense, state, result = self.solver.step(terms, t0, t1, y0, args, solver_state, made_jump)
        size = lambda y: jnp.sqrt(jnp.sum(y * y, axis=(-2, -1), keepdims=True))
        relative = lambda e, a, b: e / jnp.maximum(jnp.maximum(size(a), size(b)), jnp.finfo(e.dtype).tiny)
        error = jax.tree.map(relative, error, y0, y1)
        too_long = ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(z)) for z in jax.tree.leaves((y1, error))]))
        if args is not None:
            # A step that changes the sign of the determinant has crossed the boundary, which no geodesic does.
            too_long |= args & (jnp.linalg.slogdet(y0[0])[0] * jnp.linalg.slogdet(y1[0])[0] < 0)
        error = jax.tree.map(lambda e: jnp.where(too_long, 1.0, e), error)
        return y1, error, dense, state, result


def largest(error: Any) -> Scalar:
    """The largest of the errors of the blocks."""
    return jnp.max(jnp.stack([jnp.sqrt(jnp.max(jnp.sum(e * e, axis=(-2, -1)))) for e in jax.tree.leaves(error)]))


def ratio(x: Matrix) -> Scalar:
    """Of the smallest singular value to the largest; 1 for what is not finite."""
    sigma = singular_values(x)
    return jnp.where(jnp.isnan(sigma[0]), 1.0, sigma[-1] / sigma[0])


def integrate(
    x: Matrix, w: Matrix, kernel: Kernel, ts: Float[Array, " times"], rtol: Scalar, *, max_steps: int = 4096
) -> Path:
    """The flow from (X, W) at the first of `ts`: the states at each time, then the last state.

    States at times that it does not reach are infinite.
    """
    eps, start = jnp.finfo(x.dtype).eps, ratio(x)
    floor = jnp.maximum(_FALL * jnp.minimum(_ORDINARY, start), _ROUNDINGS * eps)
    stalled = jnp.maximum(jnp.minimum(_UNRESOLVED * eps / rtol, _STALLED_FALL * start), floor)
    order = jnp.asarray(kernel.order)
    bounded = (order > 0) & (order < 2)

    # What diffrax calls has its arrays as arguments: `jax.checking_leaks` takes those of a closure for leaks.
    def field(kernel, t, y, args):
        return orthonormal_velocity(y[0], y[1], kernel)

    def lost(where, t, y, args, **kwargs):
        bounded, floor = where
        return bounded & (ratio(y[0]) <= floor)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(Partial(field, kernel)),
        BlockDopri8(),
        t0=ts[0],
        t1=ts[-1],
        dt0=None,
        y0=(x, w),
        args=bounded,
        saveat=diffrax.SaveAt(subs=[diffrax.SubSaveAt(ts=ts), diffrax.SubSaveAt(t1=True)]),
        stepsize_controller=diffrax.PIDController(
            rtol=0.0, atol=rtol, norm=largest, dtmin=_SHORTEST, force_dtmin=False
        ),
        event=diffrax.Event(Partial(lost, (bounded, floor))),
        adjoint=diffrax.ForwardMode(),
        max_steps=max_steps,
        throw=False,
    )
    states: Any = solution.ys
    times: Any = solution.ts
    x, w = (jnp.concatenate(z) for z in zip(*states, strict=True))
    reached = solution.result == diffrax.RESULTS.successful
    lost_rank = bounded & (ratio(x[-1]) <= jnp.where(reached, floor, stalled))
    return Path(
        x=x,
        w=w,
        t_end=times[1][-1],
        lost_rank=lost_rank,
        finished=reached & ~lost_rank,
        exhausted=solution.result == diffrax.RESULTS.max_steps_reached,
        steps=solution.stats["num_steps"],
    )
