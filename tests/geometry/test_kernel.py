"""Eigenvalues of the metric and the entropy that they make, at any depth and any gap."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln

SIGMAS = jnp.array([[3.0, 1.7, 0.6, 0.01], [2.0, 2.0, 2.0, 0.3], [1.5, 1.5, 0.2, 0.2], [1e3, 1.0, 1.0 + 1e-9, 1e-3]])
DEPTHS = jnp.array([1.0, 2.0, 3.5, 10.0, jnp.inf])

eigenvalues = jax.jit(jax.vmap(lambda sigma, a: dln.Balanced(1 / a).eigenvalues(sigma), (0, None)))
entropy = jax.jit(jax.vmap(dln.entropy, (None, 0)))
by_autodiff = jax.jit(jax.vmap(jax.grad(dln.entropy), (None, 0)))
in_closed_form = jax.jit(jax.vmap(dln.entropy_gradient, (None, 0)))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6])
def test_eigenvalues_are_the_sum_over_the_layers(depth):
    s = np.asarray(SIGMAS)
    k, l, p = s[:, :, None, None], s[:, None, :, None], np.arange(1, depth + 1)
    layers = k ** (2 * (depth - p) / depth) * l ** (2 * (p - 1) / depth)
    np.testing.assert_allclose(eigenvalues(SIGMAS, 1 / depth), layers.mean(-1), rtol=ALGEBRA)


def test_eigenvalues_at_infinite_depth_are_the_integral_over_the_layers():
    for s, found in zip(np.asarray(SIGMAS), eigenvalues(SIGMAS, 0.0), strict=True):
        for k, l in np.ndindex(4, 4):
            integrand = lambda t, a=s[k], b=s[l]: a ** (2 - 2 * t) * b ** (2 * t)
            expected = quad(integrand, 0, 1, epsabs=0, epsrel=ALGEBRA)[0]
            np.testing.assert_allclose(found[k, l], expected, rtol=10 * ALGEBRA)


def test_infinite_depth_is_approached_as_one_over_the_depth():
    limit = eigenvalues(SIGMAS[:1], 0.0)
    errors = [jnp.max(jnp.abs(eigenvalues(SIGMAS[:1], 1 / n) - limit)) for n in (1e3, 1e4, 1e5)]
    ratios = [errors[0] / errors[1], errors[1] / errors[2]]
    np.testing.assert_allclose(ratios, 10, rtol=0.02)


def test_eigenvalues_where_a_singular_value_is_zero():
    zero = jnp.array([[2.0, 0.0, 0.0]])
    found = [eigenvalues(zero, a)[0] for a in (1.0, 0.5, 0.25, 0.0)]
    assert_close(found[0], np.ones((3, 3)), ALGEBRA)
    # One nonzero of the two leaves sigma^(2-2/N)/N, and nothing at infinite depth.
    corner = lambda diagonal, side: np.array([[diagonal, side, side], [side, 0, 0], [side, 0, 0]])
    assert_close(found[1], corner(2.0, 1.0), ALGEBRA)
    assert_close(found[2], corner(2**1.5, 2**1.5 / 4), ALGEBRA)
    assert_close(found[3], corner(4.0, 0.0), ALGEBRA)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_is_no_small_number_in_a_deep_network(dtype):
    """The power 2/N of the smallest float is .16 at N = 100 in float32, and .24 at N = 1000 in float64."""
    sigma, close = jnp.array([2.0, 1.0, 0.0], dtype), 1e-5 if dtype == np.float32 else 1e-11
    for depth in (3.0, 100.0, 1e3, 1e20):
        side = np.array([2.0, 1.0]) ** (2 - 2 / depth) / depth
        found = dln.metric_eigenvalues(sigma, depth)
        np.testing.assert_allclose(found[:2, 2], side, rtol=close)
        assert found[2, 2] == 0
        between = -3 / np.expm1(-2 * np.log(2) / depth) / 4 ** (1 / depth) / depth
        np.testing.assert_allclose(dln.entropy(sigma, depth), np.log([between, *side]).sum() / 2, rtol=close)
    layers = dln.Imbalanced((jnp.zeros((), dtype),) * 29)
    side = np.array([2.0, 1.0]) ** (2 - 2 / 30) / 30
    np.testing.assert_allclose(layers.eigenvalues(sigma)[:2, 2], side, rtol=close)
    np.testing.assert_allclose(jnp.exp(layers.log_eigenvalues(sigma))[:2, 2], side, rtol=close)


def test_no_ratio_overflows():
    wide = jnp.array([1e75, 1.0, 1e-75])
    # (s^2 - t^2) / (2 log(s/t)), of which t contributes nothing.
    log = jax.jit(lambda sigma: dln.Balanced(jnp.inf).log_eigenvalues(sigma))(wide)
    assert_close(log[0, 2], 150 * np.log(10) - np.log(300 * np.log(10)), ALGEBRA)
    for depth in (2.0, 3.5, jnp.inf):
        assert np.isfinite(dln.entropy(wide, depth))
        assert np.all(np.isfinite(dln.entropy_gradient(wide, depth)))


def test_traced_depth_compiles_once():
    traces = []

    def count(depth):
        traces.append(depth)
        return dln.Balanced(depth).eigenvalues(SIGMAS[0])

    over = jax.jit(jax.vmap(count))
    found = np.concatenate([over(DEPTHS), over(DEPTHS[::-1])])
    assert len(traces) == 1
    assert_close(found[:5], found[:4:-1], ALGEBRA)
    assert_close(found[1], eigenvalues(SIGMAS[:1], 0.5)[0], ALGEBRA)


@pytest.mark.parametrize("sigma", SIGMAS, ids=["distinct", "triple", "pairs", "close"])
def test_entropy_gradient_is_the_derivative_of_the_entropy(sigma):
    auto, closed = by_autodiff(sigma, DEPTHS), in_closed_form(sigma, DEPTHS)
    np.testing.assert_allclose(closed, auto, rtol=ALGEBRA, atol=ALGEBRA * float(jnp.max(jnp.abs(auto))))


def test_entropy_and_its_gradient_are_the_printed_formulas_at_distinct_values():
    s, a = np.asarray(SIGMAS[0]), [0.5, 0.25, 0.1]
    for inverse in a:
        pairs = [(x**2 - y**2) * inverse / (x ** (2 * inverse) - y ** (2 * inverse)) for x, y in combinations(s, 2)]
        assert_close(dln.entropy(SIGMAS[0], 1 / inverse), np.log(pairs).sum() / 2, ALGEBRA)
        slope = lambda x, y, b=inverse: x / (x**2 - y**2) - b * x ** (2 * b - 1) / (x ** (2 * b) - y ** (2 * b))
        expected = [sum(slope(x, y) for y in s if y != x) for x in s]
        assert_close(dln.entropy_gradient(SIGMAS[0], 1 / inverse), expected, ALGEBRA)
    pairs = [(x**2 - y**2) / (2 * np.log(x / y)) for x, y in combinations(s, 2)]
    assert_close(dln.entropy(SIGMAS[0]), np.log(pairs).sum() / 2, ALGEBRA)


@pytest.mark.parametrize("depth", [1.0, 2.0, 3.5, np.inf])
def test_gradient_at_equal_values_is_its_limit(depth):
    sigma = jnp.full(4, 0.7)
    expected = 3 * (1 - 1 / depth) / (2 * 0.7)
    assert_close(dln.entropy_gradient(sigma, depth), np.full(4, expected), ALGEBRA)


def test_second_derivatives_are_finite_at_repeated_values():
    hessian = jax.jit(jax.vmap(jax.vmap(jax.hessian(dln.entropy), (None, 0)), (0, None)))(SIGMAS[:3], DEPTHS)
    h = 1e-5
    slopes = jax.jit(jax.vmap(dln.entropy_gradient, (None, 0), 1))
    ahead, behind = (slopes(SIGMAS[:3, None] + s * h * jnp.eye(4), DEPTHS) for s in (1, -1))
    expected = (ahead - behind) / (2 * h)
    assert np.all(np.isfinite(hessian))
    assert_close(hessian, expected, FINITE_DIFFERENCE)


def test_scaling_adds_its_logarithm_to_the_entropy():
    # Lemma 4.3.2 with the 1/N of the exponent: each of the six pairs scales as a^(2-2/N).
    for a in (1e-3, 7.0):
        expected = entropy(SIGMAS[0], DEPTHS) + 6 * (1 - 1 / DEPTHS) * np.log(a)
        assert_close(entropy(a * SIGMAS[0], DEPTHS), expected, ALGEBRA)


def test_entropy_is_minus_infinity_where_the_volume_vanishes():
    assert dln.entropy(jnp.array([1.0, 0.0])) == -jnp.inf
    assert dln.entropy(jnp.array([1.0, 0.0, 0.0]), 2.0) == -jnp.inf
    assert_close(dln.entropy(jnp.array([1.0, 0.0]), 2.0), np.log(0.5) / 2, ALGEBRA)
    assert dln.entropy(jnp.array([1.0, 0.0, 0.0]), 1.0) == 0


def test_order_of_the_singular_values_does_not_matter():
    order = jnp.array([2, 0, 3, 1])
    assert_close(entropy(SIGMAS[0][order], DEPTHS), entropy(SIGMAS[0], DEPTHS), ALGEBRA)
    one, other = (dln.entropy_gradient(s, 3.5) for s in (SIGMAS[0][order], SIGMAS[0]))
    assert_close(one, other[order], ALGEBRA)


def test_measures_of_rank():
    sigma = jnp.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.25, 0.25]])
    assert_close(dln.effective_rank(sigma), [1, 3, 2**1.5], ALGEBRA)
    assert_close(dln.stable_rank(sigma), [1, 3, 1.5], ALGEBRA)
    assert_close(dln.nuclear_norm(3 * sigma), [3, 9, 3], ALGEBRA)
    assert_close(dln.schatten_norm(sigma, 2), [1, 3**0.5, 0.375**0.5], ALGEBRA)
    assert_close(dln.schatten_norm(1e200 * sigma, jnp.inf), [1e200, 1e200, 0.5e200], ALGEBRA)
    assert_close(dln.effective_rank(1e-200 * sigma), dln.effective_rank(sigma), ALGEBRA)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, jnp.inf])
def test_square_of_a_norm_has_no_second_derivative_at_its_corner(p):
    direction = jnp.array([1.0, 0.5])
    square = lambda c: dln.schatten_norm(c * direction, p) ** 2
    for second in (jax.jacfwd(jax.grad(square)), jax.grad(jax.grad(square)), jax.jacfwd(jax.jacfwd(square))):
        # At p = 1 the norm is linear.
        assert_close(second(0.0), 4.5 if p == 1 else jnp.nan, ALGEBRA)
    assert jax.grad(square)(0.0) == 0
