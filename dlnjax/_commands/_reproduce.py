"""`dlnjax reproduce`: computes the figures and writes them, their data, the numbers and the report."""

import argparse
import json
import math
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlnjax._commands._common import check_writable, did_you_mean, Refused
from dlnjax._commands._progress import duration, RunProgress
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
    with RunProgress(foreseen, {name: FIGURES[name].title for name in names}) as progress:
        for name in names:
            progress.begin(name)
            try:
                kept = _make(name, runs, args)
            except OSError as error:
                reason = f"{error}. What is finished is kept, and --resume goes on from there"
                raise Refused(f"cannot write figure {name}: {reason}.") from error
            progress.end(name, kept)
    _print_numbers([runs[name] for name in names])
    took, page = duration(time.perf_counter() - began), args.out / "report.html"
    count = f"{len(names)} figure{'s' * (len(names) != 1)}"
    console().print(f"{count} in {took}; the report is {page}", markup=False, soft_wrap=True)
    return 0


def _make(name: str, runs: dict[str, Run], args: argparse.Namespace) -> bool:
    """Add one figure to the runs and write the files that depend on it. Returns whether its data were there already."""
    path = args.out / f"{name}.nc"
    seeds = args.seeds or FIGURES[name].size(args.quick)
    wanted = _run.identity(name, seed=args.seed, seeds=seeds, quick=args.quick)
    kept = args.resume and _run.is_kept(path, wanted)
    if not kept:
        _run.compute(path, wanted)
    # The figure is drawn from the file, so that `dlnjax plot` draws the same picture again.
    runs[name] = _run.read(path)
    _run.draw(runs[name])
    shown = [runs[name] for name in FIGURES if name in runs]
    _report.write_numbers(args.out / "numbers.csv", shown)
    write_report(args.out, shown)
    return kept


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
