"""Geodesics that always arrive: random pairs of matrices, and hard ones, at every depth.

    python tests/stress/geodesics.py [--pairs 200] [--seed 0] [--d 2 3 5 8] [--depth 1 2 3 8 inf]

Of every cell: how many pairs arrive to 1e-8, with which codes the others end, the processor's time of a pair, and how
often the first guess led to a path that was not the shortest found. Each cell replaces its row of
benchmarks/results/stress_geodesic.md; the exit status is 1 if a random pair does not arrive, or any number is NaN.
"""

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from stress.section import write_rows

import dlnjax as dln

SIZES = [2, 3, 4, 5, 6, 7, 8]
DEPTHS = [1.0, 2.0, 3.0, 8.0, np.inf]
KINDS = ["random", "condition 1e6", "near-opposite", "scales 1e6", "equal to 1e-14"]


class Pair(NamedTuple):
    """What became of one pair."""

    kind: str
    d: int
    depth: float
    result: str
    error: float
    guess: int
    seconds: float
    finite: bool
    bounded: bool


def draw_pair(kind: str, d: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    a, b = rng.standard_normal((2, d, d))
    if kind == "condition 1e6":
        spectrum = np.logspace(0, -6, d)
        a, b = ((u * spectrum) @ vt for u, _, vt in map(np.linalg.svd, (a, b)))
    elif kind == "near-opposite":
        # A rotation by nearly pi in as many planes as there are, after A.
        q = np.linalg.qr(b)[0]
        angles = np.pi - rng.uniform(0, 1e-3, d // 2)
        turn = np.eye(d)
        for k, angle in enumerate(angles):
            c, s = np.cos(angle), np.sin(angle)
            turn[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[c, -s], [s, c]]
        b = a @ q @ turn @ q.T
    elif kind == "scales 1e6":
        b = 1e6 * b
    elif kind == "equal to 1e-14":
        b = a + 1e-14 * b
    if np.linalg.det(a) * np.linalg.det(b) < 0:
        b[0] *= -1
    return a, b


def run_cell(kind: str, d: int, depth: float, pairs: int, seed: int) -> Iterator[Pair]:
    rng = np.random.default_rng([seed, KINDS.index(kind), d, int(1e3 / depth)])
    for _ in range(pairs):
        a, b = map(jnp.asarray, draw_pair(kind, d, rng))
        began = time.process_time()
        found = jax.block_until_ready(dln.geodesic(a, b, jnp.asarray(depth), throw=False))
        seconds = time.process_time() - began
        numbers = (found.length, found.momentum, found.endpoint_error, found.hamiltonian_drift)
        low, high = dln.distance_bounds(a, b, jnp.asarray(depth))
        # Both sides are differences of the ends: no nearer to each other than the rounding of these.
        slack, rounding = 1 + 1e-7, 1e-13 + 10 * np.finfo(float).eps * max(np.linalg.cond(a), np.linalg.cond(b))
        yield Pair(
            kind,
            d,
            depth,
            str(found.result.names),
            float(found.endpoint_error),
            int(found.stats["guess"]),
            seconds,
            not any(bool(jnp.any(jnp.isnan(z))) for z in numbers),
            bool((found.length <= high * slack + rounding) & (low <= found.length * slack + rounding)),
        )


def summary(pairs: list[Pair]) -> tuple[str, bool]:
    """(the table, whether all is well)."""
    lines = [
        "| pairs | d | depth | arrived | other codes | worst error | ms, median | worst | not the first | bounds |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|---|",
    ]
    good = True
    for (kind, d, depth), cell in itertools.groupby(pairs, key=lambda p: p[:3]):
        cell = list(cell)
        there = [p for p in cell if p.result == "successful"]
        codes = Counter(p.result for p in cell if p.result != "successful")
        bounded = all(p.bounded for p in there)
        good &= all(p.finite for p in cell) and bounded and (kind != "random" or len(there) == len(cell))
        error = max((p.error for p in there), default=np.nan)
        ms = 1e3 * np.array([p.seconds for p in cell])
        other = ", ".join(f"{n} {name}" for name, n in codes.items()) or "none"
        share = np.mean([p.guess > 0 for p in cell])
        lines.append(
            f"| {kind} | {d} | {depth:g} | {len(there)}/{len(cell)} | {other} | {error:.1e} | {np.median(ms):.0f} | "
            f"{ms.max():.0f} | {share:.0%} | {'hold' if bounded else 'VIOLATED'} |"
        )
    return "\n".join(lines), good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--d", type=int, nargs="+", default=SIZES)
    parser.add_argument("--depth", type=float, nargs="+", default=DEPTHS)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    out = Path(__file__).parents[2] / "benchmarks" / "results" / "stress_geodesic.md"
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    good = True
    for d in args.d:
        # Compiled once for every d: the depth is an array, and the second pair needs the second search.
        eye = jnp.eye(d)
        for other in (2 * eye, jnp.diag(jnp.geomspace(1.0, 1e4, d))):
            jax.block_until_ready(dln.geodesic(eye, other, jnp.asarray(2.0), throw=False))
        dln.distance_bounds(eye, 2 * eye, jnp.asarray(2.0))
        for kind, depth in itertools.product(args.kinds, args.depth):
            table, fine = summary(list(run_cell(kind, d, depth, args.pairs, args.seed)))
            print(table.splitlines()[-1], flush=True)
            write_rows(args.out, table, keys=3)
            good &= fine
    return 0 if good else 1


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    sys.exit(main())
