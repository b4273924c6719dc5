"""The gradient flow written in two ways: in the frame of the singular value decomposition, and in X itself."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from dlnjax._energy._protocol import gradient, pullback
from dlnjax._kernel import frame_velocity
from dlnjax._metric import apply_metric_operator
from dlnjax._svd import orthogonalise, SVD

Scalar = Float[Array, ""]


def _norm(x):
    return jnp.sqrt(jnp.sum(x * x))


class FrameCoordinates(eqx.Module):
    """(4.17)-(4.19): no decomposition along the way, and a cost that does not know the depth."""

    energy: Callable
    inverse_depth: Scalar
    rtol: Scalar
    atol: Scalar
    gap: Scalar

    def velocity(self, y: SVD) -> tuple[SVD, Scalar]:
        g = pullback(self.energy, y)
        left, dsigma, right = frame_velocity(y.sigma, g, self.inverse_depth, self.gap)
        return SVD(y.u @ left, dsigma, y.v @ right), _norm(g)

    def project(self, y: SVD) -> SVD:
        return SVD(orthogonalise(y.u), y.sigma, orthogonalise(y.v))

    def error(self, y0: SVD, y1: SVD, error: SVD) -> Scalar:
        sigma = jnp.maximum(jnp.abs(y0.sigma), jnp.abs(y1.sigma))
        values = jnp.max(jnp.abs(error.sigma) / (self.atol + self.rtol * sigma))
        columns = jnp.max(jnp.sum(error.u**2 + error.v**2, axis=0)) ** 0.5 / (self.atol + self.rtol)
        return jnp.maximum(values, columns)

    def size(self, y: SVD) -> Scalar:
        return _norm(y.sigma)

    def loses_rank(self, y0: SVD, y1: SVD) -> Array:
        return (self.inverse_depth < 1) & jnp.any((y0.sigma > 0) & (y1.sigma <= 0))


class MatrixCoordinates(eqx.Module):
    """(2.9) divided by N, in X: a decomposition at every evaluation, kept as the independent check."""

    energy: Callable
    inverse_depth: Scalar
    rtol: Scalar
    atol: Scalar

    def velocity(self, y: Float[Array, "d d"]) -> tuple[Float[Array, "d d"], Scalar]:
        g = gradient(self.energy, y)
        return -apply_metric_operator(y, g, self.inverse_depth), _norm(g)

    def project(self, y: Float[Array, "d d"]) -> Float[Array, "d d"]:
        return y

    def error(self, y0, y1, error) -> Scalar:
        return _norm(error) / (self.atol + self.rtol * jnp.maximum(_norm(y0), _norm(y1)))

    def size(self, y: Float[Array, "d d"]) -> Scalar:
        return _norm(y)

    def loses_rank(self, y0, y1) -> Array:
        signs = jnp.linalg.slogdet(y0)[0] * jnp.linalg.slogdet(y1)[0]
        return (self.inverse_depth < 1) & (signs < 0)
