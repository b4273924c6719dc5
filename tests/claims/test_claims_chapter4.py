"""What attacks a claim, and the measures of chapter 4: they find what is planted, and agree with the library."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln
from dlnjax.claims import _spectra
from dlnjax.claims._attack import confirm, FAR, largest_eigenvalue, NEAR, of_gaps, over_gaps, worst
from dlnjax.claims._chapter4_concavity import second
from dlnjax.claims._chapter4_isotropic import candidates, SECOND


def rng():
    return np.random.default_rng(0)


def test_attack_finds_a_violation_that_random_draws_miss():
    # A dip in a hundredth of a part of the box, and a wide basin far from it that is no violation.
    basin = lambda x, m: 0.9 * m.exp(-((x[0] - 8) ** 2 + (x[2] - 30) ** 2) / 100)
    dip = lambda x, m: 1.5 * m.exp(-4 * (x[0] - 31.4) ** 2 - (x[2] - 3) ** 2 / 2)
    found = worst(lambda x, m: 1 - basin(x, m) - dip(x, m) + 0 * x[1], [(NEAR, FAR)] * 3, rng())
    assert found.room == pytest.approx(-0.5, abs=1e-4)
    assert (found.at[0], found.at[2]) == pytest.approx((31.4, 3), abs=1e-2)


def test_attack_looks_into_the_corners():
    room = lambda x, m: 1 - 2 * m.exp(-1e6 * (FAR - x[0]))
    found = worst(room, [(NEAR, FAR)], rng())
    assert found.at == (FAR,)
    assert found.room == pytest.approx(-1)


def test_attack_finds_the_second_equilibrium_below_p_one(key):
    missing, at = candidates(2, 0.5, 0.5)(key, None)
    gap, scale, _ = at["at"]
    assert missing > -1e-6
    assert_close([np.exp(gap + scale), np.exp(scale)], SECOND.sigma, 1e-6)
    assert candidates(2, 1.0, 4.0)(key, None)[0] < -0.1


def test_attack_says_how_much_is_left():
    # The least distance of two neighbours among three, whatever their order.
    error, at = over_gaps(lambda u, m: m.log(of_gaps(u, m)[0] / of_gaps(u, m)[2]), 3)(jax.random.key(0), None)
    assert error == pytest.approx(-2 * NEAR)
    assert at["log ratios"] == pytest.approx([NEAR, NEAR])


def test_what_doubles_cannot_tell_is_decided_by_digits():
    u = 1e-9
    term = lambda x, m: -(m.exp(x[0]) ** 2) * second(m.exp(x[0]), m.exp(0 * x[0]), m)
    assert abs(float(term([u], np)) - 1 / 3) > 1
    assert confirm(term, [u]).room == pytest.approx(1 / 3, abs=1e-8)


def test_attack_refuses_a_box_without_bounds():
    with pytest.raises(ValueError, match="finite with low <= high"):
        worst(lambda x, m: x[0], [(0.0, np.inf)], rng())
    with pytest.raises(ValueError, match="finite with low <= high"):
        worst(lambda x, m: x[0], [(1.0, 0.0)], rng())


def test_largest_eigenvalue_of_many_and_of_one():
    a = rng().standard_normal((5, 3, 3))
    a = a + np.swapaxes(a, -1, -2)
    many = largest_eigenvalue([[a[:, i, j] for j in range(3)] for i in range(3)], np)
    assert_close(many, np.linalg.eigvalsh(a)[:, -1], ALGEBRA)
    assert_close(float(largest_eigenvalue(a[0].tolist(), mpmath)), many[0], ALGEBRA)


@pytest.mark.parametrize("depth", [1.0, 2.0, 3.0, 2.5, np.inf])
def test_measures_agree_with_the_library(depth):
    x, z = rng().standard_normal((2, 4, 4))
    sigma = np.linalg.svd(x, compute_uv=False)
    per_layer = 1.0 if np.isinf(depth) else 1 / depth
    n, s = jnp.asarray(depth), jnp.asarray(sigma)
    operator = dln.metric_operator(jnp.asarray(x), jnp.asarray(z), n)
    assert_close(operator, per_layer * _spectra.operator(x, z, depth), 1e-11)
    assert_close(dln.metric_eigenvalues(s, n), per_layer * _spectra.eigenvalues(sigma, depth), ALGEBRA)
    assert_close(dln.entropy(s, n), _spectra.log_volume(sigma, depth) + 3 * np.log(per_layer), ALGEBRA)
    assert_close(dln.entropy_gradient(s, n), np.sum(_spectra.entropy_slopes(sigma, depth), axis=1), 1e-11)


def test_complex_step_is_exact():
    x = rng().standard_normal((3, 3))
    assert_close(_spectra.derivative(lambda x: np.sum(np.sin(x) * x), x), np.sin(x) + x * np.cos(x), ALGEBRA)
    log_det = lambda x: np.sum(np.log(_spectra.singular_values(x)))
    assert_close(_spectra.derivative(log_det, x), np.linalg.inv(x).T, 1e-11)
