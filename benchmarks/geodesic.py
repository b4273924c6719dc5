"""Geodesics between random matrices at depth 3: this, geomstats's generic solvers, and SciPy's solve_bvp.

    python benchmarks/geodesic.py [--d 3 5] [--pairs 100] [--rivals 100] [--patience 10]

The pairs are X_ij ~ N(0, 1) with determinants of one sign. geomstats is given the metric and its equation of geodesics
in closed form; it lives in an environment of its own (`make .venv-geomstats/installed`). Each solver answers with
an initial velocity, which SciPy's DOP853 follows at rtol 1e-12: the error is how far from B that ends, over |B|.
Arrived is to 1e-8, with the share within 1e-3 beside it. Longer is, of those within 1e-3, the share whose path is
longer than ours by more than one in a thousand. Times are of the processor, a pair; a solver that needs longer than its
patience for a pair is stopped and has failed there. Compilation is apart, by the clock and by what all cores spent.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _rivals import metric, SOLVERS, velocity
from _timing import add_device, Report, use_device
from scipy.integrate import solve_ivp

import dlnjax as dln

NAMES = {
    "shooting": "geomstats, LogShootingSolver (RK4, 40 steps)",
    "straightening": "geomstats, PathStraightening (100 nodes)",
    "collocation": "SciPy solve_bvp, Hamiltonian system",
}
COLUMNS = [
    "d",
    "contender",
    "pairs",
    "compile s",
    "compile, core s",
    "arrived",
    "within 1e-3",
    "longer",
    "error, median",
    "ms",
    "ms, max",
    "ratio",
]


def draw(d: int, pairs: int, rng) -> tuple[np.ndarray, np.ndarray]:
    a, b = rng.standard_normal((2, pairs, d, d))
    b[:, 0] *= np.sign(np.linalg.det(a) * np.linalg.det(b))[:, None]
    return a, b


def shoot(a, b, v) -> float:
    """How far from B the geodesic from A with this velocity ends, over |B|."""
    if not np.all(np.isfinite(v)):
        return np.inf
    evaluations = iter(range(20_000))

    def system(_, y):
        # One that runs into the boundary takes ever smaller steps.
        if next(evaluations, None) is None:
            raise ArithmeticError
        return np.ravel(velocity(*y.reshape(2, *a.shape)))

    try:
        out = solve_ivp(system, (0, 1), np.ravel([a, metric(a, v)]), method="DOP853", rtol=1e-12, atol=1e-14)
    except (ArithmeticError, np.linalg.LinAlgError):
        return np.inf
    return np.linalg.norm(out.y[: a.size, -1].reshape(a.shape) - b) / np.linalg.norm(b) if out.success else np.inf


def solve(a, b):
    depth = jnp.asarray(3.0)
    found = dln.geodesic(a, b, depth, throw=False)
    return dln.metric_operator(a, found.momentum, depth)


def compiling(d: int) -> list[str]:
    """Seconds of the first call, nearly all of them compilation, by the clock and of the processor."""
    a, b = (jnp.asarray(z[0]) for z in draw(d, 1, np.random.default_rng(d)))
    clock, core = time.perf_counter(), time.process_time()
    jax.block_until_ready(solve(a, b))
    return [f"{time.perf_counter() - clock:.3g}", f"{time.process_time() - core:.3g}"]


def ours(a, b) -> tuple[np.ndarray, np.ndarray]:
    """(velocities, seconds of each)."""
    jax.block_until_ready(solve(jnp.asarray(a[0]), jnp.asarray(b[0])))
    velocities, seconds = [], []
    for x, y in zip(jnp.asarray(a), jnp.asarray(b), strict=True):
        began = time.process_time()
        velocities.append(np.asarray(solve(x, y)))
        seconds.append(time.process_time() - began)
    return np.stack(velocities), np.array(seconds)


def theirs(solver: str, a, b, python: str, patience: float) -> tuple[np.ndarray, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        pairs, out = Path(folder, "pairs.npz"), Path(folder, "out.npz")
        np.savez(pairs, a=a, b=b)
        rivals = str(Path(__file__).with_name("_rivals.py"))
        command = [python, rivals, str(pairs), str(out), "--solver", solver, "--patience", str(patience)]
        subprocess.run(command, check=True)
        with np.load(out) as found:
            return found["velocity"], found["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--rivals", type=int, default=100, help="of these pairs, how many the others get")
    parser.add_argument("--patience", type=float, default=10.0, help="seconds of the processor a pair")
    parser.add_argument("--geomstats", default=".venv-geomstats/bin/python", help="a Python that has it")
    parser.add_argument("--quick", action="store_true", help="two pairs, and no file is written")
    add_device(parser)
    args = parser.parse_args()
    if args.quick:
        args.d, args.pairs = [3], 2
    use_device(args.device)
    jax.config.update("jax_enable_compilation_cache", False)
    there = Path(args.geomstats).exists()
    title = f"Geodesics at depth 3 between {args.pairs} random pairs; patience {args.patience:g} s a pair"
    report = Report("geodesic", title, COLUMNS, __doc__.split("\n\n")[-1])
    compiled = {d: compiling(d) for d in args.d}
    for d in args.d:
        a, b = draw(d, args.pairs, np.random.default_rng(d))
        v, seconds = ours(a, b)
        length = np.sqrt(np.sum(v * metric(a, v), axis=(1, 2)))
        median = np.median(seconds)
        results = {"dlnjax.geodesic": (v, seconds, compiled[d])}
        for solver in SOLVERS:
            if solver == "collocation" or there:
                python = sys.executable if solver == "collocation" else args.geomstats
                some = slice(args.rivals)
                results[NAMES[solver]] = (*theirs(solver, a[some], b[some], python, args.patience), ["0", "0"])
            else:
                print(f"{NAMES[solver]}: left out, there is no {args.geomstats}", file=sys.stderr)
        for name, (v, seconds, first) in results.items():
            n = len(v)
            error = np.array([shoot(*each) for each in zip(a[:n], b[:n], v, strict=True)])
            near = error < 1e-3
            longer = np.sqrt(np.sum(v * metric(a[:n], v), axis=(1, 2)))[near] > 1.001 * length[:n][near]
            ms, ratio = 1e3 * np.median(seconds), np.median(seconds) / median
            shares = [
                f"{np.mean(error < 1e-8):.0%}",
                f"{near.mean():.0%}",
                f"{longer.mean():.0%}" if near.any() else "-",
            ]
            report.add(f"{d}", name, f"{n}", *first, *shares, np.median(error), ms, 1e3 * seconds.max(), ratio)
        report.save(not args.quick, final=False)
    report.save(not args.quick)


if __name__ == "__main__":
    main()
