"""`dlnjax reproduce`: computes the figures and writes them, their data, the numbers and the report."""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlnjax._commands._common import check_writable, configure_jax, did_you_mean, Refused
from dlnjax._commands._progress import duration, RunProgress
from dlnjax._sweeps.plan import core_count
from dlnjax._sweeps.processes import Died, Processes
from dlnjax._terminal import console
from dlnjax.figures import _claims_page, _report, _run, FIGURES
from dlnjax.figures._run import Run

# The seconds that each figure takes on 2 cores, and the seconds assumed for a figure without an entry. Only the
# estimate of the time left uses these numbers.
SECONDS = {
    **{"3.1": 31, "3.2": 45, "3.3": 70, "3.4": 150},
    **{"4.1a": 7, "4.1b": 12, "4.2a": 3, "4.2b": 2, "4.2c": 2, "4.2d": 29, "4.3": 10, "4.4": 130},
    **{"4.5a": 9, "4.5b": 15, "5.1": 5, "5.2": 11, "5.3": 21},
    **{"5.4": 46, "5.5": 17, "5.6": 240, "5.7": 8, "5.8": 30, "5.9": 35, "5.10": 90, "5.11": 45},
    **{"6.1": 20, "6.2": 40, "6.3": 45, "6.4": 45, "6.5": 130, "6.6": 60, "6.7": 30, "6.8": 30},
}
OTHERS = 15
# The largest number of processes that is taken by itself. A process that has made half of the figures holds 2.4 GB.
MOST_WORKERS = 8


def reproduce(args: argparse.Namespace) -> int:
    """Compute each figure, or take its data from disk. After each figure its files and the report are complete."""
    check_writable(args.out)
    try:
        names = _run.choose(args.figure, FIGURES)
    except KeyError as error:
        there = f"There are: {', '.join(FIGURES)}; a group such as 4.2 means all of its own."
        near = did_you_mean(error.args[0], FIGURES)
        raise Refused(f"there is no figure {error.args[0]!r}.{near} {there}") from error
    runs = already_there(args.out)
    began = time.perf_counter()
    foreseen = {name: SECONDS.get(name, OTHERS) for name in names}
    workers = min(len(names), args.workers or _usual_workers())
    with RunProgress(foreseen, {name: FIGURES[name].title for name in names}, workers) as progress:
        for name, kept in _made(names, args, workers, progress.begin):
            with _refusal_of(name):
                runs[name] = _run.read(_task(name, args)[0])
                shown = [runs[name] for name in FIGURES if name in runs]
                _report.write_numbers(args.out / "numbers.csv", shown)
                write_report(args.out, shown)
            progress.end(name, kept)
    _print_numbers([runs[name] for name in names])
    took, page = duration(time.perf_counter() - began), args.out / "report.html"
    count = f"{len(names)} figure{'s' * (len(names) != 1)}"
    console().print(f"{count} in {took}; the report is {page}", markup=False, soft_wrap=True)
    return 0


def _usual_workers() -> int:
    """One process for each core, up to `MOST_WORKERS`. The memory of a GPU has room for one process."""
    return min(core_count(), MOST_WORKERS) if jax.default_backend() == "cpu" else 1


def _made(
    names: Sequence[str], args: argparse.Namespace, workers: int, begin: Callable[[str], None]
) -> Iterator[tuple[str, bool]]:
    """Make the figures. Yields the name of each as it is finished, and whether its data were there already.

    The data do not depend on the number of processes. `begin` is called with the name of each figure that is begun.
    """
    if workers == 1:
        for name in names:
            begin(name)
            with _refusal_of(name):
                kept = _make(*_task(name, args))
            yield name, kept
        return
    # The longest come first, so that no process is left with one of them at the end.
    left = sorted(names, key=lambda name: -SECONDS.get(name, OTHERS))
    running: dict[Future[bool | OSError], str] = {}
    with Processes(workers) as processes:

        def begin_next() -> None:
            if left:
                name = left.pop(0)
                begin(name)
                running[processes.submit(_make_apart, *_task(name, args))] = name

        for _ in range(workers):
            begin_next()
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                with _refusal_of(name):
                    kept = future.result()
                    if isinstance(kept, OSError):
                        raise kept
                begin_next()
                yield name, kept


def _task(name: str, args: argparse.Namespace) -> tuple[Path, dict[str, Any], bool]:
    """The arguments of `_make` for a figure."""
    seeds = args.seeds or FIGURES[name].size(args.quick)
    return args.out / f"{name}.nc", _run.identity(name, seed=args.seed, seeds=seeds, quick=args.quick), args.resume


def _make(path: Path, wanted: dict[str, Any], resume: bool) -> bool:
    """Compute a figure, or take its data from disk, and draw it. Returns whether its data were there already."""
    kept = resume and _run.is_kept(path, wanted)
    if not kept:
        _run.compute(path, wanted)
    # The figure is drawn from the file, so that `dlnjax plot` draws the same picture again.
    _run.draw(_run.read(path))
    return kept


def _make_apart(path: Path, wanted: dict[str, Any], resume: bool) -> bool | OSError:
    """`_make` in a process of its own, which returns an error of writing in place of raising it."""
    configure_jax()
    # The bars of several processes would overwrite each other.
    console().quiet = True
    try:
        return _make(path, wanted, resume)
    except OSError as error:
        return error


@contextmanager
def _refusal_of(name: str) -> Iterator[None]:
    """Refuse to go on where a figure cannot be written, or where the process that makes it has died."""
    kept = "What is finished is kept, and --resume goes on from there"
    try:
        yield
    except OSError as error:
        raise Refused(f"cannot write figure {name}: {error}. {kept}.") from error
    except Died as error:
        raise Refused(f"cannot make figure {name}: {error}. {kept}; --workers 1 takes the least memory.") from error


def write_report(folder: Path, runs: list[Run]) -> None:
    """Write the report on these figures. It counts the verdicts on the statements if `dlnjax claims` has left them."""
    data = folder / "claims.json"
    statements = _claims_page.count(json.loads(data.read_text(encoding="utf-8"))) if data.exists() else []
    _report.write_report(folder / "report.html", runs, statements)


def already_there(folder: Path) -> dict[str, Run]:
    """The figures whose data the folder holds from earlier runs. The report shows them too."""
    runs = {}
    for name in FIGURES:
        path = folder / f"{name}.nc"
        if path.exists():
            try:
                runs[name] = _run.read(path)
            except ValueError as error:
                console().print(f"left out of the report: {error}", markup=False, soft_wrap=True)
    return runs


def _print_numbers(runs: list[Run]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("figure", "quantity", "thesis", "expected", "here", "std. error", "verdict"):
        table.add_column(column, justify="right" if column in ("expected", "here", "std. error") else "left")
    for run in runs:
        for n in run.numbers:
            expected = "" if math.isnan(n.expected) else f"{n.expected:.4g}"
            values = (expected, f"{n.here:.4g}", f"{n.standard_error:.1g}")
            table.add_row(run.figure.name, escape(n.quantity), escape(n.thesis), *values, escape(n.verdict))
    terminal = Console()
    # A pipe has no width. With the default of 80 columns rich would cut the cells of the table.
    (terminal if terminal.is_terminal else Console(width=160)).print(table)
