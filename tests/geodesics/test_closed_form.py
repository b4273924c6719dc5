"""The closed forms at entries far from 1, against the decimals of the standard library and exact scalings."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE

import dlnjax as dln

A, B = jnp.diag(jnp.array([4.0, 1.0])), jnp.array([[2.5, 1.5], [1.5, 2.5]])
TURN = jnp.array([[0.6, -0.8], [0.8, 0.6]])
DEPTHS = [1.0, 2.0, 3.0, 50.0, 1e4, 1e17, np.inf]


def mixed(t, x, y, depth):
    """((1-t) x^(1/N) + t y^(1/N))^N in 80 digits."""
    with localcontext(prec=80):
        t, x, y = (Decimal(z) for z in (t, x, y))
        if depth == np.inf:
            return float(((1 - t) * x.ln() + t * y.ln()).exp())
        a = 1 / Decimal(depth)
        return float((((1 - t) * (a * x.ln()).exp() + t * (a * y.ln()).exp()).ln() / a).exp())


@pytest.mark.parametrize("depth", DEPTHS)
def test_diagonal_keeps_the_relative_accuracy_of_small_and_large_entries(depth):
    x = np.array([1e-100, 1e-300, 1e300, 1.0, 1e-17, 2.0, 3.0])
    y = np.array([4e-100, 1e300, 1e-17, 1e-300, 1e-17, 2.0, 3.0 + 1e-9])
    curve = dln.closed_form.diagonal(jnp.diag(jnp.asarray(x)), jnp.diag(jnp.asarray(y)), depth)
    t = np.array([0.0, 1e-9, 0.25, 0.5, 1.0])
    expected = np.array([[mixed(s, *ends, depth) for ends in zip(x, y, strict=True)] for s in t])
    np.testing.assert_allclose(jnp.diagonal(curve(t), axis1=1, axis2=2), expected, rtol=ALGEBRA)


@pytest.mark.parametrize("depth", [1.0, 3.0, 1e4, np.inf])
def test_mix_has_the_derivatives_of_the_formula(depth):
    kernel, h = dln.Balanced(depth), 1e-5
    point = (jnp.array(0.3), jnp.array(2.0), jnp.array(0.7))
    found = jax.grad(kernel.mix, (0, 1, 2))(*point)
    for i in range(3):
        ahead, behind = (kernel.mix(*(p + s * (i == j) for j, p in enumerate(point))) for s in (h, -h))
        assert_close(found[i], (ahead - behind) / (2 * h), FINITE_DIFFERENCE)
    assert np.all(np.isfinite(jax.grad(kernel.mix, (0, 1, 2))(jnp.array(0.0), *point[1:])))


@pytest.mark.parametrize("curve", [dln.closed_form.commuting, dln.closed_form.printed_line])
@pytest.mark.parametrize("depth", [1.0, 2.0, 1e4, np.inf])
def test_lines_between_matrices_are_homogeneous(curve, depth):
    eye = jnp.eye(2)
    one = curve(eye, B, depth)(0.5)
    for k in (-900, -40, 900):
        assert_close(curve(2.0**k * eye, 2.0**k * B, depth)(0.5) / 2.0**k, one, ALGEBRA)
    for small in (1e-12, 1e-17, 1e-34, 1e-200):
        ends = jnp.diag(jnp.array([1.0, small]))
        np.testing.assert_allclose(jnp.diagonal(curve(ends, ends, depth)(0.3)), [1.0, small], rtol=ALGEBRA)


@pytest.mark.parametrize("small", [1e-10, 1e-14, 1e-16, 1e-30])
def test_bures_wasserstein_arrives_at_both_ends_however_singular(small):
    near = TURN @ jnp.diag(jnp.array([1.0, small])) @ TURN.T
    away = dln.closed_form.bures_wasserstein(B, near)
    assert_close(away(jnp.array([0.0, 1.0])), jnp.stack([B, near]), ALGEBRA)


@pytest.mark.parametrize("k", [-900, 900])
def test_bures_wasserstein_is_homogeneous(k):
    one, other = (dln.closed_form.bures_wasserstein(c * A, c * B)(0.5) for c in (1.0, 2.0**k))
    assert_close(other / 2.0**k, one, ALGEBRA)


def test_ends_in_float32_fit_a_form_to_their_rounding():
    ends = [x.astype(jnp.float32) for x in (TURN @ A @ TURN.T, TURN @ TURN @ TURN.T)]
    middle = dln.closed_form.commuting(ends[0], ends[0] @ ends[0], 2.0)(0.5)
    expected = TURN @ jnp.diag(jnp.array([9.0, 1.0])) @ TURN.T
    np.testing.assert_allclose(middle, expected, rtol=1e-5)


@pytest.mark.parametrize("curve", [dln.closed_form.commuting, dln.closed_form.printed_line])
def test_where_eigenvalues_cross_a_line_has_no_derivative(curve):
    q = jnp.array([[0.8, -0.6], [0.6, 0.8]])
    a, b = (q @ jnp.diag(jnp.array(values)) @ q.T for values in ([1.0, 3.0], [3.0, 1.0]))
    line = curve(a, b, 2.0)
    assert_close(line(0.5), 4 * ((1 + 3**0.5) / 4) ** 2 * jnp.eye(2), ALGEBRA)
    for slope in (jax.jacfwd, jax.jacrev):
        assert jnp.all(jnp.isnan(slope(line)(0.5)))
        assert_close(slope(line)(0.4), (line(0.4 + 1e-5) - line(0.4 - 1e-5)) / 2e-5, FINITE_DIFFERENCE)
