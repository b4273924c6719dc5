"""Tasks at depth 2 on positive definite matrices, the geometry of Bures and Wasserstein. Its units are used here."""

from collections.abc import Callable
from functools import partial
from typing import Any

import _exact as exact
import _libraries as libraries
import numpy as np
from _contest import Task

import dlnjax as dln


def spectral(rng, d: int, condition: float) -> np.ndarray:
    u = np.linalg.qr(rng.standard_normal((d, d)))[0]
    x = (u * np.logspace(0, -np.log10(condition), d)) @ u.T
    return (x + x.T) / 2


def bures_norm(x: np.ndarray, z: np.ndarray) -> float:
    values, u = np.linalg.eigh(x)
    return np.sqrt(np.sum((u.T @ z @ u) ** 2 / (values[:, None] + values)) / 2)


def bures_tangent(rng, x: np.ndarray) -> np.ndarray:
    """A Gaussian vector in an orthonormal frame at X."""
    values, u = np.linalg.eigh(x)
    z = rng.standard_normal(x.shape)
    return u @ (np.sqrt(values[:, None] + values) * (z + z.T)) @ u.T


def draw_one(rng, d: int, condition: float) -> dict[str, Any]:
    points = np.stack([spectral(rng, d, condition) for _ in range(6)])
    a, b = points[:2]
    near = exact.bures_point(a, b, 1e-8)
    z, w = bures_tangent(rng, a), bures_tangent(rng, a)
    return {"a": a, "b": b, "near": near, "v": exact.bures_logarithm(a, b), "z": z, "w": w, "points": points}


def tasks(d: int, condition: float, draws: int) -> list[Task]:
    rng = np.random.default_rng([d, int(condition)])
    draws = [draw_one(rng, d, condition) for _ in range(draws)]
    metric = libraries.bures(d).metric
    of_vector = lambda at: lambda out, true, draw: bures_norm(draw[at], out - true) / bures_norm(draw[at], true)
    of_point = lambda out, true, draw: bures_norm(true, out - true) / bures_norm(draw["a"], draw["v"])
    of_number = lambda out, true, draw: abs(out / true - 1)

    def ours_exp(q):
        return dln.exponential(q["a"], dln.metric_operator_inverse(q["a"], q["v"], 2.0), 2.0).x[-1]

    ours_log = lambda q: dln.metric_operator(q["a"], dln.logarithm(q["a"], q["b"], 2.0), 2.0)
    curvature = libraries.curvature_of_geomstats(libraries.symmetric_basis(d), libraries.bures_gram)
    along = lambda q, **options: metric.parallel_transport(q["z"], q["a"], end_point=q["b"], **options)
    plane = lambda q: exact.sectional(exact.bures_frame, q["a"], q["z"], q["w"], symmetric=True)
    return [
        Task(
            "sectional curvature",
            draws,
            {
                "geomstats, derivatives of its metric": lambda q: curvature(q["a"], q["z"], q["w"]),
                "dlnjax.sectional_curvature": lambda q: 4 * dln.sectional_curvature(q["a"], q["z"], q["w"], 2.0),
            },
            plane,
            of_number,
        ),
        Task(
            "exponential",
            draws,
            {"geomstats, closed form": lambda q: metric.exp(q["v"], q["a"]), "dlnjax.exponential": ours_exp},
            lambda q: exact.bures_exponential(q["a"], q["v"]),
            of_point,
        ),
        Task(
            "logarithm",
            draws,
            {"geomstats, closed form": lambda q: metric.log(q["b"], q["a"]), "dlnjax.logarithm": ours_log},
            lambda q: q["v"],
            of_vector("a"),
        ),
        Task(
            "midpoint",
            draws,
            {
                "geomstats, closed form": lambda q: metric.geodesic(q["a"], q["b"])(0.5)[0],
                "dlnjax.geodesic": lambda q: dln.geodesic(q["a"], q["b"], 2.0).evaluate(0.5),
            },
            lambda q: exact.bures_point(q["a"], q["b"], 0.5),
            of_point,
        ),
        *(
            Task(
                name,
                draws,
                {
                    "geomstats, closed form": lambda q, end=end: metric.dist(q["a"], q[end]),
                    "dlnjax.distance": lambda q, end=end: dln.distance(q["a"], q[end], 2.0) / 2,
                },
                lambda q, end=end: exact.bures_distance(q["a"], q[end]),
                of_number,
            )
            for name, end in (("distance", "b"), ("distance of near matrices", "near"))
        ),
        Task(
            "transport",
            draws,
            {
                "geomstats, RK4, its 10 steps": along,
                "geomstats, RK4, 1000 steps": partial(along, n_steps=1000),
                "geomstats, pole ladder of 10 rungs": lambda q: libraries.ladder(metric)(q["a"], q["b"], q["z"]),
                "dlnjax.transport": lambda q: dln.transport(dln.geodesic(q["a"], q["b"], 2.0), q["z"]),
            },
            lambda q: exact.bures_transport(q["a"], q["b"], q["z"]),
            of_vector("b"),
        ),
        means(
            draws,
            {
                "geomstats, FrechetMean": libraries.mean_of_geomstats(libraries.bures(d)),
                "POT, fixed point": libraries.mean_of_pot,
                "pymanopt, closed form of the cost": libraries.by_bures_cost(d),
                "dlnjax.frechet_mean": lambda points: dln.frechet_mean(points, 2.0).x,
            },
        ),
    ]


def adapters(d: int, condition: float, draws: int) -> Task:
    """The mean by the algorithms of others on dlnjax."""
    rng = np.random.default_rng([d, int(condition)])
    return means(
        [draw_one(rng, d, condition) for _ in range(draws)],
        {
            "geomstats on dlnjax": libraries.mean_of_geomstats(libraries.deep(d, 2.0)),
            "pymanopt on dlnjax": libraries.on_dlnjax(d, 2.0),
        },
    )


def means(draws: list[dict[str, Any]], contenders: dict[str, Callable]) -> Task:
    def error(out, true, draw):
        spread = np.mean([bures_norm(true, exact.bures_logarithm(true, x)) for x in draw["points"]])
        return bures_norm(true, out - true) / spread

    by_draw = {name: lambda q, mean=mean: mean(q["points"]) for name, mean in contenders.items()}
    return Task("mean of six", draws, by_draw, lambda q: exact.bures_mean(q["points"]), error)
