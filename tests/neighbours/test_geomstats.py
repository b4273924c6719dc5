"""The metric for geomstats: against its metric of Bures and Wasserstein, and what its algorithms find."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.tolerances import ALGEBRA, assert_close, INTEGRATION

pytest.importorskip("geomstats")
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.matrices import Matrices
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from geomstats.learning.frechet_mean import FrechetMean
from geomstats.learning.kmeans import RiemannianKMeans

import dlnjax as dln
from dlnjax.adapters.geomstats import DeepLinearMetric

D = 2


def space_of(depth):
    space = GeneralLinear(D, equip=False)
    space.equip_with_metric(DeepLinearMetric, depth=depth)
    return space


def positive_definite(n, seed=0):
    factors = np.random.default_rng(seed).normal(size=(n, D, D))
    return factors @ np.swapaxes(factors, 1, 2) + np.eye(D)


def test_depth_2_is_the_metric_of_bures_and_wasserstein():
    """Four times theirs: twice in the metric of the thesis, and once more by the 1/N of the operator."""
    ours, theirs = space_of(2.0).metric, SPDMatrices(D, equip=False)
    theirs.equip_with_metric(SPDBuresWassersteinMetric)
    x, y, z, w = positive_definite(4)
    assert_close(ours.inner_product(z, w, x), 4 * theirs.metric.inner_product(z, w, x), 100 * ALGEBRA)
    assert_close(ours.squared_dist(x, y), 4 * theirs.metric.squared_dist(x, y), INTEGRATION)
    assert_close(ours.log(y, x), theirs.metric.log(y, x), INTEGRATION)
    assert_close(ours.exp(0.1 * z, x), theirs.metric.exp(0.1 * z, x), INTEGRATION)


def test_many_are_each_of_them():
    metric, points = space_of(2.0).metric, positive_definite(3)
    logs = metric.log(points, points[0])
    assert logs.shape == (3, D, D)
    assert_close(metric.exp(logs, points[0]), points, INTEGRATION)
    assert_close(metric.norm(logs, points[0]), metric.dist(points, points[0]), INTEGRATION)
    moved = metric.parallel_transport(logs, points[0], end_point=points[1])
    assert_close(metric.norm(moved, points[1]), metric.norm(logs, points[0]), INTEGRATION)
    assert metric.sectional_curvature(points[1], points[2], points[0]).shape == ()


def test_velocity_is_transported_to_velocity_along_a_geodesic_that_is_not_shortest():
    metric, x, z = space_of(3.0).metric, jnp.diag(jnp.array([2.0, 1.0])), jnp.array([[0.0, -8.0], [16.0, 0.0]])
    out = dln.exponential(x, dln.metric_operator_inverse(x, z, 3.0), 3.0)
    velocity = dln.metric_operator(out.x[-1], out.momentum[-1], 3.0)
    assert dln.distance(x, out.x[-1], 3.0) < metric.norm(z, x) - 0.01
    assert_close(metric.parallel_transport(z, x, direction=z), velocity, 100 * INTEGRATION)
    for given in ({}, {"direction": np.zeros((0, 2, 2))}):
        with pytest.raises(ValueError, match=r"needs a direction|at least one each"):
            metric.parallel_transport(z, x, **given)


def test_mean_of_geomstats_is_ours():
    space, points = space_of(2.0), positive_definite(4)
    mean = FrechetMean(space)
    mean.optimizer.epsilon = 1e-12
    mean.fit(points)
    assert_close(mean.estimate_, dln.frechet_mean(points, 2.0).x, 100 * INTEGRATION)


def test_k_means_parts_two_groups():
    space = space_of(2.0)
    points = np.concatenate([positive_definite(4), 20 * positive_definite(4, seed=1)])
    found = RiemannianKMeans(space, n_clusters=2, init=points[[0, 4]]).fit(points)
    assert sorted(set(found.labels_[:4])) != sorted(set(found.labels_[4:]))
    assert len(set(found.labels_[:4])) == len(set(found.labels_[4:])) == 1


def test_what_its_own_metric_is_reported_to_miss_holds_here():
    """Of equal matrices its distance is the root of a rounding error. At I its derivatives are NaN.

    There the curvature is 3/64 |ZW - WZ|^2 over the area of the plane, in its units.
    """
    metric, (x, z, w) = space_of(2.0).metric, positive_definite(3)
    assert metric.dist(x, x) == 0
    eye, turn = np.eye(D), z @ w - w @ z
    area = (np.sum(z * z) * np.sum(w * w) - np.sum(z * w) ** 2) / 16
    assert_close(4 * metric.sectional_curvature(z, w, eye), 3 / 64 * np.sum(turn * turn) / area, ALGEBRA)
    apart = np.array([np.diag([np.e**2, 1.0]), eye])
    assert_close(dln.frechet_mean(apart, 2.0).x, np.diag([((np.e + 1) / 2) ** 2, 1.0]), INTEGRATION)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"square matrices"):
        DeepLinearMetric(Matrices(2, 3, equip=False), depth=2.0)
