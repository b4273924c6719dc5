"""What the integration needs to know of a flow, and the flow in X itself."""

import abc
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import apply_metric_operator
from dlnjax._protocol import gradient
from dlnjax._tree import norm, plain_norm, positive
from dlnjax._types import Matrix, Scalar, State


@runtime_checkable
class Chart(Protocol):
    """Coordinates for the length of one or a few steps, in which the flow is smoother."""

    def enter(self, y: State, /) -> State:
        """The state in the chart."""
        ...

    def leave(self, z: State, dz: State, /) -> tuple[State, State]:
        """The state, and the velocity in the chart of the same gauge around it."""
        ...

    def velocity(self, z: State, /) -> tuple[State, Scalar | None]:
        """dz/dt, and the `unrest` at that point."""
        ...

    def measure(self, z: State, dz: State, /) -> Scalar:
        """The norm of a motion dz at the state z, the same in all units of X."""
        ...


class Coordinates(eqx.Module):
    """A flow in some coordinates. By default they are their own chart, and nothing drifts off a constraint."""

    energy: Callable
    kernel: Kernel
    rtol: Scalar
    # The absolute tolerance, one number, or one for each singular value.
    atol: Float[Array, "*values"]
    # The |dE|_F at which the flow rests; None without a stop.
    rest: Scalar | None

    @abc.abstractmethod
    def velocity(self, y: Any) -> tuple[Any, Scalar | None]:
        """dy/dt, and the `unrest` at that point."""

    def unrest(self, *gradient: Matrix) -> Scalar | None:
        """|dE|_F over that of the stop, and None without one; `gradient` are the parts of dE by which X can move.

        It is measured in this unit, in which a square that overflows is not at rest, and one that vanishes is.
        """
        if self.rest is None:
            return None
        return jnp.sqrt(sum((jnp.sum((part / self.rest) ** 2) for part in gradient), jnp.zeros_like(self.rest)))

    @abc.abstractmethod
    def error(self, y0: Any, y1: Any, error: Any) -> Scalar:
        """An error of a step from `y0` to `y1` in units of the tolerance; homogeneous in `error`."""

    @abc.abstractmethod
    def size(self, y: Any) -> Scalar:
        """The size of X, by which a flow that blows up is told."""

    @abc.abstractmethod
    def loses_rank(self, y0: Any, y1: Any) -> Bool[Array, ""]:
        """Whether a singular value reaches zero in a step, where the kernel does not let it."""

    def measure(self, y: Any, dy: Any) -> Scalar:
        """The norm of a motion dy at y, in units of the size of y."""
        return plain_norm(jax.tree.map(lambda part: part / positive(self.size(y)), dy))

    def gauge(self, y: Any) -> PyTree:
        """What tells a chart around `y` from others."""
        return None

    def chart(self, gauge: PyTree) -> Chart:
        """The chart of that gauge."""
        return self

    def enter(self, y: Any) -> Any:
        return y

    def leave(self, z: Any, dz: Any) -> tuple[Any, Any]:
        return z, dz

    def project(self, y: Any) -> Any:
        """The state back on its constraint, after a step."""
        return y


class MatrixCoordinates(Coordinates):
    """(2.9) divided by N, in X: a decomposition at every evaluation, kept as the independent check."""

    def velocity(self, y: Matrix) -> tuple[Matrix, Scalar | None]:
        g = gradient(self.energy, y)
        return -apply_metric_operator(y, g, self.kernel), self.unrest(g)

    def error(self, y0: Matrix, y1: Matrix, error: Matrix) -> Scalar:
        return norm(error) / (self.atol + self.rtol * jnp.maximum(norm(y0), norm(y1)))

    def size(self, y: Matrix) -> Scalar:
        return norm(y)

    def loses_rank(self, y0: Matrix, y1: Matrix) -> Bool[Array, ""]:
        if y0.shape[-2] != y0.shape[-1]:
            # The matrices of less than full rank do not divide the others: a path goes around them.
            return jnp.asarray(False)
        # At size one: of a 2 x 2 matrix JAX gives a wrong sign where the product of its entries overflows.
        sign = lambda y: jnp.linalg.slogdet(y / jnp.max(jnp.abs(y)))[0]
        return (jnp.asarray(self.kernel.order) > 0) & (sign(y0) * sign(y1) < 0)
