"""The tables of benchmarks/results, read back. Imports no JAX."""

from pathlib import Path


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of all tables of a Markdown file, by their columns; none of a file that is not there."""
    found, columns = [], None
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            columns = None
        elif columns is None:
            columns = cells
        elif not set("".join(cells)) <= set("-:"):
            found.append(dict(zip(columns, cells, strict=True)))
    return found
