"""The command line: `dlnjax`, or `python -m dlnjax`."""

import argparse
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import shtab

import dlnjax
from dlnjax._commands._common import configure_jax, did_you_mean, Refused
from dlnjax._terminal import console

# The exit status of a command whose output nobody reads any more: 128 and the number of SIGPIPE.
_PIPE_CLOSED = 141


def main(argv: list[str] | None = None) -> int:
    try:
        argv = sys.argv[1:] if argv is None else argv
        args = _parser(completion="--print-completion" in argv).parse(argv)
        if args.command is None:
            _parser().print_help()
            return 0
        with _stopped_at_once(args):
            configure_jax()
            status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Who read the output has enough, as in `dlnjax claims | head`. Python flushes stdout once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except Refused as error:
        print(f"dlnjax: {error}", file=sys.stderr)
        return 2


@contextmanager
def _stopped_at_once(args: argparse.Namespace) -> Iterator[None]:
    """End on Ctrl-C with one line and the exit status 130, without raising an exception.

    An exception would wait for the threads that compute. To end at once does no harm, since every file is complete at
    any moment.
    """

    def stop(*_) -> NoReturn:
        kept = f"; {args.stopped.format(out=args.out)}" if getattr(args, "out", None) else ""
        # The progress bars hide the cursor. This code shows the cursor again, on the line below them.
        below = "\x1b[?25h\n" if console().is_terminal else ""
        os.write(2, f"{below}dlnjax: stopped{kept}\n".encode())
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are refusals, which name the nearest word that would have been right."""

    commands: Any

    def __init__(self, **how: Any):
        self.options: list[str] = []
        # A script that has only the beginning of an option breaks once another option begins so.
        super().__init__(allow_abbrev=False, **how)

    def add_argument(self, *names: Any, **how: Any) -> argparse.Action:
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **how)

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """The arguments. What is unknown is an error of the command, and not of `dlnjax` as in `parse_args`."""
        found, unknown = self.parse_known_args(argv)
        if unknown:
            command = self.commands.choices.get(found.command, self)
            command.error(f"unrecognized arguments: {' '.join(unknown)}", unknown[0], command.options)
        return found

    def error(self, message: str, word: str = "", known: Iterable[str] = ()) -> NoReturn:
        # argparse writes what it expected into its message alone.
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            word, known = choice[1], re.findall(r"[\w.-]+", choice[2])
        raise Refused(f"{message}.{did_you_mean(word, known)} See {self.prog} --help.")


def _parser(*, completion: bool = False) -> _Parser:
    """The parser of the command line. For the completion of a shell it also has the names of the figures.

    These names are read from the figures, whose import takes seconds, and so does that of JAX.
    """
    parser = _Parser(
        prog="dlnjax",
        description=dlnjax.__doc__,
        epilog="example:  dlnjax reproduce --quick",
    )
    parser.add_argument("--version", action="version", version=f"dlnjax {dlnjax.__version__}")
    shtab.add_argument_to(parser, "--print-completion", help='for its use: eval "$(dlnjax --print-completion bash)"')
    parser.commands = commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")
    _add_reproduce(commands, completion)
    _add_plot(commands)
    _add_sweep(commands)
    _add_claims(commands)
    _add_explore(commands)
    return parser


def _add_reproduce(commands: Any, completion: bool) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="the figures of the thesis, their data, the numbers and a report",
        description="Compute and draw figures of the thesis. Each writes its data, NAME.nc, and its drawing, NAME.png "
        "and NAME.svg; all of them together report.html and numbers.csv.",
        epilog="example:  dlnjax reproduce --figure 4.1 --figure 4.2d --out out",
    )
    add = parser.add_argument
    what = "a figure (4.2d) or a group (4.2); again for more; default all"
    figure = add("--figure", action="append", metavar="F", help=what)
    if completion:
        from dlnjax.figures import FIGURES

        figure.choices = list(FIGURES)
    out = add("--out", type=Path, default=Path("out"), metavar="DIR", help="folder to write (default: out)")
    _complete(out, shtab.DIRECTORY)
    add("--seed", type=_whole(0, 2**31 - 1), default=0, metavar="S", help="of the random starts (default: 0)")
    # The standard error of fewer starts is itself too uncertain to be printed.
    add("--seeds", type=_whole(10), metavar="N", help="starts for each ensemble, in place of the thesis's; at least 10")
    add("--quick", action="store_true", help="a tenth of the starts or fewer: a look, not a result")
    add("--resume", action="store_true", help="take up the figures that DIR holds already from the same options")
    what = "processes that share the figures (default: one for each core, at most 8)"
    add("--workers", type=_whole(1), metavar="K", help=what)
    parser.set_defaults(run=_reproduce, stopped="what is finished is in {out}, and --resume goes on from there")


def _add_plot(commands: Any) -> None:
    parser = commands.add_parser(
        "plot",
        help="the pictures again from their data, without computing",
        description="Draw figures from the data that `dlnjax reproduce` has written, beside them, and the sweep that "
        "`dlnjax sweep --out` has written, as sweep.png and sweep.svg in its folder.",
        epilog="example:  dlnjax plot out/4.2 out/4.1a.nc run",
    )
    what = "a figure (out/4.2a), a group (out/4.2), a file (out/4.2a.nc), a folder (out) or a sweep (run)"
    _complete(parser.add_argument("data", nargs="+", type=Path, metavar="DATA", help=what), shtab.FILE)
    parser.set_defaults(run=_plot)


def _add_sweep(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep",
        help="the flows of many random starts: a summary, and the data in a folder",
        description="The gradient flow from many random starts X_ij ~ N(0, STD^2), with a summary of how they ended. "
        "With --out all of it is written to a folder as it goes; the same command again goes on from there.",
        epilog="example:  dlnjax sweep --depth 3 --std 0.03 --steady 1e-4 --out run",
    )
    add = parser.add_argument
    energies = ("diagonal", "random-mask", "entries", "schatten")
    which = "completion of the diagonal (4.21), of a random mask or of the entries that --entry names (4.24), or a "
    add("--energy", choices=energies, default="diagonal", help=which + "Schatten norm (4.69); default diagonal")
    positive = _number(0, above=True)
    add("--entry", type=_entry, action="append", metavar="I,J=V", help="X_IJ is to be V, from 0 on; again for more")
    add("--weight", type=positive, metavar="W", help="of the squares of --energy entries (default: 1/2)")
    add("--entries", type=_whole(1), metavar="K", help="of a random mask, drawn with its labels U[-2, 2] for each seed")
    add("--p", type=positive, metavar="P", help="of the Schatten norm (default: 2)")
    add(
        "--beta",
        type=_number(0, above=True, finite=False),
        default=math.inf,
        metavar="B",
        help="inverse temperature: adds -S/B to the energy (4.51)",
    )
    add("--d", type=_whole(1), default=10, metavar="D", help="size of the matrices (default: 10)")
    add(
        "--depth",
        type=_number(1, finite=False),
        action="append",
        metavar="N",
        help="1 to inf (default: inf); again for more, each from the same starts",
    )
    what = "of two layers, W_1 W_1^T - W_2^T W_2 = G I; in place of --depth"
    add("--imbalance", type=_number(), metavar="G", help=what)
    add("--noise", type=positive, metavar="B", help="Langevin noise of this inverse temperature, with --dt")
    add("--dt", type=positive, metavar="H", help="the longest step of the noise")
    add("--std", type=positive, metavar="STD", help="of the entries of the starts (default: 1/sqrt(D))")
    add("--seeds", type=_whole(1), default=100, metavar="N", help="how many starts (default: 100)")
    add("--seed", type=_whole(0, 2**31 - 1), default=0, metavar="S", help="of all that is random (default: 0)")
    add("--t-end", type=positive, default=100.0, metavar="T", help="of the 1/N-normalised flow (default: 100)")
    add(
        "--times",
        type=_whole(2),
        default=2,
        metavar="K",
        help="how many times to save, from 0 to T (default: 2, both ends): even in their logarithms, or with --noise "
        "evenly spread",
    )
    below_one = _number(0, above=True, most=1)
    add("--rtol", type=below_one, metavar="R", help="relative tolerance of a flow without noise (default: 1e-6)")
    add("--steady", type=positive, metavar="G", help="stop a flow once |dE| <= G (default: never)")
    what = "give up a flow after so many steps (default: 100000)"
    add("--max-steps", type=_whole(1), default=100_000, metavar="K", help=what)
    out = add("--out", type=Path, metavar="DIR", help="folder to write, or to go on with (default: a summary alone)")
    _complete(out, shtab.DIRECTORY)
    add("--workers", type=_whole(1), metavar="K", help="processes that share the work; with --out")
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="of a Dask cluster that does the work, such as tcp://node:8786; with --out",
    )
    parser.set_defaults(run=_sweep, stopped="what is finished is in {out}, and the same command goes on from there")


def _complete(action: argparse.Action, what: Any) -> None:
    """Let the shell complete an argument with files or folders."""
    action.complete = what  # pyright: ignore[reportAttributeAccessIssue]


def _add_claims(commands: Any) -> None:
    parser = commands.add_parser(
        "claims",
        help="every statement of the thesis, checked: holds, corrected or fails",
        description="Measure the error of each numbered statement of the thesis, as printed and as corrected, and "
        "of some beyond it, on random instances. The exit status is 1 if a verdict is not the one that is known.",
        epilog='example:  dlnjax claims --only "Theorem 3.4.2" --seed 1',
    )
    add = parser.add_argument
    what = "a chapter, or beyond for the statements beyond the thesis; again for more (default: all)"
    add("--chapter", type=_chapter, action="append", metavar="C", help=what)
    add("--only", action="append", metavar="NAME", help="statements whose number or name begins so; again for more")
    add("--seed", type=_whole(0, 2**31 - 1), default=0, metavar="S", help="of the random instances (default: 0)")
    add("--draws", type=_whole(1), metavar="K", help="instances for each depth (default: of each statement its own)")
    numbers = _number(1, finite=False)
    add("--depth", type=numbers, action="append", metavar="N", help="in place of the usual depths; again for more")
    what = "measure nothing, and verify what is proven in exact and ball arithmetic; --out writes the certificates"
    add("--prove", action="store_true", help=what)
    add("--json", action="store_true", help="print the verdicts as JSON in place of a table")
    what = "also write DIR/claims.html and claims.json, and mention them in the report"
    _complete(add("--out", type=Path, metavar="DIR", help=what), shtab.DIRECTORY)
    what = "also write what is not true as printed, in Markdown"
    _complete(add("--errata", type=Path, metavar="FILE", help=what), shtab.FILE)
    parser.set_defaults(run=_claims, stopped="nothing is written in {out}")


def _add_explore(commands: Any) -> None:
    parser = commands.add_parser(
        "explore",
        help="one page in the browser: move depth, start and energy, and see the flows",
        description="Serve a page with linked views of the flows to the browser of this machine, until Ctrl-C. It "
        "needs marimo and anywidget: pip install '.[explore]' in a copy of the repository.",
        epilog="example:  dlnjax explore --port 2718",
    )
    add = parser.add_argument
    add("--port", type=_whole(1, 2**16 - 1), metavar="P", help="of the page (default: a free one)")
    add("--no-browser", action="store_true", help="print the address, and open no browser")
    add("--edit", action="store_true", help="copy the page to explorer.py in this folder, and open it with its code")
    parser.set_defaults(run=_explore)


# Each command is imported when it runs. If the commands were imported at the top, `--help` would wait for JAX.
def _reproduce(args: argparse.Namespace) -> int:
    from dlnjax._commands._reproduce import reproduce

    return reproduce(args)


def _plot(args: argparse.Namespace) -> int:
    from dlnjax._commands._plot import plot

    return plot(args)


def _sweep(args: argparse.Namespace) -> int:
    from dlnjax._commands._sweep import sweep

    return sweep(args)


def _claims(args: argparse.Namespace) -> int:
    from dlnjax._commands._claims import claims

    return claims(args)


def _explore(args: argparse.Namespace) -> int:
    from dlnjax._commands._explore import explore

    return explore(args)


def _entry(text: str) -> tuple[int, int, float]:
    """The row, the column and the value of I,J=V."""
    found = re.fullmatch(r"(\d+),(\d+)=(.+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be I,J=V such as 0,1=0.5, got {text!r}")
    return int(found[1]), int(found[2]), _number()(found[3])


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The converter of an option whose value is a whole number in a range."""
    expected = f"at least {least}" if most is None else f"from {least} to {most}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"must be a whole number, {expected}, got {text!r}")
        return value

    return convert


def _chapter(text: str) -> int | str:
    """A chapter of the thesis, or "beyond"."""
    if text == "beyond" or (text.isdecimal() and int(text) >= 1):
        return text if text == "beyond" else int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number or beyond, got {text!r}")


def _number(
    least: float = -math.inf, *, above: bool = False, finite: bool = True, most: float = math.inf
) -> Callable[[str], float]:
    """The converter of an option whose value is a number of at least `least`, or above it, and below `most`."""
    end = f" and below {most}" if most < math.inf else " and finite" if finite else ", or inf"
    expected = f"a number {'above' if above else 'of at least'} {least}" + end
    if math.isinf(least):
        expected = "a finite number"

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        large_enough = value > least if above else value >= least
        if not large_enough or (finite and math.isinf(value)) or most <= value < math.inf:
            raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
        return value

    return convert
