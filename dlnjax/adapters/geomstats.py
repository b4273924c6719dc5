"""A metric for geomstats, whose algorithms then run on this geometry.

It needs `pip install '.[geomstats]'` in a copy of the repository.
"""

from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

import dlnjax as dln
from dlnjax.adapters._shared import kernel_of, require_float64

if TYPE_CHECKING:
    # geomstats has no types, and need not be there where types are checked.
    gs: Any

    class RiemannianMetric:
        def __init__(self, space: Any) -> None: ...

else:
    try:
        import geomstats.backend as gs
        from geomstats.geometry.riemannian_metric import RiemannianMetric
    except ImportError as error:
        needs = "geomstats, which needs NumPy below 2.4: pip install '.[geomstats]' in a copy of the repository."
        raise ImportError(f"dlnjax.adapters.geomstats needs {needs}") from error


class DeepLinearMetric(RiemannianMetric):
    """The metric of `dlnjax.inner` on the square matrices of full rank, such as `GeneralLinear(d)`.

    Leading axes of points and vectors are those of many, and are broadcast, as everywhere in geomstats. Each geodesic
    is searched for in a call of its own.

    **Arguments:** `space`, of matrices `d d`; `depth`, N in [1, inf] or a kernel, usually by
    `space.equip_with_metric(DeepLinearMetric, depth=2)`.

    **Raises:** `ValueError` for a space of other shapes; `RuntimeError` if JAX has no float64.
    """

    depth: Any

    def __init__(self, space: Any, depth: Any):
        if len(space.shape) != 2 or space.shape[0] != space.shape[1]:
            raise ValueError(f"space must have square matrices as points, such as GeneralLinear(d), got {space.shape}.")
        require_float64("geomstats")
        super().__init__(space=space)
        self.depth = depth

    def inner_product(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any = None) -> Any:
        return _each(lambda x, a, b: dln.inner(x, a, b, self.depth), base_point, tangent_vec_a, tangent_vec_b)

    def exp(self, tangent_vec: Any, base_point: Any, **kwargs: Any) -> Any:
        def reach(x: jax.Array, z: jax.Array) -> jax.Array:
            momentum = dln.metric_operator_inverse(x, z, self.depth)
            return dln.exponential(x, momentum, self.depth).x[-1]

        return _each(reach, base_point, tangent_vec)

    def log(self, point: Any, base_point: Any, **kwargs: Any) -> Any:
        def towards(a: jax.Array, b: jax.Array) -> jax.Array:
            return dln.metric_operator(a, dln.logarithm(a, b, self.depth), self.depth)

        return _each(towards, base_point, point)

    def dist(self, point_a: Any, point_b: Any) -> Any:
        return _each(lambda a, b: dln.distance(a, b, self.depth), point_a, point_b)

    def squared_dist(self, point_a: Any, point_b: Any) -> Any:
        return self.dist(point_a, point_b) ** 2

    def parallel_transport(
        self, tangent_vec: Any, base_point: Any, direction: Any = None, end_point: Any = None
    ) -> Any:
        """Transport along the geodesic with velocity `direction`, or else along a shortest one to `end_point`.

        The geodesic of a velocity need not be a shortest one, and is not searched for.
        """
        if direction is None and end_point is None:
            raise ValueError("parallel_transport needs a direction or an end_point, got neither.")

        def along(a: jax.Array, velocity: jax.Array, z: jax.Array) -> jax.Array:
            out = dln.exponential(a, dln.metric_operator_inverse(a, velocity, self.depth), self.depth)
            line = dln.GeodesicSolution(
                a=a,
                b=out.x[-1],
                depth=kernel_of(self.depth),
                momentum=out.momentum[0],
                end_momentum=out.momentum[-1],
                length=dln.norm(a, velocity, self.depth),
                endpoint_error=jnp.zeros(()),
                hamiltonian_drift=out.hamiltonian_drift,
                result=out.result,
                stats=out.stats,
            )
            return dln.transport(line, z)

        def towards(a: jax.Array, b: jax.Array, z: jax.Array) -> jax.Array:
            return dln.transport(dln.geodesic(a, b, self.depth), z)

        if direction is None:
            return _each(towards, base_point, end_point, tangent_vec)
        return _each(along, base_point, direction, tangent_vec)

    def sectional_curvature(self, tangent_vec_a: Any, tangent_vec_b: Any, base_point: Any = None) -> Any:
        def curvature(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
            return dln.sectional_curvature(x, a, b, self.depth)

        return _each(curvature, base_point, tangent_vec_a, tangent_vec_b)

    def scalar_curvature(self, base_point: Any) -> Any:
        return _each(lambda x: dln.scalar_curvature(x, self.depth), base_point)


def _each(f: Callable[..., jax.Array], *matrices: Any) -> Any:
    """f of each of the matrices, over their leading axes, which are broadcast.

    A loop, since one program then serves any number of them. A search that is done takes no time from the others.
    """
    stacks = [np.asarray(z, np.float64) for z in matrices]
    lead = np.broadcast_shapes(*(z.shape[:-2] for z in stacks))
    if 0 in lead:
        raise ValueError(f"points and vectors must be at least one each, got the shapes {[z.shape for z in stacks]}.")
    rows = [np.broadcast_to(z, lead + z.shape[-2:]).reshape(-1, *z.shape[-2:]) for z in stacks]
    found = [np.asarray(f(*map(jax.device_put, row))) for row in zip(*rows, strict=True)]
    return gs.array(np.stack(found).reshape(lead + found[0].shape)) if lead else gs.array(found[0])
