"""How time and memory grow: with the number of seeds, with d, and with the depth.

    python benchmarks/scaling.py [--part seeds d depth] [--seeds 100 1000 10000 100000] [--sizes 5] [--device gpu]
        [--quick]

E = sum (X_ii - 1)^2, starts with entries from N(0, 1/d). Seeds: at each d of --sizes, infinite depth, to |dE| <= 1e-4,
in a process of its own for each number, whose memory is the growth of its largest resident set once it is compiled and
warm; and the same written to a folder as it goes. A size ends with the first number of seeds that takes longer than
--patience. d: 32 seeds to t = 2. Depth: 64 seeds at d = 10 to t = 2 (--t-end).
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
from functools import partial
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np
from _timing import add_device, clock, Contender, device_name, interleave, Report, RESULTS, Score, use_device
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

import dlnjax as dln
import dlnjax.plot
from dlnjax._sweeps.plan import as_devices, chunk_size, per_seed, worker_count

COLUMNS = ["varied", "value", "d", "seeds", "s", "min-max", "ms per seed", "us per rhs", "MB grown", "MB of results"]
NOTES = (
    "Times are medians of the runs, after a first call; for the number of seeds, of runs in one process. A right-hand"
    " side is one evaluation of one flow. Memory is that of the host."
)


def sigma_only(point: dln.SVD):
    return point.sigma


def ensemble(d: int, n: int) -> dln.Ensemble:
    return dln.Ensemble(partial(dln.gaussian, shape=d, scale=d**-0.5), jax.random.key(0), n)


def flow(energy, starts, t_end: float, depth=jnp.inf, **options):
    ts = jnp.array([0.0, t_end])
    return dln.sweep(energy, starts, depth=depth, ts=ts, observe=sigma_only, progress=False, **options)


def resident() -> float:
    """The largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def into_folder(many, starts) -> int:
    """The sweep, kept on disk alone: its evaluations."""
    with TemporaryDirectory() as folder, many(starts, folder=f"{folder}/sweep") as data:
        return int(data["evaluations"].sum())


def measure_seeds(d: int, n: int, runs: int, folder: bool) -> dict:
    """Seconds, evaluations and memory of a sweep over n seeds, in chunks as the sweep would choose them."""
    energy, devices = dln.MatrixCompletion.diagonal(d), as_devices(None)
    workers = worker_count(devices, n)
    chunk = chunk_size(n, d, workers, devices, per_seed(2, d, True))
    many = partial(flow, energy, t_end=100.0, stop=dln.Steady(1e-4), chunk=chunk)
    run = partial(into_folder, many) if folder else many
    clock(partial(run, ensemble(d, min(n, chunk * workers))))
    before, times = resident(), []
    for _ in range(runs):
        out, seconds = clock(partial(run, ensemble(d, n)))
        times.append(seconds)
        grown = resident() - before if len(times) == 1 else grown
    evaluations = out if folder else int(np.sum(out.stats["evaluations"]))
    size = sum(x.nbytes for x in jax.tree.leaves(out) if hasattr(x, "nbytes")) / 2**20
    return {"times": times, "evaluations": evaluations, "grown": grown, "size": size}


def in_process(args, d: int, n: int, folder: bool) -> dict:
    """`measure_seeds` in a process of its own."""
    command = [sys.executable, __file__, "--device", args.device, "--runs", f"{args.runs}", "--child", f"{d}", f"{n}"]
    command += ["--folder"] * folder
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out.splitlines()[-1])


def by_seeds(args, report: Report) -> dict:
    curves = {}
    for d, (folder, name) in itertools.product(args.sizes, ((False, "seeds"), (True, "seeds, in a folder"))):
        cost, memory = [], []
        for n in args.seeds:
            found = in_process(args, d, n, folder)
            median, spread = float(np.median(found["times"])), f"{min(found['times']):.3g}-{max(found['times']):.3g}"
            speed = 1e3 * median / n, 1e6 * median / found["evaluations"]
            report.add(name, f"{n}", f"{d}", f"{n}", median, spread, *speed, found["grown"], found["size"])
            report.save(not args.quick, final=False)
            cost.append(speed[0])
            memory.append(found["grown"])
            if median > args.patience:
                break
        if d == args.sizes[0]:
            curves[name] = (args.seeds[: len(cost)], cost, memory)
    return curves


def in_turns(args, report: Report, varied: str, contenders: dict, sizes: list[int]) -> list[float]:
    """A row for each contender, of which `sizes` has the d; microseconds for a right-hand side."""
    timings = interleave(contenders, args.runs)
    cost = []
    for d, (value, timing) in zip(sizes, timings.items(), strict=True):
        cost.append(1e6 * timing.median / timing.score.evaluations)
        speed = timing.median, timing.spread, 1e3 * timing.median / timing.seeds, cost[-1]
        report.add(varied, value, f"{d}", f"{timing.seeds}", *speed, "-", "-")
    report.save(not args.quick, final=False)
    return cost


def contender(args, d: int, n: int, depth: float) -> Contender:
    energy, starts = dln.MatrixCompletion.diagonal(d), ensemble(d, n).take(jnp.arange(n))
    total = lambda sol: Score(evaluations=float(np.sum(sol.stats["evaluations"])))
    return Contender(partial(flow, energy, starts, args.t_end, depth), total, n)


def by_d(args, report: Report) -> dict:
    contenders = {f"{d}": contender(args, d, 8 if args.quick else 32, np.inf) for d in args.d}
    return {"d": (args.d, in_turns(args, report, "d", contenders, args.d))}


def by_depth(args, report: Report) -> dict:
    d, n = (5, 16) if args.quick else (10, 64)
    contenders = {f"{depth:g}": contender(args, d, n, depth) for depth in args.depth}
    return {"depth": (args.depth, in_turns(args, report, "depth", contenders, [d] * len(contenders)))}


def draw(found: dict) -> Figure:
    """One panel for each part: what a seed, in time and memory, or a right-hand side costs."""
    with dln.plot.style():
        figure = Figure(figsize=(6.0, 4.2), dpi=200, layout="constrained")
        (time, memory), (size, deep) = figure.subplots(2, 2)
        for name, look, label in (("seeds", "o-", "in memory"), ("seeds, in a folder", "^--", "in a folder")):
            if name in found:
                n, cost, grown = found[name]
                time.loglog(n, cost, look, label=label)
                memory.loglog(n, grown, look, label=label)
        if "seeds" in found:
            time.set(xlabel="seeds", ylabel="ms per seed")
            # Less than a decade: more of it in figures.
            time.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            time.yaxis.set_major_formatter("{x:g}")
            time.yaxis.set_minor_locator(NullLocator())
            memory.set(xlabel="seeds", ylabel="memory grown, MB")
            time.legend()
            memory.legend(loc="upper left")
        if "d" in found:
            d, cost = found["d"]
            size.loglog(d, cost, "o-")
            size.loglog(d, cost[-1] * (np.array(d) / d[-1]) ** 3, ":", color="0.5", label=r"$d^3$")
            size.set(xlabel="$d$", ylabel="µs per right-hand side")
            size.set_xticks(d, [f"{x}" for x in d])
            size.set_xticks([], minor=True)
            size.legend()
        if "depth" in found:
            depth, cost = found["depth"]
            deep.plot(range(len(depth)), np.array(cost) / cost[-1], "o-")
            deep.axhspan(0.9, 1.1, color="0.9", label="within 10 % of the last")
            deep.set(xlabel="depth $N$", ylabel="time per right-hand side,\nover that of the last depth")
            deep.set(ylim=(0, 1.5), xticks=range(len(depth)))
            deep.set_xticklabels(["∞" if np.isinf(N) else f"{N:g}" for N in depth])
            deep.legend(loc="lower right")
        return figure


PARTS = {"seeds": by_seeds, "d": by_d, "depth": by_depth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[5], help="the d at which the number of seeds varies")
    parser.add_argument("--d", type=int, nargs="+", default=[5, 10, 25, 50, 100])
    parser.add_argument("--depth", type=float, nargs="+", default=[2, 3, 10, 100, 1000, np.inf])
    parser.add_argument("--t-end", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, and no file is written")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds after which no more seeds are tried")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", action="store_true", help=argparse.SUPPRESS)
    add_device(parser)
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.d, args.runs = [100, 1000], [5, 10], 2
    use_device(args.device)
    if args.child is not None:
        print(json.dumps(measure_seeds(*args.child, args.runs, args.folder)))
        return
    report = Report("scaling", "Time and memory against the number of seeds, d and the depth", COLUMNS, NOTES)
    found = {}
    for part in PARTS:  # the seeds first: their processes need the accelerator that this one then holds
        if part in args.part:
            found |= PARTS[part](args, report)
    report.save(not args.quick)
    figure = draw(found)
    if not args.quick:
        figure.savefig(RESULTS / f"scaling-{device_name()}.png", dpi="figure")


if __name__ == "__main__":
    main()
