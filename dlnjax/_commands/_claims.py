"""`dlnjax claims`: checks the statements of the thesis and those beyond it, and shows verdicts and measured errors."""

import argparse
import json
import shlex
import time
from pathlib import Path

import jax
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn
from rich.table import Table
from rich.text import Text

import dlnjax
from dlnjax._commands._common import check_writable, Refused
from dlnjax._commands._progress import duration
from dlnjax._commands._prove import prove
from dlnjax._terminal import console, progress_bar
from dlnjax.claims import Claim, Verdict
from dlnjax.claims._claim import title
from dlnjax.claims._verdicts import as_data, counts, errata

STYLES = {"holds": "green", "corrected": "yellow", "fails": "red", "undecided": "bold red"}


def claims(args: argparse.Namespace) -> int:
    """Check the statements that were asked for, and show their verdicts. Returns 1 if a verdict is not as expected."""
    chosen = _choose(args)
    if args.prove:
        return prove(chosen, args, _terminal())
    if args.out:
        check_writable(args.out)
    if args.errata:
        check_writable(args.errata.parent)
        if args.chapter or args.only:
            raise Refused("--errata is of all chapters: leave out --chapter and --only.")
    began = time.perf_counter()
    verdicts = _check(chosen, args)
    if args.json:
        print(json.dumps([as_data(verdict) for verdict in verdicts], indent=1))
    elif len(verdicts) <= 3:
        _print_each(verdicts)
    else:
        _print_table(verdicts)
    found = ", ".join(f"{count} {word}" for word, count in counts(verdicts).items())
    total = f"{len(verdicts)} statement{'s' * (len(verdicts) != 1)} in {duration(time.perf_counter() - began)}: {found}"
    console().print(total, markup=False, soft_wrap=True)
    if args.out:
        _write_page(args.out, verdicts, args)
    if args.errata:
        args.errata.write_text(errata(verdicts), encoding="utf-8")
        console().print(f"the errata are {args.errata}", markup=False, soft_wrap=True)
    surprises = [verdict for verdict in verdicts if not verdict.as_expected]
    for verdict in surprises:
        console().print(str(verdict), markup=False, soft_wrap=True)
    return 1 if surprises else 0


def _choose(args: argparse.Namespace) -> list[Claim]:
    chapters = list(dict.fromkeys(claim.chapter for claim in dlnjax.thesis.values()))
    for chapter in args.chapter or ():
        if chapter not in chapters:
            raise Refused(f"there is no statement of chapter {chapter}. There are: {', '.join(map(str, chapters))}.")
    for name in args.only or ():
        if not any(_begins(claim, name) for claim in dlnjax.thesis.values()):
            near = [other for other in dlnjax.thesis if name.lower() in other.lower()][:5]
            hint = f"Did you mean {', '.join(near)}?" if near else "dlnjax claims names them all."
            raise Refused(f"no statement begins with {name!r}. {hint}")
    asked = lambda claim: not args.only or any(_begins(claim, name) for name in args.only)
    chosen = [c for c in dlnjax.thesis.values() if (not args.chapter or c.chapter in args.chapter) and asked(c)]
    if not chosen:
        raise Refused("no statement is both of these chapters and of these names: leave out --chapter.")
    return chosen


def _begins(claim: Claim, name: str) -> bool:
    return claim.name.lower().startswith(name.lower())


def _check(chosen: list[Claim], args: argparse.Namespace) -> list[Verdict]:
    key, verdicts, chapter = jax.random.key(args.seed), [], None
    columns, room = ("{task.description}", MofNCompleteColumn, "statements"), min(40, console().width - 24)
    with progress_bar(*columns, disable=not console().is_terminal) as bar:
        task = bar.add_task("", total=len(chosen))
        for claim in chosen:
            bar.update(task, description=escape(claim.name[:room]))
            if bar.disable and claim.chapter != chapter:
                console().print(f"{title(claim.chapter).lower()}: {len(verdicts)} of {len(chosen)} statements done")
            chapter = claim.chapter
            verdicts.append(claim.check(key, draws=args.draws, depths=args.depth))
            bar.advance(task)
    return verdicts


def _print_table(verdicts: list[Verdict]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("statement")
    table.add_column("verdict")
    table.add_column("printed", justify="right", no_wrap=True)
    table.add_column("true", justify="right", no_wrap=True)
    table.add_column("what is true", ratio=1)
    for verdict in verdicts:
        true = f"{verdict.true.error:.1e}" if verdict.true else ""
        row = (Text(verdict.claim.name), _marked(verdict), f"{verdict.printed.error:.1e}", true)
        table.add_row(*row, Text(verdict.claim.note or verdict.claim.statement))
    _terminal().print(table)


def _print_each(verdicts: list[Verdict]) -> None:
    for verdict in verdicts:
        claim = verdict.claim
        head, *rest = str(verdict).splitlines()
        title = Text.assemble(
            (f"{claim.name}: ", "bold"), _marked(verdict), head.removeprefix(f"{claim.name}: {verdict.word}")
        )
        _terminal().print(
            title, Text(f"  {claim.where}: {claim.statement}"), *map(Text, rest), sep="\n", soft_wrap=True
        )


def _marked(verdict: Verdict) -> Text:
    return Text(verdict.word, style=STYLES[verdict.word])


def _terminal() -> Console:
    terminal = Console(highlight=False)
    # A pipe has no width. With the default of 80 columns rich would cut the cells of the table.
    return terminal if terminal.is_terminal else Console(width=160, highlight=False)


def _command(args: argparse.Namespace) -> str:
    """The command that gives these verdicts."""
    given = {"--chapter": args.chapter, "--only": args.only, "--depth": args.depth}
    options = [f"{option} {shlex.quote(f'{value}')}" for option, values in given.items() for value in values or ()]
    options += [f"--draws {args.draws}"] * (args.draws is not None) + [f"--seed {args.seed}"] * (args.seed != 0)
    return " ".join(["dlnjax claims", *options])


def _write_page(folder: Path, verdicts: list[Verdict], args: argparse.Namespace) -> None:
    from dlnjax._commands._reproduce import already_there, write_report
    from dlnjax.figures import FIGURES
    from dlnjax.figures._claims_page import write_claims

    path = write_claims(folder, [as_data(verdict) for verdict in verdicts], seed=args.seed, command=_command(args))
    if (folder / "report.html").exists():
        runs = already_there(folder)
        write_report(folder, [runs[name] for name in FIGURES if name in runs])
    console().print(f"the page is {path}", markup=False, soft_wrap=True)
