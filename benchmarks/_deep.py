"""Tasks at other depths, where geomstats has no closed form, and tasks at rank r."""

from typing import Any

import _exact as exact
import _libraries as libraries
import numpy as np
from _contest import Task

import dlnjax as dln


def draw_one(rng, d: int) -> dict[str, Any]:
    """A random pair, a pair with the same frames, and two vectors in the frame of A.

    The judge follows no geodesic to 1e-8 from matrices of condition above 1e3.
    """
    condition = np.inf
    while condition > 1e3:
        a, b, z, w = rng.standard_normal((4, d, d))
        condition = max(np.linalg.cond(a), np.linalg.cond(b))
    b[0] *= np.sign(np.linalg.det(a) * np.linalg.det(b))
    u, s, vt = np.linalg.svd(a)
    t = np.linalg.svd(b, compute_uv=False)
    return {"a": a, "b": b, "z": z, "w": w, "same": (u * t) @ vt, "frames": (u, s, t, vt)}


def carried(q: dict[str, Any], depth: float) -> np.ndarray:
    """Z at the end of the geodesic between matrices with the same frames: entries scale by the root of lambda."""
    u, s, t, vt = q["frames"]
    scale = np.sqrt(exact.eigenvalues(t, depth) / exact.eigenvalues(s, depth))
    return u @ (scale * (u.T @ q["z"] @ vt.T)) @ vt


def tasks(d: int, depth: float, draws: int) -> list[Task]:
    rng = np.random.default_rng([d, 0])
    draws = [draw_one(rng, d) for _ in range(draws)]
    units = np.eye(d * d).reshape(-1, d, d)
    curvature = libraries.curvature_of_geomstats(units, libraries.deep_gram(depth))
    shoot, ladder = libraries.shooting(d, depth), libraries.ladder(libraries.deep(d, depth).metric)
    of_number = lambda out, true, _: abs(out / true - 1)
    of_end = lambda out, _, q: np.linalg.norm(exact.deep_end(q["a"], out, depth) - q["b"]) / np.linalg.norm(q["b"])

    def of_vector(out, true, q):
        u, _, t, vt = q["frames"]
        size = lambda z: np.sqrt(np.sum((u.T @ z @ vt.T) ** 2 / exact.eigenvalues(t, depth)))
        return size(out - true) / size(true)

    return [
        Task(
            "sectional curvature",
            draws,
            {
                "geomstats, derivatives of the metric": lambda q: curvature(q["a"], q["z"], q["w"]),
                "dlnjax.sectional_curvature": lambda q: dln.sectional_curvature(q["a"], q["z"], q["w"], depth),
            },
            lambda q: exact.sectional(exact.deep_frame(depth), q["a"], q["z"], q["w"], symmetric=False),
            of_number,
        ),
        Task(
            "logarithm",
            draws,
            {
                f"geomstats, shooting, RK4 of {libraries.STEPS} steps": lambda q: shoot(q["a"], q["b"]),
                "dlnjax.logarithm": lambda q: dln.metric_operator(q["a"], dln.logarithm(q["a"], q["b"], depth), depth),
            },
            lambda q: None,
            of_end,
        ),
        Task(
            "transport, the same frames",
            draws,
            {
                "geomstats, pole ladder of 10 rungs on dlnjax": lambda q: ladder(q["a"], q["same"], q["z"]),
                "dlnjax.transport": lambda q: dln.transport(dln.geodesic(q["a"], q["same"], depth), q["z"]),
            },
            lambda q: carried(q, depth),
            of_vector,
        ),
    ]


def completion_draw(rng, shape: tuple[int, int], r: int) -> dict[str, Any]:
    """A matrix of rank r, of which 70 % is seen, and a start of rank r near it."""
    m, n = shape
    truth = rng.standard_normal((m, r)) @ rng.standard_normal((r, n))
    seen = rng.uniform(size=shape) < 0.7
    u, s, vt = np.linalg.svd(truth + 0.3 * rng.standard_normal(shape))
    return {"truth": truth, "thin": (u[:, :r], s[:r], vt[:r]), "slope": lambda x: seen * (x - truth)}


def completion(shape: tuple[int, int], r: int, draws: int) -> Task:
    """The seen entries have one completion of rank r, for nearly all draws: the matrix itself."""
    rng = np.random.default_rng(1)
    on_dlnjax = lambda depth: lambda q: libraries.completed_on_dlnjax(shape, r, q["slope"], q["thin"], depth)
    return Task(
        f"completion at rank {r}",
        [completion_draw(rng, shape, r) for _ in range(draws)],
        {
            "pymanopt, FixedRankEmbedded": lambda q: libraries.completed_by_pymanopt(shape, r, q["slope"], q["thin"]),
            "pymanopt on dlnjax, depth 1": on_dlnjax(1.0),
            "pymanopt on dlnjax, depth 3": on_dlnjax(3.0),
        },
        lambda q: q["truth"],
        lambda out, true, _: np.linalg.norm(out - true) / np.linalg.norm(true),
    )
