"""No seed lost: a sampled design over tolerances, sizes, depths, energies and starts, the worst of them on purpose.

    python tests/stress/flows.py [--budget 20] [--seed 0] [--d 2 3 5 10 25 50]

Every case is a sweep of one size, energy and tolerance, with a depth and a kind of start for each seed. It runs to a
moderate time, where the effective rank is compared with that of a reference, and on to rest, or to t = 1000 (t = 50 for
d > 10: large matrices fitted through few modes grow, and are stiff, without end). The table goes to its section of
benchmarks/results/stress.md; the exit status is 1 if a seed is lost or a mean error exceeds 100 rtol.

The reference is the flow in X, by Dopri5 at rtol 1e-10 or a thousandth of the case's; where that is too slow (d > 10)
or cannot tell a small singular value from rounding, the flow in the frame at rtol 1e-10. No depth of the design lets a
singular value reach zero, and every energy of it is bounded below: any code but successful and steady is a seed lost.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from stress.section import STRESS, write_section

import dlnjax as dln

RTOLS = [10.0**-k for k in range(2, 10)]
SIZES = [2, 3, 5, 10, 25, 50]
DEPTHS = [2.0, 3.0, 10.0, np.inf]
STARTS = [
    *("std 1e-4", "std 1e-2", "std 1", "std d^-1/2", "det < 0", "det > 0"),
    *("identity", "gaps 1e-4", "gaps 1e-8", "gaps 1e-12", "gaps 1e-15", "condition 1e12", "rank d - 1"),
]
ENERGIES = ["diagonal", "random mask", "sensing", "free energy"]
SEEDS, MODERATE, MOST = 2 * len(STARTS), 5.0, 100.0
GOOD = ("successful", "steady")


class Seed(NamedTuple):
    """What became of one seed of a case."""

    energy: str
    # In `shapes.py` the shape, and the depth with its imbalance, in words.
    d: int | str
    rtol: float
    depth: float | str
    start: str
    number: int
    case: int
    lost: str
    error: float
    reference: str


def draw_start(kind: str, d: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal((d, d))
    word, _, value = kind.partition(" ")
    if word == "std":
        return x * (d**-0.5 if value == "d^-1/2" else float(value))
    if word == "det":
        x = x * d**-0.5
        wrong = (np.linalg.det(x) < 0) != (value == "< 0")
        return x * np.where(np.arange(d) == 0, -1.0 if wrong else 1.0, 1.0)
    if word == "identity":
        return np.eye(d)
    u, sigma, vt = np.linalg.svd(x)
    if word == "gaps":
        sigma = 1 + float(value) * np.arange(d)[::-1]
    elif word == "condition":
        sigma = np.logspace(0, -np.log10(float(value)), d)
    else:
        sigma = sigma * d**-0.5 * (np.arange(d) < d - 1)
    return (u * sigma) @ vt


def draw_energy(kind: str, d: int, depths, rng: np.random.Generator):
    if kind == "diagonal":
        return dln.MatrixCompletion.diagonal(d)
    if kind == "random mask":
        masks = rng.permuted(np.broadcast_to(np.arange(d * d) < d * d // 2, (SEEDS, d * d)), axis=1)
        labels = rng.uniform(-2, 2, (SEEDS, d, d))
        return dln.MatrixCompletion(jnp.asarray(labels), jnp.asarray(masks.reshape(SEEDS, d, d)))
    if kind == "sensing":
        measurements = rng.standard_normal((2 * d, d, d)) / d
        return dln.MatrixSensing(jnp.asarray(measurements), jnp.asarray(rng.standard_normal(2 * d)))
    return dln.FreeEnergy(dln.Schatten(2.0), jnp.asarray(rng.uniform(1.0, 4.0, SEEDS)), jnp.asarray(depths))


def run_case(case: int, energy_kind: str, d: int, rtol: float, seed: int, largest: int = 10) -> list[Seed]:
    """One case; `largest`: the largest d with a reference in X."""
    rng = np.random.default_rng([seed, case])
    depths = rng.permutation(np.resize(DEPTHS, SEEDS))
    # The entropy is infinite on singular matrices: no such starts there.
    kinds = [k for k in STARTS if not (energy_kind == "free energy" and k.startswith("rank"))]
    kinds = [kinds[i] for i in rng.permutation(np.resize(np.arange(len(kinds)), SEEDS))]
    starts = jnp.asarray(np.stack([draw_start(kind, d, rng) for kind in kinds]))
    energy = draw_energy(energy_kind, d, depths, rng)

    def run(rtol, end=MODERATE, rest=1e-300, atol=None, **options):
        # As numbers of one shape and kind, none of them is a reason to compile again.
        atol = 1e-6 * rtol if atol is None else atol
        options |= {"rtol": rtol, "atol": atol, "stop": dln.Steady(rest), "progress": False}
        return dln.sweep(energy, starts, depth=jnp.asarray(depths), ts=[0.0, end], **options)

    solution, long = run(rtol), run(rtol, 1e3 if d <= 10 else 50.0, 1e-4)
    in_frame = run(1e-10)
    rank = np.asarray(in_frame.effective_rank[:, -1])
    by = np.full(SEEDS, "frame")
    if d <= largest:
        # Far below the tolerance judged: its error is relative to all of X, ours to each singular value.
        in_x = run(min(1e-10, 1e-3 * rtol), atol=1e-16, coordinates="matrix", solver=diffrax.Dopri5())
        sigma = np.asarray(in_x.sigma)
        clear = np.all(sigma[..., -1] > 1e-8 * sigma[..., 0], axis=1) & (in_x.to_numpy()["result"] == "successful")
        rank, by = np.where(clear, in_x.effective_rank[:, -1], rank), np.where(clear, "X", by)
    outcomes = {"": solution, " on the way to rest": long, " of the reference": in_frame}
    error = np.abs(np.asarray(solution.to_numpy()["effective_rank"][:, -1]) - rank) / rtol
    seeds = []
    for i in range(SEEDS):
        lost = [f"{out.to_numpy()['result'][i]}{what}" for what, out in outcomes.items()]
        lost = [words for words in lost if words.split()[0] not in GOOD]
        if not np.isfinite(error[i]):
            lost.append("effective rank is not finite")
        seeds.append(
            Seed(
                energy_kind, d, rtol, float(depths[i]), kinds[i], i, case, ", ".join(lost), float(error[i]), str(by[i])
            )
        )
    return seeds


def run_cases(cases: Iterable[tuple[str, int, float]], seed: int, largest: int = 10) -> Iterator[list[Seed]]:
    for case, (energy, d, rtol) in enumerate(cases):
        yield run_case(case, energy, d, rtol, seed, largest)


def design(sizes, seed: int) -> Iterator[tuple[str, int, float]]:
    """Every size with every energy, and again with other tolerances: without end."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.product(sizes, ENERGIES))
    tolerances = [rng.permutation(RTOLS) for _ in pairs]
    for turn in itertools.count():
        for (d, energy), order in zip(pairs, tolerances, strict=True):
            yield energy, d, float(order[turn % len(order)])


def summary(seeds: list[Seed], **titles: str) -> tuple[str, bool]:
    """(the table, whether all is well). `titles` are those of fields with another name than their own."""
    lines, good = [], True
    factors = {field: titles.get(field, field) for field in ("energy", "d", "depth", "rtol", "start")}
    for field, title in factors.items():
        lines += [f"| {title} | cases | seeds | lost | mean error / rtol | worst error / rtol |"]
        lines += ["|---|---:|---:|---:|---:|---:|"]
        for value in sorted({getattr(s, field) for s in seeds}, key=lambda v: (isinstance(v, str), v)):
            some = [s for s in seeds if getattr(s, field) == value]
            lost, cases = sum(bool(s.lost) for s in some), len({s.case for s in some})
            error = np.array([s.error for s in some if np.isfinite(s.error)])
            mean, worst = (error.mean(), error.max()) if len(error) else (np.inf, np.inf)
            good &= lost == 0 and bool(mean < MOST)
            name = value if isinstance(value, str) else f"{value:g}"
            lines.append(f"| {name} | {cases} | {len(some)} | {lost} | {mean:.3g} | {worst:.3g} |")
        lines.append("")
    return "\n".join(lines), good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=20.0, help="minutes after which no further case begins")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--d", type=int, nargs="+", default=SIZES)
    parser.add_argument("--largest", type=int, default=10, help="the largest d with a reference in X")
    parser.add_argument("--out", type=Path, default=STRESS)
    args = parser.parse_args()
    seeds, began = [], time.monotonic()
    for found in run_cases(design(args.d, args.seed), args.seed, args.largest):
        seeds += found
        first, error, lost = found[0], [s.error for s in found], [s for s in found if s.lost]
        print(
            f"{time.monotonic() - began:6.0f} s  {first.energy:12} d = {first.d:<3} rtol = {first.rtol:.0e}  "
            f"lost {len(lost)}  error / rtol {np.mean(error):.3g} mean, {np.max(error):.3g} worst",
            flush=True,
        )
        for s in lost:
            print(f"    lost: {s}", flush=True)
        if time.monotonic() - began > 60 * args.budget:
            break
    table, good = summary(seeds)
    lost = [f"- {s}" for s in seeds if s.lost]
    worst = [f"- {s}" for s in sorted(seeds, key=lambda s: -s.error)[:5]]
    head = (
        f"{len({s.case for s in seeds})} cases of {SEEDS} seeds, `--seed {args.seed}`: the error is that "
        f"of the effective rank at t = {MODERATE:g}. In X: {sum(s.reference == 'X' for s in seeds)} references.\n"
    )
    text = "\n".join([head, table, "Lost:\n", *(lost or ["none"]), "\nThe worst:\n", *worst, ""])
    sizes = " ".join(map(str, args.d))
    write_section(args.out, f"d = {sizes.replace(' ', ', ')} (`--d {sizes} --budget {args.budget:g}`)", text)
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    sys.exit(main())
