"""The coordinates in which a flow is integrated: the interface `Coordinates`, and the flow in X itself.

- A chart is a second system of coordinates, in which the flow is smoother. It is used for one or a few steps.
- A gauge is the data that picks one chart among several.
- The unrest is |dE|_F divided by the bound of the stop. The flow is at rest where the unrest is at most 1.
"""

import abc
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from dlnjax._geometry.kernel import Kernel
from dlnjax._geometry.operator import apply_metric_operator
from dlnjax._lapack import sign_of_determinant
from dlnjax._protocol import gradient
from dlnjax._tree import norm, plain_norm, positive
from dlnjax._types import Matrix, Scalar, State


@runtime_checkable
class Chart(Protocol):
    """Coordinates for one or a few steps, in which the flow is smoother."""

    def enter(self, y: State, /) -> State:
        """The state `y` in the coordinates of the chart."""
        ...

    def leave(self, z: State, dz: State, /) -> tuple[State, State]:
        """(the state outside of the chart, the velocity `dz` in the chart of the same gauge around that state)."""
        ...

    def velocity(self, z: State, /) -> tuple[State, Scalar | None]:
        """(dz/dt, the unrest at `z`)."""
        ...

    def measure(self, z: State, dz: State, /) -> Scalar:
        """The norm of a motion `dz` at the state `z`. It does not depend on the unit of X."""
        ...

    def displacement(self, z: State, dz: State, /) -> Scalar:
        """|dX|_F / |X| of a motion `dz` at the state `z`, to first order, where |X| is `size`."""
        ...

    def determined(self, z: State, dz: State, /) -> State:
        """An error `dz` at the state `z`, in which motions that move X by rounding alone count less or not at all."""
        ...


class Coordinates(eqx.Module):
    """A flow in some coordinates.

    By default these coordinates are the only chart, and `project` changes nothing, since there is no constraint.
    """

    energy: Callable
    kernel: Kernel
    rtol: Scalar
    # The absolute tolerance: one number, or one number for each singular value.
    atol: Float[Array, "*values"]
    # The flow counts as at rest where |dE|_F is at most this number. It is 0 for a flow without a stop, and None where
    # steps are chosen for a derivative.
    rest: Scalar | None

    @abc.abstractmethod
    def velocity(self, y: Any) -> tuple[Any, Scalar | None]:
        """(dy/dt, the unrest at `y`)."""

    def unrest(self, *gradient: Float[Array, "_ _"]) -> Scalar | None:
        """The unrest, |dE|_F / `rest`, where `gradient` has the parts of dE that move X. Without a stop it is infinite.

        The gradient is divided by `rest` before its entries are squared. A square that then overflows means that the
        flow is not at rest, and a square that vanishes means that it is, so that neither gives a wrong answer.
        """
        if self.rest is None:
            return None
        # One division and many products are faster than many divisions.
        inverse = 1 / positive(self.rest)
        # The rows are added up first, which is faster on a CPU than a sum of all entries at once.
        squares = [jnp.sum(jnp.sum((part * inverse) ** 2, axis=1)) for part in gradient]
        unrest = jnp.sqrt(sum(squares, jnp.zeros_like(inverse)))
        return jnp.where(self.rest > 0, unrest, jnp.inf)

    @abc.abstractmethod
    def error(self, y0: Any, y1: Any, error: Any) -> Scalar:
        """The size of `error` in units of the tolerance, for a step from `y0` to `y1`.

        It must be homogeneous in `error`, since `start_flow` divides a velocity by its size first.
        """

    @abc.abstractmethod
    def size(self, y: Any) -> Scalar:
        """The size of X, from which a flow that blows up is recognised."""

    @abc.abstractmethod
    def loses_rank(self, y0: Any, y1: Any) -> Bool[Array, ""]:
        """Whether a singular value reaches zero in a step although the exact flow of this kernel cannot reach zero."""

    def measure(self, y: Any, dy: Any) -> Scalar:
        """The norm of a motion `dy` at the state `y`, divided by the size of X."""
        return plain_norm(jax.tree.map(lambda part: part / positive(self.size(y)), dy))

    def displacement(self, y: Any, dy: Any) -> Scalar:
        """|dX|_F / |X| of a motion `dy` at the state `y`, to first order."""
        return self.measure(y, dy)

    def determined(self, y: Any, dy: Any) -> Any:
        """An error `dy` at the state `y`, in which motions that move X by rounding alone count less or not at all."""
        return dy

    def gauge(self, y: Any) -> PyTree:
        """The gauge that picks the chart around `y`, or None if there is only one chart."""
        return None

    def chart(self, gauge: PyTree) -> Chart:
        """The chart that `gauge` picks."""
        return self

    def enter(self, y: Any) -> Any:
        return y

    def leave(self, z: Any, dz: Any) -> tuple[Any, Any]:
        return z, dz

    def misfit(self, chart: Chart, y: Any, z: Any, dz: Any) -> Bool[Array, ""]:
        """Whether other coordinates would take longer steps, at the state `y`, which is `z` in the chart.

        `dz` is what limits the steps: the error of one whose length its tolerance sets, or else the fastest motion.
        """
        return jnp.asarray(False)

    def project(self, y: Any, stiff: bool) -> Any:
        """The state after a step, moved back to its constraint. The columns of a frame must be orthonormal.

        In a `stiff` flow X must stay where it is, to first order: a flow that is stiff answers each move of X.
        """
        return y


class MatrixCoordinates(Coordinates):
    """The flow of X itself, (2.9) divided by N. It decomposes X at every evaluation, and is an independent check."""

    def velocity(self, y: Matrix) -> tuple[Matrix, Scalar | None]:
        g = gradient(self.energy, y)
        return -apply_metric_operator(y, g, self.kernel), self.unrest(g)

    def error(self, y0: Matrix, y1: Matrix, error: Matrix) -> Scalar:
        return norm(error) / (self.atol + self.rtol * jnp.maximum(norm(y0), norm(y1)))

    def size(self, y: Matrix) -> Scalar:
        return norm(y)

    def loses_rank(self, y0: Matrix, y1: Matrix) -> Bool[Array, ""]:
        if y0.shape[-2] != y0.shape[-1]:
            # Matrices of lower rank do not separate the others where X is not square. A path can go around them, so
            # that no crossing is looked for.
            return jnp.asarray(False)
        return (jnp.asarray(self.kernel.order) > 0) & (sign_of_determinant(y0) * sign_of_determinant(y1) < 0)
