"""No part lost: processes of a sweep are killed at random, and the parts that count are those of one process.

    python tests/stress/sweeps.py [--seed 0] [--times 20]

A sweep of two workers into a folder is disturbed in these ways, `--times` times each: a random worker is killed by
SIGKILL; its caller is; a finished part is cut in half; a random half of the receipts is taken away. After each the same
call goes on. At the end the checksum of every part is compared with that of a sweep in one process. The table goes to
its section of benchmarks/results/stress.md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from stress.section import STRESS, write_section

import dlnjax as dln

SEEDS, CHUNK, D = 12_000, 8, 3
TITLE = "Sweeps whose processes are killed (`tests/stress/sweeps.py`)"
# The seconds after which a sweep that makes no progress counts as hung.
PATIENCE = 120.0
CALL = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
from stress import sweeps
warnings.simplefilter("ignore")
sweeps.sweep(sys.argv[2], executor=2)
"""


class Row(NamedTuple):
    """What a fault cost. `redone` counts the parts that were finished and then computed again without need."""

    fault: str
    times: int
    went_on: int
    redone: int
    wrong: int


def sweep(folder: Any, executor: Any = None) -> None:
    jax.config.update("jax_enable_x64", True)
    starts = dln.Ensemble(lambda key: dln.gaussian(key, D, 0.1), jax.random.key(0), SEEDS)
    how = {"ts": [0.0, 1.0, 100.0], "depth": 3.0, "stop": dln.Steady(1e-6), "chunk": CHUNK, "progress": False}
    dln.sweep(dln.MatrixCompletion.diagonal(D), starts, folder=folder, executor=executor, **how)


def receipts(folder: Path) -> dict[str, Any]:
    """The checksum of each part and the time at which its receipt was written."""
    found = {}
    for path in (folder / "parts").glob("*.json"):
        # A caller that finds a part damaged takes its receipt away.
        with suppress(FileNotFoundError):
            found[path.stem] = json.loads(path.read_text())["checksum"], path.stat().st_mtime_ns
    return found


def start(folder: Path) -> subprocess.Popen:
    here = str(Path(__file__).parents[1])
    return subprocess.Popen([sys.executable, "-c", CALL, here, str(folder)], start_new_session=True)


def workers(caller: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{caller.pid}/task").glob("*/children")
    return [int(child) for path in children for child in path.read_text().split()]


def progressed(folder: Path, caller: subprocess.Popen, parts: int) -> bool:
    """Wait until the sweep has so many parts more. False if it ended before, or hangs."""
    there, deadline = len(receipts(folder)), time.monotonic() + PATIENCE
    while time.monotonic() < deadline and caller.poll() is None:
        if len(receipts(folder)) >= there + parts:
            return True
        time.sleep(0.005)
    return False


def forget(folder: Path, rng: np.random.Generator, share: float) -> list[str]:
    """Take a share of the receipts away."""
    names = sorted(receipts(folder))
    gone = rng.choice(names, int(share * len(names)), replace=False)
    for name in gone:
        (folder / "parts" / f"{name}.json").unlink()
    return list(gone)


def halve(folder: Path, rng: np.random.Generator) -> str:
    """Cut a file of a random finished part in half, and return the name of the part."""
    name = rng.choice(sorted(receipts(folder)))
    part = int(name) // json.loads((folder / "call.json").read_text())["part"]
    path = rng.choice([p for p in (folder / "data.zarr").glob(f"*/c/{part}/**/*") if p.is_file()] or [None])
    if path is None:
        path = next(p for p in (folder / "data.zarr").glob(f"*/c/{part}") if p.is_file())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return str(name)


def disturb(fault: str, folder: Path, caller: subprocess.Popen, rng: np.random.Generator) -> set[str]:
    """Do one harm to a sweep that runs, and return the parts that have to be computed again for it."""
    if fault == "a worker":
        alive = workers(caller)
        if alive:
            os.kill(int(rng.choice(alive)), signal.SIGKILL)
        return set()
    caller.kill()
    caller.wait()
    if fault == "the caller, a part cut in half":
        return {halve(folder, rng)}
    if fault == "the caller, half of the receipts gone":
        return set(forget(folder, rng, 0.5))
    return set()


FAULTS = ("a worker", "the caller", "the caller, a part cut in half", "the caller, half of the receipts gone")


def run(fault: str, times: int, folder: Path, expected: dict[str, int], rng: np.random.Generator) -> Row:
    went_on = redone = 0
    caller = start(folder)
    for _ in range(times):
        if not progressed(folder, caller, int(rng.integers(3, 12))):
            # The sweep has ended. Most of it is computed again for the faults to come.
            caller.wait()
            forget(folder, rng, 0.9)
            caller = start(folder)
            progressed(folder, caller, 3)
        time.sleep(rng.uniform(0, 0.05))
        before, again = receipts(folder), disturb(fault, folder, caller, rng)
        if caller.poll() is not None:
            caller = start(folder)
        went_on += progressed(folder, caller, 2) or caller.wait() == 0
        after = receipts(folder)
        redone += sum(after.get(name) != receipt for name, receipt in before.items() if name not in again)
    caller.wait()
    sweep(folder)
    found = {name: checksum for name, (checksum, _) in receipts(folder).items()}
    wrong = sum(found.get(name) != checksum for name, checksum in expected.items())
    return Row(fault, times, went_on, redone, wrong)


def summary(rows: list[Row], parts: int) -> tuple[str, bool]:
    lines = [
        f"Of {parts} parts, {SEEDS} seeds of size {D}, on two workers:",
        "",
        "| Killed | times | the same call went on | finished parts computed again | parts wrong at the end |",
        "|---|---|---|---|---|",
        *(f"| {r.fault} | {r.times} | {r.went_on} | {r.redone} | {r.wrong} |" for r in rows),
    ]
    return "\n".join(lines), all(r.went_on == r.times and r.redone == r.wrong == 0 for r in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--out", type=Path, default=STRESS)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as name:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{name}/cache")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.0"
        sweep(Path(name) / "one")
        expected = {part: checksum for part, (checksum, _) in receipts(Path(name) / "one").items()}
        rows = []
        for k, fault in enumerate(FAULTS):
            rows.append(run(fault, args.times, Path(name) / str(k), expected, rng))
            print(rows[-1], flush=True)
    table, good = summary(rows, len(expected))
    print(table)
    write_section(args.out, TITLE, f"`--seed {args.seed} --times {args.times}`. {table}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
