"""The manifold for pymanopt: its gradient and Hessian along geodesics, and what pymanopt's optimisers find on it."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, FINITE_DIFFERENCE, INTEGRATION

pymanopt = pytest.importorskip("pymanopt")
from pymanopt.manifolds import FixedRankEmbedded  # noqa: E402

import dlnjax as dln  # noqa: E402
from dlnjax.adapters.pymanopt import DeepLinear  # noqa: E402


def draw(m, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng, np.eye(m, n) + 0.3 * rng.normal(size=(m, n)), rng.normal(size=(m, n))


def problem(manifold, target, mask=1.0):
    """E = 1/2 |mask o (X - target)|^2, by JAX."""

    @pymanopt.function.jax(manifold)
    def cost(x):
        return ((mask * (x - target)) ** 2).sum() / 2

    return pymanopt.Problem(manifold, cost)


@pytest.mark.parametrize("depth", [3.0, float("inf")])
def test_gradient_and_hessian_are_the_derivatives_along_a_geodesic(depth):
    _, x, z = draw(3, 3)
    manifold = DeepLinear(3, 3, depth)
    found = problem(manifold, 2.0 * np.eye(3))
    value = lambda t: found.cost(manifold.exp(x, t * z))
    h, here = 1e-3, value(0.0)
    slope = (value(h) - value(-h)) / (2 * h)
    bend = (value(h) - 2 * here + value(-h)) / h**2
    assert_close(manifold.inner_product(x, found.riemannian_gradient(x), z), slope, FINITE_DIFFERENCE)
    assert_close(manifold.inner_product(x, found.riemannian_hessian(x, z), z), bend, FINITE_DIFFERENCE)
    w = np.ones((3, 3))
    mixed = [manifold.inner_product(x, found.riemannian_hessian(x, a), b) for a, b in ((z, w), (w, z))]
    assert_close(*mixed, 100 * ALGEBRA)


@pytest.mark.parametrize("depth", [3.0, float("inf")])
def test_trust_regions_find_the_minimum(depth):
    _, x, z = draw(3, 3)
    target = 2.0 * np.eye(3) + 0.2 * z
    optimizer = pymanopt.optimizers.TrustRegions(verbosity=0, min_gradient_norm=1e-8)
    result = optimizer.run(problem(DeepLinear(3, 3, depth), target), initial_point=x)
    assert result.iterations < 30
    assert_close(result.point, target, INTEGRATION)


def test_depth_1_is_the_embedded_manifold_of_pymanopt():
    rng, x, z = draw(4, 3)
    ours, theirs = DeepLinear(4, 3, 1.0, rank=2), FixedRankEmbedded(4, 3, 2)
    u, s, vt = np.linalg.svd(x)
    point = u[:, :2], s[:2], vt[:2]
    x = (point[0] * point[1]) @ point[2]
    tangents = [theirs.projection(point, y) for y in (z, rng.normal(size=(4, 3)))]
    embedded = [(point[0] @ inside + left) @ point[2] + point[0] @ right.T for left, inside, right in tangents]
    assert_close(ours.inner_product(x, *embedded), theirs.inner_product(point, *tangents), 100 * ALGEBRA)
    assert_close(ours.euclidean_to_riemannian_gradient(x, z), embedded[0], 100 * ALGEBRA)
    # To second order a retraction of pymanopt that projects is the exponential.
    for t in (1e-2, 5e-3):
        a, b, c = theirs.retraction(point, [t * part for part in tangents[0]])
        assert np.max(np.abs(ours.exp(x, t * embedded[0]) - (a * b) @ c)) < 10 * t**3


def test_conjugate_gradient_completes_a_matrix_of_rank_2():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(4, 2)) @ rng.normal(size=(2, 3))
    manifold = DeepLinear(4, 3, 2.0, rank=2)
    mask = np.ones((4, 3))
    mask[0, 0] = 0.0
    start = truth + 0.2 * rng.normal(size=(4, 3))
    u, s, vt = np.linalg.svd(start)
    start = (u[:, :2] * s[:2]) @ vt[:2]
    optimizer = pymanopt.optimizers.ConjugateGradient(verbosity=0, min_gradient_norm=1e-8)
    result = optimizer.run(problem(manifold, truth, mask), initial_point=start)
    assert_close(result.point, truth, 10 * INTEGRATION)
    with pytest.raises(NotImplementedError, match="square matrices of full rank alone"):
        manifold.dist(truth, truth)


def test_log_dist_and_mean_of_a_pair():
    _, x, z = draw(3, 3)
    manifold = DeepLinear(3, 3, 3.0)
    y = manifold.exp(x, 0.2 * z)
    assert_close(manifold.log(x, y), 0.2 * z, INTEGRATION)
    assert_close(manifold.dist(x, y), 0.2 * manifold.norm(x, z), INTEGRATION)
    assert_close(manifold.pair_mean(x, y), manifold.exp(x, 0.1 * z), INTEGRATION)
    np.random.seed(0)
    point = manifold.random_point()
    assert np.linalg.det(point) > 0
    assert_close(manifold.norm(point, manifold.random_tangent_vector(point)), 1.0, ALGEBRA)


def test_what_is_no_manifold_is_refused():
    with pytest.raises(ValueError, match=r"rank must be from 1 to 2 for 3 x 2 matrices, got 3"):
        DeepLinear(3, 2, 2.0, rank=3)
    for depth in (float("inf"), np.float32(np.inf), jnp.asarray(np.inf), dln.Balanced(np.inf)):
        with pytest.raises(ValueError, match=r"never turn.*DeepLinear\(2, 2, inf\)"):
            DeepLinear(3, 2, depth)


def test_a_point_elsewhere_is_refused():
    manifold, x = DeepLinear(3, 2, 2.0, rank=1), np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"rank 1 to 1e-08.*\[5\.5.*svd\(x, rank=r\)"):
        manifold.norm(x, x)
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*got \(2, 2\)"):
        manifold.norm(np.eye(2), np.eye(2))
