"""A manifold for pymanopt, whose optimisers then run on this geometry.

It needs `pip install '.[pymanopt]'` in a copy of the repository.
"""

from typing import Any, TYPE_CHECKING

import jax
import numpy as np

import dlnjax as dln
from dlnjax.adapters._shared import kernel_of, require_float64

if TYPE_CHECKING:
    # pymanopt has no types, and need not be there where types are checked.
    class Manifold:
        dim: int

        def __init__(self, name: str, dimension: int) -> None: ...

else:
    try:
        from pymanopt.manifolds.manifold import Manifold
    except ImportError as error:
        raise ImportError(
            "dlnjax.adapters.pymanopt needs pymanopt: pip install '.[pymanopt]' in a copy of the repository."
        ) from error


# A singular value below this part of the largest counts as 0, since the points of an optimiser come with rounding.
_ROUNDING = 1e-8


def _array(z: Any) -> jax.Array:
    return jax.device_put(np.asarray(z, np.float64))


class DeepLinear(Manifold):
    """The matrices `m n` of full rank, or of a given rank, with the metric of `dlnjax.inner`.

    Points and tangent vectors are NumPy arrays `m n`. The gradient is A_X(dE), and the retraction is the exponential.
    Where a geodesic loses rank, the retraction is the last good point of it. The transport is the projection onto the
    tangent space, which is no isometry.

    The Hessian, which `TrustRegions` needs, and `log`, `dist` and `pair_mean` are those of square matrices of full
    rank. Elsewhere use an optimiser of first order, such as `ConjugateGradient`.

    **Arguments:** `m`, `n`; `depth`, N in [1, inf] or a kernel; `rank`, r, by default min(m, n).

    **Raises:** `ValueError` for a rank above min(m, n), or at infinite depth for matrices that are not square of full
    rank, as their column and row spaces never turn; `RuntimeError` if JAX has no float64.
    """

    m: int
    n: int
    rank: int
    depth: Any

    def __init__(self, m: int, n: int, depth: Any, *, rank: int | None = None):
        r = min(m, n) if rank is None else rank
        if not 1 <= r <= min(m, n):
            raise ValueError(f"rank must be from 1 to {min(m, n)} for {m} x {n} matrices, got {rank}.")
        require_float64("pymanopt")
        self.m, self.n, self.rank, self.depth = m, n, int(r), depth
        self._square = m == n == r
        kernel = kernel_of(depth)
        if not self._square and isinstance(kernel, dln.Balanced) and kernel.inverse_depth == 0:
            raise ValueError(
                f"at infinite depth the column and the row space of {m} x {n} matrices of rank {r} never turn. Use a "
                f"finite depth, or the {r} x {r} matrices U^T X V between fixed spaces: DeepLinear({r}, {r}, inf)."
            )
        super().__init__(f"{m} x {n} matrices of rank {r}, depth {depth}", r * (m + n - r))

    @property
    def typical_dist(self) -> float:
        return float(np.sqrt(self.dim))

    def _at(self, at: np.ndarray) -> Any:
        x = np.asarray(at, np.float64)
        if x.shape != (self.m, self.n):
            raise ValueError(f"a point must have the shape {(self.m, self.n)} of {self}, got {x.shape}.")
        if self._square:
            return _array(x)
        point = dln.svd(_array(x))
        sigma = np.asarray(point.sigma)
        if not (sigma[self.rank - 1] > 0 and (sigma[self.rank :] <= _ROUNDING * sigma[0]).all()):
            raise ValueError(
                f"a point must have rank {self.rank} to {_ROUNDING:g} of its size, got the singular values "
                f"{np.array2string(sigma, precision=3)}. A matrix is brought there by dlnjax.svd(x, rank=r).matrix."
            )
        # NumPy cuts the arrays, since JAX would compile a program for each of them.
        return jax.tree.map(lambda z: _array(np.asarray(z)[..., : self.rank]), point)

    def _require_square(self, what: str) -> None:
        if not self._square:
            raise NotImplementedError(
                f"{what} is there for square matrices of full rank alone, not for {self}. Optimisers of first order, "
                "such as pymanopt.optimizers.ConjugateGradient, need none."
            )

    def inner_product(self, point: np.ndarray, tangent_vector_a: np.ndarray, tangent_vector_b: np.ndarray) -> float:
        return float(dln.inner(self._at(point), _array(tangent_vector_a), _array(tangent_vector_b), self.depth))

    def norm(self, point: np.ndarray, tangent_vector: np.ndarray) -> float:
        return float(dln.norm(self._at(point), _array(tangent_vector), self.depth))

    def projection(self, point: np.ndarray, vector: np.ndarray) -> np.ndarray:
        if self._square:
            return np.asarray(vector)
        at = self._at(point)
        u, v = np.asarray(at.u), np.asarray(at.v)
        beyond = vector - u @ (u.T @ vector)
        return vector - beyond + beyond @ v @ v.T

    def to_tangent_space(self, point: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return self.projection(point, vector)

    def transport(self, point_a: np.ndarray, point_b: np.ndarray, tangent_vector_a: np.ndarray) -> np.ndarray:
        return self.projection(point_b, tangent_vector_a)

    def zero_vector(self, point: np.ndarray) -> np.ndarray:
        return np.zeros((self.m, self.n))

    def random_point(self) -> np.ndarray:
        """A product of two Gaussian matrices of r columns; a square one of full rank has a positive determinant."""
        point = np.random.normal(size=(self.m, self.rank)) @ np.random.normal(size=(self.rank, self.n))
        if self._square and np.linalg.det(point) < 0:
            point[0] *= -1
        return point

    def random_tangent_vector(self, point: np.ndarray) -> np.ndarray:
        vector = self.projection(point, np.random.normal(size=(self.m, self.n)))
        return vector / self.norm(point, vector)

    def euclidean_to_riemannian_gradient(self, point: np.ndarray, euclidean_gradient: np.ndarray) -> np.ndarray:
        return np.asarray(dln.metric_operator(self._at(point), _array(euclidean_gradient), self.depth))

    def euclidean_to_riemannian_hessian(
        self,
        point: np.ndarray,
        euclidean_gradient: np.ndarray,
        euclidean_hessian: np.ndarray,
        tangent_vector: np.ndarray,
    ) -> np.ndarray:
        """The covariant derivative of A_X(dE) along Z: its derivative, plus the Christoffel symbol of Z and A_X(dE)."""
        self._require_square("The Hessian")

        def gradient(x: Any, slope: Any) -> Any:
            return dln.metric_operator(x, slope, self.depth)

        x, z = _array(point), _array(tangent_vector)
        value, change = jax.jvp(gradient, (x, _array(euclidean_gradient)), (z, _array(euclidean_hessian)))
        return np.asarray(change + dln.christoffel(x, z, value, self.depth))

    def exp(self, point: np.ndarray, tangent_vector: np.ndarray) -> np.ndarray:
        at = self._at(point)
        momentum = dln.metric_operator_inverse(at, _array(tangent_vector), self.depth)
        return np.asarray(dln.exponential(at, momentum, self.depth, throw=False).x[-1])

    def retraction(self, point: np.ndarray, tangent_vector: np.ndarray) -> np.ndarray:
        return self.exp(point, tangent_vector)

    def log(self, point_a: np.ndarray, point_b: np.ndarray) -> np.ndarray:
        self._require_square("The logarithm")
        a, b = _array(point_a), _array(point_b)
        return np.asarray(dln.metric_operator(a, dln.logarithm(a, b, self.depth), self.depth))

    def dist(self, point_a: np.ndarray, point_b: np.ndarray) -> float:
        self._require_square("The distance")
        return float(dln.distance(_array(point_a), _array(point_b), self.depth))

    def pair_mean(self, point_a: np.ndarray, point_b: np.ndarray) -> np.ndarray:
        self._require_square("The mean of a pair")
        return np.asarray(dln.geodesic(_array(point_a), _array(point_b), self.depth).evaluate(0.5))
