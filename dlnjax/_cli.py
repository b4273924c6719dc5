"""The command line: `dlnjax`, or `python -m dlnjax`."""

import argparse
import csv
import os
import sys
import time
from operator import itemgetter
from pathlib import Path

import dlnjax

_EXAMPLE = "example:  dlnjax reproduce --figure 4.1 --figure 4.2d --out out"


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.command is None:
        _parser().print_help()
        return 0
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("stopped: what was finished is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dlnjax", description=dlnjax.__doc__)
    parser.add_argument("--version", action="version", version=f"dlnjax {dlnjax.__version__}")
    commands = parser.add_subparsers(dest="command", title="commands")
    reproduce = commands.add_parser(
        "reproduce",
        help="the figures of the thesis, their data and a table of the numbers",
        description="Compute and draw figures of the thesis. Each writes NAME.png, NAME.svg and its data, NAME.nc; "
        "the numbers go to numbers.csv and to the terminal.",
        epilog=_EXAMPLE,
    )
    reproduce.add_argument(
        "--figure", action="append", metavar="F", help="a figure (4.2d) or a group (4.2); again for more; default all"
    )
    reproduce.add_argument(
        "--out", type=Path, default=Path("out"), metavar="DIR", help="folder to write (default: out)"
    )
    reproduce.add_argument("--seed", type=int, default=0, metavar="S", help="of the random starts (default: 0)")
    reproduce.add_argument("--seeds", type=int, metavar="N", help="starts for each ensemble, in place of the thesis's")
    reproduce.add_argument("--quick", action="store_true", help="a tenth of the starts: a look, not a result")
    reproduce.set_defaults(run=_reproduce)
    return parser


def _fail(message: str) -> int:
    print(f"dlnjax: {message}", file=sys.stderr)
    return 2


def _reproduce(args: argparse.Namespace) -> int:
    if args.seeds is not None and args.seeds < 10:
        return _fail(f"--seeds must be at least 10, to have a standard error worth printing, got {args.seeds}.")
    problem = _unwritable(args.out)
    if problem:
        return _fail(problem)
    _configure_jax()
    import jax
    from rich.console import Console

    from dlnjax import plot
    from dlnjax.figures import FIGURES

    chosen = _choose(args.figure, list(FIGURES))
    if isinstance(chosen, str):
        return _fail(chosen)
    terminal = Console(stderr=True)
    table, began = args.out / "numbers.csv", time.perf_counter()
    rows = []
    for k, name in enumerate(chosen):
        figure = FIGURES[name]
        terminal.print(f"[bold]{name}[/bold]  {figure.title}", highlight=False)
        start = time.perf_counter()
        seeds = args.seeds or (max(10, figure.seeds // 10) if args.quick else figure.seeds)
        key = jax.random.fold_in(jax.random.key(args.seed), sum(map(ord, name)))
        data = figure.compute(key, seeds)
        data.attrs |= {"figure": name, "title": figure.title, "seed": args.seed, "seeds": seeds}
        data.to_netcdf(args.out / f"{name}.nc", engine="scipy", format="NETCDF3_64BIT")
        with plot.style():
            plot.save(figure.draw(data), args.out / name)
        numbers = figure.numbers(data)
        rows += [(name, number) for number in numbers]
        _write_numbers(table, name, numbers)
        spent, left = time.perf_counter() - start, len(chosen) - k - 1
        terminal.print(f"      {spent:.1f} s, {left} to go", highlight=False)
    _print_numbers(rows)
    total = time.perf_counter() - began
    terminal.print(f"{len(chosen)} figures, {len(rows)} numbers in {args.out}/, {total:.0f} s", highlight=False)
    return 0


def _unwritable(folder: Path) -> str | None:
    """Why nothing can be written to `folder`, found out before any work is done; None if something can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".dlnjax-can-write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"cannot write to {folder}: {error.strerror or error}. Name another folder with --out."
    return None


def _choose(wanted: list[str] | None, names: list[str]) -> list[str] | str:
    if not wanted:
        return names
    for each in wanted:
        if not any(name == each or name.rstrip("abcdefgh") == each for name in names):
            return (
                f"there is no figure {each!r}. There are: {', '.join(names)}; a group such as 4.2 means all of its own."
            )
    return [name for name in names if name in wanted or name.rstrip("abcdefgh") in wanted]


def _configure_jax() -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "dlnjax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _write_numbers(path: Path, figure: str, numbers) -> None:
    """Put the rows of one figure into the table; those of other figures stay."""
    header = ["figure", "quantity", "thesis", "here", "standard_error", "verdict"]
    rows: list[list[str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row and row != header and row[0] != figure]
    for n in numbers:
        rows.append([figure, n.quantity, n.thesis, f"{n.here:.6g}", f"{n.standard_error:.2g}", n.verdict])
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *sorted(rows, key=itemgetter(0))])


def _print_numbers(rows) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("figure", "quantity", "thesis"):
        table.add_column(column)
    table.add_column("here", justify="right")
    table.add_column("std. error", justify="right")
    table.add_column("verdict")
    for name, number in rows:
        here, error = f"{number.here:.4g}", f"{number.standard_error:.1g}"
        table.add_row(name, number.quantity, number.thesis, here, error, number.verdict)
    console = Console()
    # Piped, a table keeps its width, so that no cell is cut.
    (console if console.is_terminal else Console(width=140)).print(table)
