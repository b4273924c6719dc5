"""The report: one page with every figure beside what the thesis says, and one table of all numbers."""

import base64
import csv
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlnjax.figures._figure import Number
from dlnjax.figures._run import draw, is_drawn, replacing, Run

COLUMNS = ("figure", "quantity", "thesis", "expected", "measured", "standard_error", "verdict", "note")
# A drawing is enlarged by this factor on the page, so that its letters are as large as those of the text.
_SCALE = 1.6


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

    return Environment(
        loader=PackageLoader("dlnjax", "figures"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


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
    if attrs["quick"]:
        options.append("--quick")
    elif int(attrs["seeds"]) != figure.seeds:
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
        "numbers": [_row(n) for n in run.numbers],
        "verdicts": [(verdict, kind(verdict), count) for verdict, count in counts.items()],
        "seeds": attrs["seeds"],
        "counted": figure.counted,
        "seed": attrs["seed"],
        "quick": attrs["quick"],
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


def _row(n: Number) -> dict[str, str]:
    off = (n.here - n.expected) / n.standard_error if n.standard_error > 0 else math.nan
    return {
        "quantity": n.quantity,
        "thesis": n.thesis,
        "expected": _or_empty(n.expected, ".6g"),
        "measured": with_error(n.here, n.standard_error),
        "off": f"{off:+.1f}" if math.isfinite(off) else "",
        "verdict": n.verdict,
        "kind": kind(n.verdict),
        "note": n.note,
    }


def kind(verdict: str) -> str:
    """The CSS class of a verdict: good, bad, plain if there is nothing to compare with, and mixed for all others."""
    return {"agrees": "good", "disagrees": "bad", "measured": "plain"}.get(verdict, "mixed")


def with_error(value: float, error: float) -> str:
    """The value and its standard error, both to the second digit of the error: 3.026 ± 0.011."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.6g}"
    digits = 1 - math.floor(math.log10(error))
    if digits < 0 or digits > 8:
        return f"{value:.4g} ± {error:.1e}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _or_empty(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else ""
