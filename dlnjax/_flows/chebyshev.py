"""Runge-Kutta-Chebyshev: an explicit method for stiff problems with a real spectrum, as gradient flows have.

B. P. Sommeijer, L. F. Shampine and J. G. Verwer, RKC: an explicit solver for parabolic PDEs, J. Comput. Appl. Math. 88
(1998), "the paper" below. The method has order two. With s evaluations a step of length 0.65 s^2 over the spectral
radius is stable; the stable steps of other explicit methods grow only like s.
"""

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from dlnjax._tree import any_of_batch, combine, norm, plain_norm
from dlnjax._types import Scalar, State

# A norm of a motion of the state.
Measure: TypeAlias = Callable[[State], Scalar]

# The damping parameter epsilon of the method, with the value of the paper.
_DAMPING = 2 / 13
# A step may have this many stages at any tolerance. Rounding errors in the recurrence are then hardly noticeable.
MAX_STAGES = 200


def most_stages(rtol: Scalar) -> Scalar:
    """The largest number of stages of a step, by the rule of the code of the paper.

    Rounding errors in the recurrence grow like the square of the stages. Up to this number they stay below a tenth of
    the tolerance.
    """
    return jnp.maximum(jnp.floor(jnp.sqrt(rtol / (10 * jnp.finfo(rtol.dtype).eps))), MAX_STAGES)


def stage_count(reach: Scalar, most: Scalar | int = MAX_STAGES) -> Int[Array, ""]:
    """The smallest number of stages, up to `most`, with which a step is stable.

    `reach` is h times the spectral radius.
    """
    return jnp.clip(1 + jnp.floor(jnp.sqrt(1.54 * reach + 1)), 2, most).astype(int)


def longest_step(radius: Scalar, most: Scalar | int = MAX_STAGES) -> Scalar:
    """The longest step that is stable with `most` stages."""
    return 0.64 * (most**2 - 1) / radius


class Recurrence(eqx.Module):
    """The recurrence over the states Y_0, ..., Y_s of one step, where s is `stages`, at number `j`.

    `newer` is Y_j, at which the velocity is evaluated next, and `older` is Y_{j-1}.
    """

    stages: Int[Array, "*n"]
    j: Int[Array, "*n"]
    older: State
    newer: State
    # The Chebyshev polynomial T_j and its first two derivatives at w0, and in the second row those of T_{j-1}.
    chebyshev: Float[Array, "*n 2 3"]
    # The coefficients b_j and b_{j-1} of the paper.
    b: Float[Array, "*n 2"]

    @property
    def node(self) -> Scalar:
        """c_j: the time of Y_j, as a fraction of the step."""
        _, w1 = _nodes(self.stages, self.b.dtype)
        _, slope, curvature = self.chebyshev[0]
        return jnp.where(self.j == 1, self.b[0] * w1, w1 * curvature / slope)

    @property
    def complete(self) -> Bool[Array, ""]:
        """Whether `newer` is the state at the end of the step."""
        return self.j == self.stages


def _nodes(stages: Int[Array, ""], dtype: Any):
    s = stages.astype(dtype)
    w0 = 1 + _DAMPING / s**2
    root = jnp.sqrt(w0 * w0 - 1)
    angle = s * jnp.arccosh(w0)
    w1 = jnp.sinh(angle) * root**2 / (jnp.cosh(angle) * s * root - w0 * jnp.sinh(angle))
    return w0, w1


def first_stage(y0: State, f0: State, h: Scalar, stages: Int[Array, ""]) -> Recurrence:
    w0, w1 = _nodes(stages, h.dtype)
    one, zero = jnp.ones_like(w0), jnp.zeros_like(w0)
    b = 1 / (4 * w0 * w0)
    return Recurrence(
        stages=stages,
        j=jnp.ones_like(stages),
        older=y0,
        newer=combine((one, y0), (b * w1 * h, f0)),
        chebyshev=jnp.stack([jnp.stack([w0, one, zero]), jnp.stack([one, zero, zero])]),
        b=jnp.stack([b, b]),
    )


def next_stage(r: Recurrence, y0: State, f0: State, f: State, h: Scalar) -> Recurrence:
    """The recurrence at Y_{j+1}, from the recurrence `r` at Y_j and f = velocity(Y_j)."""
    w0, w1 = _nodes(r.stages, h.dtype)
    one, two = r.chebyshev
    ladder = jnp.stack([jnp.zeros_like(w0), 2 * one[0], 4 * one[1]])
    new = 2 * w0 * one - two + ladder
    b = jnp.where(r.j == 1, r.b[0], new[2] / new[1] ** 2)
    mu, nu = 2 * b * w0 / r.b[0], -b / r.b[1]
    mu_tilde = 2 * b * w1 / r.b[0]
    gamma_tilde = -(1 - r.b[0] * one[0]) * mu_tilde
    return Recurrence(
        stages=r.stages,
        j=r.j + 1,
        older=r.newer,
        newer=combine((1 - mu - nu, y0), (mu, r.newer), (nu, r.older), (mu_tilde * h, f), (gamma_tilde * h, f0)),
        chebyshev=jnp.stack([new, one]),
        b=jnp.stack([b, r.b[0]]),
    )


def local_error(y0: State, y1: State, f0: State, f1: State, h: Scalar) -> State:
    """The estimate of the error of a step that the paper gives: the leading term of the error."""
    return combine((0.8, y0), (-0.8, y1), (0.4 * h, f0), (0.4 * h, f1))


def hermite(y0: State, y1: State, f0: State, f1: State, h: Scalar, theta: Scalar) -> State:
    """The cubic Hermite polynomial through both ends of a step, at the fraction `theta` of the step."""
    rest = 1 - theta
    return combine(
        (rest * rest * (1 + 2 * theta), y0),
        (theta * theta * (3 - 2 * theta), y1),
        (theta * rest * rest * h, f0),
        (-theta * theta * rest * h, f1),
    )


class PowerIteration(eqx.Module):
    """A power iteration for the spectral radius of the derivative of the velocity.

    A difference quotient replaces the product of the derivative with `direction`, so one iteration costs one
    evaluation. `settled` says that the last iteration changed `radius` by at most a tenth, or that it failed. In the
    methods, `measure` is the norm of a motion, and `size` is the norm of the state itself.
    """

    direction: State
    radius: Float[Array, "*n"]
    settled: Bool[Array, "*n"]

    @staticmethod
    def start(f0: State, radius: Scalar) -> "PowerIteration":
        return PowerIteration(f0, radius, jnp.asarray(False))

    def _step(self, y0: State, size: Scalar, measure: Measure) -> tuple[State, Scalar, Scalar]:
        """(the direction, its norm, the factor by which it is multiplied before it is added to the state)."""
        length = measure(self.direction)
        root = jnp.sqrt(jnp.finfo(length.dtype).eps)
        # The first direction is that of the velocity. At rest the velocity is zero, and the state is taken instead, as
        # a power iteration may start from any direction.
        direction = jax.tree.map(lambda v, y: jnp.where(length > 0, v, y), self.direction, y0)
        length = jnp.where(length > 0, length, jnp.maximum(size, jnp.finfo(length.dtype).tiny))
        return direction, length, root * jnp.maximum(size, root) / length

    def probe(self, y0: State, size: Scalar, measure: Measure) -> State:
        """The point near `y0` at which the velocity is evaluated next."""
        direction, _, scale = self._step(y0, size, measure)
        return combine((1.0, y0), (scale, direction))

    def update(self, y0: State, f0: State, f: State, size: Scalar, measure: Measure, h: Scalar) -> "PowerIteration":
        """The iteration after f = velocity(probe) is known.

        `h` is a time in which the state moves by about its size. Velocities are multiplied by `h` before they are
        squared, so that the squares stay in the range of the floats.
        """
        _, length, scale = self._step(y0, size, measure)
        image = combine((h / scale, f), (-h / scale, f0))
        stretch = measure(image)
        radius = stretch / length / h
        settled = jnp.abs(radius - self.radius) <= 0.1 * radius
        good = jnp.isfinite(radius) & (radius > 0)
        # The direction is scaled to length one, so that it does not overflow after many iterations.
        image = jax.tree.map(lambda v: v / jnp.where(good, stretch, 1.0), image)
        keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        return PowerIteration(keep(image, self.direction), keep(radius, self.radius), settled | ~good)


class RungeKuttaChebyshev(diffrax.AbstractAdaptiveSolver[Any]):
    """The stabilised explicit method RKC2 for diffrax, for stiffness from a real, negative spectrum.

    The number of stages of a step, at most 200, follows from the length of the step and the spectral radius. A power
    iteration estimates the spectral radius. The method is not suited to oscillations, and it is not differentiable in
    reverse mode. Use it as any diffrax solver:

        diffrax.diffeqsolve(term, dlnjax.RungeKuttaChebyshev(), ..., stepsize_controller=diffrax.PIDController(...))

    **Example:**

        >>> rates = jnp.array([1.0, 1e4])
        >>> term = diffrax.ODETerm(lambda t, y, args: -rates * y)
        >>> controller = diffrax.PIDController(rtol=1e-6, atol=1e-8)
        >>> out = diffrax.diffeqsolve(
        ...     term, dln.RungeKuttaChebyshev(), 0.0, 5.0, None, jnp.ones(2), stepsize_controller=controller
        ... )
        >>> print(f"{out.ys[-1, 0]:.5f} = exp(-5), after fewer than 1000 steps: {int(out.stats['num_steps']) < 1000}")
        0.00674 = exp(-5), after fewer than 1000 steps: True
    """

    term_structure: ClassVar[Any] = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.ThirdOrderHermitePolynomialInterpolation

    def order(self, terms: Any) -> int:
        """The order of accuracy of the method."""
        return 2

    def error_order(self, terms: Any) -> int:
        """The order of the error estimate of a step."""
        return 3

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """What the solver keeps from step to step: its power iteration for the spectral radius."""
        return PowerIteration.start(terms.vf(t0, y0, args), jnp.zeros_like(t0))

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The vector field of the problem at (t0, y0)."""
        return terms.vf(t0, y0, args)

    def step(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any) -> Any:
        """Take one step. Its error is infinite if the step would need more stages than are allowed."""
        del made_jump
        h = jnp.asarray(t1 - t0)
        f0 = terms.vf(t0, y0, args)

        def another(carry: PyTree):
            power, count = carry
            return any_of_batch(~power.settled & (count < 30))

        def estimate(carry: PyTree):
            power, count = carry
            new = power.update(y0, f0, terms.vf(t0, power.probe(y0, size, plain_norm), args), size, plain_norm, h)
            done = power.settled | (count >= 30)
            return jax.tree.map(lambda a, b: jnp.where(done, a, b), power, new), count + 1

        size = norm(y0)
        fresh = eqx.tree_at(lambda p: p.settled, solver_state, jnp.asarray(False))
        power, _ = jax.lax.while_loop(another, estimate, (fresh, jnp.asarray(0)))
        radius = 1.2 * power.radius
        # If a step needs more than `MAX_STAGES` stages, it gets that many and is unstable. Its error is then set to
        # infinity, so that the step is rejected.
        stages = stage_count(h * radius)

        def advance(r: PyTree):
            new = next_stage(r, y0, f0, terms.vf(t0 + r.node * h, r.newer, args), h)
            return jax.tree.map(lambda a, b: jnp.where(r.complete, a, b), r, new)

        r = jax.lax.while_loop(lambda r: any_of_batch(~r.complete), advance, first_stage(y0, f0, h, stages))
        y1 = r.newer
        f1 = terms.vf(t1, y1, args)
        error = local_error(y0, y1, f0, f1, h)
        too_long = h > longest_step(radius)
        error = jax.tree.map(lambda e: jnp.where(too_long, jnp.inf, e), error)
        dense = {"y0": y0, "y1": y1, "k0": combine((h, f0)), "k1": combine((h, f1))}
        return y1, error, dense, power, diffrax.RESULTS.successful
