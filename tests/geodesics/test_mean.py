"""The Frechet mean against closed forms, optimal transport, and the slopes and curvature of what it minimises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

import dlnjax as dln
from dlnjax._geodesics import mean_descent, mean_newton

DEPTHS = [1.0, 2.0, 3.0, np.inf]
POINTS = jnp.array([[[2.0, 0.3], [-0.2, 0.7]], [[1.5, -0.4], [0.6, 1.2]], [[0.8, 0.5], [-1.1, 0.4]]])
WEIGHTS = np.array([0.5, 0.3, 0.2])
FAR = [jnp.diag(jnp.exp(jnp.array([6.0, 0.0]))), jnp.diag(jnp.exp(jnp.array([0.0, 6.0])))]


def turned(angle, size=1.0):
    c, s = np.cos(angle), np.sin(angle)
    return size * jnp.array([[c, -s], [s, c]])


@pytest.fixture(scope="module", params=DEPTHS)
def mean(request):
    return dln.frechet_mean(POINTS, request.param, weights=WEIGHTS)


@pytest.mark.parametrize("depth", DEPTHS)
def test_of_diagonal_matrices_is_the_mean_of_y(depth):
    sigma = np.array([[4.0, 1.0], [3.0, 0.2], [9.0, 0.5]])
    found = dln.frechet_mean([jnp.diag(jnp.asarray(s)) for s in sigma], depth, weights=WEIGHTS)
    y = np.log(sigma) if depth == np.inf else depth * sigma ** (1 / depth)
    middle = WEIGHTS @ y
    expected = np.exp(middle) if depth == np.inf else (middle / depth) ** depth
    assert_close(found.x, np.diag(expected), INTEGRATION)
    assert_close(found.variance, WEIGHTS @ np.sum((y - middle) ** 2, axis=1), INTEGRATION)


@pytest.mark.parametrize("depth", DEPTHS)
def test_of_isotropic_matrices_is_the_mean_on_a_flat_cone(depth):
    # r R(angle) is a cone of angle 2 pi/N, with the radius sqrt(2) N r^(1/N). At infinite depth it is a strip.
    sizes, angles = np.array([1.0, 2.0, 0.7]), np.array([0.3, -0.9, 1.4])
    found = dln.frechet_mean([turned(a, r) for a, r in zip(angles, sizes, strict=True)], depth, weights=WEIGHTS)
    if depth == np.inf:
        expected = turned(WEIGHTS @ angles, np.exp(WEIGHTS @ np.log(sizes)))
    else:
        z = WEIGHTS @ (sizes ** (1 / depth) * np.exp(1j * angles / depth))
        expected = turned(depth * np.angle(z), np.abs(z) ** depth)
    assert_close(found.x, expected, INTEGRATION)


# Made by ot.gaussian.bures_wasserstein_barycenter of POT 0.9.7, to 1e-15: with WEIGHTS, and with equal weights.
COVARIANCES = np.array(
    [
        [[4.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]],
        [[1.0, -0.3, 0.2], [-0.3, 3.0, 0.4], [0.2, 0.4, 0.5]],
        [[2.0, 0.0, -0.7], [0.0, 1.0, 0.1], [-0.7, 0.1, 5.0]],
    ]
)
OF_POT = [
    [
        [2.464399147140905, 0.3396450755391838, -0.013320299159422753],
        [0.33964507553918377, 1.9943162318415601, 0.45552559880958626],
        [-0.013320299159422712, 0.45552559880958626, 1.3178219157662003],
    ],
    [
        [2.1233741919128413, 0.16326291168527188, -0.07452076992414582],
        [0.16326291168527188, 1.8706409680941722, 0.41870936991947916],
        [-0.07452076992414582, 0.41870936991947927, 1.6956181407478306],
    ],
]


@pytest.mark.long
@pytest.mark.parametrize(("weights", "expected"), [(WEIGHTS, OF_POT[0]), (None, OF_POT[1])], ids=["some", "equal"])
def test_of_positive_definite_matrices_at_depth_two_is_the_barycenter_of_optimal_transport(weights, expected):
    found = dln.frechet_mean(COVARIANCES, 2, weights=weights)
    assert_close(found.x, expected, INTEGRATION)
    # It is the fixed point of Alvarez-Esteban, del Barrio, Cuesta-Albertos, Matran 2016.
    root = sqrtm(np.asarray(found.x))
    mixed = np.tensordot(found.weights, np.stack([sqrtm(root @ c @ root) for c in COVARIANCES]), 1)
    assert_close(found.x, mixed, INTEGRATION)
    transport = [np.trace(found.x + c - 2 * sqrtm(root @ c @ root)) for c in COVARIANCES]
    assert_close(found.lengths**2, 4 * np.array(transport), INTEGRATION)


def test_of_two_is_on_the_shortest_geodesic_between_them():
    line = dln.geodesic(POINTS[0], POINTS[1], 3.0)
    found = dln.frechet_mean(POINTS[:2], 3, weights=[0.25, 0.75])
    assert_close(found.x, line.evaluate(0.75), INTEGRATION)
    assert_close(found.variance, 0.25 * 0.75 * line.length**2, INTEGRATION)


@pytest.mark.long
def test_nothing_falls_at_the_mean_and_its_hessian_is_that_of_the_sum_of_squares(mean):
    depth = mean.depth
    assert_close(jnp.tensordot(mean.weights, mean.momenta, 1), 0 * mean.x, INTEGRATION)
    assert mean.gradient_norm < 1e-9 and mean.index == 0
    value = lambda x: sum(w * float(dln.distance(x, b, depth)) ** 2 / 2 for w, b in zip(WEIGHTS, POINTS, strict=True))
    point = dln.svd(mean.x)
    root = np.sqrt(dln.metric_eigenvalues(point.sigma, depth))
    basis = np.kron(point.u, point.v).T.reshape(4, 2, 2) * np.asarray(root).reshape(4, 1, 1)
    h = 1e-3
    for n, z in enumerate([*basis, (basis[0] + basis[3]) / np.sqrt(2)]):
        p = dln.metric_operator_inverse(mean.x, jnp.asarray(z), depth)
        ahead, behind = (value(dln.exponential(mean.x, s * h * p, depth).x[-1]) for s in (1, -1))
        along = np.eye(4)[n] if n < 4 else np.array([1, 0, 0, 1]) / np.sqrt(2)
        assert_close(along @ mean.hessian @ along, (ahead + behind - float(mean.variance)) / h**2, FINITE_DIFFERENCE)


@pytest.mark.long
def test_isometries_and_the_order_of_the_points(mean, key):
    q, r = (jnp.linalg.qr(jax.random.normal(k, (2, 2)))[0] for k in jax.random.split(key))
    again = lambda points, weights=WEIGHTS: dln.frechet_mean(points, mean.depth, weights=weights).x
    assert_close(again(q @ POINTS @ r), q @ mean.x @ r, INTEGRATION)
    assert_close(again(jnp.swapaxes(POINTS, 1, 2)), mean.x.T, INTEGRATION)
    assert_close(again(POINTS[::-1], WEIGHTS[::-1]), mean.x, INTEGRATION)
    assert_close(again([POINTS[0], *POINTS], [0.2, 0.3, 0.3, 0.2]), mean.x, INTEGRATION)
    if mean.depth.inverse_depth == 0:
        assert_close(again(jnp.linalg.inv(POINTS)), jnp.linalg.inv(mean.x), INTEGRATION)


@pytest.mark.long
@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_any_scale(mean, scale):
    power = 1 - mean.depth.degree / 2
    found = dln.frechet_mean(scale * POINTS, mean.depth, weights=WEIGHTS)
    assert_close(found.x / scale, mean.x, INTEGRATION)
    assert_close(found.spread / mean.spread, scale**power, INTEGRATION * max(1, scale**power))
    assert_close(found.spread / scale**power, mean.spread, INTEGRATION)
    assert_close(found.momenta * scale ** (1 - 2 * power), mean.momenta, INTEGRATION)


@pytest.mark.long
def test_kernels_that_are_not_homogeneous():
    kernel = dln.Imbalanced(0.7)
    found = dln.frechet_mean(POINTS[:2], kernel, weights=[0.25, 0.75])
    assert_close(found.x, dln.geodesic(POINTS[0], POINTS[1], kernel).evaluate(0.75), INTEGRATION)


@pytest.mark.parametrize("depth", [1.0, 3.0])
def test_of_one_and_of_equal_matrices_is_that_matrix(depth):
    for points in (POINTS[:1], [POINTS[1]] * 3):
        found = dln.frechet_mean(points, depth)
        assert_close(found.x, points[0], ALGEBRA)
        assert found.variance < 1e-30 and found.result == "successful"
    rounding = 1 + 1e-15 * jnp.arange(3)[:, None, None]
    assert_close(dln.frechet_mean(POINTS[1] * rounding, depth).x, POINTS[1], ALGEBRA)


def test_at_depth_one_the_mean_may_be_singular():
    found = dln.frechet_mean([jnp.eye(2), -jnp.eye(2)], 1)
    assert_close(found.x, np.zeros((2, 2)), ALGEBRA)
    assert_close(found.variance, 2.0, ALGEBRA)


@pytest.mark.long
def test_a_saddle_is_told_from_a_minimum():
    # The middle of the diagonal line is critical, but the shortest geodesic turns the frame: its two ways are minima.
    found = dln.frechet_mean(FAR, np.inf)
    assert_close(found.variance, dln.distance(*FAR, np.inf) ** 2 / 4, INTEGRATION)
    assert found.index == 0
    saddle = dln.frechet_mean(FAR, np.inf, x0=np.exp(3) * jnp.eye(2))
    assert_close(saddle.variance, 18.0, INTEGRATION)
    assert saddle.index == 1


@pytest.mark.long
def test_other_starts_find_other_minima():
    # On the cone of depth 2 these are three points at distances of 60 degrees, and the cone closes after 180.
    points = [turned(angle) for angle in (0.0, 2 * np.pi / 3, -2 * np.pi / 3)]
    ends = [dln.frechet_mean(points, 2, x0=x0) for x0 in points]
    for end, x0 in zip(ends, points, strict=True):
        assert_close(end.x, 4 / 9 * x0, INTEGRATION)
        assert_close(end.variance, 40 / 9, INTEGRATION)
        assert end.index == 0


def test_a_search_that_does_not_converge_says_so():
    found = dln.frechet_mean(POINTS, 3, x0=POINTS[2], max_steps=1, throw=False)
    assert found.result == "not_converged" and found.stats["steps"] == 1 and found.gradient_norm > 1e-3
    assert "not_converged" in repr(found) and "<svg" not in found._repr_html_()
    with pytest.raises(RuntimeError, match="search for a mean ended before its gradient fell"):
        dln.frechet_mean(POINTS, 3, x0=POINTS[2], max_steps=1)
    with pytest.raises(ValueError, match="did not end at a mean"):
        found.index  # noqa: B018
    with pytest.raises(ValueError, match="a mean is one matrix"):
        found.plot()


def test_the_sum_falls_at_every_step_of_the_descent(monkeypatch):
    spreads, line_search = [], mean_descent._line_search

    def record(*args):
        step, tries = line_search(*args)
        spreads.append(step.place.spread)
        return step, tries

    monkeypatch.setattr(mean_descent, "_line_search", record)
    monkeypatch.setattr(mean_descent, "_NEAR", 0.0)
    end = dln.frechet_mean(POINTS, 3, x0=turned(3.0, 20.0))
    assert len(spreads) == end.stats["steps"] >= 4
    assert np.all(np.diff(spreads) < 1e-12) and spreads[0] > spreads[-1] + 1e-3


def ill_conditioned(key, n, d):
    u = jnp.linalg.qr(jax.random.normal(key, (n, d, d)))[0]
    return np.asarray((u * jnp.logspace(0, -6, d)) @ jnp.swapaxes(u, 1, 2))


def barycenter(points):
    """The fixed point of Alvarez-Esteban, del Barrio, Cuesta-Albertos, Matran 2016, by NumPy, from the mean."""
    x = np.mean(points, 0)
    for _ in range(20000):
        values, u = np.linalg.eigh(x)
        root, back = (u * np.sqrt(values)) @ u.T, (u / np.sqrt(values)) @ u.T
        inner, v = np.linalg.eigh(root @ points @ root)
        mean = np.mean((v * np.sqrt(np.maximum(inner, 0))[:, None, :]) @ np.swapaxes(v, 1, 2), 0)
        old, x = x, back @ mean @ mean @ back
        if np.abs(x - old).max() < 1e-15:
            break
    return x


@pytest.mark.parametrize("d", [2, pytest.param(3, marks=pytest.mark.long)])
def test_ill_conditioned_points_take_few_searches(d, key):
    points = ill_conditioned(key, 3, d)
    found = dln.frechet_mean(points, 2)
    assert_close(found.x, barycenter(points), INTEGRATION)
    # One search of each geodesic at the start, and one at the mean.
    assert found.stats["searches"] == 2 * len(points) and found.gradient_norm < 1e-10 * found.spread
    assert_close(found.lengths, [dln.distance(found.x, jnp.asarray(point), 2) for point in points], INTEGRATION)


@pytest.mark.long
@pytest.mark.parametrize("depth", [2.0, 3.0, np.inf])
def test_newton_and_descent_end_at_the_same_mean(depth, monkeypatch):
    found = dln.frechet_mean(POINTS, depth)
    monkeypatch.setattr(mean_descent, "_NEAR", 0.0)
    assert_close(dln.frechet_mean(POINTS, depth).x, found.x, INTEGRATION)


def test_a_geodesic_that_is_not_the_shortest_is_left_for_one_that_is(monkeypatch):
    # From so far away Newton's method follows geodesics to a critical point of their lengths, which are no distances.
    monkeypatch.setattr(mean_descent, "_NEAR", 1.0)
    rounds, meet = [], mean_descent.meet

    def record(*args):
        rounds.append(meet(*args))
        return rounds[-1]

    monkeypatch.setattr(mean_descent, "meet", record)
    end = dln.frechet_mean(POINTS, 3, x0=turned(3.0, 20.0), throw=False)
    first = np.sum(np.square(rounds[0].lengths)) / 3
    assert end.variance < 0.5 * first
    assert_close(end.lengths, [dln.distance(end.x, point, 3) for point in POINTS], INTEGRATION)


@pytest.mark.parametrize("code", ["rank_lost", "not_arrived"])
def test_where_the_search_fails_at_the_mean_the_followed_geodesics_are_kept(code, monkeypatch):
    whole, connect, calls = dln.frechet_mean(POINTS, 3), mean_descent.connect, []

    def fails_later(a, b, kernel, *, rtol):
        calls.append(connect(a, b, kernel, rtol=rtol))
        lost = dataclasses.replace(calls[-1], result=getattr(dln.RESULTS, code))
        return lost if len(calls) > 5 else calls[-1]  # 2 for the inductive mean, and 3 from there

    monkeypatch.setattr(mean_descent, "connect", fails_later)
    found = dln.frechet_mean(POINTS, 3)
    assert_close(found.x, whole.x, INTEGRATION)
    assert_close(found.momenta, whole.momenta, INTEGRATION)
    assert_close(found.lengths, whole.lengths, INTEGRATION)


@pytest.mark.parametrize("met", [mean_newton._MET, np.inf], ids=["led on", "left where they are"])
def test_at_a_coarse_tolerance_too_the_geodesics_end_at_the_points(met, monkeypatch):
    monkeypatch.setattr(mean_newton, "_MET", met)
    found = dln.frechet_mean(POINTS, 3, tol=1e-3)
    assert found.stats["steps"] == 1
    ends = jnp.stack([dln.exponential(found.x, p, 3).x[-1] for p in found.momenta])
    assert_close(ends, POINTS, INTEGRATION)
    assert_close(found.lengths, [dln.distance(found.x, point, 3) for point in POINTS], INTEGRATION)


BAD = [
    (dict(points=POINTS[0]), r"points must be a stack of square matrices \(n, d, d\), got shape \(2, 2\)"),
    (dict(points=np.zeros((0, 2, 2))), r"points must hold at least one matrix, got an array of shape \(0, 2, 2\)"),
    (dict(points=[np.eye(2), np.eye(3)]), r"points must hold matrices of one shape, got \(2, 2\) and \(3, 3\)"),
    (dict(points=POINTS.at[1].set(1.0)), r"points\[1\] is singular"),
    (dict(points=POINTS.at[1, 0, 0].set(np.nan)), r"points\[1\] must be finite"),
    (dict(points=POINTS.at[1, 0].multiply(-1)), r"points\[0\] has a positive determinant and points\[1\] a negative"),
    (dict(weights=[0.5, 0.5]), r"weights must have the shape \(3,\)"),
    (dict(weights=[0.5, 0.6, -0.1]), r"weights must be finite numbers above 0, got -0.1 for points\[2\]"),
    (dict(weights=[0.0, 0.5, 0.5]), r"got 0 for points\[0\]\. Leave out"),
    (dict(weights=[1.0, 1.0, np.nan]), r"got nan for points\[2\]"),
    (dict(weights=[1.0, 1.0, 1.0]), r"weights must sum to 1, got 3\. Divide them"),
    (dict(x0=jnp.eye(3)), r"x0 must have the shape of the points, \(2, 2\), got \(3, 3\)"),
    (dict(x0=jnp.diag(jnp.array([1.0, -1.0]))), r"x0 and the points have determinants of opposite signs"),
    (dict(depth=0.5), "depth must be a number N"),
    (dict(tol=0.0), "tol must be a number above 0 and below 1"),
    (dict(max_steps=0), "max_steps must be a whole number of at least 1"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_bad_input_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dln.frechet_mean(**{"points": POINTS, "depth": 2} | change)


def test_what_is_no_float64_or_is_traced_is_refused():
    with pytest.raises(TypeError, match="points must be float64"):
        dln.frechet_mean(POINTS.astype(jnp.float32), 2)
    with pytest.raises(TypeError, match=r"points must be real floating point, got int64\. Convert it"):
        dln.frechet_mean([[[4, 0], [0, 1]], [[1, 0], [0, 1]]], 2)
    with pytest.raises(TypeError, match=r"frechet_mean cannot be traced.*Use dlnjax\.distance"):
        jax.jit(lambda points: dln.frechet_mean(points, 2).x)(POINTS)


@pytest.mark.long
def test_the_logarithm_has_a_derivative_along_diagonal_geodesics():
    # At depth 2 the momentum is 2 (sqrt(b) - sqrt(a))/sqrt(a), and the Jacobi fields have momenta of exactly 0.
    a, b = jnp.array([4.0, 1.0]), jnp.array([1.0, 3.0])
    along = lambda e: jax.jvp(lambda x: dln.logarithm(x, jnp.diag(b), 2.0), (jnp.diag(a),), (e,))[1]
    for k in range(2):
        expected = np.zeros((2, 2))
        expected[k, k] = -np.sqrt(b[k]) / a[k] ** 1.5
        assert_close(along(jnp.zeros((2, 2)).at[k, k].set(1.0)), expected, INTEGRATION)
