"""The corner of a distance, where its square has a second derivative that the product rule does not find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import assert_close, FINITE_DIFFERENCE

import dlnjax as dln

A, D = jnp.array([[2.0, 0.3], [0.1, 1.0]]), jnp.array([[0.4, -0.2], [0.7, 0.3]])
LENGTHS = {"distance": dln.distance, "geodesic": lambda a, b, depth: dln.geodesic(a, b, depth).length}


@pytest.mark.parametrize("name", LENGTHS)
def test_second_derivative_of_the_square_of_a_distance(name):
    half = lambda b: LENGTHS[name](A, b, 2.0) ** 2 / 2
    along = lambda b: jax.jvp(jax.grad(half), (b,), (D,))[1]
    np.testing.assert_array_equal(jax.grad(half)(A), jnp.zeros((2, 2)))
    assert jnp.isnan(along(A)).all()
    # On both sides of the corner the Hessian tends to the metric, which the docstring names as that at the corner.
    sides = [jnp.sum(along(A + c * D) * D) for c in (-1e-4, 1e-4)]
    assert_close((sides[0] + sides[1]) / 2, dln.inner(A, D, D, 2.0), FINITE_DIFFERENCE)
