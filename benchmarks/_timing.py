"""What the benchmarks share: the device, fair timing of several contenders, and tables that name their machine.

Times are wall clock. The first call of a contender is apart, as it compiles; then the contenders take turns, so that
whatever else the machine does meets all of them alike.
"""

import argparse
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffrax
import jax
import numpy as np
import scipy

jax.config.update("jax_enable_x64", True)

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
RESULTS = Path(__file__).with_name("results")


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option --device; `use_device` acts on it, before the first array is made."""
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")


def use_device(device: str) -> None:
    """Compute there, and with one thread for each call of LAPACK: more of them only slow small decompositions.

    The libraries read that when they are loaded, so the program starts again with it.
    """
    if any(os.environ.get(name) != "1" for name in THREADS):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | dict.fromkeys(THREADS, "1"))
    jax.config.update("jax_platforms", "cpu" if device == "cpu" else "cuda,cpu")


def accelerator() -> str:
    """The model of the accelerator, or nothing on a CPU."""
    device = jax.devices()[0]
    return "" if device.platform == "cpu" else device.device_kind


def device_name() -> str:
    """The device in file names: cpu, or the model of the accelerator."""
    return re.sub(r"\W+", "-", accelerator() or "cpu").strip("-").lower()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """One line on the processor, the accelerator if any, and the versions."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    parts = [model[1] if model else platform.processor() or platform.machine(), f"{cores()} cores"]
    if accelerator():
        parts.append(f"{len(jax.devices())} x {accelerator()}")
    modules = (jax, diffrax, scipy, np)
    return ", ".join([*parts, *(f"{module.__name__} {module.__version__}" for module in modules)])


@dataclass
class Score:
    """What a contender's result is worth: its error (mean, max), right-hand sides per seed, and a remark."""

    error: tuple[float, float] = (np.nan, np.nan)
    evaluations: float = np.nan
    extra: str = ""


@dataclass
class Contender:
    """`run` is timed; `score` judges what it returned, and is not. `seeds` is how many flows one run solves."""

    run: Callable[[], Any]
    score: Callable[[Any], Score] = lambda out: Score()
    seeds: int = 1


@dataclass
class Timing:
    """Seconds of the first call and of the others, and the score of the last result."""

    first: float
    runs: list[float]
    score: Score
    seeds: int

    @property
    def median(self) -> float:
        return float(np.median(self.runs))

    @property
    def compile(self) -> float:
        return max(0.0, self.first - self.median)

    @property
    def spread(self) -> str:
        return f"{min(self.runs):.3g}-{max(self.runs):.3g}"


def clock(run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` returns, finished, and the seconds it took."""
    began = time.perf_counter()
    out = jax.block_until_ready(run())
    return out, time.perf_counter() - began


def interleave(contenders: dict[str, Contender], runs: int, patience: float = 120.0) -> dict[str, Timing]:
    """`runs` rounds in turns, after a first call of each.

    No contender is repeated for longer than about `patience` seconds; if its first call took that, it is all there is.
    """
    timings = {}
    for name, contender in contenders.items():
        out, first = clock(contender.run)
        timings[name] = Timing(first, [first] * (first > patience), contender.score(out), contender.seeds)
    for k in range(runs):
        for name, contender in contenders.items():
            timing = timings[name]
            if not timing.runs or (k + 1) * min(timing.runs) <= patience:
                timing.runs.append(clock(contender.run)[1])
    return timings


@dataclass
class Report:
    """A table that grows: each row is printed as it comes, and `save` writes them all to results/NAME-DEVICE.md."""

    name: str
    title: str
    columns: list[str]
    notes: str = ""
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *values) -> None:
        self.rows.append([value if isinstance(value, str) else f"{value:.3g}" for value in values])
        print("  ".join(f"{c} {v}" for c, v in zip(self.columns, self.rows[-1], strict=True)), flush=True)

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        line = lambda row: "| " + " | ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        rule = "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|"
        return "\n".join([line(self.columns), rule, *map(line, self.rows)])

    def text(self) -> str:
        title = ": ".join(part for part in (self.title, accelerator()) if part)
        return "\n\n".join(part for part in (f"# {title}", machine(), str(self), self.notes) if part) + "\n"

    def save(self, write: bool = True, final: bool = True) -> None:
        """Write the table, and print it if it is `final`."""
        if final:
            print("\n" + self.text(), flush=True)
        if write:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self.name}-{device_name()}.md").write_text(self.text())
