"""The singular values of the layers, against a solve in the decimals of the standard library."""

from collections import Counter
from decimal import Decimal, localcontext
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

from dlnjax._layers import layer_values

values = jax.jit(layer_values)
SCALES = [1e-150, 1e-75, 1e-9, 1e-3, 1.0, 7.0, 1e40, 1e150]
CASES = [
    (),
    (0.0,),
    (0.7,),
    (-1e3,),
    (1e-150,),
    (1e150,),
    (0.5, 0.5),
    (2.0, -2.0),
    (1e-12, -1e100),
    (1e20, -1e20, 1.0),
    (3.0, 0.0, -1e-8, 1e8, 2.0),
    # One small layer beside many equal ones: at sigma = 1 the guess is at its worst.
    (-1.0, *(0.0,) * 998),
]


def exact(sigma, imbalance):
    """s_p in 150 digits, by bisection in a."""
    with localcontext(prec=150):
        c = [Decimal(0)]
        for g in imbalance:
            c.append(c[-1] - Decimal(g))
        c = [x - min(c) for x in c]
        product = lambda a: prod((a + x) ** n for x, n in Counter(c).items())
        low, high = Decimal("1e-900"), Decimal("1e400")
        for _ in range(120):
            # In the exponent first, as the root may be anywhere.
            middle = (low * high).sqrt() if high > 2 * low else (low + high) / 2
            low, high = (middle, high) if product(middle) < Decimal(sigma) ** 2 else (low, middle)
        return [float((low + x).sqrt()) for x in c]


@pytest.mark.parametrize("imbalance", CASES, ids=lambda g: f"{len(g)}: {g[-3:]}")
def test_values_are_relatively_accurate_at_any_scale(imbalance):
    found = values(jnp.array(SCALES), jnp.array(imbalance))
    expected = np.array([exact(sigma, imbalance) for sigma in SCALES]).T
    np.testing.assert_allclose(found, np.where(expected < 1e-307, found, expected), rtol=ALGEBRA)


def test_two_layers_are_in_closed_form(key):
    sigma, g = 10 ** jax.random.uniform(key, (50,), minval=-1.0, maxval=3.0), jnp.linspace(-5.0, 5.0, 50)
    found = jax.vmap(values)(sigma, g[:, None])
    f = jnp.hypot(sigma, g / 2)
    np.testing.assert_allclose(found**2, jnp.stack([f + g / 2, f - g / 2], axis=1), rtol=1e3 * ALGEBRA)
    assert_close(found[7], values(sigma[7], g[7, None]), ALGEBRA)


@pytest.mark.parametrize("imbalance", [(0.0, 0.0), (0.7, -0.2), (2.0, -2.0)], ids=str)
def test_derivatives_are_those_of_differences_up_to_the_second(imbalance):
    point, h = jnp.array([1.3, *imbalance]), 1e-5
    f = lambda p: layer_values(p[0], p[1:])
    slope = jax.jit(jax.jacrev(f))
    ways = [h * jnp.eye(3)[i] for i in range(3)]
    assert_close(
        slope(point), jnp.stack([(f(point + w) - f(point - w)) / (2 * h) for w in ways], -1), FINITE_DIFFERENCE
    )
    second = jnp.stack([(slope(point + w) - slope(point - w)) / (2 * h) for w in ways], -1)
    assert_close(jax.jit(jax.jacfwd(jax.jacrev(f)))(point), second, FINITE_DIFFERENCE)


@pytest.mark.parametrize("sigma", [1e-150, 1e150])
def test_derivatives_are_finite_far_from_one(sigma):
    slope = jax.jacfwd(layer_values, (0, 1))(jnp.array(sigma), jnp.array([0.5, -2.0]))
    second = jax.jacfwd(jax.jacfwd(layer_values))(jnp.array(sigma), jnp.array([0.5, -2.0]))
    assert all(np.isfinite(x).all() for x in (*slope, second))
    # sigma d log s_p / d sigma adds up to 1.
    s = values(jnp.array(sigma), jnp.array([0.5, -2.0]))
    assert_close(jnp.sum(sigma * slope[0] / s), 1.0, ALGEBRA)


def test_at_zero_one_layer_is_zero_and_has_the_slope_of_the_others():
    s, slope = jax.jvp(lambda x: layer_values(x, jnp.array([3.0, 1.0])), (jnp.array(0.0),), (jnp.array(1.0),))
    assert_close(s, [2.0, 1.0, 0.0], ALGEBRA)
    assert_close(slope, [0.0, 0.0, 0.5], ALGEBRA)
    assert_close(values(jnp.zeros(2), jnp.zeros(2)), np.zeros((3, 2)), 0.0)
    assert np.isnan(values(jnp.full(2, jnp.nan), jnp.zeros(2))).all()
