"""The curvature against moving frames in many digits, the factors upstairs, closed forms, and its identities."""

from itertools import combinations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from support.kernels import AsBalanced
from support.moving_frame import BalancedInMpmath, curvature, frame, names, TwoLayersInMpmath
from support.oneill import Network
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE
from support.upstairs import balanced, chain

import dlnjax as dln

PAIRS = [("2", "1"), ("1", "1"), ("1", "0.999999999"), ("1", "0.6"), ("1", "1e-8")]
TRIPLES = [
    ("2", "1.1", "0.3"),
    ("1", "1", "0.3"),
    ("1", "1", "1"),
    ("1.000000001", "1", "0.5"),
    ("1", "0.9", "0.8"),
    ("1", "0.61", "0.6"),
    ("1", "1", "1e-8"),
    ("1", "1e-4", "1e-8"),
    ("1", "3e-8", "1e-8"),
]
DEPTHS = [1.0, 1.3, 2.0, 3.0, 10.0, np.inf]


@jax.jit
def components(x, vectors, kernel):
    """g(R(e_a, e_b) e_c, e_d) of the vectors e."""
    of = jax.vmap(dln.curvature, (None, None, None, 0, None))
    of = jax.vmap(jax.vmap(of, (None, None, 0, None, None)), (None, 0, None, None, None))
    covectors = jax.vmap(lambda d: dln.metric_operator_inverse(x, d, kernel))(vectors)
    return jnp.einsum("abcij,dij->abcd", of(x, vectors, vectors, vectors, kernel), covectors)


def check_components(sigma, in_mpmath, kernel, y):
    """All components in an orthonormal frame, within rounding of their size. `y` is the distance to the singular ones.

    The size of the curvature of the planes of one pair is the inverse square of the larger y, or their largest
    component. That of all other components is the size of the last pair.
    """
    d, expected = len(sigma), curvature(sigma, in_mpmath)
    sigma = [float(s) for s in sigma]
    found = np.asarray(components(jnp.diag(jnp.array(sigma)), jnp.array(frame(sigma, in_mpmath)), kernel))
    wrong = abs(found - expected)
    for i, j in [*combinations(range(d), 2), (d - 2, None)]:
        of_pair = [n for n, name in enumerate(names(d)) if j is None or set(name[1:]) <= {i, j}]
        block = np.ix_(*[of_pair] * 4)
        assert wrong[block].max() <= ALGEBRA * max(1, y(sigma[i]) ** -2, abs(expected[block]).max())
    return expected


def distance(depth):
    """N sigma^(1/N), and at infinite depth, where the singular matrices are infinitely far away, 1."""
    return lambda s: depth * s ** (1 / depth) if np.isfinite(depth) else 1.0


@pytest.mark.parametrize("depth", DEPTHS)
def test_components_are_those_of_the_moving_frame(depth):
    for sigma in PAIRS + TRIPLES[: None if depth > 1 else -2]:
        expected = check_components(sigma, BalancedInMpmath(depth), dln.Balanced(depth), distance(depth))
        assert depth > 1 or abs(expected).max() < 1e-20


@pytest.mark.long
@pytest.mark.parametrize("kernel", [dln.Balanced(1), dln.Imbalanced(4.0)], ids=str)
def test_what_rounding_may_exceed_is_nan(kernel):
    # lambda does not vanish at 0, so that the curvature is small beside the terms that cancel.
    x, z = jnp.diag(jnp.array([1.0, 3e-8, 1e-8])), jnp.array(frame(["1", "3e-8", "1e-8"], BalancedInMpmath(1)))
    assert jnp.isnan(dln.sectional_curvature(x, z[1], z[5], kernel))
    assert jnp.all(jnp.isnan(jax.grad(dln.sectional_curvature, 1)(x, z[1], z[5], kernel)))
    assert jnp.isfinite(dln.sectional_curvature(jnp.diag(jnp.array([1.0, 0.5, 1e-8])), z[1], z[5], kernel))


def rotations(depth):
    """(y(sigma), f-, f+), in mpmath: the lengths of the two rotations of a pair, as functions of y."""
    if depth == np.inf:
        one = lambda sign: lambda a, b: mpmath.sqrt((a - b) * mpmath.tanh((a - b) / 2) ** sign)
        return mpmath.log, one(1), one(-1)
    n = int(depth)

    def one(sign):
        def f(a, b):
            s, t = (a / n) ** n, (b / n) ** n
            p = mpmath.mpf(2) / n
            return mpmath.sqrt((s**p - t**p) / p * ((s - t) / (s + t)) ** sign)

        return f

    return lambda s: n * s ** (mpmath.mpf(1) / n), one(1), one(-1)


def planes_of_a_pair(pair, depth):
    """K of PLANES: -f''/f, and in the last minus the product of the gradients of log f- and log f+."""
    there, *lengths = rotations(depth)
    with mpmath.workdps(40):
        y = [there(mpmath.mpf(s)) for s in pair]
        logs = [lambda *y, f=f: mpmath.log(f(*y)) for f in lengths]
        out = [-mpmath.diff(f, y, n) / f(*y) for f in lengths for n in ((2, 0), (0, 2))]
        out.append(-mpmath.fsum(mpmath.fprod(mpmath.diff(f, y, n) for f in logs) for n in ((1, 0), (0, 1))))
        return [float(k) for k in out]


PLANES = [("1", "-"), ("2", "-"), ("1", "+"), ("2", "+"), ("-", "+")]
sectional = jax.jit(jax.vmap(dln.sectional_curvature, (None, 0, 0, None)))


def vectors_of(i, j, d):
    unit = lambda k, l: np.outer(np.eye(d)[k], np.eye(d)[l])
    z = {"1": unit(i, i), "2": unit(j, j), "-": unit(i, j) + unit(j, i), "+": unit(i, j) - unit(j, i)}
    return (jnp.array([z[plane[n]] for plane in PLANES]) for n in (0, 1))


@pytest.mark.long
@pytest.mark.parametrize("depth", [1.0, 2.0, 3.0, 10.0, np.inf])
def test_planes_of_one_pair_at_two_and_at_four_singular_values(depth):
    for pair in [("2", "1"), ("1", "0.999"), ("1", "1e-8")]:
        x = jnp.diag(jnp.array([float(s) for s in pair]))
        found = sectional(x, *vectors_of(0, 1, 2), jnp.asarray(depth))
        assert_close(found, planes_of_a_pair(pair, depth), ALGEBRA)
    sigma = ["3", "1.5", "1.499", "0.01"]
    x = jnp.diag(jnp.array([float(s) for s in sigma]))
    for i, j in [(0, 1), (1, 2), (0, 3), (2, 3)]:
        found = sectional(x, *vectors_of(i, j, 4), jnp.asarray(depth))
        assert_close(found, planes_of_a_pair((sigma[i], sigma[j]), depth), ALGEBRA)


@pytest.mark.long
def test_all_depths_have_one_curvature_at_isotropic_matrices_up_to_a_factor(general):
    _, a, b, c, x = general
    point = dln.svd(x)
    x = 2 * point.u @ point.v.T
    for depth in (1.0, 1.5, 2.0, 10.0):
        expected = (1 - 1 / depth**2) * dln.curvature(x, a, b, c, np.inf)
        assert_close(dln.curvature(x, a, b, c, depth), expected, ALGEBRA)


def test_takatsu_and_isotropic_matrices():
    for s, t in [(2.0, 1.0), (1.0, 1.0), (1.0, 1e-4)]:
        found = sectional(jnp.diag(jnp.array([s, t])), *vectors_of(0, 1, 2), jnp.asarray(2.0))
        assert_close(found[:2], 0.75 * np.array([t, s]) / (s + t) ** 2, ALGEBRA)
    found = sectional(jnp.eye(2), *vectors_of(0, 1, 2), jnp.asarray(jnp.inf))
    assert_close(found, [1 / 4, 1 / 4, -1 / 12, -1 / 12, -1 / 6], ALGEBRA)


@pytest.mark.long
@pytest.mark.parametrize("scale", [1e-150, 1e150])
@pytest.mark.parametrize("depth", [2.0, np.inf])
def test_any_scale(scale, depth):
    x, z, w = (
        jnp.diag(jnp.array([1.0, 0.5])),
        jnp.array([[0.3, 1.0], [-0.2, 0.7]]),
        jnp.array([[0.1, -0.4], [0.9, 0.5]]),
    )
    y = scale * x
    power = 2 / depth
    factor = scale ** (power / 2)
    found = dln.sectional_curvature(y, z, w / scale, depth) * factor * factor
    assert_close(found, dln.sectional_curvature(x, z, w, depth), ALGEBRA)
    assert_close(dln.scalar_curvature(y, depth) * factor * factor, dln.scalar_curvature(x, depth), ALGEBRA)
    assert_close(dln.ricci(y, scale * z, scale * w, depth), dln.ricci(x, z, w, depth), ALGEBRA)
    assert_close(dln.curvature(y, scale * z, w, scale * z, depth), dln.curvature(x, z, w, z, depth), ALGEBRA)
    assert_close(dln.christoffel(y, scale * z, w, depth), dln.christoffel(x, z, w, depth), ALGEBRA)


@pytest.fixture(scope="module")
def general(module_key):
    return jax.random.normal(module_key, (5, 3, 3))


riemann = jax.jit(lambda x, a, b, c, d, depth: dln.inner(x, dln.curvature(x, a, b, c, depth), d, depth))


@pytest.mark.long
@pytest.mark.parametrize("depth", [2.5, np.inf])
def test_symmetries_and_the_identity_of_bianchi(general, depth):
    x, a, b, c, d = general
    r = lambda *z: riemann(x, *z, jnp.asarray(depth))
    value = r(a, b, c, d)
    assert abs(value) > 1e-3
    for other in (-r(b, a, c, d), -r(a, b, d, c), r(c, d, a, b)):
        assert_close(other, value, ALGEBRA)
    assert_close(r(a, b, c, d) + r(b, c, a, d) + r(c, a, b, d), 0.0, ALGEBRA)


@pytest.mark.long
def test_isometries_and_determinants_of_both_signs(general, key):
    x, a, b, c, _ = general
    q, p = (jnp.linalg.qr(jax.random.normal(k, (3, 3)))[0] for k in jax.random.split(key))
    flip = jnp.diag(jnp.array([-1.0, 1.0, 1.0]))
    value = dln.curvature(x, a, b, c, 3.0)
    for left in (q, flip @ q):
        assert_close(dln.curvature(*(left @ z @ p.T for z in (x, a, b, c)), 3.0), left @ value @ p.T, ALGEBRA)
    assert_close(dln.curvature(x.T, a.T, b.T, c.T, 3.0), value.T, ALGEBRA)


@pytest.mark.parametrize("sigma", [[2.0, 1.1, 0.3], [1.0, 1.0, 0.3], [1.0, 1.0, 1.0]])
def test_connection_keeps_the_metric_and_has_no_torsion(general, key, sigma):
    _, a, b, c, x = general
    point = dln.svd(x)
    x = dln.SVD(point.u, jnp.array(sigma), point.v).matrix
    for depth in (1.0, 3.0, np.inf):
        gamma = lambda z, w, depth=depth: dln.christoffel(x, z, w, depth)
        moved = jax.jvp(lambda x, depth=depth: dln.inner(x, b, c, depth), (x,), (a,))[1]
        assert_close(dln.inner(x, gamma(a, b), c, depth) + dln.inner(x, b, gamma(a, c), depth), moved, 1e-11)
        assert_close(gamma(a, b), gamma(b, a), ALGEBRA)
        assert_close(gamma(a, b) * (depth == 1), 0 * x, ALGEBRA)


def test_connection_at_condition_1e8():
    x = jnp.diag(jnp.array([1.0, 1e-8]))
    assert_close(dln.christoffel(x, x, x, np.inf)[1, 1] * 1e8, -1.0, ALGEBRA)
    assert_close(dln.christoffel(x, x, x, 4)[1, 1] * 1e8, -0.75, ALGEBRA)
    # The symmetric and the antisymmetric part of a pair are parallel along a line in y up to their lengths.
    for depth, z in ((3.0, [[0.0, 1.0], [1.0, 0.0]]), (np.inf, [[0.0, 1.0], [-1.0, 0.0]])):
        z, e = jnp.array(z), jnp.diag(jnp.array([0.0, 1e-8]))
        rate = jax.jvp(lambda x, z=z, depth=depth: dln.norm(x, z, depth), (x,), (e,))[1] / dln.norm(x, z, depth)
        assert_close(dln.christoffel(x, e, z, depth), rate * z, ALGEBRA)


def test_covariant_derivative_of_a_gradient_is_the_hessian_along_geodesics():
    x, z = jnp.array([[1.0, 0.2], [-0.3, 0.5]]), jnp.array([[0.3, -0.4], [0.2, 0.6]])
    energy = dln.Schatten(3)
    gradient = lambda x: dln.riemannian_gradient(energy, x, 3)
    found = dln.inner(x, dln.covariant_derivative(gradient, x, z, 3), z, 3)
    p = dln.metric_operator_inverse(x, z, 3)
    h = 2e-3
    ahead, behind = (energy(dln.exponential(x, s * h * p, 3, rtol=1e-12).x[-1]) for s in (1, -1))
    assert_close(found, (ahead - 2 * energy(x) + behind) / h**2, FINITE_DIFFERENCE)


@pytest.mark.long
def test_traces_are_sums_over_an_orthonormal_frame():
    sigma = ["1.2", "1.2", "0.4"]
    for depth in (2.0, np.inf):
        tensor, vectors = curvature(sigma, BalancedInMpmath(depth)), jnp.array(frame(sigma, BalancedInMpmath(depth)))
        x = jnp.diag(jnp.array([1.2, 1.2, 0.4]))
        traced = np.einsum("abca->bc", tensor)
        for b, c in ((0, 0), (2, 2), (0, 1), (4, 4), (8, 8)):
            assert_close(dln.ricci(x, vectors[b], vectors[c], depth), traced[b, c], ALGEBRA)
        assert_close(dln.scalar_curvature(x, depth), np.trace(traced), ALGEBRA)


@pytest.mark.parametrize("d", [2, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("depth", [2, 3])
def test_gauss_and_oneill_upstairs_in_the_factors(key, depth, d):
    u, v, *turns = (np.linalg.qr(z)[0] for z in np.asarray(jax.random.normal(key, (depth + 1, d, d))))
    planes = np.asarray(jax.random.normal(key, (2, 5, d, d)))
    parts = []
    for sigma in (np.array([1.7, 0.9, 0.4])[:d], np.array([1.2, 1.2, 0.5])[:d]):
        first, *rest = balanced(u, sigma, v, depth)
        # The factors are turned along their fibre, where no layer is diagonal.
        weights = np.stack([first, *rest])
        for p, turn in enumerate(turns):
            weights[p], weights[p + 1] = turn @ weights[p], weights[p + 1] @ turn.T
        network, x = Network(weights), jnp.asarray(chain(weights))
        lifts = np.stack([network.lift(z) for z in planes[0]])
        assert_close(
            jax.vmap(lambda z, x=x: dln.inner(x, z, z, depth))(planes[0]), depth * np.sum(lifts**2, 1), ALGEBRA
        )
        parts += [network.sectional(*plane) for plane in zip(*planes, strict=True)]
        found = sectional(x, *map(jnp.asarray, planes), jnp.asarray(float(depth)))
        assert_close(found, np.sum(parts[-5:], axis=1) / depth, ALGEBRA)
    # Neither part is the whole of it.
    assert np.all(np.abs(parts).max(axis=0) > 1e-2)


@pytest.mark.long
def test_kernels_of_ones_own():
    for sigma in [*PAIRS, ("1", "0.61", "0.6"), ("1", "1", "0.3")]:
        for depth in (2.0, np.inf):
            check_components(sigma, BalancedInMpmath(depth), AsBalanced(dln.Balanced(depth)), distance(depth))


class Narrow(dln.Kernel):
    """lambda = exp(0.5 (1 - exp(-16 log(s/t)^2))), which changes within a fourth of log sigma."""

    degree = 0.0
    straighten = unstraighten = lambda self, s: s

    def log_eigenvalue(self, log_s, log_t):
        return -0.5 * jnp.expm1(-16 * (log_s - log_t) ** 2)

    def leaving(self, sigma):
        return (jnp.exp(0.5) * jnp.ones_like(sigma),) * 2


class NarrowInMpmath:
    between = lambda self, s, t: mpmath.exp((1 - mpmath.exp(-16 * mpmath.log(s / t) ** 2)) / 2)
    diagonal = lambda self, s: mpmath.mpf(1)


@pytest.mark.long
def test_kernels_of_ones_own_that_change_within_less_than_one_log_sigma():
    pairs, triples = [("1.5", "1"), ("1", "0.94"), ("1", "0.96")], [("1.5", "1", "0.7"), ("1", "0.94", "0.91")]
    for sigma in [*pairs, *triples, ("1", "1", "0.7")]:
        check_components(sigma, NarrowInMpmath(), Narrow(), lambda s: s)


@pytest.mark.long
@pytest.mark.parametrize("g", [0.7, -0.7, 0.001])
def test_imbalanced_networks(g):
    for sigma in [*PAIRS, ("2", "1.1", "0.3"), ("1", "1", "0.3"), ("1", "0.61", "0.6"), ("1", "1e-4", "1e-8")]:
        inverse_slope = lambda s: s / (s * s + g * g / 4) ** 0.25
        check_components(sigma, TwoLayersInMpmath(g), dln.Imbalanced(g), inverse_slope)


@pytest.mark.long
def test_vmap_is_the_loop(general):
    x, a, b, *_ = general
    depths = jnp.array([1.0, 3.0, jnp.inf])
    xs = x[None] * jnp.array([1.0, 0.5, 2.0])[:, None, None]
    found = jax.vmap(dln.sectional_curvature, (0, None, None, 0))(xs, a, b, depths)
    assert_close(found, [dln.sectional_curvature(x, a, b, n) for x, n in zip(xs, depths, strict=True)], ALGEBRA)


def test_bad_input_is_refused():
    eye = jnp.eye(2)
    with pytest.raises(ValueError, match=r"x must be a square matrix of shape \(d, d\), got shape \(3, 2\)"):
        dln.scalar_curvature(jnp.ones((3, 2)), 2)
    with pytest.raises(ValueError, match="x must have full rank"):
        dln.scalar_curvature(jnp.diag(jnp.array([1.0, 0.0])), 2)
    with pytest.raises(ValueError, match="z1 and z2 must span a plane"):
        dln.sectional_curvature(eye, eye, -3 * eye, 2)
    with pytest.raises(ValueError, match="z1 and z2 must span a plane"):
        dln.sectional_curvature(eye, eye, 0 * eye, 2)
    with pytest.raises(ValueError, match=r"field must return one matrix of shape \(2, 2\), that of x, got \(2,\)"):
        dln.covariant_derivative(jnp.diag, eye, eye, 2)
    with pytest.raises(RuntimeError, match="z1 and z2 must span a plane"):
        jax.block_until_ready(jax.jit(lambda z: dln.sectional_curvature(eye, z, z, 2))(eye))
