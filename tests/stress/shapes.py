"""No seed lost at any shape, rank and imbalance: 20 seeds for each of 15 shapes, each against the flow of its factors.

    python tests/stress/shapes.py [--seed 0] [--only 3]

Of each shape m x n and rank r eight seeds are balanced, at depth 2, 3, 10 and infinity, six have two layers with an
imbalance g, and six have three or ten layers with an imbalance between each two of them. As in `flows.py`, each seed
runs to a moderate time, where X is compared with a reference, and on to rest, or to t = 1000. The error is the largest
of X - X_reference, relative to the largest entry of X_reference.

The reference is the flow of the factors by SciPy's DOP853 at rtol 1e-12 (`support/upstairs.py`). At infinite depth,
where there are no factors, the column and row spaces U and V of the start never turn: X = U S V^T, and the flow of the
core S is integrated in S itself. For matrices larger than `LARGEST`, the reference is the flow in the frame at 1e-11.
The table goes to its section of benchmarks/results/stress.md.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

sys.path.insert(0, str(Path(__file__).parents[1]))

from stress.flows import GOOD, MODERATE, Seed, summary
from stress.section import STRESS, write_section
from support import upstairs

import dlnjax as dln

CHOSEN = [
    *((3, 5, 3), (5, 3, 3), (6, 4, 2), (4, 6, 2), (1, 4, 1)),
    *((2, 9, 2), (7, 7, 3), (8, 5, 5), (9, 12, 4), (20, 24, 18)),
]
# Shapes that nothing was tuned on.
UNSEEN = [(11, 2, 2), (5, 8, 4), (13, 10, 6), (2, 2, 1), (6, 17, 5)]
LARGEST = 17
DEPTHS = [2.0, 3.0, 10.0, np.inf] * 2
GAPS = [-2.0, -0.1, 0.0, 0.1, 1.0, 30.0]
PAIRS = [(0.5, 0.3), (-0.5, 0.3), (0.0, 0.0), (-1.0, -2.0), (10.0, -10.0), (3.0, 0.0)]
STARTS = ["std 1e-4", "std 1e-2", "std 1", "gaps 1e-4", "gaps 1e-8", "gaps 1e-15", "condition 1e12"]
ENERGIES = ["random mask", "least squares", "entries"]
RTOLS = [10.0**-k for k in range(3, 10)]


def draw_start(kind: str, m: int, n: int, r: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    u, v = (np.linalg.qr(rng.standard_normal((k, r)))[0] for k in (m, n))
    word, _, value = kind.partition(" ")
    if word == "std":
        # The singular values of r columns of a Gaussian matrix, which is random in its frames too.
        sigma = float(value) * np.linalg.svd(rng.standard_normal((max(m, n), r)), compute_uv=False)
    elif word == "gaps":
        sigma = 1 + float(value) * np.arange(r)[::-1]
    else:
        sigma = np.logspace(0, -np.log10(float(value)), r)
    return u, sigma, v


def draw_energy(kind: str, m: int, n: int, seeds: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """(the energies of all seeds, (seed, X) -> dE(X) in NumPy)."""
    labels = rng.uniform(-2, 2, (seeds, m, n))
    if kind == "least squares":
        samples = 2 * n
        inputs = rng.standard_normal((seeds, n, samples)) / samples**0.5
        outputs = labels @ inputs + 0.3 * rng.standard_normal((seeds, m, samples))
        slope = lambda i, x: (x @ inputs[i] - outputs[i]) @ inputs[i].T
        return dln.LeastSquares(jnp.asarray(inputs), jnp.asarray(outputs)), slope
    half = np.arange(m * n) < max(m * n // 2, 1)
    if kind == "entries":
        seen = rng.permutation(half).reshape(m, n)
        rows, columns = np.nonzero(seen)
        energy = dln.MatrixCompletion.from_entries(rows, columns, jnp.asarray(labels[:, rows, columns]), (m, n))
        return energy, lambda i, x: seen * (x - labels[i])
    seen = rng.permuted(np.broadcast_to(half, (seeds, m * n)), axis=1).reshape(seeds, m, n)
    return dln.MatrixCompletion(jnp.asarray(labels), jnp.asarray(seen)), lambda i, x: seen[i] * (x - labels[i])


def at_infinite_depth(gradient, u, sigma, v, t):
    """X(t) of dX/dt = -A_X(dE) at infinite depth, lambda = (s^2 - t^2)/(2 log(s/t)), in the core of the start."""
    r = len(sigma)

    def velocity(_, y):
        left, s, right = np.linalg.svd(y.reshape(r, r))
        log = np.log(s[:, None] / s[None, :]) if s[-1] > 0 else np.zeros((r, r))
        near = np.abs(log) < 1e-6
        mean = np.where(near, 1.0, np.sinh(log) / np.where(near, 1.0, log))
        core = left.T @ (u.T @ gradient(u @ y.reshape(r, r) @ v.T) @ v) @ right.T
        return -(left @ (s[:, None] * s[None, :] * mean * core) @ right).ravel()

    sol = solve_ivp(velocity, (0.0, t), np.diag(sigma).ravel(), method="DOP853", rtol=1e-12, atol=1e-15)
    return u @ sol.y[:, -1].reshape(r, r) @ v.T


def run_shape(case: int, shape: tuple[int, int, int], seed: int) -> list[Seed]:
    m, n, r = shape
    rng = np.random.default_rng([seed, case])
    kind, rtol = ENERGIES[case % len(ENERGIES)], RTOLS[case % len(RTOLS)]
    gaps = PAIRS if case % 2 == 0 else [tuple(0.3 * g) for g in rng.standard_normal((6, 9))]
    groups = [
        ("{:g}", DEPTHS, jnp.asarray(DEPTHS)),
        ("2, g = {:g}", GAPS, dln.Imbalanced(jnp.asarray(GAPS))),
        (f"{len(gaps[0]) + 1}, imbalanced", gaps, dln.Imbalanced(tuple(map(jnp.asarray, zip(*gaps, strict=True))))),
    ]
    found = []
    for title, values, kernel in groups:
        kinds = [STARTS[(len(found) + i) % len(STARTS)] for i in range(len(values))]
        points = [draw_start(kind, m, n, r, rng) for kind in kinds]
        starts = dln.SVD(*(jnp.asarray(np.stack(part)) for part in zip(*points, strict=True)))
        energy, slope = draw_energy(kind, m, n, len(values), rng)

        def run(rtol, end=MODERATE, rest=1e-300, energy=energy, starts=starts, kernel=kernel):
            # One flow at a time. In a chunk with others, a flow of ten million evaluations would make all of them anew.
            options = {"rtol": rtol, "stop": dln.Steady(rest), "progress": False, "chunk": 1}
            return dln.sweep(energy, starts, depth=kernel, ts=[0.0, end], **options)

        outcomes = {"": run(rtol), " on the way to rest": run(rtol, 1e3, 1e-4)}
        by = "factors"
        if max(m, n) > LARGEST:
            by, outcomes[" of the reference"] = "frame", run(1e-11)
        for i, (value, point) in enumerate(zip(values, points, strict=True)):
            gradient = lambda x, i=i, slope=slope: slope(i, x)
            if by == "frame":
                right = outcomes[" of the reference"].x[i, -1]
            elif value == np.inf:
                right = at_infinite_depth(gradient, *point, MODERATE)
            else:
                point = dln.SVD(*map(jnp.asarray, point))
                weights = (
                    upstairs.balanced(*map(np.asarray, (point.u, point.sigma, point.v)), int(value))
                    if (title == "{:g}")
                    else list(map(np.asarray, dln.imbalanced_factors(point, jnp.atleast_1d(jnp.asarray(value)))))
                )
                right = upstairs.flow(gradient, weights, [0.0, MODERATE])[-1]
            error = np.max(np.abs(outcomes[""].x[i, -1] - right)) / np.max(np.abs(right)) / rtol
            lost = [f"{out.result[i].names}{what}" for what, out in outcomes.items()]
            lost = [words for words in lost if words.split()[0] not in GOOD]
            if not np.isfinite(error):
                lost.append("X is not finite")
            name = title.format(value) if "{" in title else title
            where = f"{m} x {n}, rank {r}"
            found.append(Seed(kind, where, rtol, name, kinds[i], len(found), case, ", ".join(lost), float(error), by))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of some shapes; no table is written")
    parser.add_argument("--out", type=Path, default=STRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message="The energy has no entry|At infinite depth")
    seeds, began = [], time.monotonic()
    for case, shape in enumerate(CHOSEN + UNSEEN):
        if args.only and case not in args.only:
            continue
        found = run_shape(case, shape, args.seed)
        seeds += found
        error = [s.error for s in found]
        print(
            f"{time.monotonic() - began:6.0f} s  {found[0].d:20} {found[0].energy:14} rtol = {found[0].rtol:.0e}  "
            f"lost {sum(bool(s.lost) for s in found)}  error / rtol {np.mean(error):.3g} mean, "
            f"{np.max(error):.3g} worst",
            flush=True,
        )
        for s in found:
            if s.lost:
                print(f"    lost: {s}", flush=True)
    table, good = summary(seeds, d="shape")
    worst = [f"- {s}" for s in sorted(seeds, key=lambda s: -s.error)[:5]]
    unseen = ", ".join(f"{m} x {n}, rank {r}" for m, n, r in UNSEEN)
    head = (
        f"{len(seeds)} seeds, `--seed {args.seed}`: the error is that of X at t = {MODERATE:g}, relative to its "
        f"largest entry. Against the flow of the factors: {sum(s.reference == 'factors' for s in seeds)}. Nothing was "
        f"tuned on {unseen}.\n"
    )
    lost = [f"- {s}" for s in seeds if s.lost]
    text = "\n".join([head, table, "Lost:\n", *(lost or ["none"]), "\nThe worst:\n", *worst, ""])
    print(text)
    if not args.only:
        write_section(args.out, "Any shape, rank and imbalance (`tests/stress/shapes.py`)", text)
    return 0 if good else 1


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    sys.exit(main())
