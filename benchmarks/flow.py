"""One flow, and a sweep: error and time against the tolerance, with SciPy's DOP853 in X as the reference.

    python benchmarks/flow.py [--d 5 10 25] [--seeds 100]

Each row: compile time apart, then the median of the runs; the error is the largest over seeds and times of
|X - X_ref|_F / |X_ref|_F.
"""

import argparse
import functools
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

import dlnjax as dln

jax.config.update("jax_enable_x64", True)


def reference(x0, ts):
    """The flow of (4.21) at infinite depth in X, by SciPy: an SVD at every evaluation."""
    d = len(x0)

    def velocity(t, flat):
        x = flat.reshape(d, d)
        u, s, vt = np.linalg.svd(x)
        g = u.T @ (2 * np.diag(np.diag(x) - 1)) @ vt.T
        gap = np.log(s[:, None] ** 2) - np.log(s**2)
        off = np.eye(d) == 0
        lam = np.where(off, (s[:, None] ** 2 - s**2) / np.where(off, gap, 1.0), np.diag(s**2))
        return -(u @ (lam * g) @ vt).ravel()

    start = time.perf_counter()
    out = solve_ivp(velocity, (ts[0], ts[-1]), np.ravel(x0), method="DOP853", t_eval=ts, rtol=1e-12, atol=1e-13)
    return out.y.T.reshape(-1, d, d), time.perf_counter() - start


def timed(f, runs: int = 3):
    """The result of f(), the seconds of its first call, and the median of `runs` more."""
    began = time.perf_counter()
    out = jax.block_until_ready(f())
    first, times = time.perf_counter() - began, []
    for _ in range(runs):
        began = time.perf_counter()
        out = jax.block_until_ready(f())
        times.append(time.perf_counter() - began)
    return out, first, float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, nargs="+", default=[5, 10, 25])
    parser.add_argument("--seeds", type=int, default=100)
    args = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}, {jax.devices()}"
    )
    print("E = sum (X_ii - 1)^2, infinite depth, X_ij ~ N(0, 1/d), t = 0 to 3, float64\n")
    ts = jnp.linspace(0.0, 3.0, 7)
    header = f"{'d':>3} {'rtol':>6} {'coordinates':>11} {'compile s':>9} {'one flow ms':>11} {'steps':>6} {'error':>8}"
    print(header + f" {args.seeds:>6} seeds s")
    for d in args.d:
        compare(d, args.seeds, ts)


def compare(d: int, seeds: int, ts) -> None:
    energy = dln.MatrixCompletion.diagonal(d)
    starts = dln.Ensemble(lambda key: dln.gaussian(key, d, d**-0.5), jax.random.key(0), seeds)
    x0 = starts.take(jnp.arange(3))
    exact, seconds = zip(*(reference(x, np.asarray(ts)) for x in x0), strict=True)
    for rtol in (1e-3, 1e-6, 1e-9):
        for coordinates in ("svd", "matrix"):
            options = {"ts": ts, "rtol": rtol, "atol": rtol / 100, "coordinates": coordinates}
            flow = functools.partial(dln.gradient_flow, energy, **options)
            _, first, median = timed(functools.partial(flow, x0[0]))
            sols = [flow(x) for x in x0]
            errors = [
                np.max(np.linalg.norm(s.x - e, axis=(1, 2)) / np.linalg.norm(e, axis=(1, 2)))
                for s, e in zip(sols, exact, strict=True)
            ]
            _, _, many = timed(functools.partial(dln.sweep, energy, starts, progress=False, **options), runs=1)
            steps = int(sols[0].stats["steps"])
            print(
                f"{d:>3} {rtol:>6.0e} {coordinates:>11} {first - median:>9.1f} {1e3 * median:>11.2f} {steps:>6}"
                f" {max(errors):>8.1e} {many:>14.2f}"
            )
    print(f"{d:>3}  1e-12  SciPy in X         - {1e3 * np.median(seconds):>11.2f}")


if __name__ == "__main__":
    main()
