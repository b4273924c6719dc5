"""The contest of benchmarks/neighbours.py: contenders answer the same draws, each within its patience."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from _timing import Report

COLUMNS = [
    "depth",
    "d",
    "matrices",
    "task",
    "contender",
    "draws",
    "to 1e-8",
    "to 1e-3",
    "error, median",
    "error, worst",
]
COLUMNS += ["first s", "ms"]

# Seconds below which a call is timed again, and for how long.
QUICK, LONG = 0.03, 0.3
# Seconds above which a contender gets few draws, and how many.
SLOW, FEW = 2.0, 3


@dataclass
class Task:
    """Draws, the exact answer of each, and contenders, which are functions of a draw."""

    name: str
    draws: list[dict[str, Any]]
    contenders: dict[str, Callable]
    exact: Callable
    error: Callable


class OutOfPatience(Exception):
    pass


def give_up(*_):
    raise OutOfPatience


def answer(f: Callable, draw: dict[str, Any], patience: float) -> tuple[Any, float, bool]:
    """(the answer, or None, its seconds, whether patience ended)."""
    began = time.process_time()
    out, ended = None, False
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, patience)
        out = np.asarray(jax.block_until_ready(f(draw)))
    except OutOfPatience:
        ended = True
    except NotImplementedError:
        raise
    except (ArithmeticError, RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        # A draw without an answer, counted as such.
        print(f"{type(error).__name__}: {error}"[:200], file=sys.stderr)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return out, time.process_time() - began, ended


def again(f: Callable, draws: list[dict[str, Any]]) -> float:
    """The mean of the seconds of calls that are quick, all draws in turns for long enough: the clock is coarse."""
    began, calls = time.process_time(), 0
    while time.process_time() - began < LONG:
        for draw in draws:
            jax.block_until_ready(f(draw))
        calls += len(draws)
    return (time.process_time() - began) / calls


def compete(report: Report, cells: list[str], task: Task, patience: float) -> None:
    """A row for each contender, in place of those of the same task.

    A slow one gets few of the draws, and one that runs out of patience no more.
    """
    old = [i for i, row in enumerate(report.rows) if row[:4] == [*cells, task.name] and row[4] in task.contenders]
    place = old[0] if old else len(report.rows)
    report.rows, later = report.rows[:place], [row for i, row in enumerate(report.rows) if i >= place and i not in old]
    truths = [task.exact(draw) for draw in task.draws]
    for name, f in task.contenders.items():
        _, first, ended = answer(f, task.draws[0], patience)
        errors, seconds = [np.inf] * ended, [first] * ended
        for draw, truth in zip(task.draws, truths, strict=True):
            if ended or (len(seconds) == FEW and min(seconds) > SLOW):
                break
            out, spent, ended = answer(f, draw, patience)
            error = np.inf if out is None else float(task.error(out, truth, draw))
            errors.append(error if np.isfinite(error) else np.inf)
            seconds.append(spent)
        mean = np.mean(seconds) if max(seconds) > QUICK else again(f, task.draws)
        shares = [f"{np.mean(np.array(errors) <= bound):.0%}" for bound in (1e-8, 1e-3)]
        report.add(
            *cells, task.name, name, f"{len(errors)}", *shares, np.median(errors), max(errors), first, 1e3 * mean
        )
    report.rows += later
