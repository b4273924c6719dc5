"""Two small figures, for the tests of what is done with figures; as a program, the command line that knows these alone.

Where the environment variable TWO_FIGURES_LOG names a file, each computation is told there; where TWO_FIGURES_WAIT is
set, that of the second one then waits to be killed. Where TWO_FIGURES_FAIL is set, that of the second one fails so.
"""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import xarray

from dlnjax import figures, plot
from dlnjax._commands import _reproduce
from dlnjax.figures import Figure, Number


def _full():
    raise OSError(28, "No space left on device")


FAILURES = {"full": _full, "killed": lambda: os.kill(os.getpid(), signal.SIGKILL)}


def _compute(name):
    def compute(key, seeds):
        if "TWO_FIGURES_LOG" in os.environ:
            with Path(os.environ["TWO_FIGURES_LOG"]).open("a") as file:
                print(name, file=file)
            if name == "1.1b" and "TWO_FIGURES_WAIT" in os.environ:
                time.sleep(120)
        if name == "1.1b" and "TWO_FIGURES_FAIL" in os.environ:
            FAILURES[os.environ["TWO_FIGURES_FAIL"]]()
        values = np.random.default_rng(jax.random.key_data(key).tolist()).normal(size=seeds)
        return xarray.Dataset({"value": ("seed", values), "large": ("seed", values > 0)}, attrs={"energy": "none"})

    return compute


def _draw(data):
    figure = plot.new_figure(3.4, 2.4)
    ax = figure.subplots()
    ax.hist(data["value"].where(data["large"]))
    ax.set(xlabel=r"$\sigma_1$", ylabel="seeds", title=f"{data.attrs['seeds']} draws")
    return figure


def _numbers(data):
    value = data["value"].values
    error = value.std() / len(value) ** 0.5
    return [
        Number("mean & more, where x < 1", "'zero'", value.mean(), error, "agrees", 0.0),
        Number("spread", "<b>one</b>", value.std(), error, "near it", 1.0, "Of few draws: the error is large."),
        Number("nothing to compare", "-", np.nan, np.nan, "measured"),
    ]


def _figure(name, title):
    text = "It shows that x < y & more. " + 2 * "A second sentence says what to look at, and is long enough to wrap. "
    return Figure(name, title, 40, _compute(name), _draw, _numbers, text, "d = 5, E = sum (X_ii - 1)^2, rtol 1e-6")


TWO = {name: _figure(name, f"What a figure with the name {name} shows") for name in ("1.1a", "1.1b")}


def make_apart(*task):
    """What a process does that shares the figures, which knows these alone."""
    figures.FIGURES.update(TWO)
    return _reproduce._make_apart(*task)


if __name__ == "__main__":
    from dlnjax._cli import main

    figures.FIGURES.clear()
    figures.FIGURES.update(TWO)
    sys.exit(main())
