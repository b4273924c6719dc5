"""The bounds of a distance, in kernels that are not those of balanced networks."""

import jax
import jax.numpy as jnp
import pytest
from support.kernels import Bare

import dlnjax as dln

A, B = jnp.diag(jnp.array([4.0, 0.25])), jnp.array([[2.125, 1.875], [1.875, 2.125]])
TURNED = jnp.array([[1.3, 0.4], [-0.2, 0.8]])


class Steep(Bare):
    """lambda = exp(-h log(s/t)^2). A rotation in it is longer than in the flat metric, where y = sigma."""

    h: jax.Array
    degree = 0.0

    def log_eigenvalue(self, log_s, log_t):
        return -self.h * (log_s - log_t) ** 2

    def leaving(self, sigma):
        return jnp.zeros_like(sigma), jnp.zeros_like(sigma)


KERNELS = {"steep": Steep(jnp.array(0.3)), "three layers": dln.Imbalanced([0.8, -0.3]), "balanced": dln.Balanced(3.0)}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_distance_lies_between_its_bounds(kernel):
    # The positive factors of A and B have the same orthogonal factor, so that the line between them is all of the path.
    # At 1e-14 the bounds are rounding alone.
    for a, b in ((A, B), (TURNED, B), (B, B + 1e-14 * TURNED), (TURNED, TURNED + 1e-10 * A)):
        low, high = dln.distance_bounds(a, b, kernel)
        assert 0 <= low <= dln.distance(a, b, kernel) <= high


def test_upper_bound_has_a_derivative_where_no_rotation_is_turned_aside():
    upper = lambda b: dln.distance_bounds(TURNED, b, 3)[1]
    slope, h = jax.grad(upper)(B), 1e-6
    numbers = (upper(B + h * A) - upper(B - h * A)) / (2 * h)
    assert jnp.sum(slope * A) == pytest.approx(float(numbers), rel=1e-7)
