"""What a figure of the report is made of."""

from collections.abc import Callable
from typing import NamedTuple, TYPE_CHECKING

import numpy as np
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure as Drawing

if TYPE_CHECKING:
    import xarray


class Number(NamedTuple):
    """One row of the table: what the thesis says, and what came out here.

    `expected` is the same number from an independent computation, where there is one; `note` explains a deviation from
    it, or from the thesis, of more than three standard errors.
    """

    quantity: str
    thesis: str
    here: float
    standard_error: float
    verdict: str
    expected: float = np.nan
    note: str = ""


class Figure(NamedTuple):
    """A figure: `compute(key, seeds)` its data, `draw` it from them alone, and the `numbers` that they hold.

    `text` says in two or three sentences what it shows; `parameters` in one line with what it was made.
    """

    name: str
    title: str
    seeds: int
    compute: Callable[[PRNGKeyArray, int], "xarray.Dataset"]
    draw: Callable[["xarray.Dataset"], Drawing]
    numbers: Callable[["xarray.Dataset"], list[Number]]
    text: str = ""
    parameters: str = ""


def mean(values) -> tuple[float, float]:
    """The mean over seeds, and its standard error."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def verdict(agrees: bool, otherwise: str = "disagrees") -> str:
    return "agrees" if agrees else otherwise
