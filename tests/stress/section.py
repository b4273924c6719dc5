"""Tables of benchmarks/results that runs share: each run replaces its own section or rows, and leaves the others."""

import re
from pathlib import Path

STRESS = Path(__file__).parents[2] / "benchmarks" / "results" / "stress.md"


def write_section(path: Path, title: str, text: str) -> None:
    """Put `text` below the line **title**, in place of what stands there up to the next such line, or at the end."""
    before, *sections = re.split(r"^(?=\*\*)", path.read_text("utf-8") if path.exists() else "# Stress\n", flags=re.M)
    new, line = f"**{title}**\n\n{text.strip()}\n", f"**{title}**\n"
    if any(section.startswith(line) for section in sections):
        sections = [new if section.startswith(line) else section for section in sections]
    else:
        sections.append(new)
    path.write_text("\n\n".join(part.strip() for part in [before, *sections]) + "\n", "utf-8")


def write_rows(path: Path, table: str, keys: int) -> None:
    """Put each row of `table` in place of the one with the same first `keys` cells.

    A new row comes below the rows that have its first cell, or below the last row of all. A new file is `table`.
    """
    key = lambda line, keys=keys: line.split("|")[1 : keys + 1]
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    head, rule, *rows = table.strip().splitlines()
    if head not in lines:
        lines += [*([""] if lines else []), head, rule]
    for row in rows:
        same = [i for i, line in enumerate(lines) if line.startswith("|") and key(line) == key(row)]
        if same:
            lines[same[-1]] = row
        else:
            near = [i for i, line in enumerate(lines) if line.startswith("|") and key(line, 1) == key(row, 1)]
            last = near or [i for i, line in enumerate(lines) if line.startswith("|")]
            lines.insert(last[-1] + 1, row)
    path.write_text("\n".join(lines) + "\n", "utf-8")
