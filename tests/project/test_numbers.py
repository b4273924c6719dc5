"""Numbers in the pages are those of the tables that commands write.

After a paragraph or a table of a page stands a comment that says where its numbers come from, one in a line:

    <!-- numbers
    4.1: first-figure-cpu | one flow & cold | all s
    -->

What is before the colon stands in the paragraph, and begins with a number, such as 4.1 or "88 % of them". In
`benchmarks/results/first-figure-cpu.md`, or `.csv`, there is one row with these cells, and its cell in this column
rounds to the number. A cell such as `d = 5` is one of the column d. A fourth part, `least` or `most`, takes that of
several rows; `over` stands between two sources whose ratio is meant, and `column (2)` is the second number of a cell.
The line `given: 0.25 20` names numbers that nothing measured.
"""

import csv
import re
import runpy
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from dlnjax.figures import _blocks, _divergence, _equilibrium, _saddles, FIGURES
from dlnjax.figures._run import key_of

ROOT = Path(__file__).parents[2]
read_rows = runpy.run_path(str(ROOT / "benchmarks" / "_tables.py"))["read_rows"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ROOT / "benchmarks" / "results"
COMMENT = re.compile(r"^<!-- numbers\n(.*?)^-->", re.MULTILINE | re.DOTALL)
# What needs a source: a decimal fraction, or a number of a measured unit.
MEASURED = re.compile(r"(?<![\w.])(?:\d*\.\d+(?:e-?\d+)?|\d[\d,]*(?= (?:%|ms|us|s|MB|kB|times)(?!\w)))")
FIGURE = re.compile(r"-?[\d,]*\.?\d+(?:e[-+]?\d+)?")
# A figure of a model number or a section is no measurement.
NAMES = re.compile(r"`[^`]*`|\([\d.]+\)|\]\([^)]*\)|[Ff]igures? [\d.]+\w?")
# What a table says that no command writes.
ONCE = re.compile(r"[Mm]easured once, on \d+ [A-Z][a-z]+ 20\d\d, by `")


def title(page):
    return str(page.relative_to(ROOT))


class Sourced(NamedTuple):
    """A paragraph, the lines of sources after it, and the numbers in it that are given."""

    block: str
    sources: list[tuple[str, str]]
    given: set[str]


def sourced(text: str) -> list[Sourced]:
    found = []
    for comment in COMMENT.finditer(text):
        lines = [tuple(line.split(": ", 1)) for line in comment[1].splitlines()]
        given = {word for name, rest in lines if name == "given" for word in rest.split()}
        block = text[: comment.start()].rstrip().rsplit("\n\n", 1)[-1]
        found.append(Sourced(block, [line for line in lines if line[0] != "given"], given))
    return found


@cache
def rows(name: str) -> list[dict[str, str]]:
    """The rows of all tables in a file of results, by their columns."""
    path = RESULTS / f"{name}.csv"
    if path.exists():
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    table = RESULTS / f"{name}.md"
    assert table.exists(), f"there is no table {name}"
    return read_rows(table)


def value(source: str) -> float:
    """The number that a source names."""
    if " over " in source:
        above, below = source.split(" over ")
        return value(above) / value(below)
    name, cells, column, *which = (part.strip() for part in source.split(" | "))
    place = re.fullmatch(r"(.*) \((\d)\)", column)
    column, number = (place[1], int(place[2])) if place else (column, 1)
    wanted = {cell.strip() for cell in cells.split(" & ")}
    chosen = [number_of(row[column], number) for row in rows(name) if wanted <= _cells(row)]
    assert chosen and (which or len(chosen) == 1), f"{len(chosen)} rows of {name} have the cells {cells}"
    return {"least": min, "most": max}[which[0]](chosen) if which else chosen[0]


def _cells(row: dict[str, str]) -> set[str]:
    """The cells of a row, alone and with their columns."""
    return {*row.values(), *(f"{column} = {cell}" for column, cell in row.items())}


def number_of(cell: str, number: int) -> float:
    """A number of a cell, of which 46% and 44/50 are shares."""
    part = cell.split(", ")[number - 1]
    if "/" in part:
        above, below = part.split("/")
        return float(above) / float(below)
    return float(part.rstrip("%")) / (100 if part.endswith("%") else 1)


def rounds(measured: float, written: str) -> bool:
    """Whether a value is that number, to the digits that are written. Of 370 two are, and of 20 too."""
    digits = written.replace(",", "").split("e")[0].lstrip("-")
    zeros = len(digits) - max(len(digits.rstrip("0")), 2) if "." not in digits else 0
    places = len(digits.partition(".")[2]) - int(written.partition("e")[2] or 0)
    half = 0.5 * 10.0 ** (max(zeros, 0) - places)
    return abs(measured - float(written.replace(",", ""))) <= half * (1 + 1e-9)


def wrong(text: str) -> list[str]:
    """What is wrong with the numbers of a page, in sentences."""
    faults = []
    for block, sources, given in sourced(text):
        for words, source in sources:
            written, found = words.split()[0], value(source) * (100 if " %" in words else 1)
            if not re.search(rf"(?<![\w.]){re.escape(words)}(?![\w%]|\.\d)", block):
                faults.append(f"{words} stands no more in: {block[:60]}")
            elif not rounds(found, written):
                faults.append(f"{words} is {found:.4g} in {source}")
        bare = set(MEASURED.findall(NAMES.sub("", block))) - {words.split()[0] for words, _ in sources} - given
        faults += [f"{number} has no source in: {block[:60]}" for number in sorted(bare)]
    return faults


@pytest.mark.parametrize("page", [page for page in PAGES if sourced(page.read_text(encoding="utf-8"))], ids=title)
def test_numbers_are_those_of_their_tables(page):
    assert wrong(page.read_text(encoding="utf-8")) == []


QUESTIONS = (
    "blocks",
    "divergence",
    "entropy",
    "free-energy",
    "geodesics",
    "noise",
    "norm-gap",
    "saddles",
    "sensing",
    "slope",
    "two-by-two",
)


def test_pages_of_measured_numbers_name_their_sources():
    named = {title(page) for page in PAGES if sourced(page.read_text(encoding="utf-8"))}
    assert {
        "README.md",
        *(f"docs/questions/{name}.md" for name in QUESTIONS),
    } <= named


def undated(text: str) -> list[str]:
    """The first row of each table of measured numbers that has neither sources nor, in a paragraph beside it, a day.

    Such a table has a cell that begins with a measured number.
    """
    blocks = ["", *re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL).split("\n\n"), ""]
    return [
        block.splitlines()[0]
        for before, block, after in zip(blocks, blocks[1:], blocks[2:], strict=False)
        if block.startswith("|") and any(MEASURED.match(cell.strip(" -")) for cell in block.split("|"))
        if not after.startswith("<!-- numbers") and not any(ONCE.search(beside) for beside in (before, after))
    ]


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_a_table_of_measured_numbers_has_sources_or_a_day(page):
    assert undated(page.read_text(encoding="utf-8")) == []


def test_a_table_without_a_source_is_found():
    page = "Times:\n\n| d | s |\n|---|---|\n| 5 | 0.3 |\n\n{}\n"
    assert undated(page.format("These are rough.")) == ["| d | s |"]
    assert undated(page.format("Measured once, on 2 May 2026, by `f`.")) == undated(page.format("<!-- numbers")) == []
    assert undated(page.replace("0.3", "of 0.3 or more")) == []


def test_a_number_that_is_not_that_of_its_table_is_found():
    cold, warm = (value(f"first-figure-cpu | one flow & {how} | all s") for how in ("cold", "warm"))
    took, line = f"{cold:.2f}", f"{cold:.2f}: first-figure-cpu | one flow & cold | all s"
    page = lambda number, given: (
        f"It takes {took} s, and 12 % of {number}.\n\n<!-- numbers\n{line}\ngiven: {given}\n-->\n"
    )
    assert wrong(page("1.5", "12 1.5")) == []
    assert wrong(page("1.5", "1.5")) == [f"12 has no source in: It takes {took} s, and 12 % of 1.5."]
    assert f"{took} is {warm:.4g} in" in wrong(page("1", "12").replace("& cold", "& warm"))[0]
    assert "stands no more in" in wrong(page("1", "12").replace(f"takes {took}", "takes 4"))[0]
    with pytest.raises(AssertionError, match="2 rows"):
        wrong(page("1", "12").replace(" & cold", ""))


def test_rounding_keeps_the_digits_that_are_written():
    assert rounds(366.7, "370") and rounds(19.9, "20") and rounds(1.8e-9, "2e-9") and rounds(0.0033, ".0033")
    assert not any((rounds(277, "270"), rounds(21, "20"), rounds(0.0033, ".002"), rounds(1.203, "1.172")))


class Part(NamedTuple):
    """What of a figure takes seconds and not minutes: its constants, and the rows that need what is left out."""

    constants: dict[str, Any]
    without: str = "$^"


def at_rest(key, starts):
    """In place of the paths of figure 6.8, which take 8000 steps of noise."""
    return np.broadcast_to(np.eye(2), (len(starts), len(_equilibrium.TRACE), 2, 2)), np.ones(len(starts), bool)


# The rows of one depth or size are those of the whole figure, since the draws are the same for all of them.
PARTS = {
    "4.5b": Part({}),
    "5.3": Part({}),
    "6.1": Part({}),
    "6.2": Part(
        {
            "HORIZONS": {2.0: 1e5, np.inf: 1e3},
            "IMBALANCES": {layers: g[-2:] for layers, g in _divergence.IMBALANCES.items()},
        },
        # At g = 1e-15 rounding has a part in the growth.
        "all depths|^share of|balanced, N = [35]|^growth of X_11",
    ),
    "6.3": Part({"DEPTHS": (2.0,), "SIZES": {2.0: _blocks.SIZES[2.0]}}, "^share of|N = (2.5|3|inf)"),
    "6.6": Part(
        {"COUNTS": (1, 2), "search": lambda rng, generations, population: np.ones(generations)}, "m = 3|search"
    ),
    "6.7": Part(
        {"SIZES": _saddles.SIZES[-2:], "PATH_SIZES": {depth: size[-1:] for depth, size in _saddles.PATH_SIZES.items()}},
        "escape time of an aligned start",
    ),
    "6.8": Part({"LINE": (3.0,), "paths": at_rest}, "of paths|^paths|after the noise"),
}


@pytest.mark.long
@pytest.mark.optimised
@pytest.mark.parametrize("name", PARTS)
def test_the_table_of_figures_is_what_the_command_gives(name, monkeypatch):
    """`dlnjax reproduce` computes these; the others of the table take minutes."""
    figure, part = FIGURES[name], PARTS[name]
    for constant, value in part.constants.items():
        monkeypatch.setattr(sys.modules[figure.numbers.__module__], constant, value)
    numbers = [
        n
        for n in figure.numbers(figure.compute(key_of(name, 0), figure.seeds))
        if not re.search(part.without, n.quantity)
    ]
    written = {row["quantity"]: row for row in rows("figures") if row["figure"] == name}
    assert {quantity for quantity in written if not re.search(part.without, quantity)} == {n.quantity for n in numbers}
    for number in numbers:
        row = written[number.quantity]
        # What vanishes but for rounding is another number on another machine.
        if number.expected == 0 and not number.standard_error:
            assert number.verdict == row["verdict"], number.quantity
            continue
        # Another machine rounds differently: a tenth of the error of the draws leaves the digits of the pages.
        error = abs(number.here - float(row["measured"]))
        assert error <= 1e-3 * abs(number.here) + 0.1 * np.nan_to_num(number.standard_error), number.quantity
