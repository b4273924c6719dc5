"""One flow, and a sweep: error and time against the tolerance, with SciPy's DOP853 in X as the reference.

    python benchmarks/flow.py [--d 5 10 25] [--seeds 100] [--device gpu]

E = sum (X_ii - 1)^2, infinite depth, X_ij ~ N(0, 1/d), t = 0 to 3. The error is the largest over seeds and times of
|X - X_ref|_F / |X_ref|_F; times are medians, compilation apart.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from _timing import add_device, clock, Contender, interleave, Report, use_device
from scipy.integrate import solve_ivp

import dlnjax as dln

COLUMNS = ["d", "rtol", "coordinates", "compile s", "one flow ms", "steps", "error"]


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

    out = solve_ivp(velocity, (ts[0], ts[-1]), np.ravel(x0), method="DOP853", t_eval=ts, rtol=1e-12, atol=1e-13)
    return out.y.T.reshape(-1, d, d)


def compare(args, report: Report, d: int, ts) -> None:
    energy = dln.MatrixCompletion.diagonal(d)
    starts = dln.Ensemble(partial(dln.gaussian, shape=d, scale=d**-0.5), jax.random.key(0), args.seeds)
    x0 = starts.take(jnp.arange(3))
    exact, seconds = zip(*(clock(partial(reference, x, np.asarray(ts))) for x in x0), strict=True)
    for rtol in (1e-3, 1e-6, 1e-9):
        for coordinates in ("svd", "matrix"):
            options = {"ts": ts, "rtol": rtol, "atol": rtol / 100, "coordinates": coordinates}
            one = partial(dln.gradient_flow, energy, **options)
            many = partial(dln.sweep, energy, starts, progress=False, **options)
            timings = interleave({"one": Contender(partial(one, x0[0])), "many": Contender(many)}, args.runs)
            sols = [one(x) for x in x0]
            errors = [
                np.max(np.linalg.norm(s.x - e, axis=(1, 2)) / np.linalg.norm(e, axis=(1, 2)))
                for s, e in zip(sols, exact, strict=True)
            ]
            speed = timings["one"].compile, 1e3 * timings["one"].median, f"{int(sols[0].stats['steps'])}"
            report.add(f"{d}", f"{rtol:.0e}", coordinates, *speed, max(errors), timings["many"].median)
    report.add(f"{d}", "1e-12", "X, SciPy", "-", 1e3 * np.median(seconds), "-", "-", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d", type=int, nargs="+", default=[5, 10, 25])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes, and no file is written")
    add_device(parser)
    args = parser.parse_args()
    if args.quick:
        args.d, args.seeds, args.runs = [5], 4, 1
    use_device(args.device)
    report = Report(
        "flow", "One flow, and a sweep, to t = 3", [*COLUMNS, f"{args.seeds} seeds s"], __doc__.split("\n\n")[-1]
    )
    for d in args.d:
        compare(args, report, d, jnp.linspace(0.0, 3.0, 7))
    report.save(not args.quick)


if __name__ == "__main__":
    main()
