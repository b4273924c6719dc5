"""Sweeps into a folder by one process and by worker processes: seconds, overhead, efficiency, memory and files.

    python benchmarks/workers.py [--seeds 50000] [--many 1000000] [--d 5] [--runs 2] [--quick]

Each sweep is a fresh process. It flows from small starts to rest at infinite depth, into a folder of its own. The rate
is that between the first and the last receipt, so that the start of the processes and compilation are apart. With
`--many` one sweep of so many seeds on two workers shows whether the memory stays flat.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
from _timing import Report, use_device

import dlnjax as dln

COLUMNS = ["seeds", "who", "runs", "s", "s min-max", "seeds per s", "us of a core per seed", "caller MB"]
COLUMNS += ["worker MB, quarters of the run", "files", "MB on disk", "parts"]
NOTES = (
    "The processes took turns; medians. s is all of the call, with the start of its processes and compilation from a"
    " cache. Seeds per s is between the first and the last receipt. Memory is what each process holds (resident), the"
    " workers at each quarter of the run."
)
WHO = {"one process on one core": (None, 1), "one worker": (1, 2), "one process on two cores": (None, 2)}
WHO |= {"two workers": (2, 2)}
_MEGA = 2**20


def resident(pid: int) -> float:
    """The memory that a process holds, in MB, or NaN if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MEGA
    except OSError:
        return float("nan")


def children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(child) for path in tasks for child in path.read_text().split()]


def one(folder: Path, seeds: int, d: int, workers: int | None) -> dict:
    """Sweep in this process, and report on it."""
    seen, over = [], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            seen.append([resident(child) for child in children()])

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    starts = dln.Ensemble(lambda key: dln.gaussian(key, d, 0.1), jax.random.key(0), seeds)
    how = {"ts": [0.0, 10.0, 1000.0], "stop": dln.Steady(1e-6), "progress": False}
    dln.sweep(dln.MatrixCompletion.diagonal(d), starts, folder=folder, executor=workers, **how)
    seconds = time.perf_counter() - began
    over.set()
    watcher.join()
    receipts = [(path.stat().st_mtime, json.loads(path.read_text())["count"]) for path in (folder / "parts").iterdir()]
    ends = np.array(sorted(receipts))
    files = [path for path in folder.rglob("*") if path.is_file()]
    busy = [sum(row) / len(row) for row in seen if row]
    quarters = [float(np.nanmean(part)) for part in np.array_split(np.array(busy), 4)] if len(busy) >= 4 else []
    return {
        "seconds": seconds,
        # What was finished before the first receipt is left out with the time until then.
        "rate": float(ends[1:, 1].sum() / (ends[-1, 0] - ends[0, 0])),
        "caller": resident(os.getpid()),
        "workers": quarters,
        "files": len(files),
        "disk": sum(path.stat().st_size for path in files) / _MEGA,
        "parts": len(ends),
    }


def fresh(seeds: int, d: int, who: str) -> dict:
    """`one` in a process of its own, on so many cores."""
    workers, cores = WHO[who]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", folder, "--seeds", str(seeds), "--d", str(d)]
        command += ["--cores", str(cores)] + (["--workers", str(workers)] if workers else [])
        out = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def row(report: Report, seeds: int, who: str, runs: list[dict]) -> float:
    middle = {
        key: np.median([run[key] for run in runs]) for key in ("seconds", "rate", "caller", "files", "disk", "parts")
    }
    times, cores = [run["seconds"] for run in runs], min(WHO[who][1], WHO[who][0] or 2)
    memory = " ".join(f"{m:.0f}" for m in runs[-1]["workers"]) if WHO[who][0] else "-"
    report.add(
        *(f"{seeds}", who, f"{len(runs)}", middle["seconds"], f"{min(times):.3g}-{max(times):.3g}"),
        *(f"{middle['rate']:.0f}", f"{1e6 * cores / middle['rate']:.0f}", f"{middle['caller']:.0f}", memory),
        *(f"{middle['files']:.0f}", middle["disk"], f"{middle['parts']:.0f}"),
    )
    return float(middle["rate"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50_000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, default=5)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few seeds, and write no table")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    use_device("cpu")
    if args.one:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
        print(json.dumps(one(args.one, args.seeds, args.d, args.workers)))
        return
    seeds, many = (4000, 8000) if args.quick else (args.seeds, args.many)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.0"
        report = Report(
            "workers", f"Sweeps by worker processes: d = {args.d}, to rest at infinite depth", COLUMNS, NOTES
        )
        fresh(2000, args.d, "two workers")
        runs = {who: [] for who in WHO}
        for _ in range(args.runs):
            for who in WHO:
                runs[who].append(fresh(seeds, args.d, who))
        rates = {who: row(report, seeds, who, runs[who]) for who in WHO}
        overhead = rates["one process on one core"] / rates["one worker"] - 1
        efficiency = rates["two workers"] / rates["one worker"]
        beside = rates["two workers"] / rates["one process on two cores"] - 1
        report.notes += (
            f" One process on one core has {100 * overhead:.0f} % more seeds per s than one worker. Two workers"
        )
        report.notes += (
            f" have {efficiency:.2f} times the rate of one, and {100 * beside:+.0f} % of one process on two cores."
        )
        report.save(write=not args.quick, final=not many)
        if many:
            row(report, many, "two workers", [fresh(many, args.d, "two workers")])
            report.save(write=not args.quick)


if __name__ == "__main__":
    main()
