"""The even functions of the log-ratio, against the standard library's 60-digit decimals."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close

from dlnjax._geometry.special import divided_difference, langevin, log_shc, NEAR, shc_small

POINTS = np.concatenate([[0.0], 10.0 ** np.linspace(-8, 2, 101), [0.999999, 1.0, 1.000001, 150.0, 300.0]])


def exact(x):
    """(sinh(x)/x, log of it, its logarithmic derivative) at one x > 0."""
    with localcontext(prec=60):
        x = Decimal(float(x))
        up, down = x.exp(), (-x).exp()
        sinh, cosh = (up - down) / 2, (up + down) / 2
        return float(sinh / x), float((sinh / x).ln()), float(cosh / sinh - 1 / x)


EXACT = np.array([(1.0, 0.0, 0.0) if x == 0 else exact(x) for x in POINTS])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("f", "column", "parity"), [(log_shc, 1, 1), (langevin, 2, -1)])
def test_functions_keep_their_relative_accuracy_from_zero_to_the_largest_ratio(f, column, parity, sign):
    expected = EXACT[:, column] * (parity if sign < 0 else 1)
    np.testing.assert_allclose(f(jnp.asarray(sign * POINTS)), expected, rtol=ALGEBRA, atol=0)


def test_series_is_exact_where_it_is_used():
    small = np.abs(POINTS) <= NEAR
    assert small.sum() > 2
    np.testing.assert_allclose(shc_small(jnp.asarray(POINTS[small])), EXACT[small, 0], rtol=ALGEBRA)


def test_derivatives_are_exact_at_zero_and_where_the_series_ends():
    x = jnp.asarray(POINTS)
    np.testing.assert_allclose(jax.vmap(jax.grad(log_shc))(x), EXACT[:, 2], rtol=ALGEBRA, atol=ALGEBRA)
    slope = jax.vmap(jax.grad(langevin))
    assert_close(slope(jnp.zeros(1)), [1 / 3], ALGEBRA)
    assert_close(slope(jnp.array([-1e-9, 1e-9])), [1 / 3, 1 / 3], ALGEBRA)
    # langevin' = 1/x^2 - 1/sinh(x)^2
    far = np.array([0.9, 0.9999, 1.0001, 5.0, 100.0])
    assert_close(slope(jnp.asarray(far)), 1 / far**2 - 1 / np.sinh(far) ** 2, ALGEBRA)


def test_divided_difference_goes_over_into_the_slope():
    points = jnp.array([1.0, 1.0, 1.0 + 1e-7, 2.0, -1.0])
    cubes, slopes = points**3, jnp.broadcast_to(3 * points[:, None] ** 2, (5, 5))
    a, b = np.asarray(points)[:, None], np.asarray(points)[None, :]
    assert_close(divided_difference(cubes, slopes, points), a * a + a * b + b * b, ALGEBRA)


def test_each_derivative_of_a_series_is_one_series_more():
    # Autodiff makes Horner's scheme three times as long with each derivative, and the curvature takes four.
    slope = lambda f: lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]
    multiplications = lambda f: jax.jit(f).lower(jnp.array(0.5)).compile().as_text().count(" multiply(")
    assert 0 < multiplications(slope(slope(slope(log_shc)))) < 8 * multiplications(log_shc)
