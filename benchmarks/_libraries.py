"""The contenders of benchmarks/neighbours.py: each answers a draw, with what its library offers for the task."""

import os

# NumPy with derivatives. The plain backend of geomstats has none, and its curvature needs them.
os.environ["GEOMSTATS_BACKEND"] = "autograd"

import geomstats.backend as gs
import jax
import numpy as np
import ot
import pymanopt
from geomstats.geometry.euclidean import Euclidean
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.riemannian_metric import RiemannianMetric
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from geomstats.learning.frechet_mean import FrechetMean
from geomstats.numerics.geodesic import ExpODESolver, LogShootingSolver
from geomstats.numerics.ivp import GSIVPIntegrator
from geomstats.numerics.optimization import ScipyMinimize
from pymanopt.manifolds import FixedRankEmbedded, SymmetricPositiveDefinite
from pymanopt.optimizers import ConjugateGradient

import dlnjax as dln
from dlnjax.adapters.geomstats import DeepLinearMetric
from dlnjax.adapters.pymanopt import DeepLinear

RUNGS = 10
# Steps of the fourth-order Runge-Kutta method along a geodesic.
STEPS = 40


def bures(d: int):
    space = SPDMatrices(d, equip=False)
    space.equip_with_metric(SPDBuresWassersteinMetric)
    return space


def deep(d: int, depth: float, metric=DeepLinearMetric):
    space = GeneralLinear(d, equip=False)
    space.equip_with_metric(metric, depth=depth)
    return space


# Curvature in geomstats needs points that are vectors: coordinates of a matrix in a basis.


class Chart(RiemannianMetric):
    """A metric of matrices in the coordinates of a basis, from which geomstats differentiates all else."""

    def __init__(self, space, basis, inner):
        super().__init__(space)
        self.basis, self.inner = basis, inner

    def metric_matrix(self, base_point=None):
        return self.inner(self.basis, gs.einsum("i,ijk->jk", base_point, self.basis))


def bures_gram(basis, x):
    metric = bures(len(x)).metric
    return gs.stack([metric.inner_product(basis, each, x) for each in basis])


def deep_gram(depth):
    def gram(basis, x):
        u, s, vt = gs.linalg.svd(x, full_matrices=False)
        s, t = s[:, None], s[None, :]
        if depth < np.inf:
            powers = [s ** (2 * (depth - p) / depth) * t ** (2 * (p - 1) / depth) for p in range(1, int(depth) + 1)]
            weight = sum(powers) / depth
        else:
            eye = gs.eye(len(x))
            weight = (1 - eye) * (s**2 - t**2) / (2 * gs.log(s / t) + eye) + eye * s * t
        inside = gs.einsum("ji,ajk,lk->ail", u, basis, vt)
        return gs.einsum("aij,bij,ij->ab", inside, inside, 1 / weight)

    return gram


def symmetric_basis(d: int) -> np.ndarray:
    units = np.eye(d * d).reshape(d, d, d, d)
    return np.stack([units[k, l] + (k != l) * units[l, k] for k in range(d) for l in range(k, d)])


def curvature_of_geomstats(basis, gram):
    """A function of (x, a, b), by derivatives of the metric's matrix."""
    metric = Chart(Euclidean(len(basis), equip=False), basis, gram)
    flat = basis.reshape(len(basis), -1)
    coordinates = lambda z: flat @ z.ravel() / np.sum(flat**2, axis=1)
    return lambda x, a, b: metric.sectional_curvature(*map(coordinates, (a, b, x)))


# Geodesics and transport by what geomstats has for every metric.


class Equation(DeepLinearMetric):
    """Geodesics by geomstats from their equation X'' = -Gamma(X', X')."""

    def __init__(self, space, depth):
        super().__init__(space, depth)
        self.force = jax.jit(lambda x, v: -dln.christoffel(x, v, v, depth))
        self.solver = ExpODESolver(space, GSIVPIntegrator(n_steps=STEPS, step_type="rk4"))

    def geodesic_equation(self, state):
        x, v = state
        return np.stack([v, np.asarray(self.force(x, v))])

    def exp(self, tangent_vec, base_point, **kwargs):
        return self.solver.exp(tangent_vec, base_point)


def shooting(d: int, depth: float):
    optimizer = ScipyMinimize(autodiff_jac=False, options={"ftol": 1e-20, "gtol": 1e-12, "maxiter": 2000})
    solver = LogShootingSolver(deep(d, depth, Equation), optimizer=optimizer)
    return lambda a, b: solver.log(b, a)


def ladder(metric):
    def carry(a, b, z):
        found = metric.ladder_parallel_transport(z, a, metric.log(b, a), n_rungs=RUNGS, alpha=2)
        return found["transported_tangent_vec"]

    return carry


# Means.


def mean_of_geomstats(space):
    def mean(points):
        estimator = FrechetMean(space)
        estimator.optimizer.epsilon, estimator.optimizer.max_iter = 1e-24, 1000
        return estimator.fit(points).estimate_

    return mean


def mean_of_pot(points):
    return ot.gaussian.bures_wasserstein_barycenter(np.zeros(points.shape[:2]), points, eps=1e-13)[1]


def mean_of_pymanopt(manifold, cost, slope):
    def mean(points):
        function = pymanopt.function.numpy(manifold)
        problem = pymanopt.Problem(
            manifold,
            function(lambda x: cost(x, points)),
            euclidean_gradient=function(lambda x: slope(x, points)),
        )
        optimizer = ConjugateGradient(verbosity=0, min_gradient_norm=1e-10, max_iterations=1000)
        return optimizer.run(problem, initial_point=points[0]).point

    return mean


def by_bures_cost(d: int):
    """On the positive definite matrices of pymanopt, with the closed form of the cost: no metric moves a minimum."""
    metric, manifold = bures(d).metric, SymmetricPositiveDefinite(d)
    cost = lambda x, points: np.mean(metric.squared_dist(x, points)) / 2

    def slope(x, points):
        log = np.mean(metric.log(points, x), axis=0)
        values, u = np.linalg.eigh(x)
        return -u @ (u.T @ log @ u / (values[:, None] + values)) @ u.T / 2

    return mean_of_pymanopt(manifold, cost, slope)


def on_dlnjax(d: int, depth: float):
    manifold = DeepLinear(d, d, depth)
    cost = lambda x, points: np.mean([manifold.dist(x, y) ** 2 for y in points]) / 2
    slope = lambda x, points: -np.mean([dln.logarithm(x, y, depth) for y in points], axis=0)
    return mean_of_pymanopt(manifold, cost, slope)


# Completion at rank r.


def complete(manifold, slope, start, gradient=None):
    """Conjugate gradients from `start`; `slope` is the gradient of half the sum of squares in X."""
    as_matrix = (lambda u, s, vt: (u * s) @ vt) if gradient else (lambda x: x)
    function = pymanopt.function.numpy(manifold)
    problem = pymanopt.Problem(
        manifold,
        function(lambda *x: np.sum(slope(as_matrix(*x)) ** 2) / 2),
        euclidean_gradient=function(gradient or slope),
    )
    found = ConjugateGradient(verbosity=0, min_gradient_norm=1e-6, max_iterations=500).run(problem, initial_point=start)
    return as_matrix(*found.point) if gradient else found.point


def completed_by_pymanopt(shape, r, slope, thin):
    def gradient(u, s, vt):
        g = slope((u * s) @ vt)
        return g @ vt.T * s, np.diag(u.T @ g @ vt.T), (u * s).T @ g

    return complete(FixedRankEmbedded(*shape, r), slope, thin, gradient)


def completed_on_dlnjax(shape, r, slope, thin, depth):
    u, s, vt = thin
    return complete(DeepLinear(*shape, depth, rank=r), slope, (u * s) @ vt)
