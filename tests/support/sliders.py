"""Run a notebook with each position of its sliders: python sliders.py BOOK [EVERY], which is every so many of them.

It is a process of its own, since a test checks the types of all arguments, and a notebook passes arrays of NumPy.
"""

import itertools
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np


def code_of(book):
    cells = json.loads(book.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def stand_in(called, every):
    """A module in place of ipywidgets, whose `interact` calls a function at the positions of its sliders."""

    def interact(**sliders):
        def call(f):
            for place in list(itertools.product(*sliders.values()))[::every]:
                called.append(place)
                f(**dict(zip(sliders, place, strict=True)))
                plt.close("all")
            return f

        return call

    steps = lambda least, most, step: np.linspace(least, most, round((most - least) / step) + 1)
    widgets: Any = types.ModuleType("ipywidgets")
    widgets.interact = interact
    widgets.FloatSlider = lambda value, *, min, max, step=0.1, **_: steps(min, max, step)
    widgets.FloatLogSlider = lambda value, *, min, max, step=0.1, **_: 10.0 ** steps(min, max, step)
    return widgets


def main(path, every=1):
    book, called, names = Path(path), [], {}
    sys.modules["ipywidgets"] = stand_in(called, int(every))
    os.chdir(book.parent)
    for source in code_of(book):
        try:
            exec(compile(source, book.name, "exec"), names)
        except Exception as error:
            raise SystemExit(f"at {called[-1:]}: {error!r}") from error
        plt.close("all")
    print(f"positions: {len(called)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
