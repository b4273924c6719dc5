"""The norm, whose squares neither overflow nor vanish, and the power of two by which it divides."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax._tree import nan_unless, norm, power_of_two


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_power_of_two_is_the_one_below(dtype):
    kind = np.finfo(dtype)
    sizes = np.exp(np.random.default_rng(0).uniform(np.log(kind.tiny), np.log(kind.max), 200)).astype(dtype)
    sizes = np.concatenate([sizes, np.exp2(np.arange(-60, 60.0)).astype(dtype), [kind.tiny, kind.max]])
    expected = np.array([math.ldexp(0.5, math.frexp(float(x))[1]) for x in sizes], dtype)
    np.testing.assert_array_equal(jax.jit(power_of_two)(-sizes), expected)
    np.testing.assert_array_equal(power_of_two(jnp.asarray([0, np.inf, np.nan], dtype)), 1)
    # Division by the power of a subnormal number, which is below all normal ones, must not give infinity or NaN.
    assert power_of_two(jnp.asarray(kind.tiny / 4, dtype)) in (1, kind.tiny)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1.0, 1e150, 1e300])
def test_norm_at_any_scale(scale):
    x = scale * jnp.array([[3.0, 0.0], [0.0, -4.0]])
    assert norm((x, jnp.zeros(2))) == pytest.approx(5 * scale, rel=1e-15)
    np.testing.assert_allclose(jax.grad(norm)(x), [[0.6, 0.0], [0.0, -0.8]], atol=1e-15)
    assert norm(jnp.zeros(3)) == 0


def test_what_is_not_known_has_no_derivative_either():
    value, slope = jax.value_and_grad(lambda x: nan_unless(x > 0, x**2))(jnp.asarray(-3.0))
    assert jnp.isnan(value) and jnp.isnan(slope)
    assert jax.value_and_grad(lambda x: nan_unless(x > 0, x**2))(jnp.asarray(3.0)) == (9.0, 6.0)


def test_what_is_not_known_leaves_the_derivative_of_what_does_not_use_it():
    x = jnp.array([-3.0, 3.0])
    sum_of_known = lambda x: jnp.nansum(nan_unless(x > 0, x**2))
    for gradient in (jax.grad(sum_of_known), jax.jit(jax.grad(sum_of_known)), jax.jacfwd(sum_of_known)):
        np.testing.assert_array_equal(gradient(x), [0.0, 6.0])
    for hessian in (jax.hessian(sum_of_known), jax.jacrev(jax.grad(sum_of_known))):
        np.testing.assert_array_equal(hessian(x), [[0.0, 0.0], [0.0, 2.0]])
    # The derivative of the derivative is not known where the derivative is 0 at this point alone.
    used = lambda w: jax.grad(lambda x: w * nan_unless(x > 0, x**2))(jnp.asarray(-3.0))
    assert jnp.isnan(jax.grad(used)(0.0))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_what_is_known_of_one_of_two_is_known_of_every_pair(transform):
    x, least = jnp.array([-3.0, 1.0, 3.0]), jnp.array([0.0, 2.0])
    slope = jax.grad(lambda x, least: nan_unless(x > least, x**2))
    pairs = transform(jax.vmap(jax.vmap(slope, (0, None)), (None, 0)))(x, least)
    np.testing.assert_array_equal(pairs, [[np.nan, 2.0, 6.0], [np.nan, np.nan, 6.0]])
    known = transform(jax.vmap(jax.grad(lambda x, good: nan_unless(good, x**2)), (None, 0)))
    np.testing.assert_array_equal(known(3.0, least > 1), [np.nan, 6.0])
    total = jax.grad(lambda x: jnp.sum(jax.vmap(lambda good: nan_unless(good, x**2))(least < 5)))
    assert transform(total)(3.0) == 12.0
