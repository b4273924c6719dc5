"""The mean of matrices, and a matrix of rank r, by the algorithms of geomstats and pymanopt: on this geometry and on
their own. Run in the environment of `make neighbours`:

    .venv-neighbours/bin/python benchmarks/neighbours.py
"""

import time

import jax
import numpy as np
import pymanopt
from geomstats.geometry.general_linear import GeneralLinear
from geomstats.geometry.spd_matrices import SPDBuresWassersteinMetric, SPDMatrices
from geomstats.learning.frechet_mean import FrechetMean
from pymanopt.manifolds import FixedRankEmbedded

import dlnjax as dln
from dlnjax.adapters.geomstats import DeepLinearMetric
from dlnjax.adapters.pymanopt import DeepLinear

jax.config.update("jax_enable_x64", True)


def seconds(f):
    """(what f returns, processor seconds of the first call and of the second)."""
    spent = []
    for _ in range(2):
        before = time.process_time()
        out = f()
        spent.append(time.process_time() - before)
    return out, spent


def show(name, spent, found):
    print(f"{name:58} first {spent[0]:6.2f} s, then {spent[1]:8.4f} s   {found}")


def mean_by_geomstats(space, points):
    mean = FrechetMean(space)
    mean.optimizer.epsilon = 1e-18
    return mean.fit(points).estimate_


def mean_by_pymanopt(manifold, points):
    @pymanopt.function.numpy(manifold)
    def cost(x):
        return sum(manifold.dist(x, y) ** 2 for y in points) / (2 * len(points))

    @pymanopt.function.numpy(manifold)
    def slope(x):
        return -np.mean([dln.logarithm(x, y, manifold.depth) for y in points], axis=0)

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=slope)
    optimizer = pymanopt.optimizers.ConjugateGradient(verbosity=0, min_gradient_norm=1e-6)
    return optimizer.run(problem, initial_point=points[0])


def means(d, n):
    factors = np.random.default_rng(0).normal(size=(n, d, d))
    points = factors @ np.swapaxes(factors, 1, 2) + np.eye(d)
    ours, theirs = GeneralLinear(d, equip=False), SPDMatrices(d, equip=False)
    ours.equip_with_metric(DeepLinearMetric, depth=2.0)
    theirs.equip_with_metric(SPDBuresWassersteinMetric)
    exact, spent = seconds(lambda: mean_by_geomstats(theirs, points))
    show(f"mean of {n}, d = {d}: geomstats, its closed forms at depth 2", spent, "")
    far = lambda x: f"{np.max(np.abs(x - exact)):.0e} from these"
    found, spent = seconds(lambda: mean_by_geomstats(ours, points))
    show(f"mean of {n}, d = {d}: geomstats on dlnjax", spent, far(found))
    found, spent = seconds(lambda: mean_by_pymanopt(DeepLinear(d, d, 2.0), points))
    show(f"mean of {n}, d = {d}: pymanopt on dlnjax", spent, far(found.point))
    found, spent = seconds(lambda: dln.frechet_mean(points, 2.0))
    show(f"mean of {n}, d = {d}: dlnjax.frechet_mean", spent, far(found.x))


def completion(m, n, r):
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(m, r)) @ rng.normal(size=(r, n))
    mask = rng.uniform(size=(m, n)) < 0.7
    u, s, vt = np.linalg.svd(truth + 0.3 * rng.normal(size=(m, n)))
    u, s, vt = u[:, :r], s[:r], vt[:r]
    slope = lambda x: mask * (x - truth)
    theirs = FixedRankEmbedded(m, n, r)

    @pymanopt.function.numpy(theirs)
    def cost(u, s, vt):
        return np.sum(slope((u * s) @ vt) ** 2) / 2

    @pymanopt.function.numpy(theirs)
    def gradient(u, s, vt):
        g = slope((u * s) @ vt)
        return g @ vt.T * s, np.diag(u.T @ g @ vt.T), (u * s).T @ g

    rule = dict(verbosity=0, min_gradient_norm=1e-6, max_iterations=500)
    problem = pymanopt.Problem(theirs, cost, euclidean_gradient=gradient)
    run = lambda problem, start: pymanopt.optimizers.ConjugateGradient(**rule).run(problem, initial_point=start)
    found, spent = seconds(lambda: run(problem, (u, s, vt)))
    name = f"completion, {m} x {n} of rank {r}"
    show(f"{name}: pymanopt, FixedRankEmbedded", spent, f"{found.iterations} steps, E = {found.cost:.0e}")
    for depth in (1.0, 3.0):
        ours = DeepLinear(m, n, depth, rank=r)
        cost = pymanopt.function.numpy(ours)(lambda x: np.sum(slope(x) ** 2) / 2)
        problem = pymanopt.Problem(ours, cost, euclidean_gradient=pymanopt.function.numpy(ours)(slope))
        found, spent = seconds(lambda problem=problem: run(problem, (u * s) @ vt))
        steps = f"{found.iterations} steps, E = {found.cost:.0e}"
        show(f"{name}: pymanopt on dlnjax, depth {depth:g}", spent, steps)


means(3, 6)
completion(12, 8, 2)
