"""The report: one page with every figure beside what the thesis says, and one table of all numbers."""

import base64
import csv
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlnjax._formulas import as_html
from dlnjax.figures._figure import BASES, basis, is_sampled, Number, off_by
from dlnjax.figures._run import draw, is_drawn, replacing, Run

COLUMNS = ("figure", "quantity", "thesis", "expected", "measured", "standard_error", "verdict", "note")
# A drawing is enlarged by this factor on the page, so that one of 6.8 inches, two columns of print, is 850 pixels wide.
_SCALE = 1.3
# What a verdict means. Any other word says in which way the number differs.
WORDS = {
    "agrees": "the number is as expected, or as the thesis says",
    "disagrees": "it is not, and the note below the number says why",
    "explained": "it differs by more than chance allows, and the note says for which reason",
    "measured": "there is nothing to compare it with",
}
OTHER = "the thesis has a word and no number, and this is what was found"


def write_numbers(path: Path, runs: Sequence[Run]) -> None:
    """Write a csv file with a row for each number. The field of a missing expected value or error is empty."""
    with replacing(path) as fresh, fresh.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for run in runs:
            for n in run.numbers:
                measured = [f"{n.here:.6g}", _or_empty(n.standard_error, ".2g")]
                expected = _or_empty(n.expected, ".6g")
                table.writerow([run.figure.name, n.quantity, n.thesis, expected, *measured, n.verdict, n.note])


def templates():
    """The templates of the two html pages, the report and the claims."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("dlnjax", "figures"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"typeset": lambda text: Markup(as_html(text)), "kind": kind}
    return environment


def write_report(path: Path, runs: Sequence[Run], statements: Sequence[tuple[str, str, int]] = ()) -> None:
    """Write one html file that needs no other: drawings, text and numbers of the runs, and how they were made.

    **Arguments:** `statements`, (verdict, its CSS class, how many statements have it) for each verdict in claims.html,
    if this page stands in the same folder.
    """
    entries = [_entry(run) for run in runs]
    makings: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        makings.setdefault((run.data.attrs["machine"], run.data.attrs["versions"]), []).append(run.figure.name)
    verdicts = Counter(n.verdict for run in runs for n in run.numbers)
    page = (
        templates()
        .get_template("report.html.jinja")
        .render(
            entries=entries,
            verdicts=[(verdict, kind(verdict), count) for verdict, count in verdicts.most_common()],
            legend=[
                (list(words), meaning) for meaning, words in itertools.groupby(sorted(verdicts, key=_place), _meaning)
            ],
            bases={name: BASES[name] for name in BASES if any(basis(n) == name for run in runs for n in run.numbers)},
            makings=makings,
            statements=statements,
            seconds=sum(entry["seconds"] for entry in entries),
        )
    )
    with replacing(path) as fresh:
        fresh.write_text(page, encoding="utf-8")


def _entry(run: Run) -> dict[str, Any]:
    attrs, figure = run.data.attrs, run.figure
    options = [f"--figure {figure.name}"]
    quick = bool(int(attrs["quick"]))
    if quick:
        options.append("--quick")
    if int(attrs["seeds"]) != figure.size(quick):
        options.append(f"--seeds {attrs['seeds']}")
    if attrs["seed"]:
        options.append(f"--seed {attrs['seed']}")
    image, width = _image(run)
    counts = Counter(n.verdict for n in run.numbers)
    return {
        "name": figure.name,
        "title": figure.title,
        "text": figure.text,
        "parameters": figure.parameters,
        "image": image,
        "width": width,
        "numbers": [_row(n, figure.source) for n in run.numbers],
        "verdicts": [(verdict, kind(verdict), count) for verdict, count in counts.items()],
        "seeds": attrs["seeds"],
        "counted": figure.counted,
        "seed": attrs["seed"],
        "quick": quick,
        "date": attrs["date"],
        "seconds": float(attrs["seconds"]),
        "command": f"dlnjax reproduce {' '.join(options)}",
    }


def _image(run: Run) -> tuple[str, int]:
    """The smaller of the two files of a drawing as a data URL, and the width of the drawing on the page."""
    svg = run.drawing if is_drawn(run) else draw(run)
    vector, pixels = svg.read_bytes(), svg.with_suffix(".png").read_bytes()
    size = re.search(rb'<svg[^>]* width="([\d.]+)pt"', vector)
    width = round(_SCALE * float(size.group(1)) * 4 / 3) if size else 600
    kind, image = ("svg+xml", vector) if len(vector) <= len(pixels) else ("png", pixels)
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}", width


def _place(verdict: str) -> int:
    """The place of a verdict in the legend."""
    return list(WORDS).index(verdict) if verdict in WORDS else len(WORDS)


def _meaning(verdict: str) -> str:
    return WORDS.get(verdict, OTHER)


def _row(n: Number, source: str) -> dict[str, str]:
    off = off_by(n)
    return {
        "quantity": n.quantity,
        "thesis": n.thesis,
        "expected": _or_empty(n.expected, ".6g"),
        "source": (n.source or source) if math.isfinite(n.expected) else "",
        "measured": with_error(n.here, n.standard_error),
        "off": f"{off:+.1f}" if math.isfinite(off) else "",
        "verdict": n.verdict,
        "kind": kind(n.verdict),
        "basis": basis(n),
        "note": n.note,
    }


def kind(verdict: str) -> str:
    """The CSS class of a verdict: good, bad, plain if there is nothing to compare with, and mixed for all others."""
    return {"agrees": "good", "disagrees": "bad", "measured": "plain"}.get(verdict, "mixed")


def with_error(value: float, error: float) -> str:
    """The value and its standard error, both to the second digit of the error: 3.026 ± 0.011.

    A standard error of rounding is left out.
    """
    if not (math.isfinite(value) and is_sampled(value, error)):
        return f"{value:.6g}"
    digits = 1 - math.floor(math.log10(error))
    if digits < 0 or digits > 8:
        return f"{value:.4g} ± {error:.1e}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _or_empty(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else ""
