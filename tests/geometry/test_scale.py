"""The metric and functions of the singular values at every scale, at zeros and at ties: values and derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close

import dlnjax as dln
from dlnjax._lapack import sign_of_determinant
from dlnjax._scale import exponent, scaled

X = jnp.array([[2.0, 0.3, -0.5], [0.1, 1.0, 0.7], [0.4, -0.2, 0.6]])
Z = jnp.array([[0.3, 1.1, -0.2], [-0.6, 0.5, 0.9], [1.2, -0.4, 0.8]])
# 1e-150 to 1e150 and what lies between, as powers of two: they multiply without rounding.
POWERS = np.array([-498, -400, -270, -100, 0, 100, 270, 400, 498])
SIGMA = jnp.array([2.0, 1.0, 1e-3])
POINTS = {"matrix": X, "spectrum": SIGMA}
DEPTHS = [1.0, 2.0, 3.0, np.inf]

FORMS = {
    "hamiltonian": (dln.hamiltonian, lambda p: p),
    "hamiltonian of a covector as large": (lambda x, n: dln.hamiltonian(x, x @ Z, n), lambda p: p + 2),
    "inner": (lambda x, n: dln.inner(x, Z, Z @ Z, n), lambda p: -p),
    "inner of vectors as large": (lambda x, n: dln.inner(x, x @ Z, Z @ x, n), lambda p: 2 - p),
    "norm of a vector as large": (lambda x, n: dln.norm(x, x @ Z, n), lambda p: 1 - p / 2),
    "operator": (lambda x, n: jnp.sum(Z * dln.metric_operator(x, Z, n)), lambda p: p),
    "inverse": (lambda x, n: jnp.sum(Z * dln.metric_operator_inverse(x, Z, n)), lambda p: -p),
}
FORMS["hamiltonian"] = (lambda x, n: dln.hamiltonian(x, Z, n), lambda p: p)


def in_range(power):
    """Where 2^power, and what is a million times smaller or larger, is a normal number."""
    return np.abs(power) < 1000


def derivatives(f, order):
    """(x, depth) -> (f, its gradient, its Hessian) up to this order: one program has them all."""
    if order == 1:
        return jax.value_and_grad(f)

    def slope(x, depth):
        both = jax.value_and_grad(f)(x, depth)
        return both[1], both

    def all_of_them(x, depth):
        second, (value, first) = jax.jacfwd(slope, has_aux=True)(x, depth)
        return value, first, second

    return all_of_them


@functools.cache
def at_every_scale(f, point, order):
    """The derivatives of f(x, depth) up to this order, at each of DEPTHS and each 2^k x, for x of this name."""
    x = POINTS[point]
    over = jax.jit(jax.vmap(jax.vmap(derivatives(f, order), (0, None)), (None, 0)))
    return over(jnp.ldexp(1.0, POWERS).reshape(-1, *[1] * x.ndim) * x, jnp.asarray(DEPTHS))


def check_homogeneous(found, degree_of, order):
    """The derivative of this order at 2^k x is 2^(k (degree - order)) times that at x."""
    checked = 0
    for depth, row in zip(DEPTHS, np.asarray(found), strict=True):
        power = (degree_of(2 - 2 / depth) - order) * POWERS
        for k in np.flatnonzero(in_range(power)):
            # In two factors, each in the range of the floats.
            assert_close(row[k] * 2.0 ** (-power[k] / 2) * 2.0 ** (-power[k] / 2), row[4], ALGEBRA)
            checked += 1
    assert checked >= 3 * len(DEPTHS)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", FORMS)
def test_metric_and_its_derivatives_are_homogeneous(name, order):
    f, degree = FORMS[name]
    check_homogeneous(at_every_scale(f, "matrix", 2)[order], degree, order)


def test_geodesic_of_any_scale_is_that_of_size_one():
    go = jax.jit(jax.vmap(lambda c, n: dln.exponential(c * X, c ** (2 / n - 1) * Z / 4, n, throw=False).x / c))
    scale = 2.0 ** jnp.array([-498, 0, 498, -498, 0, 498, 0])
    depth = jnp.array([2.0, 2.0, 2.0, jnp.inf, jnp.inf, jnp.inf, 2.0])
    found = go(scale, depth)
    for one, same in ((0, 1), (2, 1), (3, 4), (5, 4)):
        assert_close(found[one], found[same], ALGEBRA)


@pytest.mark.parametrize("depth", [1.0, 3.0, np.inf])
def test_bounds_of_a_distance_hold_at_every_scale(depth):
    a, b = jnp.array([[1.3, 0.4], [-0.2, 0.8]]), jnp.array([[0.9, -0.7], [0.6, 1.1]])
    expected = np.array(dln.distance_bounds(a, b, depth))
    for k in (-500, -100, 100, 500):
        found = np.array(dln.distance_bounds(2.0**k * a, 2.0**k * b, depth))
        assert_close(found / 2.0 ** (k / depth), expected, ALGEBRA)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("f", "degree"),
    [
        (lambda s, n: jnp.sum(Z * dln.metric_eigenvalues(s, n)), lambda p: p),
        (lambda s, n: jnp.sum(Z[0] * dln.entropy_gradient(s, n)), lambda p: -1.0),
        (lambda s, n: dln.effective_rank(s), lambda p: 0.0),
        (lambda s, n: dln.stable_rank(s), lambda p: 0.0),
        (lambda s, n: dln.nuclear_norm(s), lambda p: 1.0),
        (dln.schatten_norm, lambda p: 1.0),
    ],
    ids=["eigenvalues", "entropy_gradient", "effective_rank", "stable_rank", "nuclear_norm", "schatten_norm"],
)
def test_functions_of_the_spectrum_are_homogeneous(f, degree, order):
    check_homogeneous(at_every_scale(f, "spectrum", 1)[order], degree, order)


def test_largest_floats_do_not_overflow_inside():
    huge = jnp.array([1e308, 1e308])
    assert_close(dln.effective_rank(huge), 2, ALGEBRA)
    assert_close(dln.stable_rank(huge), 2, ALGEBRA)
    assert_close(dln.schatten_norm(huge, 2) / 1e308, 2**0.5, ALGEBRA)
    assert_close(jax.grad(dln.schatten_norm)(1e200 * SIGMA, 2.0), jax.grad(dln.schatten_norm)(SIGMA, 2.0), ALGEBRA)


INF = np.inf
DERIVATIVES = [
    (dln.effective_rank, [1.0, 0.0], [0.0, INF]),
    (dln.effective_rank, [1.0, 1.0, 0.0], [0.0, 0.0, INF]),
    (dln.stable_rank, [1.0, 1.0], [0.0, 0.0]),
    (lambda s: dln.schatten_norm(s, INF), [2.0, 1.0], [1.0, 0.0]),
    (lambda s: dln.schatten_norm(s, INF), [1.0, 1.0], [0.5, 0.5]),
    (lambda s: dln.schatten_norm(s, 2), [0.0, 0.0], [0.5**0.5, 0.5**0.5]),
    (lambda s: dln.schatten_norm(s, 1), [1.0, 0.0], [1.0, 1.0]),
    (lambda s: dln.schatten_norm(s, 0.5), [1.0, 0.0], [1.0, INF]),
    # lambda_12 at depth 2 is (s + t)/2, and in general (1/N) s^(2-2/N) (1 + (t/s)^(2/N) + ...).
    (lambda s: dln.entropy(s, 1.5), [1.0, 0.0], [1 / 3, 0.0]),
    (lambda s: dln.entropy(s, 2), [1.0, 0.0], [0.5, 0.5]),
    (lambda s: dln.entropy(s, 3), [1.0, 0.0], [2 / 3, INF]),
    (dln.entropy, [1.0, 0.0], [1.0, INF]),
    (lambda s: dln.entropy(s, 2), [1.0, 1e-20], [0.5, 0.5]),
    (lambda s: dln.metric_eigenvalues(s, 1.5)[0, 1], [1.0, 0.0], [4 / 9, 0.0]),
    (lambda s: dln.metric_eigenvalues(s, 2)[0, 1], [1.0, 0.0], [0.5, 0.5]),
    (lambda s: dln.metric_eigenvalues(s, 3)[0, 1], [1.0, 0.0], [4 / 9, INF]),
    (lambda s: dln.metric_eigenvalues(s, INF)[0, 1], [1.0, 0.0], [0.0, INF]),
    (lambda s: dln.metric_eigenvalues(s, 2)[1, 1], [1.0, 0.0], [0.0, 1.0]),
    (lambda s: dln.metric_eigenvalues(s, 2)[0, 1], [0.0, 0.0], [0.5, 0.5]),
    (lambda s: dln.metric_eigenvalues(s, 2)[0, 1], [1.0, 1e-20], [0.5, 0.5]),
]


@pytest.mark.parametrize(("f", "sigma", "expected"), DERIVATIVES)
def test_derivative_at_zeros_and_ties(f, sigma, expected):
    found = np.asarray(jax.jit(jax.grad(f))(jnp.array(sigma)))
    expected = np.array(expected)
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    assert_close(found[np.isfinite(expected)], expected[np.isfinite(expected)], ALGEBRA)
    # Forwards too, and along a direction in which nothing infinite moves.
    still = np.where(np.isinf(expected), 0.0, 1.0)
    along = jax.jvp(f, (jnp.array(sigma),), (jnp.asarray(still),))[1]
    assert_close(along, np.sum(expected[np.isfinite(expected)]), ALGEBRA)


def test_entropy_gradient_keeps_its_digits_far_below_the_largest_value():
    # (4.36) at depth 2: dS/dt = 1/(2 (s + t)).
    small = 10.0 ** jnp.arange(-1.0, -150.0, -7.0)
    found = jax.vmap(lambda t: dln.entropy_gradient(jnp.stack([jnp.ones(()), t]), 2.0))(small)
    np.testing.assert_allclose(found, np.broadcast_to(0.5 / (1 + small)[:, None], found.shape), rtol=ALGEBRA)


def test_powers_of_two_are_exact():
    k = np.arange(-1000, 1001, 7)
    found = jax.jit(jax.vmap(lambda k: scaled(jnp.asarray(1.0), k)))(jnp.asarray(k, float))
    np.testing.assert_array_equal(found, np.ldexp(1.0, k))
    assert_close(scaled(jnp.asarray(1.0), 0.3), 2**0.3, ALGEBRA)
    # Each factor is in range where the outcome is.
    assert_close(scaled(jnp.asarray(1e-250), 1660.0) / 2.0**830, 1e-250 * 2.0**830, ALGEBRA)
    entries = jnp.array([0.0, 1.0, 3.0, 1e308, jnp.inf, jnp.nan])
    assert jax.vmap(lambda z: exponent(z[None]))(entries).tolist() == [0, 1, 2, 1021, 0, 0]


@pytest.mark.parametrize("d", [1, 2, 3, 6])
@pytest.mark.parametrize("scale", [1e-300, 1e-153, 1.0, 1e153, 1e300])
def test_sign_of_a_determinant_is_right_where_the_determinant_leaves_the_range(d, scale, key):
    # JAX multiplies the entries of a 2 x 2 matrix, and finds 0 or a wrong sign where a product leaves the range.
    x = jax.random.normal(key, (20, d, d)).at[0, :, 0].set(0.0).at[1, 0, 0].set(jnp.nan)
    expected = np.linalg.slogdet(x[2:])[0]
    assert {-1.0, 1.0} <= set(expected)
    np.testing.assert_array_equal(sign_of_determinant(scale * x)[2:], expected)
    assert sign_of_determinant(scale * x[0]) == 0 and np.isnan(sign_of_determinant(scale * x[1]))
