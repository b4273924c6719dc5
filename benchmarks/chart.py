"""The picture of the README: the tables of benchmarks/sweep.py as one chart, docs/benchmarks.png.

    python benchmarks/chart.py

The picture holds the checksum of its tables, and a test compares the two.
"""

import zlib
from pathlib import Path

from _tables import read_rows
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

import dlnjax as dln

RESULTS = Path(__file__).with_name("results")
CHART = Path(__file__).parents[1] / "docs" / "benchmarks.png"
TABLES = {
    "sweep-trajectories-cpu.md": "the path to $t = 100$",
    "sweep-limits-cpu.md": r"to rest, $|\partial E| \leq 10^{-6}$",
}
LOOKS = {
    "dlnjax.sweep": ("o-", "dlnjax.sweep"),
    "SciPy": ("s--", "SciPy's best, SVD coordinates, all cores"),
    "diffrax, SVD coordinates": ("^:", "diffrax Dopri5, SVD coordinates, one vmap"),
    "diffrax, X": ("D-.", "diffrax Dopri5 in $X$, an SVD each time"),
}


def milliseconds(table: Path) -> dict[str, dict[int, float]]:
    """Of each contender in `LOOKS` and each d the milliseconds per seed; of SciPy those of its fastest method."""
    found: dict[str, dict[int, float]] = {name: {} for name in LOOKS}
    for cells in read_rows(table):
        name = "SciPy" if cells["contender"].startswith("SciPy") else cells["contender"]
        d, cost = int(cells["d"]), float(cells["ms per seed"])
        if name in found:
            found[name][d] = min(cost, found[name].get(d, cost))
    return found


def checksum() -> str:
    return f"{zlib.crc32(b''.join((RESULTS / table).read_bytes() for table in TABLES)):08x}"


@dln.plot.style()
def draw() -> Figure:
    figure = Figure(figsize=(6.4, 3.1), dpi=200, layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (table, title) in zip(panels, TABLES.items(), strict=True):
        for name, cost in milliseconds(RESULTS / table).items():
            look, label = LOOKS[name]
            axes.loglog(list(cost), list(cost.values()), look, label=label)
        axes.set(xlabel="$d$", title=title)
        axes.set_xticks(list(cost), [f"{d}" for d in cost])
        axes.xaxis.set_minor_locator(NullLocator())
    panels[0].set(ylabel="ms per seed")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    draw().savefig(CHART, metadata={"Description": checksum()})
