"""The pictures of the pages, drawn by the code of each page when the pages are built.

In the Markdown of a page, `<!-- picture: what it shows -->` stands after a block of Python. The blocks until there are
run one after the other, and the figure of the axes `ax` is the picture.
"""

import contextlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

import dlnjax.plot

# Inches above and below a picture.
MARGIN = 0.04
PLACE = re.compile(r"^<!-- picture: (.*?) -->", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def drawn(markdown: str, name: str) -> tuple[str, dict[str, bytes]]:
    """(the Markdown of the page `name` with its pictures, the files of the pictures by their names)."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    parts, files = PLACE.split(markdown), {}
    # `split` gives the text before a picture and what the picture shows, in turns.
    for k in range(0, len(parts) - 1, 2):
        for code in BLOCK.findall(parts[k]):
            _run(code, name, namespace)
        file = f"{name.removesuffix('.md').replace('/', '-')}-{k // 2 + 1}.png"
        files[file] = _png(namespace, name)
        shows = " ".join(parts[k + 1].split())
        # An alternative text is read aloud, so that it has no marks of formulas and code.
        plain = re.sub(r"[$`\\{}]", "", shows)
        parts[k + 1] = f"![{plain}]({'../' * name.count('/')}{file})\n\n*{shows}*"
    return "".join(parts), files


def _run(code: str, name: str, namespace: dict[str, Any]) -> None:
    """Run a block where the files that it writes do no harm."""
    matplotlib.use("Agg")
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), dlnjax.plot.style():
        os.chdir(folder)
        try:
            exec(compile(code, name, "exec"), namespace)
        finally:
            os.chdir(here)


def _inked(figure: Figure) -> Bbox:
    """The part of a figure that is shown, in inches: all of its width, and the height with something in it."""
    figure.canvas.draw()  # which lays it out
    inked = figure.get_tightbbox()
    return Bbox.from_extents(0.0, inked.y0 - MARGIN, figure.get_figwidth(), inked.y1 + MARGIN)


def _png(namespace: dict[str, Any], name: str) -> bytes:
    import matplotlib.pyplot as plt

    if "ax" not in namespace:
        raise ValueError(f"{name}: a picture needs axes that are called ax in the blocks before it.")
    figure, file = namespace.pop("ax").figure, io.BytesIO()
    # Lines look their colours up when they are drawn.
    with dlnjax.plot.style():
        figure.savefig(file, dpi=300, metadata={"Software": None}, bbox_inches=_inked(figure))
    plt.close("all")
    return file.getvalue()
