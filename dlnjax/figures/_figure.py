"""The parts of a figure of the report, and the statistics from which its numbers are computed."""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple, TYPE_CHECKING

import numpy as np
from jaxtyping import PRNGKeyArray
from matplotlib.figure import Figure as Drawing

if TYPE_CHECKING:
    import xarray

NAN = math.nan
_SAMPLED = "The expected value is sampled too: the two agree within three standard errors of their difference."


class Number(NamedTuple):
    """One row of the table: what the thesis says, and what was measured here.

    `expected` is the same number from an independent computation, or NaN if there is none. `note` explains a deviation
    of more than three standard errors from `expected` or from the thesis.
    """

    quantity: str
    thesis: str
    here: float
    standard_error: float
    verdict: str
    expected: float = NAN
    note: str = ""


class Figure(NamedTuple):
    """A figure. `compute(key, seeds)` makes its data, `draw` draws it from these alone, `numbers` reads its numbers
    off.

    `text` says in two or three sentences what the figure shows. `parameters` says in one line how the data were made,
    and `counted` says what `seeds` counts.
    """

    name: str
    title: str
    seeds: int
    compute: Callable[[PRNGKeyArray, int], "xarray.Dataset"]
    draw: Callable[["xarray.Dataset"], Drawing]
    numbers: Callable[["xarray.Dataset"], list[Number]]
    text: str = ""
    parameters: str = ""
    counted: str = "random starts for each ensemble"


def mean(values) -> tuple[float, float]:
    """The mean over seeds, and its standard error."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def share(values) -> tuple[float, float]:
    """The fraction of seeds for which a value is true, and its standard error.

    The error uses Laplace's rule of succession. The usual formula gives 1 with an error of 0 if all of n are true.
    """

    values = np.asarray(values, dtype=bool)
    likely = (values.sum() + 1) / (len(values) + 2)
    return float(values.mean()), float(np.sqrt(likely * (1 - likely) / len(values)))


def median(values) -> tuple[float, float]:
    """The median over seeds, and its standard error by the bootstrap."""
    values = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).choice(values, (400, len(values)))
    return float(np.median(values)), float(np.median(draws, axis=1).std())


def two_errors(values: "xarray.DataArray") -> "xarray.DataArray":
    """Two standard errors of the mean over seeds."""
    return 2 * values.std("seed", ddof=1) / np.sqrt(values.sizes["seed"])


def shown_depth(depth: float) -> str:
    """A depth in the mathematical notation of matplotlib."""
    return r"\infty" if math.isinf(depth) else f"{depth:g}"


def verdict(agrees: bool, otherwise: str = "disagrees") -> str:
    return "agrees" if agrees else otherwise


def half_digit(expected: float) -> float:
    """Half a unit of the last decimal with which a number is written: 0.05 for 1.3."""
    exponent = Decimal(str(expected)).as_tuple().exponent
    assert isinstance(exponent, int)
    return 0.5 * 10.0**exponent


def measured(quantity: str, here: tuple[float, float], expected: float = NAN, thesis: str = "-", note: str = ""):
    """A row whose verdict comes from a comparison with `expected`, or is "measured" if that is NaN.

    `expected` was sampled with about as many draws as the value here, and rounded to its last digit. The two may
    therefore differ by three standard errors of their difference and half a unit of that digit.

    **Arguments:** `here`, the value and its standard error; `note`, which explains a larger difference, and is left out
    if there is none.
    """
    value, error = here
    if math.isnan(expected):
        return Number(quantity, thesis, value, error, "measured", note=note)
    off, rounding = abs(value - expected), half_digit(expected)
    agrees = bool(off <= 3 * math.sqrt(2) * error + rounding)
    sentence = (note or _SAMPLED * agrees) if off > 3 * error + rounding else ""
    word = verdict(agrees, "explained" if note and math.isfinite(value) else "disagrees")
    return Number(quantity, thesis, value, error, word, expected, sentence)
